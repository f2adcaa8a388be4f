"""The live timeline: what happens, as it happens, for the person at the terminal."""

from rich.console import Console
from rich.text import Text

from responder.domain.base import now
from responder.domain.escaping import clean
from responder.store import Store
from responder.store.entries import store_entries
from responder.store.tables import IncidentRow

STYLES = {"alert": "red", "phase": "bold", "attempt": "yellow", "decision": "cyan", "message": "dim", "run": ""}


class Live:
    """Prints each new entry of an incident's timeline once; on a terminal also what is being done now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: set[str] = set()
        self._status = console.status("starting the run …") if console.is_terminal else None
        if self._status:
            self._status.start()

    def show(self, store: Store, row: IncidentRow | None) -> None:
        """Print what is new."""
        if row is None:
            return
        entries = sorted(store_entries(store, row.id), key=lambda entry: entry.at)
        for entry in entries:
            key = f"{entry.id}:{entry.text}" if entry.source == "message" else entry.id
            if key in self._shown or (entry.source == "message" and "waiting" in entry.text):
                continue
            self._shown.add(key)
            line = Text(f"{entry.at:%H:%M:%S}  {entry.source:<8}  ")
            line.append(clean(entry.text), style=STYLES.get(entry.source, ""))
            self._console.print(line)
        if self._status:
            self._status.update(self._now(store, row))

    def _now(self, store: Store, row: IncidentRow) -> Text:
        step = next((lease.step for lease, incident in store.leases() if incident.id == row.id), "")
        budget = row.profile.get("phase_budgets_minutes", {})
        phase = next((p.name for p in reversed(store.phases(row.id)) if p.outcome is None), "")
        minutes = (now() - row.opened_at).total_seconds() / 60
        limit = budget.get(phase.split(":")[0])
        words = f"{row.severity or 'P?'} {row.service}: {step or phase or 'starting'} — {minutes:.1f} min"
        return Text(words + (f" of {limit:g}" if limit else ""))

    def close(self) -> None:
        """Stop drawing."""
        if self._status:
            self._status.stop()
