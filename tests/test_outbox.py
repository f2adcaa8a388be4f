"""The outbox tells nothing twice and leaves nobody unaware, whatever becomes of answers, services and keepers.

Real stand-ins and a store of one's own; the keeper's credentials come from nowhere but here. The whole matrix of
services and faults is `benchmarks/outbox_faults.py`.
"""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.outbox_faults import Office
from responder.domain.base import now
from responder.domain.messages import REPEATED
from responder.keeper import outbox, paging
from responder.store.tables import IncidentRow


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Office(tmp_path) as opened:
        yield opened


def states(office: Office, row: IncidentRow) -> list[tuple[str, str]]:
    return [(message.kind, message.state) for message in office.store.messages(row.id)]


def decided(office: Office, row: IncidentRow) -> list[str]:
    return [made.what for made in office.store.decisions(row.id)]


LOST = ["cut", "malformed", "timeout-done", "500-done"]


# --- looking before repeating -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOST)
def test_a_post_whose_answer_was_lost_is_posted_once(office, kind):
    row = office.open()
    office.slack.fail(kind)
    office.put(row, "slack", "post", text="we look", channel="#incident")
    office.send_all()
    assert office.posted("incident") == ["we look"]
    assert states(office, row) == [("post", "sent")]


@pytest.mark.parametrize("kind", LOST)
def test_an_escalation_whose_answer_was_lost_calls_people_once_and_says_why(office, kind):
    row = office.open_with_page()
    office.put(row, "pagerduty", "escalate", text="restart did not hold", link="http://run")
    office.pagerduty.fail(kind, method="PUT")
    office.send_all()
    assert office.pages(row) == ["escalated"]
    assert office.notes(row) == ["restart did not hold"]


def test_an_escalation_whose_note_was_lost_calls_nobody_again(office):
    row = office.open_with_page()
    office.pagerduty.fail("500", path="/notes", times=2)
    office.put(row, "pagerduty", "escalate", text="restart did not hold", link="http://run")
    office.send_all()
    assert (office.pages(row), office.notes(row)) == (["escalated"], ["restart did not hold"])


def test_an_escalation_whose_note_is_refused_calls_people_once_and_keeps_the_reason(office):
    row = office.open_with_page()
    office.pagerduty.fail("403", path="/notes", times=None)
    office.put(row, "pagerduty", "escalate", text="restart did not hold", link="http://run")
    office.send_all()
    assert (office.pages(row), states(office, row)) == (["escalated"], [("escalate", "sent")])
    [kept] = office.store.decisions(row.id)
    assert (kept.what, "restart did not hold" in kept.why) == (
        "calls a person without a note on the page",
        True,
    )


def test_people_are_called_again_when_it_cannot_be_seen_for_long_whether_they_were(office):
    row = office.open_with_page()
    office.pagerduty.fail("500", path="/log_entries", times=None)
    office.pagerduty.fail("cut", method="PUT")
    office.put(row, "pagerduty", "escalate", text="restart did not hold", link="http://run")
    office.send_all()
    assert (office.pages(row), office.notes(row)) == (["escalated"] * 2, ["restart did not hold"])
    assert office.store.messages(row.id)[0].tries == paging.MOST_LOOKS
    assert decided(office, row) == ["calls people without knowing whether they were called already"]


def test_a_person_who_resolved_the_page_we_opened_is_not_called_again_for_an_answer_that_was_lost(office):
    row = office.open()
    office.put(row, "pagerduty", "escalate", text="nobody knows why", link="http://run")
    office.pagerduty.fail("cut", path="/v2/enqueue")
    office.tick()
    [page] = office.pagerduty.incidents
    office.pagerduty.person_resolves(page.id)
    office.send_all()
    assert [page.status for page in office.pagerduty.incidents] == ["resolved"]
    assert states(office, row) == [("escalate", "sent")]


def test_the_same_words_twice_are_two_notes_and_two_calls(office):
    row = office.open_with_page()
    for _ in range(2):
        office.put(row, "pagerduty", "note", text="the disk is full")
        office.put(row, "pagerduty", "page", text="please join")
    office.send_all()
    assert office.notes(row) == ["the disk is full"] * 2
    assert len(office.pages(row)) == 2


def test_whoever_was_given_the_page_by_a_person_meanwhile_keeps_it(office):
    row = office.open_with_page()
    robin = office.pagerduty._user("Robin")
    office.pagerduty.fail("cut", method="PUT")
    office.put(row, "pagerduty", "assign", user=robin)
    office.tick()
    [page] = office.pagerduty.incidents
    assert page.assignee == robin
    office.pagerduty._incidents[page.id].assignee = office.pagerduty.on_call_id
    office.send_all()
    assert office.pagerduty.incidents[0].assignee == office.pagerduty.on_call_id


def test_the_same_text_with_another_state_reaches_the_status_page(office):
    row = office.open()
    for status in ("identified", "monitoring"):
        office.publish(row, status, "We are at work.")
    office.send_all()
    assert [(u.status, u.body) for u in office.published(row)] == [
        ("identified", "We are at work."),
        ("monitoring", "We are at work."),
    ]


