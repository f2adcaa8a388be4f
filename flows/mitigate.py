"""Phase 3, mitigation (15-30 minutes): one attempt of one strategy on one target, under the guardrails."""

from prefect import flow

from responder.domain.incident import AttemptOutcome, IncidentRef
from tasks.attempt import carry_out
from tasks.case import open_case
from tasks.publish import impact
from tasks.results import step_of
from tasks.tell import post_progress


@flow(name="mitigate", flow_run_name="mitigate: {step_id}", validate_parameters=False)
async def mitigate(ref: IncidentRef, step_id: str) -> AttemptOutcome:
    """Carry out one step of the plan, at most once whatever crashes, and say what came of it."""
    case = open_case(ref)
    step = step_of(case, step_id)
    case.step(f"{step.strategy} on {step.target}", deadline_s=case.profile.action_deadline_s(step.strategy))
    attempt = carry_out(case, step)
    said = f"{step.strategy} on {step.target}: {attempt.reason}"
    post_progress(
        case,
        said,
        impact(case),
        key=f"mitigate-{step_id}",
        status="Mitigating",
        verifying=attempt.state in ("acted", "skipped"),
    )
    return attempt
