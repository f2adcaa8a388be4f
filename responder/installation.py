"""One installation on one machine: the data folder and the processes that live in it.

Everything runs in an environment of its own: the user's Prefect profile, database and port 4200 are
never touched, whatever is set outside.
"""

import contextlib
import ctypes
import functools
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import certifi

from responder.domain.errors import PermanentError
from responder.store.location import HOME, STORE_URL, open_store

POOL = "incident"
WORKER = "incident"
"""The type of our worker, `responder.worker`."""
UP_PORT = 4280
"""Of the server of `incident up`, so that links live on; 4200 is left to the user's own Prefect."""
RECEIVER_PORT = 4281
"""Of the HTTP door."""
LOOPBACK = "127.0.0.1"
MOST_RUNS = 20
"""Runs at once: each is a process of some 150 MB. Those beyond wait, and a P1 that waits pages a person."""
_NICENESS = {"worker": 5, "server": 5}
"""Where all are busy, an alert is answered and a lease renewed before runs get on."""
_PASSWORD = "server-password"  # noqa: S105 - the name of a file
_SERVER_START_S = 180
_READY_S = 120
_STOP_S = 15
_PR_SET_PDEATHSIG = 1
_PEM_END = "-----END CERTIFICATE-----"
_CLIENT_SETTINGS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED")