def test_what_others_keep_with_an_incident_on_the_status_page_stays(office):
    row = office.open()
    office.publish(row, "investigating", "We look.")
    office.send_all()
    office.statuspage._incidents[0].metadata["jira"] = {"issue": "OPS-7"}
    office.publish(row, "identified", "We know.")
    office.send_all()
    assert office.statuspage.incidents[0].metadata["jira"] == {"issue": "OPS-7"}


@pytest.mark.parametrize("kind", LOST)
def test_a_ticket_that_was_closed_after_its_answer_was_lost_is_not_opened_again(office, kind):
    row = office.open()
    office.ticket(row, "shop/crash")
    office.github.fail(kind, method="POST")
    office.tick()
    office.github.close(1)
    office.send_all()
    assert [(issue.state, issue.comments) for issue in office.github.issues] == [("closed", [])]
    assert states(office, row) == [("ticket", "sent")]


def test_where_nobody_may_look_a_post_is_repeated_marked_and_that_is_said_once(office):
    row = office.open()
    office.slack.scopes.remove("channels:history")
    for text in ("we look", "it is back"):
        office.slack.fail("timeout-done", path="chat.postMessage")
        office.put(row, "slack", "post", text=text, channel="#incident")
        office.send_all()
    marked = [f"{REPEATED}we look", f"{REPEATED}it is back"]
    assert office.posted("incident") == ["we look", marked[0], "it is back", marked[1]]
    assert decided(office, row) == ["repeats messages to slack without knowing whether they have arrived"]


def test_a_mail_or_webhook_is_repeated_marked_under_the_same_key(office):
    row = office.open()
    office.webhook.fail("timeout-done")
    office.mailbox.cuts = 1
    for block in ("webhook", "mail"):
        office.put(row, f"stakeholders/{block}", "notify", block=block, subject="INCIDENT", text="it is down")
    office.send_all()
    first, second = office.webhook.requests
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert (first.json["text"], second.json["text"]) == ("it is down", f"{REPEATED}it is down")
    mails = office.mailbox.mails
    assert len(mails) == 2
    assert len({mail["Message-ID"] for mail in mails}) == 1
    assert [REPEATED.strip() in mail["Subject"] for mail in mails] == [False, True]


# --- late messages ------------------------------------------------------------------------------------


def test_what_was_held_up_arrives_as_one_digest_in_order_each_with_its_time(office):
    row = office.open()
    for text in ("first", "second", "third"):
        office.put(row, "slack", "post", text=text, channel="#incident")
    office.put(row, "slack", "post", text="elsewhere", channel="#oncall")
    office.wait(row, timedelta(minutes=10))
    office.send_all()
    [told] = office.posted("incident")
    times = [f"{m.created_at:%Y-%m-%d %H:%M:%S} UTC:" for m in office.store.messages(row.id)]
    assert told.split("\n\n") == [
        "3 messages that could not be told before:",
        *(f"{at}\n{text}" for at, text in zip(times, ("first", "second", "third"), strict=False)),
    ]
    assert office.posted("oncall") == ["elsewhere"]
    assert {state for _, state in states(office, row)} == {"sent"}


def test_what_is_not_late_is_told_one_by_one(office):
    row = office.open()
    for text in ("first", "second"):
        office.put(row, "slack", "post", text=text, channel="#incident")
    office.send_all()
    assert office.posted("incident") == ["first", "second"]


def test_of_a_digest_whose_answer_was_lost_only_what_came_after_it_is_told(office):
    row = office.open()
    for text in ("first", "second"):
        office.put(row, "slack", "post", text=text, channel="#incident")
    office.wait(row, timedelta(minutes=10))
    office.slack.fail("timeout-done")
    office.tick()
    office.put(row, "slack", "post", text="third", channel="#incident")
    office.send_all()
    digest, third = office.posted("incident")
    assert ("first" in digest, "second" in digest, third) == (True, True, "third")


def test_a_page_goes_first_and_alone_while_notes_wait(office):
    row = office.open_with_page()
    for number in range(3):
        office.put(row, "pagerduty", "note", text=f"note {number}")
    office.put(row, "pagerduty", "escalate", text="restart did not hold", link="http://run")
    office.wait(row, timedelta(minutes=10))
    office.pagerduty.fail("500", path="/notes")
    office.tick()
    assert office.pages(row) == ["escalated"]
    office.send_all()
    reason, notes = office.notes(row)
    assert reason == "restart did not hold"
    assert [f"note {number}" in notes for number in range(3)] == [True] * 3


def test_customers_get_every_late_text_in_order_and_the_last_state(office):
    row = office.open()
    for status in ("investigating", "identified", "monitoring"):
        office.publish(row, status, f"It is {status}.")
    office.wait(row, timedelta(minutes=10))
    office.send_all()
    [update] = office.published(row)
    assert update.status == "monitoring"
    lines = [line for line in update.body.split("\n") if line.startswith("It is")]
    assert lines == ["It is investigating.", "It is identified.", "It is monitoring."]


