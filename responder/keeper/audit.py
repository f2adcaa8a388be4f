"""The auditor: no page stays quiet in our name while nobody works on it.

The snooze of an acknowledged page ends by itself when nobody renews it. This is for when it does not: acknowledged
and never snoozed, because the keeper died between the two, or snoozed by hand for a day in our name.
"""

import logging
from datetime import datetime, timedelta

from blocks.run_history import run_url
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError
from responder.domain.incident import Mode
from responder.domain.messages import PAGERDUTY
from responder.domain.profile import Profile
from responder.keeper.access import Access
from responder.store import Store
from responder.store.tables import IncidentRow

LOOKS = 4
"""How often a page is looked at within the time that our snooze lasts."""


class Auditor:
    """Looks at the pages of open incidents on which nobody works, and has people called when one stays quiet.

    Remembers since when it has seen each of them quiet: never acts before a snooze of ours would have ended.
    """

    def __init__(self, store: Store, access: Access) -> None:
        self._store, self._access = store, access
        self._next: dict[str, datetime] = {}
        self._quiet_since: dict[str, datetime] = {}

    def look(self) -> None:
        """Look at each page that is due. A PagerDuty that does not answer keeps no other page from being seen."""
        at = now()
        worked_on = {
            incident.id
            for lease, incident in self._store.leases()
            if lease.at_work(at) and incident.outcome is None
        }
        for incident_id in worked_on:
            self._quiet_since.pop(incident_id, None)
        self._next = {incident_id: due for incident_id, due in self._next.items() if due > at}
        for incident in self._store.open_incidents(but=worked_on | self._next.keys()):
            if incident.taken_by is not None or not incident.pagerduty_id or not Mode(incident.mode).acts:
                self._quiet_since.pop(incident.id, None)
                continue
            lease = timedelta(seconds=Profile.model_validate(incident.profile).clock.page_lease_s)
            self._next[incident.id] = at + lease / LOOKS
            try:
                self._audit(incident, incident.pagerduty_id, lease)
            except IncidentResponseError as error:
                log = logging.getLogger(__name__)
                log.warning("whether the page of %s is quiet could not be told: %s", incident.id, error)

    def _audit(self, incident: IncidentRow, page_id: str, lease: timedelta) -> None:
        pagerduty = self._access.pagerduty(incident.service)
        page = pagerduty.get(page_id)
        holders = {who.id for who in page.acknowledged_by}
        if page.status != "acknowledged" or holders != {pagerduty.requester_id}:
            self._quiet_since.pop(incident.id, None)
            return
        since = self._quiet_since.setdefault(incident.id, now())
        if now() - since < lease:
            return
        del self._quiet_since[incident.id]
        self._call(incident)

    def _call(self, incident: IncidentRow) -> None:
        """Once for each time that it is found quiet: what was sent before rang then, and it is quiet again."""
        called = [m for m in self._store.messages(incident.id) if m.body.get("audit")]
        if any(message.state == "waiting" for message in called):
            return
        what = f"{incident.severity or ''} {incident.service}: {incident.summary}".strip()
        why = "the page is acknowledged in the responder's name, and neither a run nor a person works on it"
        link = run_url(incident.run_id)
        text = f"{what}. A person is needed: {why}. Next command: incident show {incident.id} {link}"
        times = f"({len(called) + 1})"  # counted, because a decision for the same reason is written down once only
        self._store.decide(incident.id, who="auditor", what=f"calls people again {times}", why=why)
        body = {"text": text, "summary": what, "link": link, "audit": True}
        key = f"audit-{len(called) + 1}"
        self._store.enqueue(incident.id, channel=PAGERDUTY, kind="escalate", body=body, key=key)
