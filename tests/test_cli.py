"""The command line: usage, exit status, one JSON document, and what people do with an incident."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from commands import Ran, incident
from factories import open_incident, profile

from responder.domain.incident import Alert
from responder.domain.profile import Profile
from responder.lab.lab import Lab
from responder.lab.pagerduty import Incident
from responder.store import Store
from responder.store.tables import IncidentRow
from tests.lab_runs import PATIENCE_S, broken_lab, start_incident, wait_for, wait_opened

# --- usage -------------------------------------------------------------------------------------------


def leaves(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from leaves(child, *path, name)
    if not children:
        yield " ".join(path), command


def test_help_names_every_command_and_each_has_a_help_and_json():
    from responder.cli.app import app

    told = incident("--help")
    assert told.status == 0
    commands = dict(leaves(typer.main.get_command(app)))
    for name, command in commands.items():
        assert name.split()[0] in told.out
        assert command.help
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options, f"{name} prints no JSON"
    assert {"declare", "list", "show", "timeline", "postmortem", "close", "stop", "drill"} <= set(commands)


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("declare",),
        ("declare", "gateway down"),
        ("declare", "x", "--service", "shop"),
        ("declare", "x" * 301, "--service", "shop"),
        ("declare", "gateway down", "--service", "shop", "--severity", "P9"),
        ("declare", "gateway down", "--service", "shop", "--mode", "reckless"),
        ("show",),
        ("close", "--why"),
        ("service", "add"),
        ("drill",),
        ("drill", "process-crash", "--all"),
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_wrong_usage_is_exit_status_2_and_prints_no_result(arguments):
    ran = incident(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert re.search(r"Usage: incident |Option '--why' requires an argument", ran.err)


def test_scenarios_are_listed_with_what_they_are():
    listed = incident("drill", "--list", "--json").document
    assert "process-crash" in [scenario["name"] for scenario in listed]
    assert all(scenario["summary"] for scenario in listed)


def test_an_unknown_scenario_is_refused_with_those_there_are():
    ran = incident("drill", "meteorite")
    assert (ran.status, ran.out) == (1, "")
    assert "process-crash" in ran.err
    assert ran.err.endswith("\nSee docs/scenarios.md\n")


def test_a_prefect_that_does_not_answer_is_one_sentence(tmp_path):
    environment = os.environ | {
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "INCIDENT_HOME": str(tmp_path),
        "INCIDENT_STORE_URL": "",
    }
    ran = subprocess.run(
        [*program(), "service", "list", "--json"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "incident: Prefect at http://127.0.0.1:9/api does not answer" in ran.stderr
    assert "Traceback" not in ran.stderr


def program() -> list[str]:
    """The console script, as it is installed."""
    return [str(Path(sys.executable).with_name("incident"))]


# --- incidents of a store of their own ---------------------------------------------------------------


@pytest.fixture
def own_store(tmp_path, monkeypatch) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("INCIDENT_STORE_URL", url)
    store = Store(url)
    store.migrate()
    yield store
    store.close()


def opened(store: Store, number: int = 0, summary: str = "gateway down") -> IncidentRow:
    return open_incident(store, profile(name=f"shop-{number}"), run_id=str(UUID(int=number)), summary=summary)


def test_incidents_are_listed_newest_first_and_only_the_open_ones_if_asked(own_store):
    first, second = opened(own_store, 1), opened(own_store, 2)
    own_store.close_incident(first.id, who="me", why="done")
    rows = incident("list", "--json").document
    assert [row["id"] for row in rows] == [second.id, first.id]
    assert [row["id"] for row in incident("list", "--open", "--json").document] == [second.id]
    assert incident("list", "--open").out.splitlines()[1].startswith(second.id)


def test_an_empty_list_is_a_document_too(own_store):
    assert incident("list", "--json").document == []


@pytest.mark.parametrize("summary", ["queue :fire: [red]hot[/red]", 'a "quote"\nand \x1b[31mred', "déjà vu 🚑"])
def test_what_people_wrote_is_printed_as_they_wrote_it(own_store, summary):
    row = opened(own_store, summary=summary)
    assert incident("show", row.id, "--json").document["summary"] == summary
    assert incident("list", "--json").document[0]["summary"] == summary
    printed = incident("show", row.id).out
    assert summary.splitlines()[0] in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("command", ["show", "timeline", "postmortem"])
def test_an_unknown_and_an_ambiguous_id_are_refused_by_name(own_store, command):
    # Seventeen ids of sixteen possible first digits: two begin alike.
    firsts = [opened(own_store, number).id[0] for number in range(17)]
    twice = next(first for first in firsts if firsts.count(first) > 1)
    unknown, ambiguous = incident(command, "nothing", "--json"), incident(command, twice, "--json")
    assert (unknown.status, unknown.out) == (ambiguous.status, ambiguous.out) == (1, "")
    assert "there is no incident 'nothing'; `incident list` shows them" in unknown.err
    assert f"several incidents begin with '{twice}'" in ambiguous.err


def test_a_post_mortem_that_is_not_written_yet_is_said_so(own_store):
    row = opened(own_store)
    ran = incident("postmortem", row.id)
    assert (ran.status, ran.out) == (1, "")
    assert f"incident {row.id} has no post-mortem yet" in ran.err


def test_everything_is_stopped_and_let_go_again_by_name(own_store, monkeypatch):
    monkeypatch.setenv("INCIDENT_USER", "Robin")
    assert incident("stop", "--status", "--json").document == {"stopped": False, "by": None}
    stopped = incident("stop", "we move the racks", "--json")
    assert stopped.status == 0
    assert re.fullmatch(r"Robin at [-0-9]+ [0-9:]+ UTC: we move the racks", stopped.document["by"])
    assert incident("stop", "--status", "--json").document == stopped.document
    assert own_store.stopped() == stopped.document["by"]
    assert incident("stop", "--lift", "--json").document == {"stopped": False, "by": None}
    assert own_store.stopped() is None


# --- whole incidents ------------------------------------------------------------------------------------


def asks_before_closing(filled: Profile) -> Profile:
    """A person closes, and has an hour for it although a drill's clocks are fast."""
    guardrails = filled.guardrails.model_copy(update={"closing_granted": False})
    clocks = filled.clocks.model_copy(update={"close_form_s": 36_000.0})
    return filled.model_copy(update={"guardrails": guardrails, "clocks": clocks})


