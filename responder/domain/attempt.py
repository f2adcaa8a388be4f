"""The states of an attempt, in one place for every strategy and every undo.

    intended ─► acted ─► ended ─► committed ─► undone
       │          │        └────► failed ────► undone
       ├─► barred, not_acted       (certainly nothing happened)
       └─► unknown ◄─ acted        (only a look at the service tells more)

The intent stands in the store before anything is sent; `acted` means that the host's fence is ours and the change
runs detached; `ended` is its exit status, which proves nothing; `committed` needs the postcondition, seen by fresh
probes. Whoever takes up an attempt after a crash finds it in one of these and goes on from there.

Source: `design.md`, "The words" (attempt) and "Rules that keep people safe".
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from responder.domain.errors import PermanentError
from responder.domain.readings import Snapshot


class AttemptState(StrEnum):
    """How far an attempt has come."""

    INTENDED = "intended"
    ACTED = "acted"
    ENDED = "ended"
    COMMITTED = "committed"
    UNDONE = "undone"
    FAILED = "failed"
    UNKNOWN = "unknown"
    BARRED = "barred"
    NOT_ACTED = "not_acted"

    @property
    def harmless(self) -> bool:
        """Whether it is certain that nothing was changed and nothing will be."""
        return self in (AttemptState.BARRED, AttemptState.NOT_ACTED)

    @property
    def open_ended(self) -> bool:
        """Whether something of it may still be happening on its host."""
        return self in (AttemptState.INTENDED, AttemptState.ACTED, AttemptState.UNKNOWN)


_S = AttemptState
_FOLLOWING: Mapping[AttemptState, frozenset[AttemptState]] = {
    _S.INTENDED: frozenset({_S.ACTED, _S.ENDED, _S.BARRED, _S.NOT_ACTED, _S.UNKNOWN}),
    _S.ACTED: frozenset({_S.ENDED, _S.BARRED, _S.UNKNOWN}),
    _S.ENDED: frozenset({_S.COMMITTED, _S.FAILED, _S.UNKNOWN}),
    _S.UNKNOWN: frozenset({_S.ENDED, _S.BARRED, _S.COMMITTED, _S.FAILED}),
    _S.COMMITTED: frozenset({_S.FAILED, _S.UNDONE}),
    _S.FAILED: frozenset({_S.COMMITTED, _S.UNDONE}),
    _S.UNDONE: frozenset(),
    _S.BARRED: frozenset(),
    _S.NOT_ACTED: frozenset(),
}


def require_follows(before: AttemptState, after: AttemptState) -> None:
    """Raise `PermanentError` unless `after` may follow `before`; the same state again changes nothing."""
    if after is not before and after not in _FOLLOWING[before]:
        raise PermanentError(f"an attempt that is {before} cannot become {after}: look at it before going on")


def difference(before: Snapshot, after: Snapshot) -> dict[str, tuple[Any, Any]]:
    """What an attempt changed: (before, after) of each thing that differs. What is not known shows as None."""
    was, now = before.seen(), after.seen()
    return {name: (was.get(name), now.get(name)) for name in {**was, **now} if was.get(name) != now.get(name)}
