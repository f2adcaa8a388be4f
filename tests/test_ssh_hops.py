"""Through a jump host, and with the key of an agent: real servers at both hops, OpenSSH's where there are any."""

import io
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from blocks.ssh import SSHCredentials
from responder.domain.errors import HostKeyError, OutcomeUnknownError, PermanentError, TransientError
from responder.domain.profile import JumpHost
from tests.ssh_server import Faults, SSHServer

CLIENT_KEY = paramiko.ECDSAKey.generate()
OTHER_KEY = paramiko.ECDSAKey.generate()


def pem(key: paramiko.PKey) -> str:
    text = io.StringIO()
    key.write_private_key(text)
    return text.getvalue()


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not come true in ten seconds"
        time.sleep(0.02)


class Hops:
    """A jump host and a target behind it; `faults` may be set at any time."""

    def __init__(self, home: Path) -> None:
        for name in ("jump", "target"):
            (home / name).mkdir()
        self.jump = SSHServer(home / "jump", CLIENT_KEY)
        self.target = SSHServer(home / "target", CLIENT_KEY)
        self.at = ("gw-1", self.target.address, self.target.port)

    def credentials(self, **fields: object) -> SSHCredentials:
        fields = {
            "user": "ops",
            "private_key": pem(CLIENT_KEY),
            "known_hosts": self.jump.known_hosts + self.target.known_hosts,
            "jump": JumpHost(address=self.jump.address, port=self.jump.port),
            "connect_timeout_s": 5,
            **fields,
        }
        return SSHCredentials(**fields)

    def connect(self, **fields: object):
        return self.credentials(**fields).connect(*self.at)


@pytest.fixture
def hops(tmp_path: Path) -> Iterator[Hops]:
    hops = Hops(tmp_path)
    with hops.jump, hops.target:
        yield hops


# --- the jump host --------------------------------------------------------------------------------------


def test_a_host_is_read_through_the_jump_host_by_the_user_of_each_hop(hops):
    jump = JumpHost(address=hops.jump.address, port=hops.jump.port, user="gate")
    with hops.connect(jump=jump) as connection:
        result = connection.read("echo out; echo err >&2; exit 3")
    assert (result.exit_status, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert hops.jump.forwarded == [(hops.target.address, hops.target.port)]
    assert (hops.jump.users, hops.target.users) == (["gate"], ["ops"])
    assert hops.jump.commands == []


def test_all_connections_share_one_to_the_jump_host_even_when_they_begin_at_once(hops):
    block = hops.credentials()

    def read(number: int) -> str:
        with block.connect(*hops.at) as connection:
            return connection.read(f"echo {number}; head -c 300000 /dev/zero | tr '\\0' x").stdout

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(read, range(16)))
    assert answers == [f"{number}\n" + "x" * 300_000 for number in range(16)]
    assert (hops.jump.connections, hops.target.connections) == (1, 16)


def test_the_jump_host_is_left_when_neither_credentials_nor_a_connection_need_it(hops):
    connection = hops.connect()
    assert hops.jump.connected == 1
    assert connection.read("echo still").stdout == "still\n"
    connection.close()
    del connection
    eventually(lambda: hops.jump.connected == 0)


def test_a_change_is_started_once_and_polled_through_the_jump_host(hops):
    block = hops.credentials()
    assert block.poll_change(*hops.at, "a-1").state == "absent"
    assert block.start_change(*hops.at, "a-1", ["sh", "-c", "echo ran >>ran; exit 4"]).outcome == "won"
    assert block.start_change(*hops.at, "a-1", ["sh", "-c", "echo ran >>ran"]).outcome == "exists"
    assert block.bar_change(*hops.at, "a-1").outcome == "exists"
    eventually(lambda: block.poll_change(*hops.at, "a-1").state == "ended")
    assert block.poll_change(*hops.at, "a-1").exit_status == 4
    assert (hops.target.home / "ran").read_text() == "ran\n"
    assert hops.jump.connections == 1
    assert hops.target.connections == len(hops.target.commands)


def test_a_jump_host_that_is_known_by_another_key_is_refused_and_nothing_is_sent_on(hops):
    hops.jump.host_keys, known = [OTHER_KEY], hops.jump.known_hosts + hops.target.known_hosts
    with pytest.raises(HostKeyError, match=rf"^jump host 127.0.0.1:{hops.jump.port}: its host key has changed"):
        hops.connect(known_hosts=known)
    assert (hops.jump.users, hops.jump.forwarded, hops.target.connections) == ([], [], 0)


