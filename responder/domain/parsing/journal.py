"""`journalctl -o short-unix`: log lines, their errors by pattern, and who was killed for memory."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.parsing.parsed import Parsed, collected, shown

_MAX_LINES = 20_000
_MAX_MESSAGE = 8192
_MAX_PATTERN = 300
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LINE = re.compile(r"(\d{9,10})\.(\d{1,6}) \S{1,255} ([^\[\n:]{1,128})(?:\[(\d{1,10})\])?:(?: (.*))?", re.ASCII)
_ERROR_WORDS = ("error", "critical", "fatal", "exception", "traceback", "failed", "panic")
_AUDIT = re.compile(r"\[AUDIT\]|\bauth(?:entication)? failed\b", re.IGNORECASE | re.ASCII)

# In this order: what holds a number is replaced before the number in it.
_PLACEHOLDERS = (
    (re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9a-fA-F])"), "<uuid>"),
    (re.compile(r'"[^"\n]*"'), "<text>"),
    (re.compile(r"(?<!\w)'[^'\n]*'(?!\w)"), "<text>"),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])(?::\d{1,5})?", re.ASCII), "<ip>"),
    (re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{1,4}(?![\w:])", re.ASCII), "<ip>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b", re.ASCII), "<hex>"),
    (re.compile(r"\b(?=[a-fA-F]{0,64}\d)[0-9a-fA-F]{8,64}\b", re.ASCII), "<hex>"),
    (re.compile(r"\d+(?:\.\d+)?", re.ASCII), "<n>"),
)

_KERNEL_OOM = re.compile(r"out of memory: kill(?:ed)? process (\d{1,10}) \((.{1,64}?)\)", re.IGNORECASE)
_SYSTEMD_OOM = re.compile(r"(\S{1,255}): (?:.{0,80}killed by the OOM killer|Failed with result 'oom-kill')")


class JournalLine(NamedTuple):
    """One entry. `message` holds all its lines, with their own indentation.

    A plain tuple: of fifty hosts there may be a million.
    """

    at: datetime
    ident: str
    pid: int | None
    message: str


class ErrorPattern(Frozen):
    """Lines that differ in numbers, addresses, ids and quoted texts only.

    `audit`: an entry about a person's refused request, which is no failure of the service.
    """

    pattern: str
    count: int
    example: str
    first_at: UtcDatetime
    last_at: UtcDatetime
    audit: bool


class OomKill(Frozen):
    """A kill for lack of memory: the kernel names the process, systemd names the unit."""

    at: UtcDatetime
    pid: int | None
    name: str
    said_by: Literal["kernel", "systemd"]


def parse_journal(text: str) -> Parsed[tuple[JournalLine, ...]]:
    """The entries that `journalctl -o short-unix` printed, the newest 20,000 lines of them.

    No output at all is a problem: without `--quiet`, journalctl says `-- No entries --` when there are none.
    """
    lines = text.rsplit("\n", _MAX_LINES)
    cut = len(lines) > _MAX_LINES
    rows: list[JournalLine] = []
    refused: list[str] = []
    silent = True
    head = 0  # how wide the last entry's head is: its further lines are indented by as much
    for line in lines[1:] if cut else lines:
        if match := _LINE.fullmatch(line):
            seconds, fraction, ident, pid, message = match.groups("")
            at = _EPOCH + timedelta(0, int(seconds), int(fraction.ljust(6, "0")))
            rows.append(JournalLine(at, ident, int(pid) if pid else None, message[:_MAX_MESSAGE]))
            head = len(line) - len(message)
        elif line.startswith(" ") and rows:
            said, more = rows[-1].message, line[min(head, len(line) - len(line.lstrip(" "))) :]
            if len(said) < _MAX_MESSAGE:
                rows[-1] = rows[-1]._replace(message=f"{said}\n{more}"[:_MAX_MESSAGE])
        elif line.startswith("-- "):
            silent = False
        elif line.strip() and (rows or not cut):
            refused.append(line)
    if not rows and not refused and silent:
        return Parsed(problem=f"no journal: {shown(text)}")
    note = f"only the newest {_MAX_LINES} lines were read" if cut else ""
    return collected(rows, refused, "journal entries", cut=note)


def group_errors(lines: Iterable[JournalLine], limit: int = 20) -> tuple[ErrorPattern, ...]:
    """The error lines by pattern, the most frequent first, `limit` at most; real errors before audit entries."""
    groups: dict[tuple[bool, str], list[JournalLine]] = {}
    for line in lines:
        if _speaks_of_an_error(line.message):
            audit = bool(_AUDIT.search(line.message))
            groups.setdefault((audit, normalised(_telling(line.message))), []).append(line)
    patterns = [
        ErrorPattern(
            pattern=pattern,
            count=len(found),
            example=_telling(found[0].message)[:_MAX_PATTERN],
            first_at=min(line.at for line in found),
            last_at=max(line.at for line in found),
            audit=audit,
        )
        for (audit, pattern), found in groups.items()
    ]
    return tuple(sorted(patterns, key=lambda found: (found.audit, -found.count, found.first_at))[:limit])


def _speaks_of_an_error(text: str) -> bool:
    lowered = text.lower()  # four times as fast as a regular expression that ignores case
    return any(word in lowered for word in _ERROR_WORDS)


def _telling(message: str) -> str:
    """The last line that speaks of an error: in a traceback, the one that names the exception."""
    return next(line.strip() for line in reversed(message.split("\n")) if _speaks_of_an_error(line))


def normalised(text: str) -> str:
    """`text` with a placeholder for each id, quoted text, address and number, so that like lines become equal."""
    text = text[: 4 * _MAX_PATTERN]
    for pattern, placeholder in _PLACEHOLDERS:
        text = pattern.sub(placeholder, text)
    return text[:_MAX_PATTERN]


def find_oom_kills(lines: Iterable[JournalLine]) -> tuple[OomKill, ...]:
    """Kills for lack of memory, in the order given. Only the kernel and systemd are believed about them."""
    kills: list[OomKill] = []
    for line in lines:
        if line.ident == "kernel" and (match := _KERNEL_OOM.search(line.message)):
            kills.append(OomKill(at=line.at, pid=int(match[1]), name=match[2], said_by="kernel"))
        elif line.ident == "systemd" and (match := _SYSTEMD_OOM.match(line.message)):
            kills.append(OomKill(at=line.at, pid=None, name=match[1], said_by="systemd"))
    return tuple(kills)
