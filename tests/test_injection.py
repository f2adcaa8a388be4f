"""Hostile text on every way in: nothing of it is executed, becomes markup, bloats a text or carries a secret out.

Alerts, summaries and host output go through the steps of an incident; what people and hosts get is looked at.
"""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import NOON
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from pydantic import SecretStr
from test_faults import Story, play, scenario

from blocks.service import save_service
from blocks.ssh import SSHCredentials
from responder.cli.drill import lab_profile
from responder.cli.runs import wait_until_final
from responder.domain import observations
from responder.domain.base import now
from responder.domain.commands import CommandResult
from responder.domain.incident import Alert, Ending, IncidentRef, Kind, Mode, Outcome
from responder.domain.notes import Notes
from responder.domain.parsing.http import HttpReply, read_json
from responder.domain.parsing.parsed import Parsed
from responder.domain.profile import Profile, Unit
from responder.domain.timeline import merge
from responder.installation import Installation
from responder.lab.lab import Lab
from responder.store import Store, incident_folder
from responder.store.entries import store_entries
from tasks.assess import assess
from tasks.case import Case
from tasks.hypothesise import hypothesise
from tasks.look import look_at_host
from tasks.opening import open_incident
from tasks.postmortem import write_postmortem
from tasks.publish import _artifacts
from tasks.tell import announce_ending, page_a_person, post_progress, start_incident

SECRET = "xoxb-417723456789-planted0secret"
SECRETS = (SECRET, "AKIAPLANTEDSECRET000", "hunter2planted")
HOSTILE = (
    "$(touch PWNED) `touch PWNED`; touch PWNED #",
    "' ; touch PWNED ; '",
    '" && touch PWNED && "',
    "\n/bin/sh -c 'touch PWNED'\n",
    "<script>alert('PWNED')</script><img src=x onerror=alert(1)>",
    "[click](http://evil.example/PWNED) ![x](http://evil.example/x.png) <http://evil.example>",
    "http://evil.example/PWNED and www.evil.example",
    "| a | b |\n|---|---|\n# PWNED\n- [x] done\n```\nend of fence\n~~~",
    "<!channel> <@U0PWNED> <#C0PWNED> <http://evil.example|harmless> *bold* _it_ ~no~",
    "{{ 7919 * 7919 }} {% for x in range(9) %}PWNED{% endfor %} {{ cycler.__init__.__globals__ }}",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
    "null \x00 bell \x07 back\x08space \u202egnp.exe \u200b \ufeff",
    "half of a character \ud800 and \udfff",
    "A" * 100_000,
    "line\n" * 20_000,
    f"token={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"user=x password={SECRETS[2]} key {SECRETS[1]} ",
)
MARKDOWN = MarkdownIt("commonmark", {"linkify": False}).enable("table")
ARTIFACT_BYTES = 60_000
MESSAGE_CHARACTERS = 6_000


def leaked(text: str) -> list[str]:
    """The planted secrets that stand in a text."""
    return [secret for secret in SECRETS if secret in text]


hostile = st.one_of(
    st.sampled_from(HOSTILE),
    st.builds("".join, st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=3)),
    # Hypothesis also draws strings of this module, with letters put to them: a secret no pattern can tell.
    st.text(st.characters(exclude_categories=[]), max_size=200).filter(lambda text: not leaked(text)),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A healthy lab."""
    with Lab(scenario(), run_dir=tmp_path_factory.mktemp("injection")) as made:
        yield made


@pytest.fixture(scope="module")
def profile(installation: Installation, lab: Lab) -> Profile:
    """The profile of the lab's service, which is saved."""
    profile, secrets = lab_profile(lab.facts())
    save_service(profile, secrets)
    return profile


def as_alert(text: str) -> Alert:
    """An alert that says it everywhere, as far as the form takes it."""
    labels = {"service": text[:500], "summary": text[:500], text[:100]: text[:500]}
    return Alert(name=text[:200] or "x", labels=labels, summary=text[:2_000], starts_at=NOON)


