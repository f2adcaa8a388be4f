"""The lab's hosts, seen through a real SSH client."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from responder.lab.faults import Heal
from responder.lab.host import LabHost
from responder.lab.lab import HostAction, HostFacts, Lab
from responder.lab.scenario import Declaration, Expectation, Scenario, Trigger


def scenario(hosts: int = 1) -> Scenario:
    return Scenario(
        schema_version=1,
        name="by-hand",
        summary="Broken by the test itself.",
        hosts=hosts,
        trigger=Trigger(declare=Declaration(summary="by hand")),
        expect=Expectation(outcome="no_fault"),
    )


@dataclass
class Result:
    status: int
    out: str
    err: str


@dataclass
class Shell:
    """A client of one host; `shell(command)` runs it."""

    lab: Lab
    host: LabHost
    client: paramiko.SSHClient
    counted: int = 0

    @property
    def actions(self) -> list[HostAction]:
        """What the host has counted since the test began."""
        return self.lab.actions()[self.counted :]

    def __call__(self, command: str, timeout: float = 10) -> Result:
        command = command.replace("UNIT", self.lab.unit).replace("URL", self.lab.facts().gateway_url)
        _, out, err = self.client.exec_command(command, timeout=timeout)
        text, errors = out.read().decode(), err.read().decode()
        return Result(out.channel.recv_exit_status(), text, errors)

    def show(self) -> dict[str, str]:
        properties = "ActiveState,SubState,Result,MainPID,NRestarts,ExecMainStatus,ExecMainCode"
        return dict(line.split("=", 1) for line in self(f"systemctl show UNIT -p {properties}").out.splitlines())


def connect(lab: Lab, host: LabHost) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    keys = io.StringIO(lab.facts().known_hosts)
    for line in keys:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(line)
        assert entry is not None
        client.get_host_keys().add(entry.hostnames[0], entry.key.get_name(), entry.key)
    key = paramiko.Ed25519Key(file_obj=io.StringIO(lab.facts().private_key))
    client.connect(
        host.address,
        host.port,
        username=lab.facts().user,
        pkey=key,
        timeout=3,
        banner_timeout=1,
        allow_agent=False,
        look_for_keys=False,
    )
    transport = client.get_transport()
    assert transport is not None
    transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A host that no test of this module breaks."""
    with Lab(scenario(), run_dir=tmp_path_factory.mktemp("quiet")) as lab:
        yield Shell(lab, lab.hosts[0], connect(lab, lab.hosts[0]))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab to break, in a directory whose path is longer than a socket's may be."""
    with Lab(scenario(), run_dir=tmp_path_factory.mktemp("lab") / ("deep" * 30)) as lab:
        yield lab


@pytest.fixture
def shell(lab: Lab) -> Iterator[Shell]:
    """Its host, healed after each test."""
    shell = Shell(lab, lab.hosts[0], connect(lab, lab.hosts[0]), len(lab.actions()))
    yield shell
    shell.client.close()
    lab.apply(Heal(do="heal"))


