"""The keeper's duties, one by one: a store of their own, real stand-ins, the session's Prefect server."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from factories import alert, profile
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select
from sqlalchemy.orm import Session

from responder.domain.base import now
from responder.domain.errors import TransientError
from responder.domain.incident import Ending, Kind, Mode, Outcome, Severity
from responder.domain.profile import Contact, Profile
from responder.keeper.__main__ import repeat_soon
from responder.keeper.deadman import Duty
from responder.lab.github import GitHubStandIn, Issue
from responder.lab.pagerduty import Incident, PagerDutyStandIn
from responder.lab.slack import SlackStandIn
from responder.lab.statuspage import PublicIncident, StatuspageStandIn
from responder.store import Store
from responder.store.tables import IncidentRow, LeaseRow, MessageRow

ONE_SNOOZE_S = 6
"""A drill's page lease; the stand-in's clock runs four times as fast."""
CLOCK_SCALE = 4


@dataclass
class Desk:
    """What a duty works with. `tick` sends what is due."""

    store: Store
    pagerduty: PagerDutyStandIn
    slack: SlackStandIn
    statuspage: StatuspageStandIn
    github: GitHubStandIn
    profile: Profile
    access: Any

    def open(
        self, key: str = "", *, run_id: str | None = None, mode: Mode = Mode.LIVE, **changes: Any
    ) -> IncidentRow:
        """A fresh incident whose alert has `key`."""
        row = self.store.open_incident(
            run_id=run_id or str(uuid4()),
            profile=self.profile.model_copy(update={"name": f"shop-{uuid4().hex[:8]}"}),
            summary="gateway down",
            kind=Kind.AVAILABILITY,
            mode=Mode.LIVE,
            alerts=[alert(incident_key=key)] if key else [],
            severity=None,
            declared=not key,
        )
        # A service and kind have one open incident; these tests share one set of credentials instead.
        self.store.note_world(row.id, service=self.profile.name, severity="P1")
        return self.store.incident(row.id)

    def hold(self, row: IncidentRow, lease_s: float = 60, step_s: float = 60) -> None:
        """A run that lives and is within its step, or not."""
        epoch = self.store.begin_run(row.id, holder="test", lease_s=lease_s)
        self.store.begin_step(row.id, epoch, "diagnosis", deadline_s=step_s)

    def put(self, row: IncidentRow, channel: str, kind: str, key: str | None = None, **body: Any) -> None:
        self.store.enqueue(row.id, channel=channel, kind=kind, body=body, key=key)

    def tick(self) -> None:
        from responder.keeper.outbox import send

        for message in self.store.due_messages(now()):
            send(self.store, self.access, message)

    def tick_until(self, true: Callable[[], object], seconds: float = 15) -> None:
        ends = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < ends, [(m.kind, m.state, m.error) for m in self.messages()]
            self.tick()
            time.sleep(0.05)

    def hurry(self, row: IncidentRow) -> None:
        """Whatever waits for its next try is due now."""
        for message in self.store.messages(row.id):
            if message.state == "waiting":
                self.store.settle_message(message, state="waiting", error=message.error, retry_at=now())

    def messages(self) -> list[MessageRow]:
        return [m for row in self.store.incidents() for m in self.store.messages(row.id)]

    def states(self, row: IncidentRow) -> list[tuple[str, str]]:
        return [(message.kind, message.state) for message in self.store.messages(row.id)]

    def row(self, row: IncidentRow) -> IncidentRow:
        return self.store.incident(row.id)

    def lease(self, row: IncidentRow) -> LeaseRow | None:
        return next((lease for lease, incident in self.store.leases() if incident.id == row.id), None)

    def page_of(self, key: str) -> Incident:
        [found] = [incident for incident in self.pagerduty.incidents if incident.incident_key == key]
        return found

    def published(self, row: IncidentRow) -> list[PublicIncident]:
        return [
            shown for shown in self.statuspage.incidents if shown.metadata["incident_responder"]["id"] == row.id
        ]

    def posted(self, channel: str) -> list[str]:
        return [message.text for message in self.slack.messages if message.channel_name == channel]


Vendors = tuple[PagerDutyStandIn, SlackStandIn, StatuspageStandIn, GitHubStandIn, Profile]


@pytest.fixture(scope="module")
def vendors(installation) -> Iterator[Vendors]:
    """Stand-ins for those who are told, and a saved service that speaks to them."""
    from blocks.service import save_service

    with (
        PagerDutyStandIn(clock_scale=CLOCK_SCALE, appear_s=0.2) as pagerduty,
        SlackStandIn(channels=("oncall",)) as slack,
        StatuspageStandIn() as statuspage,
        GitHubStandIn() as github,
    ):
        access = pagerduty.settings() | {"api_token": "SHOP_TOKEN", "routing_key": "SHOP_ROUTING_KEY"}
        service = profile(
            name=f"keeper-{uuid4().hex[:8]}",
            mode="live",
            drill=True,
            clocks={"page_lease_s": 60},
            pagerduty=access,
            slack={"token": "SHOP_SLACK", "base_url": slack.settings()["base_url"], "backup_channel": "#oncall"},
            statuspage=statuspage.settings() | {"api_token": "SHOP_STATUSPAGE"},
            tickets=github.settings() | {"token": "SHOP_GITHUB", "owner": "lab-oncall"},
        )
        secrets = {
            "SHOP_SSH_KEY": "none",
            "SHOP_TOKEN": pagerduty.api_token,
            "SHOP_ROUTING_KEY": pagerduty.routing_key,
            "SHOP_SLACK": slack.token,
            "SHOP_STATUSPAGE": statuspage.api_token,
            "SHOP_GITHUB": github.token,
        }
        save_service(service, secrets)
        yield pagerduty, slack, statuspage, github, service


@pytest.fixture
def desk(vendors, tmp_path: Path) -> Iterator[Desk]:
    from responder.keeper.access import Access

    pagerduty, slack, statuspage, github, service = vendors
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    yield Desk(store, pagerduty, slack, statuspage, github, service, Access())
    store.close()
    for vendor in (pagerduty, slack, statuspage, github):
        vendor.heal()


def fired(desk: Desk) -> tuple[str, str]:
    """An alert that has its page already: the key and the page's id."""
    key = uuid4().hex
    desk.pagerduty.alert(key, "ShopDown")
    ends = time.monotonic() + 5
    while not any(incident.incident_key == key for incident in desk.pagerduty.incidents):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return key, desk.page_of(key).id


