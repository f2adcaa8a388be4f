"""The backups of the contacts: asked once each, when the primary refuses or nobody answers.

What was asked, and which backups were, is read from the outbox: a keeper that comes back asks nobody twice.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from blocks.pagerduty import PagerDuty, PagerDutyIncident
from blocks.run_history import run_url
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError
from responder.domain.incident import Mode
from responder.domain.messages import PAGERDUTY
from responder.domain.notices import for_slack
from responder.domain.profile import PagerDutyAccess, Profile
from responder.domain.responders import Answers, Asked, Call, next_calls
from responder.keeper.access import Access
from responder.store import Store
from responder.store.tables import IncidentRow, MessageRow

LOOKS = 20  # within the time that silence takes


class Backups:
    """Looks at the pages of open incidents, and asks backups. Remembers when each is to be looked at again."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store, self._access = store, access
        self._next: dict[str, datetime] = {}

    def ask_due(self) -> None:
        """Ask each backup that is due. A PagerDuty that does not answer costs no other incident its backup."""
        at = now()
        self._next = {incident_id: due for incident_id, due in self._next.items() if due > at}
        for incident in self._store.open_incidents(but=self._next):
            profile = Profile.model_validate(incident.profile)
            self._next[incident.id] = at + timedelta(seconds=profile.clock.silence_s / LOOKS)
            if not Mode(incident.mode).acts:
                continue
            try:
                ask_backups(self._store, self._access, incident, profile)
            except IncidentResponseError as error:
                log = logging.getLogger(__name__)
                log.warning("who has joined %s could not be told: %s", incident.id, error)


def ask_backups(store: Store, access: Access, incident: IncidentRow, profile: Profile) -> None:
    """Ask the backups of one incident that are due now. Raises as the block does."""
    if profile.pagerduty is None:
        return
    messages = store.messages(incident.id)
    made = {_name(message) for message in messages if message.body.get("backup_of")}
    asked = _asked(profile.pagerduty, messages)
    if not {one.name for one in asked} - made:
        return
    page = open_page(access.pagerduty(incident.service), incident)
    answers = _answers(profile.pagerduty, page) if page else Answers()
    for call in next_calls(profile, asked, answers, at=now(), made=made):
        store.decide(incident.id, who="keeper", what=call.decision, why=call.why)
        _ask(store, incident, call)


def open_page(pagerduty: PagerDuty, incident: IncidentRow) -> PagerDutyIncident | None:
    """The incident's page that can still wake people: its own, else the one opened when that was resolved."""
    page = pagerduty.get(incident.pagerduty_id) if incident.pagerduty_id else None
    if page is None or not page.open:
        page = pagerduty.find(escalation_key(incident))
    return page if page and page.open else None


def escalation_key(incident: IncidentRow) -> str:
    """The key of the page that is opened where the incident's own wakes nobody any more."""
    return f"incident-{incident.id}-escalation"


def _name(message: MessageRow) -> str:
    return str(message.body["backup_of"])


def _asked(pagerduty: PagerDutyAccess, messages: Sequence[MessageRow]) -> tuple[Asked, ...]:
    """Whom PagerDuty has called for us, and whom it refused to call."""
    calls = [m for m in messages if m.channel == PAGERDUTY and m.kind in ("page", "escalate")]
    return tuple(
        Asked(name=m.body.get("target") or pagerduty.own_policy, at=m.sent_at or m.created_at, refused=m.error)
        for m in calls
        if m.state in ("sent", "failed")
    )


def _answers(pagerduty: PagerDutyAccess, page: PagerDutyIncident) -> Answers:
    names = {id: name for name, id in (pagerduty.policies | pagerduty.users).items()}
    states: dict[str, tuple[str, ...]] = {}
    for one in page.requested:
        name = names.get(one.target, one.target)
        states[name] = (*states.get(name, ()), one.state)
    people = [who for who in page.acknowledged_by if who.id != pagerduty.requester_id]
    return Answers(acknowledged=bool(people), states=states)


def _ask(store: Store, incident: IncidentRow, call: Call) -> None:
    what = f"{incident.severity or ''} {incident.service}: {incident.summary}".strip()
    text = f"{what}. You are asked as backup: {call.why}. {run_url(incident.run_id)}"
    body = {"text": text, "backup_of": call.name}
    if call.pagerduty:
        body |= {"target": call.pagerduty, "summary": what, "link": run_url(incident.run_id)}
        store.enqueue(incident.id, channel=PAGERDUTY, kind="page", body=body, key=f"page-{call.pagerduty}")
    elif call.slack:
        # Who is reached by people only is named to those who read the backup channel.
        reach = "" if call.backup.endswith(call.slack) else f" Please reach the backup: {call.backup}."
        body |= {"text": for_slack(f"{text}{reach}"), "channel": call.slack}
        store.enqueue(incident.id, channel="slack-backup", kind="post", body=body, key=f"backup-of-{call.name}")
