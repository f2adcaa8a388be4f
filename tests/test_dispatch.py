"""Alerts through the HTTP door into incidents that run: on the session's server, worker and keeper, against a lab.

The incidents of the first tests run side by side; each test looks at one.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import prefect_api
import pytest
from commands import incident

from blocks.service import Service, saved_profiles
from responder.domain.base import now
from responder.domain.incident import NO_RUN, SUMMARY_LIMIT, Alert
from responder.installation import Installation
from responder.keeper.access import NEWS_S
from responder.lab.alertmanager import Alertmanager, post, webhook
from responder.lab.lab import Lab, RaisedAlert
from responder.store import Store
from responder.store.alerts import Went
from responder.store.tables import IncidentRow, ReceiptRow
from tests.lab_runs import broken_lab, save_unreachable, start_run, wait_ended, wait_for
from tests.test_receiver import served


@pytest.fixture(scope="module")
def door(installation: Installation) -> Iterator[tuple[str, str]]:
    """The URL for Alertmanager's webhook, and a sender's token."""
    from responder.store import open_store

    store = open_store()
    with served(store) as (url, _):
        yield f"{url}/alerts/alertmanager", store.add_token("alertmanager", sends_alerts=True)[1]
    store.close()


def raised(service: str, name: str = "Odd", **labels: str) -> RaisedAlert:
    """An alert of a service that has no lab."""
    return RaisedAlert(
        name=name,
        labels={"alertname": name, "service": service} | labels,
        annotations={"summary": f"{name} at {service}"},
        fingerprint=f"{service}-{name}",
        starts_at=now() - timedelta(seconds=5),
        group_key=f"{{}}:{{{service}}}",
    )


def receipt_of(store: Store, alert: RaisedAlert, *, firing: bool = True) -> ReceiptRow | None:
    """The receipt of the alert, once it is decided about."""
    rows = [
        row for row in store.receipts(limit=1_000) if (row.fingerprint, row.firing) == (alert.fingerprint, firing)
    ]
    return rows[0] if rows and rows[0].due_at is None else None


def runs_of(incident: IncidentRow) -> list[dict[str, Any]]:
    """Prefect's runs that work on the incident; its review is a run of another flow."""
    tagged = {"tags": {"all_": [f"incident:{incident.id}"]}}
    wanted = {"flow_runs": tagged, "flows": {"name": {"any_": ["incident"]}}}
    return list(prefect_api.post("/flow_runs/filter", wanted).raise_for_status().json())


def state_of(run_id: str) -> dict[str, Any]:
    with prefect_api.client() as client:
        return dict(client.get(f"/flow_runs/{run_id}").raise_for_status().json()["state"])


def events_of(incident: IncidentRow) -> set[str]:
    wanted = {"filter": {"resource": {"id": [f"incident.{incident.id}"]}}, "limit": 50}
    found = prefect_api.post("/events/filter", wanted).raise_for_status().json()
    return {event["event"] for event in found["events"]}


def live(name: str, **changes: Any) -> None:
    """A service that the keeper knows, too."""
    save_unreachable(name, **changes)
    time.sleep(NEWS_S)  # until it looks at the services again