def test_a_jump_host_that_is_not_known_is_refused(hops):
    with pytest.raises(HostKeyError, match=r"^jump host 127.0.0.1:\d+: its host key is not known"):
        hops.connect(known_hosts=hops.target.known_hosts)


def test_a_good_jump_host_does_not_vouch_for_the_host_behind_it(hops):
    known = hops.jump.known_hosts + hops.target.known_hosts
    hops.target.host_keys = [OTHER_KEY]
    with pytest.raises(HostKeyError, match=r"^gw-1 \(127.0.0.1:\d+, through jump host .*\): its host key has ch"):
        hops.connect(known_hosts=known)
    with pytest.raises(HostKeyError, match=r"^gw-1 .* is not known"):
        hops.connect(known_hosts=hops.jump.known_hosts)
    assert hops.target.users == []


def test_a_jump_host_that_cannot_be_reached_is_named(hops):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError, match=rf"^jump host 127.0.0.1:{port} cannot be reached: .*refused"):
        hops.connect(jump=JumpHost(address="127.0.0.1", port=port))


@pytest.mark.parametrize("hop", ["jump", "target"])
def test_the_hop_that_refuses_the_login_is_named(hops, hop):
    getattr(hops, hop).faults = Faults(refuse_auth=True)
    where = {"jump": "jump host 127", "target": "gw-1"}[hop]
    with pytest.raises(PermanentError, match=rf"^{where}.*does not accept ecdsa-sha2-nistp256 SHA256:.*user ops"):
        hops.connect()


@pytest.mark.parametrize("code", [1, 3])
def test_a_jump_host_that_does_not_forward_is_permanent_and_says_what_to_check(hops, code):
    hops.jump.faults = Faults(forward=code)
    with pytest.raises(PermanentError, match=r"^jump host .* does not forward to 127.*AllowTcpForwarding"):
        hops.connect()
    assert hops.target.connections == 0


def test_a_jump_host_without_resources_for_another_channel_is_asked_again_later(hops):
    hops.jump.faults = Faults(forward=4)
    with pytest.raises(TransientError, match=r"^gw-1 .* cannot be reached from the jump host"):
        hops.connect()


def test_a_host_that_the_jump_host_cannot_reach_is_named_and_the_next_one_is_reached(hops):
    block = hops.credentials()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        TransientError, match=rf"^gw-2 \(127.0.0.1:{port}, .* cannot be reached from the jump host"
    ):
        block.connect("gw-2", "127.0.0.1", port)
    assert block.connect(*hops.at).read("echo hi").stdout == "hi\n"
    assert hops.jump.connections == 1


@pytest.mark.parametrize(
    ("hop", "fault", "said"),
    [
        ("jump", "silent", "^jump host .* did not send an SSH banner"),
        ("jump", "stall_after_banner", "^jump host .* did not finish the key exchange"),
        ("jump", "stall_forward", "^gw-1 .* was not connected by the jump host"),
        ("target", "silent", "^gw-1 .* did not send an SSH banner"),
        ("target", "stall_after_banner", "^gw-1 .* did not finish the key exchange"),
    ],
)
def test_one_deadline_covers_both_hops(hops, hop, fault, said):
    getattr(hops, hop).faults = Faults(**{fault: True})
    began = time.monotonic()
    with pytest.raises(TransientError, match=said):
        hops.connect(connect_timeout_s=0.8)
    assert time.monotonic() - began < 2


def test_everybody_who_waits_for_a_silent_jump_host_hears_of_it_within_the_deadline(hops):
    hops.jump.faults = Faults(silent=True)
    block = hops.credentials(connect_timeout_s=0.8)

    def said(_: int) -> str:
        with pytest.raises(TransientError) as caught:
            block.connect(*hops.at)
        return str(caught.value)

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert all(text.startswith("jump host ") for text in pool.map(said, range(8)))
    assert time.monotonic() - began < 2.5


def test_a_jump_host_that_dies_during_a_read_is_told_and_the_connection_is_made_anew(hops):
    block = hops.credentials()
    connection = block.connect(*hops.at)
    threading.Timer(0.3, hops.jump.cut).start()
    with pytest.raises(TransientError, match=r"^gw-1 .*: the connection to its jump host was lost during `sleep"):
        connection.read("sleep 5")
    with pytest.raises(TransientError, match=r"jump host was lost; nothing was sent"):
        connection.read("true")
    assert block.connect(*hops.at).read("echo again").stdout == "again\n"
    assert hops.jump.connections == 2


def test_a_host_that_dies_behind_the_jump_host_is_not_blamed_on_it(hops):
    connection = hops.connect()
    threading.Timer(0.3, hops.target.cut).start()
    with pytest.raises(TransientError, match=r"^gw-1 .*: the connection to it was lost"):
        connection.read("sleep 5")
    assert hops.jump.connected == 1


