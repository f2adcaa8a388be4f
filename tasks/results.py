"""The plan's steps and what became of them, as the store keeps them."""

from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.domain.guardrails import hands_on
from responder.domain.incident import AttemptOutcome, ResolveOutcome, VerifyOutcome
from responder.domain.plan import NextStep, Plan, PlanStep, StepResult, next_step, step_result
from responder.domain.verification import take_sample
from responder.store import Store
from tasks.case import Case, ranking


def read_plan(store: Store, incident_id: str) -> Plan:
    """The plan as the diagnosis left it; an empty one before."""
    return Plan.model_validate(store.record(incident_id, "plan") or {})


def step_of(case: Case, step_id: str) -> PlanStep:
    """The plan's step of that id. Raises `PermanentError`."""
    for step in read_plan(case.store, case.id).steps:
        if step.id == step_id:
            return step
    raise PermanentError(f"the plan of incident {case.id} has no step {step_id!r}")


def read_results(store: Store, incident_id: str) -> tuple[StepResult, ...]:
    """What became of the plan's steps so far, from the outcomes of their phases."""
    outcomes = {phase.name: phase.outcome for phase in store.phases(incident_id) if phase.outcome}
    results = []
    for step in read_plan(store, incident_id).steps:
        tried, checked = outcomes.get(f"mitigate:{step.id}"), outcomes.get(f"verify:{step.id}")
        check = VerifyOutcome.model_validate(checked) if checked else None
        if step.strategy == "wait" and check:
            tried = {"attempt_id": None, "state": "skipped", "reason": check.reason}
        if tried and (check or not needs_checking(AttemptOutcome.model_validate(tried))):
            results.append(step_result(step.id, AttemptOutcome.model_validate(tried), check))
    return tuple(results)


def needs_checking(attempt: AttemptOutcome) -> bool:
    """Whether fresh probes can say more about an attempt than it says itself."""
    return attempt.state in ("acted", "skipped", "unknown")


def what_next(case: Case, confirmation: ResolveOutcome | None) -> NextStep:
    """What comes next, decided by the domain from what the store has."""
    hosts = [host.name for host in case.profile.hosts]
    dossier = case.store.dossier(case.id)
    latest = take_sample(dossier, case.profile, now(), hosts)
    verdict = latest.verdict(excused_checks(case))
    ill = dict.fromkeys(reading.host for reading in latest.readings if reading.verdict != "healthy")
    return next_step(
        read_plan(case.store, case.id),
        read_results(case.store, case.id),
        verdict=verdict,
        confirmation=confirmation,
        hands=tuple(sign for host in ill for sign in hands_on(host, dossier)[0]),
        seen=latest.describe(verdict),
    )


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
