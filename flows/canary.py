"""The canary: an alert about nothing, sent by schedule, that goes the whole way and says how long it took."""

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from tasks.canary import await_end, await_incident, canary_state, end_canary, send_canary


@flow(name="canary", flow_run_name="canary of {service}")
async def canary(
    service: Annotated[str, Field(examples=["lab"])],
    within_s: Annotated[float, Field(gt=0, le=3_600)] = 300,
) -> State[Any]:
    """Send an alert about nothing to the HTTP door, and follow it until its incident has ended.

    The run fails where anything on the way is broken, or takes too long. Use a service of the lab, or one in dry
    run: for some seconds its open incident is the canary's.

    Args:
        service: Name of a saved service; its profile should call alerts named `IncidentCanary` a P4.
        within_s: Seconds until the incident must have ended.
    """
    sent, accepted_s = send_canary(service)
    incident_id = await_incident(sent, within_s)
    end_canary(sent)
    return canary_state(await_end(sent, accepted_s, incident_id, within_s))
