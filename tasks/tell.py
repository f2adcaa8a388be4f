"""Telling people: every message goes into the outbox, in order, and the keeper sends it.

Nothing here waits for anybody: telling never delays repairing.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from blocks.run_history import run_url
from responder.domain.base import now
from responder.domain.channels import channel_name
from responder.domain.incident import Ending, Kind, Severity
from responder.domain.messages import PAGERDUTY, SLACK, TICKETS, notice_messages
from responder.domain.notices import (
    Escalation,
    InitialNotice,
    Notice,
    ResolutionNotice,
    StatusUpdate,
    cadence,
    for_slack,
    pagerduty_note,
    plain,
    render_escalation,
    slack_blocks,
)
from responder.domain.plan import StepResult
from responder.domain.postmortem import follow_up
from responder.domain.redaction import redact_value
from responder.domain.shell import quote
from responder.domain.tickets import Found, Ticket, closing_comment, follow_ups, minor_incident
from responder.store import open_store
from responder.store.tables import IncidentRow
from tasks.case import Case, ranking
from tasks.results import read_plan


def acknowledge(case: Case) -> None:
    """Find the alert's page and acknowledge it under a lease (document, phase 1, step 1)."""
    alerts = case.store.alerts(case.id)
    keys = list(dict.fromkeys(alert.incident_key for alert in alerts if alert.incident_key))
    if case.profile.pagerduty and keys:
        _put(case, PAGERDUTY, "find", {"keys": keys, "wait_s": case.profile.clock.find_page_s}, key="find")


def start_incident(case: Case, impact: str | None) -> None:
    """Page, channel, initial notice, additional responders for P1/P2 (document, phase 1, step 4).

    P4 is a ticket: it gets neither page nor channel.
    """
    row = case.row
    severity = Severity(row.severity or Severity.P1)
    if severity is Severity.P4:
        open_ticket(case)
        return
    link = run_url(row.run_id)
    notice = InitialNotice(
        description=row.summary,
        severity=severity,
        at=row.opened_at,
        impact=impact,
        component=case.profile.component or case.profile.name,
        next_update=_next_update(case, severity),
    )
    if case.profile.pagerduty:
        _put(case, PAGERDUTY, "open", {"summary": _title(row), "severity": severity, "link": link}, key="open")
        details = [f"{alert.name}: {alert.summary}" for alert in case.store.alerts(case.id)]
        note = pagerduty_note(f"{severity.value}: {row.severity_reason}", at=now(), details=details, link=link)
        _put(case, PAGERDUTY, "note", {"text": note}, key="assessment")
        call_responders(case, case.profile.pagerduty.asked_first(case.profile.component))
    if case.profile.slack:
        name = channel_name(row.opened_at.date(), row.summary)
        topic = f"{for_slack(_title(row))} {link}"
        _put(case, SLACK, "create_channel", {"name": name, "topic": topic}, key="channel")
    _tell(case, notice, key="initial")


def call_responders(case: Case, names: Sequence[str]) -> None:
    """Ask these policies and users of the profile to join a P1 or P2, each once (document, phase 1, step 4)."""
    row = case.row
    if case.profile.pagerduty and Severity(row.severity or Severity.P1).pages_people:
        for name in names:
            link = run_url(row.run_id)
            body = {"text": f"{_title(row)}. {link}", "target": name, "summary": _title(row), "link": link}
            _put(case, PAGERDUTY, "page", body, key=f"page-{name}")


def call_for_part(case: Case, part: str) -> None:
    """Ask those to join who look after the part that the leading hypothesis names (document, phase 2, step 2)."""
    if case.profile.pagerduty:
        call_responders(case, case.profile.pagerduty.responders.get(part, ()))


def post_progress(
    case: Case,
    progress: str,
    impact: str | None,
    *,
    key: str,
    status: str,
    verifying: bool = False,
    next_update: str | None = None,
) -> None:
    """A status update (document, phase 2, step 4). `status` is a word of the template.

    `verifying`: what was done is being checked, which a status page calls monitoring. `next_update` None: by
    the severity's clock, which the keeper keeps.
    """
    row = case.row
    severity = Severity(row.severity or Severity.P1)
    if severity is Severity.P4:
        return
    notice = StatusUpdate.model_validate(
        {
            "description": row.summary,
            "at": now(),
            "status": status,
            "update": progress,
            "impact": impact,
            "eta": None,
            "next_update": next_update or _next_update(case, severity),
            "verifying": verifying,
        }
    )
    _tell(case, notice, key=f"update-{key}")
    if case.profile.pagerduty:
        _put(case, PAGERDUTY, "note", {"text": pagerduty_note(progress, at=now())}, key=f"note-{key}")