def eventually(check: Callable[[], bool], timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return check()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# The SSH server


def test_a_command_is_a_real_process_of_a_real_shell(quiet: Shell) -> None:
    result = quiet('cd / && printf %s "$HOME:$(id -u)" | cat; echo oops >&2; exit 7')
    assert result == Result(7, f"{quiet.host.directory}/home:{os.getuid()}", "oops\n")


def test_a_command_reads_what_the_client_sends(quiet: Shell) -> None:
    stdin, out, _ = quiet.client.exec_command("tr a-z A-Z")
    stdin.write("hello")
    stdin.channel.shutdown_write()
    assert out.read() == b"HELLO"


def test_a_killed_command_has_no_exit_status(quiet: Shell) -> None:
    assert quiet("kill -9 $$").status == -1


def test_large_output_arrives_whole_on_several_channels_at_once(quiet: Shell) -> None:
    commands = [quiet.client.exec_command("head -c 2097152 /dev/zero; exit 3") for _ in range(3)]
    assert [len(out.read()) for _, out, _ in commands] == [2097152] * 3
    assert [out.channel.recv_exit_status() for _, out, _ in commands] == [3, 3, 3]


def test_endless_output_waits_for_its_reader_and_ends_with_it(quiet: Shell) -> None:
    _, out, _ = quiet.client.exec_command("echo $$; exec yes")
    pid = int(out.readline())
    out.channel.close()
    assert eventually(lambda: not alive(pid))


def test_what_detached_itself_outlives_its_connection(quiet: Shell) -> None:
    client = connect(quiet.lab, quiet.host)
    _, out, _ = client.exec_command("setsid sleep 77 </dev/null >/dev/null 2>&1 & sleep 0.1; echo gone")
    assert out.read() == b"gone\n"
    client.close()
    processes = quiet("ps -eo ppid,args").out
    assert re.search(r"^ *1 sleep 77$", processes, re.M)


def test_a_command_too_long_for_the_system_fails_like_a_program_that_cannot_start(quiet: Shell) -> None:
    result = quiet(": " + "x" * 200_000)
    assert result.status == 126
    assert "Argument list too long" in result.err


def test_a_wrong_key_and_a_wrong_user_are_refused(quiet: Shell) -> None:
    transport = paramiko.Transport((quiet.host.address, quiet.host.port))
    transport.start_client(timeout=5)
    key = paramiko.Ed25519Key(file_obj=io.StringIO(quiet.lab.facts().private_key))
    with pytest.raises(paramiko.AuthenticationException):
        transport.auth_publickey("root", key)
    transport.close()


# The stand-ins


def test_the_unit_is_shown_as_systemctl_shows_it(quiet: Shell) -> None:
    shown = quiet.show()
    assert (shown["ActiveState"], shown["SubState"], shown["Result"]) == ("active", "running", "success")
    assert alive(int(shown["MainPID"]))
    assert quiet("systemctl is-active UNIT") == Result(0, "active\n", "")
    assert re.search(r"Active: active \(running\) since \w{3} \d{4}-", quiet("systemctl status UNIT").out)
    missing = quiet("systemctl show nosuch --property=LoadState,ActiveState")
    assert missing == Result(0, "LoadState=not-found\nActiveState=inactive\n", "")
    stamp = quiet("systemctl show UNIT --timestamp=unix -p ActiveEnterTimestamp --value").out
    assert abs(int(stamp.removeprefix("@")) - time.time()) < 60


def test_only_root_may_change_the_unit_and_only_what_sudo_grants(quiet: Shell) -> None:
    before = quiet.show()["MainPID"]
    assert quiet("systemctl restart UNIT").status == 1
    assert quiet("sudo -n systemctl restart sshd") == Result(1, "", "sudo: a password is required\n")
    assert quiet("sudo -n sh -c 'systemctl restart UNIT'").status == 1
    assert quiet.show()["MainPID"] == before
    assert quiet.lab.actions() == []
    listing = quiet("sudo -n -l").out
    assert f"    (root) NOPASSWD: /usr/bin/systemctl restart {quiet.lab.unit}," in listing
    allowed = quiet("sudo -n -l systemctl restart UNIT")
    assert allowed == Result(0, f"/usr/bin/systemctl restart {quiet.lab.unit}\n", "")


def test_the_journal_answers_by_unit_number_time_and_form(quiet: Shell) -> None:
    lines = quiet("sudo -n journalctl -u UNIT -o short-unix --no-pager").out.splitlines()
    assert all(re.match(rf"\d+\.\d{{6}} {quiet.host.name} \S+\[\d+\]: ", line) for line in lines)
    assert any("Gateway listening" in line for line in lines)
    last = float(lines[-1].split()[0])
    assert quiet("journalctl -u UNIT -n 1 -o cat").out.count("\n") == 1
    assert quiet("journalctl -u UNIT --since '15 minutes ago' -o short-unix").out.splitlines() == lines
    assert quiet(f"journalctl -u UNIT --since @{last + 1}").out == "-- No entries --\n"
    assert quiet(f"journalctl -u UNIT -q --since @{last + 1}") == Result(0, "", "")
    assert quiet("journalctl -u UNIT --since '2020-01-01 10:00:00' -o cat -n 2").out.count("\n") == 2
    assert quiet("journalctl -k").out == "-- No entries --\n"
    assert quiet("journalctl --since whenever").status == 1


def test_probes_see_a_healthy_gateway(quiet: Shell) -> None:
    health = quiet("curl -sSi -m 3 -w '\\n%{http_code} %{time_total}' URL/health")
    assert health.out.startswith("HTTP/1.0 200 OK\r\n")
    assert re.search(r'\r\n\r\n\{"ok": true\}\n200 \d\.\d{6}$', health.out)
    assert '"connected": true' in quiet("curl -sS URL/api/health").out
    assert '"client_order_id"' in quiet("curl -sS URL/api/orders_state").out
    assert '"version": "1.4.2"' in quiet("curl -sS URL/version").out
    assert f"{quiet.lab.metrics_prefix}_engine_running 1" in quiet("curl -sS URL/metrics").out


def test_simulated_traffic_moves_the_counters(quiet: Shell) -> None:
    pattern = rf"{quiet.lab.metrics_prefix}_http_request_duration_seconds_count (\d+)"
    first, second = (int(re.findall(pattern, quiet("curl -sS URL/metrics; sleep 0.2").out)[0]) for _ in "12")
    assert second > first + 2


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("curl -sS http://127.0.0.1:1/", 7, "curl: (7) Failed to connect to 127.0.0.1 port 1"),
        ("curl -sS http://nowhere.invalid/", 6, "curl: (6) Could not resolve host: nowhere.invalid"),
        ("curl -sS --max-filesize 5 URL/health", 63, "curl: (63) Maximum file size exceeded"),
        ("curl -sS --retry 5 URL/health", 2, "curl: option --retry: is unknown"),
        ("curl -s http://127.0.0.1:1/", 7, ""),
    ],
)
def test_curl_fails_with_its_own_statuses_and_words(quiet: Shell, command: str, status: int, words: str) -> None:
    result = quiet(command)
    assert result.status == status
    assert result.err.startswith(words)
    assert bool(result.err) == bool(words)