class Installation:
    """A Prefect server (SQLite), a worker and a keeper on this machine, in one data folder.

    Use as a context manager: entering starts what is missing, leaving stops what was started.
    With `api_url` the server is somebody else's, and only a worker and a keeper are started, unless a keeper
    lives already; it is asked with `password`, else with what the environment says. Without `workers` there is
    nothing but the server. Our own server listens on `host` and `port`, any free one if none is given, and always
    asks for the `server_password`. With `receiver_port` the HTTP door is opened, too, on the same `host`.
    `meanwhile` is called again and again while it starts, and may raise to break that off.
    """

    def __init__(
        self,
        home: Path,
        *,
        api_url: str | None = None,
        password: str | None = None,
        workers: bool = True,
        host: str = LOOPBACK,
        port: int | None = None,
        receiver_port: int | None = None,
        most_runs: int = MOST_RUNS,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.home = home.resolve()
        self._workers = workers
        self._meanwhile = meanwhile
        self._host, self._port = host, port or free_port()
        self._receiver_port = receiver_port
        self._most_runs = most_runs
        self.api_url = api_url or f"http://{_reached_at(host)}:{self._port}/api"
        self._owns_server = api_url is None
        self._password = password
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of this installation."""
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PREFECT")
            or (not self._owns_server and self._password is None and name in _CLIENT_SETTINGS)
        }
        return outside | self._settings() | self._locks() | self._certificates()

    def _locks(self) -> dict[str, str]:
        """The password, and what makes our own server ask for it."""
        if not self._owns_server:
            return {} if self._password is None else {"PREFECT_API_AUTH_STRING": self._password}
        password = server_password(self.home)
        return {
            "PREFECT_API_AUTH_STRING": password,
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        }

    def _certificates(self) -> dict[str, str]:
        """One certificate for who speaks HTTP: each of Prefect's many clients reads all it is given, for 30 ms."""
        if not self.api_url.startswith("http://"):
            return {}
        file = self.home / "certificate.pem"
        _make_once(file, lambda: certifi.contents().partition(_PEM_END)[0] + _PEM_END + "\n")
        return {"PREFECT_API_SSL_CERT_FILE": str(file)}

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
            # Often enough to tell a crash from a server that was away; see `responder.keeper.crashes`.
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
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
                self._require_locked()
            if self._workers and (self._owns_server or not kept):
                self._start_workers()
            if self._receiver_port:
                self.start_receiver()
                self._await("receiver", self.receiver_answers, _READY_S)
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
        where = ("--host", self._host, "--port", str(self._port))
        self.spawn("server", "responder.server", "server", "start", *where)

    def answers(self) -> bool:
        """Whether the server answers that it is well, within 2 s."""
        return _status(f"{self.api_url}/health") == 200

    def _require_locked(self) -> None:
        url = f"{self.api_url}/admin/settings"
        if (status := _status(url)) != 401:
            raise PermanentError(
                f"Prefect's server answers {status} at {url} without its password, so it is not used: whoever "
                "reaches it would read the secrets of all services. Is another one listening there?"
            )

    def _start_workers(self) -> None:
        self.start_worker()
        self.start_keeper()
        self.run("responder.deployment", str(self._most_runs), str(prefect_file()))
        self._await("worker", lambda: "Worker" in self.log("worker") and "started" in self.log("worker"), _READY_S)

    def start_worker(self) -> None:
        """Start the worker that runs incidents."""
        self.spawn("worker", "prefect", "worker", "start", "--pool", POOL, "--type", WORKER)

    def start_keeper(self) -> None:
        """Start the keeper: leases, outbox, taking up crashed runs."""
        self.spawn("keeper", "responder.keeper")

    def start_receiver(self) -> None:
        """Open the HTTP door; it answers a moment later."""
        self.spawn("receiver", "responder.receiver", self._host, str(self._receiver_port))

    @property
    def receiver_url(self) -> str | None:
        """Where the HTTP door is, if it is one of ours."""
        return f"http://{_reached_at(self._host)}:{self._receiver_port}" if self._receiver_port else None

    def receiver_answers(self) -> bool:
        """Whether the HTTP door answers, within 2 s."""
        return _status(f"{self.receiver_url}/healthz") == 200

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
                # In a group of its own the terminal's Ctrl-C is for us alone. No session of its own: the kernel
                # weighs sessions first (sched(7), autogroups), and niceness would mean nothing between them.
                process_group=0,
                preexec_fn=functools.partial(_begin_child, _NICENESS.get(name, 0)),
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
        for name in ("receiver", "keeper", "worker", "server"):
            if child := self._children.pop(name, None):
                _stop(child)


def adopt(environment: Mapping[str, str]) -> None:
    """Make this process a member of the installation. Must happen before Prefect is imported."""
    for name in [name for name in os.environ if name.startswith("PREFECT") and name not in environment]:
        del os.environ[name]
    os.environ.update(environment)


def server_password(home: Path) -> str:
    """What the Prefect server of this data folder asks for; made when it is first needed.

    It lies in `server_password_file`, which nobody but its owner can read.
    """
    file = server_password_file(home)
    _make_once(file, lambda: f"incident:{secrets.token_urlsafe(32)}")
    return file.read_text(encoding="utf-8")


def _make_once(file: Path, text: Callable[[], str]) -> None:
    """Write a file of the data folder for its owner alone, unless it is there."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text(), encoding="utf-8")
    with contextlib.suppress(FileExistsError):  # another command was quicker: what it wrote holds
        os.link(draft, file)
    draft.unlink()


def server_password_file(home: Path) -> Path:
    """Where the password lies, as a whole what Prefect's UI asks for."""
    return home / _PASSWORD


def prefect_file() -> Path:
    """The `prefect.yaml` with our deployments: beside the packages in a checkout, inside when installed."""
    package = Path(__file__).parent
    installed, checkout = package / "prefect.yaml", package.parent / "prefect.yaml"
    return installed if installed.exists() else checkout


def free_port() -> int:
    """A port of loopback that nobody has, from below those that the system hands out to whoever asks for any.

    A port the system chose itself can be handed to another before the program it was chosen for takes it. This
    one is kept from others that look for one as we do, until this process ends: by a socket that does not listen,
    which hinders no server that binds with SO_REUSEADDR, as servers do (socket(7)).
    """
    while True:
        port = random.randint(20_000, 32_000)  # noqa: S311 - no secret
        try:
            with socket.socket() as probe:
                probe.bind((LOOPBACK, port))
            kept = socket.socket()
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind((LOOPBACK, port))
        except OSError:
            continue
        kept.detach()
        return port


def _reached_at(host: str) -> str:
    """How processes of this machine reach what listens on `host`."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to
        return LOOPBACK
    return f"[{host}]" if ":" in host else host


def _status(url: str) -> int | None:
    """What our own server answers within 2 s; None when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own server's URL
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


def _begin_child(niceness: int) -> None:
    os.nice(niceness)
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