def answers(text: str, host: str) -> Notes:
    """A look at a host whose every command and endpoint prints it."""
    notes = Notes(host, now())
    journal = "".join(f"1772360551.{n:06} gw veloz[1]: error: {line}\n" for n, line in enumerate(text.split("\n")))
    profile = {"name": "veloz", "process_pattern": "veloz", "deployment_processes": ("nothing",)}
    unit = Unit.model_validate(profile)

    def result(stdout: str) -> CommandResult:
        return CommandResult(
            command="look", exit_status=0, stdout=stdout, stderr="", truncated=False, timed_out=False, took_s=0.1
        )

    observations.note_unit(notes, result(f"LoadState=loaded\nActiveState={text}\nSubState={text}\nResult={text}"))
    observations.note_status(notes, result(text))
    observations.note_processes(notes, result(f"4121 1 Ss 1.5 20480 600 veloz {text}"), unit, 4121)
    observations.note_disk(notes, result(text))
    observations.note_journal(notes, result(journal))
    observations.note_release(notes, result(f"1772360551 {text}"))
    reply = HttpReply(status=200, content_type="application/json", body=text)
    observations.note_endpoint(notes, "health", "http://x/health", reply, read_json(reply, {"ok": True}))
    observations.note_scrape(notes, "http://x/metrics", reply, Parsed(problem=text))
    refused = CommandResult(
        command=text, exit_status=1, stdout="", stderr=text, truncated=True, timed_out=False, took_s=1
    )
    observations.note_memory(notes, refused)
    return notes


def walk_through(store: Store, lab: Lab, profile: Profile, text: str) -> Case:
    """The steps of a rehearsed incident that begins with this text and meets nothing else."""
    row = open_incident.fn(
        str(uuid.uuid4()),
        (text + "...")[:300],
        lab.service,
        Kind.AVAILABILITY,
        [as_alert(text)],
        None,
        Mode.DRY_RUN,
    )
    ref = IncidentRef(incident_id=row.id, epoch=row.epoch, mode=Mode.DRY_RUN)
    case = Case(ref=ref, store=store)
    assert case.profile == profile
    case.keep("detect_and_triage", answers(text, profile.hosts[0].name).evidence)
    for name, step in (("detect_and_triage", assess), ("diagnose", hypothesise)):
        store.begin_phase(row.id, ref.epoch, name)
        store.end_phase(row.id, ref.epoch, name, step.fn(case).model_dump(mode="json"))
    start_incident(case, None)
    post_progress(case, text, text, key="x", status="Investigating")
    store.decide(row.id, who=text, what=text, why=text)
    page_a_person(case, text, ())
    ending = Ending(outcome=Outcome.DRY_RUN, reason=text)
    announce_ending(case, ending, text, text)
    write_postmortem.fn(case, ending)
    return case


def texts_for_slack(case: Case) -> list[str]:
    bodies = [m.body for m in case.store.messages(case.id) if m.channel.startswith("slack")]
    return [str(body.get("text") or body.get("topic")) for body in bodies]


def assert_harmless_markdown(text: str) -> None:
    """No HTML, no picture, and no link but our own, wherever a reader's Markdown finds one."""
    todo = MARKDOWN.parse(text)
    while todo:
        token = todo.pop()
        todo += token.children or []
        assert token.type not in ("html_inline", "html_block", "image"), token
        if token.type == "link_open":
            assert "evil" not in str(token.attrs["href"])


def assert_harmless_slack(text: str) -> None:
    for found in re.findall(r"<[^>]*>", text):
        assert found.startswith("<http://127.0.0.1:"), found


def assert_clean(text: str) -> None:
    """Nothing that a terminal or database trips over, no template that was run, no secret."""
    assert text.isprintable() or not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\u202e]", text)
    assert str(7919 * 7919) not in text
    assert not leaked(text)


