"""Phase 3, mitigation (15-30 minutes): a strategy on each target of a wave, once, under the guardrails."""

from prefect import flow

from flows.phases import wave_name
from responder.domain.incident import Attempts, IncidentRef
from tasks.attempt import carry_out
from tasks.case import open_case
from tasks.publish import impact
from tasks.results import step_of
from tasks.tell import post_progress
from tasks.wave import at_once


@flow(name="mitigate", flow_run_name=wave_name, validate_parameters=False)
async def mitigate(ref: IncidentRef, step_ids: list[str]) -> Attempts:
    """Carry out steps of the plan, each at most once whatever crashes, and say what came of them."""
    case = open_case(ref)
    steps = [step_of(case, step_id) for step_id in step_ids]
    what = ", ".join(f"{step.strategy} on {step.target}" for step in steps)
    case.step(what, deadline_s=max(case.profile.action_deadline_s(step.strategy) for step in steps))
    attempts = Attempts.of(at_once(carry_out, case, steps))
    post_progress(
        case,
        f"{what}: {attempts.reason}",
        impact(case),
        key=f"mitigate-{step_ids[0]}",
        status="Mitigating",
        verifying=any(attempt.state in ("acted", "skipped") for attempt in attempts.outcomes.values()),
    )
    return attempts