def test_a_digest_that_is_refused_is_told_one_by_one_and_only_what_is_refused_is_lost(office):
    row = office.open()
    for text in ("first", "second"):
        office.put(row, "slack", "post", text=text, channel="#incident")
    office.wait(row, timedelta(minutes=10))
    office.slack.fail("404", path="chat.postMessage", times=2)  # the digest, and the first alone
    office.send_all()
    assert office.posted("incident") == ["second"]
    assert states(office, row) == [("post", "failed"), ("post", "sent")]


# --- what is given up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["statuspage", "pagerduty"])
def test_what_a_service_refuses_for_good_is_said_in_slack_with_its_words(office, channel):
    row = office.open_with_page()
    if channel == "statuspage":
        office.publish(row, "investigating", "We look into it.", unknown="major_outage")
    else:
        office.pagerduty.fail("403", path="/notes")
        office.put(row, "pagerduty", "note", text="We look into it.")
    office.send_all()
    [told] = office.posted("oncall")
    assert f"gives up telling {channel}" in told
    assert "We look into it." in told
    assert ("422" if channel == "statuspage" else "403") in told


@pytest.mark.parametrize("kind", ["401", "403", "404"])
def test_what_we_may_not_tell_waits_for_a_person_to_mend_it_and_they_are_told_once(office, kind):
    row = office.open_with_page()
    office.statuspage.fail(kind, times=None)
    office.publish(row, "investigating", "We look into it.")
    for _ in range(3):
        office.tick()
        office.lapse(row)
    [told] = office.posted("oncall")
    assert "cannot tell statuspage for now" in told
    assert states(office, row)[0] == ("publish", "waiting")
    office.statuspage.heal()
    office.send_all()
    assert [update.body for update in office.published(row)] == ["We look into it."]


def test_after_an_hour_without_access_each_that_waits_is_given_up(office):
    row = office.open_with_page()
    office.statuspage.fail("401", times=None)
    for text in ("We look into it.", "We know."):
        office.publish(row, "investigating", text)
    office.wait(row, timedelta(hours=1))
    office.tick()
    assert states(office, row)[:2] == [("publish", "failed")] * 2
    office.send_all()
    said = "\n".join(office.posted("oncall"))
    assert said.count("gives up telling statuspage") == 2
    assert ("We look into it." in said, "We know." in said) == (True, True)


def test_what_slack_refuses_for_good_becomes_a_decision_once(office):
    row = office.open()
    office.slack.fail("404", times=None)
    for text in ("one", "two"):
        office.put(row, "slack", "post", text=text, channel="#gone")
    office.send_all()
    assert decided(office, row) == ["gives up telling slack: post"]


# --- keepers ------------------------------------------------------------------------------------------


def test_a_keeper_that_dies_between_sending_and_recording_leaves_nothing_to_be_told_twice(office):
    row = office.open_with_page()
    office.put(row, "slack", "post", text="we look", channel="#incident")
    office.put(row, "pagerduty", "escalate", text="restart did not hold", link="http://run")
    office.kill_a_keeper_once_told(lambda: office.posted("incident") and office.notes(row))
    assert {state for _, state in states(office, row)} == {"waiting"}
    office.lapse(row)
    office.send_all()
    assert (office.posted("incident"), office.pages(row)) == (["we look"], ["escalated"])
    assert {state for _, state in states(office, row)} == {"sent"}


def test_two_keepers_at_once_tell_everything_once_and_in_order(office):
    row = office.open_with_page()
    for number in range(20):
        office.put(row, "slack", "post", text=f"post {number}", channel="#incident")
        office.put(row, "pagerduty", "note", text=f"note {number}")
    office.run_keepers(2, until=lambda: {state for _, state in states(office, row)} == {"sent"})
    assert office.posted("incident") == [f"post {number}" for number in range(20)]
    assert office.notes(row) == [f"note {number}" for number in range(20)]


def test_what_takes_long_to_send_stays_ours(office, monkeypatch):
    monkeypatch.setattr(outbox, "CLAIM_S", 1.0)
    monkeypatch.setattr(outbox, "RENEW_S", 0.2)
    row = office.open()
    office.slack.fail("timeout")
    office.put(row, "slack", "post", text="we look", channel="#incident")
    seen = office.run_keepers(1, until=lambda: office.store.messages(row.id)[0].state == "sent", look=office.due)
    assert seen <= {0, 1}
    assert office.store.messages(row.id)[0].tries == 2
    assert now() - office.store.messages(row.id)[0].created_at > timedelta(seconds=2)


def test_a_page_does_not_wait_for_many_notes_that_hang(tmp_path):
    with Office(tmp_path, timeout_s=20) as office:
        others = [office.open_with_page() for _ in range(outbox.AT_ONCE + 1)]
        row = office.open_with_page()
        office.pagerduty.fail("timeout", times=None, path="/notes")
        for other in others:
            office.put(other, "pagerduty", "note", text="it hangs")
        began = time.monotonic()
        office.put(row, "pagerduty", "escalate", text="help is needed", link="http://run")
        office.run_keepers(1, until=lambda: office.pages(row) == ["escalated"])
        assert time.monotonic() - began < 10
