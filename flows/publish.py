"""Publishing a text for customers that waits for a person (document, phase 4, step 4: "Update status page")."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.tell import publish_draft


@flow(name="publish", flow_run_name="publish for {incident_id}")
async def publish(
    incident_id: Annotated[str, Field(examples=["aba3d199952b"])],
    by: Annotated[str, Field(min_length=2, examples=["Robin"])],
    message: Annotated[int | None, Field(examples=[17])] = None,
) -> str:
    """Publish the draft that the artifact `status-page` of an incident's run shows; the keeper sends it, once.

    Args:
        incident_id: Id of the incident, like `aba3d199952b`; `incident list` shows them.
        by: Your name, for the record.
        message: Number of the draft, as `incident show` has it; the newest if left out.
    """
    return publish_draft(incident_id, by, message)
