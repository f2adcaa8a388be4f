"""Sending what is in the outbox: in order for each incident and channel, with patience, and never forgotten."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

from blocks.pagerduty import PagerDuty
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError, PermanentError, TransientError
from responder.domain.notices import for_slack
from responder.domain.profile import BY_PAGERDUTY, Profile
from responder.domain.responders import backup_of
from responder.keeper.access import Access
from responder.keeper.backups import escalation_key, open_page
from responder.keeper.telling import NothingToTellError, tell_stakeholders, tell_statuspage, tell_tickets
from responder.store import Store
from responder.store.tables import IncidentRow, MessageRow

AT_ONCE = 16
# A page that cannot be delivered is retried until somebody is told; the others are given up when refused.
PAGES = frozenset({"open", "page", "escalate"})
BACKUP_AFTER_TRIES = 2
RETRY_S = (1, 2, 5, 10, 20, 40, 60)
FIND_RETRY_S = 1.0
LONGEST_RETRY_AFTER_S = 60.0

log = logging.getLogger(__name__)


class NotFoundYetError(TransientError):
    """PagerDuty opens an incident a moment after the alert: it is looked for again."""


class Outbox:
    """What waits to be told: in order for each incident and channel, and each of those beside the others.

    A PagerDuty that hangs holds up neither Slack nor the page of another incident.
    """

    def __init__(self, store: Store, access: Access) -> None:
        self._store, self._access = store, access
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="outbox")
        self._busy: dict[tuple[str, str], Future[None]] = {}

    def send_due(self) -> None:
        """Begin to send each message whose time has come, unless an earlier one of its channel is being sent."""
        self._busy = {lane: sending for lane, sending in self._busy.items() if not sending.done()}
        for message in self._store.due_messages(now()):
            lane = (message.incident_id, message.channel)
            if lane not in self._busy:
                self._busy[lane] = self._pool.submit(self._send, message)

    def close(self) -> None:
        """Begin no more; what is being sent is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, message: MessageRow) -> None:
        try:
            send(self._store, self._access, message)
        except Exception:
            log.exception("%s %s could not be sent; it is tried again", message.channel, message.kind)


def send(store: Store, access: Access, message: MessageRow) -> None:
    """Try to send one message, and record what became of it."""
    incident = store.incident(message.incident_id)
    try:
        _deliver(store, access, message, incident)
    except NotFoundYetError as error:
        _again(store, message, str(error), FIND_RETRY_S)
        # An event may be accepted and open nothing (maintenance, another service's key).
        if now() - message.created_at > _patience(incident):
            _use_backup(store, message, incident)
    except NothingToTellError as error:
        store.settle_message(message.number, state="skipped", error=str(error))
    except PermanentError as error:
        _refused(store, message, incident, str(error))
    except IncidentResponseError as error:
        asked = error.retry_after_s if isinstance(error, TransientError) else None
        _again(store, message, str(error), min(asked, LONGEST_RETRY_AFTER_S) if asked else _pause_s(message))
        _use_backup(store, message, incident)
    else:
        store.settle_message(message.number, state="sent")


def _patience(incident: IncidentRow) -> timedelta:
    return timedelta(seconds=Profile.model_validate(incident.profile).clock.find_page_s)


def _pause_s(message: MessageRow) -> float:
    return float(RETRY_S[min(message.tries, len(RETRY_S) - 1)])


def _again(store: Store, message: MessageRow, error: str, pause_s: float) -> None:
    store.settle_message(message.number, state="waiting", error=error, retry_at=now() + timedelta(seconds=pause_s))


def _refused(store: Store, message: MessageRow, incident: IncidentRow, error: str) -> None:
    log.warning("%s %s is refused: %s", message.channel, message.kind, error)
    if message.kind in PAGES and not _is_backed(message, incident):
        _again(store, message, error, _pause_s(message))
        _use_backup(store, message, incident)
    else:
        store.settle_message(message.number, state="failed", error=error)


def _is_backed(message: MessageRow, incident: IncidentRow) -> bool:
    """Whether somebody else is asked through PagerDuty when it refuses this page: then it is given up."""
    profile, name = Profile.model_validate(incident.profile), message.body.get("target")
    backup = backup_of(profile, name) if message.kind == "page" and name else None
    return backup is not None and backup.startswith(BY_PAGERDUTY)


