"""The SSH block against real servers: paramiko's with faults, and OpenSSH where the rig can run it."""

import io
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

import paramiko
import pytest
from paramiko.hostkeys import HostKeys

from blocks.ssh import SSHCredentials
from responder.domain.errors import HostKeyError, OutcomeUnknownError, PermanentError, TransientError
from tests.farm import farm, farm_credentials
from tests.ssh_server import Faults, SSHServer

__all__ = ["farm"]  # pytest finds fixtures by their names

CLIENT_KEY = paramiko.ECDSAKey.generate()
HOST_KEY = paramiko.ECDSAKey.generate()
OTHER_KEY = paramiko.ECDSAKey.generate()
RSA_KEY = paramiko.RSAKey.generate(2048)


def pem(key: paramiko.PKey, password: str | None = None) -> str:
    text = io.StringIO()
    key.write_private_key(text, password)
    return text.getvalue()


@pytest.fixture
def serve(tmp_path):
    """Start a server with faults; it ends with the test."""
    servers: list[SSHServer] = []

    def start(host_keys: list[paramiko.PKey] | None = None, **faults: object) -> SSHServer:
        server = SSHServer(tmp_path, CLIENT_KEY, host_keys=host_keys or [HOST_KEY], faults=Faults(**faults))
        servers.append(server.__enter__())
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def credentials(server: SSHServer, **fields: object) -> SSHCredentials:
    return SSHCredentials(
        **{
            "user": "ops",
            "private_key": pem(CLIENT_KEY),
            "known_hosts": server.known_hosts,
            "connect_timeout_s": 5,
            **fields,
        }
    )


def connect(server: SSHServer, **fields: object):
    return credentials(server, **fields).connect("gw-1", server.address, server.port)


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not come true in ten seconds"
        time.sleep(0.02)


# --- reads ----------------------------------------------------------------------------------------------


def test_reads_share_one_connection_and_tell_status_and_both_streams(serve):
    server = serve()
    with connect(server) as connection:
        first = connection.read("echo out; echo err >&2; exit 3")
        second = connection.read(["printf", "%s", "$HOME 'x'"])
    assert (first.exit_status, first.stdout, first.stderr) == (3, "out\n", "err\n")
    assert (second.exit_status, second.stdout, second.command) == (
        0,
        "$HOME 'x'",
        "printf %s '$HOME '\"'\"'x'\"'\"''",
    )
    assert not first.timed_out
    assert not first.truncated
    assert server.connections == 1


def test_both_streams_are_drained_while_the_command_writes_to_either(serve):
    with connect(serve()) as connection:
        result = connection.read(
            "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero | tr '\\0' x", cap_bytes=8_000_000
        )
    assert (result.exit_status, len(result.stdout), result.truncated) == (0, 3_000_000, False)


@pytest.mark.parametrize("stream", ["", ">&2"])
def test_endless_output_is_cut_marked_and_ended_on_the_host(serve, stream):
    server = serve()
    with connect(server) as connection:
        result = connection.read(f"exec yes {stream}", cap_bytes=100_000)
        assert result.truncated
        assert result.exit_status is None
        assert result.stdout.endswith("\n[output cut at 100000 bytes]\n")
        assert len(result.stdout) + len(result.stderr) < 100_100
        assert connection.read("echo next").stdout == "next\n"
    eventually(lambda: server.children[0].poll() is not None)


def test_output_of_exactly_the_cap_is_whole(serve):
    with connect(serve()) as connection:
        result = connection.read("printf 1234", cap_bytes=4)
    assert (result.stdout, result.truncated, result.exit_status) == ("1234", False, 0)


def test_a_command_past_its_deadline_is_timed_out_and_ended_on_the_host(serve):
    server = serve()
    with connect(server) as connection:
        result = connection.read("echo started; sleep 60", deadline_s=0.5)
        assert (result.timed_out, result.exit_status, result.stdout) == (True, None, "started\n")
        assert 0.5 <= result.took_s < 2
        assert connection.read("echo next").stdout == "next\n"
    eventually(lambda: server.children[0].poll() is not None)


def test_a_child_that_holds_the_pipe_does_not_hold_the_answer(serve):
    with connect(serve()) as connection:
        result = connection.read("sleep 20 & echo done", deadline_s=15)
    assert (result.exit_status, result.stdout, result.timed_out) == (0, "done\n", False)
    assert result.took_s < 5


def test_binary_output_becomes_text(serve):
    with connect(serve()) as connection:
        assert connection.read(r"printf 'ok\000\377'").stdout == "ok\ufffd"


