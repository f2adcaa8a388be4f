"""The canary: an alert about nothing that goes the whole way, by which a broken way is found in good time."""

import hashlib
from datetime import datetime
from typing import Any

from pydantic import Field

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.incident import Outcome

NAME = "IncidentCanary"
EXPECTED = (Outcome.FALSE_ALARM, Outcome.NO_FAULT, Outcome.DRY_RUN)
"""How the incident of an alert about nothing ends where nothing is wrong."""


class Canary(Frozen):
    """One alert about nothing, by its sender's own clock."""

    service: str
    fingerprint: str
    starts_at: UtcDatetime

    @property
    def labels(self) -> dict[str, str]:
        """They select the service, as those of its other alerts do."""
        return {"alertname": NAME, "service": self.service, "canary": self.fingerprint}

    def webhook(self, ends_at: datetime | None = None) -> dict[str, Any]:
        """The body of Alertmanager's webhook, version 4, that says it; with `ends_at` that it has stopped."""
        alert = {
            "status": "resolved" if ends_at else "firing",
            "labels": self.labels,
            "annotations": {"summary": f"A canary: nothing is wrong with {self.service}"},
            "startsAt": self.starts_at.isoformat(),
            "endsAt": ends_at.isoformat() if ends_at else "0001-01-01T00:00:00Z",
            "fingerprint": self.fingerprint,
        }
        return {"version": "4", "groupKey": f"canary:{self.fingerprint}", "truncatedAlerts": 0, "alerts": [alert]}


def fingerprint_of(seed: str) -> str:
    """A fingerprint as monitoring systems make them: the same for the same seed."""
    return hashlib.sha256(seed.encode()).hexdigest()[:16]


class CanaryReport(Frozen):
    """How long after the alert began each station of its way was reached, seconds; None: it was not."""

    incident_id: str
    outcome: Outcome | None
    accepted_s: float
    opened_s: float | None = Field(description="None: it reopened one that had ended a short while ago.")
    acknowledged_s: float | None
    first_line_s: float | None
    ended_s: float | None

    @property
    def arrived(self) -> bool:
        """Whether its incident ended, and as that of an alert about nothing does."""
        return self.outcome in EXPECTED

    def table(self) -> str:
        """Markdown for its run's page."""
        stations = {
            "accepted by the HTTP door": self.accepted_s,
            "its incident opened": self.opened_s,
            "its page acknowledged": self.acknowledged_s,
            "the first phase begun": self.first_line_s,
            "ended": self.ended_s,
        }
        rows = [f"| {name} | {'–' if took is None else f'{took:.2f}'} |" for name, took in stations.items()]
        outcome = self.outcome.value if self.outcome else "open"
        head = f"Incident `{self.incident_id}`: {outcome}"
        return "\n".join([head, "", "| station | seconds after the alert |", "| --- | --- |", *rows])
