"""The warm worker, on the session's server: what people see of its runs is what they see of Prefect's own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from prefect import Flow
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from processes import processes_of
from worker_flows import speaks, waits

from responder.installation import POOL, Installation, free_port
from responder.worker import ENGINE, TYPE, keep_looking
from tests.lab_runs import wait_for

NO_FORK_SERVER = "import multiprocessing.forkserver, sys\nmultiprocessing.forkserver.main = sys.exit\n"
WITHOUT_A_POLL = {"PREFECT_WORKER_QUERY_SECONDS": "600"}


@pytest.fixture
def prefect(installation: Installation) -> Iterator[SyncPrefectClient]:
    assert installation
    with get_client(sync_client=True) as client:
        yield client


def deployed(client: SyncPrefectClient, flow: Flow[..., Any], pool: str = POOL) -> UUID:
    """The deployment of one of the flows here, as it would be written in a prefect.yaml."""
    return client.create_deployment(
        client.create_flow(flow),
        f"worker-{uuid4().hex[:6]}",
        work_pool_name=pool,
        entrypoint=f"tests.worker_flows.{flow.fn.__name__}",
        pull_steps=[],
        job_variables={
            "command": ENGINE,
            "env": {"A_WORD": "of the deployment", "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true"},
        },
    )


def start(client: SyncPrefectClient, flow: Flow[..., Any], **parameters: str) -> UUID:
    return client.create_flow_run_from_deployment(deployed(client, flow), parameters=parameters).id


def state(client: SyncPrefectClient, run_id: UUID) -> str:
    return str(client.read_flow_run(run_id).state_name)


def said(client: SyncPrefectClient, run_id: UUID) -> list[str]:
    of_it = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    return [line.message for line in client.read_logs(of_it) if line.message.startswith("forked")]


def process_of(file: Path) -> int:
    return int(wait_for(lambda: file.exists() and file.read_text(), named="the run's process"))


def words(forked: bool) -> list[str]:
    return [f"forked: {forked}, word: of the deployment, persists: True, folder: []"]


def test_a_run_is_forked_with_its_own_environment_settings_and_folder_and_logs_to_prefect(prefect):
    run_id = start(prefect, speaks)
    wait_for(lambda: state(prefect, run_id) == "Completed", named="its end")
    assert wait_for(lambda: said(prefect, run_id), named="its logs") == words(forked=True)


def test_a_run_that_is_cancelled_ends_and_is_cancelled(prefect, tmp_path):
    run_id = start(prefect, waits, file=str(tmp_path / "pid"))
    process = process_of(tmp_path / "pid")
    prefect.set_flow_run_state(run_id, Cancelling())
    wait_for(lambda: state(prefect, run_id) == "Cancelled", named="the cancelled run")
    wait_for(lambda: not Path(f"/proc/{process}").exists(), named="the end of its process")


def test_a_run_that_outlasts_its_server_can_still_be_cancelled(prefect, installation, monkeypatch):
    run_id, cancelled, failed = prefect.create_flow_run(waits).id, list[UUID](), list[str]()
    relay = Relay(urlsplit(installation.api_url).port)
    observer = FlowRunCancellingObserver(cancelled.append, polling_interval=0.05)
    monkeypatch.setattr(observer.logger, "error", lambda text, *_, **__: failed.append(text))
    observer.add_in_flight_flow_run_id(run_id)

    async def outlast() -> None:
        async with observer:  # no server yet, or no more
            keep_looking(observer)
            await asyncio.to_thread(wait_for, lambda: len(failed) > 3, named="looks that fail for long")
            with relay:
                prefect.set_flow_run_state(run_id, Cancelling())
                await asyncio.to_thread(wait_for, lambda: cancelled, named="the cancelled run")

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{relay.port}/api"}):
        asyncio.run(outlast())
    assert set(cancelled) == {run_id}


class Relay:
    """A way to a port of this machine that is open for a while."""

    def __init__(self, leads_to: int) -> None:
        self._leads_to = leads_to
        self._links: list[socket.socket] = []
        self.port = free_port()

    def __enter__(self) -> "Relay":
        self._door = socket.create_server(("127.0.0.1", self.port))
        Thread(target=self._serve, args=(self._door,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self._door, *self._links]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self, door: socket.socket) -> None:
        with suppress(OSError):  # shut
            while True:
                link, _ = door.accept()
                there = socket.create_connection(("127.0.0.1", self._leads_to))
                self._links += [link, there]
                for source, sink in ((link, there), (there, link)):
                    Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # cut
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_whose_process_is_killed_is_crashed(prefect, tmp_path, number):
    run_id = start(prefect, waits, file=str(tmp_path / "pid"))
    os.kill(process_of(tmp_path / "pid"), number)
    wait_for(lambda: state(prefect, run_id) == "Crashed", named="the crash")


def test_a_fork_server_that_dies_is_started_again(prefect, installation):
    [server] = [pid for pid in processes_of(installation.home) if is_fork_server(pid)]
    os.kill(server, signal.SIGKILL)
    run_id = start(prefect, speaks)
    wait_for(lambda: state(prefect, run_id) == "Completed", named="its end")
    assert wait_for(lambda: said(prefect, run_id), named="its logs") == words(forked=True)


def is_fork_server(pid: int) -> bool:
    """Whether it is one, and not a run forked from it."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return "forkserver" in command_of(pid) and "prefect worker" in command_of(parent)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize("forked", [True, False])
def test_a_scheduled_run_wakes_the_worker_and_without_a_fork_server_it_begins_cold(
    prefect, installation, tmp_path, forked
):
    (tmp_path / "sitecustomize.py").write_text("" if forked else NO_FORK_SERVER)
    with worker(installation, tmp_path, WITHOUT_A_POLL | {"PYTHONPATH": str(tmp_path)}) as pool:
        deployment, runs = deployed(prefect, speaks, pool), list[UUID]()

        def done() -> bool:
            # Nobody tells when the worker has begun to listen; what was scheduled before that waits for its poll.
            runs.append(prefect.create_flow_run_from_deployment(deployment).id)
            return until(lambda: state(prefect, runs[-1]) == "Completed", 10)

        wait_for(done, named="a run that was not polled for")
        assert wait_for(lambda: said(prefect, runs[-1]), named="its logs") == words(forked)


def until(what: Callable[[], bool], seconds: float) -> bool:
    try:
        return wait_for(what, seconds)
    except TimeoutError:
        return False


@contextmanager
def worker(installation: Installation, folder: Path, settings: dict[str, str]) -> Iterator[str]:
    """A worker with a pool of its own, whose name this is."""
    pool = f"{TYPE}-{uuid4().hex[:6]}"
    installation.run("prefect", "work-pool", "create", pool, "--type", TYPE)
    with (folder / "worker.log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool],
            env=installation.environment | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that starts us in the background leaves SIGINT ignored, and the worker stops by SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield pool
    finally:
        started.terminate()
        started.wait(60)
