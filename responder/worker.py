"""A worker of Prefect whose runs begin warm: forked from a process that has imported everything already.

Prefect's own process worker, with two changes: the event of a scheduled run wakes it before its next poll, and it
forks the run's process instead of starting Python anew. Everything else is Prefect's: states, logs, heartbeats,
cancellation, limits. Where a run cannot be forked it is started cold.
"""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import runpy
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.client.schemas.objects import FlowRun
from prefect.context import root_settings_context
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.flows import load_flow_from_flow_run
from prefect.logging.configuration import setup_logging

# As private as Prefect's own worker has them: `prefect` is pinned, and a test runs a flow through each.
from prefect.runner._control_channel import ControlChannel
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle
from prefect.runner._starter_engine import EngineCommandStarter
from prefect.settings import get_current_settings
from prefect.utilities.services import critical_service_loop
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

TYPE = "incident"
ENGINE = "python -m prefect.engine"
"""The command of our deployments, which is what a forked process does. Any other is started as it is said."""
PRELOADED = (
    "prefect.main",
    "prefect.flow_engine",
    "prefect.client.orchestration",
    "prefect.events.clients",
    __name__,
    "flows.incident",
    "flows.canary",
    "fastapi.encoders",  # for the parameters of a subflow: half a second
)
"""What is imported once for all runs. It opens no connection and starts no thread: a fork would break them."""
ASKED_AGAIN_S = 5.0
FORKED = multiprocessing.get_context("forkserver")

log = logging.getLogger(__name__)


class WarmWorker(ProcessWorker):
    """Forks a process for each run. Code that has changed is seen after a restart."""

    type = TYPE
    _display_name = "Incident"
    _description = "Runs incidents in processes forked from one that has imported them: they begin sooner."
    _waking: asyncio.Task[None] | None = None

    async def setup(self) -> None:
        """Start the process to fork from, and listen for scheduled runs."""
        FORKED.set_forkserver_preload(list(PRELOADED))
        await anyio.to_thread.run_sync(forkserver.ensure_running)
        await super().setup()
        self._waking = asyncio.create_task(self._wake())

    async def teardown(self, *exc_info: Any) -> None:
        """Listen no more; the rest is Prefect's."""
        if self._waking:
            self._waking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._waking
        await super().teardown(*exc_info)

    async def _wake(self) -> None:
        """Look for runs as soon as one is scheduled. Without the events the poll finds them, a moment later."""
        scheduled = EventFilter(event=EventNameFilter(name=["prefect.flow-run.Scheduled"]))
        while True:
            try:
                async with get_events_subscriber(filter=scheduled) as events:
                    async for _ in events:
                        await self.get_and_submit_flow_runs()
            except Exception as error:  # noqa: BLE001 - whatever it is, the poll goes on
                self._logger.warning("scheduled runs are only polled for at present: %s", error)
            await asyncio.sleep(ASKED_AGAIN_S)

    async def _setup_cancellation_observer(self) -> None:
        await super()._setup_cancellation_observer()
        if self._cancelling_observer:
            keep_looking(self._cancelling_observer)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Run it to its end; its process is forked if that is possible."""
        if configuration.command != ENGINE:
            return await super().run(flow_run, configuration, task_status)
        ended: FlowRunExecutionResult | None = None

        async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle]) -> None:
            nonlocal ended
            ended = await executor.submit(task_status)

        with tempfile.TemporaryDirectory(suffix="prefect") as folder:
            async with FlowRunExecutorContext() as context:
                keep_looking(context._observer)
                starter = ForkStarter(configuration, context.control_channel, Path(folder))
                executor = context.create_executor(
                    flow_run, starter, resolve_flow=load_flow_from_flow_run, propose_submitting=False
                )
                async with anyio.create_task_group() as group:
                    handle = await group.start(execute)
                    if task_status:
                        task_status.started(handle.pid)
        if ended is None or ended.status_code is None:
            raise RuntimeError("the run's process has not begun")
        return ProcessWorkerResult(status_code=ended.status_code, identifier=str(handle.pid))


def keep_looking(observer: FlowRunCancellingObserver) -> None:
    """Have the observer look for runs to cancel for as long as it lives.

    Prefect's gives up when it has failed a few times, as in an outage of a minute: a run that outlasted it obeyed
    no cancelling any more.
    """

    async def looking() -> None:
        await asyncio.sleep(observer.polling_interval)  # a server that refuses would be asked without a pause
        look_again = observer._check_for_cancelled_flow_runs
        await critical_service_loop(look_again, observer.polling_interval, jitter_range=0.3)

    def look() -> None:
        if observer._is_shutting_down:
            return
        observer._polling_task = asyncio.create_task(looking())
        observer._polling_task.add_done_callback(observer._handle_polling_task_done)

    def ended(listening: asyncio.Task[None]) -> None:
        if not listening.cancelled() and not listening.exception():  # a server that went away politely
            look()

    def failed(flow_run_ids: set[UUID]) -> None:
        log.warning("whether a run is to be cancelled is asked again: %d are at work", len(flow_run_ids))
        look()

    observer.on_failure = failed
    if observer._consumer_task:
        observer._consumer_task.add_done_callback(ended)


class ForkStarter:
    """Starts one run's process; what Prefect's executor asks of a starter."""

    def __init__(self, configuration: ProcessJobConfiguration, control: ControlChannel, folder: Path) -> None:
        self._configuration = configuration
        self._control = control
        self._folder = configuration.working_dir or folder

    async def start(
        self,
        flow_run: FlowRun,
        task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Fork, say so, and wait for the process to end; cold if it cannot be forked."""
        port, token = self._control.register(flow_run.id)
        environment = {
            **{name: text for name, text in self._configuration.env.items() if text is not None},
            **get_current_settings().to_environment_variables(exclude_unset=True),
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
        }
        process = FORKED.Process(target=run_engine, args=(environment, str(self._folder)))
        try:
            await anyio.to_thread.run_sync(process.start)
        except (OSError, EOFError) as error:
            log.warning("no process could be forked (%s); run %s is started cold", error, flow_run.id)
            self._control.unregister(flow_run.id)
            await EngineCommandStarter(
                command=self._configuration.command,
                cwd=self._folder,
                env=self._configuration.env,
                control_channel=self._control,
            ).start(flow_run, task_status)
            return
        task_status.started(ProcessHandle(process))  # type: ignore[arg-type] # only its pid and exitcode are asked for
        try:
            await anyio.wait_readable(process.sentinel)
        finally:
            if process.is_alive():  # the worker ends
                process.terminate()
        process.join()


def run_engine(environment: dict[str, str], folder: str) -> None:
    """Be `python -m prefect.engine`, in a process that was forked."""
    # Looking through all that was imported for garbage takes 150 ms, may come while the store is locked, and
    # copies every page of memory that it shares with the others.
    gc.freeze()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["prefect.engine"]
    with root_settings_context():  # what the environment says now, not what it said before the fork
        setup_logging()
        runpy.run_module("prefect.engine", run_name="__main__")
