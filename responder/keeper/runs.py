"""Taking up runs that crashed: the same run is scheduled again, and skips what the store has."""

import logging
from datetime import timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Scheduled

from responder.domain.base import now
from responder.domain.incident import Ending, Outcome
from responder.domain.profile import Profile
from responder.keeper.handover import hand_over
from responder.store import Store
from responder.store.people import GIVEN_BACK
from responder.store.tables import IncidentRow

# The worker reports a crash a second time, about three seconds after the first: a run that is scheduled
# before would be overwritten.
AFTER_CRASH = timedelta(seconds=6)
# A busy machine needs more than a minute to start a process; a second one beside it would count as a lost run.
START_S = 120.0
MOST_TAKE_UPS = 6
ENDED = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CANCELLING})


def take_up_lapsed_runs(store: Store, holder: str) -> None:
    """Schedule again each run whose lease has lapsed; hand over those that cannot be continued."""
    for lease, incident in store.leases():
        if lease.expires_at > now():
            continue
        try:
            _take_up(store, holder, incident, given_back=lease.holder == GIVEN_BACK)
        except ObjectNotFound:
            ending = Ending(outcome=Outcome.ESCALATED, reason="the run was deleted in Prefect")
            hand_over(store, incident.id, ending)
        except (httpx.HTTPError, PrefectException) as error:
            logging.getLogger(__name__).warning("Prefect does not answer, %s waits: %s", incident.id, error)


def _take_up(store: Store, holder: str, incident: IncidentRow, *, given_back: bool) -> None:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(incident.run_id))
        state = run.state
        if state and state.type is StateType.CRASHED and now() - state.timestamp < AFTER_CRASH:
            return
        lease_s = max(Profile.model_validate(incident.profile).clock.run_lease_s, START_S)
        if not store.take_over_lease(incident.id, holder=holder, lease_s=lease_s):
            return
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
