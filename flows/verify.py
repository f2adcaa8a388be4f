"""Phase 3, step 3, verify mitigation: fresh probes, held over a window. Exit status 0 proves nothing."""

from prefect import flow

from responder.domain.incident import IncidentRef, VerifyOutcome
from tasks.case import open_case
from tasks.hold import observe, show_check, verify_step
from tasks.results import step_of


@flow(name="verify-attempt", flow_run_name="verify: {step_id}", validate_parameters=False)
async def verify_attempt(ref: IncidentRef, step_id: str) -> VerifyOutcome:
    """Whether what was done on the target holds; for the strategy `wait`, what became of it meanwhile."""
    case = open_case(ref)
    step = step_of(case, step_id)
    clock = case.profile.clock
    if step.strategy == "wait":
        case.step("wait and watch", deadline_s=clock.observe_s + clock.step_s)
        return observe(case, step)
    case.step(f"verify {step.target}", deadline_s=clock.settle_s + clock.verify_window_s + clock.step_s)
    return verify_step(case, step)


@flow(name="verify", flow_run_name="verify {service}")
async def verify(
    service: str,
) -> VerifyOutcome:
    """Check a service with fresh probes over its window, without an incident. Reads only, changes nothing.

    Args:
        service: Name of a saved service, like `veloz`.
    """
    return show_check(service)
