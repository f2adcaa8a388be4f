"""Before an attempt: a fresh look, the precondition, the guardrails, and whether a person has said yes to it."""

import time
from dataclasses import dataclass

from responder.domain.approval import Decision, Question, question_of
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError, TransientError
from responder.domain.escaping import bound
from responder.domain.evidence import Dossier, Evidence
from responder.domain.guardrails import HANDS_RULE, Refusal, Situation, hands_on, refusal, taken_over
from responder.domain.incident import AttemptOutcome, Kind, Phase, Severity, lowest_mode
from responder.domain.plan import PlanStep
from responder.domain.profile import Host
from responder.domain.readings import Snapshot
from responder.domain.redaction import redact
from responder.domain.shell import quote
from responder.domain.strategies import Strategy, Target
from responder.domain.verification import healthy_again, take_sample
from responder.store.people import Asked
from responder.store.tables import AttemptRow
from tasks.case import Case, first_alert
from tasks.probes import Look

LOOK_TRIES = 3
PAUSE_S = 1.0
LONGEST_START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Admitted:
    """What may be done now: the argument list, and what the host showed before."""

    command: tuple[str, ...]
    before: Snapshot


def await_start_limit(case: Case, host: Host) -> None:
    """Wait while systemd refuses every start: the one attempt must not be spent on the refusal."""
    seen = case.store.dossier(case.id).on(host.name, "unit.start_barred_s")
    left_s = seen.value - (now() - seen.at).total_seconds() if seen and seen.value else 0.0
    if left_s > 0:
        left_s = min(left_s, LONGEST_START_LIMIT_S) + PAUSE_S
        why = f"the unit on {host.name} has used up its start limit"
        case.store.decide(case.id, who="responder", what=f"wait {left_s:.0f} s", why=why)
        time.sleep(left_s)


def look_first(case: Case, step: PlanStep) -> Dossier | AttemptOutcome:
    """The precondition and the snapshot, from connections made now; a passing fault is tried again.

    An outcome means that nothing is to be done: healthy again, no way to look, or the precondition does not hold.
    """
    strategy = case.profile.strategies.get(step.strategy)
    hosts = list(dict.fromkeys((step.runs_on, *sorted(step.cures))))
    metrics_of = ill_metrics(case)
    seen: list[Evidence] = []
    for host in map(case.host, hosts):
        for number in range(LOOK_TRIES):
            try:
                seen += _snapshot(case, step, host, rates=host.name in metrics_of)
                break
            except IncidentResponseError as error:
                if not isinstance(error, TransientError) or number + 1 == LOOK_TRIES:
                    reason = f"{step.title} on {step.target} was not begun: {error}"
                    return AttemptOutcome(attempt_id=None, state="failed", reason=reason)
                time.sleep(PAUSE_S)
    dossier = case.keep(Phase.MITIGATE, seen)
    sample = take_sample(Dossier(evidence=tuple(seen)), case.profile, now(), sorted(step.cures))
    if step.undoes is None and healthy_again(sample, metrics_of=metrics_of):
        reason = f"{', '.join(sorted(step.cures))} healthy again, nothing is left to do"
        return AttemptOutcome(attempt_id=None, state="skipped", reason=reason)
    problem = strategy.problem(dossier, target_of(step)) if strategy and step.undoes is None else None
    if problem:
        remedy = f"Look why, and {step.strategy} by hand if it is right."
        return refused(case, step, Refusal(rule="precondition", reason=problem, remedy=remedy))
    return dossier


def ill_metrics(case: Case) -> frozenset[str]:
    """The hosts whose error rate or latency is what is ill: when diagnosed, or when last read."""
    diagnosed = case.store.dossier(case.id, phases=(Phase.TRIAGE, Phase.DIAGNOSE))
    read = (*diagnosed.of("metrics.verdict"), *case.store.dossier(case.id).of("metrics.verdict"))
    return frozenset(evidence.host for evidence in read if evidence.value == "unhealthy")


def _snapshot(case: Case, step: PlanStep, host: Host, *, rates: bool) -> tuple[Evidence, ...]:
    with Look(case.profile, case.ssh, host) as look:
        main_pid = look.unit()
        if rates:
            look.two_scrapes(look.endpoints)
        else:
            look.endpoints()
        look.hands(main_pid, first_alert(case))
        look.release()
        if host.name == step.runs_on:
            look.strategies(step.strategy)
        if step.capture and main_pid:
            look.capture(main_pid, case.folder)
        save_orders(case, look, "before")
        return look.evidence


def save_orders(case: Case, look: Look, when: str) -> str | None:
    """Keep the order table as a file `orders-WHEN-HOST.json`; None where it cannot be read.

    A restart empties it: what was open before must be reconciled by people.
    """
    reply = look.replies.get("orders")
    if reply is None or reply.failure is not None or reply.status != 200:
        return None
    path = case.folder / f"orders-{when}-{look.host.name}.json"
    path.write_text(redact(reply.body))
    return path.read_text()


