"""Canaries of every shape, planted at every source of a whole incident, and one search over all that it left.

What the patterns themselves find and leave alone is tried in `test_redaction.py`.
"""

import json
import os
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from lab_runs import PATIENCE_S, broken_lab, start_incident, wait_for, wait_opened
from pydantic import SecretStr
from test_faults import scenario
from test_notification import Mailbox

from blocks.notification import Notification
from responder.cli.runs import wait_until_final
from responder.domain.profile import Host, Profile
from responder.domain.redaction import PATTERNS
from responder.installation import Installation
from responder.lab.http import Answer, StandIn
from responder.lab.lab import Lab
from responder.store import open_store

CANARIES = {
    pattern.name: (
        pattern.example.replace("‹", "").replace("›", ""),
        re.search("‹(.*)›", pattern.example, re.S)[1],
    )
    for pattern in PATTERNS
}
"""What is planted, and the part of it that must be found nowhere."""
WORD = "zq7heron"
"""Stands beside the canaries at every source, followed by its name: what is kept of it shows that we looked there."""
SAID = "\n".join(text for text, _ in CANARIES.values())
IN_ENVIRONMENT = "owl-in-the-environment-31"
os.environ["CANARY_EXCHANGE_SECRET"] = IN_ENVIRONMENT  # of server, worker, keeper and of every run


def said(source: str) -> str:
    """Words of a source with every canary."""
    return f"{WORD}-{source} {SAID}"


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


class Leaky(socketserver.BaseRequestHandler):
    """A host that greets with a secret where SSH would begin."""

    def handle(self) -> None:
        self.request.sendall(f"SSH-{WORD}-banner password=correct-horse-battery\r\n".encode())


@contextmanager
def leaky_host() -> Iterator[int]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = allow_reuse_address = True

    with Server(("127.0.0.1", 0), Leaky) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def poison(lab: Lab) -> None:
    """The gateway says its secrets wherever it says anything, and so does its process."""
    [host] = lab.hosts
    child = f'[sys.executable, "-c", "import sys; sys.stdin.read()", "{lab.service}_engine", *{said("process").split()!r}]'
    environment = {"EXCHANGE_SECRET": CANARIES["named value"][1]}
    for program in (host.directory / "opt").glob("*/releases/*/*_gateway.py"):
        text = program.read_text()
        for old, new in (
            (
                "    gateway.serve_forever()",
                f"    for line in {(said('journal') + chr(10)) * 2!r}.split(chr(10)): log('[ERROR] ' + line)\n"
                f"    child = subprocess.Popen({child}, stdin=subprocess.PIPE, env={environment!r})\n"
                "    gateway.serve_forever()",
            ),
            (
                'lines = [f"# TYPE',
                f'lines = ["# " + line for line in {said("metrics")!r}.split(chr(10))] + [f"# TYPE',
            ),
            ('"reason": None', f'"reason": {said("orders")!r}'),
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
    host.ask("heal")
    host.wait_for_gateway()
    host.ask("engine_dead")


def echo(stand_in: StandIn, ours: str, wrap: Callable[[str], Any]) -> None:
    """The vendor's next errors repeat our own token, and secrets of others."""
    stand_in.refusal = lambda status: Answer(status, wrap(f"{WORD}-vendor bad token {ours}; {SAID}"))  # type: ignore[method-assign]
    stand_in.fail("500", times=2)


@pytest.fixture(scope="module")
def left(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    labels = {f"note_{number}": text for number, (text, _) in enumerate(CANARIES.values())}
    alert = {"at_s": 0.3, "name": "VelozEngineDown", "summary": said("alert")[:2_000], "labels": labels}
    mailbox, store = Mailbox(), open_store()
    threading.Thread(target=mailbox.serve_forever, daemon=True).start()

    def ours_to_break(profile: Profile) -> Profile:
        Notification(url=SecretStr(mailbox.url)).save("secrets-mail", overwrite=True)
        restart = profile.strategies["restart"]
        shell = ("sh", "-c", 'cat said.txt; exec "$@"', "sh", *restart.command)
        strategies = dict(profile.strategies) | {"restart": restart.model_copy(update={"command": shell})}
        extra = Host(name="leaky", address="127.0.0.1", port=leaky)
        return profile.model_copy(
            update={
                "hosts": (*profile.hosts, extra),
                "strategies": strategies,
                "stakeholders": ("incident-notification/secrets-mail",),
            }
        )

    with (
        leaky_host() as leaky,
        broken_lab(
            scenario(trigger={"alerts": [alert]}), tmp_path_factory.mktemp("secrets"), profile=ours_to_break
        ) as lab,
    ):
        poison(lab)
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
    mailbox.shutdown()
    mailbox.server_close()
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
    assert left.holding(f"{WORD}-{source}")


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
    found = [where for where in left.holding(left.ours[name])]
    # The Events API takes the routing key in its body.
    assert [where for where in found if not where.endswith("/v2/enqueue")] == []
