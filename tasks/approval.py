"""Asking a person before a step that is not taken without one."""

from datetime import timedelta

from prefect.exceptions import FlowPauseTimeout

from responder.domain import reports
from responder.domain.approval import DEADLINE, Answer, Decision, Question, counts, in_words, still_needed
from responder.domain.base import now
from responder.domain.incident import WAITING_TO_APPROVE, Approvers, IncidentRef, Severity
from responder.domain.notices import inline
from responder.domain.plan import PlanStep, steps_of
from responder.domain.shell import quote
from responder.store.people import Asked
from tasks.admission import question_about, questions_about
from tasks.case import Case, open_case
from tasks.forms import ApprovalForm, answer_to
from tasks.results import read_plan, read_results
from tasks.tell import ask_for_approval

MOST_QUESTIONS = 3


async def ask_to_act(ref: IncidentRef, step: PlanStep) -> None:
    """Pause the run with a form until people have approved the step, declined it, or named another strategy.

    The store decides, whichever door an answer comes in by: the form, the command line, or HTTP. A run that was
    lost after the answer asks nobody twice. Nobody's silence is consent: the keeper declines at the clock's
    `approval_s` after the question, and the incident is given to a person.
    """
    case = open_case(ref)
    question = question_about(case, step, case.store.dossier(case.id))
    assert question is not None  # only configured strategies are asked about
    too_often = len({asked.question.digest for asked in questions_about(case, step)} - {question.digest})
    case.store.ask(case.id, ref.epoch, question)
    if too_often >= MOST_QUESTIONS:
        why = "what would be done changes faster than people can answer"
        case.store.answer(case.id, question.digest, Answer(decision=Decision.DECLINE, by=DEADLINE, why=why))
    asked = _asked(case, question)
    if asked.decided is None:
        _call(case, question, asked)
    while (answer := (asked := _asked(case, question)).decided) is None:
        given = await _pause(case, question, asked)
        if len(_asked(case, question).answers) == len(asked.answers):  # else it came in by another door meanwhile
            case.store.answer(case.id, question.digest, given)
    if answer.decision is Decision.ANOTHER:
        what = _another(case, step, answer)
        case.store.decide(case.id, who="responder", what=f"changes the plan after {step.id}", why=what)


def _asked(case: Case, question: Question) -> Asked:
    return next(a for a in case.store.questions(case.id) if a.question.digest == question.digest)


def _call(case: Case, question: Question, asked: Asked) -> None:
    """Tell people that they are waited for, and until when."""
    severity = Severity(case.row.severity or Severity.P1)
    waited = now() - asked.asked_at
    left = timedelta(seconds=case.profile.clock.approval_s) - waited
    case.step(WAITING_TO_APPROVE, deadline_s=max(left.total_seconds(), 0.0))
    case.store.update_incident(case.id, case.ref.epoch, reason=f"{WAITING_TO_APPROVE}: {question.shown}")
    what = f"asks a person: {question.strategy} on {question.target}"
    case.store.decide(case.id, who="responder", what=what, why=question.why)
    ask_for_approval(
        case, in_words(question, severity, asked.answers), key=f"{question.step_id}-{question.digest}"
    )


async def _pause(case: Case, question: Question, asked: Asked) -> Answer:
    """What the form of the paused run was answered."""
    severity = Severity(case.row.severity or Severity.P1)
    plan = reports.plan(read_plan(case.store, case.id), read_results(case.store, case.id))
    others = ", ".join(name for name in case.profile.strategies if name != question.strategy)
    radius = "\n".join(f"- {inline(line)}" for line in question.radius)
    form = ApprovalForm.with_initial_data(
        description=f"**{severity.value} {case.row.service}: {inline(question.shown)}**\n\n"
        f"Command: `{inline(quote(question.command))}` on {inline(question.host)}\n\n{radius}\n\n"
        f"{inline(still_needed(question, asked.answers)).capitalize()}. Instead: {others or 'nothing'}.\n\n{plan}"
    )
    # A used key pauses no more: each answer that decides nothing makes another one, and each run of ours its own.
    key = f"approve-{question.digest}-{len(asked.answers)}-{case.ref.epoch}"
    try:
        said = await answer_to(form, key)
    except FlowPauseTimeout:
        return Answer(decision=Decision.DECLINE, by=DEADLINE, why="no answer within a week")
    return Answer(
        decision=said.decision,
        by=said.by[:100],
        why=(said.why or "no reason given")[:1_000],
        strategy=said.strategy.strip().lower()[:50],
    )


def _another(case: Case, step: PlanStep, answer: Answer) -> str:
    """Put the strategy that the person named into the plan, approved by them where their word carries it.

    Returns what came of it.
    """
    chosen = case.profile.strategies.get(answer.strategy)
    if chosen is None or answer.strategy == step.strategy:
        return f"{answer.why}; {answer.strategy or 'nothing'} is no other strategy of the profile"
    hosts = [host.name for host in case.profile.hosts]
    why = f"{answer.by} chose it instead of {step.strategy}"
    others = steps_of(answer.strategy, chosen, sorted(step.cures), hosts, why)
    done = {result.step_id for result in read_results(case.store, case.id)}
    others = [each for each in others if each.id not in done]
    plan = read_plan(case.store, case.id).instead(step, others)
    case.store.keep_record(case.id, case.ref.epoch, "plan", plan.model_dump(mode="json"))
    for each in others:
        question = question_about(case, each, case.store.dossier(case.id))
        if question and counts(answer, question.approvers) and question.approvers is not Approvers.TWO:
            case.store.ask(case.id, case.ref.epoch, question)
            yes = answer.model_copy(update={"decision": Decision.APPROVE, "strategy": ""})
            case.store.answer(case.id, question.digest, yes)
    return f"{answer.why}; {answer.strategy} instead" if others else f"{answer.why}; {answer.strategy} was tried"
