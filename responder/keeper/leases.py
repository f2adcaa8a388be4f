"""The page's lease: an acknowledged page stays quiet only while somebody really works on it."""

import logging
from datetime import timedelta

from responder.domain.base import now
from responder.domain.errors import IncidentResponseError
from responder.domain.profile import Profile
from responder.keeper.access import Access
from responder.store import Store
from responder.store.tables import IncidentRow, LeaseRow


def keep_pages_quiet(store: Store, access: Access) -> None:
    """Renew the snooze of each page whose run is alive and within its step's deadline, while Prefect answers.

    Nothing is renewed for a run whose lease has lapsed or whose step is overdue, nor while Prefect is away: then
    no further phase begins, and nobody sees or answers anything. PagerDuty pages again by itself. While it is
    there, who acknowledged and whether the alert resolved the page is noted.
    """
    for lease, incident in store.leases():
        if incident.pagerduty_id is None or lease.page_until is None:
            continue
        lease_s = Profile.model_validate(incident.profile).clock.page_lease_s
        if lease.page_until - now() > timedelta(seconds=lease_s * 2 / 3):
            continue
        try:
            _keep_quiet(store, access, lease, incident, incident.pagerduty_id, lease_s)
        except IncidentResponseError as error:
            # One service's PagerDuty that does not answer costs no other page its lease.
            logging.getLogger(__name__).warning("the page of %s could not be kept: %s", incident.id, error)


def _keep_quiet(
    store: Store, access: Access, lease: LeaseRow, incident: IncidentRow, page_id: str, lease_s: float
) -> None:
    pagerduty = access.pagerduty(incident.service)
    page = pagerduty.get(page_id)
    people = [who.name for who in page.acknowledged_by if who.id != pagerduty.requester_id]
    store.note_world(
        incident.id,
        pagerduty_status=page.status,
        acknowledged_by=", ".join(people) or incident.acknowledged_by,
    )
    if page.status == "acknowledged" and lease.at_work(now()) and access.prefect_answers():
        pagerduty.snooze(page_id, max(1, int(lease_s)))
        store.renew_page(incident.id, now() + timedelta(seconds=lease_s))
    else:
        # Look again after the same while: a person's acknowledgement or a resolution is to be noticed.
        store.renew_page(incident.id, now() + timedelta(seconds=lease_s * 2 / 3))
