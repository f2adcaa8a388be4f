"""Crashes, on the session's server: Prefect's own detection by heartbeats, and what the keeper mends."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.events import ReceivedEvent, emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.states import Completed, Crashed, Pending, Running

from responder.domain.base import now
from responder.domain.incident import Ending, Mode, Outcome
from responder.installation import Installation
from responder.keeper import runs
from responder.keeper.crashes import HEARTBEAT, NAME, TAG, automation
from responder.keeper.runs import FLOW, STARTS, LostRuns
from responder.store import Store
from tests.factories import open_incident, profile
from tests.lab_runs import save_unreachable, start_run, wait_ended, wait_for

SILENCE = timedelta(seconds=10)  # the least that Prefect takes


@pytest.fixture
def prefect(installation: Installation) -> Iterator[SyncPrefectClient]:
    assert installation
    with get_client(sync_client=True) as client:
        made = client.create_automation(automation(SILENCE))
        yield client
        client.delete_automation(made)


def running(client: SyncPrefectClient) -> UUID:
    """A run of the incident's deployment that no worker gets to see."""
    deployment = client.read_deployment_by_name("diagnose/diagnose")
    run = client.create_flow_run_from_deployment(
        deployment.id, parameters={"service": "none"}, state=Running(), idempotency_key=str(uuid4())
    )
    return run.id


def beat(run_id: UUID, tag: str = TAG) -> None:
    emit_event(
        HEARTBEAT,
        resource={"prefect.resource.id": f"prefect.flow-run.{run_id}"},
        related=[{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}],
    )


def heartbeats(client: SyncPrefectClient, run_id: UUID) -> list[ReceivedEvent]:
    """What the server has of the run's heartbeats."""
    of_the_run = EventResourceFilter(id=[f"prefect.flow-run.{run_id}"])
    beats = EventFilter(event=EventNameFilter(name=[HEARTBEAT]), resource=of_the_run)
    return client.read_events(beats, limit=10).events


def test_a_run_whose_heartbeat_stops_is_crashed_and_no_other(prefect: SyncPrefectClient) -> None:
    silent, ended, strange, alive = (running(prefect) for _ in range(4))
    for run_id in (silent, ended, alive):
        beat(run_id)
    beat(strange, tag="another-teams")
    prefect.set_flow_run_state(ended, Completed())

    def crashed() -> bool:
        beat(alive)
        state = prefect.read_flow_run(silent).state
        return bool(state and state.is_crashed() and "no heartbeat" in (state.message or ""))

    wait_for(crashed, named="the crash")
    states = [prefect.read_flow_run(run_id).state for run_id in (ended, strange, alive)]
    assert [state and state.name for state in states] == ["Completed", "Running", "Running"]
    for run_id in (strange, alive):
        prefect.set_flow_run_state(run_id, Completed())


def test_the_keeper_sees_to_it_and_the_runs_of_incidents_beat_as_it_expects(
    prefect: SyncPrefectClient, store: Store
) -> None:
    wait_for(lambda: len(prefect.read_automations_by_name(NAME)) == 2, named="the keeper's and this test's")
    service = save_unreachable("beating", mode="dry-run")
    run_id = UUID(start_run({"summary": "is its heart beating?", "service": service}))
    wait_ended(store, str(run_id))
    [first, *_] = wait_for(lambda: heartbeats(prefect, run_id), named="a heartbeat")
    assert f"prefect.tag.{TAG}" in [each.id for each in first.related]


# --- where no lease tells of a crash ---------------------------------------------------------------------


def unserved(client: SyncPrefectClient, state: State) -> UUID:
    """A run in that state without a process; scheduled again, it stays so, for no worker serves it."""
    flow_id = client.create_flow_from_name(FLOW)
    deployment_id = client.create_deployment(flow_id=flow_id, name=f"unserved-{uuid4().hex[:8]}")
    return client.create_flow_run_from_deployment(deployment_id, state=state).id


