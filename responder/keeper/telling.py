"""What sending one message means beyond PagerDuty and Slack: the status page, the tickets, the stakeholders.

Status page and tickets are looked at before anything is written, so that a message whose answer was lost is not
said twice. An e-mail cannot be looked at: it may come twice rather than never.
"""

from blocks.notification import notify
from responder.domain.errors import PermanentError
from responder.keeper.access import Access
from responder.store.tables import IncidentRow, MessageRow


class NothingToTellError(PermanentError):
    """There is nothing any more that the message could be about."""


def tell_statuspage(access: Access, message: MessageRow, incident: IncidentRow) -> None:
    """Publish the message's text and state: a new incident on the page, or an update of ours.

    Raises as the block does, and NothingToTellError where customers have nothing to learn from it.
    """
    page, body = access.statuspage(incident.service), message.body
    state = {"status": body["status"], "text": body["text"], "components": body["components"]}
    ours = page.find(incident.id)
    if ours is None:
        if body["status"] == "resolved":
            raise NothingToTellError("the status page never showed this incident")
        page.create(incident.id, body["name"], impact=body["impact"], **state)
    elif ours.says(body["text"]):
        return
    elif not ours.open:
        raise NothingToTellError("somebody has ended it on the status page")
    else:
        page.update(ours.id, **state)


def tell_tickets(access: Access, message: MessageRow, incident: IncidentRow) -> None:
    """Open a ticket, or add to the open one of the same finding what this incident has to say about it.

    Raises as the block does, and NothingToTellError where the ticket to comment on is closed or gone.
    """
    tickets, body = access.tickets(incident.service), message.body
    known = tickets.find(body["marker"])
    if known is None:
        if message.kind == "comment":
            raise NothingToTellError("the ticket is not open any more")
        tickets.create(body["title"], body["text"], labels=body["labels"], assignees=body["assignees"])
        return
    said = (known.body, *tickets.comments(known.number, since=incident.opened_at))
    if not any(body["seen_in"] in text for text in said):
        tickets.comment(known.number, body["comment"])


def tell_stakeholders(access: Access, message: MessageRow) -> None:
    """Send a notice through the saved notification block that the message names. Raises as `notify` does."""
    notify(access.notification(message.body["block"]), message.body["subject"], message.body["text"])
