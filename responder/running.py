"""Which `incident up` runs in a data folder, for the commands in other terminals.

Its lock decides: the kernel releases it however the holder ends, and takes no process for another of the same id.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.errors import PermanentError, TransientError

LOCK, FILE = "up.lock", "running.json"
STARTING_S = 180.0
_GLANCE_S = 1.0


class Running(Frozen):
    """What `incident up` says of itself, in `running.json` of the data folder."""

    schema_version: Literal[1] = 1
    pid: int
    started_at: UtcDatetime
    api_url: str
    ui_url: str
    ready: bool = False


@contextmanager
def claim(home: Path) -> Iterator[Callable[[Running], None]]:
    """Be the one `incident up` of this folder while the block lasts; call what it yields to tell the others.

    Raises `PermanentError` when there is one already.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(lock, home)

        def announce(running: Running) -> None:
            draft = home / f"{FILE}.new"  # readers find the whole text or none
            draft.write_text(running.model_dump_json(indent=2), encoding="utf-8")
            draft.replace(home / FILE)

        try:
            yield announce
        finally:
            (home / FILE).unlink(missing_ok=True)
    finally:
        os.close(lock)


def _take(lock: int, home: Path) -> None:
    # Whoever looks whether the lock is held holds it for an instant.
    deadline = time.monotonic() + _GLANCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            other = _read(home)
            named = f"at {other.ui_url}, process {other.pid}" if other else "and is just starting or stopping"
            raise PermanentError(
                f"`incident up` runs in {home} already ({named}); end it there with Ctrl-C, or name another "
                "folder in INCIDENT_HOME"
            ) from None
        return


def find_running(home: Path, *, starting_s: float = STARTING_S) -> Running | None:
    """The `incident up` of this folder, waited for while it starts; None when there is none.

    Raises `TransientError` when it is not ready after `starting_s` seconds.
    """
    deadline = time.monotonic() + starting_s
    while _held(home):
        running = _read(home)
        if running and running.ready:
            return running
        if time.monotonic() > deadline:
            raise TransientError(
                f"`incident up` in {home} is not ready after {starting_s:g} s; its terminal says why"
            )
        time.sleep(0.1)
    return None


def _held(home: Path) -> bool:
    try:
        lock = os.open(home / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _read(home: Path) -> Running | None:
    with suppress(FileNotFoundError, ValidationError):  # not written yet, or by another version: not ready
        return Running.model_validate_json((home / FILE).read_text(encoding="utf-8"))
    return None
