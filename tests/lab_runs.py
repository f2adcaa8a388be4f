"""Incidents against a broken lab, on the session's installation: started, waited for, looked at."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client

from blocks.service import save_service
from responder.cli.drill import lab_profile
from responder.cli.runs import start_run
from responder.domain.base import now
from responder.domain.profile import Profile
from responder.lab.lab import Lab
from responder.lab.scenario import Scenario, load_scenario
from responder.store import Store
from responder.store.tables import IncidentRow
from tests.factories import profile as small_profile

Found = TypeVar("Found")
PATIENCE_S = 420.0
"""For what takes seconds on a quiet machine: a slow one is not a broken one."""

_numbers = itertools.count()
_naming = threading.Lock()
_services: set[str] = set()


@contextmanager
def broken_lab(
    scenario: str | Scenario, folder: Path, *, profile: Callable[[Profile], Profile] = lambda p: p
) -> Iterator[Lab]:
    """A lab whose service is saved (changed by `profile` before) and whose scenario's clock has begun.

    `folder` gets a directory of its own for each lab.
    """
    scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
    with _lab_of_its_own(scenario, folder / f"lab-{next(_numbers)}") as lab:
        filled, secrets = lab_profile(lab.facts())
        save_service(profile(filled), secrets)
        lab.begin()
        yield lab


def _lab_of_its_own(scenario: Scenario, run_dir: Path) -> Lab:
    """A lab whose service no other lab of this session has: its incidents would be attached to that one's."""
    while True:
        lab = Lab(scenario, run_dir=run_dir)
        with _naming:
            if lab.service not in _services:
                _services.add(lab.service)
                return lab


def save_unreachable(name: str, **changes: Any) -> str:
    """Save a service none of whose hosts can be reached, for what happens before they are; returns its name."""
    hosts = [{"name": "gw-1", "address": "127.0.0.1", "port": 1}]
    data = {"name": name, "mode": "live", "hosts": hosts, "alerts": {"match": {"service": name}}} | changes
    save_service(small_profile(**data), {"SHOP_SSH_KEY": "none"})
    return name


def start_incident(lab: Lab, **parameters: Any) -> str:
    """Start the incident's run as the scenario says, by its alert or declared; returns the run's id.

    `parameters` are added to those of the flow `incident`, and win.
    """
    declared = lab.scenario.trigger.declare
    begun: dict[str, Any]
    if declared:
        begun = {"service": lab.service, **declared.model_dump(mode="json", exclude_none=True)}
    else:
        alert = lab.wait_for_alert().alert
        begun = {"summary": alert.summary, "alerts": [alert.model_dump(mode="json")]}
    return start_run(begun | parameters)


def wait_for(what: Callable[[], Found | None], timeout_s: float = PATIENCE_S, *, named: str = "") -> Found:
    """The first true value of `what()`, asked again and again. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{named or what} did not come true within {timeout_s:g} s")
        time.sleep(0.1)
    return found


def wait_opened(store: Store, run_id: str, timeout_s: float = PATIENCE_S) -> IncidentRow:
    """The run's incident, once it is open."""
    with telling_how_far(store, run_id):
        return wait_for(lambda: store.incident_of_run(run_id), timeout_s, named=f"the incident of run {run_id}")


def wait_ended(store: Store, run_id: str, timeout_s: float = PATIENCE_S) -> IncidentRow:
    """The run's incident, once it has an outcome and nothing waits in its outbox any more."""
    row = wait_opened(store, run_id, timeout_s)

    def told() -> bool:
        ended = store.incident(row.id).outcome is not None
        return ended and all(message.state != "waiting" for message in store.messages(row.id))

    with telling_how_far(store, run_id):
        wait_for(told, timeout_s, named=f"the end of incident {row.id}")
    return store.incident(row.id)


@contextmanager
def telling_how_far(store: Store, run_id: str) -> Iterator[None]:
    """What is waited for in here says, when it does not come, how far the run and its incident have."""
    try:
        yield
    except TimeoutError as error:
        error.add_note(_how_far(store, run_id))
        raise


def _how_far(store: Store, run_id: str) -> str:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(run_id))
        states = client.read_flow_run_states(run.id)
    process = run.infrastructure_pid
    told = [f"now: {now():%X}; the run: {process=}; begun {run.run_count} times"]
    told += [f"{state.timestamp:%X} {state.name}: {state.message}" for state in states]
    if row := store.incident_of_run(run_id):
        told += [f"the incident: {row.outcome}: {row.reason}"]
        told += [f"{made.who} {made.what}: {made.why}" for made in store.decisions(row.id)]
        told += [f"a message: {each.channel} {each.kind} {each.state}" for each in store.messages(row.id)]
    return "\n".join(told)


def has_form(run_id: str) -> bool:
    """Whether the run is paused and its form can be filled in: Prefect pauses first and saves the form then."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run_id)).state
        if not state or not state.is_paused():
            return False
        keyset = state.state_details.run_input_keyset
        return bool(keyset and client.filter_flow_run_input(UUID(run_id), keyset["schema"], 1, set()))
