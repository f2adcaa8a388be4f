"""`incident up`: one command that stays, found by the others, mended where it breaks, and gone without a trace."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import prefect_api
import pytest
from processes import processes_of, wait_until_gone
from rich.console import Console

from responder.cli import up as up_module
from responder.cli.up import Screen, Supervisor
from responder.domain.base import now
from responder.domain.errors import PermanentError, TransientError
from responder.installation import free_port, server_password, server_password_file
from responder.running import Running, claim, find_running
from responder.store import Store
from tests.lab_runs import PATIENCE_S, wait_for

PROGRAM = str(Path(sys.executable).with_name("incident"))


def environment(home: Path) -> dict[str, str]:
    """A person's, who has a data folder and nothing else."""
    outside = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT", "INCIDENT"))}
    return outside | {"INCIDENT_HOME": str(home)}


def free_ports() -> list[str]:
    """Options of `incident up` by which it disturbs no other."""
    return ["--port", str(free_port()), "--receiver-port", str(free_port())]


def incident(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `incident arguments…` in another terminal to its end."""
    command = [PROGRAM, *arguments]
    return subprocess.run(
        command, env=environment(home), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def as_in_the_background() -> None:
    """What a shell that is not interactive does for what it puts there; a terminal that closes is heard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Stays:
    """A command that stays, and the JSON documents that it prints, a line or a whole one."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.said: list[dict[str, Any]] = []
        self.out = ""
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=as_in_the_background,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._listen)]
        self.errors = ""
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.out += line
            with contextlib.suppress(ValueError):
                self.said.append(json.loads(line))

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.errors += line

    def wait_for(self, what: Callable[[dict[str, Any]], bool], named: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None, f"it ended before {named}: {self.errors}"
            return next((line for line in self.said if what(line)), None)

        return wait_for(found, named=named)

    def end(self, number: signal.Signals) -> int:
        """Ask it to end; returns its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        for reader in self._readers:
            reader.join(10)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(tmp_path_factory, port) -> Iterator[Stays]:
    """`incident up --lab`, for all tests of this module."""
    home = tmp_path_factory.mktemp("up") / "home"
    started = Stays(home, "up", "--lab", "--port", str(port), "--receiver-port", str(free_port()), "--json")
    try:
        started.wait_for(lambda line: line["event"] == "ready", "ready")
        yield started
    finally:
        started.kill()
        wait_until_gone(started.home, 60)


def ready(running: Stays) -> dict[str, Any]:
    return next(line for line in running.said if line["event"] == "ready")


def pid_of(running: Stays, words: str) -> int:
    """The process of the installation that was started by these words."""
    [pid] = [
        pid
        for pid in processes_of(running.home)
        if words in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    ]
    return pid


def pid_of_run(running: Stays) -> int | None:
    """The process of the incident's run, once it has begun."""
    with closing(Store(f"sqlite:///{running.home}/incidents.db")) as store:
        holders = [lease.holder for lease, _ in store.leases() if not lease.holder.startswith("keeper:")]
    return int(holders[0].rpartition(":")[2]) if holders else None


# --- one that runs -------------------------------------------------------------------------------------


def test_it_says_where_everything_is_and_that_all_is_well(running, port):
    said = ready(running)
    assert said["ui_url"] == f"http://127.0.0.1:{port}"
    assert said["api_url"] == f"http://127.0.0.1:{port}/api"
    assert said["data_folder"] == str(running.home)
    assert (Path(said["logs"]) / "server.log").exists()
    assert Path(said["secrets"].partition(",")[0]).exists()
    assert said["health"] == {
        "server": "running",
        "worker": "running",
        "keeper": "running",
        "receiver": "running",
        "lab": f"{said['lab_service']}, healthy",
    }
    assert running.home.stat().st_mode & 0o077 == 0, "nobody else reads where the secrets lie"
    assert said["ui_password"] == str(server_password_file(running.home))
    assert Path(said["ui_password"]).stat().st_mode & 0o777 == 0o600
    for url in (said["ui_url"], f"{said['api_url']}/health"):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200


def test_a_second_one_in_the_same_folder_says_that_it_runs_already(running):
    second = incident(running.home, "up", *free_ports())
    assert (second.returncode, second.stdout) == (1, "")
    assert f"`incident up` runs in {running.home} already (at {ready(running)['ui_url']}" in second.stderr
    assert running.process.poll() is None


def test_other_commands_find_its_server_and_start_none(running):
    before = sorted(processes_of(running.home))
    listed = incident(running.home, "service", "list", "--json")
    assert [row["name"] for row in json.loads(listed.stdout)] == [ready(running)["lab_service"]]
    checked = incident(running.home, "service", "check", ready(running)["lab_service"], "--json")
    findings = {
        finding["what"].partition(": ")[2]: finding["ok"] for finding in json.loads(checked.stdout)["checks"]
    }
    assert findings["reachable, host key and key accepted"] is findings["health"] is True, checked.stdout
    assert sorted(processes_of(running.home)) == before
    assert (running.home / "logs" / "server.log").read_text().count("Check out the dashboard") == 1


def test_its_secrets_are_in_no_log_and_not_on_the_screen(running):
    token = json.loads(incident(running.home, "token", "add", "kim", "--json").stdout)["token"]
    url = ready(running)["receiver_url"]
    for bearer in (token, "incident_wrong"):
        httpx.get(f"{url}/incidents", headers={"Authorization": f"Bearer {bearer}"}, trust_env=False, timeout=60)
    password = server_password(running.home)
    secrets = (password, password.partition(":")[2], base64.b64encode(password.encode()).decode(), token)
    printed = running.out + running.errors
    logged = {log.name: log.read_text() for log in (running.home / "logs").iterdir()}
    assert "GET /incidents" in logged["receiver.log"]
    assert [name for name, text in (logged | {"screen": printed}).items() if any(s in text for s in secrets)] == []
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in processes_of(running.home)]
    assert not any(secret in command for secret in secrets for command in commands)