@given(text=hostile)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_text_stays_text_in_everything_that_people_are_shown(
    store: Store, lab: Lab, profile: Profile, text: str
) -> None:
    case = walk_through(store, lab, profile, text)
    artifacts = _artifacts(case, merge(store_entries(store, case.id), ()))
    assert set(artifacts) >= {"assessment", "evidence", "hypotheses", "plan", "timeline", "post-mortem"}
    for markdown, _ in artifacts.values():
        assert_harmless_markdown(markdown)
        assert_clean(markdown)
        assert len(markdown.encode()) <= ARTIFACT_BYTES
    for posted in texts_for_slack(case):
        assert_harmless_slack(posted)
    for message in store.messages(case.id):
        for value in message.body.values():
            assert_clean(str(value))
            assert len(str(value)) <= MESSAGE_CHARACTERS
    assert_clean(case.row.summary)
    for path in case.folder.iterdir():
        assert_clean(path.read_text())


def test_every_hostile_text_passes_the_steps_and_leaves_no_secret_behind(
    installation: Installation, store: Store, lab: Lab, profile: Profile
) -> None:
    short = [text for text in HOSTILE if len(text) < 1_000]
    texts = ("\n".join(short), "".join(reversed(short)), *(text for text in HOSTILE if text not in short))
    for text in texts:
        case = walk_through(store, lab, profile, text)
        assert case.row.summary
    found = list(installation.home.glob("incidents.db*"))
    found += [path for path in (installation.home / "incidents").rglob("*") if path.is_file()]
    assert len(found) > len(texts)
    for path in found:
        content = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in content], path


def test_hiding_secrets_may_lengthen_an_alert_and_does_not_lose_it(store: Store, profile: Profile) -> None:
    alert = Alert(name="Down" + " pwd=a" * 30, summary="pwd=a " * 333, labels={"service": profile.name})
    row = open_incident.fn(str(uuid.uuid4()), "down", None, Kind.AVAILABILITY, [alert], None, Mode.DRY_RUN)
    [kept] = store.alerts(row.id)
    assert len(kept.summary) == 2_000
    assert "pwd=a" not in kept.summary


# --- hosts -----------------------------------------------------------------------------------------


def pwned(*folders: Path) -> list[Path]:
    """Files that only a shell could have made."""
    return [path for folder in folders for path in folder.rglob("PWNED*")]