# --- finding, opening and holding the page -----------------------------------------------------------


def test_the_alerts_page_is_found_acknowledged_and_snoozed(desk):
    key, page_id = fired(desk)
    row = desk.open(key)
    desk.hold(row)
    desk.put(row, "pagerduty", "find", keys=[key], wait_s=1.5)
    desk.tick()
    row, page = desk.row(row), desk.page_of(key)
    assert desk.states(row) == [("find", "sent")]
    assert (row.pagerduty_id, row.pagerduty_status, page.status) == (page_id, "acknowledged", "acknowledged")
    assert [entry.kind for entry in page.log] == ["trigger", "acknowledge", "snooze"]
    assert row.acknowledged_at is not None
    assert timedelta(0) < desk.lease(row).page_until - now() <= timedelta(seconds=ONE_SNOOZE_S)


def test_a_page_that_appears_late_is_looked_for_until_it_is_there(desk):
    key = uuid4().hex
    row = desk.open(key)
    desk.put(row, "pagerduty", "find", keys=[key], wait_s=10)
    desk.tick()
    assert desk.states(row) == [("find", "waiting")]
    desk.pagerduty.alert(key, "ShopDown")
    desk.tick_until(lambda: desk.row(row).pagerduty_id)
    assert desk.page_of(key).status == "acknowledged"


def test_without_a_page_of_the_alert_our_own_is_opened_once_and_acknowledged(desk):
    row = desk.open(uuid4().hex)
    desk.put(row, "pagerduty", "find", keys=["of-nobody"], wait_s=0.5)
    desk.put(row, "pagerduty", "open", key="open", summary="P1 shop: gateway down", link="http://run")
    desk.tick_until(lambda: desk.states(row) == [("find", "sent"), ("open", "sent")])
    page = desk.page_of(f"incident-{row.id}")
    assert (page.title, page.status, desk.row(row).pagerduty_id) == (
        "P1 shop: gateway down",
        "acknowledged",
        page.id,
    )
    assert [p.why for p in desk.pagerduty.pages if p.incident_id == page.id] == ["triggered"]


def test_a_page_that_is_resolved_already_is_noted_and_left_alone(desk):
    key, page_id = fired(desk)
    desk.pagerduty.person_resolves(page_id)
    row = desk.open(key)
    desk.put(row, "pagerduty", "find", keys=[key], wait_s=5)
    desk.tick()
    assert (desk.row(row).pagerduty_status, desk.row(row).acknowledged_at) == ("resolved", None)
    assert desk.page_of(key).status == "resolved"


def test_when_our_page_does_not_appear_the_backup_is_told_and_it_is_looked_for_on(desk):
    """The Events API accepts an event that opens nothing, as for a service in maintenance."""
    row = desk.open()
    desk.pagerduty.appear_s = 60
    try:
        desk.put(row, "pagerduty", "open", key="open", summary="P1 shop: gateway down", link="http://run")
        desk.tick_until(lambda: any("gateway down" in text for text in desk.posted("oncall")))
        assert desk.states(row)[0] == ("open", "waiting")
    finally:
        desk.pagerduty.appear_s = 0.2


def lose_the_answer(desk: Desk, row: IncidentRow, kind: str) -> None:
    """The keeper dies after it has sent the last message of that kind, and before it could say so."""
    with Session(desk.store.engine) as session, session.begin():
        sent = session.scalars(
            select(MessageRow).where(MessageRow.incident_id == row.id, MessageRow.kind == kind)
        ).all()[-1]
        sent.state, sent.sent_at, sent.next_at = "waiting", None, now()


# --- page, escalate, note, resolve --------------------------------------------------------------------


def acknowledged(desk: Desk, **lease: float) -> IncidentRow:
    """An incident that holds its alert's page."""
    key, _ = fired(desk)
    row = desk.open(key)
    desk.hold(row, **lease)
    desk.put(row, "pagerduty", "find", keys=[key], wait_s=5)
    desk.tick()
    return desk.row(row)


def untagged(texts: list[str]) -> list[str]:
    """The texts without the tags by which they are found again."""
    assert all(re.search(r" \[[0-9a-f]{8}( [0-9a-f]{8})*\]$", text) for text in texts), texts
    return [text.rpartition(" [")[0] for text in texts]


def notes(desk: Desk, row: IncidentRow) -> list[str]:
    return untagged(desk.pagerduty.notes[row.pagerduty_id])


def pages(desk: Desk, row: IncidentRow) -> list[str]:
    """Why somebody was notified, without the alert's own first page."""
    return [page.why for page in desk.pagerduty.pages if page.incident_id == row.pagerduty_id][1:]


def test_a_page_asks_responders_of_the_policy_to_join(desk):
    row = acknowledged(desk)
    desk.put(row, "pagerduty", "page", text="P1 shop: gateway down")
    desk.tick()
    assert untagged(pages(desk, row)) == ["P1 shop: gateway down"]


def with_backups(desk: Desk, row: IncidentRow) -> IncidentRow:
    """The same incident with names for policies, and a contact whose backup is one of them."""
    desk.pagerduty.policies |= {"PDB", "PINFRA"}
    policies = {"oncall": desk.pagerduty.escalation_policy_id, "db": "PDB", "infra": "PINFRA", "gone": "PGONE"}
    kept = Profile.model_validate(row.profile)
    changes = {
        "pagerduty": kept.pagerduty.model_copy(update={"policies": policies}),
        "contacts": (
            Contact(role="On-call Engineer", primary="pagerduty:oncall", backup="pagerduty:infra"),
            Contact(role="Database Admin", primary="pagerduty:db", backup="slack:#oncall"),
            Contact(role="Nobody", primary="pagerduty:gone", backup="pagerduty:db"),
        ),
    }
    desk.store.note_world(row.id, profile=kept.model_copy(update=changes).model_dump(mode="json"))
    return desk.row(row)