def test_a_person_with_a_token_stops_everything_over_http_and_other_commands_see_it(running):
    url = ready(running)["receiver_url"]
    added = json.loads(incident(running.home, "token", "add", "robin", "--json").stdout)
    headers = {"Authorization": f"Bearer {added['token']}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as robin:
        assert robin.get("/readyz").json() == {"ready": True, "keeper": True}
        assert robin.post("/stop", json={"why": "release"}).json()["stopped"]
        assert "robin" in json.loads(incident(running.home, "stop", "--status", "--json").stdout)["by"]
        robin.request("DELETE", "/stop", json={})
        assert incident(running.home, "token", "revoke", str(added["id"]), "--json").returncode == 0
        assert robin.get("/stop").status_code == 401


def test_a_broken_lab_begins_an_incident_that_is_watched_to_its_end(running):
    watching = Stays(running.home, "watch", "--json")  # before it opens: the next one is waited for
    broken = incident(running.home, "lab", "break", "process-crash", "--json")
    assert broken.returncode == 0, broken.stderr
    begun = json.loads(broken.stdout)
    assert begun["service"] == ready(running)["lab_service"]
    assert begun["run_url"].startswith(ready(running)["ui_url"])
    status = watching.process.wait(PATIENCE_S)
    wait_for(lambda: watching.said and watching.said[-1]["event"] == "end")
    *entries, end = watching.said
    assert (status, end["outcome"], end["status"]) == (0, "resolved", "closed"), watching.out
    assert {entry["event"] for entry in entries} == {"entry"}
    assert {"run", "phase", "attempt", "decision", "message"} <= {entry["source"] for entry in entries}
    shown = json.loads(incident(running.home, "show", end["incident"], "--json").stdout)
    assert shown["run_url"] == begun["run_url"]
    assert [row["id"] for row in json.loads(incident(running.home, "list", "--json").stdout)] == [end["incident"]]
    running.wait_for(lambda line: "broken by process-crash" in line.get("state", ""), "the lab said to be broken")


def test_what_is_over_is_watched_as_it_was(running):
    [row] = json.loads(incident(running.home, "list", "--json").stdout)
    ran = incident(running.home, "watch", row["id"][:6])
    assert ran.returncode == 0
    assert "incident opened" in ran.stdout
    assert "outcome   resolved" in ran.stdout


def test_the_lab_is_healed(running):
    healed = incident(running.home, "lab", "heal", "--json")
    assert json.loads(healed.stdout) == {"service": ready(running)["lab_service"], "state": "healthy"}


def test_a_scenario_that_does_not_fit_is_refused_with_what_to_do(running, tmp_path):
    unknown = incident(running.home, "lab", "break", "meteorite")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "process-crash" in unknown.stderr
    text = (
        "schema_version: 1\nname: twins\nsummary: Two hosts.\nhosts: 2\nexpect: {outcome: no_fault}\n"
        "trigger: {declare: {summary: It seems slow}}\n"
    )
    (tmp_path / "twins.yaml").write_text(text)
    (tmp_path / "again.yaml").write_text(text.replace("hosts: 2", "restart_policy: always"))
    twins = incident(running.home, "lab", "break", str(tmp_path / "twins.yaml"))
    assert (twins.returncode, twins.stdout) == (1, "")
    assert "twins needs 2 hosts and the lab has 1; start it with `incident up --lab --hosts 2`" in twins.stderr
    again = incident(running.home, "lab", "break", str(tmp_path / "again.yaml"))
    assert again.returncode == 1
    assert "see it with `incident drill twins --ui`" in again.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("keeper", "responder.keeper"),
        ("server", "responder.server"),
        ("worker", "prefect worker"),
        ("receiver", "responder.receiver"),
    ],
)
def test_a_process_that_dies_is_started_again_and_said_so(running, name, words):
    killed = pid_of(running, words)
    os.kill(killed, signal.SIGKILL)
    seen = len(running.said)

    def states() -> list[str]:
        return [line["state"] for line in running.said[seen:] if line.get("name") == name]

    wait_for(lambda: "running" in states(), named=f"the {name} runs again")
    assert states()[0] == "ended by SIGKILL, starts again in 1 s"
    assert pid_of(running, words) != killed
    with urllib.request.urlopen(f"{ready(running)['api_url']}/health", timeout=30) as answer:
        assert answer.status == 200


