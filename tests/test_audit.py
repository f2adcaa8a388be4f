"""The auditor: a page that stays quiet in our name while nobody works on it calls people again."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.outbox_faults import Office
from responder.domain.base import now
from responder.domain.errors import TransientError
from responder.domain.incident import Ending, Outcome
from responder.keeper import audit
from responder.keeper.audit import Auditor
from responder.store.tables import IncidentRow

LEASE = timedelta(seconds=24)
"""A drill's snooze."""


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Office(tmp_path) as opened:
        yield opened


@pytest.fixture
def auditor(office: Office) -> Auditor:
    return Auditor(office.store, office.access)


def quiet(office: Office, *, outcome: Outcome | None = None, lease_s: float | None = None) -> IncidentRow:
    """An incident whose page we have acknowledged, and never snoozed."""
    row = office.open_with_page()
    office.pagerduty.fail("500", path="/snooze")
    with pytest.raises(TransientError):
        office.access.pagerduty(row.service).acknowledge(row.pagerduty_id, 60)
    if lease_s is not None or outcome:
        epoch = office.store.begin_run(row.id, holder="test", lease_s=lease_s or 60)
        office.store.begin_step(row.id, epoch, "diagnosis", deadline_s=600)
        if outcome:
            office.store.end_run(row.id, epoch, Ending(outcome=outcome, reason="a person is needed"))
    return office.store.incident(row.id)


def look_for(office: Office, auditor: Auditor, monkeypatch, seconds: float) -> None:
    """It looks again and again for so long; the outbox works beside it."""
    begun = now()
    for passed in range(0, int(seconds) + 1, 2):
        monkeypatch.setattr(audit, "now", lambda passed=passed: begun + timedelta(seconds=passed))
        auditor.look()
    office.send_all()


@pytest.mark.parametrize(
    "gone",
    [{"lease_s": -1}, {"outcome": Outcome.ESCALATED}, {"outcome": Outcome.MITIGATED_UNCONFIRMED}, {}],
    ids=["lapsed", "escalated", "unconfirmed", "never begun"],
)
def test_a_page_on_which_nobody_works_and_that_stays_quiet_beyond_our_snooze_calls_people_once(
    office, auditor, monkeypatch, gone
):
    row = quiet(office, **gone)
    look_for(office, auditor, monkeypatch, 22)
    assert office.pages(row) == [], "a snooze would not have ended yet"
    look_for(office, Auditor(office.store, office.access), monkeypatch, 60)
    assert office.pages(row) == ["escalated"]
    [note] = office.notes(row)
    assert "nor a person works on it" in note
    assert f"incident show {row.id}" in note
    [decided] = [made for made in office.store.decisions(row.id) if made.who == "auditor"]
    assert decided.what == "calls people again (1)"


def test_a_page_that_falls_quiet_again_calls_people_again(office, auditor, monkeypatch):
    row = quiet(office)
    look_for(office, auditor, monkeypatch, 40)
    office.pagerduty.fail("500", path="/snooze")
    with pytest.raises(TransientError):
        office.access.pagerduty(row.service).acknowledge(row.pagerduty_id, 60)
    look_for(office, Auditor(office.store, office.access), monkeypatch, 40)
    assert office.pages(row) == ["escalated"] * 2


@pytest.mark.parametrize("by", ["run", "person", "person too", "taken", "closed"])
def test_what_somebody_works_on_is_never_taken_from_them(office, auditor, monkeypatch, by):
    row = quiet(office, lease_s=10_000 if by == "run" else -1)
    if by == "person":
        office.pagerduty._incidents[row.pagerduty_id].acknowledgements.clear()
    if by.startswith("person"):
        office.pagerduty.person_acknowledges(row.pagerduty_id, "Robin")
    if by == "taken":
        office.store.note_world(row.id, taken_by="robin")
    if by == "closed":
        office.store.close_incident(row.id, who="robin", why="it is over")
    look_for(office, auditor, monkeypatch, 200)
    assert office.pages(row) == []
    assert office.pagerduty.incidents[0].status == "acknowledged"


def test_one_page_that_cannot_be_read_keeps_no_other_from_being_seen(office, auditor, monkeypatch):
    broken, seen = quiet(office), quiet(office)
    office.pagerduty.fail("500", times=None, path=broken.pagerduty_id)
    begun = now()
    for passed in range(0, 60, 2):
        monkeypatch.setattr(audit, "now", lambda passed=passed: begun + timedelta(seconds=passed))
        auditor.look()
    assert [m.kind for m in office.store.messages(seen.id)] == ["escalate"]
    assert office.store.messages(broken.id) == []
