"""What sending means in each channel.

Whatever can be looked at is looked at before it is repeated, so that a message whose answer was lost is not said
twice. An e-mail cannot be looked at: it may come twice rather than never.
"""

import hashlib
from dataclasses import replace

from blocks.notification import notify
from responder.domain.errors import PermanentError, TransientError
from responder.domain.profile import Profile
from responder.keeper.paging import tell_pagerduty
from responder.keeper.saying import NothingToTellError, Saying
from responder.store import Store
from responder.store.tables import IncidentRow


def tell(saying: Saying) -> None:
    """Say it, unless it has arrived already. Raises as the channel's block does, and NothingToTellError."""
    match saying.channel:
        case "pagerduty":
            tell_pagerduty(saying)
        case "statuspage":
            _tell_statuspage(saying)
        case "tickets":
            _tell_tickets(saying)
        case "stakeholders":
            _tell_stakeholders(saying)
        case _:
            _tell_slack(saying)


def _tell_slack(saying: Saying) -> None:
    incident, body = saying.incident, saying.body
    slack = saying.access.slack(incident.service)
    match saying.kind:
        case "create_channel":
            channel = slack.create_channel(body["name"], body["topic"], incident_id=incident.id)
            saying.store.note_world(incident.id, channel_id=channel.id, channel_name=channel.name)
        case "post" | "escalate":
            profile = Profile.model_validate(incident.profile)
            fallback = profile.slack.backup_channel if profile.slack else None
            target = body.get("channel") or _open_channel(saying.store, incident) or fallback
            if target is None:
                raise PermanentError(
                    "there is no channel to post to: the incident's is archived, or was not created"
                )
            if left := saying.left(lambda: slack.arrived(target, since=saying.since)):
                slack.post(target, left.body["text"], left.body.get("blocks"), tags=left.tags)
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


def _tell_statuspage(saying: Saying) -> None:
    """Publish text and state: a new incident on the page, or an update of ours.

    Raises NothingToTellError where customers have nothing to learn from it.
    """
    page = saying.access.statuspage(saying.incident.service)
    ours = page.find(saying.incident.id)
    if ours is None:
        if all(message.body["status"] == "resolved" for message in saying.messages):
            raise NothingToTellError("the status page never showed this incident")
        left: Saying | None = saying
    else:
        # An older release gave no tags: there the text itself tells.
        arrived = ours.tags or [m.tag for m in saying.messages if ours.says(m.body["text"])]
        left = saying.without(arrived)
    if left is None:
        return
    body, tags = left.body, left.tags
    state = {"status": body["status"], "text": body["text"], "components": body["components"]}
    if ours is None:
        page.create(saying.incident.id, body["name"], impact=body["impact"], tags=tags, **state)
    elif not ours.open:
        raise NothingToTellError("somebody has ended it on the status page")
    else:
        page.update(ours, tags=tags, **state)


def _tell_tickets(saying: Saying) -> None:
    """Open a ticket, or add to the open one of the same finding what this incident has to say about it.

    Raises NothingToTellError where the ticket to comment on is closed or gone.
    """
    tickets, body = saying.access.tickets(saying.incident.service), saying.body
    known = tickets.find(body["marker"])
    if known is None and saying.tried_before:
        # Somebody may have closed it between two tries.
        known = tickets.find(body["marker"], body["seen_in"], closed=True)
    if known is None:
        if saying.kind == "comment":
            raise NothingToTellError("the ticket is not open any more")
        tickets.create(body["title"], body["text"], labels=body["labels"], assignees=body["assignees"])
        return
    said = (known.body, *tickets.comments(known.number, since=saying.incident.opened_at))
    if not any(body["seen_in"] in text for text in said):
        tickets.comment(known.number, body["comment"])


def _tell_stakeholders(saying: Saying) -> None:
    """Through the saved notification block that the message names. Nobody can look whether it has arrived."""
    body = replace(saying, unchecked=saying.tried_before).body
    # By what is in it: where a digest has grown since, a mailbox that drops what it has must not drop this one.
    key = hashlib.sha256(" ".join(saying.tags).encode()).hexdigest()[:32]
    notify(saying.access.notification(body["block"]), body["subject"], body["text"], key=key)
