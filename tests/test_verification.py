"""Verification: only healthy readings count, in a row and over the window; unknown starts again."""

from datetime import timedelta
from typing import Any

import pytest
from factories import NOON, dossier, profile, seen
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.evidence import Evidence, Verdict
from responder.domain.profile import Profile
from responder.domain.strategies.restart import restarted
from responder.domain.verification import (
    Holding,
    Reading,
    Sample,
    Snapshot,
    conclude,
    healthy_again,
    holding,
    required_checks,
    stayed,
    take_sample,
)

VERDICTS: tuple[Verdict, ...] = ("healthy", "unhealthy", "unknown")


def sample(*verdicts: Verdict, at_s: float = 0) -> Sample:
    """One look; the readings are of `check1`, `check2`, … on gw-1."""
    return Sample(
        at=NOON + timedelta(seconds=at_s),
        readings=tuple(
            Reading(host="gw-1", check=f"check{n}", verdict=verdict, reason=f"{verdict} for a reason")
            for n, verdict in enumerate(verdicts, start=1)
        ),
    )


def series(*verdicts: Verdict, every_s: float = 10) -> list[Sample]:
    return [sample(verdict, at_s=n * every_s) for n, verdict in enumerate(verdicts)]


def held(*verdicts: Verdict, processes: tuple[int | None, ...] = ()) -> Holding:
    return holding(series(*verdicts), window_s=20, needed=3, processes=processes)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("healthy", "healthy"), "healthy"),
        (("healthy", "unknown"), "unknown"),
        (("unknown", "unhealthy"), "unhealthy"),
        ((), "unknown"),
    ],
)
def test_a_sample_is_as_bad_as_its_worst_reading_and_nothing_read_is_unknown(
    verdicts: tuple[Verdict, ...], expected: Verdict
) -> None:
    assert sample(*verdicts).verdict() == expected


def test_an_excused_check_may_be_unknown_but_not_unhealthy() -> None:
    excused = frozenset({("gw-1", "check1")})
    assert sample("unknown", "healthy").verdict(excused) == "healthy"
    assert sample("unhealthy", "healthy").verdict(excused) == "unhealthy"
    assert sample("healthy", "unknown").verdict(excused) == "unknown"
    assert sample("unknown").verdict(excused) == "unknown", "what was read of nothing proves nothing"


def test_three_healthy_samples_over_the_window_hold() -> None:
    result = held("healthy", "healthy", "healthy")
    assert (result.state, result.streak, result.spread_s) == ("held", 3, 20)


@pytest.mark.parametrize("broken", ["unhealthy", "unknown"])
def test_one_bad_or_unknown_sample_starts_the_count_again(broken: Verdict) -> None:
    assert held("healthy", "healthy", broken, "healthy", "healthy").state == "not_yet"
    assert held("healthy", "healthy", broken, "healthy", "healthy", "healthy").state == "held"


def test_samples_close_together_do_not_hold() -> None:
    quick = series(*["healthy"] * 10, every_s=1)
    assert holding(quick, window_s=20, needed=3).state == "not_yet"


def test_two_samples_do_not_hold_however_far_apart() -> None:
    assert holding(series("healthy", "healthy", every_s=600), window_s=20, needed=3).state == "not_yet"


def test_another_process_starts_the_count_again() -> None:
    assert held("healthy", "healthy", "healthy", processes=(7, 7, 8)).state == "not_yet"
    assert held("healthy", "healthy", "healthy", processes=(7, 7, 7)).state == "held"


def test_no_sample_holds_nothing() -> None:
    assert holding([], window_s=0, needed=3).state == "not_yet"


@given(st.lists(st.sampled_from(VERDICTS), max_size=12), st.integers(1, 4))
def test_it_holds_exactly_when_the_last_samples_are_healthy_long_enough(
    verdicts: list[Verdict], needed: int
) -> None:
    streak = 0
    for verdict in verdicts:
        streak = streak + 1 if verdict == "healthy" else 0
    result = holding(series(*verdicts), window_s=20, needed=needed)
    assert (result.state == "held") == (streak >= needed and streak >= 3)
    assert result.streak == streak
    assert result.reason


