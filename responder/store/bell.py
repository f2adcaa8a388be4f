"""Says to a keeper on this machine that something was committed: it need not wait for its next look.

Best effort, in both directions. Who is not heard (another machine, no keeper) is found at that look.
"""

import hashlib
import socket


class Bell:
    """The bell of the store at `url`: an abstract datagram socket (unix(7)), gone with the process that has it."""

    def __init__(self, url: str) -> None:
        self._name = b"\0incident-" + hashlib.sha256(url.encode()).hexdigest().encode()

    def ring(self) -> bool:
        """Ring, and never wait. False: nobody listens, or has not come to the last rings yet."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as clapper:
            clapper.setblocking(False)
            try:
                clapper.sendto(b"", self._name)
            except OSError:
                return False
            return True

    def listen(self) -> socket.socket | None:
        """A socket on which `recv` returns at each ring; None when another process of this machine has it."""
        ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            ears.bind(self._name)
        except OSError:
            ears.close()
            return None
        return ears
