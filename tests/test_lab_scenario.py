"""Scenario files, their faults, and the clock that plays them."""

import contextlib
import json
import re
import socket
from pathlib import Path

import paramiko
import pytest
from pydantic import TypeAdapter
from test_lab_host import Shell, connect, eventually, lab, scenario, shell

from responder.domain.errors import ProfileError
from responder.lab.faults import AnyFault
from responder.lab.lab import Lab
from responder.lab.scenario import DIRECTORY, Scenario, load_scenario, scenario_names

__all__ = ["lab", "shell"]  # fixtures


def do(shell: Shell, **fault: object) -> None:
    """Apply a fault as a scenario file writes it."""
    text = scenario().model_dump(mode="json") | {"faults": [fault]}
    shell.lab.apply(Scenario.model_validate(text).faults[0])


# Files


def test_the_lab_comes_with_its_scenarios() -> None:
    names = scenario_names()
    assert len(names) >= 16
    assert [load_scenario(name).name for name in names] == names
    assert {"process-crash", "false-alarm", "lost-primary", "unauthorised-access"} <= set(names)


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((DIRECTORY / "process-crash.yaml").read_text().replace("process-crash", "mine"))
    assert load_scenario(path).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema_version: 1", "schema_version: 2", "line 1: schema_version is 2"),
        ("do: crash}", "do: crush}", "line 6"),
        ("do: crash}", "do: crash, after: 3}", "line 6: `faults.0.crash.after`: no such key"),
        (
            "outcome: resolved",
            "outcom: resolved",
            "line 14: `expect.outcom`: no such key; the nearest is `outcome`",
        ),
        ("hosts: 1", "hosts: 0", "line 4: `hosts`"),
        ("host: 0, do", "host: 3, do", "no host 3"),
        ("  alerts:", "  declare: {summary: x}\n  alerts:", "give either alerts or declare"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    text = (DIRECTORY / "process-crash.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ProfileError, match=re.escape(words)) as raised:
        load_scenario(path)
    assert str(path) in str(raised.value)


def test_an_unknown_scenario_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ProfileError, match=r"no-such: no scenario to read.*process-crash"):
        load_scenario("no-such")


# Faults


def test_every_fault_is_tried_by_these_tests() -> None:
    names = set(re.findall(r'"do": \{"const": "(\w+)"', _schema())) | set(
        re.findall(r'"(metrics_\w+)"', _schema())
    )
    here = Path(__file__).parent
    texts = [(here / name).read_text() for name in ("test_lab_scenario.py", "test_lab_strategies.py")]
    tried = set(re.findall(r'do="(\w+)"', "".join(texts))) | {"metrics_html", "metrics_garbage"}
    assert names
    assert names <= tried | {"crash_after_restart"}


def _schema() -> str:
    return json.dumps(TypeAdapter(AnyFault).json_schema())


def test_a_crash_fails_the_unit(shell: Shell) -> None:
    do(shell, do="crash")
    shown = shell.show()
    assert (shown["ActiveState"], shown["Result"], shown["ExecMainStatus"]) == ("failed", "signal", "11")


def test_a_persons_stop_is_clean_and_not_counted(shell: Shell) -> None:
    do(shell, do="stop")
    assert (shell.show()["ActiveState"], shell.show()["Result"]) == ("inactive", "success")
    assert shell.actions == []


def test_a_dead_engine_leaves_health_at_200(shell: Shell) -> None:
    do(shell, do="engine_dead")
    assert shell("curl -sS URL/health").out == '{"ok": true}'
    assert eventually(
        lambda: shell("curl -sS URL/api/health").out == '{"ok": true, "engine": {"connected": false}}'
    )
    assert f"{shell.lab.metrics_prefix}_engine_running 0" in shell("curl -sS URL/metrics").out


def test_a_hanging_gateway_accepts_answers_nothing_and_is_cured_by_a_restart(shell: Shell) -> None:
    do(shell, do="hang")
    result = shell("curl -sS -m 0.3 URL/health")
    assert (result.status, result.err[:28]) == (28, "curl: (28) Operation timed o")
    assert re.search(r"^Ts? .*_gateway.py", shell("ps -eo stat,args").out, re.M)
    assert shell("sudo -n systemctl restart UNIT").status == 0
    assert eventually(lambda: shell("curl -sS -m 1 URL/health").out == '{"ok": true}')


def test_a_broken_release_is_current_and_dead(shell: Shell) -> None:
    do(shell, do="broken_release", kind="engine_not_found")
    assert eventually(lambda: shell.show()["ActiveState"] == "failed")
    assert shell(f"readlink {shell.lab.facts().release_link}").out == "releases/1.4.3\n"


def test_the_kernel_tells_of_memory(shell: Shell) -> None:
    pid = shell.show()["MainPID"]
    do(shell, do="oom")
    assert shell.show()["Result"] == "oom-kill"
    assert f"Out of memory: Killed process {pid} (" in shell("journalctl -k -o short-unix").out


def test_metrics_break_in_four_ways(shell: Shell) -> None:
    do(shell, do="metrics_no_reply")
    assert shell("curl -sS URL/metrics").status == 52
    assert "AttributeError: 'EngineBridge' object has no attribute 'is_running'" in shell("journalctl -u UNIT").out
    do(shell, do="metrics_html")
    assert "text/html" in shell("curl -sSi URL/metrics").out
    do(shell, do="metrics_frozen")
    assert shell("curl -sS URL/metrics").out == shell("sleep 0.2; curl -sS URL/metrics").out
    do(shell, do="metrics_garbage")
    assert shell("curl -sS URL/metrics | tail -c 10").out.endswith("total -5 {")
    assert shell("curl -sS URL/health").out == '{"ok": true}'


def test_requests_are_limited_failed_and_slowed(shell: Shell) -> None:
    do(shell, do="slow", ms=150)
    assert float(shell("curl -sS -o /dev/null -w '%{time_total}' URL/health").out) > 0.15
    do(shell, do="errors", share=1)
    assert shell("curl -sSi URL/api/orders_state").out.startswith("HTTP/1.0 500")
    errors = rf"{shell.lab.metrics_prefix}_errors_total{{.*}} [1-9]"
    assert re.search(errors, shell("sleep 0.2; curl -sS URL/metrics").out)
    do(shell, do="rate_limited", retry_after_s=9)
    assert re.match(r"HTTP/1.0 429 [\s\S]*Retry-After: 9\r\n", shell("curl -sSi URL/health").out)
    do(shell, do="heal")
    do(shell, do="health_500", until_restart=True)
    assert shell("curl -sSi URL/health").out.startswith("HTTP/1.0 500")
    shell("sudo -n systemctl restart UNIT")
    assert eventually(lambda: shell("curl -sSi URL/health").out.startswith("HTTP/1.0 200"))


def test_the_hosts_own_readings_can_be_made_up(shell: Shell) -> None:
    do(shell, do="disk_full", percent=100)
    assert re.search(r"^/dev/vda1 .* 100% /$", shell("df -P").out, re.M)
    assert "No space left on device" in shell("journalctl -u UNIT").out
    do(shell, do="login", user="kim")
    do(shell, do="login", user="old", idle_s=90_000)
    assert re.search(
        r"^kim +pts/0 +\d{4}-\d\d-\d\d \d\d:\d\d +\. +\d+ \(10\.4\.0\.9\)$", shell("who -u").out, re.M
    )
    assert re.search(r"^old +pts/1 .* old ", shell("who -u").out, re.M)
    do(shell, do="deploy", args="helm upgrade api")
    assert re.search(r"^helm upgrade api", shell("ps -eo args").out, re.M)
    do(shell, do="no_sudo")
    assert shell("sudo -n systemctl restart UNIT") == shell("sudo -n -l")
    do(shell, do="heal")
    assert shell("who -u").out == ""
    assert "helm upgrade" not in shell("ps -eo args").out
    assert shell("sudo -n -l").status == 0


def test_a_command_may_print_for_ever(shell: Shell) -> None:
    do(shell, do="endless_output", command="journalctl")
    assert len(shell("journalctl -u UNIT | head -c 3000000").out) == 3_000_000


def test_a_host_refuses_connections_and_comes_back_on_its_port(shell: Shell) -> None:
    do(shell, do="host_unreachable")
    with pytest.raises(paramiko.ssh_exception.NoValidConnectionsError):
        connect(shell.lab, shell.host)
    do(shell, do="heal")
    connect(shell.lab, shell.host).close()


@pytest.mark.parametrize(("after", "banner"), [("connect", b""), ("banner", b"SSH-2.0-OpenSSH_9.2p1\r\n")])
def test_a_host_accepts_connections_and_says_no_more(shell: Shell, after: str, banner: bytes) -> None:
    do(shell, do="host_hangs", after=after)
    with socket.create_connection((shell.host.address, shell.host.port), timeout=0.3) as connection:
        connection.sendall(b"SSH-2.0-test\r\n")
        heard = b""
        with contextlib.suppress(TimeoutError):
            while True:
                heard += connection.recv(100) or b"closed"
    assert heard == banner


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_is_cut_before_or_after_a_command_ran(shell: Shell, when: str) -> None:
    do(shell, do="host_cut", match="touch", when=when)
    assert shell("echo fine").status == 0
    try:
        status = shell("touch here").status
    except (paramiko.SSHException, EOFError):
        status = -1  # cut even before the request was answered
    assert status == -1
    assert (shell.host.directory / "home" / "here").exists() == (when == "after")


def test_a_changed_host_key_is_noticed_by_a_strict_client(shell: Shell) -> None:
    do(shell, do="host_key_changed")
    with pytest.raises(paramiko.BadHostKeyException):
        connect(shell.lab, shell.host)


# The clock


def test_a_crash_is_played_and_its_alert_reaches_the_pager(tmp_path: Path) -> None:
    with Lab(load_scenario("process-crash"), run_dir=tmp_path) as lab:
        lab.begin()
        raised = lab.wait_for_alert()
        assert lab.hosts[0].state()["result"] == "signal"
        assert raised.labels["service"] == lab.facts().alert_labels["service"]
        assert raised.labels["instance"] == lab.facts().hosts[0].name
        assert raised.alert.incident_key == raised.incident_key
        assert eventually(lambda: [i.incident_key for i in lab.pagerduty.incidents] == [raised.incident_key])


def test_a_false_alarm_ends_by_itself(tmp_path: Path) -> None:
    quick = load_scenario("false-alarm").model_dump(mode="json")
    quick["trigger"]["alerts"][0]["resolves_at_s"] = 0.5
    with Lab(Scenario.model_validate(quick), run_dir=tmp_path) as lab:
        lab.begin()
        assert lab.wait_for_alert().ends_at is None
        assert eventually(lambda: lab.raised[0].ends_at is not None)
        assert eventually(lambda: [i.status for i in lab.pagerduty.incidents] == ["resolved"])
        assert lab.actions() == []
        assert lab.hosts[0].state()["active"] == "active"


def test_a_restart_does_not_hold_and_is_counted_by_the_host(tmp_path: Path) -> None:
    text = load_scenario("crash-after-restart").model_dump(mode="json")
    text["faults"][0]["after_s"] = 0.3
    with Lab(Scenario.model_validate(text), run_dir=tmp_path) as lab:
        lab.begin()
        lab.wait_for_alert()
        shell = Shell(lab, lab.hosts[0], connect(lab, lab.hosts[0]))
        assert shell("sudo -n systemctl restart UNIT").status == 0
        assert shell.show()["ActiveState"] == "active"
        assert eventually(lambda: shell.show()["ActiveState"] == "failed")
        [action] = lab.actions()
        assert (action.host, action.verb, action.returned) == (lab.hosts[0].name, "restart", 0)


def test_a_seed_draws_the_same_names_again_and_another_seed_others(tmp_path: Path) -> None:
    drawn = [
        (lab.service, lab.unit, lab.hosts[0].name)
        for lab in (Lab(scenario(), run_dir=tmp_path, seed=seed) for seed in (1, 1, 2))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_fault_that_cannot_be_done_spoils_the_drill_audibly(tmp_path: Path) -> None:
    with Lab(load_scenario("process-crash"), run_dir=tmp_path) as lab:
        lab.hosts[0].stop()
        lab.begin()
        with pytest.raises(Exception, match="at 0"):
            lab.wait_for_alert()