def test_the_resource_commands_print_tables(quiet: Shell) -> None:
    assert re.search(r"^Mem: +\d{9,} +\d+ +\d+ +\d+ +\d+ +\d+$", quiet("free -b").out, re.M)
    assert re.search(r"^Mem: +8.0Gi ", quiet("free -h").out, re.M)
    assert re.search(r"^/dev/vda1 +\d+ +\d+ +\d+ +38% /$", quiet("df -P -B1").out, re.M)
    assert quiet("df -P").out.startswith("Filesystem     ")
    assert re.search(r"^/dev/vda1 +\d+ +\d+ +\d+ +8% /$", quiet("df -Pi").out, re.M)
    assert quiet("who -u") == Result(0, "", "")


def test_the_release_link_can_be_read_from_the_login_directory(quiet: Shell) -> None:
    assert quiet(f"readlink {quiet.lab.facts().release_link}").out == "releases/1.4.2\n"


def test_two_hosts_do_not_see_each_others_processes(tmp_path: Path) -> None:
    began = time.monotonic()
    with Lab(scenario(hosts=2), run_dir=tmp_path) as lab:
        assert time.monotonic() - began < 8
        one, two = (Shell(lab, host, connect(lab, host)) for host in lab.hosts)
        pids = [set(re.findall(r"(?m)^ *(\d+) .*_gateway.py", s("ps -eo pid,args").out)) for s in (one, two)]
        assert [len(found) for found in pids] == [1, 1]
        assert pids[0].isdisjoint(pids[1])
        assert {fact.port for fact in lab.facts().hosts}.isdisjoint({lab.facts().gateway_port})
        assert isinstance(lab.facts().hosts[0], HostFacts)
        lab.hosts[0].ask("kill", signal_name="SIGKILL")
        assert (one("curl -s URL/health").status, two("curl -s URL/health").status) == (7, 0)


# The unit


def test_a_restart_gives_a_new_process_and_is_counted_once(shell: Shell) -> None:
    before = shell.show()["MainPID"]
    assert '"client_order_id"' in shell("curl -sS URL/api/orders_state").out
    assert shell("sudo -n systemctl restart UNIT").status == 0
    after = shell.show()["MainPID"]
    assert before != after
    assert not alive(int(before))
    [action] = shell.actions
    assert (action.verb, action.unit, action.returned) == ("restart", f"{shell.lab.unit}.service", 0)
    assert (action.pid_before, action.pid_after) == (int(before), int(after))
    assert eventually(lambda: shell("curl -sS URL/api/orders_state").out == '{"items": []}')


def test_a_killed_gateway_leaves_a_failed_unit_and_a_refusing_port(shell: Shell) -> None:
    pid = shell.show()["MainPID"]
    shell(f"kill -9 {pid}")
    assert eventually(lambda: shell.show()["ActiveState"] == "failed")
    shown = shell.show()
    assert (shown["Result"], shown["ExecMainCode"], shown["ExecMainStatus"]) == ("signal", "2", "9")
    assert shown["MainPID"] == "0"
    assert shell("systemctl status UNIT").status == 3
    assert shell("systemctl is-active UNIT") == Result(3, "failed\n", "")
    assert "Main process exited, code=killed, status=9/KILL" in shell("journalctl -u UNIT").out
    assert shell("curl -sS -m 2 URL/health").status == 7
    assert shell.actions == []


def test_stopping_is_clean_and_starting_brings_it_back(shell: Shell) -> None:
    assert shell("sudo -n systemctl stop UNIT").status == 0
    shown = shell.show()
    assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
    assert shell("sudo -n systemctl start UNIT").status == 0
    assert shell.show()["ActiveState"] == "active"
    assert [action.verb for action in shell.actions] == ["stop", "start"]


