"""A stand-in for Statuspage's REST API: what our block uses of it."""

import copy
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from responder.domain.base import now
from responder.lab.http import Answer, Request, StandIn

_STATES = ("investigating", "identified", "monitoring", "resolved")
_IMPACTS = ("none", "maintenance", "minor", "major", "critical")
_COMPONENT_STATES = ("operational", "under_maintenance", "degraded_performance", "partial_outage", "major_outage")


@dataclass
class Update:
    """One text that subscribers got, and the state that came with it."""

    at: datetime
    status: str
    body: str


@dataclass
class PublicIncident:
    """An incident on the page."""

    id: str
    name: str
    impact: str
    status: str = "investigating"
    metadata: dict[str, Any] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    """Oldest first."""


class StatuspageStandIn(StandIn):
    """One page with its components. All state is in memory and may be read at any time."""

    def __init__(self, *, components: Iterable[str] = ("trading",)) -> None:
        super().__init__()
        self.api_token, self.page_id = secrets.token_hex(16), _new_id()
        self._names = {_new_id(): name for name in components}
        self._components = dict.fromkeys(self._names, "operational")
        self._incidents: list[PublicIncident] = []

    def settings(self) -> dict[str, Any]:
        """The fields of a Statuspage block that speaks to this stand-in."""
        return {
            "api_token": self.api_token,
            "page_id": self.page_id,
            "component_ids": list(self._names),
            "base_url": f"{self.url}/v1",
        }

    @property
    def incidents(self) -> list[PublicIncident]:
        """All incidents, oldest first, as copies."""
        with self.lock:
            return copy.deepcopy(self._incidents)

    @property
    def components(self) -> dict[str, str]:
        """The state of each component, by its id."""
        with self.lock:
            return dict(self._components)

    def person_resolves(self, id: str) -> None:
        """Somebody ends an incident on the page itself."""
        with self.lock:
            [incident] = [known for known in self._incidents if known.id == id]
            self._change(incident, {"status": "resolved", "body": "Fixed."})

    def refusal(self, status: int) -> Answer:
        """Statuspage's wording: one word or sentence in `error`."""
        words = {
            400: "Bad request",
            401: "Could not authenticate",
            403: "Not authorized",
            404: "Not found",
            409: "Conflict",
            429: "Too many requests",
            500: "Internal server error",
        }
        return Answer(status, {"error": words[status]})

    def handle(self, request: Request) -> Answer:
        """Answer as Statuspage does, the key checked first."""
        if request.headers.get("Authorization") != f"OAuth {self.api_token}":
            return self.refusal(401)
        parts = request.path.strip("/").split("/")
        if parts[:3] != ["v1", "pages", self.page_id]:
            return self.refusal(404)
        body = request.json if isinstance(request.json, dict) else {}
        match request.method, parts[3:]:
            case "GET", ["components"]:
                known = self._components.items()
                return Answer(200, [{"id": id, "name": self._names[id], "status": status} for id, status in known])
            case "GET", ["incidents"]:
                newest = self._incidents[::-1][: int(request.param("limit", "100"))]
                return Answer(200, [self._json(incident) for incident in newest])
            case "POST", ["incidents"]:
                return self._create(body.get("incident") or {})
            case "PATCH", ["incidents", id]:
                for incident in self._incidents:
                    if incident.id == id:
                        fields = body.get("incident") or {}
                        wrong = self._wrong(fields)
                        return wrong or Answer(200, self._json(self._change(incident, fields)))
        return self.refusal(404)

    def _create(self, fields: dict[str, Any]) -> Answer:
        name, impact = fields.get("name"), fields.get("impact_override", "none")
        metadata = fields.get("metadata") or {}
        if wrong := self._wrong(fields):
            return wrong
        if not isinstance(name, str) or not 0 < len(name) <= 255:
            return _invalid("Name is too long (maximum is 255 characters)" if name else "Name can't be blank")
        if impact not in _IMPACTS:
            return _invalid("Impact override is not included in the list")
        incident = PublicIncident(_new_id(), name, impact, metadata=metadata)
        self._incidents.append(incident)
        return Answer(201, self._json(self._change(incident, fields)))

    def _wrong(self, fields: dict[str, Any]) -> Answer | None:
        changed = fields.get("components") or {}
        if not all(isinstance(value, dict) for value in (fields.get("metadata") or {}).values()):
            return _invalid("Metadata top-level values must be objects")
        if fields.get("status", "investigating") not in _STATES:
            return _invalid("Status is not included in the list")
        if not set(changed) | set(fields.get("component_ids") or []) <= set(self._components):
            return _invalid("Component not found")
        if not set(changed.values()) <= set(_COMPONENT_STATES):
            return _invalid("Component status is not included in the list")
        if len(fields.get("body") or "") > 25_000:
            return _invalid("Body is too long (maximum is 25000 characters)")
        return None

    def _change(self, incident: PublicIncident, fields: dict[str, Any]) -> PublicIncident:
        incident.status = fields.get("status", incident.status)
        incident.metadata = fields.get("metadata", incident.metadata)
        if fields.get("body"):
            incident.updates.append(Update(now(), incident.status, fields["body"]))
        self._components |= fields.get("components") or {}
        return incident

    def _json(self, incident: PublicIncident) -> dict[str, Any]:
        return {
            "id": incident.id,
            "name": incident.name,
            "page_id": self.page_id,
            "status": incident.status,
            "impact": incident.impact,
            "metadata": incident.metadata,
            "incident_updates": [
                {"id": _new_id(), "status": u.status, "body": u.body, "created_at": _iso(u.at)}
                for u in reversed(incident.updates)
            ],
        }


def _new_id() -> str:
    return secrets.token_hex(6)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _invalid(what: str) -> Answer:
    return Answer(422, {"error": [what]})