@pytest.mark.parametrize(
    ("metrics", "metrics_of", "nothing_left"),
    [
        ("healthy", {"gw-1"}, True),
        ("unknown", {"gw-1"}, False),
        ("unhealthy", {"gw-1"}, False),
        ("unknown", set(), True),
    ],
)
def test_metrics_that_were_ill_and_cannot_be_read_any_more_are_not_healthy_again(
    metrics: Verdict, metrics_of: set[str], nothing_left: bool
) -> None:
    look = Sample(
        at=NOON,
        readings=(
            Reading(host="gw-1", check="health", verdict="healthy", reason="as expected"),
            Reading(host="gw-1", check="metrics", verdict=metrics, reason="as read"),
        ),
    )
    assert healthy_again(look, metrics_of=metrics_of) is nothing_left


def test_a_look_that_read_nothing_shows_nothing_healthy() -> None:
    assert not healthy_again(Sample(at=NOON, readings=()), metrics_of={"gw-1"})


# Readings


def whole(**changes: Any) -> Profile:
    url = {"url": "http://localhost/x", "present": ["items"]}
    names = {"requests": "r_total", "errors": "e_total", "latency": "l_seconds"}
    ends = {"health": url, "engine": url, "orders": url, "metrics": {"url": "http://localhost/m", **names}}
    return profile(endpoints=ends | changes)


def test_every_configured_check_is_required() -> None:
    assert required_checks(whole()) == ("unit", "health", "engine", "metrics", "orders")
    assert required_checks(profile()) == ("unit", "health")


def healthy(host: str) -> tuple[Evidence, ...]:
    verdicts = [seen(host, f"{name}.verdict", "healthy") for name in ("health", "engine", "metrics", "orders")]
    return (seen(host, "unit.active_state", "active"), *verdicts)


def test_a_check_that_was_not_made_on_one_host_is_unknown_on_that_host() -> None:
    found = take_sample(dossier(*healthy("gw-1")), whole(), NOON, ["gw-1", "gw-2"])
    assert found.verdict() == "unknown"
    assert found.describe("unknown") == "unit, health, engine, metrics, orders on gw-2: not observed"
    assert take_sample(dossier(*healthy("gw-1")), whole(), NOON, ["gw-1"]).verdict() == "healthy"


@pytest.mark.parametrize("check", ["health", "engine", "metrics", "orders"])
def test_a_time_out_is_unknown_and_its_reason_is_kept(check: str) -> None:
    late = seen("gw-1", f"{check}.verdict", unknown="no answer within the deadline")
    found = take_sample(dossier(*healthy("gw-1"), late), whole(), NOON, ["gw-1"])
    assert found.verdict() == "unknown"
    assert found.describe("unknown") == f"{check} on gw-1: no answer within the deadline"


@pytest.mark.parametrize("state", ["failed", "inactive", "activating", "reloading", ""])
def test_only_an_active_unit_is_healthy(state: str) -> None:
    found = dossier(*healthy("gw-1"), seen("gw-1", "unit.active_state", state))
    assert take_sample(found, whole(), NOON, ["gw-1"]).verdict() == "unhealthy"


def test_bad_figures_are_said_in_words() -> None:
    figures = {"verdict": "unhealthy", "error_share": 0.25, "latency_p99_s": 1.5}
    bad = [seen("gw-1", f"metrics.{key}", value) for key, value in figures.items()]
    found = take_sample(dossier(*healthy("gw-1"), *bad), whole(), NOON, ["gw-1"])
    assert found.describe("unhealthy") == "metrics on gw-1: 25.0% of requests fail, p99 1.50 s"


# The restart's own postcondition


def before(pid: int | None, started: str | None) -> Snapshot:
    return Snapshot(at=NOON, main_pid=pid, started_at=started)


