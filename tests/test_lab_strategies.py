"""What the lab has for strategies to act on, and how it breaks: releases, replicas, configuration, database."""

import json
import re
import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from test_lab_host import Result, Shell, connect, eventually, lab, scenario, shell
from test_lab_scenario import do

from blocks.ssh import SSHCredentials
from responder.cli.drill import lab_profile
from responder.domain.base import now
from responder.domain.evidence import Dossier
from responder.domain.readings import Snapshot
from responder.domain.shell import fence_and_start, parse_change, poll
from responder.domain.strategies import KINDS, Strategy
from responder.lab.lab import HostAction, Lab
from responder.lab.scenario import Scenario
from tasks.probes import Look

__all__ = ["lab", "shell"]  # fixtures


def health(shell: Shell) -> str:
    """Status and body of /health; empty while nothing listens."""
    answer = shell("curl -sSi -m 3 URL/health").out
    return f"{answer[9:12]} {answer.rpartition(chr(10))[2]}" if answer else ""


def well(shell: Shell) -> bool:
    return health(shell) == '200 {"ok": true}'


def metric(shell: Shell, name: str) -> float:
    text = shell("curl -sS URL/metrics").out
    return float(re.findall(rf"(?m)^{shell.lab.metrics_prefix}_{name}(?:{{.*}})? (\S+)$", text)[0])


def seen(actions: list[HostAction], shell: Shell) -> list[tuple[str, str, str]]:
    """What was counted; the unit's name is drawn anew for each run."""
    return [(a.verb, a.unit.replace(f"{shell.lab.unit}.service", "UNIT"), a.detail) for a in actions]


# Releases and rollback


def rollback(shell: Shell, words: str = "") -> Result:
    return shell(f"sudo -n {shell.lab.facts().rollback_script} {words}")


def test_four_releases_lie_on_a_host_and_the_newest_is_current(shell: Shell) -> None:
    root = shell.lab.facts().root
    assert shell(f"ls {root}/releases; readlink {root}/current").out.split() == [
        "1.3.9",
        "1.4.0",
        "1.4.1",
        "1.4.2",
        "releases/1.4.2",
    ]


@pytest.mark.parametrize("how", ["exit", "unhealthy", "errors", "late"])
def test_a_bad_release_is_cured_by_a_rollback_and_by_no_restart(shell: Shell, how: str) -> None:
    do(shell, do="bad_release", how=how, late_s=0.2, share=0.9)

    def ill() -> bool:
        if how == "errors":
            return "200" not in shell("curl -sSi URL/api/market").out[:12]
        return health(shell).startswith("503") if how == "unhealthy" else not health(shell)

    assert eventually(ill)
    assert shell("sudo -n systemctl restart UNIT").status == 0
    assert eventually(ill)
    assert rollback(shell).out == "current is 1.4.1, was 1.4.2\n"
    assert eventually(lambda: well(shell))
    assert shell("sleep 0.4; curl -sSi URL/api/market").out.startswith("HTTP/1.0 200")
    assert '"version": "1.4.1"' in shell("curl -sS URL/version").out


def test_a_bad_release_was_deployed_minutes_before_it_is_noticed(shell: Shell) -> None:
    do(shell, do="bad_release")
    at = int(shell(f"stat -c %Y {shell.lab.facts().release_link}").out)
    assert 170 < time.time() - at < 200
    assert "release 1.4.2 is now current" in shell("journalctl -u UNIT --until '2 minutes ago'").out
    do(shell, do="heal")
    assert well(shell)
    assert time.time() - int(shell(f"stat -c %Y {shell.lab.facts().release_link}").out) > 86400


def test_a_rollback_is_one_action_whatever_its_script_runs(shell: Shell) -> None:
    pid = shell.show()["MainPID"]
    assert rollback(shell).status == 0
    [action] = shell.actions
    assert seen([action], shell) == [("rollback", "UNIT", "releases/1.4.2 -> releases/1.4.1")]
    assert action.pid_before == int(pid) != action.pid_after == int(shell.show()["MainPID"])
    assert rollback(shell, "1.4.2").status == 0
    assert [action.verb for action in shell.actions] == ["rollback", "rollback"]


