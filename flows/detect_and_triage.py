"""Phase 1, detection and triage (0-5 minutes): acknowledge, assess, decide the severity, tell people."""

from prefect import flow

from responder.domain.incident import IncidentRef, TriageOutcome
from tasks.assess import assess
from tasks.case import first_alert, open_case
from tasks.look import look_everywhere
from tasks.publish import impact
from tasks.tell import acknowledge, start_incident


@flow(name="detect_and_triage", flow_run_name="detect_and_triage", validate_parameters=False)
async def detect_and_triage(ref: IncidentRef) -> TriageOutcome:
    """Acknowledge the page, look at the service, decide how bad it is and begin to tell people."""
    case = open_case(ref)
    case.step("triage", deadline_s=case.profile.clock.step_s)
    acknowledge(case)
    case.keep("detect_and_triage", look_everywhere(case.profile, case.ssh, "triage", first_alert(case)))
    triage = assess(case)
    if triage.ending is None:
        start_incident(case, impact(case))
    return triage
