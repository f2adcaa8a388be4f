"""A stand-in for PagerDuty's REST API v2 and Events API v2: what our block uses of them, with the clock."""

import copy
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from responder.domain.base import now
from responder.lab.http import Answer, Request, StandIn

_TICK_S = 0.05


@dataclass
class Page:
    """Somebody's telephone rang: for which policy, why and when."""

    at: datetime
    who: str
    why: str
    incident_id: str


@dataclass
class LogEntry:
    """One entry of an incident's log: `kind` as in PagerDuty's `*_log_entry` types, `who` an id."""

    at: datetime
    kind: str
    who: str


@dataclass
class Responder:
    """Somebody who was asked to join: through which target, with which words, and what they answered."""

    target: str
    target_kind: str
    user: str
    message: str
    at: datetime
    state: str = "pending"


@dataclass
class Incident:
    """An incident at the stand-in; times in UTC. `resolution` is what the resolver said."""

    id: str
    number: int
    incident_key: str
    title: str
    escalation_policy_id: str
    created_at: datetime
    status: str = "triggered"
    acknowledgements: list[tuple[str, datetime]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    log: list[LogEntry] = field(default_factory=list)
    assignee: str = ""
    responders: list[Responder] = field(default_factory=list)
    resolution: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    held_until: float = 0
    """On the monotonic clock: when an acknowledgement runs out."""


class PagerDutyStandIn(StandIn):
    """One service with one policy, and its on-call person. All state is in memory and may be read any time.

    `clock_scale` divides snoozes and the acknowledgement timeout; `appear_s` (real seconds) passes between
    an event's 202 and its incident. `service_settings` are further fields of the service, or other values of it.
    """

    def __init__(
        self,
        *,
        clock_scale: float = 1,
        appear_s: float = 0.3,
        acknowledgement_timeout_s: int = 1800,
        policies: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.clock_scale, self.appear_s = clock_scale, appear_s
        self.acknowledgement_timeout_s = acknowledgement_timeout_s
        self.api_token, self.routing_key = secrets.token_urlsafe(15), secrets.token_hex(16)
        self.from_email = "responder@example.com"
        self.requester_id, self.on_call_id = _new_id(), _new_id()
        self.service_id, self.escalation_policy_id = _new_id(), _new_id()
        self.policies = {self.escalation_policy_id, *policies}
        self.people = {self.requester_id: "Incident Responder", self.on_call_id: "On-call Engineer"}
        self.service_status = "active"
        self.urgency = "high"
        self.service_settings: dict[str, Any] = {}
        self._incidents: dict[str, Incident] = {}
        self._pages: list[Page] = []
        self._events: list[tuple[float, dict[str, Any]]] = []

    def settings(self) -> dict[str, Any]:
        """The fields of a PagerDuty block that speaks to this stand-in."""
        names = ("api_token", "routing_key", "from_email", "requester_id", "service_id")
        fields = {name: getattr(self, name) for name in (*names, "escalation_policy_id")}
        return fields | {"api_url": self.url, "events_url": self.url}

    def start(self) -> Self:
        """Listen, and let time pass also while nobody asks."""
        super().start()
        threading.Thread(target=self._tick, name="pagerduty clock", daemon=True).start()
        return self

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_S):
            with self.lock:
                self._catch_up()

    # What tests and drills read, as copies.

    @property
    def incidents(self) -> list[Incident]:
        """All incidents, oldest first."""
        with self.lock:
            self._catch_up()
            return copy.deepcopy(list(self._incidents.values()))

    @property
    def pages(self) -> list[Page]:
        """Every time that somebody was notified, in order."""
        with self.lock:
            self._catch_up()
            return list(self._pages)

    @property
    def notes(self) -> dict[str, list[str]]:
        """Notes by incident id."""
        return {incident.id: incident.notes for incident in self.incidents}

    # What others do: a monitoring system and people.

    def alert(self, incident_key: str, summary: str) -> None:
        """A monitoring system's integration fires: an incident appears, if none is open with this key."""
        self._enqueue("trigger", incident_key, {"summary": summary, "source": "monitoring"})

    def alert_resolved(self, incident_key: str) -> None:
        """The monitoring system sees the alert end: its incident is resolved."""
        self._enqueue("resolve", incident_key, {})

    def person_acknowledges(self, id: str, name: str = "On-call Engineer") -> str:
        """Somebody presses the button on a telephone; their user id. ValueError if it is resolved."""
        with self.lock:
            incident, who = self._open_incident(id), self._user(name)
            self._acknowledge(incident, who)
            return who

    def person_resolves(self, id: str, name: str = "On-call Engineer") -> str:
        """Somebody resolves the incident by hand; their user id. ValueError if it is resolved."""
        with self.lock:
            incident, who = self._open_incident(id), self._user(name)
            self._resolve(incident, who, "")
            return who

    def person_answers(self, id: str, target: str, state: str) -> None:
        """Whoever was asked through the target answers: `joined`, `declined` or `user_cancelled`."""
        with self.lock:
            asked = [one for one in self._open_incident(id).responders if one.target == target]
            if not asked:
                raise ValueError(f"nobody was asked through {target}")
            for one in asked:
                one.state = state

    def _open_incident(self, id: str) -> Incident:
        self._catch_up()
        if self._incidents[id].status == "resolved":
            raise ValueError(f"incident {id} is resolved")
        return self._incidents[id]

    def _user(self, name: str) -> str:
        for id, known in self.people.items():
            if known == name:
                return id
        id = _new_id()
        self.people[id] = name
        return id

    # The service's own life. The lock is held.

    def _enqueue(self, action: str, key: str, payload: dict[str, Any]) -> None:
        with self.lock:
            event = {"action": action, "key": key, "payload": payload}
            self._events.append((time.monotonic() + self.appear_s, event))

    def _catch_up(self) -> None:
        """Let everything happen that is due: events appear, acknowledgements run out."""
        moment = time.monotonic()
        due = [event for at, event in self._events if at <= moment]
        self._events = [(at, event) for at, event in self._events if at > moment]
        for event in due:
            self._apply(**event)
        for incident in self._incidents.values():
            if incident.status == "acknowledged" and incident.held_until <= moment:
                incident.log.append(LogEntry(now(), "unacknowledge", self.service_id))
                self._trigger(incident, "the acknowledgement ran out")

    def _apply(self, action: str, key: str, payload: dict[str, Any]) -> None:
        still_open = (i for i in self._incidents.values() if i.incident_key == key and i.status != "resolved")
        incident = next(still_open, None)
        if action == "trigger" and incident is None:
            incident = Incident(
                id=_new_id(),
                number=len(self._incidents) + 1,
                incident_key=key,
                title=payload["summary"],
                escalation_policy_id=self.escalation_policy_id,
                created_at=now(),
                assignee=self.on_call_id,
                details=payload.get("custom_details") or {},
            )
            self._incidents[incident.id] = incident
            incident.log.append(LogEntry(now(), "trigger", self.service_id))
            self._trigger(incident, "triggered")
        elif action == "acknowledge" and incident:
            self._acknowledge(incident, self.service_id)
        elif action == "resolve" and incident:
            self._resolve(incident, self.service_id, "")

    def _trigger(self, incident: Incident, why: str) -> None:
        incident.status = "triggered"
        incident.acknowledgements.clear()
        self._pages.append(Page(now(), incident.escalation_policy_id, why, incident.id))

    def _acknowledge(self, incident: Incident, who: str) -> None:
        incident.status = "acknowledged"
        incident.acknowledgements = [(id, at) for id, at in incident.acknowledgements if id != who]
        incident.acknowledgements.append((who, now()))
        incident.log.append(LogEntry(now(), "acknowledge", who))
        self._hold(incident, self.acknowledgement_timeout_s)

    def _hold(self, incident: Incident, seconds: float) -> None:
        incident.held_until = time.monotonic() + seconds / self.clock_scale

    def _resolve(self, incident: Incident, who: str, resolution: str) -> None:
        incident.status, incident.resolution = "resolved", resolution
        incident.acknowledgements.clear()
        incident.log.append(LogEntry(now(), "resolve", who))

    # HTTP.

    def refusal(self, status: int) -> Answer:
        """REST's envelope for an error that has nothing to do with what was asked."""
        messages = {
            400: ("Invalid Input Provided", 2001, ["The body is not valid JSON."]),
            401: ("Unauthorized", 2006, []),
            403: ("Access Denied", 2010, ["The token may not do this."]),
            404: ("Not Found", 2100, []),
            409: ("Conflict", 2020, ["The incident is being changed."]),
            429: ("Rate Limit Exceeded", 2020, ["Too many requests."]),
            500: ("Internal Server Error", 2000, []),
        }
        return _error(status, *messages[status])

    def handle(self, request: Request) -> Answer:
        """Answer as PagerDuty does, the token checked first."""
        self._catch_up()
        if (request.method, request.path) == ("POST", "/v2/enqueue"):
            return self._take_event(request.json)
        if request.headers.get("Authorization") != f"Token token={self.api_token}":
            return self.refusal(401)
        parts = request.path.strip("/").split("/")
        match request.method, parts:
            case "GET", ["incidents"]:
                return self._list(request)
            case "GET", ["services", self.service_id]:
                return Answer(200, {"service": self._service()})
            case "GET", ["oncalls"]:
                wanted = request.params.get("escalation_policy_ids[]", [])
                return Answer(200, _listed("oncalls", [self._on_call(p) for p in wanted if p in self.policies]))
            case _, ["incidents", id, *action] if id in self._incidents:
                return self._one(request, self._incidents[id], "/".join(action))
        return self.refusal(404)

    def _one(self, request: Request, incident: Incident, action: str) -> Answer:
        if request.method == "GET":
            reads: dict[str, Callable[[], Any]] = {
                "": lambda: {"incident": self._json(incident)},
                "notes": lambda: {"notes": [{"id": _new_id(), "content": text} for text in incident.notes]},
                "log_entries": lambda: _listed(
                    "log_entries",
                    [self._entry(e) for e in incident.log[::-1] if _iso(e.at) >= _utc(request.param("since"))],
                ),
            }
            return Answer(200, reads[action]()) if action in reads else self.refusal(404)
        if request.headers.get("From") != self.from_email:
            return _error(400, "Invalid Input Provided", 2001, ["Requester User Not Found"])
        body = request.json if isinstance(request.json, dict) else {}
        match request.method, action:
            case "PUT", "":
                return self._update(incident, body.get("incident") or {})
            case "POST", "snooze":
                return self._snooze(incident, body.get("duration"))
            case "POST", "notes":
                return self._note(incident, (body.get("note") or {}).get("content"))
            case "POST", "responder_requests":
                return self._request_responders(incident, body)
        return self.refusal(404)

    def _take_event(self, event: Any) -> Answer:
        event = event if isinstance(event, dict) else {}
        action, key, payload = event.get("event_action"), event.get("dedup_key"), event.get("payload") or {}
        errors = []
        if event.get("routing_key") != self.routing_key:
            errors.append("'routing_key' is invalid")
        if action not in ("trigger", "acknowledge", "resolve"):
            errors.append("'event_action' is invalid")
        if action == "trigger":
            errors += [f"'payload.{name}' is missing" for name in _PAYLOAD if not payload.get(name)]
            if len(payload.get("summary", "")) > 1024:
                errors.append("'payload.summary' is too long")
        if errors:
            body = {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
            return Answer(400, body)
        key = key or secrets.token_hex(16)
        self._enqueue(action, key, payload)
        return Answer(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def _list(self, request: Request) -> Answer:
        key, statuses = request.param("incident_key"), request.params.get("statuses[]", [])
        services = request.params.get("service_ids[]", [self.service_id])
        found = [
            incident
            for incident in self._incidents.values()
            if key in ("", incident.incident_key)
            and (not statuses or incident.status in statuses)
            and self.service_id in services
        ]
        if request.param("sort_by") == "created_at:desc":
            found.reverse()
        limit = int(request.param("limit", "25"))
        page = _listed("incidents", [self._json(incident) for incident in found[:limit]])
        return Answer(200, page | {"limit": limit, "more": len(found) > limit})

    def _update(self, incident: Incident, change: dict[str, Any]) -> Answer:
        if incident.status == "resolved":
            return _error(400, "Invalid Input Provided", 2001, ["Incident Already Resolved"])
        status, policy = change.get("status"), (change.get("escalation_policy") or {}).get("id")
        assignees = [one["assignee"]["id"] for one in change.get("assignments", [])]
        if policy is not None and policy not in self.policies:
            return _error(400, "Invalid Input Provided", 2001, ["Escalation policy not found"])
        if any(assignee not in self.people for assignee in assignees):
            return _error(400, "Invalid Input Provided", 2001, ["Assignee Cannot Be Found"])
        if assignees:
            incident.assignee = assignees[0]
            incident.log.append(LogEntry(now(), "assign", self.requester_id))
            self._trigger(incident, f"assigned to {self.people[assignees[0]]}")
        if policy:
            incident.escalation_policy_id = policy
            incident.log.append(LogEntry(now(), "assign", self.requester_id))
        if status == "acknowledged":
            self._acknowledge(incident, self.requester_id)
        elif status == "resolved":
            self._resolve(incident, self.requester_id, change.get("resolution", ""))
        elif status == "triggered" or policy:
            incident.log.append(LogEntry(now(), "escalate", self.requester_id))
            self._trigger(incident, "escalated" if policy else "handed back")
        return Answer(200, {"incident": self._json(incident)})

    def _snooze(self, incident: Incident, duration: Any) -> Answer:
        if not isinstance(duration, int) or not 1 <= duration <= 604800:
            return _error(400, "Invalid Input Provided", 2001, ["Duration must be from 1 to 604800 seconds"])
        if incident.status != "acknowledged":
            return _error(400, "Invalid Input Provided", 2001, ["Incident must be acknowledged"])
        self._hold(incident, duration)
        incident.log.append(LogEntry(now(), "snooze", self.requester_id))
        return Answer(201, {"incident": self._json(incident)})

    def _note(self, incident: Incident, text: Any) -> Answer:
        if not isinstance(text, str) or not text:
            return _error(400, "Invalid Input Provided", 2001, ["Content cannot be empty"])
        incident.notes.append(text)
        incident.log.append(LogEntry(now(), "annotate", self.requester_id))
        note = {"id": _new_id(), "content": text, "user": self._who(self.requester_id), "created_at": _iso(now())}
        return Answer(200, {"note": note})

    def _request_responders(self, incident: Incident, body: dict[str, Any]) -> Answer:
        targets = [t["responder_request_target"] for t in body.get("responder_request_targets", [])]
        known = {"escalation_policy_reference": self.policies, "user_reference": self.people}
        if body.get("requester_id") not in self.people:
            return _error(400, "Invalid Input Provided", 2001, ["Requester not found"])
        if not targets or any(target["id"] not in known.get(target["type"], ()) for target in targets):
            return _error(400, "Invalid Input Provided", 2001, ["Responder request target not found"])
        asked = []
        for target in targets:
            self._pages.append(Page(now(), target["id"], body["message"], incident.id))
            kind = target["type"].removesuffix("_reference")
            user = target["id"] if kind == "user" else self.on_call_id
            asked.append(Responder(target["id"], kind, user, body["message"], now()))
        incident.responders += asked
        incident.log.append(LogEntry(now(), "responder_request", self.requester_id))
        return Answer(200, {"responder_request": self._responder_request(incident, asked)})

    def _responder_request(self, incident: Incident, asked: list[Responder]) -> dict[str, Any]:
        targets = [
            {"type": one.target_kind, "id": one.target, "incidents_responders": [self._responder(incident, one)]}
            for one in asked
        ]
        return {
            "incident": _reference(incident.id, "incident", incident.title),
            "requester": self._who(self.requester_id),
            "requested_at": _iso(asked[0].at),
            "message": asked[0].message,
            "responder_request_targets": [{"responder_request_target": target} for target in targets],
        }

    def _responder(self, incident: Incident, asked: Responder) -> dict[str, Any]:
        return {
            "state": asked.state,
            "user": self._who(asked.user),
            "incident": _reference(incident.id, "incident", incident.title),
            "updated_at": _iso(asked.at),
            "message": asked.message,
            "requester": self._who(self.requester_id),
            "requested_at": _iso(asked.at),
        }

    # Answers in PagerDuty's shape.

    def _json(self, incident: Incident) -> dict[str, Any]:
        acknowledged = [{"at": _iso(at), "acknowledger": self._who(id)} for id, at in incident.acknowledgements]
        assigned = [{"at": _iso(incident.created_at), "assignee": self._who(incident.assignee)}]
        policy = _reference(incident.escalation_policy_id, "escalation_policy", "On-call")
        changes = [e for e in incident.log if e.kind in ("trigger", "acknowledge", "unacknowledge", "resolve")]
        return {
            "id": incident.id,
            "type": "incident",
            "summary": f"[#{incident.number}] {incident.title}",
            "title": incident.title,
            "incident_number": incident.number,
            "incident_key": incident.incident_key,
            "status": incident.status,
            "urgency": self.urgency,
            "html_url": f"https://lab.pagerduty.com/incidents/{incident.id}",
            "created_at": _iso(incident.created_at),
            "last_status_change_at": _iso(changes[-1].at),
            "last_status_change_by": self._who(changes[-1].who),
            "service": _reference(self.service_id, "service", "Lab service"),
            "escalation_policy": policy,
            "assignments": [] if incident.status == "resolved" else assigned,
            "acknowledgements": acknowledged,
            "incidents_responders": [self._responder(incident, one) for one in incident.responders],
            "responder_requests": [self._responder_request(incident, [one]) for one in incident.responders],
        }

    def _service(self) -> dict[str, Any]:
        integration = _reference(_new_id(), "events_api_v2_inbound_integration", "Events API v2")
        return {
            "id": self.service_id,
            "type": "service",
            "name": "Lab service",
            "status": self.service_status,
            "acknowledgement_timeout": self.acknowledgement_timeout_s or None,
            "incident_urgency_rule": {"type": "constant", "urgency": self.urgency},
            "escalation_policy": _reference(self.escalation_policy_id, "escalation_policy", "On-call"),
            "integrations": [integration | {"integration_key": self.routing_key}],
            **self.service_settings,
        }

    def _on_call(self, policy: str) -> dict[str, Any]:
        user = self._who(self.on_call_id)
        return {
            "escalation_policy": _reference(policy, "escalation_policy", policy),
            "escalation_level": 1,
            "user": user,
        }

    def _entry(self, entry: LogEntry) -> dict[str, Any]:
        kind = f"{entry.kind}_log_entry"
        return {"id": _new_id(), "type": kind, "created_at": _iso(entry.at), "agent": self._who(entry.who)}

    def _who(self, id: str) -> dict[str, Any]:
        if id == self.service_id:
            return _reference(id, "service", "Lab service")
        return _reference(id, "user", self.people[id])


_PAYLOAD = ("summary", "source", "severity")


def _new_id() -> str:
    return "P" + secrets.token_hex(4).upper()[:7]


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _utc(text: str) -> str:
    return _iso(datetime.fromisoformat(text)) if text else ""


def _reference(id: str, kind: str, summary: str) -> dict[str, Any]:
    return {"id": id, "type": f"{kind}_reference", "summary": summary}


def _error(status: int, message: str, code: int, errors: list[str]) -> Answer:
    return Answer(status, {"error": {"message": message, "code": code, "errors": errors}})


def _listed(name: str, items: list[Any]) -> dict[str, Any]:
    return {name: items, "offset": 0, "more": False}
