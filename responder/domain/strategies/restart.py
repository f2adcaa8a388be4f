"""Restart: the document's answer to a crashed process and to a memory leak."""

from typing import ClassVar

from responder.domain.evidence import Dossier, Verdict
from responder.domain.readings import Reading, Snapshot
from responder.domain.strategies.base import Strategy, Target


class Restart(Strategy):
    """Start the unit's process anew. Nothing can be undone."""

    name: ClassVar[str] = "restart"

    def postcondition(self, before: Snapshot, after: Dossier, target: Target) -> tuple[Reading, ...]:
        """Another process, started after the snapshot, is running."""
        return (restarted(before, after, target.host), *super().postcondition(before, after, target))


def restarted(before: Snapshot, dossier: Dossier, host: str) -> Reading:
    """The restart's own postcondition: another process, started after the snapshot, is running."""
    pid, started = dossier.value(host, "unit.main_pid"), dossier.value(host, "unit.started_at")
    if not pid or started is None:
        state = dossier.value(host, "unit.active_state")
        verdict: Verdict = "unknown" if state is None else "unhealthy"
        return Reading(host=host, check="restart", verdict=verdict, reason="the unit has no main process")
    if pid == before.main_pid and started == before.started_at:
        return Reading(
            host=host, check="restart", verdict="unhealthy", reason=f"process {pid} is the one from before"
        )
    return Reading(
        host=host, check="restart", verdict="healthy", reason=f"process {pid} replaced {before.main_pid or 'none'}"
    )