def test_a_missing_status_is_unknown_whatever_the_output(serve):
    with connect(serve(no_exit_status=True)) as connection:
        result = connection.read("echo fine")
        assert (result.exit_status, result.timed_out, result.stdout) == (None, False, "fine\n")
        assert connection.read("echo next").stdout == "next\n"


def test_a_host_that_allows_one_session_is_asked_again_shortly(serve):
    with connect(serve(max_sessions=1, hold_session_s=0.1)) as connection:
        assert [connection.read(f"echo {n}").stdout for n in range(3)] == ["0\n", "1\n", "2\n"]


def test_a_host_that_allows_no_session_is_a_transient_error(serve):
    with connect(serve(max_sessions=0)) as connection, pytest.raises(TransientError, match=r"gw-1.*session"):
        connection.read("true", deadline_s=0.5)


def test_a_refused_command_is_a_transient_error_of_a_read(serve):
    with connect(serve(refuse_exec=True)) as connection, pytest.raises(TransientError, match="gw-1"):
        connection.read("true")


def test_a_request_that_is_never_answered_ends_at_the_deadline(serve):
    began = time.monotonic()
    with (
        connect(serve(stall_exec=True)) as connection,
        pytest.raises(TransientError, match="did not begin `true`"),
    ):
        connection.read("true", deadline_s=0.5)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("fault", [{"cut_after_exec": True}, {"cut_after_bytes": 30_000}])
def test_a_connection_cut_during_a_read_is_a_transient_error(serve, fault):
    with connect(serve(**fault)) as connection:
        with pytest.raises(TransientError, match=r"gw-1.*lost"):
            connection.read("head -c 50000 /dev/zero")
        with pytest.raises(TransientError, match="nothing was sent"):
            connection.read("true")


@pytest.mark.parametrize("command", [[], ["a\0b"], "\udc80"])
def test_an_unusable_command_is_refused_before_it_is_sent(serve, command):
    server = serve()
    with connect(server) as connection, pytest.raises(ValueError, match=r"argument|surrogates"):
        connection.read(command)
    assert server.commands == []


def test_several_reads_share_a_session_and_each_has_its_own_status_and_streams(serve):
    server = serve()
    with connect(server) as connection:
        results = connection.read_all(
            [
                ["sh", "-c", "echo out; echo err >&2; exit 3"],
                ["printf", "%s", "$HOME 'x'"],
                ["no-such-program"],
                ["true"],
            ]
        )
    seen = [(result.exit_status, result.stdout, result.stderr) for result in results]
    assert seen[:2] + seen[3:] == [(3, "out\n", "err\n"), (0, "$HOME 'x'", ""), (0, "", "")]
    assert results[1].command == "printf %s '$HOME '\"'\"'x'\"'\"''"
    assert (seen[2][0], "no-such-program" in seen[2][2]) == (127, True)
    assert len(server.commands) == 1


def test_one_of_several_reads_that_hangs_is_timed_out_and_the_next_is_read(serve):
    with connect(serve()) as connection:
        hangs, after = connection.read_all([["sh", "-c", "echo begun; sleep 30"], ["echo", "next"]], deadline_s=1)
    assert (hangs.timed_out, hangs.exit_status) == (True, None)
    assert (after.timed_out, after.exit_status, after.stdout) == (False, 0, "next\n")


@pytest.mark.parametrize("stream", ["", ">&2"])
def test_one_of_several_reads_that_fills_the_cap_does_not_cost_the_others(serve, stream):
    with connect(serve(), output_cap_bytes=4096) as connection:
        first, second, third = connection.read_all(
            [["echo", "one"], ["sh", "-c", f"exec yes {stream}"], ["echo", "three"]]
        )
    assert (first.stdout, first.truncated) == ("one\n", False)
    assert (second.truncated, second.exit_status) == (True, None)
    assert (third.stdout, third.exit_status) == ("three\n", 0)


def test_several_reads_of_a_host_that_never_answers_end_once(serve):
    began = time.monotonic()
    with (
        connect(serve(stall_exec=True)) as connection,
        pytest.raises(TransientError, match="did not begin `true; id`"),
    ):
        connection.read_all([["true"], ["id"]], deadline_s=0.3)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("read", ["read", "read_all"])
