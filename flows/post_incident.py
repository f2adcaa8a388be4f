"""Phase 5, post-incident (24-48 hours): the post-mortem drafted at once, its review scheduled, tickets filed."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from responder.domain.incident import Ending, IncidentRef, PostIncidentOutcome
from tasks.case import open_case
from tasks.postmortem import needs_follow_up, remind, schedule, write_postmortem
from tasks.tell import file_follow_ups


@flow(name="post-incident-draft", flow_run_name="post_incident", validate_parameters=False)
async def draft_postmortem(ref: IncidentRef, ending: Ending) -> PostIncidentOutcome:
    """Write down what is known, name what only people know, schedule the review, and file what is to be done."""
    case = open_case(ref)
    drafted = write_postmortem(case, ending)
    schedule(case, drafted)
    if needs_follow_up(ending):
        file_follow_ups(case)
    return drafted


@flow(name="post_incident", flow_run_name="post_incident {incident_id}")
async def post_incident(
    incident_id: Annotated[str, Field(examples=["aba3d199952b"])],
) -> PostIncidentOutcome:
    """Draft the post-mortem of an incident anew, and remind of the blanks that only people can fill.

    Args:
        incident_id: Id of the incident, like `aba3d199952b`; `incident list` shows them.
    """
    return remind(incident_id)