def test_a_release_that_dies_at_its_start_still_restarts_with_status_0(shell: Shell) -> None:
    shell.host.ask("release_broken", kind="import_error")
    assert shell("sudo -n systemctl restart UNIT").status == 0
    assert eventually(lambda: shell.show()["ActiveState"] == "failed")
    assert (shell.show()["Result"], shell.show()["ExecMainStatus"]) == ("exit-code", "1")
    assert "ModuleNotFoundError: No module named 'rbac'" in shell("journalctl -u UNIT").out
    assert shell(f"sudo -n {shell.lab.facts().rollback_script}").out == "current is 1.4.2, was 1.4.3\n"
    assert eventually(lambda: shell("curl -s URL/health").status == 0)


def test_a_release_without_its_engine_says_so(shell: Shell) -> None:
    shell.host.ask("release_broken", kind="engine_not_found")
    assert eventually(lambda: shell.show()["ActiveState"] == "failed")
    *_, words, death, result = shell("journalctl -u UNIT -o cat").out.splitlines()
    assert words.startswith("engine not found: /")
    assert death.endswith("Main process exited, code=exited, status=1/FAILURE")
    assert result.endswith("Failed with result 'exit-code'.")


def test_too_many_starts_are_refused_until_the_count_is_reset(shell: Shell) -> None:
    statuses = [shell("sudo -n systemctl restart UNIT").status for _ in range(5)]
    assert statuses == [0, 0, 0, 0, 1]
    assert shell.show()["Result"] == "start-limit-hit"
    assert shell("sudo -n systemctl reset-failed UNIT; sudo -n systemctl restart UNIT").status == 0


def test_a_unit_may_restart_itself(tmp_path: Path) -> None:
    stubborn = scenario().model_copy(update={"restart_policy": "on-failure"})
    with Lab(stubborn, run_dir=tmp_path) as lab:
        lab.hosts[0].ask("kill", signal_name="SIGKILL")
        assert eventually(lambda: lab.hosts[0].state()["active"] == "active")
        assert lab.hosts[0].state()["restarts"] == 1


# Held commands


def test_a_command_is_held_before_it_runs_and_arrives_late(shell: Shell) -> None:
    hold = shell.host.hold("touch late", "before")
    shell.client.exec_command("touch late")
    assert shell.host.wait_for("touch late")["state"] == "received"
    shell.client.close()
    assert not (shell.host.directory / "home" / "late").exists()
    hold.release()
    shell.host.wait_for("touch late", state="ended")
    assert (shell.host.directory / "home" / "late").exists()


def test_a_held_command_may_be_lost_on_the_way(shell: Shell) -> None:
    with shell.host.hold("touch lost", "before") as hold:
        shell.client.exec_command("touch lost")
        shell.host.wait_for("touch lost")
        hold.release(run=False)
        assert eventually(lambda: shell.host.commands()[-1]["state"] == "dropped")
    assert not (shell.host.directory / "home" / "lost").exists()


def test_a_command_runs_and_its_answer_is_held_back(shell: Shell) -> None:
    hold = shell.host.hold("echo done", "after")
    _, out, _ = shell.client.exec_command("touch here; echo done; exit 4")
    assert shell.host.wait_for("echo done", state="ended")["exit_status"] == 4
    assert (shell.host.directory / "home" / "here").exists()
    assert not out.channel.exit_status_ready()
    assert not out.channel.recv_ready()
    hold.release()
    assert (out.read(), out.channel.recv_exit_status()) == (b"done\n", 4)


def test_waiting_for_a_command_that_never_comes_times_out(shell: Shell) -> None:
    with pytest.raises(TimeoutError, match="no command matching 'never'"):
        shell.host.wait_for("never", timeout_s=0.05)


# Nothing is left


def processes_of(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, cwd = (entry / "environ").read_bytes(), os.readlink(entry / "cwd")
        except OSError:
            continue
        if (bytes(directory) in environment or cwd.startswith(str(directory))) and alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def test_nothing_is_left_after_the_stop_not_even_what_detached_itself(tmp_path: Path) -> None:
    with Lab(scenario(), run_dir=tmp_path) as lab:
        shell = Shell(lab, lab.hosts[0], connect(lab, lab.hosts[0]))
        shell("setsid sh -c 'trap \"\" TERM HUP; sleep 99' </dev/null >/dev/null 2>&1 & sleep 0.1")
        lab.hosts[0].ask("freeze")
        assert len(processes_of(tmp_path)) >= 3
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_lab_itself_is_killed(tmp_path: Path, ending: signal.Signals) -> None:
    program = (
        "import sys, time\n"
        "from responder.lab.lab import Lab\n"
        "from responder.lab.scenario import load_scenario\n"
        f"lab = Lab(load_scenario('nothing-wrong'), run_dir={str(tmp_path)!r}).start()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"up\n"
        assert processes_of(tmp_path)
        lab.send_signal(ending)
    assert eventually(lambda: processes_of(tmp_path) == [])
