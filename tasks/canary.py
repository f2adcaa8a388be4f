"""Sending the canary and watching it on its way."""

import time
from datetime import datetime
from uuid import uuid4

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks.receiver import CANARY, Receiver
from blocks.service import load_profile
from responder.domain.base import now
from responder.domain.canary import NAME, Canary, CanaryReport, fingerprint_of
from responder.domain.errors import PermanentError
from responder.domain.incident import Alert, Outcome
from responder.store import Store, open_store
from responder.store.tables import ReceiptRow

POLL_S = 0.1


@task(task_run_name="send the canary of {service}", cache_policy=NO_CACHE)
def send_canary(service: str) -> tuple[Canary, float]:
    """Send an alert about nothing; it, and the seconds until it was accepted.

    Raises `PermanentError` where its labels would not select the service and people would be paged, and while an
    incident of the service is open, which it would join; else like `load_profile` and `Receiver.send`.
    """
    canary = Canary(service=service, fingerprint=fingerprint_of(str(uuid4())), starts_at=now())
    if not load_profile(service).selects(Alert(name=NAME, labels=canary.labels)):
        raise PermanentError(f"the canary's labels {canary.labels} do not fit `alerts.match` of {service}")
    for row in open_store().open_incidents():
        if row.service == service:
            raise PermanentError(f"incident {row.id} of {service} is open: the canary would join it")
    _receiver().send(canary.webhook())
    return canary, _since(canary)


@task(task_run_name="wait for the incident of the canary", cache_policy=NO_CACHE)
def await_incident(canary: Canary, within_s: float) -> str:
    """The id of the incident that it opened. Raises `PermanentError` when it opened none within so long."""
    store, receipt = open_store(), None
    while _since(canary) < within_s:
        receipt = _receipt(store, canary)
        if receipt and receipt.incident_id:
            return receipt.incident_id
        time.sleep(POLL_S)
    why = f"{receipt.went}: {receipt.why}" if receipt else "it has no receipt"
    raise PermanentError(f"no incident after {within_s:g} s; {why}")


@task(task_run_name="say that the canary has stopped", cache_policy=NO_CACHE)
def end_canary(canary: Canary) -> None:
    """Send its end. Raises like `Receiver.send`."""
    _receiver().send(canary.webhook(ends_at=now()))


@task(task_run_name="wait for the end of incident {incident_id}", cache_policy=NO_CACHE)
def await_end(canary: Canary, accepted_s: float, incident_id: str, within_s: float) -> CanaryReport:
    """What became of it until its incident ended, or so many seconds after it was sent."""
    store = open_store()
    while not store.incident(incident_id).outcome and _since(canary) < within_s:
        time.sleep(POLL_S)
    row = store.incident(incident_id)
    began = [phase.started_at for phase in store.phases(incident_id) if phase.started_at > canary.starts_at]

    def since(at: datetime | None) -> float | None:
        return (at - canary.starts_at).total_seconds() if at and at > canary.starts_at else None

    report = CanaryReport(
        incident_id=incident_id,
        outcome=Outcome(row.outcome) if row.outcome else None,
        accepted_s=accepted_s,
        opened_s=since(row.opened_at),
        acknowledged_s=since(row.acknowledged_at),
        first_line_s=since(min(began, default=None)),
        ended_s=since(row.closed_at),
    )
    create_markdown_artifact(report.table(), key="canary", description="How long the canary took")
    return report


def canary_state(report: CanaryReport) -> State[CanaryReport]:
    """Completed, or Failed where the incident has not ended as that of an alert about nothing does."""
    ended = "still open" if report.ended_s is None else f"{report.ended_s:.1f} s"
    said = f"{report.outcome.value if report.outcome else 'no outcome'} of incident {report.incident_id}: {ended}"
    return Completed(message=said, data=report) if report.arrived else Failed(message=said, data=report)


def _receiver() -> Receiver:
    return Receiver.load(CANARY)  # type: ignore[return-value]


def _receipt(store: Store, canary: Canary) -> ReceiptRow | None:
    return next((row for row in store.receipts() if row.fingerprint == canary.fingerprint), None)


def _since(canary: Canary) -> float:
    return (now() - canary.starts_at).total_seconds()
