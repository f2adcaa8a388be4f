"""Small builders for tests of the domain and the store: whole and valid unless told otherwise."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import yaml

from responder.domain.evidence import Dossier, Evidence
from responder.domain.hypothesis import Catalogue
from responder.domain.incident import Alert, Kind, Mode
from responder.domain.profile import Profile
from responder.store import Store
from responder.store.tables import IncidentRow

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday


def profile_data(**changes: Any) -> dict[str, Any]:
    """The data of a small valid profile; keyword arguments replace whole sections."""
    data: dict[str, Any] = {
        "schema_version": 1,
        "name": "shop",
        "hosts": [{"name": "gw-1", "address": "10.0.0.1"}, {"name": "gw-2", "address": "10.0.0.2"}],
        "ssh": {"user": "ops", "private_key": "SHOP_SSH_KEY"},
        "unit": {"name": "shop-gateway"},
        "endpoints": {"health": {"url": "http://localhost:8080/health", "expect": {"ok": True}}},
        "severities": {
            "levels": {
                level: {"name": level, "description": level, "update_every_minutes": 30}
                for level in ("P1", "P2", "P3", "P4")
            },
            "rules": [{"level": "P3", "reason": "nothing graver was seen"}],
        },
        "alerts": {"match": {"service": "shop"}},
        "strategies": {
            "restart": {
                "command": ["sudo", "systemctl", "restart", "shop-gateway"],
                "budget": {"attempts": 1, "within_minutes": 30},
            }
        },
    }
    return data | changes


def profile(**changes: Any) -> Profile:
    """A small valid profile."""
    return Profile.model_validate(profile_data(**changes))


def open_incident(store: Store, of: Profile, **changes: Any) -> IncidentRow:
    """An open incident of a service: live, declared by a person, without alerts."""
    facts: dict[str, Any] = {
        "run_id": str(uuid4()),
        "summary": "gateway down",
        "kind": Kind.AVAILABILITY,
        "mode": Mode.LIVE,
        "alerts": [],
        "severity": None,
        "declared": True,
    }
    return store.open_incident(profile=of, **facts | changes)


def intend(store: Store, incident_id: str, epoch: int, step_id: str = "restart-gw-1", target: str = "gw-1") -> Any:
    """An attempt to restart the target, intended and not begun."""
    return store.intend(
        incident_id,
        epoch,
        step_id=step_id,
        strategy="restart",
        target=target,
        machine=f"{target}:22",
        command=["systemctl", "restart", "shop"],
        snapshot={"pid": 7},
    )


def profile_text(**changes: Any) -> str:
    """The same as a YAML file."""
    return yaml.safe_dump(profile_data(**changes), sort_keys=False)


def hypothesis_data(name: str, **changes: Any) -> dict[str, Any]:
    """One row of a catalogue that holds where `unit.active_state` is `failed`."""
    data: dict[str, Any] = {
        "id": name,
        "part": "gateway",
        "cause": f"The cause of {name}.",
        "requires": [{"evidence": "unit.active_state", "value": "failed"}],
        "strategy": "restart",
        "why": f"Because of {name}.",
        "prevention": "Prevent it.",
        "monitoring": "Watch it.",
        "documentation": "Write it down.",
    }
    return data | changes


def catalogue(*rows: dict[str, Any]) -> Catalogue:
    """A catalogue of these rows."""
    return Catalogue.model_validate({"schema_version": 1, "hypotheses": list(rows)})


def seen(host: str, key: str, value: Any = None, *, unknown: str | None = None) -> Evidence:
    """One observation; without a value it is unknown."""
    if value is None and unknown is None:
        unknown = "it did not answer"
    return Evidence(id=f"{key}@{host}", key=key, host=host, at=NOON, how="looked", value=value, unknown=unknown)


def dossier(*evidence: Evidence) -> Dossier:
    """These observations, the last one the latest."""
    return Dossier(evidence=evidence)


def alert(name: str = "ShopDown", **changes: Any) -> Alert:
    """An alert of the shop."""
    return Alert.model_validate({"name": name, "labels": {"service": "shop"}, "starts_at": NOON} | changes)
