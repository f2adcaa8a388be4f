"""How an incident ends: the ending decided, people asked and told, the record closed."""

from collections.abc import Mapping
from typing import Any

from prefect.exceptions import FlowPauseTimeout

from blocks.events import Event
from blocks.run_history import run_url
from responder.domain.base import now
from responder.domain.hypothesis import Judgement
from responder.domain.incident import WAITING_TO_CLOSE, Ending, IncidentRef, Outcome, ResolveOutcome, Severity
from responder.domain.notices import inline
from responder.domain.plan import NextStep, confirmed_ending
from responder.domain.verification import required_checks
from responder.store.tables import IncidentRow
from tasks.attempt import bar_intents
from tasks.case import Case, open_case, ranking
from tasks.forms import Closing, ClosingForm, answer_to
from tasks.hold import still_firing
from tasks.publish import impact
from tasks.results import read_results
from tasks.tell import announce_ending, archive_channel, page_a_person


def attached(holder: IncidentRow) -> Ending:
    """The ending of a run whose service has an open incident already."""
    return Ending(outcome=Outcome.ATTACHED, reason=f"attached to incident {holder.id}, {run_url(holder.run_id)}")


def verified_ending(ref: IncidentRef, confirmation: ResolveOutcome) -> Ending:
    """The ending after confirming: resolved, nothing was wrong, a false alarm, or unconfirmed."""
    case = open_case(ref)
    row = case.row
    attempts = case.store.attempts(case.id)
    return confirmed_ending(
        confirmation,
        acted=any(attempt.acted_at for attempt in attempts),
        was_unhealthy=row.was_unhealthy,
        alerts=not row.declared,
        contradicted=row.confirmed is False,
        still_firing=still_firing(case),
    )


def hand_over(following: NextStep) -> Ending:
    """The ending where the plan is over: to a person, to whoever works on it already, or a dry run's."""
    outcome = {"stand_back": Outcome.TAKEN_OVER, "rehearsed": Outcome.DRY_RUN}.get(following.do, Outcome.ESCALATED)
    return Ending(outcome=outcome, reason=following.reason)


async def ask_to_close(ref: IncidentRef, ending: Ending) -> Ending:
    """Closing a P1/P2 waits for a person unless the profile grants it: the run pauses with a form."""
    case = open_case(ref)
    severity = Severity(case.row.severity or Severity.P1)
    asks = ending.outcome is Outcome.RESOLVED and severity.pages_people and ref.mode.acts
    if not asks or case.profile.guardrails.closing_granted:
        return ending
    answered = case.store.record(case.id, "closing")
    if answered:  # the run was lost after a person had answered: they are not asked again
        return _answered(ending, answered)
    case.store.update_incident(case.id, ref.epoch, reason=f"mitigated, {WAITING_TO_CLOSE}: {ending.reason}")
    case.step(WAITING_TO_CLOSE, deadline_s=case.profile.clock.close_form_s)
    form = ClosingForm.with_initial_data(
        description=f"**{severity.value} {case.row.service} is confirmed healthy**\n\n{inline(ending.reason)}\n\n"
        "Close the incident? Customers and stakeholders are told when you do."
    )
    try:
        answer = await answer_to(form, f"close-{ref.incident_id}-{ref.epoch}")
    except FlowPauseTimeout:
        return Ending(outcome=Outcome.MITIGATED_UNCONFIRMED, reason="nobody closed it within a week")
    given: dict[str, Any] = {
        "close": answer.decision is Closing.CLOSE,
        "by": answer.by,
        "why": answer.why or "no reason given",
    }
    case.store.keep_record(case.id, ref.epoch, "closing", given)
    case.store.decide(case.id, who=answer.by, what=f"answered: {answer.decision.value}", why=given["why"])
    return _answered(ending, given)


def _answered(ending: Ending, given: Mapping[str, Any]) -> Ending:
    if given["close"]:
        return ending
    reason = f"{given['by']} keeps it open: {given['why']}"
    return Ending(outcome=Outcome.MITIGATED_UNCONFIRMED, reason=reason)


def end_of(ref: IncidentRef, ending: Ending) -> Ending:
    """Tell people how it ended. A dry run tells what would have been, and always ends as a dry run."""
    case = open_case(ref)
    bar_intents(case, f"the run ends: {ending.reason}")
    if not ref.mode.acts and ending.outcome is not Outcome.DRY_RUN:
        ending = Ending(
            outcome=Outcome.DRY_RUN, reason=f"would have ended as {ending.outcome.value}: {ending.reason}"
        )
    if ending.outcome is Outcome.ESCALATED:
        page_a_person(case, ending.reason, read_results(case.store, case.id))
    if ending.outcome.closes and case.row.resolved_at is None:
        case.store.update_incident(case.id, ref.epoch, resolved_at=now())
    if ending.outcome is Outcome.RESOLVED:
        _remember_healthy(case)
    leading = leading_hypothesis(case)
    announce_ending(case, ending, leading.hypothesis.cause if leading else None, impact(case))
    return ending


def finish(ref: IncidentRef, ending: Ending) -> Ending:
    """Close the record and its channel, or leave both open for a person."""
    case = open_case(ref)
    if ending.outcome.closes:
        archive_channel(case)
    case.store.end_run(ref.incident_id, ref.epoch, ending)
    if ending.outcome in (Outcome.ESCALATED, Outcome.RESOLVED):
        event: Event = "resolved" if ending.outcome is Outcome.RESOLVED else "escalated"
        case.emit(event, key=f"{case.row.rounds}", severity=case.row.severity, reason=ending.reason)
    return ending


def leading_hypothesis(case: Case) -> Judgement | None:
    """The hypothesis that stands first, if any is supported."""
    return next((judgement for judgement in ranking(case) if judgement.standing == "supported"), None)


def _remember_healthy(case: Case) -> None:
    """What a resolved incident could read is known from now on."""
    checks = required_checks(case.profile)
    case.store.remember_readings(
        case.profile.name, [(host.name, check, "healthy") for host in case.profile.hosts for check in checks]
    )
