"""The plan's steps and what became of them, as the store keeps them."""

from responder.domain.approval import DEADLINE, Answer, Decision
from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.domain.guardrails import hands_on, taken_over
from responder.domain.incident import (
    AttemptOutcome,
    Attempts,
    Checks,
    Phase,
    ResolveOutcome,
    Severity,
    VerifyOutcome,
    lowest_mode,
)
from responder.domain.plan import NextStep, Plan, PlanStep, StepResult, next_step, step_result
from responder.domain.strategies import WAIT
from responder.domain.verification import take_sample
from responder.store import Store
from tasks.admission import is_approved, question_about
from tasks.case import Case, ranking


def read_plan(store: Store, incident_id: str) -> Plan:
    """The plan as the diagnosis left it; an empty one before."""
    return Plan.model_validate(store.record(incident_id, "plan") or {})


def step_of(case: Case, step_id: str) -> PlanStep:
    """The plan's step of that id. Raises `PermanentError`."""
    step = read_plan(case.store, case.id).step(step_id)
    if step is None:
        raise PermanentError(f"the plan of incident {case.id} has no step {step_id!r}")
    return step


def read_results(store: Store, incident_id: str) -> tuple[StepResult, ...]:
    """What became of the plan's steps so far, from the outcomes of their phases."""
    attempts, checks = _outcomes(store, incident_id)
    answers = _answers(store, incident_id)
    results = []
    steps = read_plan(store, incident_id).steps
    for step in (each for planned in steps for each in (planned, planned.undo())):
        answer = answers.get(step.id)
        tried, check = attempts.get(step.id), checks.get(step.id)
        if answer and answer.decision is not Decision.APPROVE:
            what = f"{step.title} on {step.target}"
            if answer.by == DEADLINE:
                results.append(StepResult(step_id=step.id, state="unanswered", reason=f"{what}: {answer.why}"))
            else:
                why = f"{what}: {answer.by} declined it: {answer.why or 'no reason given'}"
                results.append(StepResult(step_id=step.id, state="refused", reason=why))
            continue
        if step.strategy == WAIT and check:
            tried = AttemptOutcome(attempt_id=None, state="skipped", reason=check.reason)
        if tried and tried.state != "ask_again" and (check or not needs_checking(tried)):
            results.append(step_result(step.id, tried, check))
    return tuple(results)


def _outcomes(store: Store, incident_id: str) -> tuple[dict[str, AttemptOutcome], dict[str, VerifyOutcome]]:
    """What the phases said of each step: the attempts and the checks, by the step's id."""
    attempts: dict[str, AttemptOutcome] = {}
    checks: dict[str, VerifyOutcome] = {}
    for phase in store.phases(incident_id):
        if phase.outcome and phase.kind == Phase.MITIGATE:
            attempts |= Attempts.model_validate(phase.outcome).outcomes
        elif phase.outcome and phase.kind == Phase.VERIFY:
            checks |= Checks.model_validate(phase.outcome).outcomes
    return attempts, checks


def needs_checking(attempt: AttemptOutcome) -> bool:
    """Whether fresh probes can say more about an attempt than it says itself."""
    return attempt.state in ("acted", "skipped", "unknown")


def what_next(case: Case, confirmation: ResolveOutcome | None) -> NextStep:
    """What comes next, decided by the domain from what the store has."""
    hosts = [host.name for host in case.profile.hosts]
    row = case.row
    if row.taken_by:
        return NextStep(do="stand_back", reason=taken_over(row.taken_by))
    if row.anew:
        return NextStep(do="begin_anew", reason=row.anew)
    plan = read_plan(case.store, case.id)
    dossier = case.store.dossier(case.id)
    latest = take_sample(dossier, case.profile, now(), hosts)
    verdict = latest.verdict(excused_checks(case))
    ill = dict.fromkeys(reading.host for reading in latest.readings if reading.verdict != "healthy")
    following = next_step(
        plan,
        read_results(case.store, case.id),
        verdict=verdict,
        confirmation=confirmation,
        hands=tuple(sign for host in ill for sign in hands_on(host, dossier)[0]),
        seen=latest.describe(verdict),
        at_once={name: strategy.at_once for name, strategy in case.profile.strategies.items()},
        stopped=_alerts_stopped(case),
        unasked=frozenset(
            s.id for s in plan.steps if not _runs_alone(case, s) and not is_approved(case, s, dossier)
        ),
    )
    if following.do != "act" or not following.step or _runs_alone(case, following.step):
        return following
    question = question_about(case, following.step, dossier)
    return following.model_copy(update={"approval": question.digest if question else ""})


def _alerts_stopped(case: Case) -> bool:
    """Whether all alerts have stopped, and the service was not looked at because of that yet."""
    alerts = case.store.alerts(case.id)
    looked = any(
        phase.name.startswith(f"{Phase.RESOLVE}:") and phase.outcome for phase in case.store.phases(case.id)
    )
    return bool(alerts) and all(alert.ends_at for alert in alerts) and not looked


def _answers(store: Store, incident_id: str) -> dict[str, Answer]:
    """What people decided since the incident was last given back, by the step's id; the latest word counts."""
    rounds = store.incident(incident_id).rounds
    asked = [each for each in store.questions(incident_id) if each.question.round == rounds]
    return {each.question.step_id: answer for each in asked if (answer := each.decided)}


def _runs_alone(case: Case, step: PlanStep) -> bool:
    """Whether nobody need be asked before the step at this severity."""
    strategy = case.profile.strategies.get(step.strategy)
    if strategy is None or Severity(case.row.severity or Severity.P1) in strategy.severities:
        return True
    # In a dry run nobody is asked; where the profile lets it only be rehearsed, there is nothing to approve.
    return not lowest_mode(case.ref.mode, case.profile.mode, strategy.mode).acts


def excused_checks(case: Case) -> frozenset[tuple[str, str]]:
    """(host, check) whose silence proves nothing: silent before the fault, or explained by a hypothesis."""
    explained = {
        (host, check)
        for judgement in ranking(case)
        if judgement.standing == "supported"
        for host in judgement.hosts
        for check in judgement.hypothesis.explains
    }
    return case.store.known_unknowns(case.profile.name) | explained