def look(desk: Desk, row: IncidentRow) -> None:
    """A keeper that knows nothing of earlier ones looks who has answered, and sends what is due."""
    from responder.keeper.backups import Backups

    Backups(desk.store, desk.access).ask_due()
    desk.tick()


def decisions(desk: Desk, row: IncidentRow) -> list[str]:
    return [f"{made.what}, because {made.why}" for made in desk.store.decisions(row.id)]


def test_a_primary_who_declines_has_its_backup_asked_once_and_the_decision_kept(desk):
    row = with_backups(desk, acknowledged(desk))
    desk.put(row, "pagerduty", "page", key="page-oncall", text="P1 shop: gateway down", target="oncall")
    desk.tick()
    look(desk, row)
    assert decisions(desk, row) == [], "nobody has refused, and the clock runs"
    desk.pagerduty.person_answers(row.pagerduty_id, desk.pagerduty.escalation_policy_id, "declined")
    for _ in range(3):
        look(desk, row)
    asked = [page.who for page in desk.pagerduty.pages if page.incident_id == row.pagerduty_id][1:]
    assert asked == [desk.pagerduty.escalation_policy_id, "PINFRA"]
    assert decisions(desk, row) == ["asks the backup of oncall: pagerduty:infra, because oncall declined to join"]


def test_however_many_incidents_are_open_the_oldest_has_its_backup_asked(desk):
    row = with_backups(desk, acknowledged(desk))
    desk.put(row, "pagerduty", "page", key="page-oncall", text="P1 shop: gateway down", target="oncall")
    desk.tick()
    for _ in range(60):
        desk.open()
    desk.pagerduty.person_answers(row.pagerduty_id, desk.pagerduty.escalation_policy_id, "declined")
    look(desk, row)
    assert decisions(desk, row) == ["asks the backup of oncall: pagerduty:infra, because oncall declined to join"]


def test_silence_asks_the_backup_when_the_clock_has_run_out(desk):
    row = with_backups(desk, acknowledged(desk))
    desk.put(row, "pagerduty", "page", key="page-db", text="P1 shop: disk", target="db")
    desk.tick()
    with Session(desk.store.engine) as session, session.begin():
        for message in session.scalars(select(MessageRow).where(MessageRow.incident_id == row.id)):
            message.sent_at = now() - timedelta(seconds=31)  # a drill's silence is 30
    look(desk, row)
    assert decisions(desk, row) == [
        "asks the backup of db: slack:#oncall, because nobody has joined or acknowledged 30 s after db was asked"
    ]
    assert any(f"{row.service}" in text and "asked as backup" in text for text in desk.posted("oncall"))


def test_a_page_that_a_person_acknowledged_asks_no_backup(desk):
    row = with_backups(desk, acknowledged(desk))
    desk.put(row, "pagerduty", "page", key="page-db", text="P1 shop: disk", target="db")
    desk.tick()
    desk.pagerduty.person_acknowledges(row.pagerduty_id, "Robin")
    with Session(desk.store.engine) as session, session.begin():
        for message in session.scalars(select(MessageRow).where(MessageRow.incident_id == row.id)):
            message.sent_at = now() - timedelta(seconds=31)
    look(desk, row)
    assert decisions(desk, row) == []


def test_a_policy_that_pagerduty_does_not_know_is_given_up_for_its_backup(desk):
    row = with_backups(desk, acknowledged(desk))
    desk.put(row, "pagerduty", "page", key="page-gone", text="P1 shop: gateway down", target="gone")
    desk.tick()
    assert desk.states(row)[-1] == ("page", "failed")
    look(desk, row)
    asked = [page.who for page in desk.pagerduty.pages if page.incident_id == row.pagerduty_id][1:]
    assert asked == ["PDB"]
    [decided] = decisions(desk, row)
    assert decided.startswith("asks the backup of gone: pagerduty:db, because PagerDuty does not ask gone: ")
    assert "Responder request target not found" in decided


def test_a_page_whose_answer_was_lost_asks_nobody_a_second_time(desk):
    row = with_backups(desk, acknowledged(desk))
    desk.put(row, "pagerduty", "page", key="page-db", text="P1 shop: disk", target="db")
    desk.tick()
    lose_the_answer(desk, row, "page")
    desk.tick()
    assert desk.states(row)[-1] == ("page", "sent")
    assert untagged(pages(desk, row)) == ["P1 shop: disk"]


def note_due(desk: Desk, row: IncidentRow, seconds: float = 60) -> list[str]:
    """What the page's notes say, after a fresh keeper has looked `seconds` after the last decision."""
    from responder.keeper.decisions import note_decisions

    note_decisions(desk.store, desk.row(row), at=now() + timedelta(seconds=seconds))
    desk.tick()
    return notes(desk, row)


def test_decisions_reach_the_page_together_in_order_and_once(desk):
    row = acknowledged(desk)
    for what in ("severity P1", "restart on gw-1"):
        desk.store.decide(row.id, who="responder", what=what, why="the process is gone")
    assert note_due(desk, row, seconds=0) == [], "the rest of the bunch is waited for"
    [note] = note_due(desk, row)
    assert [line[11:] for line in note.split("\n")[1:]] == [
        "responder: severity P1, because the process is gone",
        "responder: restart on gw-1, because the process is gone",
    ]
    assert note_due(desk, row) == [note]
    desk.store.decide(row.id, who="guardrail: budget", what="refuses restart on gw-2", why="it is used up")
    [_, second] = note_due(desk, row)
    assert second.endswith("guardrail: budget: refuses restart on gw-2, because it is used up")


def test_many_decisions_fill_as_many_notes_as_they_need(desk):
    row = acknowledged(desk)
    for number in range(12):
        desk.store.decide(row.id, who="responder", what=f"step {number}", why="x" * 400)
    for _ in range(5):
        notes = note_due(desk, row)
    assert [f"step {number}," in "\n".join(notes) for number in range(12)] == [True] * 12
    assert max(len(note) for note in notes) <= 2_000
    assert len(notes) == 3