def test_it_ends_whole_while_an_incident_runs_and_its_worker_was_killed(running):
    """Asked by SIGINT, which was ignored when it was started in the background. The last test: nothing is left."""
    broken = incident(running.home, "lab", "break", "process-crash", "--json")
    assert broken.returncode == 0, broken.stderr
    run = wait_for(lambda: pid_of_run(running), named="its run")
    os.kill(pid_of(running, "prefect worker"), signal.SIGKILL)
    time.sleep(0.5)
    assert Path(f"/proc/{run}").exists(), "a run does not end with its worker"
    assert running.end(signal.SIGINT) == 0, running.errors
    assert running.said[-1] == {"event": "stopped"}
    wait_until_gone(running.home, 10)  # what the worker forks from ends a moment after it
    assert not (running.home / "running.json").exists()
    assert "Traceback" not in running.errors


# --- ends and beginnings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_while_it_starts_it_leaves_nothing(tmp_path, number):
    starting = Stays(tmp_path / "home", "up", *free_ports(), "--json")
    try:
        wait_for(lambda: (starting.home / "logs" / "server.log").exists(), named="the server's start")
        assert starting.end(number) == 0, starting.errors
        wait_until_gone(starting.home, 10)
        assert find_running(starting.home) is None
    finally:
        starting.kill()


def test_hosts_without_the_lab_are_wrong_usage(tmp_path):
    ran = incident(tmp_path / "home", "up", "--hosts", "2")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert not (tmp_path / "home").exists()


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        for option, other in (("--port", "--receiver-port"), ("--receiver-port", "--port")):
            ran = incident(tmp_path / "home", "up", option, str(number), other, str(free_port()))
            assert (ran.returncode, ran.stdout) == (1, "")
            assert f"port {number} on 127.0.0.1 cannot be used (Address already in use)" in ran.stderr
            assert f"incident up {option} N" in ran.stderr
            assert not (tmp_path / "home" / "prefect").exists()


def test_where_no_lab_runs_breaking_it_says_how_to_start_one(tmp_path):
    for arguments in (("break", "process-crash"), ("heal",)):
        ran = incident(tmp_path / "home", "lab", *arguments, "--json")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "start one with `incident up --lab`" in ran.stderr