def test_what_a_login_prints_before_is_no_answer(serve, read, monkeypatch, tmp_path):
    server = serve()
    (tmp_path / "env").write_text(
        '#!/bin/sh\necho "*** welcome ***"; echo mind the step >&2; exec /usr/bin/env "$@"\n'
    )
    (tmp_path / "env").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    with connect(server) as connection:
        result = connection.read(command) if read == "read" else connection.read_all([command])[0]
    assert (result.exit_status, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_a_connection_cut_during_several_reads_is_a_transient_error(serve):
    with connect(serve(cut_after_exec=True)) as connection, pytest.raises(TransientError, match=r"gw-1.*lost"):
        connection.read_all([["true"], ["true"]])


# --- connecting -----------------------------------------------------------------------------------------


def test_a_refused_host_is_a_transient_error(serve):
    server = serve()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError, match=rf"gw-1 \(127.0.0.1:{port}\).*refused"):
        credentials(server).connect("gw-1", "127.0.0.1", port)


@pytest.mark.parametrize(
    ("fault", "why"), [("silent", "did not send an SSH banner"), ("stall_after_banner", "did not finish the key")]
)
def test_a_host_that_falls_silent_ends_at_the_connect_timeout(serve, fault, why):
    began = time.monotonic()
    with pytest.raises(TransientError, match=why):
        connect(serve(**{fault: True}), connect_timeout_s=0.3)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_a_host_that_speaks_something_else_or_hangs_up_is_a_transient_error(serve, greeting):
    server = serve()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(TransientError, match="gw-1"):
            credentials(server).connect("gw-1", *listener.getsockname())
        thread.join()


def test_a_refused_login_is_permanent_and_names_user_and_key(serve):
    with pytest.raises(PermanentError, match=r"ecdsa-sha2-nistp256 SHA256:.*user ops"):
        connect(serve(refuse_auth=True))


def test_an_unknown_host_key_is_refused_with_its_fingerprint(serve):
    with pytest.raises(HostKeyError) as caught:
        connect(serve(), known_hosts="")
    assert f"{HOST_KEY.get_name()} {HOST_KEY.fingerprint}" in str(caught.value)
    assert "gw-1 (127.0.0.1:" in str(caught.value)


def line(server: SSHServer, key: paramiko.PKey, host: str | None = None) -> str:
    return f"{host or f'[{server.address}]:{server.port}'} {key.get_name()} {key.get_base64()}\n"


def test_a_changed_host_key_is_refused_with_both_fingerprints(serve):
    server = serve()
    with pytest.raises(HostKeyError, match="changed") as caught:
        connect(server, known_hosts=line(server, OTHER_KEY) + line(server, HOST_KEY, "gw-1"))
    assert HOST_KEY.fingerprint in str(caught.value)
    assert OTHER_KEY.fingerprint in str(caught.value)


def test_a_host_without_a_key_of_the_known_type_is_refused(serve):
    server = serve()
    with pytest.raises(HostKeyError, match="no longer"):
        connect(server, known_hosts=line(server, RSA_KEY))


def test_a_revoked_host_key_is_refused(serve):
    server = serve()
    with pytest.raises(HostKeyError, match="revoked"):
        connect(server, known_hosts=server.known_hosts + "@revoked * " + line(server, HOST_KEY).split(" ", 1)[1])


def test_only_the_known_type_is_asked_for(serve):
    server = serve(host_keys=[HOST_KEY, RSA_KEY])
    for key in server.host_keys:
        with connect(server, known_hosts=line(server, key)) as connection:
            assert connection.read("echo hi").stdout == "hi\n"


@pytest.mark.parametrize(
    "form",
    [
        "{address}",
        "gw-1",
        "[GW-1]:{port}",
        "other,[{address}]:{port}",
        "*",
        "127.0.0.?,!127.0.0.9",
        "hashed",
    ],
)
def test_every_form_of_a_known_name_is_understood(serve, form):
    server = serve()
    name = form.format(address=server.address, port=server.port)
    if form == "hashed":
        name = HostKeys.hash_host(f"[{server.address}]:{server.port}")
    text = f"# a comment\n\n|1|broken x y\nshort\n{line(server, HOST_KEY, name)}"
    with connect(server, known_hosts=text) as connection:
        assert connection.read("true").exit_status == 0


@pytest.mark.parametrize("name", ["!*127*,!*gw-1*,*", "127.0.0.11", "[127.0.0.1]:1", "127-0-0-1"])
def test_another_hosts_line_is_not_taken(serve, name):
    server = serve()
    with pytest.raises(HostKeyError, match="not known"):
        connect(server, known_hosts=line(server, HOST_KEY, name))


