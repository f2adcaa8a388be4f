"""What sending one message means beyond PagerDuty and Slack: the status page and the tickets.

Both are looked at before anything is written, so that a message whose answer was lost is not said twice.
"""

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
