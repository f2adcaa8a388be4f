"""A host's journal: what the supervisor, the kernel and the units said, and how `journalctl` shows it."""

import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

UNITS_S = {"second": 1, "sec": 1, "s": 1, "minute": 60, "min": 60, "m": 60, "hour": 3600, "h": 3600, "day": 86400}


@dataclass(frozen=True)
class Entry:
    """One line of the journal. `at` is in seconds since the epoch; `pid` is None for the kernel."""

    at: float
    unit: str | None
    ident: str
    pid: int | None
    message: str

    def show(self, host: str, output: str) -> str:
        """The line as `journalctl -o OUTPUT` prints it (short, short-iso, short-unix, cat)."""
        if output == "cat":
            return self.message
        moment = datetime.fromtimestamp(self.at, UTC)
        stamp = {
            "short": f"{moment:%b %d %H:%M:%S}",
            "short-iso": f"{moment:%Y-%m-%dT%H:%M:%S%z}",
            "short-unix": f"{self.at:.6f}",
        }[output]
        ident = self.ident if self.pid is None else f"{self.ident}[{self.pid}]"
        return f"{stamp} {host} {ident}: {self.message}"


class Journal:
    """The newest 20,000 entries, in order, kept also as a text file for whoever looks into a failed drill."""

    def __init__(self, path: Path, host: str) -> None:
        self.host = host
        self.entries: deque[Entry] = deque(maxlen=20_000)
        self.lock = threading.Lock()
        self.file = path.open("a", buffering=1)

    def write(self, unit: str | None, ident: str, pid: int | None, message: str, ago_s: float = 0) -> None:
        entry = Entry(time.time() - ago_s, unit, ident, pid, message)
        with self.lock:
            self.entries.append(entry)
            self.file.write(entry.show(self.host, "short-unix") + "\n")

    def kernel(self, message: str) -> None:
        self.write(None, "kernel", None, message)

    def select(self, units: set[str], kernel: bool, since: float, until: float, newest: int | None) -> list[Entry]:
        """Entries of these units (all if none named), or only the kernel's, between two moments."""
        with self.lock:
            found = [
                e
                for e in self.entries
                if since <= e.at <= until and (e.ident == "kernel" if kernel else not units or e.unit in units)
            ]
        found.sort(key=lambda e: e.at)  # what is said to have been before comes late
        return found[max(0, len(found) - newest) :] if newest is not None else found


def parse_moment(text: str) -> float:
    """Seconds since the epoch of a systemd.time(7) moment: `@EPOCH`, `15 minutes ago`, `-15min`, a date, now.

    Dates are UTC, the host's zone. Raises ValueError for anything else.
    """
    text = text.strip()
    if text.startswith("@"):
        return float(text[1:])
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    words = {"now": time.time(), "today": midnight.timestamp(), "yesterday": midnight.timestamp() - 86400}
    if text in words:
        return words[text]
    span = re.fullmatch(r"(?=-|.*ago)-?(\d+(?:\.\d+)?) ?([a-z]+?)s?(?: ago)?", text)
    if span and span[2] in UNITS_S:
        return time.time() - float(span[1]) * UNITS_S[span[2]]
    moment = datetime.fromisoformat(text.removesuffix(" UTC"))
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