def test_of_two_keepers_that_gathered_differently_each_decision_is_noted_once(desk):
    from responder.keeper.decisions import note_decisions

    row = acknowledged(desk)
    desk.store.decide(row.id, who="responder", what="first", why="a")
    stale = desk.row(row)
    note_decisions(desk.store, stale, at=now() + timedelta(minutes=1))
    desk.store.decide(row.id, who="responder", what="second", why="b")
    note_decisions(desk.store, stale, at=now() + timedelta(minutes=1))
    desk.tick()
    notes = note_due(desk, row)
    assert "\n".join(notes).count("first") == 1
    assert "\n".join(notes).count("second") == 1


def test_decisions_before_the_page_is_known_wait_for_it_and_those_of_a_rehearsal_are_not_noted(desk):
    row = desk.open()
    desk.store.decide(row.id, who="responder", what="severity P1", why="it is down")
    since = now() - timedelta(days=1)
    known = [incident.id for incident, _ in desk.store.latest_decisions(since=since)]
    desk.store.note_world(row.id, pagerduty_id="P1")
    assert (row.id in known, row.id in [i.id for i, _ in desk.store.latest_decisions(since=since)]) == (
        False,
        True,
    )
    desk.store.note_world(row.id, mode="dry-run")
    assert row.id not in [incident.id for incident, _ in desk.store.latest_decisions(since=since)]


def test_a_note_whose_answer_was_lost_is_not_written_twice(desk):
    row = acknowledged(desk)
    desk.put(row, "pagerduty", "note", text="restart on gw-1: it holds")
    desk.tick()
    lose_the_answer(desk, row, "note")
    desk.tick()
    assert notes(desk, row) == ["restart on gw-1: it holds"]


def test_notes_arrive_in_their_order_and_resolving_says_why(desk):
    row = acknowledged(desk)
    for number in range(5):
        desk.put(row, "pagerduty", "note", text=f"note {number}")
    desk.put(row, "pagerduty", "resolve", text="restarted and confirmed")
    for _ in range(6):
        desk.tick()
    [page] = [incident for incident in desk.pagerduty.incidents if incident.id == row.pagerduty_id]
    assert notes(desk, row) == [f"note {number}" for number in range(5)]
    assert (page.status, page.resolution, desk.row(row).pagerduty_status) == (
        "resolved",
        "restarted and confirmed",
        "resolved",
    )


def test_escalating_triggers_the_page_again_with_the_reason(desk):
    row = acknowledged(desk)
    desk.put(row, "pagerduty", "escalate", text="restart did not hold", summary="P1 shop", link="http://run")
    desk.tick()
    [page] = [incident for incident in desk.pagerduty.incidents if incident.id == row.pagerduty_id]
    assert (page.status, notes(desk, row), pages(desk, row)) == (
        "triggered",
        ["restart did not hold"],
        ["escalated"],
    )
    assert desk.row(row).pagerduty_status == "triggered"


def test_escalating_without_a_page_opens_one(desk):
    row = desk.open()
    desk.put(row, "pagerduty", "escalate", text="nobody knows why", summary="P1 shop: down", link="http://run")
    desk.tick_until(
        lambda: any(i.incident_key == f"incident-{row.id}-escalation" for i in desk.pagerduty.incidents)
    )
    page = desk.page_of(f"incident-{row.id}-escalation")
    assert (page.title, page.details, page.status) == ("P1 shop: down", {"page": "nobody knows why"}, "triggered")


@pytest.mark.parametrize("kind", ["page", "escalate"])
def test_where_the_page_was_resolved_meanwhile_a_new_one_wakes_people(desk, kind):
    """An alert that flaps resolves its page; a resolved page can neither be triggered nor wake anybody."""
    row = acknowledged(desk)
    desk.pagerduty.person_resolves(row.pagerduty_id)
    desk.put(row, "pagerduty", kind, text="restart did not hold", summary="P1 shop: down", link="http://run")
    desk.tick_until(lambda: any(row.id in incident.incident_key for incident in desk.pagerduty.incidents))
    assert desk.page_of(f"incident-{row.id}-escalation").status == "triggered"


def test_a_channel_is_made_and_what_follows_is_posted_there(desk):
    row = desk.open()
    name = f"incident-20260304-{row.id}"
    desk.put(row, "slack", "create_channel", name=name, topic="P1 shop")
    desk.put(row, "slack", "post", text="we look into it")
    desk.put(row, "slack", "post", text="it is back")
    for _ in range(3):
        desk.tick()
    assert desk.row(row).channel_name == name
    assert desk.posted(name) == ["we look into it", "it is back"]


def test_where_the_channel_cannot_be_made_the_backup_channel_hears_it(desk):
    row = desk.open()
    desk.slack.fail("403", times=1, path="conversations.create")
    desk.put(row, "slack", "create_channel", name="incident-20260304-refused", topic="P1 shop")
    desk.put(row, "slack", "post", text=f"{row.id} is looked into")
    desk.tick()
    desk.tick()
    assert desk.states(row) == [("create_channel", "failed"), ("post", "sent")]
    assert f"{row.id} is looked into" in desk.posted("oncall")


def with_channel(desk: Desk) -> tuple[IncidentRow, str]:
    """An incident whose channel is there, and the channel's name."""
    row = desk.open()
    name = f"incident-20260304-{row.id}"
    desk.put(row, "slack", "create_channel", name=name, topic="P1 shop")
    desk.tick()
    return desk.row(row), name


def archived(desk: Desk, name: str) -> bool:
    [channel] = [known for known in desk.slack.channels if known.name == name]
    return channel.archived


def test_a_post_has_blocks_and_the_plain_text_behind_them(desk):
    row, _ = with_channel(desk)
    block = {"type": "section", "text": {"type": "mrkdwn", "text": "*it is back*"}}
    desk.put(row, "slack", "post", text=f"it is back, {row.id}", blocks=[block])
    desk.tick()
    [posted] = [message for message in desk.slack.messages if row.id in message.text]
    assert posted.blocks == [block]


