"""Bodies that monitoring systems post: read whole whatever is in them, and never refused for one bad alert."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.webhooks import (
    MOST_LABELS,
    NAMELESS,
    AlertmanagerWebhook,
    PagerDutyWebhook,
    Signal,
    from_alertmanager,
    from_pagerduty,
    signed_by,
)

SAMPLES = Path(__file__).parent / "samples" / "alertmanager"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def sample(name: str) -> tuple[Signal, ...]:
    posted = AlertmanagerWebhook.model_validate_json((SAMPLES / f"{name}.json").read_text())
    return from_alertmanager(posted, NOW)


def posted(*alerts: Any, **changes: Any) -> tuple[Signal, ...]:
    body = {"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "alerts": list(alerts)} | changes
    return from_alertmanager(AlertmanagerWebhook.model_validate_json(json.dumps(body)), NOW)


def firing(**changes: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {"alertname": "ShopDown", "service": "shop"},
        "annotations": {"summary": "The shop is down"},
        "startsAt": "2026-11-24T11:33:09.063Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "6fdef4e5bbe0534a",
    } | changes


def test_a_real_firing_alert_is_read_with_pagerdutys_key_of_its_group() -> None:
    [signal] = sample("firing_gateway_down")
    alert = signal.alert
    assert (alert.name, alert.labels["instance"], alert.ends_at) == ("VelozGatewayDown", "veloz-gw-7", None)
    assert alert.summary == "Gateway veloz-gw-7 is down"
    assert alert.starts_at == datetime(2026, 11, 23, 11, 33, 9, 63000, tzinfo=UTC)
    group = '{}:{alertname="VelozGatewayDown", cluster="prod-a"}'
    assert alert.incident_key == hashlib.sha256(group.encode()).hexdigest()


def test_a_real_resolved_alert_has_its_end() -> None:
    [signal] = sample("resolved_gateway_down")
    assert signal.alert.ends_at is not None
    assert signal.alert.ends_at > signal.alert.starts_at  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "firing", "resolved", "truncated"),
    [
        ("grouped_50_firing", 50, 0, 0),
        ("mixed_30_firing_20_resolved", 30, 20, 0),
        ("truncated_max_alerts_10", 10, 0, None),
    ],
)
def test_real_groups_are_read_whole(name: str, firing: int, resolved: int, truncated: int | None) -> None:
    signals = sample(name)
    ended = [signal for signal in signals if signal.alert.ends_at]
    assert (len(signals) - len(ended), len(ended)) == (firing, resolved)
    assert len({signal.key for signal in signals}) == len(signals)
    assert all(signal.truncated > 0 if truncated is None else signal.truncated == truncated for signal in signals)


def test_the_same_alert_said_again_has_the_same_key_and_its_end_another() -> None:
    [first], [again] = posted(firing()), posted(firing(annotations={"summary": "still down"}))
    [over] = posted(firing(status="resolved", endsAt="2026-11-24T11:40:00Z"))
    [later] = posted(firing(startsAt="2026-11-24T11:50:00Z"))
    assert first.key == again.key
    assert len({first.key, over.key, later.key}) == 3


def test_the_end_of_an_alert_without_a_time_is_when_it_was_told() -> None:
    [over] = posted(firing(status="resolved"))
    assert over.alert.ends_at == NOW


@pytest.mark.parametrize("odd", ["0001-01-01T00:00:00Z", "soon", None, 7, "99999-01-01T00:00:00Z", ""])
def test_a_start_that_is_no_time_costs_no_alert(odd: Any) -> None:
    [signal] = posted(firing(startsAt=odd))
    assert signal.alert.starts_at is None


def test_one_alert_that_cannot_be_read_costs_no_other() -> None:
    good, bad = posted(firing(), "what?")
    assert (good.refused, good.alert.name) == ("", "ShopDown")
    assert bad.refused
    assert "what?" in bad.alert.summary


def test_an_alert_without_a_name_has_one_all_the_same() -> None:
    [signal] = posted(firing(labels={}))
    assert signal.alert.name == NAMELESS


def test_secrets_in_labels_and_annotations_are_hidden_before_anything_is_kept() -> None:
    labels = {"alertname": "ShopDown", "url": "https://u:hunter2secret@db/x"}
    [signal] = posted(firing(labels=labels, annotations={"summary": "password=hunter2secret"}))
    assert "hunter2secret" not in signal.model_dump_json()


def test_the_labels_that_count_survive_a_thousand_others() -> None:
    labels = {f"a{n}": "x" for n in range(1_000)} | {"alertname": "ShopDown", "service": "shop"}
    [signal] = posted(firing(labels=labels))
    assert len(signal.alert.labels) == MOST_LABELS
    assert (signal.alert.name, signal.alert.labels["service"]) == ("ShopDown", "shop")


@settings(max_examples=150)
@given(JSON, JSON, JSON, JSON)
def test_whatever_stands_in_an_alert_becomes_a_bounded_signal(
    labels: Any, notes: Any, start: Any, end: Any
) -> None:
    alert = {"status": "firing", "labels": labels, "annotations": notes, "startsAt": start, "endsAt": end}
    [signal] = posted(alert)
    assert len(signal.model_dump_json()) < 200_000
    assert Signal.model_validate_json(signal.model_dump_json()) == signal


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_a_huge_value_is_bounded(size: int) -> None:
    [signal] = posted(firing(labels={"alertname": "A" * size, "service": "é" * size}))
    assert len(signal.model_dump_json()) < 20_000


@pytest.mark.parametrize(
    "body", [{}, {"version": "3"}, {"version": "4", "groupKey": "x"}, {"version": "4", "alerts": 1}]
)
def test_a_body_of_another_kind_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AlertmanagerWebhook.model_validate(body)


def event(kind: str, **changes: Any) -> Signal | None:
    data = {
        "id": "PGR0VU2",
        "title": "Orders hang",
        "created_at": "2026-11-24T11:00:00Z",
        "incident_key": "d3640fbd41094207a1c11e58e46b1662",
        "service": {"id": "PF9KMXH", "summary": "veloz"},
        "urgency": "high",
        "priority": {"id": "PSO75BM", "summary": "P1"},
    } | changes
    body = {
        "event": {"id": "5ac64822-4adc", "event_type": kind, "occurred_at": "2026-11-24T11:00:05Z", "data": data}
    }
    return from_pagerduty(PagerDutyWebhook.model_validate_json(json.dumps(body)))


def test_a_pagerduty_incident_is_an_alert_with_its_service_as_label() -> None:
    signal = event("incident.triggered")
    assert signal
    assert (signal.alert.name, signal.alert.labels["service"], signal.alert.ends_at) == (
        "Orders hang",
        "veloz",
        None,
    )
    assert signal.alert.incident_key == "d3640fbd41094207a1c11e58e46b1662"


def test_a_resolved_pagerduty_incident_ends_its_alert() -> None:
    signal = event("incident.resolved")
    assert signal
    assert signal.alert.ends_at == datetime(2026, 11, 24, 11, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["incident.annotated", "pagey.ping", "service.updated", ""])
def test_other_events_of_pagerduty_begin_nothing(kind: str) -> None:
    assert event(kind) is None


@settings(max_examples=100)
@given(JSON, JSON, JSON)
def test_whatever_stands_in_a_pagerduty_incident_becomes_a_signal(title: Any, service: Any, key: Any) -> None:
    assert event("incident.triggered", title=title, service=service, incident_key=key, priority=service)


def test_a_signature_is_right_with_any_of_the_secrets_and_any_of_the_signatures() -> None:
    body = b'{"event": {}}'
    made = hmac.new(b"second", body, hashlib.sha256).hexdigest()
    assert signed_by(body, f"v1=00,v1={made}", ["first", "second"])
    assert not signed_by(body + b" ", f"v1={made}", ["first", "second"])
    assert not signed_by(body, f"v0={made}", ["second"])
    assert not signed_by(body, "", ["second"])
    assert not signed_by(body, "v1=ü", ["second"])
