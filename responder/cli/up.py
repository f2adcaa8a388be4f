"""`incident up`: server, worker, keeper and HTTP door, kept running and shown until it is asked to end."""

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from responder.cli.canary import kept_canary
from responder.cli.output import people, plain, print_fields, print_json_line, print_line, results
from responder.cli.signals import until_asked_to_end
from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.installation import Installation, server_password_file
from responder.running import Running, claim
from responder.store import Store, data_folder, open_store

LOOK_S = 1.0
ORPHAN_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36
STARTING_S = 60.0
STEADY_S = 60.0
"""A process that lived so long has got over what ended the ones before it."""
MOST_DEATHS = 5
LONGEST_PAUSE_S = 30.0
BURNING = 5


def run_up(*, host: str, port: int, receiver_port: int, most_runs: int, hosts: int | None, as_json: bool) -> None:
    """Run until a signal asks for the end, with a lab of so many hosts if any.

    Raises `PermanentError`: it runs here already, a port is taken, or a process ends again and again.
    """
    home = data_folder()
    screen = Screen(as_json=as_json)
    with until_asked_to_end() as leave_if_asked, claim(home) as announce, no_orphans(), ExitStack() as stack:
        _require_free(host, port, "--port")
        _require_free(host, receiver_port, "--receiver-port")
        if other := os.environ.get("PREFECT_API_URL"):
            people.print(f"note: commands in this shell use {other} (PREFECT_API_URL), not this server")
        installation = Installation(
            home,
            host=host,
            port=port,
            receiver_port=receiver_port,
            most_runs=most_runs,
            meanwhile=leave_if_asked,
        )
        running = Running(
            pid=os.getpid(), started_at=now(), api_url=installation.api_url, ui_url=installation.ui_url
        )
        announce(running)
        people.print(f"starting Prefect's server, a worker, a keeper and the HTTP door in {home} …")
        stack.enter_context(installation)
        store = stack.enter_context(closing(open_store()))
        lab = None
        if hosts:
            from responder.cli.lab import ServedLab

            people.print("starting the lab …")
            sender, token = store.add_token("alertmanager of the lab", sends_alerts=True)
            stack.callback(store.revoke_token, sender.id)
            url = installation.receiver_url or ""
            lab = stack.enter_context(ServedLab(home, hosts=hosts, alerts_url=url, token=token))
        stack.enter_context(kept_canary(store, installation.receiver_url or "", lab.service if lab else None))
        supervisor = Supervisor(installation, store)
        announce(running.model_copy(update={"ready": True}))
        stack.callback(people.print, "stopping …")
        stack.enter_context(screen)
        while True:
            leave_if_asked()
            states = supervisor.look() | ({"lab": f"{lab.service}, {lab.state}"} if lab else {})
            screen.show(_document(installation, states, lab.service if lab else None), _burning(store))
            time.sleep(LOOK_S)
    screen.ended()


