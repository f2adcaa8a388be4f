"""One check on one host, and what a host showed before an attempt."""

from datetime import datetime
from typing import Any

from pydantic import Field

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.evidence import Dossier, Verdict


class Reading(Frozen):
    """One check on one host."""

    host: str
    check: str
    verdict: Verdict
    reason: str
    final: bool = Field(False, description="No later look can change it.")


class Snapshot(Frozen):
    """What a host showed before an attempt, to tell afterwards that something really changed."""

    at: UtcDatetime
    main_pid: int | None
    started_at: str | None
    release: str | None = None
    orders: int | None = None
    facts: dict[str, Any] = Field(default_factory=dict, description="What the strategy itself reads, by key.")

    @classmethod
    def of(cls, dossier: Dossier, host: str, at: datetime, *, strategy: str = "") -> "Snapshot":
        """The snapshot of `host` in this look, with what `strategy` reads."""
        seen: dict[str, Any] = {
            "main_pid": dossier.value(host, "unit.main_pid"),
            "started_at": dossier.value(host, "unit.started_at"),
            "release": dossier.value(host, "changes.release"),
            "orders": dossier.value(host, "orders.items"),
        }
        facts = {e.key: e.value for e in dossier.for_host(host).evidence if e.key.startswith(f"{strategy}.")}
        return cls(at=at, facts=facts, **seen)

    def seen(self) -> dict[str, Any]:
        """Everything that was looked at, by name."""
        return self.model_dump(exclude={"at", "facts"}) | self.facts
