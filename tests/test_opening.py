"""Opening an incident: the service its alerts select, the mode that may only fall, the run's lease."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from factories import alert, profile

from responder.domain.base import now
from responder.domain.errors import PermanentError, StaleEpochError
from responder.domain.incident import Alert, Kind, Mode, Severity
from responder.domain.profile import Profile
from responder.store import Store
from responder.store.alerts import START_LEASES
from responder.store.tables import IncidentRow

CLUSTER = f"cluster-{uuid4().hex[:6]}"
"""Labels that only this file's services select by: other tests save services on the same server."""


@pytest.fixture(scope="module")
def services(installation) -> dict[str, Profile]:
    """Two live services that share a label, and one that may only rehearse."""
    from blocks.service import save_service

    rules = [
        {"name": "ShopBreach", "kind": "security"},
        {"name": "Shop.*", "kind": "availability"},
    ]

    def saved(name: str, mode: str, **match: str) -> Profile:
        service = profile(
            name=f"{name}-{CLUSTER}",
            mode=mode,
            drill=True,
            alerts={"match": {"cluster": CLUSTER, **match}, "rules": rules},
        )
        save_service(service, {"SHOP_SSH_KEY": "none"})
        return service

    return {
        "shop": saved("shop", "live", app="shop|basket"),
        "bank": saved("bank", "live", app="bank|basket"),
        "new": saved("new", "dry-run", app="new"),
    }


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch) -> Iterator[Store]:
    """A store that the session's keeper does not watch."""
    url = f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("INCIDENT_STORE_URL", url)
    store = Store(url)
    store.migrate()
    yield store
    store.close()


def fire(service: str, name: str = "ShopDown", cluster: str = CLUSTER) -> Alert:
    return alert(name, labels={"app": service, "cluster": cluster})


def open_one(
    service: str | None = None,
    *alerts: Alert,
    run_id: str | None = None,
    kind: Kind = Kind.AVAILABILITY,
    severity: Severity | None = None,
    mode: Mode | None = None,
) -> IncidentRow:
    from tasks.opening import open_incident

    return open_incident.fn(run_id or str(uuid4()), "gateway down", service, kind, alerts, severity, mode)


# --- which service -----------------------------------------------------------------------------------


def test_an_alerts_labels_select_its_service(services, own_store):
    row = open_one(None, fire("shop"))
    assert (row.service, row.declared) == (services["shop"].name, False)
    assert own_store.alerts(row.id) == [fire("shop")]


def test_one_alert_of_several_is_enough_to_select(services, own_store):
    assert open_one(None, fire("elsewhere", cluster="none"), fire("bank")).service == services["bank"].name


def test_a_service_is_found_among_more_than_prefect_lists_at_once(services, own_store, monkeypatch):
    monkeypatch.setattr("blocks.service.PAGE", 2)
    for name in services:
        assert open_one(None, fire(name)).service == services[name].name


def test_alerts_that_select_none_or_two_services_are_refused_by_name(services, own_store):
    with pytest.raises(PermanentError, match="labels select none; name one"):
        open_one(None, fire("shop", cluster="none"))
    with pytest.raises(PermanentError, match="labels select none"):
        open_one()
    with pytest.raises(PermanentError) as refused:
        open_one(None, fire("basket"))
    assert f"more than one service ({services['bank'].name}, {services['shop'].name})" in str(refused.value)
    assert own_store.incidents() == []


def test_a_service_that_is_named_wins_over_labels(services, own_store):
    assert open_one(services["bank"].name, fire("shop")).service == services["bank"].name


def test_a_service_that_is_not_saved_is_refused_by_name(installation, own_store):
    with pytest.raises(PermanentError, match=r"'never-saved'.*incident service list"):
        open_one("never-saved")


# --- how much may happen -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "asked", "got"),
    [
        ("shop", None, Mode.LIVE),
        ("shop", Mode.LIVE, Mode.LIVE),
        ("shop", Mode.SHADOW, Mode.SHADOW),
        ("shop", Mode.DRY_RUN, Mode.DRY_RUN),
        ("new", None, Mode.DRY_RUN),
        ("new", Mode.SHADOW, Mode.DRY_RUN),
        ("new", Mode.LIVE, Mode.DRY_RUN),
    ],
)
def test_a_parameter_can_lower_the_mode_and_never_raise_it(services, own_store, service, asked, got):
    assert open_one(services[service].name, mode=asked).mode == got