def test_the_channel_is_archived_when_the_incident_is_closed_and_not_before(desk):
    row, name = with_channel(desk)
    desk.put(row, "slack", "post", text="it is over")
    desk.put(row, "slack", "archive")
    for _ in range(3):
        desk.tick()
        desk.hurry(row)
    assert not archived(desk, name)
    desk.store.close_incident(row.id, who="robin", why="done")
    desk.tick()
    assert archived(desk, name)
    assert desk.posted(name) == ["it is over"]
    assert desk.states(row)[-1] == ("archive", "sent")


def test_what_is_said_after_the_channel_was_archived_goes_to_the_backup_channel(desk):
    row, name = with_channel(desk)
    desk.store.close_incident(row.id, who="robin", why="done")
    desk.put(row, "slack", "archive")
    desk.put(row, "slack", "post", text=f"the review of {row.id} is due")
    desk.tick()
    desk.tick()
    assert f"the review of {row.id} is due" in desk.posted("oncall")
    assert desk.posted(name) == []


def test_without_a_channel_there_is_none_to_archive(desk):
    row = desk.open()
    desk.put(row, "slack", "archive")
    desk.tick()
    assert desk.states(row) == [("archive", "skipped")]


# --- the next update -------------------------------------------------------------------------------------


def wait(desk: Desk, row: IncidentRow, seconds: float) -> None:
    """So many seconds have passed since everything that was said; a drill's interval is 180."""
    with Session(desk.store.engine) as session, session.begin():
        for message in session.scalars(select(MessageRow).where(MessageRow.incident_id == row.id)):
            message.created_at -= timedelta(seconds=seconds)


def begun(desk: Desk, **changes: Any) -> IncidentRow:
    """An incident whose run lives for long, and whose initial notice was put."""
    row = desk.open(**changes)
    desk.hold(row, lease_s=10_000)
    desk.put(row, "slack", "post", key="initial", text="we look")
    desk.tick()
    return row


def update_of(desk: Desk, row: IncidentRow) -> list[MessageRow]:
    from responder.keeper.updates import keep_updates

    keep_updates(desk.store, desk.access)
    return [m for m in desk.store.messages(row.id) if ":update-due-" in m.id]


def test_when_the_clock_runs_out_one_update_says_what_is_being_done(desk):
    row = begun(desk)
    wait(desk, row, 170)
    assert update_of(desk, row) == []
    wait(desk, row, 11)
    for _ in range(3):
        told, public = update_of(desk, row)
    assert (told.channel, public.channel, public.state) == ("slack", "statuspage", "draft")
    assert "INCIDENT UPDATE: gateway down" in told.body["text"]
    assert "Status: Investigating" in told.body["text"]
    assert "Update: At work: diagnosis." in told.body["text"]
    assert "Next update in: 30 minutes" in told.body["text"]
    desk.tick()
    wait(desk, row, 181)
    assert len(update_of(desk, row)) == 4, "the next interval has its own"


def test_an_update_knows_how_far_the_incident_is(desk):
    row = begun(desk)
    epoch = desk.row(row).epoch
    desk.store.begin_phase(row.id, epoch, "diagnose")
    desk.store.end_phase(row.id, epoch, "diagnose", {"leading": "gateway-crash", "progress": "it has crashed"})
    wait(desk, row, 181)
    told = update_of(desk, row)[0]
    assert "Status: Identified" in told.body["text"]
    assert "Last result: it has crashed" in told.body["text"]
    desk.tick()
    desk.store.begin_phase(row.id, epoch, "mitigate:restart-gw-1")
    desk.store.begin_phase(row.id, epoch, "verify:restart-gw-1")
    wait(desk, row, 181)
    *_, told, public = update_of(desk, row)
    assert "Status: Mitigating" in told.body["text"]
    assert public.body["status"] == "monitoring"


def test_no_update_is_piled_upon_one_that_still_waits(desk):
    row = begun(desk)
    desk.slack.fail("500", times=None)
    wait(desk, row, 181)
    update_of(desk, row)
    desk.tick()
    wait(desk, row, 181)
    assert [m.channel for m in update_of(desk, row)] == ["slack", "statuspage", "statuspage"]


@pytest.mark.parametrize("over", ["ended", "lapsed", "rehearsal", "not begun"])
def test_no_update_comes_after_the_end_without_a_run_or_from_a_rehearsal(desk, over):
    row = desk.open() if over == "not begun" else begun(desk)
    if over == "ended":
        ending = Ending(outcome=Outcome.ESCALATED, reason="a person is needed")
        desk.store.end_run(row.id, desk.row(row).epoch, ending)
    if over == "lapsed":
        desk.hold(row, lease_s=-1)
    if over == "rehearsal":
        desk.store.note_world(row.id, mode="dry-run")
    wait(desk, row, 181)
    assert update_of(desk, row) == []


def test_where_the_saved_profile_cannot_be_read_nothing_new_is_said_to_customers(desk, monkeypatch):
    def silent(_: str) -> None:
        raise TransientError("Prefect does not answer")

    row = begun(desk)
    granted = desk.profile.statuspage.model_copy(update={"granted": True})
    kept = desk.profile.model_copy(update={"statuspage": granted})
    desk.store.note_world(row.id, profile=kept.model_dump(mode="json"))
    monkeypatch.setattr(desk.access, "profile", silent)
    wait(desk, row, 181)
    assert [m.state for m in update_of(desk, row)] == ["waiting", "draft"]


# --- the status page -----------------------------------------------------------------------------------


def customers(desk: Desk, row: IncidentRow, status: str, text: str, **changes: Any) -> None:
    """A text for customers waits to be published."""
    body = {"name": "Gateway down", "impact": "critical", "components": {}, "status": status, "text": text}
    desk.put(row, "statuspage", "publish", **(body | changes))


def test_customers_see_one_incident_with_each_text_in_its_order(desk):
    row = desk.open()
    for status in ("investigating", "identified", "monitoring", "resolved"):
        customers(desk, row, status, f"It is {status}.")
    for _ in range(4):
        desk.tick()
    [shown] = desk.published(row)
    assert (shown.name, shown.impact, shown.status) == ("Gateway down", "critical", "resolved")
    assert [(update.status, update.body) for update in shown.updates] == [
        (status, f"It is {status}.") for status in ("investigating", "identified", "monitoring", "resolved")
    ]


