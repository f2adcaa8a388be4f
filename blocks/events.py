"""The incidents' events on Prefect's bus: what people hang automations on.

Source: https://docs.prefect.io/v3/concepts/events
"""

from typing import Literal
from uuid import NAMESPACE_URL, uuid5

from prefect.events import emit_event

Event = Literal["opened", "severity_changed", "mitigated", "escalated", "resolved"]


def emit(event: Event, *, incident_id: str, service: str, key: str = "", **payload: str | None) -> None:
    """Emit `incident.EVENT`; the same one of an incident (and `key`) has the same id, however often it is said.

    Its resource is `incident.ID`, its payload names the incident and the service; nothing is raised when Prefect
    does not answer.
    """
    name = f"incident.{event}"
    emit_event(
        event=name,
        resource={"prefect.resource.id": f"incident.{incident_id}", "incident.service": service},
        payload={"incident": incident_id, "service": service} | payload,
        id=uuid5(NAMESPACE_URL, f"{incident_id}:{name}:{key}"),
    )