def announce_ending(case: Case, ending: Ending, cause: str | None, impact: str | None) -> None:
    """The resolution notice, and the page resolved; or for what stays open, a word that it does."""
    row = case.row
    severity = Severity(row.severity or Severity.P1)
    # Without a page looked for or opened there is none to resolve.
    if any(message.channel == PAGERDUTY for message in case.store.messages(case.id)) and ending.outcome.closes:
        _put(case, PAGERDUTY, "resolve", {"text": str(plain(ending.reason))}, key="resolve")
    if severity is Severity.P4:
        _close_ticket(case, ending)
        return
    if not ending.outcome.closes:
        post_progress(
            case,
            f"{ending.outcome.value}: {ending.reason}",
            impact,
            key="ending",
            status="Investigating",
            next_update="not scheduled: it is for a person now",
        )
        return
    notice = ResolutionNotice(
        description=row.summary,
        at=now(),
        duration=max(now() - row.opened_at, timedelta()),
        summary=ending.reason,
        impact=impact,
        root_cause=cause,
        severity=severity,
    )
    _tell(case, notice, key="resolution")


def archive_channel(case: Case) -> None:
    """Archive the incident's channel once the incident is closed (document, phase 4, step 4)."""
    if any(message.kind == "create_channel" for message in case.store.messages(case.id)):
        _put(case, SLACK, "archive", {}, key="archive")


def page_a_person(case: Case, what_is_wrong: str, results: tuple[StepResult, ...]) -> None:
    """Hand over: what is wrong, tried, refused and why, the next command, and one link."""
    row = case.row
    hosts = {host.name: host for host in case.profile.hosts}
    plan = read_plan(case.store, case.id)
    bad = (plan.step(result.step_id) for result in results if result.state != "held")
    host = next((hosts[step.runs_on] for step in bad if step and step.runs_on in hosts), case.profile.hosts[0])
    journal = (*case.profile.unit.journalctl, "-u", case.profile.unit.name, "-n", "50", "--no-pager")
    login = case.profile.ssh.command(host)
    refused = tuple(result.reason for result in results if result.state in ("refused", "taken_over", "unanswered"))
    page = Escalation(
        severity=Severity(row.severity or Severity.P1),
        service=row.service,
        what_is_wrong=what_is_wrong,
        tried=tuple(r.reason for r in results if r.state in ("failed", "unknown", "held")),
        refused=refused,
        next_command=quote((*login, *journal)),
        link=run_url(row.run_id),
        runbooks=case.profile.runbooks,
    )
    text = render_escalation(page)
    case.store.keep_record(case.id, case.ref.epoch, "hand-over", {"text": text})
    for_people = {"text": for_slack(text, exact=page.exact), "blocks": slack_blocks(text, exact=page.exact)}
    if case.profile.pagerduty:
        body = {"text": text, "summary": _title(row), "link": run_url(row.run_id)}
        _put(case, PAGERDUTY, "escalate", body, key="escalate")
    if case.profile.slack:
        _put(case, SLACK, "post" if case.profile.pagerduty else "escalate", for_people, key="escalation")


def ask_for_approval(case: Case, what: str, *, key: str) -> None:
    """Call a person to a run that waits for their answer, and say so in the channel."""
    row = case.row
    link = run_url(row.run_id)
    text = f"{_title(row)}: a person must decide. {plain(what)}"
    if case.profile.pagerduty:
        _put(case, PAGERDUTY, "page", {"text": f"{text} {link}"[:1_000], "link": link}, key=f"approval-{key}")
    if case.profile.slack:
        _put(case, SLACK, "post", {"text": f"{for_slack(text)} {link}"}, key=f"approval-{key}")


