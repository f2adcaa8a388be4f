"""What people do with an incident: publish a draft, hand over the command, give roles, put decisions on record."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from commands import incident
from factories import alert, profile

from responder.domain.incident import Kind, Mode
from responder.lab.pagerduty import PagerDutyStandIn
from responder.lab.slack import SlackStandIn
from responder.lab.statuspage import StatuspageStandIn
from responder.store import Store
from responder.store.tables import IncidentRow
from tests.lab_runs import wait_for

CUSTOMERS = {"name": "Orders fail", "impact": "critical", "components": {}}


@dataclass
class Scene:
    """An open incident with its page and channel, whose messages the session's keeper sends."""

    store: Store
    row: IncidentRow
    pagerduty: PagerDutyStandIn
    slack: SlackStandIn
    statuspage: StatuspageStandIn

    def draft(self, text: str, status: str = "investigating") -> int:
        body = CUSTOMERS | {"text": text, "status": status}
        self.store.enqueue(self.row.id, channel="statuspage", kind="publish", body=body, draft=True)
        return self.store.messages(self.row.id)[-1].number

    def published(self) -> list[str]:
        return [update.body for shown in self.statuspage.incidents for update in shown.updates]

    def decisions(self) -> list[tuple[str, str]]:
        return [(made.who, made.what) for made in self.store.decisions(self.row.id)]

    def state(self, number: int) -> str:
        return next(m.state for m in self.store.messages(self.row.id) if m.number == number)


@pytest.fixture
def scene(installation, store, monkeypatch) -> Iterator[Scene]:
    from blocks.service import save_service

    monkeypatch.setenv("INCIDENT_USER", "ana")
    with PagerDutyStandIn(appear_s=0) as pagerduty, SlackStandIn() as slack, StatuspageStandIn() as statuspage:
        access = pagerduty.settings() | {"api_token": "SHOP_TOKEN", "routing_key": "SHOP_ROUTING_KEY"}
        service = profile(
            name=f"people-{uuid4().hex[:8]}",
            mode="live",
            drill=True,
            pagerduty=access | {"users": {"robin": pagerduty.on_call_id}},
            slack={
                "token": "SHOP_SLACK",
                "base_url": slack.settings()["base_url"],
                "stakeholder_channel": "#sales",
            },
            statuspage=statuspage.settings() | {"api_token": "SHOP_STATUSPAGE"},
            contacts=[{"role": "Engineering Manager", "primary": "Direct contact"}],
        )
        secrets = {
            "SHOP_SSH_KEY": "none",
            "SHOP_TOKEN": pagerduty.api_token,
            "SHOP_ROUTING_KEY": pagerduty.routing_key,
            "SHOP_SLACK": slack.token,
            "SHOP_STATUSPAGE": statuspage.api_token,
        }
        save_service(service, secrets)
        key = uuid4().hex
        row = store.open_incident(
            run_id=str(uuid4()),
            profile=service,
            summary="orders fail",
            kind=Kind.AVAILABILITY,
            mode=Mode.LIVE,
            alerts=[alert(incident_key=key)],
            severity=None,
            declared=False,
        )
        store.note_world(row.id, severity="P1", severity_reason="nothing is traded")
        pagerduty.alert(key, "ShopDown")
        store.enqueue(row.id, channel="pagerduty", kind="find", body={"keys": [key], "wait_s": 20})
        name = f"incident-20260304-{row.id}"
        store.enqueue(row.id, channel="slack", kind="create_channel", body={"name": name, "topic": "P1"})
        wait_for(lambda: store.incident(row.id).pagerduty_id and store.incident(row.id).channel_id)
        yield Scene(store, store.incident(row.id), pagerduty, slack, statuspage)
        if store.incident(row.id).status == "open":
            store.close_incident(row.id, who="test", why="done")


# --- drafts --------------------------------------------------------------------------------------------


def test_a_draft_is_listed_with_its_number_and_text_and_published_once_by_name(scene):
    number = scene.draft("We are aware of an issue.")
    shown = incident("show", scene.row.id)
    assert f"draft {number}" in shown.out
    assert "We are aware of an issue." in shown.out
    assert scene.published() == []

    ran = incident("publish", scene.row.id, "--json")
    assert (ran.status, ran.document["message"], ran.document["state"]) == (0, number, "sent")
    assert scene.published() == ["We are aware of an issue."]
    assert scene.decisions() == [("ana", f"publishes message {number} to statuspage")]

    again = incident("publish", scene.row.id, "--json")
    assert (again.status, again.out) == (1, "")
    assert "has no draft to publish" in again.err
    assert scene.published() == ["We are aware of an issue."]
    timeline = incident("timeline", scene.row.id).out
    assert f"ana: publishes message {number} to statuspage" in timeline


