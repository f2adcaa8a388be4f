"""The post-mortem: drafted from the facts, kept as a file and an artifact, reviewed on a date."""

from datetime import UTC, datetime

import httpx
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException

from blocks.run_history import RunPage, schedule_review
from responder.domain.base import now
from responder.domain.impact import affected
from responder.domain.incident import Ending, IncidentRef, Mode, Outcome, Phase, PostIncidentOutcome, Severity
from responder.domain.notices import inline
from responder.domain.postmortem import (
    AttemptSummary,
    Decision,
    Delivery,
    PostMortem,
    draft,
    render_postmortem,
)
from responder.domain.profile import review_date
from responder.domain.sla import first_sign, sla_impact
from responder.domain.timeline import Timeline, merge
from responder.store import open_store
from responder.store.entries import store_entries
from tasks.case import Case, open_case, ranking
from tasks.publish import budgets, timeline_of
from tasks.results import read_plan, read_results
from tasks.tell import ask_for_blanks

FILE = "post-mortem.md"


@task(task_run_name="draft the post-mortem", cache_policy=NO_CACHE)
def write_postmortem(case: Case, ending: Ending) -> PostIncidentOutcome:
    """The document's template filled with what is known; what only a person knows is a named blank."""
    drafted = _draft(case, ending)
    text = render_postmortem(drafted)
    path = case.folder / FILE
    path.write_text(text)
    case.store.keep_record(case.id, case.ref.epoch, "post-mortem", {"markdown": text})
    row = case.row
    severity = Severity(row.severity) if row.severity else None
    ended = row.resolved_at or now()
    due = review_date(severity, ended.date()) if severity and needs_follow_up(ending) else None
    return PostIncidentOutcome(
        postmortem_path=str(path),
        review_due=datetime.combine(due, ended.time(), tzinfo=UTC) if due else None,
        blanks=tuple(blank.asked for blank in drafted.blanks),
    )


def needs_follow_up(ending: Ending) -> bool:
    """Whether anything really happened that is worth a review and tickets."""
    return ending.outcome not in (Outcome.FALSE_ALARM, Outcome.NO_FAULT, Outcome.DRY_RUN, Outcome.ATTACHED)


def _draft(case: Case, ending: Ending) -> PostMortem:
    row, store = case.row, case.store
    dossier = store.dossier(case.id)
    results = {result.step_id: result for result in read_results(store, case.id)}
    steps = [step for step in read_plan(store, case.id).steps if step.id in results]
    leading = next((judgement for judgement in ranking(case) if judgement.standing == "supported"), None)
    return draft(
        title=row.summary,
        service=row.service,
        severity=Severity(row.severity) if row.severity else None,
        opened_at=row.opened_at,
        ended_at=row.resolved_at,
        outcome=ending.outcome,
        reason=ending.reason,
        leading=leading,
        timeline=_timeline(case),
        attempts=[
            AttemptSummary(
                strategy=step.strategy,
                target=step.target,
                state=results[step.id].state,
                reason=results[step.id].reason,
            )
            for step in steps
        ],
        decisions=[Decision(at=d.at, who=d.who, what=d.what, why=d.why) for d in store.decisions(case.id)],
        deliveries=[
            Delivery(
                channel=message.channel,
                what=message.kind.replace("_", " "),
                delay_s=(message.sent_at - message.created_at).total_seconds() if message.sent_at else None,
                error=message.error,
            )
            for message in store.messages(case.id)
            if message.state in ("sent", "failed")
        ],
        budgets=budgets(case),
        contacts=case.profile.contacts,
        runbooks=case.profile.runbooks,
        due_days=case.profile.due_days,
        users_affected=affected(dossier),
        sla_impact=sla_impact(
            first_sign(store.alerts(case.id), dossier),
            _restored_at(case),
            outcome=ending.outcome,
            availability_percent=case.profile.sla.availability_percent,
        ),
    )


def _restored_at(case: Case) -> datetime | None:
    """When the service was confirmed to be restored; None where that never happened."""
    found = [phase for phase in case.store.phases(case.id) if phase.kind == Phase.RESOLVE]
    confirmed = [phase for phase in found if (phase.outcome or {}).get("state") == "confirmed"]
    return confirmed[-1].ended_at if confirmed else None


def _timeline(case: Case) -> Timeline:
    try:
        with RunPage(case.row.run_id) as page:
            return timeline_of(case, page)
    except (httpx.HTTPError, PrefectException) as error:
        gap = f"Prefect's run history could not be read: {error}"
        return Timeline(entries=merge(store_entries(case.store, case.id), ()).entries, gaps=(gap,))


def schedule(case: Case, drafted: PostIncidentOutcome) -> None:
    """Schedule the review (48 hours for P1/P2, a week for P3), where one is due and the incident is real."""
    if drafted.review_due and case.ref.mode.acts:
        schedule_review(
            case.id, drafted.review_due, title=f"{case.row.severity} {case.row.service}: {case.row.summary}"
        )


@task(task_run_name="remind of the review of incident {incident_id}", cache_policy=NO_CACHE)
def remind(incident_id: str) -> PostIncidentOutcome:
    """Draft again with what is known by now, list the blanks, and ask for them in the channel."""
    store = open_store()
    row = store.incident(incident_id)
    ref = IncidentRef(incident_id=row.id, epoch=row.epoch, mode=Mode(row.mode))
    case = open_case(ref)
    ending = Ending(outcome=Outcome(row.outcome or Outcome.ESCALATED), reason=row.reason)
    drafted = write_postmortem.fn(case, ending)
    blanks = "\n".join(f"- [ ] {inline(blank)}" for blank in drafted.blanks) or "none"
    create_markdown_artifact(f"# Review of {inline(row.summary)}\n\nBlanks to fill:\n\n{blanks}\n", key="review")
    ask_for_blanks(case, drafted.blanks)
    return drafted
