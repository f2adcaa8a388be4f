"""Phase 3, step 3, verify mitigation: fresh probes, held over a window. Exit status 0 proves nothing."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.phases import wave_name
from responder.domain.incident import Checks, IncidentRef, VerifyOutcome
from responder.domain.strategies import WAIT
from tasks.case import open_case
from tasks.hold import observe, show_check, verify_step
from tasks.results import step_of
from tasks.wave import at_once


@flow(name="verify-attempt", flow_run_name=wave_name, validate_parameters=False)
async def verify_attempt(ref: IncidentRef, step_ids: list[str]) -> Checks:
    """Whether what was done on each target holds; for the strategy `wait`, what became of it meanwhile."""
    case = open_case(ref)
    steps = [step_of(case, step_id) for step_id in step_ids]
    clock = case.profile.clock
    if steps[0].strategy == WAIT:
        what, why = f"waits {clock.observe_s:g} s and watches", steps[0].why
        case.store.decide(case.id, who="responder", what=what, why=why)
        case.step("wait and watch", deadline_s=clock.observe_s + clock.step_s)
        return Checks.of(at_once(observe, case, steps))
    targets = ", ".join(step.target for step in steps)
    case.step(f"verify {targets}", deadline_s=clock.settle_s + clock.verify_window_s + clock.step_s)
    return Checks.of(at_once(verify_step, case, steps))


@flow(name="verify", flow_run_name="verify {service}")
async def verify(
    service: Annotated[str, Field(examples=["veloz"])],
) -> VerifyOutcome:
    """Check a service with fresh probes over its window, without an incident. Reads only, changes nothing.

    Args:
        service: Name of a saved service, like `veloz`; `incident service list` shows them.
    """
    return show_check(service)
