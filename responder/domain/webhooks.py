"""What monitoring systems post: their bodies read into alerts, leniently: an alert that is refused is lost.

Sources: Alertmanager's webhook, version 4 (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config),
and PagerDuty's webhooks v3 (https://developer.pagerduty.com/docs/webhooks-overview).
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from responder.domain.base import Frozen, Text, UtcDatetime
from responder.domain.escaping import bound
from responder.domain.incident import Alert, clean_alert
from responder.domain.notices import plain

MOST_LABELS = 64
LABEL_CHARACTERS = 200
VALUE_CHARACTERS = 1_000
SUMMARY_CHARACTERS = 1_000
NAMELESS = "alert without a name"
PAGERDUTY_FIRING = frozenset({"incident.triggered", "incident.reopened", "incident.unacknowledged"})
PAGERDUTY_OVER = "incident.resolved"
_TIME = TypeAdapter(UtcDatetime)


class Signal(Frozen):
    """One alert as it came in; with `ends_at` it has stopped.

    Two signals with one `key` are the same one, said again.
    """

    key: str
    source: Literal["alertmanager", "pagerduty"]
    alert: Alert
    truncated: int = Field(0, description="How many alerts of its group the sender has left out.")
    refused: str = Field("", description="Why nothing can ever be made of it.")


class _Posted(BaseModel):
    """A body from outside: what is not known is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True)


class AlertmanagerWebhook(_Posted):
    """The body of Alertmanager's webhook, version 4. One alert that cannot be read costs no other."""

    version: Literal["4"]
    group_key: Text = Field(alias="groupKey", max_length=20_000, description="Names the group.")
    truncated: int = Field(0, alias="truncatedAlerts", ge=0, le=10**9, description="Alerts left out.")
    alerts: list[Any] = Field(
        max_length=10_000,
        description="Each with status, labels, annotations, startsAt, endsAt and fingerprint.",
        json_schema_extra={"items": {"type": "object"}},
    )


class PagerDutyEvent(_Posted):
    """What happened to an incident of PagerDuty."""

    id: Text = Field(min_length=1, max_length=200, description="Of this event: a second one is a replay.")
    event_type: Text = Field(max_length=200)
    occurred_at: UtcDatetime
    data: dict[str, Any]


class PagerDutyWebhook(_Posted):
    """The body of a webhook v3 of PagerDuty."""

    event: PagerDutyEvent


def from_alertmanager(posted: AlertmanagerWebhook, received_at: datetime) -> tuple[Signal, ...]:
    """One signal for each alert of the body."""
    # What Alertmanager gives PagerDuty as dedup key: https://github.com/prometheus/alertmanager, notify.Key.Hash.
    key = hashlib.sha256(posted.group_key.encode()).hexdigest()
    return tuple(_alertmanager_signal(found, key, posted.truncated, received_at) for found in posted.alerts)


def _alertmanager_signal(found: Any, incident_key: str, truncated: int, received_at: datetime) -> Signal:
    if not isinstance(found, dict):
        return _refused("alertmanager", found, "an alert that is no object")
    labels = _labels(found.get("labels"))
    notes = _labels(found.get("annotations"))
    starts_at, over = _time(found.get("startsAt")), found.get("status") == "resolved"
    # While it fires, `endsAt` is the year 1, or when Prometheus would give it up.
    ends_at = (_time(found.get("endsAt")) or received_at) if over else None
    fingerprint = _text(found.get("fingerprint"), 200) or _digest(labels)
    alert = _alert(
        name=labels.get("alertname") or NAMELESS,
        labels=labels,
        summary=next((notes[name] for name in ("summary", "description", "message") if notes.get(name)), ""),
        fingerprint=fingerprint,
        starts_at=starts_at,
        ends_at=ends_at,
        incident_key=incident_key,
    )
    key = _digest([fingerprint, labels, starts_at.isoformat() if starts_at else "", over])
    return Signal(key=f"alertmanager:{key}", source="alertmanager", alert=alert, truncated=truncated)


def from_pagerduty(posted: PagerDutyWebhook) -> Signal | None:
    """The signal of an event that says that something fires or has stopped; None for any other event.

    The label `service` is the name of PagerDuty's service, `pagerduty_service` its id.
    """
    event, data = posted.event, posted.event.data
    if event.event_type not in (*PAGERDUTY_FIRING, PAGERDUTY_OVER):
        return None
    service = _part(data, "service")
    title = _text(data.get("title"), SUMMARY_CHARACTERS)
    labels = {
        "service": _text(service.get("summary"), VALUE_CHARACTERS),
        "pagerduty_service": _text(service.get("id"), VALUE_CHARACTERS),
        "urgency": _text(data.get("urgency"), VALUE_CHARACTERS),
        "priority": _text(_part(data, "priority").get("summary"), VALUE_CHARACTERS),
    }
    alert = _alert(
        name=str(plain(title, 200)) or NAMELESS,
        labels={name: value for name, value in labels.items() if value},
        summary=title,
        fingerprint=_text(data.get("id"), 200) or event.id,
        starts_at=_time(data.get("created_at")) or event.occurred_at,
        ends_at=event.occurred_at if event.event_type == PAGERDUTY_OVER else None,
        incident_key=_text(data.get("incident_key"), 255),
    )
    return Signal(key=f"pagerduty:{_digest(event.id)}", source="pagerduty", alert=alert)


def signed_by(body: bytes, header: str, secrets: Iterable[str]) -> bool:
    """Whether one of the signatures in `X-PagerDuty-Signature` (`v1=HEX,v1=HEX`) was made with one of the secrets.

    Source: https://developer.pagerduty.com/docs/verifying-webhook-signatures
    """
    given = [part.strip().removeprefix("v1=") for part in header.split(",") if part.strip().startswith("v1=")]
    found = False
    for secret in secrets:
        made = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        for signature in given:
            found |= hmac.compare_digest(made.encode(), signature.encode())
    return found


def _alert(**values: Any) -> Alert:
    values["name"] = bound(values["name"], 200)
    values["summary"] = bound(values["summary"], SUMMARY_CHARACTERS)
    moments = {name: value.isoformat() for name, value in values.items() if isinstance(value, datetime)}
    return Alert.model_validate(clean_alert(values | moments))


def _refused(source: Literal["alertmanager"], found: Any, why: str) -> Signal:
    shown = bound(json.dumps(found, default=str), SUMMARY_CHARACTERS)
    alert = _alert(name=NAMELESS, labels={}, summary=shown)
    return Signal(key=f"{source}:{_digest(shown)}", source=source, alert=alert, refused=why)


def _labels(found: Any) -> dict[str, str]:
    """The labels as bounded text, 64 at most; the name first, so that it is not what is left out."""
    if not isinstance(found, Mapping):
        return {}
    names = sorted(found, key=lambda name: (name not in ("alertname", "service", "severity", "instance"), name))
    return {
        _text(name, LABEL_CHARACTERS): _text(found[name], VALUE_CHARACTERS if name != "summary" else 2_000)
        for name in names[:MOST_LABELS]
    }


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = found.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(found: Any, limit: int) -> str:
    if found is None:
        return ""
    return bound(found if isinstance(found, str) else json.dumps(found, default=str), limit)


def _time(found: Any) -> datetime | None:
    """A moment that is one: the year 1 is how Go says none."""
    try:
        moment = _TIME.validate_python(found, strict=False) if isinstance(found, str) else None
    except ValidationError:
        return None
    return moment if moment and moment > datetime(1970, 1, 2, tzinfo=UTC) else None


def _digest(found: Any) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode(errors="replace")).hexdigest()
