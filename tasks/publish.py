"""What people see of an incident in Prefect: its run's name, tags and artifacts, kept up to date as it goes."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.exceptions import PrefectException
from sqlalchemy.exc import SQLAlchemyError

from blocks.run_history import RunPage
from responder.domain import reports
from responder.domain.impact import measured_impact
from responder.domain.incident import WAITING, IncidentRef, Mode, Phase, Severity
from responder.domain.notices import ESCALATION_LIMIT, STATUSPAGE_LIMIT, code
from responder.domain.postmortem import PhaseBudget
from responder.domain.timeline import Timeline, merge
from responder.store.entries import store_entries
from tasks.case import Case, open_case, ranking
from tasks.results import read_plan, read_results

LOOK_S = 2.0
WHAT_NOW = "Where it stands, and what a person can do"


@contextmanager
def show_progress(ref: IncidentRef) -> Iterator[None]:
    """Publish whenever something new has happened while the block runs, and once more at its end.

    It is done by a thread beside the work, so that a slow server never stands in the way of a repair.
    """
    case = open_case(ref)
    done = threading.Event()

    def follow() -> None:
        shown: tuple[int, str] | None = None
        while not done.wait(LOOK_S):
            try:
                happened = len(store_entries(case.store, case.id)), what_now(case)
                if happened != shown:
                    publish(case)
                    shown = happened
            except SQLAlchemyError as error:
                logging.getLogger(__name__).warning("The run's page waits for the store: %s", error)

    thread = threading.Thread(target=follow, name="run-page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        publish(case)


def publish(case: Case) -> None:
    """Bring the incident's own run up to date. A server that does not answer delays nothing."""
    try:
        with RunPage(case.row.run_id) as page:
            _label(page, case)
            page.show(_artifacts(case, timeline_of(case, page)))
    except (httpx.HTTPError, PrefectException, SQLAlchemyError) as error:
        logging.getLogger(__name__).warning("The run's page could not be updated: %s", error)


def publish_state(case: Case) -> None:
    """Bring only what says where the incident stands up to date: it was closed after its run."""
    try:
        with RunPage(case.row.run_id) as page:
            _label(page, case)
            page.show({"what-now": (what_now(case), WHAT_NOW)})
    except (httpx.HTTPError, PrefectException) as error:
        logging.getLogger(__name__).warning("The run's page could not be updated: %s", error)


def what_now(case: Case) -> str:
    """Where the incident stands, and what a person can do."""
    row = case.row
    steps = [lease.step for lease, held in case.store.leases() if held.id == case.id and lease.step]
    waiting = next((step for step in steps if step.startswith(WAITING)), "")
    return reports.what_now(
        row.id,
        status=row.status,
        outcome=row.outcome,
        reason=row.reason,
        waiting=waiting,
        held_back=case.store.held_back(case.id),
    )


def _label(page: RunPage, case: Case) -> None:
    row = case.row
    page.label(name=f"{row.severity or 'P?'} {row.service}: {row.summary}"[:200], tags=_tags(case))


def _artifacts(case: Case, timeline: Timeline) -> dict[str, tuple[str, str]]:
    """The artifacts that there is something to say in by now: Markdown and description by key."""
    row, store = case.row, case.store
    found: dict[str, tuple[str, str]] = {"what-now": (what_now(case), WHAT_NOW)}
    done = {phase.name for phase in store.phases(case.id) if phase.outcome}
    if row.severity:
        assessment = reports.assessment(
            severity=Severity(row.severity),
            reason=row.severity_reason,
            mode=Mode(row.mode),
            # Later looks would put a healthy reading beside "completely down".
            dossier=store.dossier(case.id, phases=(Phase.TRIAGE,)),
            alerts=store.alerts(case.id),
            confirmed=row.confirmed,
            impact=impact(case),
        )
        found["assessment"] = (assessment, "How bad it is, and why")
    if Phase.DIAGNOSE in done:
        plan = reports.plan(read_plan(store, case.id), read_results(store, case.id), ended=bool(row.outcome))
        seen = store.dossier(case.id, phases=(Phase.TRIAGE, Phase.DIAGNOSE))
        found["evidence"] = (reports.evidence_table(seen), "What was seen, where and how")
        found["hypotheses"] = (reports.hypotheses(ranking(case)), "Possible causes: for, against, unknown")
        found["plan"] = (plan, "What is tried in which order, and what became of it")
    if call := store.record(case.id, "hand-over"):
        found["hand-over"] = (code(call["text"], ESCALATION_LIMIT), "What a person is asked to do")
    if drafts := [message for message in store.messages(case.id) if message.state == "draft"]:
        found["status-page"] = (
            code(drafts[-1].body["text"], STATUSPAGE_LIMIT),
            f"Draft for customers, not published: incident publish {case.id}",
        )
    if postmortem := store.record(case.id, "post-mortem"):
        found["post-mortem"] = (postmortem["markdown"], "Draft of the post-mortem")
    text = f"{reports.timeline(timeline)}\n\n{reports.phase_budgets(budgets(case))}"
    return found | {"timeline": (text, "What happened, in UTC")}


def _tags(case: Case) -> list[str]:
    row = case.row
    return [
        "incident",
        f"service:{row.service}",
        *([f"severity:{row.severity}"] if row.severity else []),
        f"kind:{row.kind}",
        f"mode:{row.mode}",
        f"incident:{case.id}",
        *(["open"] if row.status == "open" else []),
    ]


def impact(case: Case) -> str | None:
    """What is measured of the impact, or None."""
    return measured_impact(case.store.dossier(case.id))


def budgets(case: Case) -> tuple[PhaseBudget, ...]:
    """Each phase that was begun against its budget, minutes from the opening."""
    row, phases = case.row, case.store.phases(case.id)
    begun = {phase.kind for phase in phases}
    ended = {phase.kind: phase.ended_at for phase in phases if phase.ended_at}
    return tuple(
        PhaseBudget(
            phase=phase,
            budget_minutes=minutes,
            ended_after_minutes=(at - row.opened_at).total_seconds() / 60 if (at := ended.get(phase)) else None,
        )
        for phase, minutes in case.profile.phase_budgets_minutes.items()
        if phase in begun
    )


def timeline_of(case: Case, page: RunPage) -> Timeline:
    """The run history merged with the store's own knowledge. What the history lacks is shown as a gap."""
    expected = {
        f"phase:{phase.name}": f"{phase.name} is not in the run history (yet)"
        for phase in case.store.phases(case.id)
    }
    return merge(store_entries(case.store, case.id), page.history(), expected=expected)
