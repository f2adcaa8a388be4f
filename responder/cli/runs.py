"""Starting an incident's run and following it until it has ended or waits for a person."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException

from blocks.run_history import run_url
from responder.cli.live import Live
from responder.domain.errors import PermanentError, TransientError
from responder.domain.incident import SUMMARY_LIMIT, WAITING_TO_APPROVE, clean_alert
from responder.domain.redaction import clipped
from responder.store import Store
from responder.store.tables import IncidentRow

DEPLOYMENT = "incident/incident"
POLL_S = 0.3
STATE_POLL_S = 1.0
OUTBOX_S = 20.0


@dataclass(frozen=True)
class Followed:
    """What became of a run that was followed."""

    run_id: str
    url: str
    incident: IncidentRow | None
    waiting_for: str | None
    message: str

    @property
    def succeeded(self) -> bool:
        """Resolved or mitigated."""
        if self.waiting_for:
            return True
        return bool(self.incident and self.incident.outcome in ("resolved", "false_alarm", "no_fault", "dry_run"))

    def document(self) -> dict[str, Any]:
        """The result for programs."""
        row = self.incident
        return {
            "incident": row.id if row else None,
            "service": row.service if row else None,
            "severity": row.severity if row else None,
            "status": "waiting" if self.waiting_for else (row.status if row else "none"),
            "outcome": row.outcome if row else None,
            "reason": row.reason if row else self.message,
            "waiting_for": self.waiting_for,
            "run_url": self.url,
        }


def start_run(parameters: Mapping[str, Any]) -> str:
    """Create a run of the deployment `incident`; returns its id. Prefect keeps its parameters: without secrets.

    Prefect's client asks a busy server again for a minute; the key makes a second run the same one. Raises
    `PermanentError` for bad parameters, `TransientError` when the server stays too busy.
    """
    clean = dict(parameters)
    if isinstance(summary := clean.get("summary"), str):
        clean["summary"] = clipped(summary, max(SUMMARY_LIMIT, len(summary)))
    if isinstance(alerts := clean.get("alerts"), list):
        clean["alerts"] = [clean_alert(alert) if isinstance(alert, Mapping) else alert for alert in alerts]
    key = uuid4().hex
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
            run = client.create_flow_run_from_deployment(deployment.id, parameters=clean, idempotency_key=key)
        except httpx.HTTPStatusError as error:
            words = error.response.text[:500]
            if error.response.status_code < 500:
                raise PermanentError(f"the run was not accepted: {words}") from error
            raise TransientError(f"Prefect is too busy to take the run: {words}; try again") from error
        return str(run.id)


def follow(store: Store, run_id: str, live: Live, *, answered: bool = False) -> Followed:
    """Show the run's timeline until it has ended, or only a person's step is left.

    `answered`: somebody answers what the run asks, so that its pauses are waited out.
    """
    looked = 0.0
    message, final, paused = "", False, False
    while True:
        row = store.incident_of_run(run_id)
        live.show(store, row)
        if time.monotonic() - looked > STATE_POLL_S:
            looked = time.monotonic()
            message, final, paused = _state(run_id, message)
        ended = row.outcome is not None if row else final
        lost = final and (row is None or row.outcome is not None)
        if ended or lost or (paused and not answered):
            return Followed(
                run_id=run_id,
                url=run_url(run_id),
                incident=store.incident(row.id) if row else None,
                waiting_for=_waiting_for(store, row) if paused and not ended else None,
                message=message,
            )
        time.sleep(POLL_S)


def _waiting_for(store: Store, row: IncidentRow | None) -> str:
    steps = {lease.step for lease, held in store.leases() if row and held.id == row.id}
    return "a person approves a step" if WAITING_TO_APPROVE in steps else "a person closes the incident"


def wait_until_told(store: Store, incident_id: str, live: Live | None = None) -> None:
    """Wait some seconds for the outbox to be emptied, so that leaving does not cut a message short."""
    deadline = time.monotonic() + OUTBOX_S
    while time.monotonic() < deadline:
        if live:
            live.show(store, store.incident(incident_id))
        if all(message.state != "waiting" for message in store.messages(incident_id)):
            return
        time.sleep(POLL_S)


def wait_until_final(run_id: str, timeout_s: float = 30.0) -> str:
    """Wait until Prefect knows the run's final state; returns its name. Crashed is none: it is taken up again."""
    deadline = time.monotonic() + timeout_s
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(UUID(run_id)).state
            over = state is not None and state.is_final() and state.type is not StateType.CRASHED
            if over or time.monotonic() > deadline:
                return state.name if state and state.name else "unknown"
            time.sleep(POLL_S)


def _state(run_id: str, before: str) -> tuple[str, bool, bool]:
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run_id)).state
    except (httpx.HTTPError, PrefectException):
        return before, False, False  # Prefect is down: the store tells what happens meanwhile
    if state is None:
        return before, False, False
    # A crashed run is taken up again by the keeper, so it is not the end.
    over = state.is_final() and state.type is not StateType.CRASHED
    return state.message or state.name or "", over, state.type is StateType.PAUSED