@pytest.mark.parametrize("kind", ["cut", "malformed"])
def test_a_text_whose_answer_was_lost_is_not_published_twice(desk, kind):
    row = desk.open()
    customers(desk, row, "investigating", "We look.")
    desk.tick()
    customers(desk, row, "identified", "We know.")
    desk.statuspage.fail(kind, path=f"incidents/{desk.published(row)[0].id}")
    desk.tick()
    assert desk.states(row)[-1] == ("publish", "waiting")
    desk.hurry(row)
    desk.tick()
    [shown] = desk.published(row)
    assert [update.body for update in shown.updates] == ["We look.", "We know."]
    assert desk.states(row) == [("publish", "sent")] * 2


def test_an_end_that_customers_never_saw_begin_is_not_published(desk):
    row = desk.open()
    customers(desk, row, "resolved", "It is over.")
    desk.tick()
    assert (desk.published(row), desk.states(row)) == ([], [("publish", "skipped")])


def test_what_a_person_ended_on_the_page_is_not_opened_again(desk):
    row = desk.open()
    customers(desk, row, "investigating", "We look.")
    desk.tick()
    desk.statuspage.person_resolves(desk.published(row)[0].id)
    customers(desk, row, "identified", "We know.")
    desk.tick()
    assert desk.published(row)[0].status == "resolved"
    assert desk.states(row)[-1] == ("publish", "skipped")


def test_a_draft_waits_for_a_person_and_holds_up_nothing(desk):
    row = desk.open()
    desk.store.enqueue(row.id, channel="statuspage", kind="publish", body={"text": "We look."}, draft=True)
    desk.put(row, "slack", "post", text=f"{row.id} goes on")
    desk.tick()
    assert desk.states(row) == [("publish", "draft"), ("post", "sent")]
    assert desk.published(row) == []


# --- tickets -------------------------------------------------------------------------------------------


def ticket(desk: Desk, row: IncidentRow, finding: str, kind: str = "ticket") -> None:
    """What an incident has to say about a finding."""
    seen_in = f"<!-- incident-responder {'incident' if kind == 'ticket' else 'ended'} {row.id} -->"
    marker = f"<!-- incident-responder finding {finding} -->"
    body = {
        "title": "Prevent it",
        "text": f"Prevent it.\n\n{marker}\n{seen_in}",
        "comment": f"{kind} of {row.id}\n\n{seen_in}",
        "marker": marker,
        "seen_in": seen_in,
        "labels": ["incident"],
        "assignees": ["lab-oncall"],
    }
    desk.put(row, "tickets", kind, **body)


def about(desk: Desk, finding: str) -> list[Issue]:
    return [issue for issue in desk.github.issues if f"finding {finding} -->" in issue.body]


def test_a_finding_opens_a_ticket_once_and_a_later_incident_comments_on_it(desk):
    finding, first, later = f"shop/{uuid4().hex}/prevention", desk.open(), desk.open()
    for row in (first, first, later, later):
        ticket(desk, row, finding)
        desk.tick()
    [issue] = about(desk, finding)
    assert (issue.title, issue.labels, issue.assignees) == ("Prevent it", ["incident"], ["lab-oncall"])
    assert [comment.body.splitlines()[0] for comment in issue.comments] == [f"ticket of {later.id}"]
    desk.github.close(issue.number)
    again = desk.open()
    ticket(desk, again, finding)
    desk.tick()
    assert len(about(desk, finding)) == 2, "what was done and came back is a new ticket"


@pytest.mark.parametrize("kind", ["cut", "malformed"])
def test_a_ticket_or_comment_whose_answer_was_lost_is_not_written_twice(desk, kind):
    finding, first, later = f"shop/{uuid4().hex}/monitoring", desk.open(), desk.open()
    ticket(desk, first, finding)
    desk.tick()
    number = about(desk, finding)[0].number
    desk.github.fail(kind, times=2, path=f"{number}/comments")  # the look, then the writing
    ticket(desk, later, finding)
    for _ in range(3):
        desk.tick()
        desk.hurry(later)
    [issue] = about(desk, finding)
    assert len(issue.comments) == 1
    assert desk.states(later) == [("ticket", "sent")]


def test_how_a_minor_incident_ended_is_said_on_its_ticket_while_that_is_open(desk):
    finding, row = f"shop/P4/{uuid4().hex}", desk.open()
    ticket(desk, row, finding)
    ticket(desk, row, finding, "comment")
    desk.tick()
    desk.tick()
    [issue] = about(desk, finding)
    assert [comment.body.splitlines()[0] for comment in issue.comments] == [f"comment of {row.id}"]
    desk.github.close(issue.number)
    ticket(desk, row, finding, "comment")
    desk.tick()
    assert desk.states(row)[-1] == ("comment", "skipped")


# --- what fails ----------------------------------------------------------------------------------------


def test_a_message_that_fails_holds_up_its_own_channel_only(desk):
    row = acknowledged(desk)
    desk.pagerduty.fail("500", times=None)
    desk.put(row, "pagerduty", "note", text="first")
    desk.put(row, "pagerduty", "note", text="second")
    desk.put(row, "slack", "post", text=f"{row.id} goes on")
    desk.tick()
    desk.tick()
    assert desk.states(row)[1:] == [("note", "waiting"), ("note", "waiting"), ("post", "sent")]
    [first, second] = [m for m in desk.store.messages(row.id) if m.kind == "note"]
    assert first.tries >= 1
    assert second.tries == 0
    assert "500" in first.error


def test_another_incident_is_told_while_one_has_to_wait(desk):
    waiting, other = acknowledged(desk), acknowledged(desk)
    desk.pagerduty.fail("500", times=None, path=waiting.pagerduty_id)
    desk.put(waiting, "pagerduty", "note", text="held up")
    desk.put(other, "pagerduty", "note", text="not held up")
    desk.tick()
    assert desk.states(waiting)[-1] == ("note", "waiting")
    assert desk.states(other)[-1] == ("note", "sent")