def test_a_jump_host_that_dies_while_a_change_is_started_leaves_it_unknown_and_a_later_look_tells(hops):
    block = hops.credentials()
    hops.target.faults = Faults(stall_exec=True)
    cut = threading.Thread(target=lambda: (eventually((hops.target.home / "ran").exists), hops.jump.cut()))
    cut.start()
    with pytest.raises(OutcomeUnknownError, match=r"^gw-1 .*jump host was lost"):
        block.start_change(*hops.at, "a-1", ["touch", "ran"])
    cut.join()
    hops.target.faults = Faults()
    eventually(lambda: block.poll_change(*hops.at, "a-1").state == "ended")
    assert block.start_change(*hops.at, "a-1", ["touch", "ran"]).outcome == "exists"


# --- the agent ------------------------------------------------------------------------------------------


class RealAgent:
    """An ssh-agent of our own; SSH_AUTH_SOCK names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "agent.sock"
        self.process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self.socket.exists)

    def add(self, key: paramiko.PKey) -> None:
        path = self.folder / f"key-{time.monotonic_ns()}"
        key.write_private_key_file(str(path))
        subprocess.run(["ssh-add", "-q", str(path)], check=True, capture_output=True)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealAgent]:
    if not (shutil.which("ssh-agent") and shutil.which("ssh-add")):
        pytest.skip("no ssh-agent here (package openssh-client)")
    agent = RealAgent(tmp_path)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
    yield agent
    agent.process.kill()
    agent.process.wait()


def with_agent(hops: Hops, **fields: object) -> SSHCredentials:
    return hops.credentials(**{"private_key": None, "agent": True, **fields})


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_the_agents_key_logs_in_at_both_hops(hops, agent, kind):
    key = CLIENT_KEY if kind == "ecdsa" else paramiko.RSAKey.generate(2048)
    hops.jump.client_key = hops.target.client_key = key
    agent.add(key)
    block = with_agent(hops)
    assert block.connect(*hops.at).read("echo hi").stdout == "hi\n"
    assert block.start_change(*hops.at, "a-1", ["true"]).outcome == "won"


def test_each_key_of_the_agent_is_tried(hops, agent):
    agent.add(OTHER_KEY)
    agent.add(CLIENT_KEY)
    assert with_agent(hops, jump=None).connect(*hops.at).read("echo hi").stdout == "hi\n"


def test_an_agent_without_an_accepted_key_is_permanent_and_its_keys_are_named(hops, agent):
    third = paramiko.ECDSAKey.generate()
    agent.add(OTHER_KEY)
    agent.add(third)
    with pytest.raises(PermanentError, match=r"^jump host .* does not accept .*user ops") as caught:
        with_agent(hops).connect(*hops.at)
    assert OTHER_KEY.fingerprint in str(caught.value)
    assert third.fingerprint in str(caught.value)


def test_no_agent_is_permanent_and_nothing_else_is_tried(hops, monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(PermanentError, match="SSH_AUTH_SOCK is not set"):
        with_agent(hops).connect(*hops.at)
    assert hops.jump.connections == 0


def test_an_agent_that_is_gone_is_permanent_and_named(hops, agent):
    agent.process.kill()
    agent.process.wait()
    with pytest.raises(PermanentError, match=r"no SSH agent answers at SSH_AUTH_SOCK \(.*agent.sock\)"):
        with_agent(hops).connect(*hops.at)
    assert hops.jump.connections == 0


def test_an_agent_without_a_key_is_permanent(hops, agent):
    with pytest.raises(PermanentError, match="holds no key"):
        with_agent(hops).connect(*hops.at)


def test_an_agent_that_hangs_ends_at_the_deadline(hops, agent):
    agent.add(CLIENT_KEY)
    agent.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(TransientError, match="the SSH agent did not answer"):
        with_agent(hops, connect_timeout_s=0.5).connect(*hops.at)
    assert time.monotonic() - began < 2


class SigningHangs:
    """Passes everything on to a real agent but requests to sign: `answer` to these, None for none at all."""

    def __init__(self, agent: RealAgent, answer: bytes | None) -> None:
        self.path, self._real, self._answer = agent.folder / "front.sock", agent.socket, answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            front, _ = self._listener.accept()
            back = socket.socket(socket.AF_UNIX)
            back.connect(str(self._real))
            threading.Thread(target=self._pass, args=(front, back), daemon=True).start()

    def _pass(self, front: socket.socket, back: socket.socket) -> None:
        while asked := front.recv(65536):
            if asked[4] != 13:  # SSH_AGENTC_SIGN_REQUEST
                back.sendall(asked)
                front.sendall(back.recv(65536))
            elif self._answer:
                front.sendall(self._answer)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (None, TransientError, "^jump host .*(SSH agent waits|SSH agent did not answer)"),
        (b"\0\0\0\x01\x05", PermanentError, "^jump host .*: the SSH agent refuses to use its key"),
    ],
    ids=["never answered", "declined"],
)
def test_an_owner_who_does_not_confirm_is_told_so_within_the_deadline(
    hops, agent, monkeypatch, answer, error, said
):
    agent.add(CLIENT_KEY)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(SigningHangs(agent, answer).path))
    began = time.monotonic()
    with pytest.raises(error, match=said):
        with_agent(hops, connect_timeout_s=0.8).connect(*hops.at)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("fields", [{"agent": True}, {"private_key": None}])
def test_credentials_say_either_a_key_or_the_agent(hops, fields):
    with pytest.raises(PermanentError, match="either a private key or `agent`"):
        hops.connect(**fields)


# --- OpenSSH --------------------------------------------------------------------------------------------


@pytest.fixture
def openssh(tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Start an sshd with lines of configuration; its port and known_hosts line."""
    sshd = shutil.which("sshd", path="/usr/sbin")
    if os.geteuid() or not sshd:
        pytest.skip("OpenSSH's server needs root and the package openssh-server")
    Path("/run/sshd").mkdir(exist_ok=True)
    (tmp_path / "authorized").write_text(f"{CLIENT_KEY.get_name()} {CLIENT_KEY.get_base64()}\n")
    servers: list[subprocess.Popen[bytes]] = []

    def start(*lines: str) -> tuple[int, str]:
        key = paramiko.ECDSAKey.generate()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        folder = tmp_path / f"sshd-{port}"
        folder.mkdir()
        key.write_private_key_file(str(folder / "host_key"))
        common = (
            f"ListenAddress 127.0.0.1:{port}",
            f"HostKey {folder}/host_key",
            f"AuthorizedKeysFile {tmp_path}/authorized",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin prohibit-password",
        )
        (folder / "config").write_text("\n".join([*lines, *common]) + "\n")
        servers.append(
            subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
        )
        eventually(lambda: _listens(port))
        return port, f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n"

    yield start
    for server in servers:
        server.terminate()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def openssh_credentials(jump: tuple[int, str], target: tuple[int, str], **fields: object) -> SSHCredentials:
    fields = {
        "user": "root",
        "private_key": pem(CLIENT_KEY),
        "known_hosts": jump[1] + target[1],
        "jump": JumpHost(address="127.0.0.1", port=jump[0]),
        "connect_timeout_s": 5,
        **fields,
    }
    return SSHCredentials(**fields)