def test_a_process_that_keeps_changing_is_named_as_the_reason() -> None:
    assert "its main process is another one" in held("healthy", "healthy", "healthy", processes=(1, 2, 3)).reason
    assert "process" not in held("healthy", "healthy", processes=(1, 1)).reason


@pytest.mark.parametrize(
    ("old", "pid", "started", "expected"),
    [
        (before(7, "12:00"), 9, "12:05", "healthy"),
        (before(None, None), 9, "12:05", "healthy"),
        (before(7, "12:00"), 7, "12:05", "healthy"),
        (before(7, "12:00"), 7, "12:00", "unhealthy"),
        (before(7, "12:00"), 0, "12:05", "unhealthy"),
        (before(7, "12:00"), 9, None, "unhealthy"),
    ],
)
def test_a_restart_shows_in_another_process_or_start(
    old: Snapshot, pid: int | None, started: str | None, expected: Verdict
) -> None:
    now = (seen("gw-1", "unit.main_pid", pid), seen("gw-1", "unit.started_at", started))
    found = dossier(seen("gw-1", "unit.active_state", "active"), *now)
    assert restarted(old, found, "gw-1").verdict == expected


def test_whether_it_was_restarted_is_unknown_where_the_unit_cannot_be_read() -> None:
    blind = dossier(*(seen("gw-1", f"unit.{key}") for key in ("active_state", "main_pid", "started_at")))
    assert restarted(before(7, "12:00"), blind, "gw-1").verdict == "unknown"


@pytest.mark.parametrize(("pid", "expected"), [(9, "healthy"), (11, "unhealthy"), (None, "unknown")])
def test_a_process_that_died_after_it_was_verified_is_not_restored_however_quickly_another_came(
    pid: int | None, expected: Verdict
) -> None:
    reading = stayed(9, dossier(seen("gw-1", "unit.main_pid", pid)), "gw-1")
    assert (reading.verdict, reading.final) == (expected, expected == "unhealthy")


def test_a_snapshot_keeps_what_was_there_and_nothing_it_could_not_see() -> None:
    found = dossier(
        seen("gw-1", "unit.main_pid", 7), seen("gw-1", "orders.items", 0), seen("gw-1", "changes.release")
    )
    snapshot = Snapshot.of(found, "gw-1", NOON)
    assert (snapshot.main_pid, snapshot.orders, snapshot.release, snapshot.started_at) == (7, 0, None, None)


# What the end of confirming means

HELD = Holding(state="held", streak=3, spread_s=20, reason="3 healthy samples in a row over 20 s")
NOT_YET = Holding(state="not_yet", streak=1, spread_s=0, reason="only 0 s healthy")
EXCUSED = frozenset({("gw-1", "check2")})


@pytest.mark.parametrize(
    ("result", "last", "excused", "state"),
    [
        (HELD, sample("healthy", "healthy"), EXCUSED, "confirmed"),
        (HELD, sample("healthy", "unknown"), EXCUSED, "unconfirmed"),
        (NOT_YET, sample("healthy", "unknown"), EXCUSED, "unconfirmed"),
        (NOT_YET, sample("healthy", "unknown"), frozenset(), "not_restored"),
        (NOT_YET, sample("unknown", "unknown"), EXCUSED, "not_restored"),
        (NOT_YET, sample("unhealthy", "unknown"), EXCUSED, "not_restored"),
        (NOT_YET, sample("healthy", "healthy"), EXCUSED, "not_restored"),
    ],
)
def test_only_what_was_seen_healthy_throughout_is_confirmed(
    result: Holding, last: Sample, excused: frozenset[tuple[str, str]], state: str
) -> None:
    resolution = conclude(result, last, excused)
    assert resolution.state == state
    assert resolution.reason


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=4), st.booleans())
def test_a_sample_with_anything_but_healthy_readings_is_never_confirmed(
    verdicts: list[Verdict], ended_well: bool
) -> None:
    resolution = conclude(HELD if ended_well else NOT_YET, sample(*verdicts), EXCUSED)
    if resolution.state == "confirmed":
        assert ended_well
        assert set(verdicts) == {"healthy"}
