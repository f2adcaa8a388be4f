"""What became of alerts, and how long their incidents took."""

from collections.abc import Mapping
from datetime import datetime
from statistics import median
from typing import Any

from rich.text import Text

from blocks.run_history import run_url
from responder.domain.incident import Phase
from responder.store import Store
from responder.store.tables import IncidentRow

MOST = 200


def receipt_documents(store: Store, incident_id: str, limit: int) -> list[dict[str, Any]]:
    """The receipts, the newest first, with the links that people follow."""
    wanted = store.incident(incident_id).id if incident_id else ""
    documents = []
    for row in store.receipts(incident_id=wanted, limit=limit):
        incident = store.incident(row.incident_id) if row.incident_id else None
        documents.append(
            {
                "id": row.id,
                "received_at": row.received_at.isoformat(timespec="seconds"),
                "seen_at": row.seen_at.isoformat(timespec="seconds"),
                "times": row.times,
                "source": row.source,
                "name": row.name,
                "firing": row.firing,
                "went": row.went,
                "why": row.why + (f"; {row.truncated} of its group were left out" if row.truncated else ""),
                "incident": row.incident_id,
                "run_url": run_url(incident.run_id) if incident else None,
                "page_url": incident.pagerduty_url if incident else None,
            }
        )
    return documents


def receipt_row(document: Mapping[str, Any]) -> dict[str, Any]:
    """A receipt as people read it in a line; a terminal that can follows the incident's id to its run."""
    incident, url = document["incident"], document["run_url"]
    return {
        **document,
        "received_at": datetime.fromisoformat(document["received_at"]).strftime("%d %b %H:%M:%S"),
        "alert": document["name"] if document["firing"] else f"{document['name']} has stopped",
        "incident": incident and Text(incident, f"link {url}" if url else ""),
    }


def statistics_document(store: Store) -> dict[str, Any]:
    """The last incidents with their seconds since the alert, and the median of each kind."""
    rows = [_seconds(store, row) for row in store.incidents(limit=MOST)]
    kinds = ("acknowledged", "first_action", "verified", "closed")
    medians = {
        kind: round(median(known), 1) if (known := [r[kind] for r in rows if r[kind] is not None]) else None
        for kind in kinds
    }
    return {"medians_s": medians, "incidents": rows}


def _seconds(store: Store, row: IncidentRow) -> dict[str, Any]:
    starts = [alert.starts_at for alert in store.alerts(row.id) if alert.starts_at]
    began = min([*starts, row.opened_at])
    acted = [attempt.acted_at for attempt in store.attempts(row.id) if attempt.acted_at]
    held = [
        phase.ended_at
        for phase in store.phases(row.id)
        if phase.name.startswith(f"{Phase.VERIFY}:") and phase.ended_at and phase.outcome
    ]

    def since(at: datetime | None) -> float | None:
        return round((at - began).total_seconds(), 1) if at else None

    return {
        "id": row.id,
        "service": row.service,
        "severity": row.severity,
        "acknowledged": since(row.acknowledged_at),
        "first_action": since(min(acted, default=None)),
        "verified": since(max(held, default=None)),
        "closed": since(row.closed_at),
    }