@pytest.mark.parametrize("blob", ["AAAA", "!!!", "AAAAC3NzaC1lZDI1NTE5AAAAIAAA"])
def test_a_damaged_line_of_the_host_is_named(serve, blob):
    server = serve()
    with pytest.raises(PermanentError, match="known"):
        connect(server, known_hosts=f"[{server.address}]:{server.port} ssh-ed25519 {blob}\n")


@pytest.mark.parametrize("key", [CLIENT_KEY, RSA_KEY], ids=["ecdsa", "rsa"])
@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_every_type_of_private_key_logs_in(serve, key, passphrase):
    server = serve()
    server.client_key = key
    pasted = "\r\n".join(f"  {part}" for part in pem(key, passphrase).splitlines())
    with connect(server, private_key=pasted, passphrase=passphrase) as connection:
        assert connection.read("true").exit_status == 0


@pytest.mark.parametrize(
    ("text", "passphrase"),
    [
        ("", None),
        ("garbage", None),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", None),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----", None),
        (pem(CLIENT_KEY)[:120] + "\n-----END EC PRIVATE KEY-----", None),
        (pem(CLIENT_KEY, "right"), None),
        (pem(CLIENT_KEY, "right"), "wrong"),
    ],
)
def test_a_private_key_that_cannot_be_read_is_permanent_and_not_shown(serve, text, passphrase):
    server = serve()
    with pytest.raises(PermanentError, match="private key") as caught:
        connect(server, private_key=text, passphrase=passphrase)
    assert text[40:60] not in str(caught.value) or not text[40:60]
    assert server.connections == 0


def test_secrets_are_not_in_the_blocks_text(serve):
    block = credentials(serve(), passphrase="open sesame")
    assert "open sesame" not in repr(block)
    assert pem(CLIENT_KEY).splitlines()[1] not in repr(block)


def test_transport_threads_tell_nothing_to_the_applications_log(serve):
    heard: list[str] = []
    ear = logging.Handler(logging.DEBUG)
    ear.emit = lambda record: heard.append(record.name)
    logging.getLogger().addHandler(ear)
    try:
        with pytest.raises(TransientError):
            connect(serve(cut_after_exec=True)).read("true")
    finally:
        logging.getLogger().removeHandler(ear)
    assert "paramiko.transport.incident" not in heard
    assert logging.getLogger("paramiko.transport.incident").hasHandlers()  # else Python prints by itself


# --- changes --------------------------------------------------------------------------------------------


def test_a_change_is_started_once_and_each_step_opens_a_connection_of_its_own(serve):
    server = serve()
    host = ("gw-1", server.address, server.port)
    block = credentials(server)
    assert block.poll_change(*host, "a-1").state == "absent"
    assert block.start_change(*host, "a-1", ["sh", "-c", "echo ran >>ran; exit 4"]).outcome == "won"
    assert block.start_change(*host, "a-1", ["sh", "-c", "echo ran >>ran"]).outcome == "exists"
    assert block.bar_change(*host, "a-1").outcome == "exists"
    eventually(lambda: block.poll_change(*host, "a-1").state == "ended")
    assert block.poll_change(*host, "a-1").exit_status == 4
    assert (server.home / "ran").read_text() == "ran\n"
    assert server.connections == len(server.commands)


def test_a_barred_change_is_told_so(serve):
    server = serve()
    host = ("gw-1", server.address, server.port)
    assert credentials(server).bar_change(*host, "a-1", root=".fences").outcome == "won"
    assert credentials(server).poll_change(*host, "a-1", root=".fences").state == "barred"


@pytest.mark.parametrize(
    "fault",
    [{"cut_after_exec": True}, {"stall_exec": True}, {"no_exit_status": True}, {"refuse_exec": True}],
    ids=str,
)
def test_a_change_whose_answer_is_lost_is_unknown_and_a_later_look_tells(serve, fault):
    server = serve(**fault)
    host = ("gw-1", server.address, server.port)
    with pytest.raises(OutcomeUnknownError, match="gw-1"):
        credentials(server).start_change(*host, "a-1", ["touch", "ran"], deadline_s=0.6)
    server.faults = Faults()
    if "refuse_exec" in fault:
        assert credentials(server).bar_change(*host, "a-1").outcome == "won"
        return
    eventually((server.home / "ran").exists)
    eventually(lambda: credentials(server).poll_change(*host, "a-1").state == "ended")


def test_a_change_that_could_not_be_sent_is_a_transient_error(serve):
    server = serve(max_sessions=0)
    with pytest.raises(TransientError, match="nothing was sent"):
        credentials(server).start_change(
            "gw-1", server.address, server.port, "a-1", ["touch", "ran"], deadline_s=0.3
        )
    assert server.commands == []