def admit(case: Case, step: PlanStep, looked: Dossier, attempt: AttemptRow | None) -> Admitted | AttemptOutcome:
    """Whether the step may be taken now: every guardrail, the command, the mode, and the person's yes."""
    strategy = case.profile.strategies.get(step.strategy)
    asked = questions_about(case, step)
    yes = is_approved(case, step, looked)
    refusing = refusal(step.strategy, strategy, step.target, _situation(case, step, looked, attempt, approved=yes))
    if refusing:
        if refusing.rule == "strategy by severity" and asked and attempt is None:
            reason = f"what a person was asked about {step.title} on {step.target} has changed: asked again"
            return AttemptOutcome(attempt_id=None, state="ask_again", reason=reason)
        return refused(case, step, refusing)
    assert strategy is not None
    command = _command(case, step, strategy, looked)
    if isinstance(command, str):
        return AttemptOutcome(attempt_id=None, state="failed", reason=f"{step.title} on {step.target}: {command}")
    mode = lowest_mode(case.ref.mode, case.profile.mode, strategy.mode)
    if not mode.acts:
        shown = f"{quote(command)} on {case.host(step.runs_on).name}"
        if case.ref.mode.acts:  # nobody asked for a rehearsal: the service is down and a person must act
            reason = f"the profile allows {step.strategy} as {mode.value} only"
            return refused(case, step, Refusal(rule="mode", reason=reason, remedy=f"Run by hand: {shown}."))
        first = "" if Severity(case.row.severity or Severity.P1) in strategy.severities else "ask a person, then "
        return AttemptOutcome(attempt_id=None, state="rehearsed", reason=f"would {first}run: {shown}")
    before = Snapshot.of(looked, step.runs_on, now(), strategy=step.strategy)
    return Admitted(command=command, before=before)


def question_about(case: Case, step: PlanStep, seen: Dossier) -> Question | None:
    """What people are asked before the step, as things are in `seen`; None: the profile lacks the strategy."""
    strategy = case.profile.strategies.get(step.strategy)
    if strategy is None:
        return None
    names = [host.name for host in case.profile.hosts]
    ill = {r.host for r in take_sample(seen, case.profile, now(), names).readings if r.verdict != "healthy"}
    return question_of(
        case.id,
        step,
        strategy,
        round=case.row.rounds,
        command=strategy.described(seen, target_of(step)),
        profile=case.profile,
        seen=seen,
        healthy=[name for name in names if name not in ill],
    )


def questions_about(case: Case, step: PlanStep) -> tuple[Asked, ...]:
    """What people were asked about the step since the incident was last given back, the newest last."""
    asked = case.store.questions(case.id)
    return tuple(a for a in asked if (a.question.step_id, a.question.round) == (step.id, case.row.rounds))


def is_approved(case: Case, step: PlanStep, seen: Dossier) -> bool:
    """Whether people have said yes to exactly what the step would do, as things are in `seen`."""
    asked = questions_about(case, step)
    if not asked:
        return False
    question = question_about(case, step, seen)
    answers = [each.decided for each in asked if question and each.question.digest == question.digest]
    return any(answer is not None and answer.decision is Decision.APPROVE for answer in answers)


def _command(case: Case, step: PlanStep, strategy: Strategy, looked: Dossier) -> tuple[str, ...] | str:
    """The argument list of the action or of its undo, or why there is none."""
    if step.undoes is None:
        return strategy.action(looked, target_of(step))
    before = snapshot_before(case, step)
    return (before and strategy.undo(before)) or "what was before is not known, so it cannot be brought back"


def target_of(step: PlanStep) -> Target:
    """What the step acts on."""
    return Target(name=step.target, host=step.runs_on)


def attempt_of(case: Case, step_id: str) -> AttemptRow | None:
    """The incident's attempt of that step, as the store has it now."""
    return next((row for row in case.store.attempts(case.id) if row.step_id == step_id), None)


def snapshot_before(case: Case, step: PlanStep) -> Snapshot | None:
    """What was seen before the step was begun; for an undo, before what it takes back."""
    attempt = attempt_of(case, step.undoes or step.id)
    return Snapshot.model_validate(attempt.snapshot) if attempt else None


def _situation(
    case: Case, step: PlanStep, looked: Dossier, attempt: AttemptRow | None, *, approved: bool
) -> Situation:
    row = case.row
    hands, unknown = hands_on(case.host(step.runs_on).name, looked)
    if row.acknowledged_by:
        hands = (*hands, f"{row.acknowledged_by} has acknowledged the page")
    if row.taken_by:
        hands = (taken_over(row.taken_by), *hands)
    return Situation(
        now=now(),
        kind=Kind(row.kind),
        severity=Severity(row.severity or Severity.P1),
        mode=case.ref.mode,
        incident_id=case.id,
        stopped=case.store.stopped(),
        window=case.profile.window_at(now()),
        clock_jump=case.store.clock_jump(),
        security_incident=case.store.open_security_incident(row.service),
        hands=hands,
        hands_unknown=unknown,
        past=case.store.past_attempts(row.service, besides=attempt.id if attempt else None),
        overall=case.profile.guardrails.budget,
        approved=approved,
        undoes=step.undoes is not None,
    )


def refused(case: Case, step: PlanStep, refusing: Refusal) -> AttemptOutcome:
    """The outcome of a refusal, which is put on record."""
    what = f"refused {step.title} on {step.target}"
    case.store.decide(case.id, who=f"guardrail: {refusing.rule}", what=what, why=str(refusing))
    return AttemptOutcome(
        attempt_id=None,
        state="taken_over" if refusing.rule == HANDS_RULE else "refused",
        reason=bound(f"{step.title} on {step.target} is refused: {refusing}", 2_000),
    )
