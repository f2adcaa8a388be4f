"""Tickets: what is left to do, with owner and due date, found again rather than doubled."""

from datetime import date
from typing import Any

import pytest

from responder.domain.evidence import Finding, Truth
from responder.domain.hypothesis import Hypothesis, Judgement
from responder.domain.incident import Severity
from responder.domain.postmortem import follow_up
from responder.domain.profile import Contact, TicketAccess
from responder.domain.tickets import Found, Ticket, closing_comment, follow_ups, minor_incident
from tests.factories import NOON, alert, hypothesis_data, profile

ACCESS = {"token": "SHOP_GITHUB", "repository": "shop/ops", "owner": "robin"}


def found(incident_id: str = "abc123", **changes: Any) -> Found:
    fields = {"service": "shop", "severity": "P2", "summary": "gateway down", "at": NOON, "link": "http://run/1"}
    return Found(incident_id=incident_id, **(fields | changes))


def leading(standing: str = "supported") -> Judgement:
    finding = Finding(truth=Truth.TRUE, statement="unit.active_state is failed", evidence=("e3", "e4"))
    return Judgement(
        hypothesis=Hypothesis.model_validate(hypothesis_data("gateway-crash")),
        standing=standing,
        hosts=("gw-1",),
        supporting=(finding,),
        refuting=(),
        missing=(),
    )


def filed(judgement: Judgement | None, *contacts: Contact, **changes: Any) -> tuple[Ticket, ...]:
    return follow_ups(
        found(**changes), judgement, follow_up(judgement, Severity.P2, NOON, contacts), owner="robin"
    )


def test_the_three_tickets_quote_the_hypothesis_its_evidence_an_owner_and_a_due_date():
    manager = Contact(role="Engineering Manager", primary="direct")
    prevention, monitoring, documentation = filed(leading(), manager)
    assert prevention.title == "shop: Prevent it."
    assert "**Owner:** Engineering Manager\n**Due:** 2026-03-18" in prevention.text
    assert "Likely cause: The cause of gateway-crash." in prevention.text
    assert r"- unit.active\_state is failed (e3, e4)" in prevention.text
    assert "Watch it." in monitoring.text
    assert "**Owner:** robin" in monitoring.text, "nobody has the role"
    assert "Write it down" in documentation.text


def test_the_same_finding_has_the_same_marker_in_another_incident_and_each_kind_its_own():
    first, later = filed(leading()), filed(leading(), incident_id="def456")
    assert [ticket.marker for ticket in first] == [ticket.marker for ticket in later]
    assert len({ticket.marker for ticket in first}) == 3
    assert first[0].marker == "<!-- incident-responder finding shop/gateway-crash/prevention -->"
    assert first[0].seen_in != later[0].seen_in
    assert all(ticket.marker in ticket.text and ticket.seen_in in ticket.text for ticket in first)
    assert all(ticket.seen_in in ticket.comment for ticket in first)


@pytest.mark.parametrize("judgement", [None, leading("open")])
def test_without_a_supported_cause_only_the_catalogues_gap_is_filed(judgement):
    [ticket] = filed(judgement)
    assert ticket.marker == "<!-- incident-responder finding shop/unexplained/documentation -->"
    assert "Likely cause" not in ticket.text


def test_a_minor_incident_is_a_ticket_that_its_next_occurrence_finds():
    def minor(incident_id: str) -> Ticket:
        return minor_incident(
            found(incident_id, severity="P4"),
            "no check shows an impact",
            [alert("ShopSlow", summary="a little slow")],
            owner="robin",
            due=date(2026, 5, 3),
        )

    first, later = minor("abc123"), minor("def456")
    assert first.title == "P4 shop: gateway down"
    assert first.marker == later.marker == "<!-- incident-responder finding shop/P4/gateway-down -->"
    assert "Look into it: no check shows an impact" in first.text
    assert "ShopSlow: a little slow" in first.text
    text, mark = closing_comment(found(), "no_fault: nothing is wrong")
    assert text.startswith("Incident abc123: no\\_fault: nothing is wrong")
    assert mark in text


def test_a_hostile_summary_neither_ends_a_marker_nor_forges_one():
    forged = "x --> <!-- incident-responder finding shop/gateway-crash/prevention -->"
    hostile = minor_incident(found(summary=forged, severity="P4"), forged, [], owner="o", due=date(2026, 5, 3))
    other = filed(leading())[0]
    assert other.marker not in hostile.text
    assert other.marker not in hostile.comment
    assert hostile.marker.count("-->") == 1


def test_due_days_of_the_profile_replace_ours_one_by_one():
    mine = profile(tickets=ACCESS | {"due_days": {"P1": 3}})
    assert mine.due_days == {Severity.P1: 3, Severity.P2: 14, Severity.P3: 30, Severity.P4: 60}
    assert profile().due_days[Severity.P1] == 7


@pytest.mark.parametrize("change", [{"repository": "shop"}, {"owner": "@robin"}, {"token": "ghp_abc"}])
def test_a_profile_says_where_tickets_go_and_whose_they_are(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TicketAccess.model_validate(ACCESS | change)
