"""PagerDuty: finding, opening, holding and handing back a page. REST API v2 and Events API v2.

Source: developer.pagerduty.com, "REST API Reference" and "Events API v2 Overview". One call of ours is
one request (two for `acknowledge`): waiting and repeating are the caller's, who knows the
incident's clocks.
"""

import functools
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx2
import pagerduty
from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from responder.domain.base import Frozen, UtcDatetime, now
from responder.domain.errors import (
    DeniedError,
    IncidentResponseError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from responder.domain.redaction import clipped

EventSeverity = Literal["critical", "error", "warning", "info"]

SUMMARY_LIMIT = 1024
"""Characters of an event's summary (Events API v2, "Send an alert event"); more is refused."""


LONGEST_ACKNOWLEDGEMENT_S = 1800
"""A service's acknowledgement timeout (seconds; this is PagerDuty's default): the net below our snoozes."""

SHORTEST_AUTO_RESOLVE_S = 14_400
"""A service's auto-resolve timeout (seconds; this is PagerDuty's default), if it has one."""

_GIVEN_TO_PEOPLE = frozenset({"assign_log_entry", "escalate_log_entry"})


class Involvement(Frozen):
    """One person (or integration) who holds an incident, and since when."""

    id: str
    name: str
    at: UtcDatetime


ResponderState = Literal["pending", "joined", "declined", "user_cancelled"]


class Requested(Frozen):
    """One person who was asked to join, through which policy or as which user (`target`), and their answer."""

    target: str
    name: str
    state: ResponderState
    message: str


class PagerDutyIncident(Frozen):
    """An incident as PagerDuty sees it at the moment of the call."""

    id: str
    number: int
    title: str
    status: str
    urgency: str
    html_url: str
    created_at: UtcDatetime
    acknowledged_by: tuple[Involvement, ...] = ()
    assigned_to: tuple[Involvement, ...] = ()
    changed_by: str = ""
    """Id of whoever changed the status last."""
    requested: tuple[Requested, ...] = ()
    """Empty too where the account has no responder requests."""

    @property
    def open(self) -> bool:
        """Whether anybody still has to do something about it."""
        return self.status != "resolved"


class PagerDuty(Block):
    """One PagerDuty service: who is paged for it and with which credentials we speak."""

    _block_type_slug = "incident-pagerduty"
    _block_type_name = "Incident PagerDuty"
    _description = "A PagerDuty service: finds, opens, acknowledges, hands back and resolves its incidents."

    api_token: SecretStr = Field(description="REST API key (account or user token).")
    routing_key: SecretStr = Field(description="Integration key of the service's Events API v2 integration.")
    from_email: str = Field(
        description="Login e-mail of the PagerDuty user in whose name changes are made.",
        examples=["incident-bot@example.com"],
    )
    requester_id: str = Field(description="Id of that same user; responder requests name it.")
    service_id: str = Field(description="Id of the service whose incidents these are.", examples=["PIJ90N7"])
    escalation_policy_id: str = Field(description="Policy that is notified when a page is handed back.")
    api_url: str = Field("https://api.pagerduty.com", description="REST API; EU: https://api.eu.pagerduty.com.")
    events_url: str = Field(
        "https://events.pagerduty.com", description="Events API; EU: https://events.eu.pagerduty.com."
    )
    timeout_s: float = Field(10, gt=0, le=60, description="Seconds for connecting and for each wait on data.")

    @field_validator("api_url", "events_url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("must begin with https:// (plain http only on loopback): it carries the token")
        return url.rstrip("/")

    def find(self, incident_key: str, *, since: datetime | None = None) -> PagerDutyIncident | None:
        """The service's open incident with this key, else the newest resolved one, else None.

        `since` leaves out incidents that were resolved and opened before it. An incident appears here a
        moment after its event was accepted. Raises TransientError and PermanentError.
        Source: REST API, "List incidents".
        """
        # incident_key finds incidents by their alerts' key too; those then carry no incident_key of
        # their own, so that the answer cannot be filtered by it again.
        params = {
            "incident_key": incident_key,
            "service_ids": [self.service_id],
            "statuses": ["triggered", "acknowledged", "resolved"],
            "date_range": "all",
            "sort_by": "created_at:desc",
            "limit": 25,
        }
        with self._rest("look for the incident", changes=False) as rest:
            found = [_incident(raw) for raw in rest.rget("/incidents", params=params)]
        candidates = [i for i in found if i.open or since is None or i.created_at >= since]
        return next((i for i in candidates if i.open), candidates[0] if candidates else None)

    def get(self, id: str) -> PagerDutyIncident:
        """The incident. Raises TransientError and PermanentError. Source: REST API, "Get an incident"."""
        with self._rest(f"read incident {id}", changes=False) as rest:
            return _incident(rest.rget(_path(id)))

    def trigger(
        self,
        incident_key: str,
        summary: str,
        *,
        source: str,
        severity: EventSeverity = "critical",
        details: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Open an incident with this key through the Events API, or do nothing while one is open.

        `links` maps a text to its address. Repeating it is safe: PagerDuty knows the key. The incident
        appears in `find` a moment later. Raises TransientError, PermanentError and OutcomeUnknownError.
        Source: Events API v2, "Send an alert event".
        """
        with self._events("trigger an incident") as events:
            events.trigger(
                _cut(summary, SUMMARY_LIMIT),
                source,
                dedup_key=incident_key,
                severity=severity,
                custom_details=dict(details or {}),
                links=[{"href": href, "text": text} for text, href in (links or {}).items()],
            )

    def acknowledge(self, id: str, snooze_s: int) -> PagerDutyIncident:
        """Take the page for `snooze_s` seconds; then PagerDuty pages again by itself. Safe to repeat.

        PagerDuty snoozes only what is acknowledged, so that these are two requests. Where the second is
        refused the page is handed back before the error is raised (unless a person holds it too); where
        it could not be sent, call again, or the service's own acknowledgement timeout ends it. Raises
        TransientError, PermanentError (also for a resolved incident) and OutcomeUnknownError.
        Source: REST API, "Update an incident" and "Snooze an incident"; Phase 1.1 of the document.
        """
        held = self._update(id, "acknowledge", status="acknowledged")
        try:
            return self.snooze(id, snooze_s)
        except PermanentError:
            if all(holder.id == self.requester_id for holder in held.acknowledged_by):
                self._update(id, "hand back", status="triggered")
            raise

    def snooze(self, id: str, seconds: int) -> PagerDutyIncident:
        """Renew the time that we hold an acknowledged incident to `seconds` (1 to 604800) from now.

        Raises TransientError, PermanentError (not acknowledged any more) and OutcomeUnknownError.
        Source: REST API, "Snooze an incident".
        """
        with self._rest(f"snooze incident {id}") as rest:
            return _incident(rest.rpost(_path(id, "snooze"), json={"duration": seconds}))

    def note(self, id: str, text: str) -> None:
        """Add a note. Raises TransientError, PermanentError and, before repeating: OutcomeUnknownError.

        Source: REST API, "Create a note on an incident".
        """
        with self._rest(f"add a note to incident {id}") as rest:
            rest.rpost(_path(id, "notes"), json={"content": text})

    def notes(self, id: str) -> list[str]:
        """All notes' texts, as PagerDuty orders them. Raises TransientError and PermanentError.

        Source: REST API, "List notes for an incident".
        """
        with self._rest(f"read the notes of incident {id}", changes=False) as rest:
            return [note["content"] for note in rest.rget(_path(id, "notes"))]

    def page(self, id: str, message: str, policies: Sequence[str] = (), users: Sequence[str] = ()) -> None:
        """Ask whoever is on call for these policies, and these users, to join the incident (all by id).

        Raises TransientError, PermanentError (unknown policy or user: nobody is asked) and OutcomeUnknownError;
        repeating pages again. Source: REST API, "Create a responder request for an incident"; Phase 1.4.
        """
        targets = [(policy, "escalation_policy_reference") for policy in policies]
        targets += [(user, "user_reference") for user in users]
        body = {
            "requester_id": self.requester_id,
            "message": message,
            "responder_request_targets": [
                {"responder_request_target": {"id": target, "type": kind}} for target, kind in targets
            ],
        }
        with self._rest(f"page responders for incident {id}") as rest:
            rest.rpost(_path(id, "responder_requests"), json=body)

    def assign(self, id: str, user: str) -> None:
        """Give the incident to a user (by id), who is notified; who acknowledged it before holds it no more.

        Safe to repeat. Raises TransientError, PermanentError and OutcomeUnknownError. Source: REST API,
        "Update an incident"; the document's "IC Handoff Procedure", step 3.
        """
        self._update(id, "assign", assignments=[{"assignee": {"id": user, "type": "user_reference"}}])

    def escalate(self, id: str, *, escalation_policy_id: str | None = None) -> None:
        """Hand the page to people: triggered again, at the start of the policy.

        Repeating pages again: look into `reassigned` before. Raises TransientError, PermanentError and
        OutcomeUnknownError. Source: REST API, "Update an incident".
        """
        policy = escalation_policy_id or self.escalation_policy_id
        self._update(
            id,
            "escalate",
            status="triggered",
            escalation_policy={"id": policy, "type": "escalation_policy_reference"},
        )

    def reassigned(self, id: str, *, since: datetime) -> bool:
        """Whether we ourselves have given the incident to a policy or person since then (to the second).

        Raises TransientError and PermanentError. Source: REST API, "List log entries for an incident".
        """
        since = since.astimezone(UTC).replace(microsecond=0)
        params = {"since": since.isoformat(), "is_overview": False, "limit": 100}
        with self._rest(f"read the log of incident {id}", changes=False) as rest:
            return any(
                entry["type"] in _GIVEN_TO_PEOPLE
                and (entry.get("agent") or {}).get("id") == self.requester_id
                and datetime.fromisoformat(entry["created_at"]) >= since
                for entry in rest.rget(_path(id, "log_entries"), params=params)
            )

    def resolve(self, id: str, resolution: str) -> None:
        """Resolve the incident; one that is resolved already stays as it is. Safe to repeat.

        Raises TransientError, PermanentError and OutcomeUnknownError. Source: REST API, "Update an
        incident".
        """
        try:
            self._update(id, "resolve", status="resolved", resolution=resolution)
        except PermanentError:
            if self.get(id).open:
                raise

    def check(self, policies: Sequence[str] = ()) -> list[str]:
        """What would keep a page from working, one sentence each; empty when all is well. Only reads.

        `policies`: ids of those that are asked to join besides the service's own.
        Neither the user that `from_email` names nor the right to write can be tried without writing.
        Source: REST API, "Get a service" and "List all of the on-calls".
        """
        try:
            with self._rest(f"read service {self.service_id}", changes=False) as rest:
                path = f"/services/{quote(self.service_id, safe='')}"
                problems = self._service_problems(rest.rget(path, params={"include": ["integrations"]}))
            with self._rest("read who is on call", changes=False) as rest:
                wanted = dict.fromkeys((self.escalation_policy_id, *policies))
                found = rest.rget("/oncalls", params={"escalation_policy_ids": [*wanted], "limit": 100})
                on_call = {entry["escalation_policy"]["id"] for entry in found}
                problems += [f"nobody is on call for escalation policy {id}" for id in wanted if id not in on_call]
        except IncidentResponseError as error:
            return [str(error)]
        return problems

    def _service_problems(self, service: Mapping[str, Any]) -> list[str]:
        name = f"service {service['id']}"
        keys = [i["integration_key"] for i in service.get("integrations", []) if i.get("integration_key")]
        problems = []
        if service["status"] in ("disabled", "maintenance"):
            problems.append(f"{name} is in status {service['status']}: it pages nobody")
        if self.routing_key.get_secret_value() not in keys:
            problems.append(f"routing_key is none of the integration keys of {name}")
        timeout_s = service.get("acknowledgement_timeout")
        if not timeout_s:
            problems.append(f"{name} has no acknowledgement timeout: set one, in case a snooze fails")
        elif timeout_s > LONGEST_ACKNOWLEDGEMENT_S:
            problems.append(
                f"{name} has an acknowledgement timeout of {timeout_s} s: set {LONGEST_ACKNOWLEDGEMENT_S} at "
                "most, because for so long nobody is paged when a snooze fails"
            )
        resolve_s = service.get("auto_resolve_timeout")
        if resolve_s and resolve_s < SHORTEST_AUTO_RESOLVE_S:
            problems.append(
                f"{name} resolves incidents by itself after {resolve_s} s: set {SHORTEST_AUTO_RESOLVE_S} at least "
                "or none, because a page that is resolved wakes nobody while the service is still down"
            )
        pause = service.get("auto_pause_notifications_parameters") or {}
        if pause.get("enabled"):
            problems.append(
                f"{name} pauses notifications for {pause.get('timeout')} s: a page of ours waits so long"
            )
        for when, rule in _urgency_rules(service.get("incident_urgency_rule") or {}):
            if rule.get("type") == "constant" and rule.get("urgency") == "low":
                problems.append(f"{name} opens incidents with low urgency{when}: nobody is woken")
        return problems

    def _update(self, id: str, verb: str, **fields: Any) -> PagerDutyIncident:
        with self._rest(f"{verb} incident {id}") as rest:
            change = {"incident": {"type": "incident_reference", **fields}}
            return _incident(rest.rput(_path(id), json=change))

    @contextmanager
    def _rest(self, what: str, *, changes: bool = True) -> Iterator["_RestClient"]:
        token = self.api_token.get_secret_value()
        client = _RestClient(token, default_from=self.from_email, base_url=self.api_url, verify=_tls())
        with _one_try(client, self.timeout_s), _translated(what, changes=changes):
            yield client

    @contextmanager
    def _events(self, what: str) -> Iterator["_EventsClient"]:
        client = _EventsClient(self.routing_key.get_secret_value(), base_url=self.events_url, verify=_tls())
        with _one_try(client, self.timeout_s), _translated(what, changes=True):
            yield client


class _PlainHttpOnLoopback:
    """The SDK accepts https only; the block's own check of the address is the narrower one."""

    _url: Any

    @property
    def url(self) -> Any:
        return self._url

    @url.setter
    def url(self, url: str) -> None:
        self._url = url


class _RestClient(_PlainHttpOnLoopback, pagerduty.RestApiV2Client):
    pass


class _EventsClient(_PlainHttpOnLoopback, pagerduty.EventsApiV2Client):
    pass


@functools.cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates takes 50 ms; the client itself is made anew for each call, so that no
    # connection is kept that the other side may have closed: a change sent on it would be in doubt.
    return httpx2.create_ssl_context()


@contextmanager
def _one_try(client: Any, timeout_s: float) -> Iterator[None]:
    """Switch off the SDK's own waiting and repeating (by default without limit on 429)."""
    client.timeout = timeout_s
    client.max_network_attempts = 0
    client.max_http_attempts = -1
    client.retry = {429: 1}  # any entry makes the limit above count; without one 429 is repeated for ever
    with client:
        yield


@contextmanager
def _translated(what: str, *, changes: bool) -> Iterator[None]:
    """Turn whatever the SDK raises into one of our three kinds, once."""
    try:
        yield
    except pagerduty.Error as error:
        raise _ours(what, error, changes=changes) from error
    except (httpx2.DecodingError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(what, f"{type(error).__name__}: {error}", changes=changes) from error


def _ours(what: str, error: pagerduty.Error, *, changes: bool) -> IncidentResponseError:
    response, cause = error.response, error.__cause__
    if response is None:
        problem = f"PagerDuty: could not {what}: {type(cause or error).__name__}: {cause or error}"
        never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        return TransientError(problem) if never_sent or not changes else OutcomeUnknownError(problem)
    if response.is_success:
        return _unreadable(what, _said(response), changes=changes)
    problem = f"PagerDuty: could not {what}: {response.status_code} {_said(response)}"
    if response.status_code == 429:
        return TransientError(problem, retry_after_s=_retry_after_s(response.headers))
    # A 5xx or a conflict counts as not done: whoever repeats looks first whether it was.
    if response.status_code >= 500 or response.status_code == 409:
        return TransientError(problem)
    return (DeniedError if response.status_code in (401, 403) else PermanentError)(problem)


def _unreadable(what: str, answer: str, *, changes: bool) -> IncidentResponseError:
    problem = f"PagerDuty: could not {what}: unreadable answer: {clipped(answer, 200)}"
    return OutcomeUnknownError(problem) if changes else TransientError(problem)


def _said(response: httpx2.Response) -> str:
    """PagerDuty's own words for an error: {"error": {...}} from REST, the same unwrapped from Events."""
    try:
        body = response.json()
        error = body.get("error", body)
        return clipped(": ".join(filter(None, [error["message"], "; ".join(error.get("errors", []))])), 500)
    except (ValueError, LookupError, TypeError, AttributeError):
        return clipped(response.text.strip(), 200)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by Retry-After (number or date) or PagerDuty's `ratelimit-reset`; None if neither."""
    asked = headers.get("retry-after") or headers.get("ratelimit-reset")
    if asked is None:
        return None
    try:
        seconds = float(asked) if asked.isdecimal() else (parsedate_to_datetime(asked) - now()).total_seconds()
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return None
    return max(0.0, seconds)


def _incident(raw: Mapping[str, Any]) -> PagerDutyIncident:
    def involvements(items: str, person: str) -> tuple[Involvement, ...]:
        return tuple(
            Involvement(id=item[person]["id"], name=item[person].get("summary") or "", at=item["at"])
            for item in raw.get(items) or []
        )

    return PagerDutyIncident(
        id=raw["id"],
        number=raw["incident_number"],
        title=raw.get("title") or raw.get("summary") or "",
        status=raw["status"],
        urgency=raw.get("urgency") or "",
        html_url=raw.get("html_url") or "",
        created_at=raw["created_at"],
        acknowledged_by=involvements("acknowledgements", "acknowledger"),
        assigned_to=involvements("assignments", "assignee"),
        changed_by=(raw.get("last_status_change_by") or {}).get("id") or "",
        requested=tuple(_requested(raw.get("responder_requests") or [])),
    )


def _urgency_rules(rule: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rule, or both of those that it has for support hours, each with when it holds."""
    if rule.get("type") == "use_support_hours":
        yield " during support hours", rule.get("during_support_hours") or {}
        yield " outside support hours", rule.get("outside_support_hours") or {}
    else:
        yield "", rule


def _requested(requests: Sequence[Mapping[str, Any]]) -> Iterator[Requested]:
    """Every answer to our requests. The API's schema and its examples spell the list of responders differently."""
    for request in requests:
        for wrapped in request["responder_request_targets"]:
            target = wrapped.get("responder_request_target") or wrapped
            for asked in target.get("incidents_responders") or target.get("incident_responders") or []:
                yield Requested(
                    target=target["id"],
                    name=asked["user"].get("summary") or "",
                    state=asked["state"],
                    message=request.get("message") or "",
                )


def _path(id: str, *rest: str) -> str:
    return "/".join(["/incidents", quote(id, safe=""), *rest])


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