def test_a_poll_whose_answer_is_lost_may_be_asked_again(serve):
    server = serve(cut_after_exec=True)
    with pytest.raises(TransientError):
        credentials(server).poll_change("gw-1", server.address, server.port, "a-1")


def test_a_host_that_answers_something_else_leaves_the_change_unknown(serve, monkeypatch):
    server = serve()
    (server.home / "sh").write_text("#!/bin/sh\necho This account is currently not available.\n")
    (server.home / "sh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{server.home}:{os.environ['PATH']}")
    with pytest.raises(OutcomeUnknownError, match="not available"):
        credentials(server).start_change("gw-1", server.address, server.port, "a-1", ["true"])


# --- OpenSSH --------------------------------------------------------------------------------------------


@pytest.fixture
def reach(farm):
    """Connect to the farm's host of a kind."""

    def connect(kind: str):
        host = farm[kind]
        return farm_credentials(host).connect(host["name"], host["address"], host["port"])

    return connect


@pytest.mark.parametrize(
    ("kind", "error", "why"),
    [
        ("blackhole", TransientError, "did not send an SSH banner"),
        ("refused", TransientError, "refused"),
        ("not_ssh", TransientError, "closed the connection without an SSH banner"),
        ("banner_stall", TransientError, "did not finish the key exchange"),
        ("hostkey_changed", HostKeyError, "changed"),
        ("hostkey_unknown", HostKeyError, "not known"),
        ("auth_denied", PermanentError, "authorized_keys"),
    ],
)
def test_openssh_that_cannot_be_reached_is_named_for_what_it_is(farm, reach, kind, error, why):
    with pytest.raises(error, match=why) as caught:
        reach(kind)
    assert farm[kind]["name"] in str(caught.value)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("kind", "status", "stdout"),
    [
        ("plain", 0, "hi\n"),
        ("rc255", 255, "hi\n"),
        ("noisy", 0, "hi\n"),
        ("max_sessions_1", 0, "hi\n"),
        ("max_startups_1", 0, "hi\n"),
    ],
)
def test_openssh_answers_twice_on_one_connection(reach, kind, status, stdout):
    with reach(kind) as connection:
        for _ in range(2):
            result = connection.read("echo hi", deadline_s=8)
            assert (result.exit_status, result.stdout, result.timed_out) == (status, stdout, False)


@pytest.mark.parametrize(
    ("kind", "error", "why"),
    [
        ("cmd_hangs", TransientError, r"did not begin `true` within 8 s: it answered 'started\\n'"),
        ("endless", PermanentError, "does not run what it is sent: it answered 'log line .* no exit status"),
        ("bg_holds_pipe", PermanentError, r"it answered 'done\\n' with exit status 0 to `true`"),
        ("binary", PermanentError, "does not run what it is sent"),
        ("no_shell", PermanentError, "currently not available.* exit status 1 to"),
        ("killed", PermanentError, r"it answered 'half\\n' with no exit status"),
    ],
)
def test_openssh_that_runs_something_else_than_it_is_sent_is_no_answer(reach, kind, error, why):
    with reach(kind) as connection, pytest.raises(error, match=why) as caught:
        connection.read("true", deadline_s=8)
    assert type(caught.value) is error


@pytest.mark.parametrize("kind", ["cut_rst", "cut_fin"])
def test_openssh_cut_in_the_middle_is_a_transient_error(reach, kind):
    with reach(kind) as connection, pytest.raises(TransientError, match="lost"):
        connection.read("head -c 900000 /dev/zero", deadline_s=8)


def test_openssh_runs_a_change_once(farm):
    host = farm["plain"]
    at = (host["name"], host["address"], host["port"])
    attempt = f"test-{os.getpid()}-{time.time_ns()}"
    block = farm_credentials(host)
    assert block.start_change(*at, attempt, ["sh", "-c", "sleep 0.3; id -un"]).outcome == "won"
    assert block.start_change(*at, attempt, ["id"]).outcome == "exists"
    eventually(lambda: block.poll_change(*at, attempt).state == "ended")
    state = block.poll_change(*at, attempt)
    assert (state.exit_status, state.output) == (0, f"{host['user']}\n")


def test_openssh_without_a_shell_leaves_a_change_unknown(farm):
    host = farm["no_shell"]
    with pytest.raises(OutcomeUnknownError):
        farm_credentials(host).start_change(host["name"], host["address"], host["port"], "a-1", ["true"])