def test_a_release_switched_by_hand_is_counted_as_well(shell: Shell) -> None:
    root = shell.lab.facts().root
    shell(f"cd {root} && ln -sfn releases/1.4.0 new && mv -T new current")
    assert seen(shell.actions, shell) == [("rollback", "UNIT", "releases/1.4.2 -> releases/1.4.0")]


def test_a_rollback_needs_root_and_sudo_grants_it(shell: Shell) -> None:
    script = shell.lab.facts().rollback_script
    assert shell(script) == Result(2, "", "rollback.sh: must be root\n")
    assert re.search(rf"NOPASSWD: .*/{script}, .*/{script} \*$", shell("sudo -n -l").out, re.M)
    assert shell.actions == []


def test_a_rollback_is_accepted_though_the_older_release_is_bad_too(shell: Shell) -> None:
    (shell.host.directory / shell.lab.facts().root / "releases/1.4.1/BROKEN").write_text('{"how": "exit"}')
    assert rollback(shell).status == 0
    assert eventually(lambda: shell.show()["ActiveState"] == "failed")


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"how": "missing"}, 1, "command not found"),
        ({"how": "usage"}, 0, "usage: rollback.sh --release"),
        ({"how": "asks"}, 0, "Type yes: \nAborted."),
        ({"how": "asks", "status": 1}, 1, "Aborted."),
        ({"how": "no_older"}, 3, "no release before 1.4.2"),
    ],
)
def test_a_broken_rollback_changes_nothing(
    shell: Shell, options: dict[str, object], status: int, words: str
) -> None:
    do(shell, do="rollback_broken", **options)
    result = rollback(shell, "</dev/null")
    assert result.status == status
    assert words in result.out + result.err
    assert shell(f"readlink {shell.lab.facts().release_link}").out == "releases/1.4.2\n"
    assert shell.actions == []


def test_a_rollback_that_asks_is_done_when_told_yes(shell: Shell) -> None:
    do(shell, do="rollback_broken", how="asks")
    assert shell(f"echo yes | sudo -n {shell.lab.facts().rollback_script}").status == 0
    assert [action.verb for action in shell.actions] == ["rollback"]


# kubectl


def kubectl(shell: Shell, words: str) -> Result:
    facts = shell.lab.facts()
    return shell(f"kubectl {words}".replace("NAME", facts.deployment) + f" -n {facts.namespace}")


def deployment(shell: Shell) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(kubectl(shell, "get deployment NAME -o json").out)
    return found


def test_kubectl_shows_a_deployment_as_the_api_server_has_it(shell: Shell) -> None:
    name = shell.lab.facts().deployment
    found = deployment(shell)
    assert (found["apiVersion"], found["kind"]) == ("apps/v1", "Deployment")
    assert found["metadata"]["name"] == name
    assert found["spec"]["replicas"] == found["status"]["readyReplicas"] == found["status"]["replicas"] == 2
    assert found["metadata"]["generation"] == found["status"]["observedGeneration"] == 1
    assert str(found["metadata"]["resourceVersion"]).isdigit()
    table = kubectl(shell, "get deploy/NAME").out
    assert re.match(rf"NAME +READY +UP-TO-DATE +AVAILABLE +AGE\n{name} +2/2 +2 +2 +30d\n$", table)


def test_scaling_gives_ready_replicas_a_moment_later_and_is_counted(shell: Shell) -> None:
    before = deployment(shell)
    result = kubectl(shell, "scale deployment NAME --replicas=4")
    name = shell.lab.facts().deployment
    assert result == Result(0, f"deployment.apps/{name} scaled\n", "")
    at_once = deployment(shell)
    assert at_once["spec"]["replicas"] == 4
    assert at_once["metadata"]["generation"] == 2
    assert int(str(at_once["metadata"]["resourceVersion"])) > int(str(before["metadata"]["resourceVersion"]))
    assert eventually(lambda: deployment(shell)["status"].get("readyReplicas") == 4)
    assert deployment(shell)["status"]["observedGeneration"] == 2
    assert seen(shell.actions, shell) == [("scale", f"deployment/{name}", "2 -> 4")]