def knows_no_restart(filled: Profile) -> Profile:
    return filled.model_copy(update={"strategies": {}})


@dataclass
class Story:
    """One crashed gateway, its incident and what `declare` said of it."""

    lab: Lab
    row: IncidentRow
    alerts: list[Alert]
    declared: Ran | None = None

    @property
    def page(self) -> Incident:
        """The page that we hold: the alert's own, or where nobody told us of an alert, the one we opened."""
        keys = {f"incident-{self.row.id}", *(alert.incident_key for alert in self.alerts)}
        return next(page for page in self.lab.pagerduty.incidents if page.incident_key in keys)

    def run(self) -> Any:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(self.row.run_id))

    def artifact(self, key: str) -> str:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

        of_run = ArtifactFilterFlowRunId(any_=[UUID(self.row.run_id)])
        with get_client(sync_client=True) as client:
            [found] = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=of_run, key=ArtifactFilterKey(any_=[key]))
            )
        return str(found.data)

    def wait_for_state(self, name: str) -> None:
        wait_for(lambda: self.run().state.name == name, named=f"state {name}")


@dataclass
class Stories:
    """Incidents that ran side by side, which costs one incident's time."""

    answered: Story
    overdue: Story
    kept_open: Story
    escalated: Story


@pytest.fixture(scope="module")
def stories(installation, tmp_path_factory) -> Iterator[Stories]:
    """Three that wait for a person to close them, and one that a person has to repair."""
    from responder.store import open_store

    store, folder = open_store(), tmp_path_factory.mktemp("labs")
    with ExitStack() as stack:
        stack.callback(store.close)
        waiting = [
            stack.enter_context(broken_lab("process-crash", folder, profile=asks_before_closing)) for _ in range(3)
        ]
        helpless = stack.enter_context(broken_lab("process-crash", folder, profile=knows_no_restart))
        declaring = subprocess.Popen(
            [*program(), "declare", "gateway down", "--service", helpless.service, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(declaring.kill)
        run_ids = [start_incident(lab) for lab in waiting[1:]]
        declared = incident("declare", "gateway down", "--service", waiting[0].service, "--json")
        row = store.incident(declared.document["incident"])
        answered = Story(waiting[0], row, [], declared)
        overdue, kept_open = (
            Story(lab, (row := wait_opened(store, run_id)), store.alerts(row.id))
            for lab, run_id in zip(waiting[1:], run_ids, strict=True)
        )
        out, err = declaring.communicate(timeout=PATIENCE_S)
        said = Ran(declaring.returncode, out, err)
        escalated = Story(helpless, store.incident(json.loads(out)["incident"]), [], said)
        yield Stories(answered, overdue, kept_open, escalated)


def test_declare_returns_when_only_a_persons_answer_is_left(stories):
    story = stories.answered
    document = story.declared.document
    assert story.declared.status == 0
    assert (document["status"], document["waiting_for"]) == ("waiting", "a person closes the incident")
    assert document["reason"].startswith("mitigated, waiting for a person to close")
    assert document["run_url"].endswith(story.row.run_id)
    assert story.run().state.name == "Paused"
    assert {entry.kind for entry in story.page.log} >= {"acknowledge", "snooze"}
    assert story.page.status != "resolved", "a page is not resolved before a person closes"
    assert [action.verb for action in story.lab.actions()] == ["restart"]
    assert "phase" in story.declared.err, "the live timeline goes to standard error"


def test_closing_answers_the_form_and_the_run_completes(stories, monkeypatch):
    monkeypatch.setenv("INCIDENT_USER", "Robin")
    story = stories.answered
    ran = incident("close", story.row.id[:8], "--why", "orders flow again", "--json")
    assert (ran.status, ran.document["status"], ran.document["outcome"]) == (0, "closed", "resolved")
    said = [(made["who"], made["what"], made["why"]) for made in ran.document["decisions"]]
    assert ("Robin", "answered: close", "orders flow again") in said
    assert story.run().state.name == "Completed"
    wait_for(lambda: story.page.status == "resolved", named="the page resolved")


def test_what_is_closed_is_not_closed_twice(stories):
    incident("close", stories.answered.row.id)
    again = incident("close", stories.answered.row.id, "--json")
    assert (again.status, again.out) == (1, "")
    assert "is closed already (resolved)" in again.err


def test_a_closed_incident_is_shown_with_timeline_and_post_mortem(stories):
    row, [host] = stories.answered.row, stories.answered.lab.hosts
    shown = incident("show", row.id, "--json").document
    assert [(a["strategy"], a["target"]) for a in shown["attempts"]] == [("restart", host.name)]
    assert shown["channel"].startswith("incident-")
    for title in ("phases", "attempts", "decisions", "messages"):
        assert f"\n{title}\n" in incident("show", row.id).out
    entries = incident("timeline", row.id, "--json").document
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert {"run", "phase", "attempt", "decision", "message"} <= {entry["source"] for entry in entries}
    assert f"intent: restart on {host.name}" in [entry["what"] for entry in entries]
    written = incident("postmortem", row.id)
    assert incident("postmortem", row.id, "--json").document["markdown"].strip() == written.out.strip()
    assert f"restart on {host.name}" in written.out


def test_a_form_that_nobody_answers_in_time_keeps_the_incident_open(stories, store):
    from responder.domain.incident import WAITING_TO_CLOSE

    story = stories.overdue
    story.wait_for_state("Paused")
    # The hour is over.
    store.begin_step(story.row.id, store.incident(story.row.id).epoch, WAITING_TO_CLOSE, deadline_s=0)
    story.wait_for_state("Failed")
    row = wait_for(lambda: (row := store.incident(story.row.id)).outcome and row)
    assert (row.outcome, row.status) == ("mitigated_unconfirmed", "open")
    assert row.reason == "deadline keeps it open: nobody answered in time"
    wait_for(lambda: story.page.status == "triggered", named="the page that nobody holds any more")


def test_what_stayed_open_is_closed_by_hand_and_its_page_resolved(stories, store):
    story = stories.overdue
    wait_for(lambda: store.incident(story.row.id).outcome)
    ran = incident("close", story.row.id, "--why", "seen to be fine", "--json")
    assert (ran.status, ran.document["status"]) == (0, "closed")
    assert ran.document["outcome"] == "mitigated_unconfirmed", "closing does not rewrite what happened"
    wait_for(
        lambda: [p for p in story.lab.pagerduty.incidents if p.id == store.incident(story.row.id).pagerduty_id]
    )
    wait_for(lambda: all(page.status == "resolved" for page in story.lab.pagerduty.incidents))


def test_a_person_may_keep_a_confirmed_incident_open(stories, store):
    from prefect.client.orchestration import get_client

    story = stories.kept_open
    story.wait_for_state("Paused")
    answer = {"decision": "keep open", "by": "Ann", "why": "customers still complain"}
    with get_client(sync_client=True) as client:
        assert client.resume_flow_run(UUID(story.row.run_id), run_input=answer).status.value == "ACCEPT"
    story.wait_for_state("Failed")
    row = store.incident(story.row.id)
    assert (row.outcome, row.status) == ("mitigated_unconfirmed", "open")
    assert row.reason == "Ann keeps it open: customers still complain"


def test_declare_ends_with_1_when_a_person_has_to_repair_it(stories):
    story = stories.escalated
    document = story.declared.document
    assert story.declared.status == 1
    assert (document["outcome"], document["status"], document["waiting_for"]) == ("escalated", "open", None)
    assert document["reason"]
    assert story.run().state.name == "Failed"
    assert story.lab.actions() == []
    assert "open" in story.run().tags, "the list of runs shows what burns"
    assert story.page.status == "triggered"
    assert "Traceback" not in story.declared.err


def test_an_escalated_incident_is_closed_by_hand(stories):
    story = stories.escalated
    ran = incident("close", story.row.id, "--why", "repaired by hand", "--json")
    assert (ran.status, ran.document["status"], ran.document["outcome"]) == (0, "closed", "escalated")
    assert "open" not in story.run().tags
    assert story.artifact("what-now").startswith("**Closed, escalated**")
    wait_for(lambda: story.page.status == "resolved", named="the page resolved")
    posted = [message.text for message in story.lab.slack.messages]
    assert len([text for text in posted if "repaired by hand" in text]) == 1


def test_declaring_for_an_unknown_service_starts_no_run(installation, store):
    before = len(store.incidents())
    ran = incident("declare", "gateway down", "--service", "never-saved", "--json")
    assert (ran.status, ran.out) == (1, "")
    assert "'never-saved'" in ran.err
    assert ran.err.endswith("\nSee docs/how-to.md#add-a-service\n")
    time.sleep(1)
    assert len(store.incidents()) == before