def test_openssh_forwards_to_openssh_with_the_agents_key(openssh, agent):
    agent.add(CLIENT_KEY)
    jump, target = openssh(), openssh("AllowTcpForwarding no")
    block = openssh_credentials(jump, target, private_key=None, agent=True)
    with block.connect("gw-1", "127.0.0.1", target[0]) as connection:
        assert connection.read("echo hi").stdout == "hi\n"
        much = connection.read("head -c 3000000 /dev/zero | tr '\\0' x", cap_bytes=4_000_000)
    assert (len(much.stdout), much.exit_status) == (3_000_000, 0)


def test_openssh_that_forwards_to_nobody_or_to_others_only_is_named(openssh):
    target = openssh()
    for jump in (openssh("AllowTcpForwarding no"), openssh("PermitOpen 127.0.0.1:1")):
        with pytest.raises(PermanentError, match=r"^jump host .* does not forward to 127"):
            openssh_credentials(jump, target).connect("gw-1", "127.0.0.1", target[0])


def test_openssh_that_cannot_reach_the_host_is_a_transient_error(openssh):
    jump, target = openssh(), openssh()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError, match=r"^gw-1 .* cannot be reached from the jump host: Connect"):
        openssh_credentials(jump, target).connect("gw-1", "127.0.0.1", port)


def test_openssh_ends_a_login_with_too_many_wrong_keys_and_that_is_said(openssh, agent):
    for _ in range(7):
        agent.add(paramiko.ECDSAKey.generate())
    agent.add(CLIENT_KEY)
    jump, target = openssh("MaxAuthTries 4"), openssh()
    with pytest.raises(PermanentError, match=r"^jump host .*MaxAuthTries"):
        openssh_credentials(jump, target, private_key=None, agent=True).connect("gw-1", "127.0.0.1", target[0])
