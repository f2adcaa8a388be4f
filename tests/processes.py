"""The processes of an installation, found by what they were started with."""

import time
from pathlib import Path


def processes_of(home: Path) -> list[int]:
    """Every process that has `home` for its installation, or runs something that lies below it."""
    marks = (f"INCIDENT_HOME={home}".encode(), f"{home}/".encode())
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (
                marks[0] in (entry / "environ").read_bytes().split(b"\0")
                or marks[1] in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue  # not ours, or gone meanwhile
    return found


def wait_until_gone(home: Path, seconds: float) -> None:
    """Wait until no process of the installation is left. Raises AssertionError."""
    ends = time.monotonic() + seconds
    while left := processes_of(home):
        assert time.monotonic() < ends, f"still there: {left}"
        time.sleep(0.1)
