"""Phase 2, diagnosis (5-15 minutes): gather information, find the scope, form hypotheses, tell people."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from responder.domain.incident import DiagnosisOutcome, IncidentRef, Phase
from tasks.case import first_alert, open_case
from tasks.hypothesise import hypothesise, show_diagnosis
from tasks.look import look_everywhere
from tasks.publish import impact
from tasks.tell import call_for_part, post_progress


@flow(name="diagnose-incident", flow_run_name="diagnose", validate_parameters=False)
async def diagnose_incident(ref: IncidentRef) -> DiagnosisOutcome:
    """Look at every host in parallel, judge each hypothesis, plan, and post what was found."""
    case = open_case(ref)
    case.step("diagnosis", deadline_s=case.profile.clock.step_s)
    case.keep(
        Phase.DIAGNOSE,
        look_everywhere(case.profile, case.ssh, "diagnosis", first_alert(case), keep_in=case.folder),
    )
    diagnosis = hypothesise(case)
    status = "Identified" if diagnosis.leading else "Investigating"
    post_progress(case, diagnosis.progress, impact(case), key="diagnosis", status=status)
    if diagnosis.part:
        call_for_part(case, diagnosis.part)
    return diagnosis


@flow(name="diagnose", flow_run_name="diagnose {service}")
async def diagnose(
    service: Annotated[str, Field(examples=["veloz"])],
) -> DiagnosisOutcome:
    """Look at a service and rank the hypotheses, without an incident. Reads only, changes nothing.

    Args:
        service: Name of a saved service, like `veloz`; `incident service list` shows them.
    """
    return show_diagnosis(service)
