"""A fleet in which every kind of host that the rig can play awkwardly stands beside good ones.

What a person reads of each, that none of them counts as healthy or delays the others, and what becomes of a
change there. Single faults of one connection are in `test_ssh.py`.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paramiko
import pytest
from farm import Farm, farm, farm_credentials, farm_hosts
from prefect.logging import disable_run_logger
from rig_profile import rig_profile

from responder.domain.base import now
from responder.domain.errors import HostKeyError, IncidentResponseError, OutcomeUnknownError
from responder.domain.evidence import Dossier
from responder.domain.parsing.systemd import PROPERTIES
from responder.domain.profile import Profile
from responder.domain.verification import take_sample
from tasks.look import look_at_fleet

__all__ = ["farm"]  # pytest finds fixtures by their names

CONNECT_S = COMMAND_S = 4.0
FLEET_S = 90.0
"""Far above what the slowest host may take, far below what waiting for each command of one that hangs would."""

GOOD = {"plain", "very_slow", "noisy", "max_sessions_1", "max_startups_1"}
SAID = {
    "blackhole": "accepted the connection and did not send an SSH banner",
    "refused": "cannot be reached: Connection refused",
    "not_ssh": "closed the connection without an SSH banner",
    "hostkey_changed": "its host key has changed",
    "hostkey_unknown": "its host key is not known",
    "auth_denied": "does not accept ssh-ed25519 SHA256:.* for user rigops",
    "banner_stall": "did not finish the key exchange",
    "cut_rst": "the connection to it was lost during `.*journalctl",
    "cut_fin": "the connection to it was lost during `.*journalctl",
    "cmd_hangs": r"accepts the login and did not begin `curl .*` within \d+ s: it answered 'started",
    "bg_holds_pipe": r"does not run what it is sent: it answered 'done\\n' with exit status 0",
    "no_shell": "does not run what it is sent: it answered 'This account is currently not available",
    "killed": r"does not run what it is sent: it answered 'half\\n' with no exit status",
    "binary": "does not run what it is sent: it answered 'ok",
    "endless": "does not run what it is sent: it answered 'log line of an unending journal",
}
"""What is said of each that cannot be looked at. `rc255` can, but the status of no command can be believed."""


@dataclass
class Gateway:
    """A healthy gateway and the commands of a healthy unit, which every host of the farm has."""

    folder: Path
    url: str

    @property
    def systemctl(self) -> list[str]:
        return [str(self.folder / "systemctl")]

    @property
    def journalctl(self) -> list[str]:
        return [str(self.folder / "journalctl")]


class Healthy(BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self) -> None:
        Healthy.requests += 1
        seen = 10 * Healthy.requests
        name = "veloz_request_duration_seconds"
        metrics = f'veloz_http_requests_total{{code="200"}} {seen}\n# TYPE {name} histogram\n'
        metrics += "".join(f'{name}_bucket{{le="{bound}"}} {seen}\n' for bound in ("0.1", "+Inf"))
        metrics += f"{name}_sum {seen / 100}\n{name}_count {seen}\n"
        health = {"ok": True, "engine": {"connected": True}, "items": []}
        body = (metrics if self.path == "/metrics" else json.dumps(health)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain" if self.path == "/metrics" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def gateway(farm: Farm) -> Iterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="awkward-"))
    folder.chmod(0o755)  # for the login user
    shown = dict.fromkeys(PROPERTIES, "") | {"LoadState": "loaded", "ActiveState": "active", "MainPID": "1"}
    shown |= {"SubState": "running", "Result": "success", "NRestarts": "0"}
    unit = "".join(f"{name}={value}\n" for name, value in shown.items())
    (folder / "systemctl").write_text(f"#!/bin/sh\ncat <<'END'\n{unit}END\n")
    # Where the connection is cut in the middle of an answer there has to be one; their proxy is in front.
    cut = "|".join(f"*{farm[kind]['address'].replace('127.0.1.', '127.0.3.')}*" for kind in ("cut_rst", "cut_fin"))
    lines = f"case $SSH_CONNECTION in {cut}) lines=4000 ;; *) lines=20 ;; esac\n"
    journal = f"yes '1772360551.0 gw veloz[1]: {'x' * 90}' | head -n $lines\n"
    (folder / "journalctl").write_text(f"#!/bin/sh\n{lines}{journal}")
    for program in folder.iterdir():
        program.chmod(0o755)
    (folder / "ran").mkdir()
    (folder / "ran").chmod(0o777)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Gateway(folder, f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    shutil.rmtree(folder)


def fleet_of(hosts: list[dict[str, Any]], gateway: Gateway) -> Profile:
    """The shipped profile for these hosts, with the deadlines of this test."""
    data = rig_profile(Path(hosts[0]["key"]).parent / "hosts.json")
    ends = json.dumps(data["endpoints"]).replace("http://localhost:8080", gateway.url)
    data["endpoints"] = json.loads(ends) | {"timeout_s": 2}
    data["endpoints"]["metrics"]["scrape_interval_s"] = 1
    data["unit"] |= {"systemctl": gateway.systemctl, "journalctl": gateway.journalctl}
    data["hosts"] = [{key: host[key] for key in ("name", "address", "port")} for host in hosts]
    data["ssh"] |= {"user": hosts[0]["user"], "connect_timeout_s": CONNECT_S, "command_timeout_s": COMMAND_S}
    return Profile.model_validate(data)


@dataclass
class Fleet:
    """What one look at a fleet has shown, by the kind of the host."""

    began: datetime
    took_s: float
    profile: Profile
    dossier: Dossier
    hosts: dict[str, str] = field(default_factory=dict)

    def of(self, kind: str) -> Dossier:
        return self.dossier.for_host(self.hosts[kind])

    def verdict(self, kind: str) -> str:
        return take_sample(self.dossier, self.profile, now(), [self.hosts[kind]]).verdict()


def look_at(hosts: list[dict[str, Any]], gateway: Gateway) -> Fleet:
    profile = fleet_of(hosts, gateway)
    began, clock = now(), time.monotonic()
    with disable_run_logger():
        found = look_at_fleet.fn(profile, farm_credentials(hosts[0], CONNECT_S), "diagnosis", began)
    names = {host["kind"]: host["name"] for host in hosts}
    return Fleet(began, time.monotonic() - clock, profile, Dossier(evidence=tuple(found)), names)


@pytest.fixture(scope="module")
def looked(farm: Farm, gateway: Gateway) -> Fleet:
    """One look at all of them, the awkward ones first; the login without a shell is another user's."""
    hosts = [host for host in farm_hosts() if host["kind"] not in ("plain", "no_shell")]
    hosts += [host for host in farm_hosts() if host["kind"] == "plain"][:2]
    seen, other = look_at(hosts, gateway), look_at([farm["no_shell"]], gateway)
    return Fleet(
        seen.began, seen.took_s, seen.profile, seen.dossier.plus(other.dossier.evidence), seen.hosts | other.hosts
    )


