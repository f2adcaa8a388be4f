from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.parsing.systemd import PROPERTIES, UnitState, parse_show
from responder.domain.parsing.times import parse_systemd_span, parse_systemd_time, parse_utc_offset

RUNNING = """\
Result=success
NRestarts=2
ExecMainStartTimestamp=Mon 2026-11-23 13:21:00 UTC
MainPID=4121
ExecMainCode=0
ExecMainStatus=0
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
ActiveEnterTimestamp=Mon 2026-11-23 13:21:01 UTC
InactiveEnterTimestamp=
"""
CRASHED = """\
Result=core-dump
NRestarts=0
ExecMainStartTimestamp=@1700000000
MainPID=0
ExecMainCode=3
ExecMainStatus=11
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=disabled
ActiveEnterTimestamp=@1700000000
InactiveEnterTimestamp=@1700000060
"""


def test_a_running_unit_is_read_whole() -> None:
    assert parse_show(RUNNING) == UnitState(
        load_state="loaded",
        unit_file_state="enabled",
        active_state="active",
        sub_state="running",
        result="success",
        main_pid=4121,
        n_restarts=2,
        active_since=datetime(2026, 11, 23, 13, 21, 1, tzinfo=UTC),
        started_at=datetime(2026, 11, 23, 13, 21, tzinfo=UTC),
    )


def test_a_crashed_unit_has_no_process_but_a_signal() -> None:
    state = parse_show(CRASHED)
    assert (state.active_state, state.main_pid) == ("failed", None)
    assert (state.exec_main_code, state.exec_main_status) == ("dumped", 11)
    assert state.inactive_since == datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)
    assert state.problem is None


def test_the_exit_status_of_a_process_that_still_runs_is_not_zero_but_unknown() -> None:
    assert parse_show(RUNNING).exec_main_status is None


def test_a_missing_property_is_named() -> None:
    state = parse_show("ActiveState=active\nSubState=running\n")
    assert state.active_state == "active"
    assert state.n_restarts is None
    assert "NRestarts" in (state.problem or "")


@pytest.mark.parametrize("line", ["MainPID=many", "MainPID=-1", "MainPID=99999999999", "ExecMainCode=9"])
def test_a_property_that_makes_no_sense_is_unknown_with_its_text(line: str) -> None:
    name, _, value = line.partition("=")
    state = parse_show(
        "\n".join(f"{name}={value}" if old.startswith(f"{name}=") else old for old in RUNNING.split("\n"))
    )
    assert state.main_pid == (None if name == "MainPID" else 4121)
    assert state.exec_main_code is None
    assert repr(value) in (state.problem or "")


def test_only_the_first_of_several_units_is_read() -> None:
    assert parse_show(f"{RUNNING}\n{CRASHED}") == parse_show(RUNNING)


@pytest.mark.parametrize("text", ["", "Failed to connect to bus", "<html>=</html>", "\n\n"])
def test_anything_else_is_unknown(text: str) -> None:
    state = parse_show(text)
    assert state.problem is not None
    assert state.active_state is None


def test_a_local_zone_needs_the_offset_of_the_host() -> None:
    text = "Mon 2026-11-23 14:21:00 CET"
    assert parse_systemd_time(text) is None
    assert parse_systemd_time(text, timedelta(hours=1)) == datetime(2026, 11, 23, 13, 21, tzinfo=UTC)
    assert parse_systemd_time("Mon 2026-11-23 14:21:00 +0100") == datetime(2026, 11, 23, 13, 21, tzinfo=UTC)


def test_fractions_of_a_second_are_kept() -> None:
    assert parse_systemd_time("@1700000000.5") == datetime(2023, 11, 14, 22, 13, 20, 500000, tzinfo=UTC)
    assert parse_systemd_time("Mon 2026-11-23 13:21:00.25 UTC", None) == datetime(
        2026, 11, 23, 13, 21, 0, 250000, tzinfo=UTC
    )


@pytest.mark.parametrize("text", ["@99999999999999", "Mon 2026-13-40 25:00:00 UTC", "yesterday", "", "@"])
def test_no_time_is_made_of_what_is_none(text: str) -> None:
    assert parse_systemd_time(text) is None


def test_offsets_from_utc() -> None:
    assert parse_utc_offset("+0530\n") == timedelta(hours=5, minutes=30)
    assert parse_utc_offset("-08:00") == timedelta(hours=-8)
    assert parse_utc_offset("+9900") is None
    assert parse_utc_offset("UTC") is None


@given(
    st.lists(
        st.builds("{}={}".format, st.sampled_from(PROPERTIES), st.text(max_size=20) | st.integers().map(str))
        | st.text(max_size=20)
    ).map("\n".join)
)
def test_whatever_is_printed_gives_a_state(text: str) -> None:
    state = parse_show(text)
    assert state.problem is not None or state.active_state is not None
    assert state.main_pid != 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1min 30s", 90),
        ("500ms", 0.5),
        ("1h 2.5s", 3602.5),
        ("infinity", None),
        ("", None),
        ("30", None),
    ],
)
def test_a_time_span_is_read_in_seconds(text: str, seconds: float | None) -> None:
    assert parse_systemd_span(text) == seconds


@given(st.text(max_size=60))
def test_any_text_is_a_time_span_or_is_not(text: str) -> None:
    assert (parse_systemd_span(text) or 0.0) >= 0.0


def test_a_unit_that_has_used_up_its_starts_cannot_be_started_for_the_rest_of_the_interval() -> None:
    down = datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)
    looped = CRASHED.replace("NRestarts=0", "NRestarts=5") + "StartLimitIntervalUSec=30s\n"
    assert parse_show(looped).start_barred_s(down + timedelta(seconds=10)) == 20
    assert parse_show(looped).start_barred_s(down + timedelta(seconds=40)) == 0
    assert parse_show(looped).start_barred_s(down - timedelta(hours=1)) == 30, "the host's clock is another one"
    assert parse_show(looped.replace("NRestarts=5", "NRestarts=0")).start_barred_s(down) == 0
    assert parse_show(looped.replace("ActiveState=failed", "ActiveState=active")).start_barred_s(down) == 0
    assert parse_show(CRASHED).start_barred_s(down) == 0, "an old systemd does not tell"
