"""One installation on one machine: its own environment, its own folder, and processes that never outlive it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from processes import processes_of, wait_until_gone

from responder.domain.errors import PermanentError
from responder.installation import LOOPBACK, Installation, free_port

MEMBER = """
import json, sys, time
from pathlib import Path
from responder.installation import Installation

with Installation(Path(sys.argv[1])) as running:
    from prefect.client.orchestration import get_client  # this process belongs to the installation, too
    from responder.store import open_store

    with get_client(sync_client=True) as client:
        seen = {
            "api": running.api_url,
            "asked": str(client.api_url).rstrip("/"),
            "deployments": sorted(found.name for found in client.read_deployments()),
            "children": [running.child(name).pid for name in ("server", "worker", "keeper")],
            "keeper": open_store().keeper_alive(),
        }
    print(json.dumps(seen), flush=True)
    time.sleep(600)
"""


class Trap:
    """A port that nobody may knock at."""

    def __init__(self, port: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))
        self.socket.listen()
        self.knocks: list[Any] = []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/api"

    def _listen(self) -> None:
        while True:
            try:
                connection, address = self.socket.accept()
            except OSError:
                return
            self.knocks.append(address)
            connection.close()


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def traps() -> Iterator[list[Trap]]:
    """The user's own server, and Prefect's usual port where it is free."""
    opened = [Trap()]
    with contextlib.suppress(OSError):  # a server of the user's listens there: then only the other one tells
        opened.append(Trap(4200))
    yield opened
    for trap in opened:
        trap.socket.close()


@pytest.fixture
def environment() -> Iterator[None]:
    """An environment that a second installation may set, without the session's store."""
    with patch.dict(os.environ):
        del os.environ["INCIDENT_STORE_URL"]
        yield


def test_nothing_of_the_users_prefect_is_touched_and_a_killed_parent_leaves_no_process(tmp_path, traps):
    """One start serves both questions: it takes long."""
    home, user, here = tmp_path / "data", tmp_path / "user", tmp_path / "here"
    trap = traps[0].url
    (user / ".prefect").mkdir(parents=True)
    here.mkdir()
    profiles = f'active = "trap"\n[profiles.trap]\nPREFECT_API_URL = "{trap}"\n'
    (user / ".prefect" / "profiles.toml").write_text(profiles)
    (here / "prefect.toml").write_text(f'[api]\nurl = "{trap}"\nkey = "trap"\n[server.api]\nport = 4200\n')
    (here / ".env").write_text(f"PREFECT_API_URL={trap}\nPREFECT_API_KEY=trap\nPREFECT_HOME={user}/dotenv\n")
    before = content(user), content(here)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "INCIDENT"))
    }
    environment |= {
        "HOME": str(user),
        "PREFECT_API_URL": trap,
        "PREFECT_API_KEY": "trap",
        "PREFECT_PROFILE": "trap",
        "PREFECT_HOME": str(user / "prefect-home"),
        "PREFECT_PROFILES_PATH": str(user / ".prefect" / "profiles.toml"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{user / 'user.db'}",
        "PREFECT_SERVER_API_PORT": "4200",
        "PREFECT_LOCAL_STORAGE_PATH": str(user / "storage"),
    }
    member = subprocess.Popen(
        [sys.executable, "-c", MEMBER, str(home)], cwd=here, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        seen = json.loads(member.stdout.readline())
        assert seen["asked"] == seen["api"] != trap
        assert {"diagnose", "incident", "post_incident", "publish", "verify"} <= set(seen["deployments"])
        assert seen["keeper"] or (home / "logs" / "keeper.log").exists()
        running = processes_of(home)
        assert set(seen["children"]) <= set(running)
        member.send_signal(signal.SIGKILL)
        member.wait()
        wait_until_gone(home, 30)
    finally:
        member.kill()
        for pid in processes_of(home):
            os.kill(pid, signal.SIGKILL)
    assert (content(user), content(here)) == before
    assert [trap.knocks for trap in traps] == [[] for _ in traps]
    assert {entry.name for entry in home.iterdir()} >= {"prefect", "logs", "incidents.db"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "user", "here"}


def test_a_given_server_is_used_and_leaving_stops_what_was_started_and_nothing_else(
    installation, environment, tmp_path
):
    with Installation(tmp_path / "second", api_url=installation.api_url) as second:
        assert second.ui_url == installation.ui_url
        with pytest.raises(KeyError):
            second.child("server")
        worker, keeper = second.child("worker"), second.child("keeper")
        assert worker.poll() is None
        assert keeper.poll() is None
        assert set(processes_of(second.home)) >= {worker.pid, keeper.pid}
    wait_until_gone(second.home, 10)
    assert keeper.returncode == 0, second.log("keeper")
    assert worker.returncode is not None
    assert "Traceback" not in second.log("keeper")
    second.stop()  # once more does no harm
    with urllib.request.urlopen(f"{installation.api_url}/health", timeout=30) as answer:
        assert answer.status == 200
    assert all(installation.child(name).poll() is None for name in ("server", "worker", "keeper"))


def test_where_a_keeper_lives_already_nothing_is_started(installation):
    before = processes_of(installation.home)
    with Installation(installation.home, api_url=installation.api_url) as visitor:
        for name in ("server", "worker", "keeper"):
            with pytest.raises(KeyError):
                visitor.child(name)
    assert set(before) <= set(processes_of(installation.home))


def test_a_server_that_cannot_start_is_an_error_with_its_own_last_words(environment, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "INCIDENT_PREFECT_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/prefect.db"
    )
    home = tmp_path / "data"
    with pytest.raises(PermanentError, match="the server ended at its start") as told, Installation(home):
        pass
    assert "unable to open database file" in str(told.value)
    assert processes_of(home) == []


def test_a_command_that_fails_is_an_error_with_its_last_words(installation):
    with pytest.raises(PermanentError, match=r"`prefect work-pool inspect nowhere` failed with 1"):
        installation.run("prefect", "work-pool", "inspect", "nowhere")


def test_everything_lies_in_the_one_folder(installation):
    settings = installation.environment
    assert settings["PREFECT_HOME"].startswith(str(installation.home))
    assert settings["PREFECT_API_DATABASE_CONNECTION_URL"].endswith(f"{installation.home}/prefect/prefect.db")
    assert Path(installation.home / "incidents.db").exists()
    assert {"server.log", "worker.log", "keeper.log"} <= {
        log.name for log in (installation.home / "logs").iterdir()
    }


def test_a_free_port_is_given_to_one_process_and_its_server_may_have_it():
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, port))  # as whoever looks for one next
    with socket.create_server((LOOPBACK, port)) as server, socket.create_connection((LOOPBACK, port)):
        assert server.accept()
