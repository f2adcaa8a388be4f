"""`incident service …`: profiles and secrets taken in, and checked against a real lab host."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import paramiko
import pytest
import yaml
from commands import incident
from factories import profile_data, profile_text
from prefect.blocks.core import Block

from blocks.service import beside_others
from responder.domain.profile import Profile
from responder.installation import free_port
from responder.lab.lab import Lab
from responder.lab.scenario import load_scenario
from responder.lab.sshd import load_key, new_key
from tests.ssh_server import Faults, SSHServer

SHOP_SECRET = "-----BEGIN a key that must not be shown-----"


@pytest.fixture(scope="module")
def lab(installation, tmp_path_factory) -> Iterator[Lab]:
    with Lab(load_scenario("nothing-wrong"), run_dir=tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(profile_text())
    return file


# --- add, list, show ---------------------------------------------------------------------------------


def test_a_service_is_added_with_its_secret_from_the_environment_listed_and_shown(installation, shop, monkeypatch):
    monkeypatch.setenv("SHOP_SSH_KEY", SHOP_SECRET)
    added = incident("service", "add", str(shop), "--json")
    assert (added.status, added.document) == (
        0,
        {"service": "shop", "mode": "dry-run", "hosts": 2, "saved": True},
    )
    listed = incident("service", "list", "--json")
    assert {"name": "shop", "mode": "dry-run", "hosts": 2, "description": ""} in listed.document
    shown = incident("service", "show", "shop", "--json")
    assert shown.document == Profile.model_validate(profile_data()).model_dump(mode="json")
    assert yaml.safe_load(incident("service", "show", "shop").out) == shown.document
    said = [run.out + run.err for run in (added, listed, shown)]
    assert not any(SHOP_SECRET in text for text in said)


def test_what_is_shown_can_be_added_again(installation, shop, monkeypatch, tmp_path):
    monkeypatch.setenv("SHOP_SSH_KEY", SHOP_SECRET)
    incident("service", "add", str(shop))
    again = tmp_path / "again.yaml"
    again.write_text(incident("service", "show", "shop").out)
    assert incident("service", "add", str(again)).status == 0


def test_every_missing_secret_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("SHOP_SSH_KEY", raising=False)
    file = tmp_path / "shop.yaml"
    file.write_text(profile_text(slack={"token": "SHOP_SLACK_TOKEN"}))
    ran = incident("service", "add", str(file), "--json")
    assert (ran.status, ran.out) == (1, "")
    assert "secrets are missing: SHOP_SSH_KEY, SHOP_SLACK_TOKEN" in ran.err
    assert "--secret NAME=@FILE" in ran.err


def test_a_secret_that_the_profile_does_not_name_is_refused(shop, tmp_path):
    key = tmp_path / "key"
    key.write_text("k")
    ran = incident("service", "add", str(shop), "--secret", f"SHOP_KEY=@{key}")
    assert ran.status == 1
    assert "SHOP_KEY: the profile names no such secret; it names SHOP_SSH_KEY" in ran.err


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(shop):
    ran = incident("service", "add", str(shop), "--secret", "SHOP_SSH_KEY=hunter2")
    assert ran.status == 1
    assert "SHOP_SSH_KEY: say NAME=@FILE" in ran.err
    assert "hunter2" not in ran.out + ran.err


def test_a_secrets_file_that_cannot_be_read_is_named(shop, tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent", binary, tmp_path):
        ran = incident("service", "add", str(shop), "--secret", f"SHOP_SSH_KEY=@{path}")
        assert ran.status == 1
        assert ran.err.startswith(f"incident: --secret SHOP_SSH_KEY: {path}: ")


def test_a_mistake_in_a_profile_is_told_with_its_line_and_the_nearest_key(tmp_path):
    file = tmp_path / "shop.yaml"
    text = profile_text().replace("private_key:", "privat_key:")
    file.write_text(text)
    line = text[: text.index("privat_key")].count("\n") + 1
    ran = incident("service", "add", str(file))
    assert ran.status == 1
    assert f"{file}, line {line}: `ssh.privat_key`: no such key; the nearest is `private_key`" in ran.err


@pytest.mark.parametrize("content", [b"name: [", b"\xff\xfe", b"", b"- 1\n"])
def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path, content):
    file = tmp_path / "shop.yaml"
    file.write_bytes(content)
    ran = incident("service", "add", str(file))
    assert (ran.status, ran.out) == (1, "")
    assert str(file) in ran.err
    assert "Traceback" not in ran.err


def test_a_profile_that_is_not_there_is_wrong_usage(tmp_path):
    assert incident("service", "add", str(tmp_path / "absent.yaml")).status == 2


def test_a_known_hosts_file_is_taken_into_the_profile(installation, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_SSH_KEY", SHOP_SECRET)
    file = tmp_path / "shop.yaml"
    ssh = {"user": "ops", "private_key": "SHOP_SSH_KEY", "known_hosts_file": "known_hosts"}
    file.write_text(profile_text(name="shop-hosts", ssh=ssh))
    ran = incident("service", "add", str(file))
    assert ran.status == 1
    assert f"`ssh.known_hosts_file`: {tmp_path / 'known_hosts'}: No such file" in ran.err
    (tmp_path / "known_hosts").write_text("gw-1 ssh-ed25519 AAAA\n")
    assert incident("service", "add", str(file)).status == 0
    kept = incident("service", "show", "shop-hosts", "--json").document["ssh"]
    assert (kept["known_hosts"], kept["known_hosts_file"]) == ("gw-1 ssh-ed25519 AAAA\n", None)


@pytest.mark.parametrize("command", ["show", "check"])
def test_an_unknown_service_is_named_with_what_to_do(installation, command):
    ran = incident("service", command, "never-saved", "--json")
    assert (ran.status, ran.out) == (1, "")
    assert "'never-saved'" in ran.err
    assert "incident service list" in ran.err


# --- check -------------------------------------------------------------------------------------------


def test_a_whole_service_added_from_files_passes_its_check_and_nothing_is_changed(lab, tmp_path):
    """Secrets in files end with a newline, as editors leave it."""
    from responder.cli.drill import lab_profile

    filled, secrets = lab_profile(lab.facts())
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(filled.model_dump(mode="json")))
    options = []
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret.strip() + "\n")
        options += ["--secret", f"{name}=@{tmp_path / name}"]
    assert incident("service", "add", str(file), *options).status == 0

    ran = incident("service", "check", filled.name, "--json")
    assert [found for found in ran.document["checks"] if not found["ok"]] == []
    assert (ran.status, ran.document["ok"]) == (0, True)
    [host] = lab.hosts
    about = {found["what"] for found in ran.document["checks"]}
    assert about >= {
        f"{host.name}: reachable, host key and key accepted",
        f"{host.name}: command systemctl",
        f"{host.name}: command curl",
        f"{host.name}: sudo for restart",
        f"{host.name}: sudo for rollback",
        f"{host.name}: strategy rollback",
        f"{host.name}: strategy scale",
        f"{host.name}: health",
        f"{host.name}: engine",
        f"{host.name}: orders",
        f"{host.name}: metrics",
        "PagerDuty",
        "Slack",
        "Statuspage",
        "Tickets",
    }
    assert lab.actions() == []
    assert not [c for c in host.commands() if re.search(r"systemctl\W+(re)?start|systemctl\W+stop", c["command"])]
    assert lab.pagerduty.incidents == []
    assert lab.slack.messages == []
    assert lab.statuspage.incidents == []
    assert lab.github.issues == []


Change = Callable[[dict[str, Any], dict[str, str], Lab], None]


def _nobody_listens(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["hosts"][0]["port"] = free_port()


def _another_host_key(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    [host], key = lab.hosts, load_key(new_key())
    profile["ssh"]["known_hosts"] = f"[{host.address}]:{host.port} {key.get_name()} {key.get_base64()}\n"


def _no_host_key(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["ssh"]["known_hosts"] = ""


def _another_key(_: dict[str, Any], secrets: dict[str, str], lab: Lab) -> None:
    secrets["LAB_SSH_KEY"] = new_key()


def _no_such_program(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["unit"]["journalctl"] = ["journalctl-of-tomorrow"]


def _unit_that_sudo_does_not_list(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["strategies"]["restart"]["command"][-1] = "postgresql"


def _fields_that_the_answer_lacks(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["endpoints"]["health"]["expect"] = {"status.green": True}


def _value_that_the_answer_has_not(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["endpoints"]["health"]["expect"] = {"ok": False}


def _address_where_nobody_answers(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["endpoints"]["engine"]["url"] = f"http://127.0.0.1:{free_port()}/api/health"


def _metrics_that_do_not_exist(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["endpoints"]["metrics"] = dict(_METRICS, url=f"{lab.facts().gateway_url}/metrics")


_METRICS = {"requests": "absent_total", "errors": "absent_total", "latency": "absent_s", "scrape_interval_s": 1}


def _token_that_pagerduty_refuses(_: dict[str, Any], secrets: dict[str, str], lab: Lab) -> None:
    secrets["LAB_PAGERDUTY_TOKEN"] = "wrong"


def _routing_key_of_another_service(_: dict[str, Any], secrets: dict[str, str], lab: Lab) -> None:
    secrets["LAB_PAGERDUTY_ROUTING_KEY"] = "0" * 32


def _token_that_slack_refuses(_: dict[str, Any], secrets: dict[str, str], lab: Lab) -> None:
    secrets["LAB_SLACK_TOKEN"] = "xoxb-wrong"


def _key_that_statuspage_refuses(_: dict[str, Any], secrets: dict[str, str], lab: Lab) -> None:
    secrets["LAB_STATUSPAGE_TOKEN"] = "wrong"


def _component_that_the_page_lacks(profile: dict[str, Any], _: dict[str, str], lab: Lab) -> None:
    profile["statuspage"]["component_ids"] = ["absent"]


def _token_that_github_refuses(_: dict[str, Any], secrets: dict[str, str], lab: Lab) -> None:
    secrets["LAB_GITHUB_TOKEN"] = "wrong"


@pytest.mark.parametrize(
    ("change", "what", "detail", "see"),
    [
        (_nobody_listens, "HOST: reachable", "refused", "how-to.md#add-a-service"),
        (_no_host_key, "HOST: reachable", "host key is not known", "how-to.md#host-keys"),
        (_another_host_key, "HOST: reachable", "host key has changed", "how-to.md#host-keys"),
        (_another_key, "HOST: reachable", "does not accept ssh-ed25519", "how-to.md#login-and-key"),
        (_no_such_program, "HOST: command journalctl-of-tomorrow", "missing", "how-to.md#rights-on-the-hosts"),
        (
            _unit_that_sudo_does_not_list,
            "HOST: sudo for restart",
            "restart postgresql: not in the listing",
            "how-to.md#rights-on-the-hosts",
        ),
        (
            _fields_that_the_answer_lacks,
            "HOST: health",
            "unknown|status.green",
            "how-it-works.md#unknown-is-not-healthy",
        ),
        (_value_that_the_answer_has_not, "HOST: health", "unhealthy", "profile.md#endpoints"),
        (_address_where_nobody_answers, "HOST: engine", "refused", "profile.md#endpoints"),
        (
            _metrics_that_do_not_exist,
            "HOST: metrics",
            "unknown.*absent_total",
            "how-it-works.md#unknown-is-not-healthy",
        ),
        (_token_that_pagerduty_refuses, "PagerDuty", "401", "how-to.md#let-it-tell-people"),
        (_routing_key_of_another_service, "PagerDuty", "routing_key", "how-to.md#let-it-tell-people"),
        (_token_that_slack_refuses, "Slack", "invalid_auth", "how-to.md#let-it-tell-people"),
        (_key_that_statuspage_refuses, "Statuspage", "401", "how-to.md#let-it-tell-people"),
        (_token_that_github_refuses, "Tickets", "401", "how-to.md#let-it-tell-people"),
        (_component_that_the_page_lacks, "Statuspage", "no component absent", "how-to.md#let-it-tell-people"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_check_finds(lab, store, change: Change, what: str, detail: str, see: str):
    from blocks.service import save_service
    from responder.cli.drill import lab_profile

    filled, secrets = lab_profile(lab.facts())
    data = filled.model_dump(mode="json")
    data["name"] = change.__name__.strip("_").replace("_", "-")
    data["endpoints"]["metrics"] = None  # its two scrapes take a second
    del data["impact"]  # it is read from them
    change(data, secrets, lab)
    save_service(Profile.model_validate(data), secrets)

    ran = incident("service", "check", data["name"], "--json")
    [host] = lab.hosts
    wrong = [found for found in ran.document["checks"] if not found["ok"]]
    assert (ran.status, ran.document["ok"]) == (1, False)
    assert [found["what"].startswith(what.replace("HOST", host.name)) for found in wrong] == [True], wrong
    assert re.search(detail, wrong[0]["detail"], re.DOTALL), wrong
    assert wrong[0]["see"] == f"docs/{see}"
    assert lab.actions() == []
    assert not [c for c in host.commands() if "restart" in c["command"]]


@pytest.fixture
def behind(lab, tmp_path) -> Iterator[tuple[dict[str, Any], dict[str, str], SSHServer]]:
    """The lab's profile, reached through a jump host that takes the same key; its secrets, and the jump host."""
    from responder.cli.drill import lab_profile

    filled, secrets = lab_profile(lab.facts())
    with SSHServer(tmp_path, load_key(secrets["LAB_SSH_KEY"])) as jump:
        data = filled.model_dump(mode="json") | {"name": "behind"}
        data["ssh"] |= {
            "jump": {"address": jump.address, "port": jump.port},
            "known_hosts": data["ssh"]["known_hosts"] + jump.known_hosts,
        }
        data["endpoints"]["metrics"] = None  # its two scrapes take a second
        del data["impact"]  # it is read from them
        yield data, secrets, jump


