"""The client side of every stand-in command: asks the host's supervisor, copies its answer, exits.

Run as `python -ISE tool.py /HOST/bin/NAME ARGUMENT...`; the name it was called by is the command. Standard
library only, and little of it: a command costs the start of Python and no more.

The answer comes in frames: one byte of kind (1 standard output, 2 standard error, 3 exit status, 4 run this
instead), four bytes of length, the data. A reader that stops reading stops the supervisor, too.
"""
# ruff: noqa: T201 - a program whose output is its voice

import _socket  # `socket` itself costs half as much again as the whole start of Python
import os
import sys


def receive(connection: _socket.socket, size: int) -> bytes:
    """So many bytes, fewer only at the end of the stream."""
    data = b""
    while len(data) < size and (chunk := connection.recv(size - len(data))):
        data += chunk
    return data


def main() -> int:
    called = sys.argv[1]
    name, directory = os.path.basename(called), os.path.dirname(os.path.dirname(os.path.abspath(called)))
    # A socket's path is bounded at 107 bytes; by way of a descriptor the host may lie as deep as it likes.
    run = os.open(os.path.join(directory, "run"), os.O_PATH)
    connection = _socket.socket(_socket.AF_UNIX)
    connection.connect(f"/proc/self/fd/{run}/tools")
    request = "\0".join((os.environ.get("LAB_ROOT", ""), name, *sys.argv[2:]))
    raw = request.encode("utf-8", "surrogateescape")
    connection.sendall(len(raw).to_bytes(4, "big") + raw)
    while head := receive(connection, 5):
        data = receive(connection, int.from_bytes(head[1:], "big"))
        if head[0] == 3:
            return int(data)
        if head[0] == 4:
            argv = data.decode("utf-8", "surrogateescape").split("\0")
            # What sudo runs is root on this host; the supervisor believes it, nothing else does.
            os.execvpe(argv[0], argv, {**os.environ, "LAB_ROOT": "1"})
        while data:
            data = data[os.write(head[0], data) :]
    print(f"{name}: the host is going down", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        status = main()
    except (BrokenPipeError, KeyboardInterrupt):
        status = 141
    os._exit(status)
