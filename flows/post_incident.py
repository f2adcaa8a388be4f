"""Phase 5, post-incident (24-48 hours): the post-mortem drafted at once, its review scheduled."""

from prefect import flow

from responder.domain.incident import Ending, IncidentRef, PostIncidentOutcome
from tasks.case import open_case
from tasks.postmortem import remind, schedule, write_postmortem


@flow(name="post-incident-draft", flow_run_name="post_incident", validate_parameters=False)
async def draft_postmortem(ref: IncidentRef, ending: Ending) -> PostIncidentOutcome:
    """Write down what is known, name what only people know, and schedule the review."""
    case = open_case(ref)
    drafted = write_postmortem(case, ending)
    schedule(case, drafted)
    return drafted


@flow(name="post_incident", flow_run_name="post_incident {incident_id}")
async def post_incident(
    incident_id: str,
) -> PostIncidentOutcome:
    """Draft the post-mortem of an incident anew, and remind of the blanks that only people can fill.

    Args:
        incident_id: Id of the incident, as `incident list` shows it.
    """
    return remind(incident_id)