def test_check_goes_through_the_jump_host_and_says_how_each_hop_is(lab, store, behind):
    from blocks.service import save_service

    data, secrets, jump = behind
    save_service(Profile.model_validate(data), secrets)
    checks = incident("service", "check", "behind", "--json").document["checks"]
    assert [found for found in checks if not found["ok"]] == []
    reachable = "reachable, host key and key accepted"
    assert [found["what"] for found in checks if "reachable" in found["what"]] == [
        f"jump host {jump.address}: {reachable}",
        f"{lab.hosts[0].name}: {reachable}",
    ]
    assert jump.connections == 1


def test_check_says_which_hop_is_wrong(lab, store, behind):
    from blocks.service import save_service

    data, secrets, jump = behind
    save_service(Profile.model_validate(data), secrets)
    jump.faults = Faults(forward=1)
    through, host = incident("service", "check", "behind", "--json").document["checks"][:2]
    assert (through["ok"], host["ok"]) == (True, False)
    assert "does not forward" in host["detail"]

    jump.faults = Faults()
    jump.host_keys = [paramiko.ECDSAKey.generate()]
    through, host = incident("service", "check", "behind", "--json").document["checks"][:2]
    assert (through["ok"], host["ok"]) == (False, False)
    assert "host key" in through["detail"]
    assert host["detail"] == "not tried, without the jump host"