def test_scaling_keeps_to_its_preconditions(shell: Shell) -> None:
    version = int(str(deployment(shell)["metadata"]["resourceVersion"]))
    stale = kubectl(shell, f"scale deployment NAME --replicas=3 --resource-version={version - 1}")
    assert stale == Result(1, "", f"error: Expected resource version to be {version - 1}, was {version}\n")
    wrong = kubectl(shell, "scale deployment/NAME --replicas=3 --current-replicas=7")
    assert wrong == Result(1, "", "error: Expected replicas to be 7, was 2\n")
    assert shell.actions == []
    words = f"scale deployment NAME --replicas=3 --resource-version={version} --current-replicas=2"
    assert kubectl(shell, words).status == 0


def test_kubectl_refuses_what_it_cannot_do(shell: Shell) -> None:
    missing = 'Error from server (NotFound): deployments.apps "nosuch" not found\n'
    assert kubectl(shell, "scale deployment nosuch --replicas=3") == Result(1, "", missing)
    assert kubectl(shell, "get deployment nosuch -o json") == Result(1, "", missing)
    name = shell.lab.facts().deployment
    elsewhere = shell(f"kubectl scale deployment {name} --replicas=5")
    assert elsewhere.err == f'Error from server (NotFound): deployments.apps "{name}" not found\n'
    assert "--replicas=COUNT flag is required" in kubectl(shell, "scale deployment NAME").err
    assert kubectl(shell, "delete deployment NAME").status == 1
    do(shell, do="no_deployment")
    assert "NotFound" in kubectl(shell, "get deployment NAME -o json").err
    assert shell.actions == []


def test_an_overload_ends_with_enough_ready_replicas_and_with_no_restart(shell: Shell) -> None:
    assert metric(shell, "http_requests_in_flight") < 2
    do(shell, do="overload", needs=3, ms=300)

    def latency() -> float:
        return float(shell("curl -sS -o /dev/null -w '%{time_total}' URL/health").out)

    assert latency() > 0.3
    assert metric(shell, "http_requests_in_flight") > 10
    assert "load average: 9.37" in shell("uptime").out
    assert shell("ps -o pcpu= -p $(systemctl show UNIT -p MainPID --value)").out.strip() == "97.3"
    shell("sudo -n systemctl restart UNIT")
    assert eventually(lambda: bool(health(shell)))
    assert latency() > 0.3
    kubectl(shell, "scale deployment NAME --replicas=3")
    assert eventually(lambda: latency() < 0.2)
    assert metric(shell, "http_requests_in_flight") < 2
    assert "load average: 0.21" in shell("uptime").out


def test_replicas_may_never_become_ready(shell: Shell) -> None:
    do(shell, do="replicas_never_ready")
    assert kubectl(shell, "scale deployment NAME --replicas=5").status == 0
    time.sleep(0.6)
    found = deployment(shell)
    assert (found["spec"]["replicas"], found["status"]["readyReplicas"]) == (5, 2)
    assert found["status"]["unavailableReplicas"] == 3


def test_all_hosts_see_the_same_deployment_and_database(tmp_path: Path) -> None:
    with Lab(scenario(hosts=2), run_dir=tmp_path) as lab:
        one, two = (Shell(lab, host, connect(lab, host)) for host in lab.hosts)
        kubectl(one, "scale deployment NAME --replicas=3")
        assert deployment(two)["spec"]["replicas"] == 3
        do(one, do="primary_lost")
        assert health(two).startswith("503")
        assert [(action.host, action.verb) for action in lab.actions()] == [(lab.hosts[0].name, "scale")]


# Configuration


@pytest.mark.parametrize(("how", "verb"), [("unhealthy", "reload"), ("exit", "reload-or-restart")])
def test_a_bad_configuration_is_cured_by_its_good_copy_and_by_no_restart(
    shell: Shell, how: str, verb: str
) -> None:
    file = shell.lab.facts().config_file
    do(shell, do="bad_config", how=how)
    assert 170 < time.time() - int(shell(f"stat -c %Y {file}").out) < 200
    shell("sudo -n systemctl restart UNIT")
    if how == "exit":
        assert eventually(lambda: shell.show()["ActiveState"] == "failed")
        assert "configuration error: WORKERS='four' is not a number" in shell("journalctl -u UNIT").out
    else:
        assert eventually(lambda: "WORKERS=0, no worker serves" in health(shell))
    assert [action.verb for action in shell.actions] == ["restart"]
    assert shell(f"cp -p {file}.good {file} && sudo -n systemctl {verb} UNIT").status == 0
    assert eventually(lambda: well(shell))
    assert [action.verb for action in shell.actions] == ["restart", "config", verb]


