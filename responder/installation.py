"""One installation on one machine: the data folder and the processes that live in it.

Everything runs in an environment of its own: the user's Prefect profile, database and port 4200 are
never touched, whatever is set outside.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from responder.domain.errors import PermanentError
from responder.store.location import HOME, STORE_URL, open_store

POOL = "incident"
UP_PORT = 4280
"""Of the server of `incident up`, so that links live on; 4200 is left to the user's own Prefect."""
_SERVER_START_S = 180
_READY_S = 120
_STOP_S = 15
_PR_SET_PDEATHSIG = 1
_CLIENT_SETTINGS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED")


class Installation:
    """A Prefect server (SQLite), a worker and a keeper on this machine, in one data folder.

    Use as a context manager: entering starts what is missing, leaving stops what was started.
    With `api_url` the server is somebody else's, and only a worker and a keeper are started, unless a keeper
    lives already. Without `workers` there is nothing but the server. `port` is the server's own; any free one
    if none is given. `meanwhile` is called again and again while it starts, and may raise to break that off.
    """

    def __init__(
        self,
        home: Path,
        *,
        api_url: str | None = None,
        workers: bool = True,
        port: int | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.home = home.resolve()
        self._workers = workers
        self._meanwhile = meanwhile
        self.api_url = api_url or f"http://127.0.0.1:{port or _free_port()}/api"
        self._owns_server = api_url is None
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of this installation."""
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PREFECT") or (not self._owns_server and name in _CLIENT_SETTINGS)
        }
        return outside | self._settings()

    def _settings(self) -> dict[str, str]:
        prefect_home = self.home / "prefect"
        database = os.environ.get("INCIDENT_PREFECT_DATABASE_URL")
        binaries = str(Path(sys.executable).parent)
        return {
            HOME: str(self.home),
            STORE_URL: os.environ.get(STORE_URL) or f"sqlite:///{self.home / 'incidents.db'}",
            "PATH": os.pathsep.join([binaries, os.environ.get("PATH", os.defpath)]),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(prefect_home),
            "PREFECT_PROFILES_PATH": str(prefect_home / "profiles.toml"),
            "PREFECT_API_DATABASE_CONNECTION_URL": database
            or f"sqlite+aiosqlite:///{prefect_home / 'prefect.db'}",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            # Hosts and stand-ins on this machine are not reached through a proxy.
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])),
        }

    @property
    def ui_url(self) -> str:
        """Where people look."""
        return self.api_url.removesuffix("/api")

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)  # secrets lie in it
        (self.home / "logs").mkdir(exist_ok=True)
        adopt(self.environment)
        store = open_store()
        kept = store.keeper_alive()
        store.close()
        try:
            if self._owns_server:
                self.start_server()
                self._await("server", self.answers, _SERVER_START_S)
            if self._workers and (self._owns_server or not kept):
                self._start_workers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_server(self) -> None:
        """Begin to start the server; it `answers` some seconds later."""
        (self.home / "prefect").mkdir(exist_ok=True)
        port = self.api_url.split(":")[2].split("/")[0]
        self.spawn("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)

    def answers(self) -> bool:
        """Whether the server answers that it is well, within 2 s."""
        return _answers(f"{self.api_url}/health")

    def _start_workers(self) -> None:
        # The pool before the worker and the deployments: both refuse to work without it.
        self.run("prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite")
        self.start_worker()
        self.start_keeper()
        self.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_file()))
        self._await("worker", lambda: "Worker" in self.log("worker") and "started" in self.log("worker"), _READY_S)

    def start_worker(self) -> None:
        """Start the worker that runs incidents."""
        self.spawn("worker", "prefect", "worker", "start", "--pool", POOL, "--type", "process")

    def start_keeper(self) -> None:
        """Start the keeper: leases, outbox, taking up crashed runs."""
        self.spawn("keeper", "responder.keeper")

    def spawn(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `python -m module arguments…` as a child that dies with this process.

        More exactly with the thread that calls this (prctl(2), PR_SET_PDEATHSIG): call it from the main one.
        """
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._children[name] = child
        return child

    def run(self, module: str, *arguments: str) -> str:
        """Run `python -m module arguments…` to its end. Raises `PermanentError` with its last words."""
        self._meanwhile()
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_READY_S,
            check=False,
        )
        if done.returncode:
            words = (done.stdout + done.stderr).strip()[-2_000:]
            raise PermanentError(f"`{module} {' '.join(arguments)}` failed with {done.returncode}:\n{words}")
        return done.stdout

    def child(self, name: str) -> subprocess.Popen[bytes]:
        """The process started as `name`."""
        return self._children[name]

    def log(self, name: str) -> str:
        """What the process started as `name` has printed."""
        path = self.home / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _await(self, name: str, ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            self._meanwhile()
            if self._children[name].poll() is not None:
                raise PermanentError(f"the {name} ended at its start:\n{self.log(name)[-2_000:]}")
            if time.monotonic() > deadline:
                raise PermanentError(
                    f"the {name} was not ready after {timeout_s:g} s; see {self.home / 'logs' / f'{name}.log'}"
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop what was started, the server last; what does not end is killed."""
        for name in ("keeper", "worker", "server"):
            if child := self._children.pop(name, None):
                _stop(child)


def adopt(environment: Mapping[str, str]) -> None:
    """Make this process a member of the installation. Must happen before Prefect is imported."""
    for name in [name for name in os.environ if name.startswith("PREFECT") and name not in environment]:
        del os.environ[name]
    os.environ.update(environment)


def prefect_file() -> Path:
    """The `prefect.yaml` with our deployments: beside the packages in a checkout, inside when installed."""
    package = Path(__file__).parent
    installed, checkout = package / "prefect.yaml", package.parent / "prefect.yaml"
    return installed if installed.exists() else checkout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own server's URL
            return bool(answer.status == 200)
    except OSError:
        return False


def _die_with_parent() -> None:
    # A shell that starts us in the background leaves SIGINT ignored, and Prefect's worker stops by SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
