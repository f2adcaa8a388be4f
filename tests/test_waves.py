"""One host first; when that held, the others in waves, and no budget is overrun by doing them at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from responder.domain.profile import Profile
from responder.lab.lab import Lab
from responder.store import Store, open_store
from responder.store.tables import AttemptRow, IncidentRow, PhaseRow
from tests.lab_runs import broken_lab, start_incident, wait_ended


@dataclass
class Ended:
    """An incident of four crashed gateways, at its end."""

    lab: Lab
    row: IncidentRow
    attempts: Sequence[AttemptRow]
    phases: Sequence[PhaseRow]


def two_for_each_incident(profile: Profile) -> Profile:
    """May restart two targets in one incident, though three at once."""
    restart = profile.strategies["restart"]
    budget = restart.budget.model_copy(update={"per_incident": 2})
    tight = restart.model_copy(update={"budget": budget, "at_once": 3})
    return profile.model_copy(update={"strategies": {"restart": tight}})


@pytest.fixture(scope="module")
def ended(installation, tmp_path_factory) -> Iterator[tuple[Ended, Ended]]:
    """One with the lab's own budget and one with less, run side by side."""
    store, folder = open_store(), tmp_path_factory.mktemp("labs")
    with (
        broken_lab("all-down", folder) as wide,
        broken_lab("all-down", folder, profile=two_for_each_incident) as tight,
    ):
        runs = [(lab, start_incident(lab)) for lab in (wide, tight)]
        yield tuple(_end(store, lab, run_id) for lab, run_id in runs)
    store.close()


def _end(store: Store, lab: Lab, run_id: str) -> Ended:
    row = wait_ended(store, run_id)
    return Ended(lab, row, store.attempts(row.id), store.phases(row.id))


def test_one_host_comes_first_alone_and_the_others_in_waves_of_two(ended):
    wide = ended[0]
    assert (wide.row.outcome, wide.row.severity) == ("resolved", "P1"), wide.row.reason
    waves = [phase for phase in wide.phases if phase.name.startswith("mitigate:")]
    assert [len(wave.outcome["outcomes"]) for wave in waves] == [1, 2, 1]
    assert all(phase.outcome["reason"] for phase in wide.phases if ":" in phase.name), "says what came of it"
    first, *others = wide.attempts
    held = next(phase for phase in wide.phases if phase.name == f"verify:{first.step_id}")
    assert all(held.ended_at < other.intent_at for other in others), (
        "the first had to hold before the others began"
    )
    assert [action.verb for action in wide.lab.actions()] == ["restart"] * 4


def test_a_wave_does_not_overrun_the_budget_of_its_incident(ended):
    tight = ended[1]
    assert [action.verb for action in tight.lab.actions()] == ["restart"] * 2
    assert tight.row.outcome == "escalated"
    assert "budget" in tight.row.reason
