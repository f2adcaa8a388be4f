"""What is said in one piece, and what of it has arrived already.

A try is counted before it is begun. Whoever comes to a message that was tried before does not know whether it
arrived, and asks the service; where that cannot be asked it is said again, marked, because being told twice hurts
less than not being told.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from responder.domain.digest import digest, section
from responder.domain.errors import PermanentError, TransientError
from responder.domain.messages import REPEATED
from responder.keeper.access import Access
from responder.store import Store
from responder.store.tables import IncidentRow, MessageRow


class NothingToTellError(PermanentError):
    """There is nothing any more that the message could be about."""


class NotFoundYetError(TransientError):
    """PagerDuty opens an incident a moment after the alert: it is looked for again."""


@dataclass(frozen=True)
class Saying:
    """One claimed message of the outbox, or several that are late, all of the same kind and channel."""

    store: Store
    access: Access
    incident: IncidentRow
    messages: tuple[MessageRow, ...]
    unchecked: bool = False
    """It was tried before, and it cannot be known whether it arrived."""

    @property
    def channel(self) -> str:
        """The first part of the channel's name: which service it goes to."""
        return self.messages[0].channel.partition("/")[0]

    @property
    def kind(self) -> str:
        """What is to be done there."""
        return self.messages[0].kind

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of all its messages."""
        return tuple(message.tag for message in self.messages)

    @property
    def tried_before(self) -> bool:
        """Whether it may have been sent, by us or by a keeper that is no more."""
        return any(message.tries > 1 for message in self.messages)

    @property
    def since(self) -> datetime:
        """When the first try was begun: what has arrived is not older."""
        return min(message.tried_at or message.created_at for message in self.messages)

    @property
    def body(self) -> dict[str, Any]:
        """What to say; a digest where there are several messages."""
        body = dict(digest(self.kind, [(message.created_at, message.body) for message in self.messages]))
        if self.unchecked:
            body["text"] = REPEATED + body["text"]
            if "subject" in body:
                body["subject"] = REPEATED + body["subject"]
            if body.get("blocks"):
                body["blocks"] = [section(REPEATED), *body["blocks"]]
        return body

    def left(self, look: Callable[[], Collection[str]]) -> "Saying | None":
        """What has not arrived, or None. `look` gives the tags of what has; it is asked where it was tried before.

        Where the service refuses to be looked at that is kept as a decision, and all is said, marked. Raises
        TransientError.
        """
        if not self.tried_before:
            return self
        try:
            return self.without(look())
        except PermanentError as error:
            what = f"repeats messages to {self.channel} without knowing whether they have arrived"
            self.store.decide(self.incident.id, who="keeper", what=what, why=str(error))
            return replace(self, unchecked=True)

    def without(self, arrived: Collection[str]) -> "Saying | None":
        """The messages without those whose tags have arrived; None if none is left."""
        rest = tuple(message for message in self.messages if message.tag not in arrived)
        return replace(self, messages=rest) if rest else None