def test_a_key_in_an_agent_is_no_secret_to_give_and_its_check_says_when_there_is_no_agent(
    installation, tmp_path, monkeypatch
):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    file = tmp_path / "shop.yaml"
    file.write_text(profile_text(name="shop-agent", ssh={"user": "ops", "agent": True}))
    assert incident("service", "add", str(file)).status == 0
    checks = incident("service", "check", "shop-agent", "--json").document["checks"]
    reachable = [found for found in checks if "reachable" in found["what"]]
    assert [found["ok"] for found in reachable] == [False, False]
    assert all("SSH_AUTH_SOCK is not set" in found["detail"] for found in reachable)


def test_check_names_stakeholders_that_are_not_saved_and_the_form_for_e_mail_is_there(lab, store):
    from prefect.client.orchestration import get_client

    from blocks.notification import Notification
    from blocks.service import save_service
    from responder.cli.drill import lab_profile

    filled, secrets = lab_profile(lab.facts())
    named = ("incident-notification/saved", "custom-webhook/absent")
    save_service(filled.model_copy(update={"stakeholders": named}), secrets)
    with get_client(sync_client=True) as client:
        assert client.read_block_type_by_slug("incident-notification").name == "Incident notification"
    Notification(url="mailto://127.0.0.1:9?to=a@example.com").save("saved", overwrite=True)
    checks = incident("service", "check", filled.name, "--json").document["checks"]
    assert [f["ok"] for f in checks if f["what"].startswith("stakeholders: ")] == [True, False]
    save_service(filled, secrets)


