"""Phase 4, resolution (30+ minutes): confirm that the service is restored, over the profile's window."""

from prefect import flow

from responder.domain.incident import IncidentRef, ResolveOutcome
from tasks.case import open_case
from tasks.hold import await_alert, confirm
from tasks.results import excused_checks, read_results


@flow(name="resolve", flow_run_name="resolve", validate_parameters=False)
async def resolve(ref: IncidentRef) -> ResolveOutcome:
    """All health checks pass, error rates are back to normal, latency is within the SLA: over the window."""
    case = open_case(ref)
    clock = case.profile.clock
    case.step("confirm that the service is restored", deadline_s=clock.confirm_deadline_s + clock.step_s)
    resolution = confirm(case, excused_checks(case))
    untouched = not read_results(case.store, case.id)
    if resolution.state == "confirmed" and untouched and case.store.alerts(case.id):
        case.step("wait for the alert to stop", deadline_s=clock.observe_s + clock.step_s)
        await_alert(case)
    return resolution
