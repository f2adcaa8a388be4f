"""What sending means at PagerDuty: finding, opening and holding the page, calling people, notes."""

from datetime import timedelta

from blocks.pagerduty import PagerDuty, PagerDutyIncident
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError, PermanentError, TransientError
from responder.domain.messages import tagged, tags_in
from responder.domain.profile import Profile
from responder.keeper.access import Access
from responder.keeper.backups import escalation_key, open_page
from responder.keeper.saying import NotFoundYetError, NothingToTellError, Saying
from responder.store import Store
from responder.store.tables import IncidentRow, MessageRow

MOST_LOOKS = 6
"""Tries (over about forty seconds) after which people are called whether or not it can be seen that they were."""


def tell_pagerduty(saying: Saying) -> None:
    """Do at PagerDuty what the message says, unless it was done already. Raises as the block does."""
    store, access, incident = saying.store, saying.access, saying.incident
    pagerduty = access.pagerduty(incident.service)
    body, page_id = saying.body, incident.pagerduty_id
    match saying.kind:
        case "find":
            _find(store, access, saying.messages[0], incident)
        case "open" if page_id is None:
            _open(store, access, saying.messages[0], incident)
        case "open":
            return
        case "page" | "escalate":
            _wake(saying, pagerduty)
        case "assign":
            page = pagerduty.get(_known(page_id))
            if not page.open:
                raise NothingToTellError("the page is resolved: nobody is assigned any more")
            # Whoever has given it on since then is not to get it back.
            if body["user"] not in [holder.id for holder in page.assigned_to] and not _given_on(
                saying, pagerduty, page
            ):
                pagerduty.assign(page.id, body["user"])
        case "note":
            _note(saying, pagerduty, _known(page_id))
        case "resolve":
            pagerduty.resolve(_known(page_id), body["text"])
            store.note_world(incident.id, pagerduty_status="resolved")
        case kind:
            raise PermanentError(f"the outbox knows no PagerDuty message {kind!r}")


def _note(saying: Saying, pagerduty: PagerDuty, page_id: str) -> None:
    if left := saying.left(lambda: tags_in(pagerduty.notes(page_id))):
        pagerduty.note(page_id, tagged(left.body["text"], left.tags))


def _wake(saying: Saying, pagerduty: PagerDuty) -> None:
    """Call people through the incident's page. A resolved one wakes nobody: an alert that flaps resolves it."""
    incident, body = saying.incident, saying.body
    page = open_page(pagerduty, incident)
    if page is None:
        _open_another(saying, pagerduty)
    elif saying.kind == "escalate":
        if not _given_on(saying, pagerduty, page):
            pagerduty.escalate(page.id)
            saying.store.note_world(incident.id, pagerduty_status="triggered")
        try:
            _note(saying, pagerduty, page.id)
        except PermanentError as error:  # people are called; calling them again would not bring the note
            why = f"{error}; it was: {body['text']}"
            saying.store.decide(
                incident.id, who="keeper", what="calls a person without a note on the page", why=why
            )
    else:
        known = Profile.model_validate(incident.profile).pagerduty
        name = body.get("target") or pagerduty.escalation_policy_id
        user = known.users.get(name) if known else None
        policy = (known.policies.get(name) if known else None) or name
        asked = tags_in(one.message for one in page.requested if one.target == (user or policy))
        if left := saying.without(asked):
            targets = {"users": [user]} if user else {"policies": [policy]}
            pagerduty.page(page.id, tagged(body["text"], left.tags), **targets)


def _open_another(saying: Saying, pagerduty: PagerDuty) -> None:
    """A page of our own, by a key that makes a second trigger harmless while it is open."""
    incident, body, key = saying.incident, saying.body, escalation_key(saying.incident)
    if saying.tried_before and pagerduty.find(key, since=saying.since.replace(microsecond=0)):
        return  # somebody was called by the last try, and has resolved it
    pagerduty.trigger(
        key,
        body.get("summary") or body["text"],
        source=incident.service,
        details={"page": body["text"]},
        links={"Run": body["link"]} if "link" in body else {},
    )


def _given_on(saying: Saying, pagerduty: PagerDuty, page: PagerDutyIncident) -> bool:
    """Whether an earlier try has given the page to people, so that their telephones rang."""
    if not saying.tried_before:
        return False
    try:
        return pagerduty.reassigned(page.id, since=saying.since)
    except IncidentResponseError as error:
        if isinstance(error, TransientError) and saying.messages[0].tries < MOST_LOOKS:
            raise
        what = "calls people without knowing whether they were called already"
        saying.store.decide(saying.incident.id, who="keeper", what=what, why=str(error))
        return False


def _find(store: Store, access: Access, message: MessageRow, incident: IncidentRow) -> None:
    """Look for the alert's own page for some seconds, by its key, and acknowledge it under a lease."""
    pagerduty = access.pagerduty(incident.service)
    for key in message.body["keys"]:
        found = pagerduty.find(key)
        if found and found.open:
            _acknowledge(store, access, incident, found.id, found.html_url)
            return
        if found:
            # The alert has stopped. Should there be an incident all the same, it gets a page of its own.
            store.note_world(incident.id, pagerduty_url=found.html_url, pagerduty_status=found.status)
            return
    if now() - message.created_at < timedelta(seconds=message.body["wait_s"]):
        raise NotFoundYetError("the alert's page is not there yet")


def _open(store: Store, access: Access, message: MessageRow, incident: IncidentRow) -> None:
    """Open a page of our own, by a key that makes a second trigger harmless, and acknowledge it."""
    pagerduty = access.pagerduty(incident.service)
    key = f"incident-{incident.id}"
    found = pagerduty.find(key)
    if found is None:
        pagerduty.trigger(
            key,
            message.body["summary"],
            source=incident.service,
            severity="critical" if incident.severity in ("P1", "P2") else "warning",
            links={"Run": message.body["link"]},
        )
        raise NotFoundYetError("the page is triggered, and not there yet")
    _acknowledge(store, access, incident, found.id, found.html_url)


def _acknowledge(store: Store, access: Access, incident: IncidentRow, page_id: str, url: str) -> None:
    if incident.outcome is not None:  # a late find: nobody works on it any more, so nobody says so
        store.note_world(incident.id, pagerduty_id=page_id, pagerduty_url=url)
        return
    profile = Profile.model_validate(incident.profile)
    lease_s = max(1, int(profile.clock.page_lease_s))
    acknowledged = access.pagerduty(incident.service).acknowledge(page_id, lease_s)
    store.note_world(
        incident.id,
        pagerduty_id=page_id,
        pagerduty_url=url,
        pagerduty_status=acknowledged.status,
        acknowledged_at=incident.acknowledged_at or now(),
    )
    store.renew_page(incident.id, now() + timedelta(seconds=lease_s))


def _known(page_id: str | None) -> str:
    if page_id is None:
        raise NothingToTellError("PagerDuty has no page of this incident")
    return page_id
