"""Being asked to end: Ctrl-C, SIGTERM, or the terminal closed."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_S = 0.2


class _AskedToEnd(BaseException):
    """No error, so that nothing which handles errors takes it for one."""


@contextmanager
def until_asked_to_end() -> Iterator[Callable[[], None]]:
    """Leave the block at the first call of what it yields after a signal has asked for the end.

    Not in the handler: what is raised there is lost when it falls into a destructor or an import's callback,
    and would break off what is being cleaned up. SIGINT counts even where a shell that started us in the
    background left it ignored; SIGHUP does not under nohup. For the main thread only.
    """
    asked: list[int] = []

    def leave_if_asked() -> None:
        if asked:
            raise _AskedToEnd(signal.Signals(asked[0]).name)

    heeded = [s for s in SIGNALS if s is not signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda got, _: asked.append(got)) for number in heeded}
    try:
        yield leave_if_asked
    except _AskedToEnd:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_until_asked_to_end() -> None:
    """Wait for Ctrl-C, SIGTERM or the end of the terminal."""
    with until_asked_to_end() as leave_if_asked:
        while True:
            leave_if_asked()
            time.sleep(LOOK_S)