@pytest.mark.parametrize(("asked_s", "least_s", "most_s"), [(7, 6, 7), (3600, 55, 60)])
def test_retry_after_is_respected_and_bounded(desk, asked_s, least_s, most_s):
    row = desk.open()
    desk.slack.retry_after_s = asked_s
    desk.slack.fail("429")
    desk.put(row, "slack", "post", text="one moment")
    desk.tick()
    [message] = desk.store.messages(row.id)
    assert timedelta(seconds=least_s) < message.next_at - now() <= timedelta(seconds=most_s)
    desk.tick()
    assert desk.store.messages(row.id)[0].tries == 1, "tried before its time"


def test_a_refused_page_tells_the_backup_once_and_is_tried_until_it_arrives(desk):
    row = acknowledged(desk)
    desk.pagerduty.fail("401", times=None)
    text = f"P1 shop: {row.id} needs you"
    desk.put(row, "pagerduty", "page", key="page", text=text)
    for _ in range(5):
        desk.tick()
        desk.hurry(row)
    told = [said for said in desk.posted("oncall") if row.id in said]
    assert told == [f"PagerDuty cannot be reached. {text}"]
    [page] = [message for message in desk.store.messages(row.id) if message.kind == "page"]
    assert (page.state, page.tries >= 4, "401" in page.error) == ("waiting", True, True)
    desk.pagerduty.heal()
    desk.hurry(row)
    desk.tick()
    assert untagged(pages(desk, row)) == [text]
    assert ("page", "sent") in desk.states(row)


def test_a_refused_note_is_given_up_and_the_next_message_goes_on(desk):
    row = acknowledged(desk)
    desk.pagerduty.fail("403", path="notes")
    desk.put(row, "pagerduty", "note", text="refused")
    desk.put(row, "pagerduty", "note", text="taken")
    desk.tick()
    desk.tick()
    assert desk.states(row)[1:3] == [("note", "failed"), ("note", "sent")]
    assert notes(desk, row) == ["taken"]


def test_pauses_between_tries_grow(desk):
    row = desk.open()
    desk.slack.fail("500", times=None)
    desk.put(row, "slack", "post", text="hello")
    pauses = []
    for _ in range(4):
        desk.tick()
        [message] = desk.store.messages(row.id)
        pauses.append(round((message.next_at - now()).total_seconds()))
        desk.hurry(row)
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]


def test_while_prefect_is_silent_the_known_credentials_are_used(desk, monkeypatch):
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from responder.domain.errors import TransientError
    from responder.keeper.access import Access

    row = desk.open()
    desk.put(row, "slack", "post", text=f"{row.id} before")
    desk.tick()
    desk.put(row, "slack", "post", text=f"{row.id} meanwhile")
    monkeypatch.setattr("responder.keeper.access.FRESH_S", 0)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        desk.tick()
        with pytest.raises(TransientError, match="does not hand out"):
            Access().slack(desk.profile.name)
    assert [text for text in desk.posted("oncall") if row.id in text] == [
        f"{row.id} before",
        f"{row.id} meanwhile",
    ]


# --- the page's lease ------------------------------------------------------------------------------------


def keep_quiet_for(desk: Desk, row: IncidentRow, seconds: float) -> None:
    """The duty, again and again; each time the renewal is due."""
    from responder.keeper.leases import keep_pages_quiet

    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        desk.store.renew_page(row.id, now())
        keep_pages_quiet(desk.store, desk.access)
        time.sleep(0.1)


def test_a_page_stays_quiet_while_the_run_lives_and_its_step_is_not_overdue(desk):
    row = acknowledged(desk)
    keep_quiet_for(desk, row, 1.5 * ONE_SNOOZE_S / CLOCK_SCALE)
    assert pages(desk, row) == []
    assert desk.row(row).pagerduty_status == "acknowledged"


@pytest.mark.parametrize("lapsed", [{"lease_s": -1}, {"step_s": -1}], ids=["run lease", "step deadline"])
def test_when_nobody_works_any_more_pagerduty_pages_by_itself(desk, lapsed):
    row = acknowledged(desk, **lapsed)
    keep_quiet_for(desk, row, 1.5 * ONE_SNOOZE_S / CLOCK_SCALE)
    assert pages(desk, row) == ["the acknowledgement ran out"]
    assert desk.row(row).pagerduty_status == "triggered"


def test_while_prefect_is_away_no_page_is_kept_quiet_and_who_takes_it_is_noted(desk):
    """A run goes no further without Prefect, however alive it is, and nobody can answer what it asks."""
    row = acknowledged(desk)
    desk.access.pagerduty(row.service)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        keep_quiet_for(desk, row, 1.5 * ONE_SNOOZE_S / CLOCK_SCALE)
        assert pages(desk, row) == ["the acknowledgement ran out"]
        desk.pagerduty.person_acknowledges(row.pagerduty_id, "Robin")
        keep_quiet_for(desk, row, 0.1)
    assert desk.row(row).acknowledged_by == "Robin"


def test_a_person_who_takes_the_page_is_noted(desk):
    row = acknowledged(desk)
    desk.pagerduty.person_acknowledges(row.pagerduty_id, "Robin")
    keep_quiet_for(desk, row, 0.1)
    assert desk.row(row).acknowledged_by == "Robin"


def test_one_service_that_cannot_be_reached_keeps_no_other_page_from_being_renewed(desk):
    from responder.keeper.leases import keep_pages_quiet

    broken, fine = acknowledged(desk), acknowledged(desk)
    desk.pagerduty.fail("401", times=None, path=broken.pagerduty_id)
    for row in (broken, fine):
        desk.store.renew_page(row.id, now())
    keep_pages_quiet(desk.store, desk.access)
    assert desk.lease(fine).page_until > now() + timedelta(seconds=ONE_SNOOZE_S - 2)
    assert desk.lease(broken).page_until <= now()


