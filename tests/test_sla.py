"""Minutes out of SLA: from the first sign to confirmed restored, and nothing where either is unknown."""

from datetime import timedelta

import pytest
from factories import NOON, alert, dossier, seen
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.incident import Outcome
from responder.domain.sla import first_sign, sla_impact

AT_10 = NOON + timedelta(minutes=10)


def impact(first=NOON, restored=AT_10, outcome=Outcome.RESOLVED, percent=99.9) -> str | None:
    return sla_impact(first, restored, outcome=outcome, availability_percent=percent)


def test_the_minutes_are_given_with_their_share_of_the_months_budget():
    assert impact() == (
        "out of SLA for 10.0 minutes (2026-03-04 12:00 to 2026-03-04 12:10 UTC): 23% of the 43.2 that "
        "99.9 % availability leaves in 30 days"
    )


def test_more_than_the_whole_budget_is_said_as_such_and_a_promise_of_everything_leaves_none():
    assert "139% of the 7.2" in str(impact(percent=99.9 + 0.0833333333))
    assert "and none of them that 100 % availability leaves" in str(impact(percent=100))


@pytest.mark.parametrize(
    "unknown",
    [{"first": None}, {"restored": None}, {"first": AT_10, "restored": NOON}],
    ids=["start", "end", "order"],
)
def test_without_start_or_end_it_is_not_known(unknown):
    assert impact(**unknown) is None


@pytest.mark.parametrize("outcome", [Outcome.FALSE_ALARM, Outcome.NO_FAULT])
def test_what_was_never_broken_costs_nothing(outcome):
    assert impact(outcome=outcome, restored=None) == "none: no check was seen out of SLA"


def test_the_first_sign_is_an_alert_or_an_unhealthy_check_and_unknown_is_neither():
    later = seen("gw-1", "health.verdict", "unhealthy").model_copy(update={"at": AT_10})
    assert first_sign([alert()], dossier(later)) == NOON
    assert first_sign([alert(starts_at=None)], dossier(later)) == AT_10
    assert (
        first_sign([], dossier(seen("gw-1", "health.verdict"), seen("gw-1", "metrics.verdict", "healthy"))) is None
    )


@given(st.integers(0, 60 * 24 * 40), st.floats(0, 99.99))
def test_the_share_is_the_minutes_of_the_budget(minutes, percent):
    said = str(impact(restored=NOON + timedelta(minutes=minutes), percent=percent))
    assert said.startswith(f"out of SLA for {minutes:.1f} minutes (")
    budget = 30 * 24 * 60 * (100 - percent) / 100
    assert abs(float(said.split("): ")[1].split("%")[0]) - 100 * minutes / budget) <= 0.51
