"""Asking a person before a step that is not taken without one."""

import hashlib
from typing import Any

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run

from responder.domain import reports
from responder.domain.incident import WAITING_TO_APPROVE, IncidentRef, Severity
from responder.domain.notices import inline
from responder.domain.plan import PlanStep, steps_of
from responder.domain.shell import quote
from tasks.case import Case, open_case
from tasks.closing import PAUSE_LIMIT_S
from tasks.forms import ApprovalForm, Approving
from tasks.results import keep_answer, read_plan, read_results
from tasks.tell import ask_for_approval


async def ask_to_act(ref: IncidentRef, step: PlanStep) -> None:
    """Pause the run with a form until a person approves the step, declines it, or names another strategy.

    The answer is kept in the store: a run that was lost after it asks nobody twice. Nobody's silence is consent:
    the keeper declines at the clock's `approval_s`.
    """
    case = open_case(ref)
    strategy = case.profile.strategies[step.strategy]
    severity = Severity(case.row.severity or Severity.P1)
    shown = f"{step.strategy} on {step.target}? {step.why}"
    case.store.keep_record(case.id, ref.epoch, "asking", {"step": step.id})
    case.step(WAITING_TO_APPROVE, deadline_s=case.profile.clock.approval_s)
    case.store.update_incident(case.id, ref.epoch, reason=f"{WAITING_TO_APPROVE}: {shown}")
    case.store.decide(
        case.id, who="responder", what=f"asks a person: {step.strategy} on {step.target}", why=step.why
    )
    ask_for_approval(case, shown, key=step.id)
    plan = reports.plan(read_plan(case.store, case.id), read_results(case.store, case.id))
    form = ApprovalForm.with_initial_data(
        description=f"**{severity.value} {case.row.service}: {inline(shown)}**\n\n"
        f"Command: `{inline(quote(strategy.command))}` on {inline(step.runs_on)}\n\n"
        f"Instead: {', '.join(name for name in case.profile.strategies if name != step.strategy)}\n\n{plan}"
    )
    given: dict[str, Any]
    try:
        answer = await apause_flow_run(
            wait_for_input=form, timeout=PAUSE_LIMIT_S, poll_interval=1, key=_key(case, step)
        )
        given = {
            "decision": answer.decision.value,
            "by": answer.by,
            "why": answer.why or "no reason given",
            "strategy": answer.strategy.strip().lower(),
        }
    except FlowPauseTimeout:
        given = {"decision": "decline", "by": "nobody", "why": "no answer within a week", "strategy": ""}
    if given["decision"] == Approving.ANOTHER.value:
        given["why"] = _another(case, step, given)
    keep_answer(case, step.id, given)
    case.store.decide(case.id, who=given["by"], what=f"answered: {given['decision']}, {step.id}", why=given["why"])


def _another(case: Case, step: PlanStep, given: dict[str, Any]) -> str:
    """Put the strategy that the person named into the plan, approved by them; returns what came of it."""
    name = given["strategy"]
    chosen = case.profile.strategies.get(name)
    if chosen is None or name == step.strategy:
        return f"{given['why']}; {name or 'nothing'} is no other strategy of the profile"
    hosts = [host.name for host in case.profile.hosts]
    why = f"{given['by']} chose it instead of {step.strategy}"
    others = steps_of(name, chosen, sorted(step.cures), hosts, why)
    done = {result.step_id for result in read_results(case.store, case.id)}
    others = [each for each in others if each.id not in done]
    for each in others:
        answer = {"decision": Approving.APPROVE.value, "by": given["by"], "why": given["why"], "strategy": name}
        keep_answer(case, each.id, answer)
    plan = read_plan(case.store, case.id).instead(step, others)
    case.store.keep_record(case.id, case.ref.epoch, "plan", plan.model_dump(mode="json"))
    return f"{given['why']}; {name} instead" if others else f"{given['why']}; {name} was tried already"


def _key(case: Case, step: PlanStep) -> str:
    """The pause's key: the same question is asked once, and another profile makes it another question."""
    asked = (step.hypothesis, step.id, case.profile.model_dump_json())
    return f"approve-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}"
