"""Guardrails: each test is a way to get round one, and the door that is shut there."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.guardrails import PastAttempt, Situation, hands_on, refusal
from responder.domain.incident import Kind, Mode, Severity
from responder.domain.profile import OverallBudget, Window
from responder.domain.strategies import Budget, Strategy
from tests.factories import NOON, dossier, profile, seen

RESTART = Strategy(
    command=("systemctl", "restart", "shop"),
    budget=Budget(attempts=1, within_minutes=30, per_incident=2),
)


def situation(**changes: Any) -> Situation:
    """One in which everything may run."""
    plain: dict[str, Any] = {
        "now": NOON,
        "kind": Kind.AVAILABILITY,
        "severity": Severity.P1,
        "mode": Mode.LIVE,
        "incident_id": "this",
    }
    return Situation.model_validate(plain | changes)


def rule(strategy: Strategy | None = RESTART, target: str = "gw-1", **changes: Any) -> str | None:
    refused = refusal("restart", strategy, target, situation(**changes))
    if refused is None:
        return None
    assert refused.reason
    assert refused.remedy
    assert refused.rule in str(refused)
    return refused.rule


def past(minutes_ago: float, **changes: Any) -> PastAttempt:
    plain: dict[str, Any] = {
        "incident_id": "before",
        "strategy": "restart",
        "target": "gw-1",
        "at": NOON - timedelta(minutes=minutes_ago),
    }
    return PastAttempt.model_validate(plain | changes)


WINDOW = Window(reason="year end", starts_at=NOON - timedelta(hours=1), ends_at=NOON + timedelta(hours=1))

# In the order in which they are asked, each with what makes it say no.
REFUSALS: dict[str, dict[str, Any]] = {
    "stop everything": {"stopped": "ada: wrong hosts"},
    "people-only class": {"kind": Kind.SECURITY},
    "open security incident": {"security_incident": "breach"},
    "strategy not configured": {"strategy": None},
    "freeze or maintenance window": {"window": WINDOW},
    "somebody else's hands": {"hands": ("ada is logged in on gw-1",)},
    "strategy by severity": {"severity": Severity.P4},
    "budget for each target": {"past": (past(1),)},
    "budget for each incident": {"past": tuple(past(60 + n, incident_id="this", target="gw-2") for n in range(2))},
}


def test_without_any_reason_against_it_a_strategy_may_run() -> None:
    assert rule() is None


@pytest.mark.parametrize("name", REFUSALS)
def test_each_guardrail_refuses_alone(name: str) -> None:
    assert rule(**REFUSALS[name]) == name


@pytest.mark.parametrize("place", range(len(REFUSALS) - 1))
def test_the_graver_guardrail_is_told_first(place: int) -> None:
    names = list(REFUSALS)
    together: dict[str, Any] = {}
    for name in reversed(names[place:]):
        together |= REFUSALS[name]
    assert rule(**together) == names[place]


@given(st.data())
def test_a_further_reason_against_it_never_opens_a_door(data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from(sorted(REFUSALS)), min_size=1))
    together: dict[str, Any] = {}
    for name in chosen:
        together |= REFUSALS[name]
    assert rule(**together) in REFUSALS


# --- not knowing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["the host did not answer", ""])
def test_not_knowing_whose_hands_are_on_it_means_no_even_without_a_reason(why: str) -> None:
    assert rule(hands_unknown=why) == "unknown hands"


def test_a_stop_without_a_reason_is_a_stop() -> None:
    assert rule(stopped="") == "stop everything"


@pytest.mark.parametrize("mode", list(Mode))
def test_dry_runs_and_shadows_meet_the_same_guardrails(mode: Mode) -> None:
    for name, changes in REFUSALS.items():
        assert rule(mode=mode, **changes) == name


# --- classes and severities ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.SECURITY, Kind.RISK])
def test_a_people_only_incident_is_not_acted_upon_even_if_it_is_itself_the_open_one(kind: Kind) -> None:
    assert rule(kind=kind, security_incident="this") == "people-only class"


def test_an_open_security_incident_holds_every_other_incident_back() -> None:
    assert rule(security_incident="breach", incident_id="this") == "open security incident"


@pytest.mark.parametrize("severity", list(Severity))
def test_a_strategy_runs_only_at_the_severities_that_are_named(severity: Severity) -> None:
    for named in ((), (Severity.P1,), tuple(Severity)):
        strategy = RESTART.model_copy(update={"severities": named})
        assert (rule(strategy, severity=severity) is None) == (severity in named)


# --- windows -------------------------------------------------------------------------------------


def weekly(days: list[int], start: str, end: str) -> Window:
    return Window.model_validate({"reason": "night", "weekdays": days, "from_time": start, "to_time": end})


def day(isoweekday: int, clock: str) -> datetime:
    hour, minute = map(int, clock.split(":"))
    return datetime(2026, 3, 1 + isoweekday, hour, minute, tzinfo=UTC)  # 2 March 2026 is a Monday


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        (weekly([3], "09:00", "17:00"), [(3, "09:00"), (3, "16:59")], [(3, "08:59"), (3, "17:00"), (4, "12:00")]),
        (weekly([5], "22:00", "06:00"), [(5, "22:00"), (5, "23:59"), (6, "00:00"), (6, "05:59")], [(5, "05:00")]),
        (weekly([5], "22:00", "06:00"), [(5, "22:01")], [(5, "21:59"), (6, "06:00"), (6, "22:30")]),
        (weekly([7], "22:00", "06:00"), [(7, "23:00"), (1, "00:00"), (1, "05:59")], [(1, "06:00"), (7, "05:00")]),
        (weekly([1], "23:00", "00:00"), [(1, "23:30")], [(2, "00:00"), (1, "22:59"), (1, "00:00")]),
        (weekly([6], "00:00", "00:00"), [(6, "00:00"), (6, "23:59")], [(5, "23:59"), (7, "00:00")]),
        (weekly([6], "08:00", "08:00"), [(6, "08:00"), (7, "07:59")], [(6, "07:59"), (7, "08:00")]),
        (weekly([1, 2, 3, 4, 5, 6, 7], "22:00", "06:00"), [(d, "03:00") for d in range(1, 8)], [(3, "12:00")]),
    ],
)
def test_a_weekly_window_holds_over_midnight_and_the_weeks_end(
    window: Window, inside: list[tuple[int, str]], outside: list[tuple[int, str]]
) -> None:
    assert [window.holds(day(*moment)) for moment in inside] == [True] * len(inside)
    assert [window.holds(day(*moment)) for moment in outside] == [False] * len(outside)


@given(st.integers(1, 7), st.times().map(lambda t: t.replace(fold=0)), st.times().map(lambda t: t.replace(fold=0)))
def test_a_weekly_window_holds_from_its_first_moment_to_its_last_for_a_day_at_most(
    weekday: int, start: Any, end: Any
) -> None:
    window = Window(reason="night", weekdays=(weekday,), from_time=start, to_time=end)
    opens = datetime.combine(day(weekday, "00:00").date(), start, tzinfo=UTC)
    closes = datetime.combine(opens.date(), end, tzinfo=UTC)
    closes += timedelta(days=1) if closes <= opens else timedelta()
    tick = timedelta(microseconds=1)
    assert window.holds(opens)
    assert window.holds(closes - tick)
    assert not window.holds(closes)
    assert not window.holds(opens - tick)


def test_a_window_is_in_utc_whatever_zone_the_question_comes_in() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert weekly([3], "12:00", "13:00").holds(NOON.astimezone(tokyo))
    assert not weekly([3], "21:00", "22:00").holds(NOON.astimezone(tokyo))
    assert WINDOW.holds(NOON.astimezone(tokyo))


def test_a_dated_window_holds_from_its_start_until_its_end() -> None:
    assert WINDOW.holds(NOON - timedelta(hours=1))
    assert not WINDOW.holds(NOON + timedelta(hours=1))
    assert not WINDOW.holds(NOON - timedelta(hours=1, microseconds=1))


DATED = {"starts_at": "2026-03-04T00:00:00Z", "ends_at": "2026-03-05T00:00:00Z"}
WEEKLY = {"weekdays": [1], "from_time": "22:00", "to_time": "06:00"}


@pytest.mark.parametrize(
    "data",
    [
        {},
        DATED | WEEKLY,
        DATED | {"weekdays": [1]},
        DATED | {"from_time": "22:00"},
        WEEKLY | {"ends_at": DATED["ends_at"]},
        {"starts_at": DATED["starts_at"]},
        WEEKLY | {"weekdays": []},
        WEEKLY | {"weekdays": [0]},
        WEEKLY | {"weekdays": [8]},
        WEEKLY | {"to_time": None},
        WEEKLY | {"from_time": "22:00+02:00"},
        {"starts_at": DATED["ends_at"], "ends_at": DATED["starts_at"]},
        {"starts_at": DATED["ends_at"], "ends_at": DATED["ends_at"]},
    ],
)
def test_a_window_that_would_silently_mean_something_else_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate({"reason": "freeze"} | data)


def test_the_profile_finds_the_window_that_holds() -> None:
    service = profile(guardrails={"windows": [{"reason": "nights"} | WEEKLY, {"reason": "release"} | DATED]})
    assert service.window_at(datetime(2026, 3, 3, 12, tzinfo=UTC)) is None
    found = [service.window_at(moment) for moment in (NOON, datetime(2026, 3, 3, 5, 59, tzinfo=UTC))]
    assert [window.reason if window else None for window in found] == ["release", "nights"]


# --- budgets -------------------------------------------------------------------------------------


def test_a_budget_counts_the_attempts_of_every_incident_on_the_target() -> None:
    spent = tuple(past(minutes, incident_id=f"i{minutes}") for minutes in (5, 10))
    strategy = RESTART.model_copy(update={"budget": Budget(attempts=2, within_minutes=30)})
    assert rule(strategy, past=spent[:1]) is None
    assert rule(strategy, past=spent) == "budget for each target"


@pytest.mark.parametrize(
    "attempt",
    [past(30.1), past(1, target="gw-2"), past(1, strategy="rollback")],
    ids=["long ago", "elsewhere", "another strategy"],
)
def test_a_budget_leaves_out_what_is_not_its_own(attempt: PastAttempt) -> None:
    assert rule(past=(attempt,)) is None


def test_an_attempt_of_this_very_moment_counts_although_two_clocks_differ_a_little() -> None:
    assert rule(past=(past(-0.01),)) == "budget for each target"


@pytest.mark.parametrize("minutes_ago", [-1.1, -60, -60 * 24 * 365])
def test_a_clock_that_was_set_back_refuses_rather_than_refill_a_budget(minutes_ago: float) -> None:
    assert rule(past=(past(minutes_ago),)) == "clock"
    assert rule(past=(past(minutes_ago, target="gw-9"),)) == "clock", "whatever was tried"
    assert rule(past=(past(minutes_ago),), approved=True) == "budget for each target"


@pytest.mark.parametrize("seconds", [-7200, 61, 7200])
def test_a_clock_that_was_set_refuses_for_an_hour_what_no_person_approved(seconds: int) -> None:
    assert rule(clock_jump=(NOON - timedelta(minutes=59), seconds)) == "clock"
    assert rule(clock_jump=(NOON - timedelta(minutes=59), seconds), approved=True) is None
    assert rule(clock_jump=(NOON - timedelta(minutes=61), seconds)) is None


def test_the_budget_over_all_counts_every_strategy_target_and_incident() -> None:
    tried = (past(5, target="gw-7"), past(9, strategy="rollback", target="gw-8"), past(61, target="gw-9"))
    overall = OverallBudget(attempts=2, within_minutes=60)
    assert rule(past=tried, overall=overall) == "budget over all"
    assert rule(past=tried[1:], overall=overall) is None
    assert rule(past=tried, overall=overall, undoes=True) is None, "what was done may be taken back"


def test_the_incidents_budget_holds_over_all_targets_however_old() -> None:
    tried = tuple(past(60 * 24 * n, incident_id="this", target=f"gw-{n}") for n in (2, 3))
    assert rule(past=tried[:1]) is None
    assert rule(past=tried) == "budget for each incident"
    assert rule(past=tried, incident_id="another") is None


def test_a_budget_of_none_allows_nothing() -> None:
    for none in (Budget(attempts=0, within_minutes=1), Budget(attempts=9, within_minutes=1, per_incident=0)):
        assert (rule(RESTART.model_copy(update={"budget": none})) or "").startswith("budget")


@pytest.mark.parametrize(
    "budget",
    [
        {"attempts": -1, "within_minutes": 1},
        {"attempts": 1, "within_minutes": 0},
        {"attempts": 1, "within_minutes": float("inf")},
        {"attempts": 1, "within_minutes": float("nan")},
        {"attempts": 1, "within_minutes": 1e12},
        {"attempts": 1},
        {"within_minutes": 1},
    ],
)
def test_a_budget_without_bounds_is_refused(budget: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Budget.model_validate(budget)


def test_moments_without_a_zone_do_not_break_a_budget() -> None:
    bare = NOON.replace(tzinfo=None)
    assert rule(now=bare, past=(past(1, at=bare - timedelta(minutes=1)),)) == "budget for each target"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("deployments.running", "a deployment is running on gw-1"),
        ("logins.active", "somebody is logged in on gw-1"),
    ],
)
def test_hands_on_a_host_are_told_unknown_or_none(key: str, words: str) -> None:
    quiet = dossier(seen("gw-1", "deployments.running", 0), seen("gw-1", "logins.active", 0))
    assert hands_on("gw-1", quiet) == ((), None)
    signs, unknown = hands_on("gw-1", quiet.plus([seen("gw-1", key, 1)]))
    assert ([sign.startswith(words) for sign in signs], unknown) == ([True], None)
    signs, unknown = hands_on("gw-1", quiet.plus([seen("gw-1", key)]))
    assert (signs, bool(unknown)) == ((), True)
    assert hands_on("gw-2", quiet)[1], "what was seen elsewhere says nothing of this host"
