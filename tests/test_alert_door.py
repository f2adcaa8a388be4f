"""The HTTP door for alerts: kept before it is answered, refused only for what can never become valid."""

import hashlib
import hmac
import json
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from responder.receiver import access, bounds, inbox
from responder.receiver.alerts import SECRETS
from responder.store import Store
from tests.test_receiver import WRONG, Door, served

SAMPLES = Path(__file__).parent / "samples" / "alertmanager"
SLOW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with closing(Store(f"sqlite:///{tmp_path}/incidents.db")) as store:
        store.migrate()
        with served(store) as (url, application):
            yield Door(store, url, store.add_token("alertmanager", sends_alerts=True)[1], application)


def body(*alerts: Any, **changes: Any) -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "alerts": list(alerts)} | changes


def alert(name: str = "ShopDown", **changes: Any) -> dict[str, Any]:
    labels = {"alertname": name, "service": "shop"}
    return {
        "status": "firing",
        "labels": labels,
        "startsAt": "2026-11-24T11:33:09Z",
        "fingerprint": name,
    } | changes


def post(door: Door, content: bytes, path: str = "/alerts/alertmanager", **headers: str) -> httpx.Response:
    return door.ask("POST", path, content=content, headers={"Content-Type": "application/json"} | headers)


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLES.glob("*_*.json")))
def test_what_alertmanager_really_sends_is_in_the_store_when_it_is_answered(door: Door, name: str) -> None:
    sent = (SAMPLES / f"{name}.json").read_bytes()
    got = post(door, sent)
    count = len(json.loads(sent)["alerts"])
    assert (got.status_code, got.json()["alerts"]) == (202, count)
    assert got.json()["left_out"] == json.loads(sent)["truncatedAlerts"]
    assert len(door.store.receipts(limit=1_000)) == count
    post(door, sent)
    assert {row.times for row in door.store.receipts(limit=1_000)} == {2}


def test_receipts_say_what_became_of_alerts_to_people_and_not_to_senders(door: Door) -> None:
    door.ask("POST", "/alerts/alertmanager", body(alert(), truncatedAlerts=3))
    assert door.ask("GET", "/receipts").status_code == 401
    _, persons = door.store.add_token("robin")
    [shown] = door.ask("GET", "/receipts", token=persons).json()
    assert (shown["name"], shown["went"], shown["firing"], shown["left_out"]) == ("ShopDown", "received", True, 3)
    assert door.ask("GET", "/receipts?incident=abc", token=persons).status_code == 404


def test_a_senders_token_opens_nothing_but_alerts_and_a_persons_may_send_one(door: Door) -> None:
    for path in ("/incidents", "/stop", "/openapi.json"):
        assert door.ask("GET", path).status_code == 401
    assert door.ask("POST", "/stop", {"why": "x"}).status_code == 401
    _, persons = door.store.add_token("robin")
    assert door.ask("POST", "/alerts/alertmanager", body(alert()), token=persons).status_code == 202


def test_wrong_tokens_are_never_told_429_which_alertmanager_would_drop(door: Door) -> None:
    codes = [
        door.ask("POST", "/alerts/alertmanager", body(), token=WRONG).status_code
        for _ in range(access.GUESSES + 5)
    ]
    assert set(codes) == {401, 503}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"{", 422),
        (b"[" * 100_000, 400),
        (b'{"a":' * 50_000, 400),
        (b"\xff\xfe", 422),
        (b"", 422),
        (b"null", 422),
        (b'{"version":"5","groupKey":"x","alerts":[]}', 422),
        (b'{"version":"4","groupKey":"x","alerts":{}}', 422),
        (b'{"version":"4","groupKey":"x","alerts":[],"truncatedAlerts":-1}', 422),
        (b'{"version":"4","groupKey":"x","alerts":[]}', 202),
        (b'{"version":"4","groupKey":"x","alerts":[{}],"more":1e999}', 202),
    ],
)
def test_only_what_can_never_become_valid_is_refused(door: Door, sent: bytes, code: int) -> None:
    got = post(door, sent)
    assert (got.status_code, len(got.content) < 2_000) == (code, True), got.text


def test_a_body_beyond_the_bound_is_refused_before_it_is_read(door: Door) -> None:
    with socket.create_connection(httpx.URL(door.url).netloc.decode().split(":")) as sender:  # type: ignore[arg-type]
        head = f"POST /alerts/alertmanager HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.token}\r\n"
        sender.sendall(f"{head}Content-Length: {10**10}\r\n\r\n".encode())
        sent = 0
        try:
            while sent < bounds.MOST_ALERT_BYTES + 2**20:
                sent += sender.send(b"a" * 2**16)
        except OSError:
            pass
        assert b" 413 " in sender.recv(1_000)


