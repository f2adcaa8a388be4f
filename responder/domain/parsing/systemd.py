"""`systemctl show`: the state of one unit. Property names: org.freedesktop.systemd1(5)."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.parsing.parsed import lines_of, shown
from responder.domain.parsing.times import parse_systemd_span, parse_systemd_time

PROPERTIES = (
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "ExecMainCode",
    "ExecMainStatus",
    "ActiveEnterTimestamp",
    "InactiveEnterTimestamp",
    "ExecMainStartTimestamp",
)
"""What `parse_show` reads; to be asked for with `-p`."""

START_LIMIT = "StartLimitIntervalUSec"
"""Read where it is told: systemd knows it since version 230."""

# waitid(2), si_code. Zero means that the main process runs or never ran: its status then says nothing.
_EXIT_CODES = {"1": "exited", "2": "killed", "3": "dumped", "4": "trapped", "5": "stopped", "6": "continued"}
_EXIT_CODES |= {word: word for word in _EXIT_CODES.values()}
_NOTHING = ("", "0", "@0", "n/a", "[not set]")
_WORD = re.compile(r"[A-Za-z][A-Za-z_-]{0,63}", re.ASCII)
_NUMBER = re.compile(r"\d{1,10}", re.ASCII)
_MAX_LINES = 500


class UnitState(Frozen):
    """A unit as systemd sees it. Each field is None when unknown, or when systemd has no such thing."""

    load_state: str | None = None
    unit_file_state: str | None = None
    active_state: str | None = None
    sub_state: str | None = None
    result: str | None = None
    main_pid: int | None = None
    n_restarts: int | None = None
    exec_main_code: str | None = None
    """How the main process ended: exited, killed (by a signal), dumped (core)."""
    exec_main_status: int | None = None
    """Its exit status, or the signal's number when it was killed."""
    active_since: UtcDatetime | None = None
    inactive_since: UtcDatetime | None = None
    started_at: UtcDatetime | None = None
    start_limit_s: float | None = None
    problem: str | None = None
    """Which properties are missing or not understood."""

    def start_barred_s(self, at: datetime) -> float:
        """For how many seconds from `at` systemd may refuse every start, also that of a good release.

        A unit that systemd restarted and that has failed all the same has used up its starts of the interval;
        systemd.unit(5), StartLimitIntervalSec=. Zero where nothing tells so.
        """
        if (
            self.active_state != "failed"
            or not self.n_restarts
            or not self.inactive_since
            or not self.start_limit_s
        ):
            return 0.0
        ends_in_s = (self.inactive_since - at).total_seconds() + self.start_limit_s
        return min(max(0.0, ends_in_s), self.start_limit_s)


def parse_show(text: str, utc_offset: timedelta | None = None) -> UnitState:
    """The state that `systemctl show UNIT -p ...` printed; `problem` names what it did not tell.

    `utc_offset` is the host's, for systemd that prints local times (see `parse_systemd_time`).
    """
    found = _properties(text)
    problems: list[str] = []
    if not found:
        return UnitState(problem=f"no unit properties: {shown(text)}")
    if missing := [name for name in PROPERTIES if name not in found]:
        problems.append(f"not told: {', '.join(missing)}")

    def word(name: str) -> str | None:
        value = found.get(name, "")
        return value if _WORD.fullmatch(value) else refused(name, value)

    def number(name: str) -> int | None:
        value = found.get(name, "")
        return int(value) if _NUMBER.fullmatch(value) else refused(name, value)

    def time(name: str) -> UtcDatetime | None:
        value = found.get(name, "")
        return parse_systemd_time(value, utc_offset) or refused(name, value)

    def refused(name: str, value: str) -> Any:
        if value not in _NOTHING:
            problems.append(f"{name} is {shown(value)}")

    code = found.get("ExecMainCode", "")
    ended = _EXIT_CODES.get(code) or refused("ExecMainCode", code)
    state = UnitState(
        load_state=word("LoadState"),
        unit_file_state=word("UnitFileState"),
        active_state=word("ActiveState"),
        sub_state=word("SubState"),
        result=word("Result"),
        main_pid=number("MainPID") or None,
        n_restarts=number("NRestarts"),
        exec_main_code=ended,
        exec_main_status=number("ExecMainStatus") if ended else None,
        active_since=time("ActiveEnterTimestamp"),
        inactive_since=time("InactiveEnterTimestamp"),
        started_at=time("ExecMainStartTimestamp"),
        start_limit_s=parse_systemd_span(found.get(START_LIMIT, "")),
    )
    return state.model_copy(update={"problem": "; ".join(problems) or None})


def _properties(text: str) -> Mapping[str, str]:
    """The known properties of the first unit in `text`: a blank line begins the next one."""
    found: dict[str, str] = {}
    for line in lines_of(text, _MAX_LINES):
        if not line and found:
            break
        name, equals, value = line.partition("=")
        if equals and name in (*PROPERTIES, START_LIMIT):
            found.setdefault(name, value.strip())
    return found