def test_every_kind_that_the_rig_offers_is_looked_at(farm: Farm) -> None:
    assert set(farm) == GOOD | set(SAID) | {"rc255"}


@pytest.mark.parametrize("kind", SAID)
def test_a_host_that_cannot_be_looked_at_is_named_for_what_it_is_and_nothing_is_known_of_it(
    looked: Fleet, kind: str
) -> None:
    seen = looked.of(kind)
    [reachable] = seen.of("host.reachable")
    assert reachable.value is False
    assert re.search(SAID[kind], reachable.excerpt, re.DOTALL), reachable.excerpt
    assert looked.hosts[kind] in reachable.excerpt
    rest = [item for item in seen.evidence if item.key != "host.reachable"]
    assert [item for item in rest if item.unknown is None] == []
    assert {"unit.active_state", "health.verdict", "metrics.verdict", "logins.active"} <= {e.key for e in rest}
    assert looked.verdict(kind) == "unknown"


def test_a_status_that_a_wrapper_makes_up_leaves_everything_unknown_that_depends_on_it(looked: Fleet) -> None:
    seen = looked.of("rc255")
    assert "it ended with 255" in (seen.of("unit.active_state")[0].unknown or "")
    assert "exit status 255" in (seen.of("health.verdict")[0].unknown or "")
    assert looked.verdict("rc255") == "unknown"


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_a_host_that_is_only_odd_is_read_like_a_good_one(looked: Fleet, kind: str) -> None:
    seen = looked.of(kind)
    for key in ("health.verdict", "engine.verdict", "orders.verdict", "metrics.verdict"):
        assert seen.of(key)[0].value == "healthy", seen.of(key)
    assert seen.of("unit.active_state")[0].value == "active"
    assert seen.of("memory.used_percent")[0].value is not None
    assert looked.verdict(kind) == "healthy"