def test_check_tries_a_sites_own_templates(lab, store, tmp_path, monkeypatch):
    from blocks.service import save_service
    from responder.cli.drill import lab_profile

    filled, secrets = lab_profile(lab.facts())
    save_service(filled, secrets)
    monkeypatch.setenv("INCIDENT_TEMPLATES", str(tmp_path))
    template = tmp_path / "initial_notice.txt.j2"
    for text, ok in (("{{ notice.description | plain }}", True), ("\n{{ nothing | plain }}", False)):
        template.write_text(text)
        [found] = [
            f
            for f in incident("service", "check", filled.name, "--json").document["checks"]
            if f["what"] == "templates"
        ]
        assert found["ok"] is ok
    assert found["detail"] == f"{template}, line 2: UndefinedError: 'nothing' is undefined"
    assert found["see"] == "docs/how-to.md#change-the-wording"
    assert "\n      See docs/how-to.md#change-the-wording\n" in incident("service", "check", filled.name).out


def test_check_says_a_line_for_each_thing_and_remembers_what_it_could_not_read(lab, store):
    from blocks.service import save_service
    from responder.cli.drill import lab_profile

    filled, secrets = lab_profile(lab.facts())
    data = filled.model_dump(mode="json") | {"name": "unreadable-metrics"}
    _metrics_that_do_not_exist(data, secrets, lab)
    save_service(Profile.model_validate(data), secrets)
    ran = incident("service", "check", "unreadable-metrics")
    [host] = lab.hosts
    lines = ran.out.splitlines()
    assert ran.status == 1
    assert all(line.startswith(("ok    ", "FAIL  ", "      See docs/")) for line in lines)
    assert [line for line in lines if line.startswith("FAIL")] == [
        line for line in lines if f"{host.name}: metrics:" in line
    ]
    assert store.known_unknowns("unreadable-metrics") == {(host.name, "metrics")}


@pytest.mark.usefixtures("installation")
def test_whoever_saves_the_first_of_its_kind_at_the_same_moment_succeeds():
    class Fresh(Block):
        _block_type_name = f"Fresh {uuid4().hex[:8]}"
        value: str = ""

    with ThreadPoolExecutor(8) as people:
        saves = [partial(Fresh(value=str(n)).save, f"fresh-{n}", overwrite=True) for n in range(8)]
        list(people.map(beside_others, saves))
    assert [Fresh.load(f"fresh-{n}").value for n in range(8)] == [str(n) for n in range(8)]
