import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.parsing.processes import PS_COLUMNS, Process, matching, parse_ps, parse_who

NOW = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
UTC_HOST = timedelta(0)
PS = """\
    PID    PPID STAT %CPU   RSS ELAPSED COMMAND
      1       0 Ss    0.0 12000  900000 /sbin/init
   4120       1 Ssl   1.5 51200     600 python3 /opt/veloz/gateway.py --port 8080
   4121    4120 Tl   99.9  2048     599 veloz_engine  --stdio
   5000       1 D<    0.0     0      10 [kworker/0:1]
"""


def test_processes_are_read_with_their_units() -> None:
    parsed = parse_ps(PS)
    assert parsed.problem is None
    assert parsed.value is not None
    assert len(parsed.value) == 4
    assert parsed.value[2] == Process(
        pid=4121,
        ppid=4120,
        state="T",
        cpu_percent=99.9,
        rss_bytes=2048 * 1024,
        age_s=599,
        args="veloz_engine  --stdio",
    )


@pytest.mark.skipif(shutil.which("ps") is None, reason="no ps on this machine")
def test_the_processes_of_this_machine_are_read() -> None:
    text = subprocess.run(["ps", "-eo", PS_COLUMNS], capture_output=True, text=True, check=True).stdout
    parsed = parse_ps(text)
    assert parsed.problem is None
    assert os.getpid() in {process.pid for process in parsed.value or ()}


def test_a_broken_line_is_told_and_the_others_are_read() -> None:
    parsed = parse_ps(PS + "garbage here\n")
    assert len(parsed.value or ()) == 4
    assert "garbage here" in (parsed.problem or "")


@pytest.mark.parametrize("text", ["", "sh: ps: not found", "PID PPID STAT\n", "1 2 3"])
def test_no_processes_at_all_is_unknown_and_not_an_idle_host(text: str) -> None:
    parsed = parse_ps(text)
    assert parsed.value is None
    assert parsed.problem


def test_a_list_that_is_too_long_is_cut_and_says_so() -> None:
    line = "1 0 S 0.0 0 1 x\n"
    parsed = parse_ps(line * 30_000)
    assert len(parsed.value or ()) == 20_000
    assert "first 20000 lines" in (parsed.problem or "")


def test_the_main_process_comes_with_its_descendants() -> None:
    processes = parse_ps(PS).value or ()
    assert [process.pid for process in matching(processes, "", 4120)] == [4120, 4121]


def test_a_pattern_finds_command_lines() -> None:
    processes = parse_ps(PS).value or ()
    assert [process.pid for process in matching(processes, r"veloz_engine\b")] == [4121]
    assert matching(processes, "") == ()


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(re.error):
        matching((), "(")


def test_processes_that_are_each_others_parents_end_the_search() -> None:
    processes = parse_ps("7 8 S 0.0 0 1 a\n8 7 S 0.0 0 1 b\n").value or ()
    assert len(matching(processes, "", 7)) == 2


def test_logins_are_read_in_both_forms_of_time() -> None:
    parsed = parse_who(
        "ops      pts/0        2026-11-23 13:21   .          4121 (10.99.0.1)\n"
        "root     tty1         Nov  3 09:05  old         812\n"
        "eve      ? pts/2      Nov 23 13:50 00:05        4122 (:pts/1:S.0)\n",
        NOW,
        UTC_HOST,
    )
    assert parsed.problem is None
    ops, root, eve = parsed.value or ()
    assert (ops.user, ops.line, ops.idle_s, ops.pid, ops.origin) == ("ops", "pts/0", 0, 4121, "10.99.0.1")
    assert ops.since == datetime(2026, 11, 23, 13, 21, tzinfo=UTC)
    assert (root.since, root.idle_s, root.origin) == (datetime(2026, 11, 3, 9, 5, tzinfo=UTC), 86400, None)
    assert (eve.idle_s, eve.origin) == (300, ":pts/1:S.0")


def test_a_month_without_a_year_is_the_latest_that_has_been() -> None:
    parsed = parse_who("ops pts/0 Dec 24 18:00 old 1\nops pts/1 Feb 29 12:00 old 2\n", NOW, UTC_HOST)
    assert [login.since for login in parsed.value or ()] == [
        datetime(2025, 12, 24, 18, 0, tzinfo=UTC),
        datetime(2024, 2, 29, 12, 0, tzinfo=UTC),
    ]


def test_a_login_begun_in_the_hosts_zone_is_told_in_utc() -> None:
    text = "ops pts/0 2026-11-23 13:21 . 4121 (10.99.0.1)"
    (login,) = parse_who(text, NOW, timedelta(hours=2)).value or ()
    assert login.since == datetime(2026, 11, 23, 11, 21, tzinfo=UTC)


def test_without_the_hosts_offset_the_begin_of_a_login_is_unknown() -> None:
    (login,) = parse_who("ops pts/0 2026-11-23 13:21 . 4121", NOW).value or ()
    assert (login.since, login.since_text) == (None, "2026-11-23 13:21")


def test_nobody_is_logged_in_when_nothing_is_printed() -> None:
    parsed = parse_who("", NOW)
    assert (parsed.value, parsed.problem) == ((), None)


def test_garbage_is_not_nobody() -> None:
    parsed = parse_who("who: not found\n", NOW)
    assert parsed.value is None
    assert "who: not found" in (parsed.problem or "")


@given(st.text(alphabet="ops/0 \n\t.:()123-NovFeb|\x00\u2028", max_size=200))
def test_whatever_is_printed_gives_a_value_or_a_problem(text: str) -> None:
    for parsed in (parse_who(text, NOW, UTC_HOST), parse_ps(text)):
        assert (parsed.value is not None) or parsed.problem
