"""The plan's steps and what became of them, as the store keeps them."""

from collections.abc import Mapping
from typing import Any

from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.domain.guardrails import hands_on
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
from tasks.case import Case, ranking

ANSWER = "approval:"


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
    answers = read_answers(store, incident_id)
    results = []
    steps = read_plan(store, incident_id).steps
    for step in (each for planned in steps for each in (planned, planned.undo())):
        answer = answers.get(step.id)
        if answer and answer["decision"] != "approve":
            why = f"{step.title} on {step.target}: {answer['by']} declined it: {answer['why']}"
            results.append(StepResult(step_id=step.id, state="refused", reason=why))
            continue
        tried, check = attempts.get(step.id), checks.get(step.id)
        if step.strategy == WAIT and check:
            tried = AttemptOutcome(attempt_id=None, state="skipped", reason=check.reason)
        if tried and (check or not needs_checking(tried)):
            results.append(step_result(step.id, tried, check))
    return tuple(results)


def _outcomes(store: Store, incident_id: str) -> tuple[dict[str, AttemptOutcome], dict[str, VerifyOutcome]]:
    """What the phases said of each step: the attempts and the checks, by the step's id."""
    attempts: dict[str, AttemptOutcome] = {}
    checks: dict[str, VerifyOutcome] = {}
    for phase in store.phases(incident_id):
        kind = phase.name.partition(":")[0]
        if phase.outcome and kind == Phase.MITIGATE:
            attempts |= Attempts.model_validate(phase.outcome).outcomes
        elif phase.outcome and kind == Phase.VERIFY:
            checks |= Checks.model_validate(phase.outcome).outcomes
    return attempts, checks


def needs_checking(attempt: AttemptOutcome) -> bool:
    """Whether fresh probes can say more about an attempt than it says itself."""
    return attempt.state in ("acted", "skipped", "unknown")


def what_next(case: Case, confirmation: ResolveOutcome | None) -> NextStep:
    """What comes next, decided by the domain from what the store has."""
    hosts = [host.name for host in case.profile.hosts]
    plan, answers = read_plan(case.store, case.id), read_answers(case.store, case.id)
    dossier = case.store.dossier(case.id)
    latest = take_sample(dossier, case.profile, now(), hosts)
    verdict = latest.verdict(excused_checks(case))
    ill = dict.fromkeys(reading.host for reading in latest.readings if reading.verdict != "healthy")
    return next_step(
        plan,
        read_results(case.store, case.id),
        verdict=verdict,
        confirmation=confirmation,
        hands=tuple(sign for host in ill for sign in hands_on(host, dossier)[0]),
        seen=latest.describe(verdict),
        at_once={name: strategy.at_once for name, strategy in case.profile.strategies.items()},
        unasked=frozenset(s.id for s in plan.steps if s.id not in answers and not _runs_alone(case, s)),
    )


def read_answers(store: Store, incident_id: str) -> dict[str, dict[str, Any]]:
    """What people answered about steps of the plan, by the step's id."""
    return store.records(incident_id, ANSWER)


def keep_answer(case: Case, step_id: str, answer: Mapping[str, Any]) -> None:
    """Keep a person's answer about a step: they are asked once."""
    case.store.keep_record(case.id, case.ref.epoch, f"{ANSWER}{step_id}", dict(answer))


def approved(case: Case, step: PlanStep) -> bool:
    """Whether a person has approved the step."""
    return read_answers(case.store, case.id).get(step.id, {}).get("decision") == "approve"


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