def test_the_newest_draft_is_published_and_what_is_older_is_left_out(scene):
    old, newer, newest = scene.draft("We look."), scene.draft("We know."), scene.draft("It is back.", "monitoring")
    assert incident("publish", scene.row.id, "--message", str(newer), "--json").status == 0
    assert (scene.state(old), scene.state(newer), scene.state(newest)) == ("skipped", "sent", "draft")
    refused = incident("publish", scene.row.id, "--message", str(old))
    assert refused.status == 1
    assert f"has no draft {old} to publish; its drafts are {newest}" in refused.err
    assert incident("publish", scene.row.id).status == 0
    assert scene.published() == ["We know.", "It is back."]


def test_a_draft_is_published_from_prefects_form_too(scene):
    from prefect.client.orchestration import get_client

    number = scene.draft("We are aware of an issue.")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("publish/publish")
        client.create_flow_run_from_deployment(
            deployment.id, parameters={"incident_id": scene.row.id, "by": "robin"}
        )
    wait_for(lambda: scene.state(number) == "sent", named="the draft published")
    assert scene.decisions() == [("robin", f"publishes message {number} to statuspage")]


# --- the command ---------------------------------------------------------------------------------------


def test_a_handoff_briefs_announces_assigns_and_is_on_record(scene):
    ran = incident("handoff", scene.row.id, "robin", "--question", "is the exchange told?", "--json")
    assert (ran.status, ran.document["commander"], ran.document["page_assigned"]) == (0, "robin", True)
    briefing = ran.document["briefing"]
    for line in (
        "HANDOFF: orders fail",
        "Incident Commander: robin takes over",
        "Current status: open: nothing is traded",
        "- is the exchange told?",
        "- #sales",
        "- Engineering Manager: Direct contact",
    ):
        assert line in briefing.splitlines()
    assert [message.text.splitlines()[0] for message in scene.slack.messages] == ["HANDOFF: orders fail"]
    [page] = [page for page in scene.pagerduty.incidents if page.id == scene.row.pagerduty_id]
    assert page.assignee == scene.pagerduty.on_call_id
    assert briefing.strip() in [said.rpartition(" [")[0] for said in page.notes]
    assert scene.decisions()[0] == ("ana", "Incident Commander: robin takes over")
    assert incident("show", scene.row.id, "--json").document["commander"] == "robin"


def test_a_second_handoff_names_who_had_it_and_whom_pagerduty_does_not_know_is_left_to_people(scene):
    incident("handoff", scene.row.id, "robin")
    ran = incident("handoff", scene.row.id, "kim")
    assert ran.status == 0
    assert "kim takes over from robin" in ran.out
    assert "robin remains available for questions." in ran.out
    assert "kim is not among `pagerduty.users` of the profile: assign the page by hand" in ran.err
    again = incident("handoff", scene.row.id, "kim")
    assert (again.status, "kim has the command" in again.err) == (1, True)


def test_of_a_closed_incident_nobody_takes_the_command(scene):
    scene.store.close_incident(scene.row.id, who="test", why="done")
    ran = incident("handoff", scene.row.id, "robin")
    assert (ran.status, "nobody commands it any more" in ran.err) == (1, True)


def test_a_role_is_announced_recorded_and_the_person_asked_to_join(scene):
    ran = incident("assign", scene.row.id, "robin", "scribe", "--json")
    assert ran.status == 0
    assert ("ana", "robin is scribe") in scene.decisions()
    assert [message.text for message in scene.slack.messages] == ["robin is scribe, says ana."]
    assert scene.pagerduty.on_call_id in [page.who for page in scene.pagerduty.pages]


def test_a_persons_own_update_reaches_the_channel_and_for_customers_stays_a_draft(scene):
    ran = incident("update", scene.row.id, "gw-2 is drained", "--eta", "16:30 UTC", "--json")
    assert ran.status == 0
    [told] = [message.text.splitlines() for message in scene.slack.messages]
    assert {"INCIDENT UPDATE: orders fail", "Update: gw-2 is drained", "ETA: 16:30 UTC"} <= set(told)
    assert ("ana", "tells stakeholders: gw-2 is drained") in scene.decisions()
    [draft] = [message for message in ran.document["messages"] if message["state"] == "draft"]
    assert "gw-2 is drained" in draft["text"]
    assert scene.published() == []


def test_what_a_person_decided_is_on_record_and_reaches_the_page(scene):
    ran = incident("note", scene.row.id, "drained gw-2", "--why", "its disk is slow", "--json")
    assert ran.document == {"who": "ana", "what": "drained gw-2", "why": "its disk is slow"}

    def noted() -> bool:
        [page] = [page for page in scene.pagerduty.incidents if page.id == scene.row.pagerduty_id]
        return any("ana: drained gw-2, because its disk is slow" in said for said in page.notes)

    wait_for(noted, 60, named="the note on the page")
    time.sleep(3)
    [page] = [page for page in scene.pagerduty.incidents if page.id == scene.row.pagerduty_id]
    assert "\n".join(page.notes).count("drained gw-2") == 1
