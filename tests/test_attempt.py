"""The states of an attempt: what may follow what, whatever is asked of them, and what an attempt changed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.attempt import AttemptState, difference, require_follows
from responder.domain.errors import PermanentError
from responder.domain.readings import Snapshot
from tests.factories import NOON

STATES = list(AttemptState)


def follows(before: AttemptState, after: AttemptState) -> bool:
    try:
        require_follows(before, after)
    except PermanentError:
        return False
    return True


def walks(start: AttemptState) -> set[AttemptState]:
    """Every state that can be reached from `start`."""
    reached = {start}
    while more := {b for a, b in itertools.product(reached, STATES) if follows(a, b)} - reached:
        reached |= more
    return reached


@pytest.mark.parametrize("state", STATES)
def test_being_told_the_same_again_changes_nothing(state: AttemptState) -> None:
    assert follows(state, state)


def test_nothing_becomes_an_intent_again() -> None:
    assert [state for state in STATES if follows(state, AttemptState.INTENDED)] == [AttemptState.INTENDED]


@pytest.mark.parametrize("state", [AttemptState.BARRED, AttemptState.NOT_ACTED, AttemptState.UNDONE])
def test_what_is_over_stays_over(state: AttemptState) -> None:
    assert walks(state) == {state}


def test_what_acted_is_never_called_harmless_but_by_the_host_itself() -> None:
    """`barred` may follow `acted` only because the host said so: a late poll found the bar of another run."""
    assert AttemptState.NOT_ACTED not in walks(AttemptState.ACTED)
    assert not any(state.harmless for state in walks(AttemptState.ENDED) - walks(AttemptState.UNKNOWN))


def test_only_a_look_at_the_service_commits_and_never_the_exit_status_alone() -> None:
    assert not follows(AttemptState.INTENDED, AttemptState.COMMITTED)
    assert not follows(AttemptState.ACTED, AttemptState.COMMITTED)
    assert follows(AttemptState.ENDED, AttemptState.COMMITTED)


@given(way=st.lists(st.sampled_from(STATES), max_size=8))
def test_no_way_leads_out_of_the_states_that_may_follow(way: list[AttemptState]) -> None:
    state = AttemptState.INTENDED
    for following in way:
        if follows(state, following):
            assert following in walks(state)
            state = following
    assert state in walks(AttemptState.INTENDED)


def test_the_difference_names_only_what_changed_and_shows_the_unknown_as_none() -> None:
    before = Snapshot(at=NOON, main_pid=7, started_at="then", release="r1", orders=3, facts={"scale.replicas": 2})
    after = Snapshot(at=NOON, main_pid=9, started_at=None, release="r1", orders=3, facts={"scale.replicas": 5})
    assert difference(before, after) == {
        "main_pid": (7, 9),
        "started_at": ("then", None),
        "scale.replicas": (2, 5),
    }
    assert difference(before, before) == {}