def test_a_drill_with_ui_leaves_its_server_up_until_it_is_asked_to_end(tmp_path):
    drilling = Stays(tmp_path / "home", "drill", "nothing-wrong", "--ui", "--json")
    try:
        wait_for(lambda: "the server is up until" in drilling.errors, named="the end of the drill")
        [row] = json.loads(drilling.out)["scenarios"]
        assert f"nothing-wrong: {row['run_url']}" in drilling.errors
        base, _, run_id = row["run_url"].partition("/runs/flow-run/")
        [folder] = (drilling.home / "drills").iterdir()
        with prefect_api.client(f"{base}/api", server_password(folder)) as client:
            assert client.get(f"/flow_runs/{run_id}").json()["state"]["name"] == "Completed"
        assert drilling.end(signal.SIGTERM) == 0
        wait_until_gone(next((drilling.home / "drills").iterdir()), 10)
    finally:
        drilling.kill()


# --- who finds whom --------------------------------------------------------------------------------------


def facts(**changes: Any) -> Running:
    url = "http://127.0.0.1:1"
    return Running(pid=os.getpid(), started_at=now(), api_url=f"{url}/api", ui_url=url).model_copy(update=changes)


def test_what_is_ready_is_found_until_it_ends(tmp_path):
    assert find_running(tmp_path) is None
    with claim(tmp_path) as announce:
        announce(facts(ready=True))
        assert find_running(tmp_path) == facts(ready=True, started_at=find_running(tmp_path).started_at)
    assert find_running(tmp_path) is None


def test_what_is_starting_is_waited_for(tmp_path):
    with claim(tmp_path) as announce:
        announce(facts())
        with pytest.raises(TransientError, match=r"is not ready after 0\.2 s"):
            find_running(tmp_path, starting_s=0.2)
        threading.Timer(0.3, announce, [facts(ready=True)]).start()
        assert find_running(tmp_path, starting_s=10).ready


def test_what_was_killed_is_not_found_though_its_file_is_left(tmp_path):
    (tmp_path / "up.lock").touch()
    (tmp_path / "running.json").write_text(facts(ready=True).model_dump_json())
    assert find_running(tmp_path) is None
    with claim(tmp_path) as announce:
        announce(facts(ready=True))
        assert find_running(tmp_path).ready


# --- a process that keeps dying, and the screen ------------------------------------------------------------


class Mortal:
    """An installation whose worker ends as soon as it is started."""

    def __init__(self) -> None:
        self.starts = 0
        self._lives = subprocess.Popen(["sleep", "600"])
        self.start_worker()

    def start_worker(self) -> None:
        self.starts += 1
        self._dies = subprocess.Popen(["sh", "-c", "exit 3"])
        self._dies.wait()

    start_server = start_keeper = start_receiver = start_worker

    def child(self, name: str) -> subprocess.Popen[bytes]:
        return self._dies if name == "worker" else self._lives

    def answers(self) -> bool:
        return True

    keeper_alive = receiver_answers = answers

    def log(self, name: str) -> str:
        return f"the {name} cannot go on"

    def end(self) -> None:
        self._lives.kill()
        self._lives.wait()


def test_a_process_that_dies_again_and_again_is_given_up_with_its_last_words(monkeypatch):
    monkeypatch.setattr(up_module, "LONGEST_PAUSE_S", 0.01)
    mortal = Mortal()
    supervisor = Supervisor(mortal, mortal)  # type: ignore[arg-type]
    states: list[str] = []

    def supervise() -> None:
        while True:
            states.append(supervisor.look()["worker"])
            time.sleep(0.02)

    try:
        with pytest.raises(PermanentError, match="the worker ended 6 times") as told:
            supervise()
    finally:
        mortal.end()
    assert mortal.starts == 6
    assert states[0] == "ended by exit status 3, starts again in 0.01 s"
    assert "the worker cannot go on" in str(told.value)


def test_on_a_terminal_the_screen_shows_health_and_what_burns(monkeypatch):
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=120, color_system=None, emoji=False)
    monkeypatch.setattr(up_module, "results", console)
    document = {
        "ui_url": "http://127.0.0.1:4280",
        "secrets": "/data/prefect.db",
        "lab_service": None,
        "health": {"server": "running", "worker": "ended by SIGKILL, starts again in 1 s"},
    }
    with Screen(as_json=False) as screen:
        screen.show(document, ["4711  P1 shop: :fire: [red]down[/red]\x1b[2J"])
    text = drawn.getvalue()
    assert "http://127.0.0.1:4280" in text
    assert "/data/prefect.db" in text
    assert "ended by SIGKILL, starts again in 1 s" in text
    assert "4711  P1 shop: :fire: [red]down[/red]" in text
    assert "\x1b[2J" not in text, "what people wrote drives no terminal"