# --- taking up runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deployment_id(installation) -> UUID:
    """A deployment that no worker serves: what is scheduled stays scheduled."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("kept-by-the-keeper")
        return client.create_deployment(flow_id=flow_id, name="unserved")


def lapsed_run(desk: Desk, deployment_id: UUID, state: Any) -> IncidentRow:
    """An incident whose run is in `state` and whose lease has lapsed."""
    from prefect.client.orchestration import get_client
    from prefect.states import Pending

    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment_id, state=Pending())
        client.set_flow_run_state(run.id, state, force=True)
    row = desk.open(run_id=str(run.id))
    desk.hold(row, lease_s=-1)
    return desk.row(row)


def take_up(desk: Desk) -> None:
    from responder.keeper.runs import take_up_lapsed_runs

    take_up_lapsed_runs(desk.store, "keeper:test")


def state_of(row: IncidentRow) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(row.run_id)).state.name


def test_a_crashed_run_is_scheduled_again_but_not_before_the_workers_second_crash_report(desk, deployment_id):
    from prefect.states import Crashed

    from responder.keeper.runs import AFTER_CRASH

    row = lapsed_run(desk, deployment_id, Crashed())
    crashed = time.monotonic()
    while state_of(row) == "Crashed":
        assert time.monotonic() - crashed < 30
        take_up(desk)
        time.sleep(0.3)
    assert time.monotonic() - crashed > AFTER_CRASH.total_seconds() - 1
    assert state_of(row) == "AwaitingRetry"
    after = desk.row(row)
    assert (after.epoch, after.take_ups, after.outcome) == (row.epoch + 1, 1, None)
    assert desk.lease(row).expires_at > now()
    assert [d.what for d in desk.store.decisions(row.id)] == ["takes the run up again"]


def test_a_run_whose_worker_died_with_it_is_scheduled_again_at_once(desk, deployment_id):
    from prefect.states import Running

    row = lapsed_run(desk, deployment_id, Running())
    take_up(desk)
    assert state_of(row) == "AwaitingRetry"


def test_a_run_that_lives_is_left_alone(desk, deployment_id):
    from prefect.states import Running

    row = lapsed_run(desk, deployment_id, Running())
    desk.hold(row, lease_s=60)
    before = desk.row(row).epoch
    take_up(desk)
    assert (state_of(row), desk.row(row).epoch) == ("Running", before)


@pytest.mark.parametrize("state", ["Failed", "Cancelled", "Completed"])
def test_a_run_that_ended_before_its_incident_is_handed_to_a_person(desk, deployment_id, state):
    from prefect import states

    row = lapsed_run(desk, deployment_id, getattr(states, state)())
    take_up(desk)
    assert_handed_over(desk, row, f"the run ended as {state}")
    assert state_of(row) == state


def test_a_run_that_was_deleted_is_handed_to_a_person(desk, deployment_id):
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    row = lapsed_run(desk, deployment_id, Running())
    with get_client(sync_client=True) as client:
        client.delete_flow_run(UUID(row.run_id))
    take_up(desk)
    assert_handed_over(desk, row, "deleted")


def test_a_run_that_is_lost_again_and_again_is_handed_to_a_person(desk, deployment_id):
    from prefect.states import Running

    from responder.keeper.runs import MOST_TAKE_UPS

    row = lapsed_run(desk, deployment_id, Running())
    desk.store.note_world(row.id, take_ups=MOST_TAKE_UPS)
    take_up(desk)
    assert_handed_over(desk, row, "again and again")
    assert state_of(row) == "Running"


def assert_handed_over(desk: Desk, row: IncidentRow, reason: str) -> None:
    after = desk.row(row)
    assert (after.outcome, after.status) == ("escalated", "open")
    assert reason in after.reason
    assert desk.lease(row) is None
    [page, told] = desk.store.messages(row.id)
    assert (page.channel, page.kind, told.channel) == ("pagerduty", "escalate", "slack")
    assert reason in page.body["text"]
    assert f"incident show {row.id}" in page.body["text"]
    take_up(desk)
    assert len(desk.store.messages(row.id)) == 2, "handed over twice"


def test_while_prefect_is_silent_nothing_is_taken_up_and_nothing_lost(desk, deployment_id):
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
    from prefect.states import Running

    row = lapsed_run(desk, deployment_id, Running())
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        take_up(desk)
    assert desk.row(row).outcome is None
    take_up(desk)
    assert state_of(row) == "AwaitingRetry"


def test_severity_and_summary_stand_on_the_page_that_hands_over(desk, deployment_id):
    from prefect.states import Failed

    row = lapsed_run(desk, deployment_id, Failed())
    take_up(desk)
    desk.tick()
    desk.tick_until(lambda: any(row.id in incident.incident_key for incident in desk.pagerduty.incidents))
    page = desk.page_of(f"incident-{row.id}-escalation")
    assert page.title == f"{Severity.P1} {row.service}: gateway down"


def test_a_channel_that_hangs_holds_up_no_other(desk: Desk) -> None:
    from responder.keeper.outbox import Outbox

    row = desk.open("hangs")
    desk.put(row, "pagerduty", "find", keys=["hangs"], wait_s=5)
    desk.put(row, "slack", "post", text="the repair begins")
    desk.pagerduty.fail("timeout", times=None, path="/incidents")
    outbox = Outbox(desk.store, desk.access)
    try:
        began = time.monotonic()
        while "the repair begins" not in desk.posted("oncall"):
            assert time.monotonic() - began < 8, "PagerDuty is given ten seconds"
            outbox.send_due()
            time.sleep(0.05)
        assert ("find", "waiting") in desk.states(row)
    finally:
        desk.pagerduty.heal()
        outbox.close()


# --- being woken -----------------------------------------------------------------------------------------


def test_what_is_committed_is_heard_at_once_and_what_is_not_heard_holds_nobody_up(desk):
    bell = desk.store.bell
    assert not bell.ring(), "nobody listens"
    ears = bell.listen()
    assert bell.listen() is None, "one hears for all"
    ears.settimeout(5)
    desk.open()
    assert ears.recv(1) == b""
    while bell.ring():  # until no more is kept for it
        pass
    desk.open()
    ears.close()
    assert not bell.ring()


def test_a_duty_that_is_woken_does_not_wait_for_its_next_look():
    done, rung, ended = threading.Event(), threading.Event(), threading.Event()
    loop = threading.Thread(target=repeat_soon, args=(Duty(done.set), rung, ended, 3_600.0))
    loop.start()
    for _ in range(2):
        rung.set()
        assert done.wait(60)
        done.clear()
    ended.set()
    rung.set()
    loop.join(60)
    assert not loop.is_alive()