@pytest.mark.parametrize(
    ("asked", "alert_name", "got"),
    [
        (Kind.AVAILABILITY, "ShopDown", Kind.AVAILABILITY),
        (Kind.AVAILABILITY, "ShopBreach", Kind.SECURITY),
        (Kind.RISK, "ShopDown", Kind.RISK),
        (Kind.RISK, "ShopBreach", Kind.SECURITY),
    ],
)
def test_the_more_careful_kind_of_parameter_and_alerts_holds(services, own_store, asked, alert_name, got):
    assert open_one(services["shop"].name, fire("shop", alert_name), kind=asked).kind == got


def test_a_severity_that_a_person_sets_is_kept_as_the_least(services, own_store):
    assert open_one(services["shop"].name, severity=Severity.P2).severity_floor == Severity.P2


def test_a_run_finds_its_own_incident_again_and_another_run_is_given_the_open_one(services, own_store):
    mine = open_one(services["shop"].name, run_id="first")
    assert open_one(services["shop"].name, run_id="first").id == mine.id
    other = open_one(None, fire("shop"), run_id="second")
    assert (other.id, other.run_id) == (mine.id, "first")
    assert own_store.alerts(mine.id) == [fire("shop")]
    rehearsed = open_one(services["shop"].name, run_id="third", mode=Mode.DRY_RUN)
    assert rehearsed.id != mine.id, "a dry run holds no place and is attached to nothing"


def test_an_incident_has_a_lease_from_the_moment_it_is_open(services, own_store):
    """Lost right then, before its run has begun to hold it, it would be open and forgotten."""
    row = open_one(services["shop"].name)
    [(lease, incident)] = own_store.leases()
    assert incident.id == row.id
    leases_s = START_LEASES * services["shop"].clock.run_lease_s
    assert now() < lease.expires_at <= now() + timedelta(seconds=leases_s)


def test_the_profile_is_kept_as_it_was_at_the_opening(services, own_store):
    row = open_one(services["shop"].name)
    assert own_store.profile_of(row.id) == services["shop"]


def test_secrets_in_alerts_and_summary_are_not_kept(services, own_store):
    from tasks.opening import open_incident

    leaking = fire("shop").model_copy(update={"summary": "login with password=hunter2hunter2 fails"})
    row = open_incident.fn(
        str(uuid4()), "api_key=hunter2hunter2 is wrong", None, Kind.AVAILABILITY, [leaking], None, None
    )
    assert "hunter2" not in row.summary
    assert "hunter2" not in own_store.alerts(row.id)[0].summary


# --- the run's lease -------------------------------------------------------------------------------------


def test_a_thread_renews_the_lease_while_the_run_lives_and_stops_with_it(services, own_store):
    from tasks.opening import keep_lease

    row = open_one(services["shop"].name)
    lease_s = services["shop"].clock.run_lease_s

    def expires_in() -> timedelta:
        [(lease, _)] = own_store.leases()
        return lease.expires_at - now()

    with keep_lease(row) as ref:
        assert (ref.incident_id, ref.epoch, ref.mode) == (row.id, row.epoch + 1, Mode.LIVE)
        time.sleep(lease_s * 1.5)
        assert expires_in() > timedelta(0), "a main thread that is busy lets no lease lapse"
    time.sleep(lease_s * 1.1)
    assert expires_in() < timedelta(0)


def test_a_second_run_raises_the_epoch_and_the_first_can_write_nothing_more(services, own_store):
    from tasks.opening import keep_lease

    row = open_one(services["shop"].name)
    older = own_store.begin_run(row.id, holder="older", lease_s=60)
    with keep_lease(row) as ref:
        assert ref.epoch == older + 1
        with pytest.raises(StaleEpochError):
            own_store.update_incident(row.id, older, reason="too late")


STALE = """
import sys, time
from tasks.opening import keep_lease
from responder.store import open_store

with keep_lease(open_store().incident(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
print("this must never be reached")
"""


def test_a_run_that_was_replaced_leaves_at_once_and_in_silence(services, own_store):
    row = open_one(services["shop"].name)
    run = subprocess.Popen(
        [sys.executable, "-c", STALE, row.id], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert run.stdout.readline() == "held\n"
        own_store.begin_run(row.id, holder="the next", lease_s=60)
        out, err = run.communicate(timeout=30)
    finally:
        run.kill()
    assert (run.returncode, out) == (0, "")
    assert "Traceback" not in err
    [(lease, _)] = own_store.leases()
    assert lease.holder == "the next"
