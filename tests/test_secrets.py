"""Canaries of every shape, planted at every source of a whole incident, and one search over all that it left.

What the patterns themselves find and leave alone is tried in `test_redaction.py`.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import paramiko
import pytest
from lab_runs import PATIENCE_S, broken_lab, start_incident, wait_for, wait_opened
from pydantic import SecretStr
from ssh_server import Faults, SSHServer
from test_faults import scenario

from blocks.notification import Notification
from responder.cli.runs import wait_until_final
from responder.domain.profile import Host, Profile
from responder.domain.redaction import PATTERNS
from responder.installation import Installation
from responder.lab.http import Answer, StandIn
from responder.lab.lab import Lab
from responder.lab.sshd import load_key
from responder.lab.stakeholders import Mailbox
from responder.store import open_store


def planted(example: str) -> tuple[str, str]:
    """A pattern's example as it would stand in a log, and the secret in it."""
    before, rest = example.split("‹")
    secret, after = rest.split("›")
    return before + secret + after, secret


CANARIES = {pattern.name: planted(pattern.example) for pattern in PATTERNS}
"""What is planted, and the part of it that must be found nowhere."""
WORD = "zq7heron"
"""Stands beside the canaries at every source, followed by its name: what is kept of it shows that it was read."""
SAID = "\n".join(text for text, _ in CANARIES.values())
NOBODY = paramiko.ECDSAKey.generate()
IN_ENVIRONMENT = "owl-in-the-environment-31"
os.environ["CANARY_EXCHANGE_SECRET"] = IN_ENVIRONMENT  # of server, worker, keeper and of every run


def said(source: str) -> str:
    """Words of a source with every canary."""
    return f"{WORD}_{source} {SAID}"


@dataclass
class Left:
    """Everything that an incident has left behind: files by their names, and texts that others were sent."""

    files: dict[str, bytes]
    told: dict[str, str]
    ours: dict[str, str]
    outcome: str

    def holding(self, needle: str) -> list[str]:
        """Where it is found, as it is and as JSON writes it."""
        forms = {needle, json.dumps(needle)[1:-1]}
        found = [name for name, data in self.files.items() if any(form.encode() in data for form in forms)]
        return found + [name for name, text in self.told.items() if any(form in text for form in forms)]


def poison(lab: Lab) -> None:
    """The gateway says its secrets wherever it says anything, and so does its process."""
    [host] = lab.hosts
    # No slash in it: Python would look there for its own files, and end.
    secret = "--api-secret hV7kQ2pR9wYs password=correct-horse-battery AKIAIOSFODNN7EXAMPLE"
    host.ask("process", args=f"{lab.service}_engine {WORD}_process {secret}")
    for program in (host.directory / "opt").glob("*/releases/*/*_gateway.py"):
        text = program.read_text()
        for old, new in (
            (
                "    gateway.serve_forever()",
                f"    for line in {(said('journal') + chr(10)) * 2!r}.split(chr(10)): log('[ERROR] ' + line)\n"
                "    gateway.serve_forever()",
            ),
            (
                'lines = [f"# TYPE',
                f'lines = ["# " + line for line in {said("metrics")!r}.split(chr(10))] + [f"# TYPE',
            ),
            ('{"items": gateway.orders}', f'{{"items": gateway.orders, "note": {said("orders")!r}}}'),
            ('health = {"ok": status == 200}', f'health = {{"ok": status == 200, "debug": {said("health")!r}}}'),
            (
                'self.send_header("Content-Type", content_type)',
                'self.send_header("Content-Type", content_type); self.send_header("X-API-Key", '
                f"{CANARIES['named value'][1]!r})",
            ),
        ):
            assert old in text, old
            text = text.replace(old, new)
        program.write_text(text)
    (host.directory / "home" / "said.txt").write_text(said("output"))
    died = host.state()["main_pid"]
    host.ask("kill", signal_name="SIGKILL")
    wait_for(lambda: host.state()["main_pid"] not in (0, died), named="the poisoned gateway")
    host.wait_for_gateway()
    host.ask("engine_dead")


def echo(stand_in: StandIn, ours: str, wrap: Callable[[str], Any]) -> None:
    """The vendor's next errors repeat our own token, and secrets of others."""
    stand_in.refusal = lambda status: Answer(status, wrap(f"{WORD}_vendor bad token {ours}; {SAID}"))  # type: ignore[method-assign]
    stand_in.fail("500", times=2)