def test_one_alert_that_is_none_costs_no_other(door: Door) -> None:
    got = door.ask("POST", "/alerts/alertmanager", body(alert(), 7, None, [], alert("ShopSlow")))
    assert (got.status_code, got.json()["alerts"]) == (202, 5)
    went = sorted((row.name, row.went) for row in door.store.receipts())
    assert went[:2] == [("ShopDown", "received"), ("ShopSlow", "received")]
    assert {how for _, how in went[2:]} == {"refused"}


def test_what_cannot_be_kept_is_not_accepted_and_the_same_may_come_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(door.store, "receive", full)
        assert door.ask("POST", "/alerts/alertmanager", body(alert())).status_code >= 500
    assert door.ask("POST", "/alerts/alertmanager", body(alert())).status_code == 202
    assert len(door.store.receipts()) == 1


def test_too_many_that_wait_are_sent_away_with_503(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST_WAITING", -1)
    got = door.ask("POST", "/alerts/alertmanager", body(alert()))
    assert (got.status_code, "send them again" in got.json()["error"]) == (503, True)


def test_alerts_that_come_together_are_all_kept(door: Door) -> None:
    def send(number: int) -> int:
        return door.ask("POST", "/alerts/alertmanager", body(alert(f"A{number}"), alert("Same"))).status_code

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(send, range(100))) == {202}
    rows = door.store.receipts(limit=1_000)
    assert (len(rows), {row.times for row in rows if row.name == "Same"}) == (101, {100})


TEXT = st.text(max_size=200) | st.sampled_from(
    ["{{ 7*7 }}", "$(reboot)", "`x`; rm -rf /", "<!channel>", "[a](b)", "\x00", "\ud800", "a\nb", "é" * 5_000]
)


@SLOW
@given(st.dictionaries(TEXT, TEXT, max_size=5), TEXT, TEXT)
def test_no_label_value_is_an_error_of_ours(door: Door, labels: dict[str, str], start: str, print_: str) -> None:
    sent = json.dumps(body(alert(labels=labels, startsAt=start, fingerprint=print_, annotations=labels)))
    assert post(door, sent.encode()).status_code == 202


def test_figures_are_prometheus_own_format(door: Door) -> None:
    door.ask("POST", "/alerts/alertmanager", body(alert()))
    text = door.ask("GET", "/metrics").text
    found = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
    assert found["incident_receipts_waiting"].value == 1
    assert found["incident_requests_total"].labels == {"route": "/alerts/alertmanager", "status": "202"}


# --- PagerDuty -----------------------------------------------------------------------------------------


def event(number: int = 1, kind: str = "incident.triggered") -> bytes:
    data = {
        "id": "PGR0VU2",
        "title": "Orders hang",
        "created_at": "2026-11-24T11:00:00Z",
        "service": {"summary": "shop"},
    }
    told = {"id": f"event-{number}", "event_type": kind, "occurred_at": "2026-11-24T11:00:05Z", "data": data}
    return json.dumps({"event": told}).encode()


def signature(content: bytes, secret: str) -> str:
    return "v1=" + hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


@pytest.fixture
def signing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRETS, "old-secret new-secret")


@pytest.mark.usefixtures("signing")
def test_a_signed_event_is_kept_and_its_replay_only_counted(door: Door) -> None:
    for secret in ("old-secret", "new-secret"):
        sent = event()
        header = f"v1=00,{signature(sent, secret)}"
        got = post(door, sent, "/alerts/pagerduty", **{"X-PagerDuty-Signature": header})
        assert (got.status_code, got.json()["alerts"]) == (202, 1)
    [row] = door.store.receipts()
    assert (row.source, row.name, row.times) == ("pagerduty", "Orders hang", 2)


@pytest.mark.usefixtures("signing")
@pytest.mark.parametrize("header", ["", "v1=", "v1=00", "v1=é".encode("latin-1").decode("latin-1"), "Bearer x"])
def test_a_forged_event_is_refused(door: Door, header: str) -> None:
    with httpx.Client(trust_env=False) as client:
        headers = [(b"X-PagerDuty-Signature", header.encode("latin-1")), (b"Content-Type", b"application/json")]
        got = client.post(f"{door.url}/alerts/pagerduty", content=event(), headers=headers)
    assert got.status_code == 401
    other = signature(event(2), "new-secret")
    assert post(door, event(1), "/alerts/pagerduty", **{"X-PagerDuty-Signature": other}).status_code == 401
    assert not door.store.receipts()


def test_without_a_secret_pagerduty_is_asked_to_come_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRETS, raising=False)
    got = post(door, event(), "/alerts/pagerduty", **{"X-PagerDuty-Signature": signature(event(), "")})
    assert (got.status_code, SECRETS in got.json()["error"]) == (503, True)


@pytest.mark.usefixtures("signing")
def test_an_event_that_begins_nothing_is_accepted_and_kept_nowhere(door: Door) -> None:
    sent = event(kind="incident.annotated")
    got = post(door, sent, "/alerts/pagerduty", **{"X-PagerDuty-Signature": signature(sent, "new-secret")})
    assert (got.status_code, got.json()["alerts"], len(door.store.receipts())) == (202, 0, 0)
