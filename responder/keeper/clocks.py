"""Clocks: this machine's own, and the deadlines of forms, whose answers from other doors are handed in."""

import logging
import time
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from responder.domain.approval import DEADLINE, Answer, Decision
from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.domain.incident import WAITING_TO_APPROVE, WAITING_TO_CLOSE
from responder.store import Store
from responder.store.tables import IncidentRow

JUMP_S = 30
SILENCE = "nobody answered in time"


class Clock:
    """Tells when this machine's clock is set, by a clock that nobody can set and that runs on in suspension."""

    def __init__(self) -> None:
        self._offset = self._now()

    def jump_s(self) -> int:
        """By how many seconds the clock has been set since this was last asked; 0 for the usual drift."""
        before, self._offset = self._offset, self._now()
        jump = round(self._offset - before)
        return jump if abs(jump) >= JUMP_S else 0

    @staticmethod
    def _now() -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def answer_forms(store: Store) -> None:
    """Resume each paused run whose question is decided or overdue. Nobody's silence is taken for consent.

    Overdue, a step is not taken and the incident goes to a person; an incident that could be closed stays open.
    """
    for lease, incident in store.leases():
        overdue = lease.step_deadline <= now()
        if lease.step == WAITING_TO_CLOSE and overdue:
            _resume(incident, {"decision": "keep open", "by": DEADLINE, "why": SILENCE})
        elif lease.step == WAITING_TO_APPROVE and (answer := _decision(store, incident, overdue=overdue)):
            _resume(incident, answer.model_dump(mode="json", exclude={"proven"}))


def _decision(store: Store, incident: IncidentRow, *, overdue: bool) -> Answer | None:
    """What decides the question that is open, from whichever door it came."""
    asked = store.questions(incident.id)[-1]
    if asked.decided is None and overdue:
        silence = Answer(decision=Decision.DECLINE, by=DEADLINE, why=SILENCE)
        try:
            asked = store.answer(incident.id, asked.question.digest, silence)
        except PermanentError:  # somebody answered at the last moment: it is found at the next look
            return None
    return asked.decided


def _resume(incident: IncidentRow, answer: dict[str, str]) -> None:
    try:
        with get_client(sync_client=True) as client:
            client.resume_flow_run(UUID(incident.run_id), run_input=answer)
    except (httpx.HTTPError, PrefectException) as error:
        log = logging.getLogger(__name__)
        log.warning("the form of %s could not be answered: %s", incident.id, error)