@given(text=st.sampled_from([text for text in HOSTILE if text.isprintable() and len(text) < 1_000]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_values_of_a_profile_are_arguments_on_the_host(lab: Lab, text: str) -> None:
    filled, secrets = lab_profile(lab.facts())
    host = filled.hosts[0]
    ssh = SSHCredentials(
        user=filled.ssh.user,
        private_key=SecretStr(secrets["LAB_SSH_KEY"]),
        known_hosts=filled.ssh.known_hosts,
    )
    unit = filled.unit.model_copy(update={"release_link": text})
    health = filled.endpoints.health
    odd = health.model_copy(update={"url": health.url + "?" + text.replace(" ", "")})
    ends = filled.endpoints.model_copy(update={"health": odd, "metrics": None})
    changed = filled.model_copy(update={"unit": unit, "endpoints": ends})
    found = {e.key: e for e in look_at_host.fn(changed, ssh, host, "diagnosis", now())}
    assert found["changes.release"].unknown
    attempt = f"injection-{uuid.uuid4().hex}"
    fence = ssh.start_change(host.name, host.address, host.port, attempt, ["echo", text])
    assert fence.outcome == "won"
    while (change := ssh.poll_change(host.name, host.address, host.port, attempt)).state == "running":
        continue
    assert (change.state, change.exit_status, change.output) == ("ended", 0, f"{text}\n")
    assert pwned(lab.run_dir, Path.cwd()) == []


EXPECTED_ON_HOSTS = re.compile(
    r"systemctl (show|status) |journalctl |curl -q |\bps -eo |\bfree -b|\bdf -P |\bwho -u|\bdate \+%z|"
    r"\bstat (-L )?-c |\btest -x |\bkubectl get |\bcmp -s |failover\.sh postgres status|"
    r"\.incident"
)


@pytest.fixture(scope="module")
def hostile_story(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A whole incident: the alert, its labels, the journal, the metrics and the orders are hostile."""
    payload = " ".join(text for text in HOSTILE if len(text) < 1_000 and "\ud800" not in text)
    lines = [line for text in HOSTILE if "\ud800" not in text for line in text[:5_000].split("\n")[:50]]
    said = f"    for line in {lines!r}: log(line)\n"

    def poison(lab: Lab) -> None:
        [host] = lab.hosts
        for program in (host.directory / "opt").glob("*/releases/*/*_gateway.py"):
            text = program.read_text()
            for old, new in (
                ("    gateway.serve_forever()", f"{said}    gateway.serve_forever()"),
                ('lines = [f"# TYPE', f'lines = ["# token={SECRET}", f"# TYPE'),
                ('"reason": None', f'"reason": "token={SECRET}"'),
            ):
                assert old in text
                text = text.replace(old, new)
            program.write_text(text)
        host.ask("heal")
        host.wait_for_gateway()
        host.ask("engine_dead")

    def collect(lab: Lab, store: Store, run_id: str, notes: dict[str, Any]) -> None:
        wait_until_final(run_id)  # the run's page is brought up to date once more at its end
        with get_client(sync_client=True) as client:
            of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[uuid.UUID(run_id)]))
            notes["artifacts"] = {a.key: str(a.data) for a in client.read_artifacts(artifact_filter=of_run)}
            notes["run"] = client.read_flow_run(uuid.UUID(run_id))
        notes["ours"] = [lab.pagerduty.api_token, lab.pagerduty.routing_key, lab.slack.token, "PRIVATE KEY-----"]
        notes["run_dir"] = lab.run_dir

    alert = {"at_s": 0.3, "name": "VelozEngineDown", "summary": payload[:2_000], "labels": {"note": payload}}
    return play(
        scenario(trigger={"alerts": [alert]}),
        tmp_path_factory.mktemp("hostile"),
        before=poison,
        after=collect,
        summary=" ".join(HOSTILE[:1] + HOSTILE[4:5] + HOSTILE[8:10])[:300],
    )


def test_a_hostile_incident_is_repaired_like_any_other(hostile_story: Story) -> None:
    assert hostile_story.row.outcome == "resolved"
    assert list(hostile_story.actions.values()) == [["restart"]]


def test_no_hostile_text_reaches_a_hosts_shell(hostile_story: Story) -> None:
    [commands] = hostile_story.commands.values()
    assert commands
    assert [command for command in commands if "PWNED" in command or "evil" in command] == []
    assert [command for command in commands if not EXPECTED_ON_HOSTS.search(command)] == []
    assert pwned(hostile_story.notes["run_dir"], Path.cwd()) == []


def test_what_people_see_of_a_hostile_incident_is_only_text(hostile_story: Story) -> None:
    artifacts = hostile_story.notes["artifacts"]
    assert set(artifacts) >= {"assessment", "evidence", "hypotheses", "plan", "timeline", "post-mortem"}
    for markdown in artifacts.values():
        assert_harmless_markdown(markdown)
        assert_clean(markdown)
        assert len(markdown.encode()) <= ARTIFACT_BYTES
    assert any("touch PWNED" in markdown for markdown in artifacts.values()), "it is shown, as text"
    assert hostile_story.slack
    for message in hostile_story.slack:
        assert_harmless_slack(message.text)
        assert_clean(message.text)
    for incident in hostile_story.incidents:
        for note in incident.notes:
            assert_clean(note)


def test_no_secret_of_hosts_or_ours_is_kept_or_told(installation: Installation, hostile_story: Story) -> None:
    folder = incident_folder(hostile_story.row.id)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert any(name.startswith("metrics-") for name in kept)
    assert any(name.startswith("orders-before-") for name in kept)
    kept |= {path.name: path.read_bytes() for path in installation.home.glob("incidents.db*")}
    kept |= {path.name: path.read_bytes() for path in (installation.home / "logs").glob("*.log")}
    kept |= {key: text.encode() for key, text in hostile_story.notes["artifacts"].items()}
    secrets = [secret.encode() for secret in (*SECRETS, *hostile_story.notes["ours"])]
    assert [name for name, content in kept.items() if any(secret in content for secret in secrets)] == []
