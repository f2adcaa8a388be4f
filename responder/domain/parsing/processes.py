"""`ps` and `who -u`: what runs on a host and who is there."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.parsing.parsed import Parsed, collected, cut_at, lines_of, shown
from responder.domain.parsing.times import local_time

PS_COLUMNS = "pid,ppid,stat,pcpu,rss,etimes,args"
"""The columns of `ps -eo` that `parse_ps` reads."""

_MAX_LINES = 20_000
_MAX_ARGS = 4096
_MAX_LOGIN_LINE = 512
_OLD_S = 24 * 3600

# Every repetition is bounded or ends at a character that it cannot match itself: no backtracking to speak of.
_PROCESS = re.compile(
    r" *(\d{1,10}) +(\d{1,10}) +([A-Za-z])\S{0,9} +(\d{1,6}(?:\.\d{1,3})?) +(\d{1,15}) +(\d{1,12})(?: +(.*))?",
    re.ASCII | re.DOTALL,
)
_LOGIN = re.compile(  # after runs of spaces have become one
    r"(\S+) (?:[+?-] )?(\S.*?) (\d{4}-\d\d-\d\d \d\d:\d\d|[A-Z][a-z]{2} \d{1,2} \d\d:\d\d)"
    r" (\.|old|\?|\d{1,2}:\d\d) (\d{1,10})(?: \((.*)\))?",
    re.ASCII,
)


class Process(Frozen):
    """One process. `state` is the first letter of its state (ps(1): R, S, D, T, Z ...)."""

    pid: int
    ppid: int
    state: str
    cpu_percent: float
    rss_bytes: int
    age_s: int
    args: str


class Login(Frozen):
    """One interactive login. `since` is None when the text does not tell the moment for certain."""

    user: str
    line: str
    since_text: str
    since: UtcDatetime | None
    idle_s: int | None
    """Seconds since the last key, to the minute; 86400 means at least that; None is unknown."""
    pid: int
    origin: str | None


def parse_ps(text: str) -> Parsed[tuple[Process, ...]]:
    """The processes that `ps -eo pid,ppid,stat,pcpu,rss,etimes,args` listed, 20,000 at most."""
    rows: list[Process] = []
    refused: list[str] = []
    for line in lines_of(text, _MAX_LINES):
        if match := _PROCESS.fullmatch(line):
            pid, ppid, state, cpu, rss_kib, age, args = match.groups()
            process = Process(
                pid=int(pid),
                ppid=int(ppid),
                state=state,
                cpu_percent=float(cpu),
                rss_bytes=int(rss_kib) * 1024,
                age_s=int(age),
                args=(args or "")[:_MAX_ARGS],
            )
            rows.append(process)
        elif line.strip() and line.split(None, 1)[0] != "PID":
            refused.append(line)
    if not rows:
        return Parsed(problem=f"no processes: {shown(text)}")
    return collected(rows, refused, "processes", cut=cut_at(text, _MAX_LINES))


def matching(processes: Sequence[Process], pattern: str, main_pid: int | None = None) -> tuple[Process, ...]:
    """The main process with its descendants, and all whose command line `pattern` finds; in the order given.

    An empty pattern finds none. Raises re.error for a pattern that is no regular expression.
    """
    wanted = re.compile(pattern) if pattern else None
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.ppid, []).append(process.pid)
    family: set[int] = set()
    waiting = [main_pid] if main_pid else []
    while waiting:
        pid = waiting.pop()
        if pid not in family:
            family.add(pid)
            waiting += children.get(pid, [])
    return tuple(p for p in processes if p.pid in family or (wanted is not None and wanted.search(p.args)))


def parse_who(text: str, now: datetime, utc_offset: timedelta | None = None) -> Parsed[tuple[Login, ...]]:
    """The logins that `who -u` listed; no output means nobody. A problem means: perhaps somebody more.

    `who` prints local times, and in some locales without a year: `utc_offset` is the host's (without it
    `since` stays None), `now` the latest moment that a login can have begun, give or take a day.
    """
    rows: list[Login] = []
    refused: list[str] = []
    for line in lines_of(text, _MAX_LINES):
        match = _LOGIN.fullmatch(" ".join(line.split())) if len(line) <= _MAX_LOGIN_LINE else None
        if match is not None:
            user, terminal, since_text, idle, pid, origin = match.groups()
            login = Login(
                user=user,
                line=terminal,
                since_text=since_text,
                since=_since(since_text, now, utc_offset),
                idle_s=_idle_s(idle),
                pid=int(pid),
                origin=origin,
            )
            rows.append(login)
        elif line.strip():
            refused.append(line)
    return collected(rows, refused, "logins", cut=cut_at(text, _MAX_LINES))


def _idle_s(text: str) -> int | None:
    if text in (".", "old", "?"):
        return {".": 0, "old": _OLD_S}.get(text)
    hours, minutes = text.split(":")
    return (int(hours) * 60 + int(minutes)) * 60


def _since(text: str, now: datetime, utc_offset: timedelta | None) -> datetime | None:
    if utc_offset is None:
        return None
    if text[0].isdigit():
        return local_time(text, "%Y-%m-%d %H:%M", utc_offset)
    # Without a year: the latest one that does not lie in the future. Eight years reach the last 29 February.
    years = range(now.year + 1, now.year - 8, -1)
    moments = (local_time(f"{year} {text}", "%Y %b %d %H:%M", utc_offset) for year in years)
    return next((moment for moment in moments if moment and moment <= now + timedelta(days=1)), None)