def test_a_reload_keeps_the_process_and_a_configuration_that_cannot_be_used_out(shell: Shell) -> None:
    file, pid = shell.lab.facts().config_file, shell.show()["MainPID"]
    assert shell(f"sed -i s/WORKERS=4/WORKERS=x/ {file}; sudo -n systemctl reload UNIT").status == 0
    assert eventually(lambda: "not reloaded: configuration error" in shell("journalctl -u UNIT").out)
    assert shell(f"sed -i s/WORKERS=x/WORKERS=8/ {file}; sudo -n systemctl reload UNIT").status == 0
    assert eventually(lambda: '"WORKERS": "8"' in shell("curl -sS URL/api/config").out)
    assert (shell.show()["MainPID"], well(shell)) == (pid, True)
    assert [action.verb for action in shell.actions] == ["config", "reload"] * 2


def test_a_unit_that_does_not_run_cannot_be_reloaded(shell: Shell) -> None:
    do(shell, do="stop")
    refused = shell("sudo -n systemctl reload UNIT")
    assert (refused.status, refused.err) == (1, f"{shell.lab.unit}.service is not active, cannot reload.\n")


# Failover


def failover(shell: Shell, words: str = "") -> Result:
    return shell(f"sudo -n {shell.lab.facts().failover_script} {words}")


def database(shell: Shell) -> dict[str, object]:
    found: dict[str, object] = json.loads(failover(shell, "postgres status --json").out)
    return found


def test_a_promotion_makes_the_gateways_well_and_is_counted(shell: Shell) -> None:
    do(shell, do="primary_lost", lag_s=0.4)
    assert 'port 5432 failed: Connection refused"}' in health(shell)
    lines = shell(f"{shell.lab.facts().failover_script} postgres status").out.splitlines()
    assert [line.split(": ")[1] for line in lines[3:]] == ["true", "0.4", "true", "true"]
    assert [line.split(": ")[0] for line in lines] == list(database(shell))
    assert eventually(lambda: "[ERROR] database: connection to server" in shell("journalctl -u UNIT").out)
    shell("sudo -n systemctl restart UNIT")
    assert eventually(lambda: health(shell).startswith("503"))
    assert failover(shell, "postgres promote --yes").status == 0
    assert database(shell)["standby_in_recovery"] is False
    assert well(shell)
    assert [(action.verb, action.unit) for action in shell.actions[1:]] == [("failover", "postgres")]


@pytest.mark.parametrize("words", ["", "engine promote", "postgres switchover", "--role primary"])
def test_a_failover_without_the_right_words_prints_its_usage_and_returns_0(shell: Shell, words: str) -> None:
    result = failover(shell, words)
    assert (result.status, result.out.split(":")[0]) == (0, "usage")
    assert shell.actions == []


def test_a_promotion_asks_for_a_yes(shell: Shell) -> None:
    do(shell, do="primary_lost")
    script = shell.lab.facts().failover_script
    assert failover(shell, "postgres promote </dev/null").status == 1
    refused = shell(f"echo no | sudo -n {script} postgres promote")
    assert (refused.status, refused.out[-9:]) == (0, "Aborted.\n")
    assert (database(shell)["standby_in_recovery"], shell.actions) == (True, [])
    assert shell(f"echo yes | sudo -n {script} postgres promote").status == 0
    assert database(shell)["standby_in_recovery"] is False


def test_a_promotion_may_stay_in_recovery_and_return_0(shell: Shell) -> None:
    do(shell, do="primary_lost", promotion_stays_in_recovery=True, quorum=False, fenced=False)
    result = failover(shell, "postgres promote --yes")
    assert result.status == 0
    assert "[ERROR]" in result.out
    assert "Promotion may have failed - check logs" in result.out
    found = database(shell)
    assert [found[key] for key in ("standby_in_recovery", "quorum", "fenced")] == [True, False, False]
    assert health(shell).startswith("503")