@pytest.fixture(scope="module")
def crash(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with broken_lab("process-crash", tmp_path_factory.mktemp("crash")) as lab:
        yield lab


def incident_of(store: Store, alert: RaisedAlert, *, run: bool = True) -> IncidentRow:
    """The incident that the alert went to, once it has its run."""

    def found() -> IncidentRow | None:
        receipt = receipt_of(store, alert)
        row = store.incident(receipt.incident_id) if receipt and receipt.incident_id else None
        return row if row and not (run and row.run_id.startswith(NO_RUN)) else None

    return wait_for(found, named=f"the incident of {alert.name}")


def test_an_alert_is_acknowledged_diagnosed_and_healed_without_anybody(
    crash: Lab, door: tuple[str, str], store: Store
) -> None:
    sender = Alertmanager(*door)
    sender.start(lambda: crash.raised)
    alert = crash.wait_for_alert()
    row = wait_ended(store, incident_of(store, alert).run_id)
    sender.stop()
    assert (row.outcome, row.declared) == ("resolved", False), row.reason
    [page] = [page for page in crash.pagerduty.incidents if page.incident_key == alert.incident_key]
    assert page.status == "resolved"
    assert len(runs_of(row)) == 1
    told = {"incident.opened", "incident.severity_changed", "incident.mitigated", "incident.resolved"}
    wait_for(lambda: events_of(row) >= told, named="its events")


def test_people_see_where_its_alert_went_with_links_and_how_long_each_step_took(
    crash: Lab, door: tuple[str, str], store: Store
) -> None:
    row = incident_of(store, crash.wait_for_alert())
    shown = incident("alerts", "--incident", row.id, "--json").document
    assert [(each["went"], each["incident"], each["firing"]) for each in shown][-1] == ("opened", row.id, True)
    assert shown[-1]["run_url"].endswith(f"/runs/flow-run/{row.run_id}")
    assert shown[-1]["page_url"] == row.pagerduty_url
    table = incident("alerts", "--incident", row.id).out
    assert all(word in table for word in (row.id, "opened", shown[-1]["name"]))
    [took] = [each for each in incident("stats", "--json").document["incidents"] if each["id"] == row.id]
    assert 0 < took["acknowledged"] < took["first_action"] < took["verified"] <= took["closed"]
    assert row.id in incident("stats").out


def test_a_profile_that_is_not_valid_any_more_keeps_no_other_service_from_its_alerts(
    door: tuple[str, str], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    live("beside-an-old-one")
    Service(profile={"name": "an-old-one", "hosts": "none"}).save("an-old-one", overwrite=True)
    try:
        time.sleep(NEWS_S)
        alert = raised("beside-an-old-one")
        assert post(*door, webhook([alert])) == 202
        wait_ended(store, incident_of(store, alert).run_id)
        assert "an-old-one" not in [profile.name for profile in saved_profiles()]
        assert "service an-old-one is left out: " in caplog.text
    finally:
        Service.delete("an-old-one", _sync=True)


def test_the_same_alert_from_all_sides_at_once_is_one_incident_with_one_run(
    door: tuple[str, str], store: Store
) -> None:
    live("races")
    alert = raised("races")
    ready = threading.Barrier(8)

    def send(number: int) -> int | str:
        ready.wait(10)
        if number:
            return post(*door, webhook([alert]))
        return start_run({"summary": "races is broken", "service": "races"})

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(send, range(8)))
    assert said[1:] == [202] * 7
    row = incident_of(store, alert)
    own = store.incident_of_run(str(said[0]))
    assert [found.id for found in store.incidents(limit=1_000) if found.service == "races"] == [row.id]
    if own is None:  # the alert was quicker: the run that was started by hand says whose incident it is
        ended = wait_for(lambda: (state := state_of(str(said[0])))["type"] == "COMPLETED" and state)
        assert f"attached to incident {row.id}" in ended["message"]
    assert len(runs_of(row)) == (own is None)
    wait_ended(store, row.run_id)


def test_what_comes_while_prefect_is_down_waits_and_is_not_lost(
    installation: Installation, door: tuple[str, str], store: Store
) -> None:
    live("patient")
    live("warm")
    alert, other = raised("patient"), raised("patient", "Other")
    assert post(*door, webhook([raised("warm")])) == 202  # so that the keeper knows the profiles
    warm = incident_of(store, raised("warm"))
    child = installation.child("server")
    child.kill()
    child.wait()
    try:
        assert post(*door, webhook([alert, other])) == 202
        late = incident_of(store, alert, run=False)
        assert (late.status, late.run_id) == ("open", NO_RUN + late.id)
    finally:
        installation.start_server()
        wait_for(installation.answers, named="the server")
    row = incident_of(store, alert)
    assert sorted(found.name for found in store.alerts(row.id)) == ["Odd", "Other"]
    for each in (row, warm):
        wait_ended(store, each.run_id)


def test_an_alert_that_no_profile_knows_pages_somebody_all_the_same(
    crash: Lab, door: tuple[str, str], store: Store
) -> None:
    stranger = raised("a-service-that-nobody-saved")
    assert post(*door, webhook([stranger])) == 202
    receipt = wait_for(lambda: receipt_of(store, stranger), named="the receipt")
    assert (receipt.went, receipt.why) == ("no profile", "its labels select no service")
    wait_for(lambda: any("nobody-saved" in rung.title for rung in crash.pagerduty.incidents), named="a page")
    for row in store.open_incidents():
        if row.outcome == "escalated" and row.run_id.startswith(NO_RUN):
            store.close_incident(row.id, who="test", why="seen")


def test_during_maintenance_an_alert_waits_and_counts_if_it_still_fires(
    door: tuple[str, str], store: Store
) -> None:
    at = now()
    window = {"reason": "new disks", "starts_at": at - timedelta(hours=1), "ends_at": at + timedelta(hours=1)}
    live("resting", guardrails={"windows": [window | {"holds_alerts": True}]})
    alert, over = raised("resting"), raised("resting", "Brief")
    assert post(*door, webhook([alert, over])) == 202
    held = wait_for(
        lambda: [
            r for r in store.receipts(limit=1_000) if r.fingerprint.startswith("resting") and r.went == "held"
        ],
        named="held",
    )
    assert held[0].why == "maintenance: new disks"
    assert post(*door, webhook([over.model_copy(update={"ends_at": now()})])) == 202
    live("resting")  # the window is over
    for row in held:
        store.postpone(row.id, went=Went(row.went), why=row.why, until=now())
    row = incident_of(store, alert)
    brief = wait_for(lambda: receipt_of(store, over), named="the brief one")
    assert (brief.went, [found.name for found in store.alerts(row.id)]) == ("repeat", ["Odd"])
    store.close_incident(row.id, who="test", why="done")


def test_an_event_fires_the_incident_with_its_alert_and_nothing_else(
    installation: Installation, store: Store
) -> None:
    live("evented", mode="dry-run")
    said = 'It\'s "odd" {{ 7*7 }} <b>' + "x" * 400  # more than the form's summary holds
    alert = Alert(name="Odd", labels={"service": "evented"}, summary=said, starts_at=now())
    told = {"alert": alert.model_dump(mode="json"), "service": "another", "mode": "live"}
    emitted = run_prefect(
        installation, "event", "emit", "alert.fired", "--resource-id", "alert.odd", "--payload", json.dumps(told)
    )
    assert emitted.returncode == 0, emitted.stdout + emitted.stderr
    row = wait_for(
        lambda: next((found for found in store.incidents(limit=1_000) if found.service == "evented"), None),
        named="the incident of the event",
    )
    assert (row.mode, row.summary) == ("dry-run", said[: SUMMARY_LIMIT - 1] + "…")
    assert store.alerts(row.id) == [alert]
    wait_ended(store, row.run_id)


def run_prefect(installation: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env=installation.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
