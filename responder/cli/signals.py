"""Being asked to end: Ctrl-C, SIGTERM, or the terminal closed."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _AskedToEnd(BaseException):
    """No error, so that nothing which handles errors takes it for one."""


@contextmanager
def until_asked_to_end() -> Iterator[None]:
    """Leave the block when a signal asks for it. What the block cleans up then is not broken off by the next one.

    SIGINT counts even where a shell that started us in the background left it ignored; SIGHUP does not
    under nohup. For the main thread only.
    """

    def leave(number: int, _: object) -> None:
        for other in heeded:
            signal.signal(other, signal.SIG_IGN)
        raise _AskedToEnd(signal.Signals(number).name)

    heeded = [s for s in SIGNALS if s is not signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    except _AskedToEnd:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_until_asked_to_end() -> None:
    """Wait for Ctrl-C, SIGTERM or the end of the terminal."""
    with until_asked_to_end():
        while True:
            signal.pause()