# More faults


def test_a_leak_really_takes_memory_and_a_restart_gives_it_back(shell: Shell) -> None:
    def resident() -> int:
        return int(shell("ps -o rss= -p $(systemctl show UNIT -p MainPID --value)").out) // 1024

    assert resident() < 60
    do(shell, do="memory_leak", mib=210, ms=200, over_s=0.5)

    def took_s() -> float:
        return float(shell("curl -sS -o /dev/null -w '%{time_total}' URL/health").out)

    assert eventually(lambda: resident() > 200)
    assert eventually(lambda: took_s() > 0.15)  # it goes on growing
    shell("sudo -n systemctl restart UNIT")
    assert eventually(lambda: well(shell))
    time.sleep(0.6)
    assert resident() < 60


def test_a_full_disk_is_said_and_makes_the_service_ill(shell: Shell) -> None:
    do(shell, do="disk_full")
    assert health(shell).startswith("503")
    assert "[Errno 28] No space left on device" in shell("journalctl -u UNIT").out
    do(shell, do="disk_full", percent=60)
    assert well(shell)


def test_an_outage_of_the_exchange_leaves_the_engine_alone_and_ends_by_itself(shell: Shell) -> None:
    pid = shell.show()["MainPID"]
    do(shell, do="exchange_outage", share=1, for_s=1)
    assert metric(shell, "websocket_connected") == 0
    market = shell("curl -sS URL/api/market").out
    assert '"error"' in market
    assert '"connected": true' in shell("curl -sS URL/api/health").out
    assert "WebSocket read error" in shell("journalctl -u UNIT").out
    assert metric(shell, "exchange_api_errors_total") > 0
    assert eventually(lambda: metric(shell, "websocket_connected") == 1)
    assert '"price"' in shell("curl -sS URL/api/market").out
    assert (shell.show()["MainPID"], shell.actions) == (pid, [])


def test_an_intruder_is_told_of_and_nothing_is_unhealthy(shell: Shell) -> None:
    do(shell, do="intruder", failures=3)
    lines = shell("journalctl -u UNIT -o cat -n 20").out  # the gateway's own first words may come late
    assert lines.count("[AUDIT] Auth failed: path=/api/account, ip=203.0.113.8, error=invalid_api_key") == 3
    assert "[AUDIT] API key created: key_id=" in lines
    assert shell("journalctl -u ssh -o cat").out.count("Failed password for invalid user admin") == 3
    assert well(shell)


def test_a_mystery_makes_errors_rise_while_everything_looks_well(shell: Shell) -> None:
    assert eventually(lambda: "Engine started" in shell("journalctl -u UNIT -o cat").out)  # its last first word
    before = shell("journalctl -u UNIT -o cat").out
    do(shell, do="mystery", share=0.9)
    shell("sleep 0.5")
    assert metric(shell, "errors_total") > 5
    assert shell("curl -sSi URL/api/orders_state").out.startswith("HTTP/1.0 200")
    assert well(shell)
    assert shell("journalctl -u UNIT -o cat").out == before


def test_any_fault_may_end_by_itself(shell: Shell) -> None:
    do(shell, do="crash", for_s=0.4)
    assert not health(shell)
    assert eventually(lambda: well(shell))
    do(shell, do="primary_lost", for_s=0.3)
    assert health(shell).startswith("503")
    assert eventually(lambda: well(shell))
    assert shell.actions == []


# People and facts


def test_a_scenario_says_what_people_decide_and_which_changes_are_wrong() -> None:
    text = scenario().model_dump(mode="json") | {
        "people": [
            {"at": "approval", "decision": "decline", "by": "Bo", "strategy": "failover"},
            {"at": "approval", "decision": "approve", "by": "Ann"},
        ],
        "never": {"actions": ["rollback", "scale", "config", "failover", "reload"]},
    }
    told = Scenario.model_validate(text)
    assert [(person.by, person.decision, person.strategy) for person in told.people] == [
        ("Bo", "decline", "failover"),
        ("Ann", "approve", None),
    ]
    with pytest.raises(ValueError, match="decision"):
        Scenario.model_validate(text | {"people": [{"at": "approval", "decision": "perhaps"}]})


