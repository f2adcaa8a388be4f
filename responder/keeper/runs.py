"""Taking up runs that crashed: the same run is scheduled again, and skips what the store has."""

import logging
import time
from datetime import timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Scheduled

from blocks.run_history import final_state
from responder.domain.base import now
from responder.domain.incident import NO_RUN, Ending, Outcome
from responder.domain.profile import Profile
from responder.keeper.crashes import HEARTBEAT
from responder.keeper.handover import hand_over
from responder.store import Store
from responder.store.alerts import DISPATCH
from responder.store.people import GIVEN_BACK
from responder.store.tables import IncidentRow, LeaseRow

# The worker reports a crash a second time, about three seconds after the first: a run that is scheduled
# before would be overwritten.
AFTER_CRASH = timedelta(seconds=6)
# A busy machine needs more than a minute to start a process; a second one beside it would count as a lost run.
STARTS = timedelta(seconds=120)
MOST_TAKE_UPS = 6
LOST_AFTER = {StateType.CRASHED: AFTER_CRASH, StateType.PENDING: STARTS, StateType.RUNNING: STARTS}
"""A run that is in such a state for so long and has opened no incident is lost."""
LOOKS_S = 5.0
"""Between two looks for what is lost: each is a question to Prefect's server."""
RECENT = timedelta(hours=1)
"""What was lost longer ago is history: people have begun something else by now."""
AT_ONCE = 200  # the most that Prefect answers
FLOW = "incident"
ENDED = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CANCELLING})


def take_up_lapsed_runs(store: Store, holder: str) -> None:
    """Schedule again each run whose lease has lapsed; hand over those that cannot be continued."""
    for lease, incident in store.leases():
        if lease.expires_at > now() or incident.run_id.startswith(NO_RUN):
            continue
        try:
            _take_up(store, holder, incident, lease)
        except ObjectNotFound:
            ending = Ending(outcome=Outcome.ESCALATED, reason="the run was deleted in Prefect")
            hand_over(store, incident.id, ending)
        except (httpx.HTTPError, PrefectException) as error:
            logging.getLogger(__name__).warning("Prefect does not answer, %s waits: %s", incident.id, error)


def _take_up(store: Store, holder: str, incident: IncidentRow, lease: LeaseRow) -> None:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(incident.run_id))
        state = run.state
        if state and state.type is StateType.CRASHED and now() - state.timestamp < AFTER_CRASH:
            return
        given_back = lease.holder == GIVEN_BACK
        if given_back and state and state.type is StateType.RUNNING and now() - lease.expires_at < STARTS:
            return  # it is about to end, and its last state would be written over the new one
        queued = lease.holder == DISPATCH and state is not None and state.type is StateType.SCHEDULED
        lease_s = max(Profile.model_validate(incident.profile).clock.run_lease_s, STARTS.total_seconds())
        if not store.take_over_lease(incident.id, holder=DISPATCH if queued else holder, lease_s=lease_s):
            return
        if queued:
            return  # it waits for a worker, and `page_queued` tells people of it
        if given_back:
            client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
            return
        lapses = store.count_take_up(incident.id)
        store.decide(
            incident.id,
            who="keeper",
            what="takes the run up again" if not (state and state.type in ENDED) else "finds the run ended",
            # Counted, because a decision for the same reason is written down once only.
            why=f"its lease has lapsed ({lapses}); its state is {state.name if state else 'unknown'}",
        )
        if state and state.type in ENDED:
            ending = Ending(
                outcome=Outcome.ESCALATED, reason=f"the run ended as {state.name} before the incident did"
            )
            hand_over(store, incident.id, ending)
        elif lapses > MOST_TAKE_UPS:
            ending = Ending(outcome=Outcome.ESCALATED, reason="the run was lost again and again")
            hand_over(store, incident.id, ending)
        else:
            client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)


class LostRuns:
    """What was lost where no lease tells of it: before its incident was open, or after it had ended."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._look_at = 0.0

    def mend_due(self) -> None:
        """Begin again what was lost before it had opened an incident; give what had ended its last state."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOKS_S
        try:
            with get_client(sync_client=True) as client:
                for run in _lost(client):
                    self._mend(client, run)
        except (httpx.HTTPError, PrefectException) as error:
            logging.getLogger(__name__).warning("Prefect does not answer, lost runs wait: %s", error)

    def _mend(self, client: SyncPrefectClient, run: FlowRun) -> None:
        incident = self._store.incident_of_run(str(run.id))
        if incident is None and run.run_count <= MOST_TAKE_UPS and not _beats(client, run):
            client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
        elif incident is not None and self._is_over(incident, run):
            client.set_flow_run_state(run.id, final_state(incident.ending), force=True)

    def _is_over(self, incident: IncidentRow, run: FlowRun) -> bool:
        """Whether the run should have ended: also one that runs, if a person closed its incident a while ago."""
        if incident.outcome is None or self._store.has_lease(incident.id):
            return False
        closed = incident.closed_at
        return run.state_type is not StateType.RUNNING or (closed is not None and now() - closed > STARTS)


def _beats(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Whether it is said to run, and has told so itself: should it stop, Prefect's crash detection notices."""
    if not run.state or run.state.type is not StateType.RUNNING:
        return False
    beats = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        occurred=EventOccurredFilter(since=run.state.timestamp),
    )
    return client.read_events(beats, limit=1).total > 0


def _lost(client: SyncPrefectClient) -> list[FlowRun]:
    """The incidents' runs that lately, but not just now, stopped on their way to an incident, or crashed later.

    A worker says that a run is pending and starts its process then; of one that dies between, nobody else tells.
    Nor of a process whose last word, that it runs, reaches a busy server after the worker's, that it crashed.
    """
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(LOST_AFTER))),
            deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=AT_ONCE,
    )
    return [
        run for run in found if run.state and LOST_AFTER[run.state.type] < now() - run.state.timestamp < RECENT
    ]
