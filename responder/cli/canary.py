"""What the canary needs: a token for the HTTP door, and beside a lab a schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from pydantic import SecretStr

from responder.store import Store

DEPLOYMENT, SLUG = "canary/canary", "lab"
EVERY = timedelta(hours=1)
"""Longer than an alert takes that fires again to be the same incident."""


@contextmanager
def kept_canary(store: Store, receiver_url: str, lab: str | None) -> Iterator[None]:
    """Save the canary's way in, with a token that holds for so long; send it by schedule to the lab's service."""
    from blocks.receiver import CANARY, Receiver

    row, token = store.add_token("canary", sends_alerts=True)
    try:
        Receiver(url=receiver_url, token=SecretStr(token)).save(CANARY, overwrite=True)
        _schedule(lab)
        yield
    finally:
        store.revoke_token(row.id)


def _schedule(service: str | None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        for known in client.read_deployment_schedules(deployment.id):
            if known.slug == SLUG:
                client.delete_deployment_schedule(deployment.id, known.id)
        if service:
            made = DeploymentScheduleCreate(
                slug=SLUG, schedule=IntervalSchedule(interval=EVERY), active=True, parameters={"service": service}
            )
            client.create_deployment_schedules(deployment.id, [made])