@task(task_run_name="publish a draft of incident {incident_id}", cache_policy=NO_CACHE)
def publish_draft(incident_id: str, by: str, message: int | None) -> str:
    """Let the keeper send the draft, the newest unless `message` says which. Raises as `Store.publish_draft`."""
    store = open_store()
    published = store.publish_draft(store.incident(incident_id).id, who=by, number=message)
    return f"message {published.number} is being published"


def open_ticket(case: Case) -> None:
    """The ticket that a P4 is, where the profile names a place for tickets (document, phase 1, step 4)."""
    if (tickets := case.profile.tickets) is None:
        return
    row = case.row
    due = row.opened_at.date() + timedelta(days=case.profile.due_days[Severity.P4])
    alerts = case.store.alerts(case.id)
    ticket = minor_incident(_found(case), row.severity_reason, alerts, owner=tickets.owner, due=due)
    _put_ticket(case, ticket, key="ticket")


def file_follow_ups(case: Case) -> None:
    """Tickets for prevention, monitoring and documentation (document, phase 5, step 3).

    They quote the leading hypothesis. What an earlier incident has found already gets a comment instead.
    """
    if (tickets := case.profile.tickets) is None:
        return
    row, leading = case.row, next(iter(ranking(case)), None)
    severity = Severity(row.severity or Severity.P1)
    items = follow_up(
        leading,
        severity,
        row.resolved_at or now(),
        case.profile.contacts,
        case.profile.runbooks,
        case.profile.due_days,
    )
    filed = follow_ups(_found(case), leading, items, owner=tickets.owner)
    for item, ticket in zip(items, filed, strict=True):
        _put_ticket(case, ticket, key=f"ticket-{item.kind}")


def _close_ticket(case: Case, ending: Ending) -> None:
    """Tell a P4's ticket how it ended; whether it is done is for its owner to say."""
    opened = next((m for m in case.store.messages(case.id) if (m.channel, m.kind) == (TICKETS, "ticket")), None)
    if opened:
        text, mark = closing_comment(_found(case), f"{ending.outcome.value}: {ending.reason}")
        body = {"marker": opened.body["marker"], "seen_in": mark, "comment": text}
        _put(case, TICKETS, "comment", body, key="ended")


def _put_ticket(case: Case, ticket: Ticket, *, key: str) -> None:
    assert case.profile.tickets is not None
    wanted = {"labels": list(case.profile.tickets.labels), "assignees": [case.profile.tickets.owner]}
    _put(case, TICKETS, "ticket", ticket.model_dump() | wanted, key=key)


def _found(case: Case) -> Found:
    row = case.row
    return Found(
        incident_id=case.id,
        service=row.service,
        severity=Severity(row.severity or Severity.P1),
        summary=row.summary,
        at=row.opened_at,
        link=run_url(row.run_id),
    )


def _tell(case: Case, notice: Notice, *, key: str) -> None:
    """A notice to every channel that the profile names for them."""
    row = case.row
    severity = Severity(row.severity or Severity.P1)
    for message in notice_messages(case.profile, notice, severity=severity, kind=Kind(row.kind)):
        _put(case, message.channel, message.kind, message.body, key=key, draft=message.draft)


def _put(
    case: Case, channel: str, kind: str, body: Mapping[str, object], *, key: str, draft: bool = False
) -> None:
    clean = {field: redact_value(value) for field, value in body.items()}
    rounds = case.row.rounds  # given back, the same may have to be said again
    case.store.enqueue(
        case.id, channel=channel, kind=kind, body=clean, key=f"{key}-{rounds}" if rounds else key, draft=draft
    )


def _title(row: IncidentRow) -> str:
    return f"{row.severity or ''} {row.service}: {row.summary}".strip()


def _next_update(case: Case, severity: Severity) -> str:
    return cadence(case.profile.severities.levels[severity].update_every_minutes)


def ask_for_blanks(case: Case, blanks: tuple[str, ...]) -> None:
    """Remind the channel of the review and of what only people can fill in (document, phase 5)."""
    text = f"Review of {_title(case.row)} is due. Still blank: {', '.join(blanks) or 'nothing'}. "
    if case.profile.slack:
        body = {"text": for_slack(text + run_url(case.row.run_id))}
        _put(case, SLACK, "post", body, key=f"review-{now():%Y-%m-%d}")
