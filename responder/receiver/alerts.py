"""What monitoring systems post, and what became of it."""

import os
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Security
from fastapi.responses import PlainTextResponse, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from responder.domain.base import Frozen, UtcDatetime, now
from responder.domain.webhooks import (
    AlertmanagerWebhook,
    PagerDutyWebhook,
    from_alertmanager,
    from_pagerduty,
    signed_by,
)
from responder.receiver.access import Kept, person_of, sender_of
from responder.receiver.inbox import Inbox

SECRETS = "INCIDENT_PAGERDUTY_WEBHOOK_SECRETS"
"""PagerDuty's signing secrets, separated by spaces; several are valid while one is replaced."""
MOST_SHOWN = 1_000

router = APIRouter()


class Accepted(Frozen):
    """What was kept: it is in the store now, whatever happens next."""

    alerts: int
    left_out: int = 0
    """How many of the group the sender says it has left out."""


class Receipt(Frozen):
    """One alert, where it went and why."""

    id: int
    source: str
    name: str
    firing: bool
    received_at: UtcDatetime
    seen_at: UtcDatetime
    times: int
    went: str
    why: str
    incident: str | None
    left_out: int


@router.post("/alerts/alertmanager", status_code=202, dependencies=[Depends(sender_of)])
async def alertmanager(posted: AlertmanagerWebhook, request: Request) -> Accepted:
    """Take in Alertmanager's webhook, version 4. 202: all of it is in the store."""
    signals = from_alertmanager(posted, now())
    await _inbox(request).keep(signals)
    return Accepted(alerts=len(signals), left_out=posted.truncated)


signature = APIKeyHeader(
    name="X-PagerDuty-Signature",
    scheme_name="pagerdutySignature",
    description="`v1=` and the HMAC-SHA256 of the body; several with commas between them.",
    auto_error=False,
)


async def signed(request: Request, given: Annotated[str | None, Security(signature)]) -> None:
    """Require PagerDuty's signature over the body. Raises `HTTPException` 401, or 503 while no secret is set."""
    secrets = os.environ.get(SECRETS, "").split()
    if not secrets:
        raise HTTPException(503, f"no signing secret of PagerDuty is set: give {SECRETS}", {"Retry-After": "60"})
    if not signed_by(await request.body(), given or "", secrets):
        raise HTTPException(401, "the signature in X-PagerDuty-Signature is missing or not PagerDuty's")


@router.post("/alerts/pagerduty", status_code=202, dependencies=[Depends(signed)])
async def pagerduty(posted: PagerDutyWebhook, request: Request) -> Accepted:
    """Take in a webhook v3 of PagerDuty. An event that neither begins nor ends anything counts 0."""
    signal = from_pagerduty(posted)
    if signal:
        await _inbox(request).keep([signal])
    return Accepted(alerts=1 if signal else 0)


@router.get("/receipts", dependencies=[Depends(person_of)])
def receipts(
    store: Kept,
    limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 50,
    incident: Annotated[str, Query(max_length=40)] = "",
) -> tuple[Receipt, ...]:
    """What became of the alerts, the newest first; with `incident` only that one's."""
    wanted = store.incident(incident).id if incident else ""
    return tuple(
        Receipt(
            id=row.id,
            source=row.source,
            name=row.name,
            firing=row.firing,
            received_at=row.received_at,
            seen_at=row.seen_at,
            times=row.times,
            went=row.went,
            why=row.why,
            incident=row.incident_id,
            left_out=row.truncated,
        )
        for row in store.receipts(incident_id=wanted, limit=limit)
    )


def _inbox(request: Request) -> Inbox:
    # No dependency: resolving one costs each alert of a storm more than looking here.
    return request.app.state.inbox  # type: ignore[no-any-return]


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(sender_of)])
def metrics(request: Request) -> Response:
    """This process' figures, and what waits in the store, for Prometheus."""
    return Response(generate_latest(request.app.state.figures.registry), media_type=CONTENT_TYPE_LATEST)
