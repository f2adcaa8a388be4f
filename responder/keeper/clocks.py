"""Our own deadlines for forms: nobody's silence is taken for consent."""

import logging
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from responder.domain.base import now
from responder.domain.incident import WAITING_TO_APPROVE, WAITING_TO_CLOSE
from responder.store import Store

ANSWERS = {WAITING_TO_CLOSE: "keep open", WAITING_TO_APPROVE: "decline"}


def answer_overdue_forms(store: Store) -> None:
    """Answer for people who did not answer a form in time: the incident stays open, the step is not taken."""
    for lease, incident in store.leases():
        if lease.step not in ANSWERS or lease.step_deadline > now():
            continue
        answer = {"decision": ANSWERS[lease.step], "by": "deadline", "why": "nobody answered in time"}
        try:
            with get_client(sync_client=True) as client:
                client.resume_flow_run(UUID(incident.run_id), run_input=answer)
        except (httpx.HTTPError, PrefectException) as error:
            logging.getLogger(__name__).warning("the form of %s could not be answered: %s", incident.id, error)