def test_the_facts_name_what_strategies_act_on(shell: Shell) -> None:
    facts = shell.lab.facts()
    assert shell(f"cd {facts.root} && ls").out.split() == ["current", "etc", "releases", "scripts"]
    assert shell(f"cmp {facts.config_file} {facts.config_file}.good").status == 0
    assert shell(f"test -x {facts.rollback_script} -a -x {facts.failover_script}").status == 0
    assert kubectl(shell, "get deployment NAME -o name").out == f"deployment.apps/{facts.deployment}\n"


# The product's own strategies


def configured(shell: Shell, name: str) -> Strategy:
    facts, host = shell.lab.facts(), shell.host.name
    script = ["sudo", "-n", facts.rollback_script]
    choices: dict[str, dict[str, object]] = {
        "rollback": {"command": script, "script": facts.rollback_script, "back": [*script, "{release}"]},
        "scale": {
            "host": host,
            "namespace": facts.namespace,
            "deployment": facts.deployment,
            "replicas": 4,
            "most": 4,
        },
        "config": {
            "command": ["sudo", "-n", "systemctl", "reload-or-restart", facts.unit],
            "file": facts.config_file,
            "good": f"{facts.config_file}.good",
        },
        "failover": {
            "command": ["sudo", "-n", facts.failover_script, "postgres", "promote", "--yes"],
            "host": host,
            "status": [facts.failover_script, "postgres", "status"],
            "facts": {name: rf"{name}: *(\S+)" for name in ("standby_in_recovery", "lag_seconds", "quorum")},
            "requires": [{"evidence": "failover.quorum", "value": True}],
            "holds_when": [{"evidence": "failover.standby_in_recovery", "value": False}],
        },
    }
    return KINDS[name].model_validate({"budget": {"attempts": 1, "within_minutes": 10}} | choices[name])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("rollback", {"do": "bad_release", "how": "exit"}),
        ("scale", {"do": "overload", "needs": 4, "ms": 300}),
        ("config", {"do": "bad_config", "how": "exit"}),
        ("config", {"do": "bad_config", "how": "unhealthy"}),
        ("failover", {"do": "primary_lost"}),
    ],
)
def test_a_strategy_of_the_responder_may_be_tried_acts_and_holds(
    shell: Shell, name: str, fault: dict[str, object]
) -> None:
    strategy = configured(shell, name)
    filled, secrets = lab_profile(shell.lab.facts())
    profile = filled.model_copy(update={"strategies": {name: strategy}})
    ssh = SSHCredentials(
        user=profile.ssh.user,
        private_key=SecretStr(secrets["LAB_SSH_KEY"]),
        known_hosts=profile.ssh.known_hosts,
    )
    [target] = strategy.targets([shell.host.name], [shell.host.name])

    def looked() -> Dossier:
        with Look(profile, ssh, profile.hosts[0]) as look:
            look.unit()
            look.release()
            look.strategies(name)
            return Dossier(evidence=look.evidence)

    do(shell, **fault)
    # One that is only starting dies of being told to reload, and is not started again: as under systemd.
    if fault.get("how") == "exit":
        assert eventually(lambda: shell.show()["ActiveState"] == "failed")
    else:
        assert eventually(lambda: health(shell).startswith(("200", "503")))
    before = looked()
    snapshot = Snapshot.of(before, shell.host.name, now(), strategy=name)
    assert strategy.problem(before, target) is None
    assert {r.verdict for r in strategy.postcondition(snapshot, before, target)} == {"unhealthy"}
    attempt = f"try-{time.monotonic_ns()}"
    shell(fence_and_start(attempt, strategy.action(before, target)))
    assert eventually(lambda: parse_change(shell(poll(attempt)).out).exit_status == 0)
    assert eventually(
        lambda: {r.verdict for r in strategy.postcondition(snapshot, looked(), target)} == {"healthy"}
    )
    assert eventually(lambda: well(shell))
    assert name in [action.verb for action in shell.actions]