@pytest.fixture(scope="module")
def left(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    labels = {f"note_{number}": text for number, (text, _) in enumerate(CANARIES.values())}
    alert = {"at_s": 0.3, "name": "VelozEngineDown", "summary": said("alert")[:2_000], "labels": labels}
    mailbox, store = Mailbox(), open_store()

    def ours_to_break(profile: Profile) -> Profile:
        Notification(url=SecretStr(mailbox.url)).save("secrets-mail", overwrite=True)
        restart = profile.strategies["restart"]
        shell = ("sh", "-c", 'cat said.txt; exec "$@"', "sh", *restart.command)
        strategies = dict(profile.strategies) | {"restart": restart.model_copy(update={"command": shell})}
        ssh = profile.ssh.model_copy(update={"known_hosts": profile.ssh.known_hosts + forced.known_hosts})
        extra = Host(name="forced", address=forced.address, port=forced.port)
        return profile.model_copy(
            update={
                "hosts": (*profile.hosts, extra),
                "ssh": ssh,
                "strategies": strategies,
                "stakeholders": ("incident-notification/secrets-mail",),
            }
        )

    banner = tmp_path_factory.mktemp("forced") / "banner"
    banner.write_text(said("banner"))
    with (
        mailbox,
        SSHServer(banner.parent, NOBODY, faults=Faults(forced=f"cat {banner}")) as forced,
        broken_lab(
            scenario(trigger={"alerts": [alert]}, restart_policy="on-failure"),
            tmp_path_factory.mktemp("secrets"),
            profile=ours_to_break,
        ) as lab,
    ):
        poison(lab)
        forced.client_key = load_key(lab.facts().private_key)
        echo(
            lab.pagerduty,
            f"{lab.pagerduty.api_token} {lab.pagerduty.routing_key}",
            lambda t: {"error": {"message": t}},
        )
        echo(lab.slack, lab.slack.token, lambda text: text)
        echo(lab.statuspage, lab.statuspage.api_token, lambda text: {"error": text})
        echo(lab.github, lab.github.token, lambda text: {"message": text})
        run_id = start_incident(lab, summary=said("summary")[:300])
        incident_id = wait_opened(store, run_id).id
        wait_for(lambda: store.incident(incident_id).outcome, 2 * PATIENCE_S, named="the end")
        wait_for(lambda: all(m.state != "waiting" for m in store.messages(incident_id)), named="telling")
        wait_until_final(run_id)
        told = {
            f"{type(vendor).__name__} {number} {request.path}": repr((request.json, request.params, request.path))
            for vendor in (lab.pagerduty, lab.slack, lab.statuspage, lab.github)
            for number, request in enumerate(vendor.requests)
        }
        told |= {f"mail {number}": mail.as_string() for number, mail in enumerate(mailbox.mails)}
        told |= {"the API's runs": httpx.post(f"{installation.api_url}/flow_runs/filter", json={}).text}
        ours = {
            "PagerDuty token": lab.pagerduty.api_token,
            "PagerDuty routing key": lab.pagerduty.routing_key,
            "Slack token": lab.slack.token,
            "Statuspage token": lab.statuspage.api_token,
            "GitHub token": lab.github.token,
            "SSH key": lab.facts().private_key.splitlines()[1],
        }
        files = {
            str(path.relative_to(installation.home)): path.read_bytes()
            for path in sorted(installation.home.rglob("*"))
            if path.is_file()
        }
        yield Left(files, told, ours, str(store.incident(incident_id).outcome))
    store.close()


def test_the_search_looks_where_an_incident_leaves_something(left: Left) -> None:
    assert left.outcome == "escalated"
    for name in ("incidents.db", "prefect/prefect.db", "logs/worker.log", "logs/keeper.log", "post-mortem.md"):
        assert any(path.endswith(name) for path in left.files), name
    kinds = {name.split()[0] for name in left.told}
    assert kinds >= {"PagerDutyStandIn", "SlackStandIn", "StatuspageStandIn", "GitHubStandIn", "mail", "the"}


@pytest.mark.parametrize(
    "source",
    ["journal", "process", "metrics", "orders", "health", "alert", "summary", "output", "vendor", "banner"],
)
def test_what_stands_beside_a_secret_is_kept(left: Left, source: str) -> None:
    assert left.holding(f"{WORD}_{source}")


@pytest.mark.parametrize("shape", CANARIES)
def test_no_secret_of_a_source_is_found_anywhere(left: Left, shape: str) -> None:
    assert left.holding(CANARIES[shape][1]) == []


def test_no_secret_of_our_own_processes_environment_is_found_anywhere(left: Left) -> None:
    assert left.holding(IN_ENVIRONMENT) == []


@pytest.mark.parametrize(
    "name",
    ["PagerDuty token", "PagerDuty routing key", "Slack token", "Statuspage token", "GitHub token", "SSH key"],
)
def test_no_secret_that_we_hold_is_found_anywhere(left: Left, name: str) -> None:
    found = left.holding(left.ours[name])
    # The Events API takes the routing key in its body.
    assert [where for where in found if not where.endswith("/v2/enqueue")] == []
