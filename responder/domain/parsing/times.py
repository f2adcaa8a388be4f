"""Times as hosts print them."""

import re
from datetime import UTC, datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIX = re.compile(r"@?(\d{1,11})(?:\.(\d{1,6}))?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})?", re.ASCII)
_CALENDAR = re.compile(
    r"(?:[A-Za-z]{3} )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{1,6})?(?: ([A-Za-z]{1,6}|[+-]\d\d(?::?\d\d)?))?",
    re.ASCII,
)
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s|min|h|d|w)", re.ASCII)
_SPAN_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def parse_unix(text: str) -> datetime | None:
    """`1700000000.123456` or `@1700000000` as a moment in UTC; None for anything else."""
    match = _UNIX.fullmatch(text)
    if match is None:
        return None
    try:
        return _EPOCH + timedelta(seconds=int(match[1]), microseconds=int((match[2] or "").ljust(6, "0")))
    except OverflowError:
        return None


def parse_utc_offset(text: str) -> timedelta | None:
    """`+0530` or `-08:00`, as `date +%z` prints it; None for anything else."""
    match = _OFFSET.fullmatch(text.strip())
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
    if offset >= timedelta(hours=24):
        return None
    return -offset if match[1] == "-" else offset


def parse_systemd_time(text: str, utc_offset: timedelta | None = None) -> datetime | None:
    """A systemd timestamp as a moment in UTC, from either form; None for anything else.

    `@1700000000` is what `--timestamp=unix` prints (systemd 247 and later), `Mon 2026-11-23 13:21:00 UTC`
    what all versions do by default; systemd.time(7). An abbreviated zone other than UTC says nothing for
    certain (there are several called IST): `utc_offset`, the host's own, is needed for it.
    """
    if (moment := parse_unix(text)) is not None:
        return moment
    match = _CALENDAR.fullmatch(text)
    if match is None:
        return None
    zone = match[3] or ""
    offset = timedelta(0) if zone.upper() in ("UTC", "GMT", "Z") else (parse_utc_offset(zone) or utc_offset)
    if offset is None:
        return None
    return local_time(match[1] + (match[2] or ""), "%Y-%m-%d %H:%M:%S" + (".%f" if match[2] else ""), offset)


def parse_systemd_span(text: str) -> float | None:
    """`1min 30s`, as systemd prints a time span, in seconds; None for anything else; systemd.time(7)."""
    parts = [_SPAN.fullmatch(word) for word in text.split()]
    if not parts or len(parts) > len(_SPAN_S) or None in parts:
        return None
    return sum(float(part[1]) * _SPAN_S[part[2]] for part in parts if part)


def local_time(text: str, form: str, offset: timedelta) -> datetime | None:
    """`text` in the format `form`, at `offset` from UTC, as a moment in UTC; None when there is no such time."""
    try:
        return datetime.strptime(text, form).replace(tzinfo=timezone(offset)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