@contextmanager
def no_orphans() -> Iterator[None]:
    """End what is left of our descendants after the block: runs outlive a worker that was killed.

    They come to us when their parent dies. Processes that this one started itself must have ended by then.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        killing = time.monotonic() + ORPHAN_S
        for pid in _children():
            os.kill(pid, signal.SIGTERM)
        while _children():
            if time.monotonic() > killing:
                for pid in _children():
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.05)


def _children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]


def _require_free(host: str, port: int, option: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed just now is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PermanentError(
                f"port {port} on {host} cannot be used ({error.strerror or error}); stop what listens there, or "
                f"name another one: `incident up {option} N`"
            ) from error


def _document(installation: Installation, states: Mapping[str, str], lab: str | None) -> dict[str, Any]:
    home = installation.home
    return {
        "ui_url": installation.ui_url,
        "ui_password": str(server_password_file(home)),
        "receiver_url": installation.receiver_url,
        "tokens": "`incident token add PERSON` makes one, for the HTTP door and where a name must be proven",
        "api_url": installation.api_url,
        "data_folder": str(home),
        "logs": str(home / "logs"),
        "secrets": f"{home / 'prefect' / 'prefect.db'}, in Prefect's blocks; whoever has the password reads them",
        "lab_service": lab,
        "health": dict(states),
    }


def _burning(store: Store) -> list[str]:
    try:
        rows = store.open_incidents(limit=BURNING)
    except SQLAlchemyError as error:
        return [f"unknown, the store does not answer: {_first_line(error)}"]
    return [f"{row.id}  {row.severity or 'P?'} {row.service}: {row.summary}" for row in rows]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


@dataclass
class Process:
    """What the supervisor knows of one process. Times are of the monotonic clock, s."""

    start: Callable[[], None]
    healthy: Callable[[], bool]
    since: float
    deaths: int = 0
    due: float | None = None
    state: str = "running"


class Supervisor:
    """Starts again what has ended, each time after a longer pause."""

    def __init__(self, installation: Installation, store: Store) -> None:
        self._installation = installation
        started = time.monotonic()
        self._processes = {
            "server": Process(installation.start_server, installation.answers, started),
            "worker": Process(installation.start_worker, lambda: True, started),
            "keeper": Process(installation.start_keeper, store.keeper_alive, started),
            "receiver": Process(installation.start_receiver, installation.receiver_answers, started),
        }

    def look(self) -> dict[str, str]:
        """The state of each process, after starting what is due.

        Raises `PermanentError` when one ended too often, each time soon after its start.
        """
        for name, process in self._processes.items():
            self._look_at(name, process)
        return {name: process.state for name, process in self._processes.items()}

    def _look_at(self, name: str, process: Process) -> None:
        ended, at = self._installation.child(name).poll(), time.monotonic()
        lived_s = at - process.since
        if ended is None:
            process.state = _state(process, lived_s)
        elif process.due is None:
            process.deaths = process.deaths + 1 if lived_s < STEADY_S else 1
            if process.deaths > MOST_DEATHS:
                raise PermanentError(
                    f"the {name} ended {process.deaths} times, each within {STEADY_S:g} s of its start, at last "
                    f"by {_cause(ended)}; its last words:\n{self._installation.log(name)[-2_000:]}"
                )
            pause_s = min(2.0 ** (process.deaths - 1), LONGEST_PAUSE_S)
            process.due = at + pause_s
            process.state = f"ended by {_cause(ended)}, starts again in {pause_s:g} s"
        elif at >= process.due:
            process.start()
            process.since, process.due, process.state = at, None, "starting"


def _state(process: Process, lived_s: float) -> str:
    try:
        healthy = process.healthy()
    except SQLAlchemyError as error:
        return f"unknown, the store does not answer: {_first_line(error)}"
    if healthy:
        return "running"
    return "starting" if lived_s < STARTING_S and process.state != "running" else "does not answer"


def _cause(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class Screen:
    """What `incident up` shows: drawn anew on a terminal, a line for each change elsewhere.

    With `as_json` a JSON document for each.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._states: dict[str, str] = {}
        self._live = None if as_json or not results.is_terminal else Live(console=results, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, document: Mapping[str, Any], burning: list[str]) -> None:
        """Show how things are now; the first time whole, later what has changed."""
        states: dict[str, str] = document["health"]
        if not self._states:
            self._begin(document)
        for name, state in states.items():
            if self._states.get(name, state) != state:
                self._changed(name, state)
        self._states = dict(states)
        if self._live:
            self._live.update(_drawn(document, burning), refresh=True)

    def _begin(self, document: Mapping[str, Any]) -> None:
        if self._json:
            print_json_line({"event": "ready", **document})
        elif not self._live:
            print_fields({name: text for name, text in document.items() if name != "health"})
            print_fields(document["health"])
            print_line("ready; Ctrl-C or SIGTERM ends everything")

    def _changed(self, name: str, state: str) -> None:
        at = now()
        if self._json:
            event = {"event": "changed", "at": at.isoformat(timespec="seconds"), "name": name, "state": state}
            print_json_line(event)
        else:
            print_line(f"{at:%H:%M:%S}  {name:<8}  {state}")

    def ended(self) -> None:
        """Everything has ended."""
        if self._json:
            print_json_line({"event": "stopped"})
        else:
            print_line("stopped, nothing is left running")


def _drawn(document: Mapping[str, Any], burning: list[str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in document.items():
        if isinstance(value, str):
            table.add_row(Text(name.replace("_", " "), style="bold"), plain(value))
    for name, state in document["health"].items():
        good = state == "running" or state.endswith("healthy")
        table.add_row(Text(name, style="bold"), Text.assemble(("● ", "green" if good else "red"), plain(state)))
    for number, line in enumerate(burning or ["nothing"]):
        table.add_row(Text("" if number else "open incidents", style="bold"), plain(line))
    if document["lab_service"]:
        table.add_row(Text("to break it", style="bold"), "incident lab break process-crash")
    table.add_row(Text("to end", style="bold"), "Ctrl-C")
    return table
