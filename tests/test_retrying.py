"""What is waited for instead of giving an incident up: Prefect's server, and the store."""

import asyncio
import errno
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import create_engine, text

from responder.domain.base import Frozen
from responder.domain.errors import PermanentError, StaleEpochError, TransientError
from responder.domain.incident import IncidentRef, Mode
from responder.installation import Installation
from responder.lab.http import Answer, Request, StandIn
from responder.store import Store
from tests.factories import open_incident, profile
from tests.lab_runs import has_form, wait_for


class Done(Frozen):
    """A phase's outcome."""

    reason: str = "done"


class Server(StandIn):
    """Answers that it is well."""

    def handle(self, request: Request) -> Answer:
        return Answer(200, {"asked": request.path})

    def refusal(self, status: int) -> Answer:
        return Answer(status, {"detail": "not now"})


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def outlast(what: Any) -> Any:
    from tasks.retrying import outlast as outlast_it

    return asyncio.run(outlast_it(what))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.retrying.AWAY_POLL_S", 0.05)


@pytest.mark.parametrize("how", ["500", "429", "refuse"])
def test_what_a_server_does_not_do_now_is_asked_of_it_again(server: Server, how: Any) -> None:
    server.fail(how, times=3)
    assert outlast(lambda: httpx.get(f"{server.url}/run").raise_for_status().json()) == {"asked": "/run"}
    assert len(server.requests) == 4


def test_a_server_that_is_not_there_is_waited_for(server: Server) -> None:
    url = server.url
    server.stop()
    back = threading.Timer(0.5, server.start)
    back.start()
    assert outlast(lambda: httpx.get(url).status_code) == 200


def test_a_store_that_another_process_has_locked_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE rows (number INTEGER)")
    other.execute("BEGIN EXCLUSIVE")
    ends = threading.Timer(0.5, other.execute, ["ROLLBACK"])
    ends.start()
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 0.05})
    tries = []

    def write() -> str:
        tries.append(1)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO rows VALUES (1)"))
        return "written"

    assert outlast(write) == "written"
    assert len(tries) > 1
    ends.join()
    other.close()


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("no"),
        TransientError("a vendor does not answer"),
        StaleEpochError("another run has it"),
        OSError(errno.ENOENT, "no such file"),
        RuntimeError("a fault of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_other_error_is_raised_at_once(error: Exception) -> None:
    tries = []

    def fails() -> None:
        tries.append(1)
        raise error

    with pytest.raises(type(error)):
        outlast(fails)
    assert len(tries) == 1


def test_a_page_that_is_not_there_is_no_server_that_is_away(server: Server) -> None:
    server.fail("404", times=1)
    with pytest.raises(httpx.HTTPStatusError):
        outlast(lambda: httpx.get(server.url).raise_for_status())


def test_a_phase_that_waited_for_prefect_was_not_lost(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    """A phase is not begun a third time: what went away in its middle must not count."""
    from prefect import flow

    from flows.phases import run_phase

    assert installation
    url = f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("INCIDENT_STORE_URL", url)
    store = Store(url)
    store.migrate()
    row = open_incident(store, profile())
    ref = IncidentRef(incident_id=row.id, epoch=row.epoch, mode=Mode.LIVE)
    server.fail("500", times=5)

    async def phase() -> Done:
        httpx.get(server.url).raise_for_status()
        return Done()

    @flow
    async def parent() -> Done:
        return await run_phase(ref, "diagnose", Done, phase)

    assert asyncio.run(parent()) == Done()
    [kept] = store.phases(row.id)
    assert (kept.starts, kept.outcome) == (1, {"reason": "done"})
    store.close()


@pytest.mark.parametrize("answered", ["meanwhile", "afterwards"])
def test_a_form_is_waited_for_through_a_time_without_a_server(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, answered: str
) -> None:
    """Paused again, Prefect would end the run; and what a person said meanwhile would be lost."""
    from prefect import flow
    from prefect.client.orchestration import PrefectClient, get_client
    from prefect.runtime import flow_run

    from tasks.forms import ApprovalForm, answer_to

    assert installation
    run_ids: list[UUID] = []
    away = threading.Event()
    noticed = threading.Event()
    read_flow_run = PrefectClient.read_flow_run

    async def read_when_there(client: PrefectClient, run_id: UUID) -> Any:
        if away.is_set():
            noticed.set()
            raise httpx.ConnectError("connection refused")
        return await read_flow_run(client, run_id)

    monkeypatch.setattr(PrefectClient, "read_flow_run", read_when_there)

    def person() -> None:
        with get_client(sync_client=True) as client:

            def resume() -> None:
                client.resume_flow_run(run_ids[0], run_input={"decision": "approve", "by": "Ann"})

            wait_for(lambda: run_ids and has_form(str(run_ids[0])), named="the form")
            away.set()
            noticed.wait()
            if answered == "meanwhile":
                resume()
            away.clear()
            time.sleep(2)
            if answered == "afterwards":
                resume()

    @flow
    async def asks() -> str:
        run_ids.append(UUID(flow_run.id))
        said = await answer_to(ApprovalForm.with_initial_data(description="restart?"), "asked")
        return f"{said.by}: {said.decision.value}"

    thread = threading.Thread(target=person)
    thread.start()
    assert asyncio.run(asks()) == "Ann: approve"
    thread.join()


def test_a_run_that_was_paused_just_before_its_server_went_away_gets_its_form_afterwards(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nobody could answer, neither in Prefect's page nor the keeper when the time is up."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.input import RunInput
    from prefect.runtime import flow_run

    from tasks.forms import ApprovalForm, answer_to

    assert installation
    run_ids: list[UUID] = []
    lost: list[object] = []
    save = RunInput.asave.__func__  # type: ignore[attr-defined]

    async def save_the_second_time(form: type[RunInput], *arguments: Any) -> Any:
        if not lost:
            lost.append(form)
            raise httpx.ConnectError("connection refused")
        return await save(form, *arguments)

    monkeypatch.setattr(RunInput, "asave", classmethod(save_the_second_time))

    def person() -> None:
        def answered() -> bool:
            with get_client(sync_client=True) as client:
                said = client.resume_flow_run(run_ids[0], run_input={"decision": "approve", "by": "Ann"})
            return said.status.value == "ACCEPT"

        wait_for(lambda: run_ids and lost and answered(), named="the form")

    @flow
    async def asks() -> str:
        run_ids.append(UUID(flow_run.id))
        return str((await answer_to(ApprovalForm.with_initial_data(description="restart?"), "asked")).by)

    thread = threading.Thread(target=person)
    thread.start()
    assert asyncio.run(asks()) == "Ann"
    thread.join()