def test_no_host_waits_for_the_awkward_ones_longer_than_connecting_may_take(looked: Fleet) -> None:
    begun = [item.at for kind in GOOD for item in looked.of(kind).of("host.reachable")]
    assert (max(begun) - looked.began).total_seconds() < CONNECT_S + 2
    assert looked.took_s < FLEET_S


def test_more_hosts_that_hang_than_are_looked_at_at_once_hold_nobody_up(farm: Farm, gateway: Gateway) -> None:
    with socket.socket() as silent:
        silent.bind(("", 0))
        silent.listen(100)
        port = silent.getsockname()[1]
        hung = [
            farm["plain"] | {"name": f"hung-{n}", "address": f"127.0.9.{n}", "port": port} for n in range(1, 21)
        ]
        seen = look_at([*hung, farm["plain"]], gateway)
    [good] = seen.of("plain").of("host.reachable")
    assert good.value is True
    assert (good.at - seen.began).total_seconds() < 1.75 * CONNECT_S  # their two tries take more than twice that
    assert seen.verdict("plain") == "healthy"


# --- logins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PasswordAuthentication", "KbdInteractiveAuthentication"])
def test_a_host_that_wants_a_password_is_told_so(farm: Farm, tmp_path: Path, method: str) -> None:
    host = farm["plain"]
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(tmp_path / "host_key"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lines = [f"ListenAddress 127.0.0.1:{port}", f"HostKey {tmp_path}/host_key", "PidFile none", "UsePAM yes"]
    lines += ["PubkeyAuthentication no", "PasswordAuthentication no", "KbdInteractiveAuthentication no"]
    lines = [line for line in lines if not line.startswith(method)]
    (tmp_path / "config").write_text("\n".join([*lines, f"{method} yes", ""]))
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", tmp_path / "config"], stderr=subprocess.DEVNULL)
    try:
        known = f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n"
        ssh = farm_credentials(host, CONNECT_S).model_copy(update={"known_hosts": known})
        deadline = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.05)
        with pytest.raises(IncidentResponseError) as caught:
            ssh.connect("gw-1", "127.0.0.1", port)
    finally:
        server.terminate()
        server.wait()
    word = {"PasswordAuthentication": "password", "KbdInteractiveAuthentication": "keyboard-interactive"}[method]
    assert word in str(caught.value)
    assert "does not accept ssh-ed25519" in str(caught.value)


# --- changes ---------------------------------------------------------------------------------------

UNSENT = {"blackhole", "refused", "not_ssh", "hostkey_changed", "hostkey_unknown", "auth_denied", "banner_stall"}
UNKNOWN = {
    "cmd_hangs": "was sent and not answered within 3 s",
    "bg_holds_pipe": r"no answer from the fence, poll the attempt before acting: 'done\\n'",
    "no_shell": "no answer from the fence, poll the attempt before acting: 'This account is currently",
    "killed": "was sent and its answer is not whole",
    "binary": "no answer from the fence, poll the attempt before acting: 'ok",
    "endless": "was sent and its answer is not whole",
}
"""What is said of a change where nobody can tell whether it began: the host's answer is not the fence's."""


