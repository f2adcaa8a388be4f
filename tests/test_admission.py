"""What the store, the profile and the host say reaches the guardrails before an attempt: each of them refuses."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from responder.domain.attempt import AttemptState
from responder.domain.base import now
from responder.domain.errors import BusyError
from responder.domain.evidence import Dossier
from responder.domain.incident import AttemptOutcome, IncidentRef, Kind, Mode
from responder.domain.plan import PlanStep
from responder.domain.profile import Profile
from responder.store import Store
from tests.factories import dossier, open_incident, profile, seen

RESTART = {
    "command": ["sudo", "systemctl", "restart", "shop-gateway"],
    "mode": "live",
    "severities": ["P1", "P2", "P3", "P4"],
    "budget": {"attempts": 9, "within_minutes": 30, "per_incident": 9},
}
STEP = PlanStep(id="restart-gw-1", strategy="restart", target="gw-1", hypothesis="crash", why="it crashed")
ALONE = dossier(seen("gw-1", "deployments.running", False), seen("gw-1", "logins.active", 0))
Desk = Any


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'store.db'}")
    opened.migrate()
    yield opened
    opened.close()


def case_of(store: Store, service: Profile | None = None, kind: Kind = Kind.AVAILABILITY) -> Desk:
    """A live incident of the shop, as a phase sees it."""
    from tasks.case import Case

    service = service or shop()
    row = open_incident(store, service, kind=kind)
    case = Case(ref=IncidentRef(incident_id=row.id, epoch=row.epoch, mode=Mode.LIVE), store=store)
    case.__dict__["profile"] = service  # which is saved nowhere
    return case


def shop(**guardrails: Any) -> Profile:
    return profile(mode="live", strategies={"restart": RESTART}, guardrails=guardrails)


def asked(case: Desk, looked: Dossier = ALONE) -> str:
    """The rule that refuses the step, or nothing when it is admitted."""
    from tasks.admission import admit

    found = admit(case, STEP, looked, None)
    if not isinstance(found, AttemptOutcome):
        return ""
    [decision] = [each for each in case.store.decisions(case.id) if each.who.startswith("guardrail: ")]
    return str(decision.who.removeprefix("guardrail: "))


def tried(case: Desk, step_id: str = "restart-gw-2", target: str = "gw-2") -> None:
    case.store.intend(
        case.id,
        case.ref.epoch,
        step_id=step_id,
        strategy="restart",
        target=target,
        machine=f"{target}:22",
        command=RESTART["command"],
        snapshot={},
    )


def test_what_nothing_forbids_is_admitted(store: Store) -> None:
    assert asked(case_of(store)) == ""


def stop(case: Desk) -> None:
    case.store.stop(stopped=True, who="Ann", why="the exchange says so")


def open_security_incident(case: Desk) -> None:
    case_of(case.store, kind=Kind.SECURITY)


def set_the_clock(case: Desk) -> None:
    case.store.keeper_beats("keeper", clock_jump_s=-3600)


def acknowledge(case: Desk) -> None:
    case.store.note_world(case.id, acknowledged_by="Robin")


def take_over(case: Desk) -> None:
    case.store.note_world(case.id, taken_by="Robin")


@pytest.mark.parametrize(
    ("happens", "rule"),
    [
        (stop, "stop everything"),
        (open_security_incident, "open security incident"),
        (set_the_clock, "clock"),
        (acknowledge, "somebody else's hands"),
        (take_over, "somebody else's hands"),
    ],
)
def test_what_the_store_knows_reaches_the_guardrails(
    store: Store, happens: Callable[[Desk], None], rule: str
) -> None:
    case = case_of(store)
    happens(case)
    assert asked(case) == rule


def test_a_window_of_the_profile_reaches_them(store: Store) -> None:
    window = {"reason": "closing", "starts_at": now() - timedelta(hours=1), "ends_at": now() + timedelta(hours=1)}
    assert asked(case_of(store, shop(windows=[window]))) == "freeze or maintenance window"


def test_the_budget_over_all_counts_what_other_incidents_have_tried(store: Store) -> None:
    service = shop(budget={"attempts": 1, "within_minutes": 60})
    other = case_of(store, service)
    tried(other)
    store.close_incident(other.id, who="Ann", why="well again")
    assert asked(case_of(store, service)) == "budget over all"


@pytest.mark.parametrize(
    ("looked", "rule"),
    [
        (
            dossier(seen("gw-1", "deployments.running", True), seen("gw-1", "logins.active", 0)),
            "somebody else's hands",
        ),
        (dossier(seen("gw-1", "deployments.running", False), seen("gw-1", "logins.active")), "unknown hands"),
        (dossier(), "unknown hands"),
    ],
    ids=["a deployment runs", "logins are unknown", "nothing was seen"],
)
def test_what_the_host_shows_reaches_them(store: Store, looked: Dossier, rule: str) -> None:
    assert asked(case_of(store), looked) == rule


def test_a_machine_is_changed_for_one_incident_at_a_time(store: Store) -> None:
    """Whatever the two services call it: a second change would meet what the first one is in the middle of."""
    first, second = case_of(store), case_of(store, shop().model_copy(update={"name": "bank"}))
    tried(first, "restart-gw-1", "gw-1")
    with pytest.raises(BusyError, match=f"incident {first.id} is at work on gw-1:22"):
        tried(second, "restart-gw-1", "gw-1")
    tried(second, "restart-gw-2", "gw-2")
    [attempt] = store.attempts(first.id)
    store.move_attempt(first.id, first.ref.epoch, attempt.id, AttemptState.NOT_ACTED)
    tried(second, "restart-gw-1", "gw-1")
    assert [each.target for each in store.attempts(second.id)] == ["gw-2", "gw-1"]


def test_of_a_waves_steps_one_decides_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that looked at the budget before either had used it up would both act."""
    from tasks import attempt

    budget = RESTART["budget"] | {"per_incident": 1}
    case = case_of(store, profile(mode="live", strategies={"restart": RESTART | {"budget": budget}}))
    started: list[str] = []
    admit = attempt.admit

    def admit_slowly(*args: Any) -> Any:
        admitted = admit(*args)
        time.sleep(0.3)
        return admitted

    def start(_: Desk, row: Any, __: Any) -> AttemptOutcome:
        started.append(row.target)
        return AttemptOutcome(attempt_id=row.id, state="acted", reason="started")

    both = ALONE.evidence + tuple(each.model_copy(update={"host": "gw-2"}) for each in ALONE.evidence)
    monkeypatch.setattr(attempt, "look_first", lambda *_: Dossier(evidence=both))
    monkeypatch.setattr(attempt, "admit", admit_slowly)
    monkeypatch.setattr(attempt, "_start", start)
    steps = [STEP.model_copy(update={"id": f"restart-{host}", "target": host}) for host in ("gw-1", "gw-2")]
    threads = [threading.Thread(target=attempt.carry_out.fn, args=(case, step)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
