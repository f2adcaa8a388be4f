"""Notes on the page for what was decided: in order, a few decisions in one note, each once.

Up to which decision it is written stands in the outbox itself, so that a keeper that comes back goes on there.
"""

from datetime import UTC, datetime, timedelta

from responder.domain.base import now
from responder.domain.messages import PAGERDUTY
from responder.domain.notices import decisions_note
from responder.domain.profile import DRILL_SCALE, Profile
from responder.store import Store
from responder.store.tables import IncidentRow, MessageRow

LOOK_EVERY = timedelta(seconds=2)
# Decisions come in bunches: a note waits for the rest, so that the page does not get forty of one line.
GATHER = timedelta(seconds=20)
RECENT = timedelta(days=1)


class DecisionNotes:
    """Puts notes into the outbox. Remembers up to which decision each incident has them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: dict[str, int] = {}
        self._next = datetime.min.replace(tzinfo=UTC)

    def write_due(self) -> None:
        """Put a note for each incident with a page that has ended or whose decisions have gathered for a while."""
        at = now()
        if at < self._next:
            return
        self._next = at + LOOK_EVERY
        for incident, latest in self._store.latest_decisions(since=at - RECENT):
            if latest > self._noted.get(incident.id, 0):
                self._noted[incident.id] = note_decisions(self._store, incident, at=at)


def note_decisions(store: Store, incident: IncidentRow, *, at: datetime) -> int:
    """Put the note that is due, if one is; returns the number of the last decision that had one before."""
    noted = max((_upto(message) for message in store.messages(incident.id)), default=0)
    fresh = [made for made in store.decisions(incident.id) if made.id > noted]
    gathered = GATHER * (DRILL_SCALE if Profile.model_validate(incident.profile).drill else 1)
    if fresh and (at - fresh[0].at >= gathered or incident.outcome is not None):
        lines = [(made.at, f"{made.who}: {made.what}, because {made.why}") for made in fresh]
        text, written = decisions_note(lines)
        body = {"text": text, "decisions_upto": fresh[written - 1].id}
        # By where it begins: where two keepers gathered differently one is heard, and the other goes on after it.
        store.enqueue(incident.id, channel=PAGERDUTY, kind="note", body=body, key=f"decisions-after-{noted}")
    return noted


def _upto(message: MessageRow) -> int:
    return int(message.body.get("decisions_upto", 0))
