"""The live timeline: what happens, as it happens, for the person at the terminal."""

import time
from typing import Any

from rich.console import Console
from rich.text import Text

from responder.cli.output import people, print_json_line, results
from responder.domain.base import now
from responder.domain.escaping import clean
from responder.store import Store
from responder.store.entries import store_entries
from responder.store.tables import IncidentRow

POLL_S = 0.3
TOLD_S = 20.0
STYLES = {"alert": "red", "phase": "bold", "attempt": "yellow", "decision": "cyan", "message": "dim", "run": ""}


class Live:
    """Prints each new entry of an incident's timeline once; on a terminal also what is being done now.

    With `as_json` each is a JSON document on a line of standard output.
    """

    def __init__(self, console: Console, *, as_json: bool = False) -> None:
        self._console = console
        self._json = as_json
        self._shown: set[str] = set()
        self._status = console.status("starting the run …") if console.is_terminal and not as_json else None
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
            if self._json:
                at = entry.at.isoformat(timespec="seconds")
                print_json_line({"event": "entry", "at": at, "source": entry.source, "what": entry.text})
                continue
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


def watch(store: Store, incident_id: str | None, *, as_json: bool) -> dict[str, Any]:
    """Show an incident's timeline until its run has ended; returns how.

    Without an id it is the newest open one, or the next that opens.
    """
    row = store.incident(incident_id) if incident_id else _newest_open(store)
    if row is None:
        people.print("no incident is open; waiting for one …")
    while row is None:
        time.sleep(POLL_S)
        row = _newest_open(store)
    live, patience = Live(results, as_json=as_json), TOLD_S
    try:
        while True:
            row = store.incident(row.id)
            live.show(store, row)
            if row.outcome or row.status == "closed":
                # The last messages are sent after the end; one that cannot be delivered holds nobody here.
                if patience <= 0 or all(message.state != "waiting" for message in store.messages(row.id)):
                    break
                patience -= POLL_S
            time.sleep(POLL_S)
    finally:
        live.close()
    names = ("service", "severity", "status", "outcome", "reason")
    return {"incident": row.id, **{name: getattr(row, name) for name in names}}


def _newest_open(store: Store) -> IncidentRow | None:
    """One whose run goes on before those that only wait for a person to close them."""
    rows = store.open_incidents()
    return next((row for row in rows if row.outcome is None), rows[0] if rows else None)
