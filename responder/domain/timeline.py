"""The timeline: what happened, in UTC, merged from the store and the run history, never typed by hand.

Source: the document's phase 4, "Document findings: timeline of events".
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from responder.domain.base import Frozen, UtcDatetime

Source = Literal["alert", "run", "attempt", "decision", "message", "phase"]


class Entry(Frozen):
    """One thing that happened. `id` is the same in the store and in the run history."""

    at: UtcDatetime
    id: str
    source: Source
    text: str


class Timeline(Frozen):
    """Entries in order, and what the store knows of that the run history does not show."""

    entries: tuple[Entry, ...] = ()
    gaps: tuple[str, ...] = ()

    def told(self, rows: int) -> tuple[Entry, ...]:
        """The entries; beyond `rows` of them without those of the run history alone.

        A wide service leaves hundreds of rows of reading behind: what was decided and done must stay visible.
        """
        if len(self.entries) <= rows:
            return self.entries
        return tuple(entry for entry in self.entries if entry.source != "run")


def merge(
    of_store: Iterable[Entry], of_prefect: Iterable[Entry], *, expected: Mapping[str, str] | None = None
) -> Timeline:
    """One timeline, ordered by time, then by id. Where both know of an id, the store's entry stands.

    `expected` maps the ids that the run history should hold (phases begun, attempts made) to words for
    people; each that it lacks becomes a gap. Rows reach Prefect's server seconds late, so a gap may close.
    """
    shown = _by_id(of_prefect)
    merged = shown | _by_id(of_store)
    return Timeline(
        entries=tuple(sorted(merged.values(), key=_moment)),
        gaps=tuple(what for id, what in (expected or {}).items() if id not in shown),
    )


def _by_id(entries: Iterable[Entry]) -> dict[str, Entry]:
    # The latest first, so that of doubled entries the earliest stands, whatever order they came in.
    return {entry.id: entry for entry in sorted(entries, key=_moment, reverse=True)}


def _moment(entry: Entry) -> tuple[object, ...]:
    return (entry.at, entry.id, entry.source, entry.text)