def _use_backup(store: Store, message: MessageRow, incident: IncidentRow) -> None:
    """When PagerDuty cannot be reached, the backup is told of the newest page that waits; PagerDuty is tried on.

    Whatever message it is that fails: the pages stand behind it.
    """
    profile = Profile.model_validate(incident.profile)
    backup = profile.slack.backup_channel if profile.slack else None
    if message.channel != "pagerduty" or message.tries + 1 < BACKUP_AFTER_TRIES or backup is None:
        return
    pages = [
        waiting
        for waiting in store.messages(incident.id)
        if (waiting.channel, waiting.state) == ("pagerduty", "waiting") and waiting.kind in PAGES
    ]
    for page in pages[-1:]:
        text = for_slack(str(page.body.get("text") or page.body.get("summary")))
        body = {"text": f"PagerDuty cannot be reached. {text}", "channel": backup}
        store.enqueue(incident.id, channel="slack-backup", kind="post", body=body, key=f"backup-{page.kind}")


def _deliver(store: Store, access: Access, message: MessageRow, incident: IncidentRow) -> None:
    match message.channel.partition("/")[0]:
        case "pagerduty":
            _tell_pagerduty(store, access, message, incident)
        case "statuspage":
            tell_statuspage(access, message, incident)
        case "tickets":
            tell_tickets(access, message, incident)
        case "stakeholders":
            tell_stakeholders(access, message)
        case _:
            _tell_slack(store, access, message, incident)


def _tell_pagerduty(store: Store, access: Access, message: MessageRow, incident: IncidentRow) -> None:
    pagerduty = access.pagerduty(incident.service)
    body, page_id = message.body, incident.pagerduty_id
    match message.kind:
        case "find":
            _find(store, access, message, incident)
        case "open" if page_id is None:
            _open(store, access, message, incident)
        case "open":
            return
        case "page" | "escalate":
            _wake(store, pagerduty, message, incident)
        case "assign":
            page = pagerduty.get(_known(page_id))
            if not page.open:
                raise NothingToTellError("the page is resolved: nobody is assigned any more")
            if body["user"] not in [holder.id for holder in page.assigned_to]:
                pagerduty.assign(page.id, body["user"])
        case "note":
            # A keeper may have died after it was written, and before it could say so.
            said = {text.strip() for text in pagerduty.notes(_known(page_id))}
            if body["text"].strip() not in said:
                pagerduty.note(_known(page_id), body["text"])
        case "resolve":
            pagerduty.resolve(_known(page_id), body["text"])
            store.note_world(incident.id, pagerduty_status="resolved")
        case kind:
            raise PermanentError(f"the outbox knows no PagerDuty message {kind!r}")


def _wake(store: Store, pagerduty: PagerDuty, message: MessageRow, incident: IncidentRow) -> None:
    """Call people through the incident's page. A resolved one wakes nobody: an alert that flaps resolves it."""
    body, page = message.body, open_page(pagerduty, incident)
    if page is None:
        pagerduty.trigger(
            escalation_key(incident),
            body.get("summary") or body["text"],
            source=incident.service,
            details={"page": body["text"]},
            links={"Run": body["link"]} if "link" in body else {},
        )
    elif message.kind == "escalate":
        pagerduty.escalate(page.id, body["text"])
        store.note_world(incident.id, pagerduty_status="triggered")
    else:
        known = Profile.model_validate(incident.profile).pagerduty
        name = body.get("target") or pagerduty.escalation_policy_id
        user = known.users.get(name) if known else None
        policy = (known.policies.get(name) if known else None) or name
        if any((one.target, one.message) == (user or policy, body["text"]) for one in page.requested):
            return  # a keeper asked them, and died before it could say so
        targets = {"users": [user]} if user else {"policies": [policy]}
        pagerduty.page(page.id, body["text"], **targets)


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


def _tell_slack(store: Store, access: Access, message: MessageRow, incident: IncidentRow) -> None:
    slack = access.slack(incident.service)
    body = message.body
    match message.kind:
        case "create_channel":
            channel = slack.create_channel(body["name"], body["topic"], incident_id=incident.id)
            store.note_world(incident.id, channel_id=channel.id, channel_name=channel.name)
        case "post" | "escalate":
            profile = Profile.model_validate(incident.profile)
            fallback = profile.slack.backup_channel if profile.slack else None
            target = body.get("channel") or _open_channel(store, incident) or fallback
            if target is None:
                raise PermanentError(
                    "there is no channel to post to: the incident's is archived, or was not created"
                )
            slack.post(target, body["text"], body.get("blocks"))
        case "archive":
            if incident.channel_id is None:
                raise NothingToTellError("Slack has no channel of this incident")
            if incident.status != "closed":
                raise TransientError("the incident is being closed")
            slack.archive(incident.channel_id)
        case kind:
            raise PermanentError(f"the outbox knows no Slack message {kind!r}")


def _open_channel(store: Store, incident: IncidentRow) -> str | None:
    """The incident's channel, unless we have archived it: nothing can be posted there any more."""
    archived = any((m.kind, m.state) == ("archive", "sent") for m in store.messages(incident.id))
    return None if archived else incident.channel_id
