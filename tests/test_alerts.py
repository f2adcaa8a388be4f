"""Alerts become incidents: one for each cause, decided once, with a receipt that says where each went and why."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from responder.domain.attempt import AttemptState
from responder.domain.base import now
from responder.domain.incident import NO_RUN, Alert, Ending, Kind, Mode, Outcome, Severity
from responder.domain.profile import Profile
from responder.domain.webhooks import Signal
from responder.keeper.dispatch import page_queued
from responder.store import Store
from responder.store import alerts as module
from responder.store.alerts import Decided, Reading, Went
from responder.store.tables import IncidentRow, ReceiptRow
from tests.factories import intend, open_incident, profile
from tests.test_store import OwnPostgresql

PAGERDUTY = {
    "api_token": "SHOP_PAGERDUTY_TOKEN",
    "routing_key": "SHOP_PAGERDUTY_KEY",
    "from_email": "responder@example.com",
    "requester_id": "U1",
    "service_id": "S1",
    "escalation_policy_id": "E1",
}
BEGAN = now().replace(microsecond=0) - timedelta(minutes=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    if request.param == "sqlite":
        with closing(Store(f"sqlite:///{tmp_path}/incidents.db")) as store:
            store.migrate()
            yield store
        return
    with OwnPostgresql() as url, closing(Store(url)) as store:
        store.migrate()
        yield store


def shop(**changes: Any) -> Profile:
    return profile(mode="live", pagerduty=PAGERDUTY, **changes)


def signal(name: str = "ShopDown", *, over: bool = False, at: Any = BEGAN, **labels: str) -> Signal:
    alert = Alert(
        name=name,
        labels={"service": "shop"} | labels,
        fingerprint=f"{name}{labels}",
        starts_at=at,
        ends_at=now() if over else None,
        incident_key="k1",
    )
    key = f"{name}{labels}{at}{over}"
    return Signal(key=key, source="alertmanager", alert=alert)


def take_in(store: Store, *signals: Signal, using: Profile | None = None, **reading: Any) -> Decided | None:
    """Receive the signals and decide about them; returns the last decision."""
    store.receive(signals)
    wanted = {"kind": Kind.AVAILABILITY, "severity": None, "suggests": ()} | reading
    decided = None
    for receipt in store.due_receipts(now()):
        decided = store.take_in(receipt.id, Reading(profile=using or shop(), **wanted))
    return decided


def opened(store: Store, **reading: Any) -> IncidentRow:
    decided = take_in(store, signal(), **reading)
    assert decided
    assert decided.incident
    return decided.incident


def running(store: Store, **reading: Any) -> tuple[IncidentRow, int]:
    """An incident whose run has begun, and its epoch."""
    row = opened(store, **reading)
    store.has_run(row.id, f"run-{row.id}")
    return store.incident(row.id), store.begin_run(row.id, holder="run", lease_s=60)


def ended(store: Store, outcome: Outcome = Outcome.RESOLVED) -> IncidentRow:
    row, epoch = running(store)
    store.end_run(row.id, epoch, Ending(outcome=outcome, reason="it is over"))
    return store.incident(row.id)


def receipt(store: Store) -> ReceiptRow:
    """The newest."""
    return store.receipts(limit=1)[0]


def test_the_first_alert_opens_an_incident_that_waits_for_its_run_and_asks_for_its_page(store: Store) -> None:
    row = opened(store)
    assert (row.run_id, row.open_key, row.mode) == (NO_RUN + row.id, "shop:availability", "live")
    assert [each.id for each in store.waiting_for_a_run()] == [row.id]
    [find] = store.messages(row.id)
    assert (find.kind, find.body["keys"]) == ("find", ["k1"])
    assert (receipt(store).went, receipt(store).incident_id) == ("opened", row.id)


def test_the_same_alert_said_again_is_one_receipt_that_counts(store: Store) -> None:
    row = opened(store)
    store.receive([signal(), signal()])
    [only] = store.receipts()
    assert (only.times, only.went, only.due_at, only.incident_id) == (3, "opened", None, row.id)


def test_a_second_alert_joins_the_open_incident(store: Store) -> None:
    row = opened(store)
    decided = take_in(store, signal("ShopSlow"))
    assert decided
    assert (decided.went, decided.incident and decided.incident.id) == (Went.ATTACHED, row.id)
    assert [alert.name for alert in store.alerts(row.id)] == ["ShopDown", "ShopSlow"]


def test_the_triage_finds_its_page_asked_for_already(store: Store) -> None:
    row = opened(store)
    store.enqueue(row.id, channel="pagerduty", kind="find", body={"keys": ["k1"], "wait_s": 1}, key="find")
    assert len(store.messages(row.id)) == 1


def test_each_class_of_a_service_has_an_incident_of_its_own(store: Store) -> None:
    row = opened(store)
    other = take_in(store, signal("BreakIn"), kind=Kind.SECURITY)
    assert other
    assert other.incident
    assert (other.went, other.incident.id != row.id) == (Went.OPENED, True)


@pytest.mark.parametrize("mode", ["dry-run", "shadow"])
def test_alerts_of_a_service_that_does_not_act_join_one_incident_too(store: Store, mode: str) -> None:
    careful = profile(mode=mode)
    take_in(store, signal("A"), signal("B"), using=careful)
    assert len(store.incidents()) == 1
    assert store.incidents()[0].open_key is None


def test_a_dry_run_of_a_person_takes_in_no_real_alert(store: Store) -> None:
    open_incident(store, shop(), mode=Mode.DRY_RUN)
    decided = take_in(store, signal())
    assert decided
    assert decided.went is Went.OPENED


def test_a_run_started_by_hand_is_told_of_the_incident_that_alerts_opened(store: Store) -> None:
    row = opened(store)
    assert open_incident(store, shop(), run_id="by hand").id == row.id
    assert store.incident(row.id).run_id == NO_RUN + row.id
    assert open_incident(store, shop(), run_id="its own", dispatched=row.id).run_id == "its own"
    assert open_incident(store, shop(), run_id="a forged one", dispatched=row.id).run_id == "its own"


def test_two_receivers_and_two_keepers_open_one_incident(store: Store) -> None:
    barrier = threading.Barrier(4)

    def race(_: int) -> None:
        barrier.wait(10)
        take_in(store, signal(), signal("ShopSlow"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(4)))
    assert len(store.incidents()) == 1
    assert sorted((row.name, row.times) for row in store.receipts()) == [("ShopDown", 4), ("ShopSlow", 4)]
    assert {row.went for row in store.receipts()} == {"opened", "attached"}


def test_the_end_of_an_alert_is_noted_with_its_incident(store: Store) -> None:
    row = opened(store)
    take_in(store, signal("ShopSlow"))
    decided = take_in(store, signal(over=True))
    assert decided
    assert (decided.went, decided.incident and decided.incident.id) == (Went.RESOLVED, row.id)
    assert "1 of its alerts still fires" in decided.why
    assert [bool(alert.ends_at) for alert in store.alerts(row.id)] == [True, False]


def test_an_end_that_comes_before_its_beginning_opens_nothing(store: Store) -> None:
    first = take_in(store, signal(over=True))
    assert first
    assert (first.went, first.why) == (Went.RESOLVED, "no incident has it")
    late = take_in(store, signal())
    assert late
    assert (late.went, late.incident) == (Went.REPEAT, None)
    assert not store.incidents()


def test_a_re_fire_soon_after_the_end_reopens_the_incident_with_what_it_has_tried(store: Store) -> None:
    row, epoch = running(store)
    attempt = intend(store, row.id, epoch)
    store.begin_phase(row.id, epoch, "detect_and_triage")
    store.end_phase(row.id, epoch, "detect_and_triage", {})
    store.end_run(row.id, epoch, Ending(outcome=Outcome.RESOLVED, reason="it is over"))
    decided = take_in(store, signal(at=now()))
    assert decided
    assert decided.incident
    again = store.incident(row.id)
    assert (decided.went, decided.incident.id) == (Went.REOPENED, row.id)
    assert (again.status, again.outcome, again.open_key, again.rounds) == ("open", None, row.open_key, 1)
    assert [each.id for each in store.attempts(row.id)] == [attempt.id]
    assert [phase.name for phase in store.phases(row.id)] == ["round 1: detect_and_triage"]
    assert [lease.holder for lease, _ in store.leases()] == ["keeper:given back"]


def test_a_re_fire_long_after_the_end_is_a_new_incident(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ended(store)
    monkeypatch.setattr(module, "REFIRES", timedelta(0))
    decided = take_in(store, signal(at=now()))
    assert decided
    assert decided.incident
    assert (decided.went, decided.incident.id != row.id) == (Went.OPENED, True)


def test_an_alert_that_outlives_its_incident_is_decided_about_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ended(store)
    store.receive([signal()])
    assert not store.due_receipts(now())  # it may just be slow to resolve
    monkeypatch.setattr(module, "OUTLIVES", timedelta(0))
    decided = take_in(store, signal())
    assert decided
    assert (decided.went, decided.incident and decided.incident.id) == (Went.REOPENED, row.id)


def test_an_alert_that_our_own_action_caused_is_expected_and_not_news(store: Store) -> None:
    row, epoch = running(store)
    attempt = intend(store, row.id, epoch)
    store.move_attempt(row.id, epoch, attempt.id, AttemptState.ACTED, acted_at=now())
    decided = take_in(store, signal("GatewayRestarted", at=now(), instance="gw-1:9100"))
    assert decided
    assert (decided.went, decided.why) == (Went.EXPECTED, "restart on gw-1 was under way when it began")
    elsewhere = take_in(store, signal("GatewayDown", at=now(), instance="gw-2:9100"))
    assert elsewhere
    assert elsewhere.went is Went.ATTACHED


def test_an_alert_that_raises_the_severity_has_the_incident_triaged_again(store: Store) -> None:
    row, epoch = running(store)
    store.update_incident(row.id, epoch, severity="P3")
    take_in(store, signal("ShopSlow"), severity=Severity.P3)
    assert store.incident(row.id).anew is None
    take_in(store, signal("ShopDead"), severity=Severity.P1)
    assert store.incident(row.id).anew == "ShopDead raises it to P1"
    store.begin_anew(row.id, epoch)
    assert (store.incident(row.id).anew, store.incident(row.id).rounds) == (None, 1)


@pytest.mark.parametrize(
    ("suggests", "news"), [((), False), (("gateway-crash", "capacity"), False), (("disk-full",), True)]
)
def test_an_alert_that_the_leading_hypothesis_does_not_explain_is_news(
    store: Store, suggests: tuple[str, ...], news: bool
) -> None:
    row, epoch = running(store)
    store.begin_phase(row.id, epoch, "diagnose")
    store.end_phase(row.id, epoch, "diagnose", {"leading": "gateway-crash"})
    take_in(store, signal("DiskFull"), suggests=suggests)
    assert bool(store.incident(row.id).anew) is news


def test_an_alert_that_joins_what_a_person_has_is_news_once(store: Store) -> None:
    row, epoch = running(store)
    store.end_run(row.id, epoch, Ending(outcome=Outcome.ESCALATED, reason="a person must"))
    take_in(store, signal("ShopDown", instance="gw-2"))
    assert store.incident(row.id).anew is None
    take_in(store, signal("ShopSlow"))
    assert store.incident(row.id).anew == "ShopSlow fires, and no run works on it"


def test_an_alert_of_no_service_has_an_incident_for_people_alone(store: Store) -> None:
    store.receive([signal("Strange")])
    [due] = store.due_receipts(now())
    [told] = store.take_in_unknown(due.id, [shop()], "its labels select no service")
    row = store.incident(told.id)
    assert (row.outcome, row.status, row.mode) == ("escalated", "open", "live")
    assert not store.waiting_for_a_run()
    assert (receipt(store).went, receipt(store).incident_id) == ("no profile", row.id)
    store.receive([signal("Strange", instance="b"), signal("Stranger")])
    again = {each.name: store.take_in_unknown(each.id, [shop()], "none") for each in store.due_receipts(now())}
    assert {name: len(told) for name, told in again.items()} == {
        "Strange": 0,
        "Stranger": 1,
    }  # people are told once of each name
    decided = take_in(store, signal())
    assert decided
    assert decided.went is Went.OPENED  # and the service's own alert is not swallowed by it


def test_what_was_left_out_is_told_with_the_receipt_and_the_incident(store: Store) -> None:
    cut = signal().model_copy(update={"truncated": 40})
    decided = take_in(store, cut)
    assert decided
    assert decided.incident
    assert receipt(store).truncated == 40
    assert "40 of a group" in [each.why for each in store.decisions(decided.incident.id)]


def test_the_page_of_an_incident_of_ours_opens_no_other(store: Store) -> None:
    row = opened(store)
    page = signal("shop: it is down")
    alert = page.alert.model_copy(update={"incident_key": f"incident-{row.id}", "labels": {"service": "shop"}})
    decided = take_in(store, page.model_copy(update={"alert": alert}))
    assert decided
    assert (decided.went, decided.incident and decided.incident.id) == (Went.EXPECTED, row.id)


def test_the_backlog_says_how_many_wait_and_how_long(store: Store) -> None:
    assert store.backlog() == (0, 0.0)
    store.receive([signal("A"), signal("B")])
    count, oldest_s = store.backlog()
    assert count == 2
    assert 0 <= oldest_s < 60


P1_RULE = {"alerts": {"match": {"service": "shop"}, "rules": [{"name": "ShopDown", "severity": "P1"}]}}


@pytest.mark.parametrize(
    ("waited_s", "rules", "begun", "paged"),
    [(60, P1_RULE, False, True), (5, P1_RULE, False, False), (60, {}, False, False), (60, P1_RULE, True, False)],
)
def test_a_p1_whose_run_does_not_begin_in_time_pages_a_person(
    store: Store, waited_s: int, rules: dict[str, Any], begun: bool, paged: bool
) -> None:
    decided = take_in(store, signal(), using=shop(**rules))
    assert decided
    assert decided.incident
    row = decided.incident
    store.note_world(row.id, opened_at=now() - timedelta(seconds=waited_s))
    if begun:
        store.begin_run(row.id, holder="run", lease_s=60)
    for _ in range(2):
        page_queued(store)
    pages = [message for message in store.messages(row.id) if message.kind == "escalate"]
    assert len(pages) == paged


def test_a_dispatcher_that_dies_before_its_run_is_made_finds_the_incident_again(store: Store) -> None:
    row = opened(store)
    assert [each.id for each in store.waiting_for_a_run()] == [row.id]  # whoever looks next makes it
    store.has_run(row.id, "the run")
    store.has_run(row.id, "a second one")
    assert (store.waiting_for_a_run(), store.incident(row.id).run_id) == ([], "the run")