@dataclass
class Tried:
    """What became of one change on one host: of two starts, a look, a bar, and how often it has run."""

    starts: list[Any]
    poll: Any
    bar: Any
    ran: int


def answer_of(call: Any, *arguments: Any, **options: Any) -> Any:
    """The answer, or the error of ours."""
    try:
        return call(*arguments, **options)
    except IncidentResponseError as error:
        return error


@pytest.fixture(scope="module")
def tried(farm: Farm, gateway: Gateway) -> dict[str, Tried]:
    def try_on(kind: str) -> Tried:
        host, attempt = farm[kind], f"awkward-{kind.replace('_', '-')}-{os.getpid()}-{time.time_ns()}"
        ssh, at = farm_credentials(host, CONNECT_S), (host["name"], host["address"], host["port"], attempt)
        mark = gateway.folder / "ran" / kind
        argv = ["sh", "-c", 'echo ran >>"$1"', "sh", str(mark)]
        starts = [answer_of(ssh.start_change, *at, argv, deadline_s=3) for _ in range(2)]
        deadline = time.monotonic() + 20
        while getattr(polled := answer_of(ssh.poll_change, *at, deadline_s=3), "state", "") == "running":
            assert time.monotonic() < deadline, f"{kind}: the change does not end"
        bar = answer_of(ssh.bar_change, *at, deadline_s=3)
        ran = len(mark.read_text().splitlines()) if mark.exists() else 0
        return Tried(starts, polled, bar, ran)

    with ThreadPoolExecutor(len(farm)) as pool:
        return dict(zip(farm, pool.map(try_on, farm), strict=True))


def test_a_change_is_tried_on_every_kind(farm: Farm) -> None:
    assert set(farm) == UNSENT | set(UNKNOWN) | GOOD | {"rc255", "cut_rst", "cut_fin"}


@pytest.mark.parametrize("kind", sorted(GOOD | {"rc255", "cut_rst", "cut_fin"}))
def test_a_change_runs_once_where_the_fence_can_be_told(tried: dict[str, Tried], kind: str) -> None:
    change = tried[kind]
    assert [start.outcome for start in change.starts] == ["won", "exists"]
    assert (change.poll.state, change.poll.exit_status, change.bar.outcome) == ("ended", 0, "exists")
    assert change.ran == 1


@pytest.mark.parametrize("kind", sorted(UNSENT))
def test_a_change_that_cannot_be_sent_says_why_and_is_never_called_begun(
    farm: Farm, tried: dict[str, Tried], kind: str
) -> None:
    change = tried[kind]
    for said in (*change.starts, change.poll, change.bar):
        assert isinstance(said, IncidentResponseError)
        assert not isinstance(said, OutcomeUnknownError), "nothing was sent"
        assert re.search(SAID[kind], str(said))
        assert farm[kind]["name"] in str(said)
        assert isinstance(said, HostKeyError) == kind.startswith("hostkey")
    assert change.ran == 0


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_change_whose_host_answers_something_else_is_unknown_whatever_its_status(
    farm: Farm, tried: dict[str, Tried], kind: str
) -> None:
    change = tried[kind]
    for said in (*change.starts, change.bar):
        assert isinstance(said, OutcomeUnknownError), said
        assert re.search(UNKNOWN[kind], str(said)), said
        assert farm[kind]["name"] in str(said)
    assert isinstance(change.poll, IncidentResponseError), "a look that cannot tell is no state"
    assert re.search(SAID[kind].replace("curl .*", "exec .*"), str(change.poll), re.DOTALL), change.poll
    assert change.ran == 0