def crashed(client: SyncPrefectClient) -> UUID:
    """One that was taken by a worker and crashed."""
    run_id = unserved(client, Pending())
    client.set_flow_run_state(run_id, Crashed(), force=True)
    return run_id


def state_after(client: SyncPrefectClient, run_id: UUID) -> State:
    """What the keeper makes of it."""

    def mended() -> State | None:
        state = client.read_flow_run(run_id).state
        return state if state and not state.is_crashed() else None

    return wait_for(mended, named="another state than Crashed")


def test_a_run_that_crashed_before_its_incident_was_open_is_begun_again(prefect: SyncPrefectClient) -> None:
    assert state_after(prefect, crashed(prefect)).name == "AwaitingRetry"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it is as late as a run has for opening its incident."""
    return lambda: monkeypatch.setattr(runs, "now", lambda: now() + STARTS)


def looked_at(client: SyncPrefectClient, store: Store, run_id: UUID) -> State:
    """Its state when the keeper has looked for what is lost."""
    LostRuns(store).mend_due()
    state = client.read_flow_run(run_id).state
    assert state
    return state


@pytest.mark.parametrize("said", [Pending(), Running()], ids=["before it began", "while it told that it runs"])
def test_a_run_that_died_without_a_witness_is_begun_again_in_good_time(
    prefect: SyncPrefectClient, store: Store, later: Callable[[], None], said: State
) -> None:
    run_id = unserved(prefect, said)
    assert looked_at(prefect, store, run_id).type is said.type, "its process may be opening the incident still"
    later()
    assert looked_at(prefect, store, run_id).name == "AwaitingRetry"


def test_a_run_that_beats_is_left_to_whoever_keeps_its_incident(
    prefect: SyncPrefectClient, store: Store, later: Callable[[], None]
) -> None:
    run_id = unserved(prefect, Running())
    beat(run_id)
    wait_for(lambda: heartbeats(prefect, run_id), named="the heartbeat")
    later()
    assert looked_at(prefect, store, run_id).type is StateType.RUNNING
    prefect.set_flow_run_state(run_id, Completed())


def test_a_run_that_works_on_its_incident_is_left_to_its_lease(
    prefect: SyncPrefectClient, store: Store, later: Callable[[], None]
) -> None:
    run_id = unserved(prefect, Running())
    open_incident(store, profile(name=f"shop-{uuid4().hex[:8]}"), run_id=str(run_id), mode=Mode.DRY_RUN)
    later()
    assert looked_at(prefect, store, run_id).type is StateType.RUNNING
    prefect.set_flow_run_state(run_id, Completed())


def test_a_run_under_which_a_person_closed_its_incident_does_not_run_for_ever(
    prefect: SyncPrefectClient, store: Store, later: Callable[[], None]
) -> None:
    run_id = unserved(prefect, Running())
    row = open_incident(store, profile(name=f"shop-{uuid4().hex[:8]}"), run_id=str(run_id), mode=Mode.DRY_RUN)
    store.close_incident(row.id, who="ada", why="the venue was down")
    assert looked_at(prefect, store, run_id).type is StateType.RUNNING, "it may say so itself"
    later()
    state = looked_at(prefect, store, run_id)
    assert (state.name, state.message) == ("Completed", "resolved: closed by a person")


def test_a_run_that_crashed_after_its_end_is_shown_as_it_ended(prefect: SyncPrefectClient, store: Store) -> None:
    run_id = crashed(prefect)
    row = open_incident(store, profile(name=f"shop-{uuid4().hex[:8]}"), run_id=str(run_id), mode=Mode.DRY_RUN)
    store.end_run(row.id, row.epoch, Ending(outcome=Outcome.ESCALATED, reason="the disk is full"))
    state = state_after(prefect, run_id)
    assert (state.name, state.message) == ("Failed", "escalated: the disk is full")
