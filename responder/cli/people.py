"""What the people of an incident do at the command line: publish, hand over the command, give roles, tell."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from responder.cli.records import asked_about, incident_document
from responder.cli.runs import wait_until_told
from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.domain.handoff import COMMANDER, Briefing, render_briefing
from responder.domain.impact import measured_impact
from responder.domain.incident import IncidentRef, Kind, Mode, Severity
from responder.domain.messages import PAGERDUTY, SLACK, notice_messages
from responder.domain.notices import StatusUpdate, cadence, for_slack, slack_blocks
from responder.domain.profile import Profile
from responder.domain.redaction import redact, redact_value
from responder.keeper.updates import status_word
from responder.store import Store
from responder.store.tables import IncidentRow
from tasks.case import Case, ranking

OPEN_HYPOTHESES = 3


def publish_by_hand(store: Store, incident_id: str, *, who: str, number: int | None = None) -> dict[str, Any]:
    """Publish a draft as `who`, and wait until the keeper has sent it. Raises as `Store.publish_draft`."""
    row = store.incident(incident_id)
    published = store.publish_draft(row.id, who=who, number=number)
    wait_until_told(store, row.id)  # the keeper sends: two senders would say it twice
    [message] = [m for m in store.messages(row.id) if m.number == published.number]
    return {
        "incident": row.id,
        "message": message.number,
        "state": message.state,
        "error": message.error,
        "text": message.body["text"],
    }


def hand_over_command(
    store: Store, incident_id: str, *, who: str, to: str, questions: Sequence[str] = ()
) -> dict[str, Any]:
    """Make `to` the Incident Commander: brief them, announce it, assign the page, and record who decided it.

    Raises `PermanentError` for a closed incident, and where `to` has the command already.
    """
    row, profile = _open(store, incident_id)
    held = (store.record(row.id, "commander") or {}).get("name")
    if held == to:
        raise PermanentError(f"{to} has the command of incident {row.id} already")
    briefing = _briefing(store, row, profile, incoming=to, outgoing=held, questions=questions)
    text = redact(render_briefing(briefing))
    store.keep_record(row.id, row.epoch, "commander", {"name": to, "since": now().isoformat()})
    store.decide(row.id, who=who, what=f"{COMMANDER}: {briefing.change}", why="the command was handed over")
    key = f"handoff-{uuid4().hex[:8]}"
    _announce(store, row, profile, text, key=key)
    user = profile.pagerduty.users.get(to) if profile.pagerduty else None
    if profile.pagerduty:
        store.enqueue(row.id, channel=PAGERDUTY, kind="note", body={"text": text}, key=f"note-{key}")
    if user:
        store.enqueue(row.id, channel=PAGERDUTY, kind="assign", body={"user": user}, key=f"assign-{key}")
    wait_until_told(store, row.id)
    by_hand = f"{to} is not among `pagerduty.users` of the profile: assign the page by hand"
    return incident_document(store, row.id) | {
        "briefing": text,
        "page_assigned": user is not None,
        "left_to_do": by_hand if profile.pagerduty and not user else "",
    }


def say_update(store: Store, incident_id: str, *, who: str, text: str, eta: str | None = None) -> dict[str, Any]:
    """Send a person's own status update to every channel for notices; the next one is due a whole interval later.

    A text for customers stays a draft where the profile wants it read first. Raises `PermanentError` for a closed
    incident.
    """
    row, profile = _open(store, incident_id)
    severity = Severity(row.severity or Severity.P1)
    notice = StatusUpdate.model_validate(
        {
            "description": row.summary,
            "at": now(),
            "status": status_word(store.phases(row.id)),
            "update": text,
            "impact": measured_impact(store.dossier(row.id)),
            "eta": eta,
            "next_update": cadence(profile.severities.levels[severity].update_every_minutes),
        }
    )
    store.decide(row.id, who=who, what=f"tells stakeholders: {text}", why=f"expected end: {eta or 'not known'}")
    key = f"update-{uuid4().hex[:8]}"
    in_force = _case(store, row).profile
    for message in notice_messages(in_force, notice, severity=severity, kind=Kind(row.kind)):
        body = {field: redact_value(value) for field, value in message.body.items()}
        store.enqueue(row.id, channel=message.channel, kind=message.kind, body=body, key=key, draft=message.draft)
    wait_until_told(store, row.id)
    return incident_document(store, row.id)


def give_role(store: Store, incident_id: str, *, who: str, person: str, role: str) -> dict[str, Any]:
    """Give a responder a role: announced, recorded, and the person asked to join if PagerDuty knows them."""
    row, profile = _open(store, incident_id)
    text = f"{person} is {role}, says {who}."
    store.decide(row.id, who=who, what=f"{person} is {role}", why="the roles are assigned")
    key = f"role-{uuid4().hex[:8]}"
    _announce(store, row, profile, text, key=key)
    if profile.pagerduty and person in profile.pagerduty.users:
        body = {"text": f"{row.service}: {row.summary}. {text}", "target": person}
        store.enqueue(row.id, channel=PAGERDUTY, kind="page", body=body, key=f"page-{person}-{key}")
    wait_until_told(store, row.id)
    return incident_document(store, row.id)


def _open(store: Store, incident_id: str) -> tuple[IncidentRow, Profile]:
    row = store.incident(incident_id)
    if row.status == "closed":
        raise PermanentError(f"incident {row.id} is closed: nobody commands it any more")
    return row, Profile.model_validate(row.profile)


def _case(store: Store, row: IncidentRow) -> Case:
    return Case(IncidentRef(incident_id=row.id, epoch=row.epoch, mode=Mode(row.mode)), store)


def _announce(store: Store, row: IncidentRow, profile: Profile, text: str, *, key: str) -> None:
    if profile.slack:
        body = {"text": for_slack(text), "blocks": slack_blocks(text)}
        store.enqueue(row.id, channel=SLACK, kind="post", body=body, key=key)


def _briefing(
    store: Store,
    row: IncidentRow,
    profile: Profile,
    *,
    incoming: str,
    outgoing: str | None,
    questions: Sequence[str],
) -> Briefing:
    case = _case(store, row)
    steps = [lease.step for lease, held in store.leases() if held.id == row.id and lease.step]
    tried = [f"{a.strategy} on {a.target}" for a in store.attempts(row.id) if a.ended_at is None]
    asked = asked_about(store, row)
    unclear = [judged.hypothesis.cause for judged in ranking(case) if judged.standing == "open"]
    channel = profile.slack.stakeholder_channel if profile.slack else None
    return Briefing(
        description=row.summary,
        severity=Severity(row.severity) if row.severity else None,
        at=now(),
        incoming=incoming,
        outgoing=outgoing,
        status=f"{row.outcome or row.status}: {row.reason or row.severity_reason or 'no result yet'}",
        in_progress=(*steps, *tried),
        questions=(
            *questions,
            *([f"{asked.question.strategy} on {asked.question.target} waits for approval"] if asked else []),
            *(f"not refuted, not established: {cause}" for cause in unclear[:OPEN_HYPOTHESES]),
        ),
        stakeholders=(
            *([channel] if channel else []),
            *profile.stakeholders,
            *(f"{contact.role}: {contact.primary}" for contact in profile.contacts),
        ),
    )
