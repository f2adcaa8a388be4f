"""Sending what is in the outbox: in order for each incident and channel, with patience, and never forgotten."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta

from responder.domain.base import now
from responder.domain.digest import together
from responder.domain.errors import DeniedError, IncidentResponseError, PermanentError, TransientError
from responder.domain.escaping import bound
from responder.domain.messages import PAGERDUTY, PAGES, SLACK
from responder.domain.notices import for_slack
from responder.domain.profile import BY_PAGERDUTY, Profile
from responder.domain.responders import backup_of
from responder.keeper.access import Access
from responder.keeper.saying import NotFoundYetError, NothingToTellError, Saying
from responder.keeper.telling import tell
from responder.store import Store
from responder.store.tables import IncidentRow, MessageRow

AT_ONCE = 16
CLAIM_S = 15.0
"""After so many seconds without renewal another keeper takes a message that is being sent."""
RENEW_S = 5.0
BACKUP_AFTER_TRIES = 2
RETRY_S = (1, 2, 5, 10, 20, 40, 60)
FIND_RETRY_S = (0.25, 0.5, 1)
"""Mostly it is there a moment later, and until it is found and acknowledged a telephone rings."""
LONGEST_RETRY_AFTER_S = 60.0
SAID_LIMIT = 2_000
HELD_KINDS = frozenset({"post", "publish", "notify", "ticket", "comment"})
DENIED_FOR = timedelta(hours=1)

log = logging.getLogger(__name__)


class Outbox:
    """What waits to be told: in order for each incident and channel, and each of those beside the others.

    A PagerDuty that hangs holds up neither Slack nor the page of another incident. Any number of keepers may share
    a store: each message is claimed before it is sent.
    """

    def __init__(self, store: Store, access: Access) -> None:
        self._store, self._access = store, access
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._busy: list[tuple[str, Sequence[MessageRow], Future[None]]] = []
        self._renewed = time.monotonic()

    def send_due(self) -> None:
        """Begin to send each message whose time has come; what is still being sent stays claimed."""
        self._busy = [busy for busy in self._busy if not busy[2].done()]
        if self._busy and time.monotonic() - self._renewed > RENEW_S:
            self._store.hold_claims([m for _, claimed, _ in self._busy for m in claimed], lease_s=CLAIM_S)
            self._renewed = time.monotonic()
        for message in self._store.due_messages(now()):
            # Pools of their own: a service that hangs takes no other's threads, and notes take none of a page's.
            name = message.channel.partition("/")[0] + ("-pages" if message.kind in PAGES else "")
            free = sum(name == other for other, _, _ in self._busy) < AT_ONCE
            if free and (claimed := self._claimed(message)):
                self._busy.append((name, claimed, self._pool(name).submit(self._send, claimed)))

    def close(self, wait_s: float = 0) -> None:
        """Begin no more, and wait so long for what is being sent."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        wait([sending for _, _, sending in self._busy], wait_s)

    def _pool(self, name: str) -> ThreadPoolExecutor:
        if name not in self._pools:
            self._pools[name] = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=f"to-{name}")
        return self._pools[name]

    def _claimed(self, message: MessageRow) -> Sequence[MessageRow]:
        try:
            return _claim(self._store, message)
        except Exception:  # whatever is wrong with it holds up no other
            log.exception("%s %s could not be claimed; it is tried again", message.channel, message.kind)
            return []

    def _send(self, claimed: Sequence[MessageRow]) -> None:
        try:
            _try(self._store, self._access, claimed)
        except Exception:
            log.exception("%s %s could not be sent; it is tried again", claimed[0].channel, claimed[0].kind)


def send(store: Store, access: Access, message: MessageRow) -> None:
    """Claim a message, try to send it, and record what became of it; nothing where another keeper has it."""
    if claimed := _claim(store, message):
        _try(store, access, claimed)


def _claim(store: Store, message: MessageRow) -> Sequence[MessageRow]:
    """The message, and when it is late those that wait behind it and go with it."""
    return store.claim_messages([message, *_companions(store, message)], lease_s=CLAIM_S)


def _companions(store: Store, message: MessageRow) -> Sequence[MessageRow]:
    incident = store.incident(message.incident_id)
    if now() - message.created_at < timedelta(seconds=Profile.model_validate(incident.profile).clock.late_s):
        return []
    lane = [
        other
        for other in store.messages(incident.id)
        if (other.channel, other.state) == (message.channel, "waiting") and other.number >= message.number
    ]
    return lane[1 : together([(other.kind, other.body) for other in lane])] if lane else []


def _try(store: Store, access: Access, claimed: Sequence[MessageRow]) -> bool:
    """Say what was claimed in one piece; False where it is tried again, so that nothing may overtake it."""
    first, incident = claimed[0], store.incident(claimed[0].incident_id)
    try:
        tell(Saying(store, access, incident, tuple(claimed)))
    except NotFoundYetError as error:
        _again(store, claimed, str(error), _pause_s(first, FIND_RETRY_S))
        # An event may be accepted and open nothing (maintenance, another service's key).
        if now() - first.created_at > _patience(incident):
            _use_backup(store, first, incident)
        return False
    except NothingToTellError as error:
        _settle(store, claimed, "skipped", str(error))
    except PermanentError as error:
        if isinstance(error, DeniedError) and _is_held(first):
            _again(store, claimed, str(error), _pause_s(first))
            what = f"cannot tell {first.channel} for now"
            _say_elsewhere(store, first, incident, what, str(error), key="denied")
            return False
        if len(claimed) > 1:
            return _one_by_one(store, access, claimed)
        return _refused(store, first, incident, str(error))
    except IncidentResponseError as error:
        asked = error.retry_after_s if isinstance(error, TransientError) else None
        _again(store, claimed, str(error), min(asked, LONGEST_RETRY_AFTER_S) if asked else _pause_s(first))
        _use_backup(store, first, incident)
        return False
    else:
        _settle(store, claimed, "sent")
    return True


def _is_held(message: MessageRow) -> bool:
    """Whether it waits for a person to mend our access: nothing that counts stands behind such a message."""
    return message.kind in HELD_KINDS and now() - message.created_at < DENIED_FOR


def _one_by_one(store: Store, access: Access, claimed: Sequence[MessageRow]) -> bool:
    """Nothing was said, for a digest is refused: perhaps only one of its messages is the reason."""
    for place, message in enumerate(claimed):
        if not _try(store, access, [message]):
            _again(store, claimed[place + 1 :], "it waits for the one before it", 0)
            return False
    return True


def _settle(store: Store, claimed: Sequence[MessageRow], state: str, error: str = "") -> None:
    for message in claimed:
        store.settle_message(message, state=state, error=error)


def _patience(incident: IncidentRow) -> timedelta:
    return timedelta(seconds=Profile.model_validate(incident.profile).clock.find_page_s)


def _pause_s(message: MessageRow, pauses: Sequence[float] = RETRY_S) -> float:
    return pauses[min(message.tries - 1, len(pauses) - 1)]


def _again(store: Store, claimed: Sequence[MessageRow], error: str, pause_s: float) -> None:
    retry_at = now() + timedelta(seconds=pause_s)
    for message in claimed:
        store.settle_message(message, state="waiting", error=error, retry_at=retry_at)


def _refused(store: Store, message: MessageRow, incident: IncidentRow, error: str) -> bool:
    log.warning("%s %s is refused: %s", message.channel, message.kind, error)
    if message.kind in PAGES and not _is_backed(message, incident):
        _again(store, [message], error, _pause_s(message))
        _use_backup(store, message, incident)
        return False
    store.settle_message(message, state="failed", error=error)
    if message.kind not in PAGES:
        what = f"gives up telling {message.channel}: {message.kind.replace('_', ' ')}"
        _say_elsewhere(store, message, incident, what, error, key="failed")
    return True


def _say_elsewhere(
    store: Store, message: MessageRow, incident: IncidentRow, what: str, error: str, *, key: str
) -> None:
    """What cannot be told is said where it can: as a decision, which becomes a note on the page, and in Slack.

    Not where it was refused itself: nothing may be said for ever about its own failing.
    """
    channel = message.channel.partition("/")[0]
    if channel != PAGERDUTY:
        store.decide(incident.id, who="keeper", what=what, why=error)
    if not channel.startswith(SLACK) and Profile.model_validate(incident.profile).slack:
        said = f" It was: {bound(message.body['text'], SAID_LIMIT)}" if "text" in message.body else ""
        body = {"text": for_slack(f"The responder {what}, because {error}.{said}")}
        store.enqueue(incident.id, channel=SLACK, kind="post", body=body, key=f"{key}-{message.tag}")


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
    if message.channel != "pagerduty" or message.tries < BACKUP_AFTER_TRIES or backup is None:
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
