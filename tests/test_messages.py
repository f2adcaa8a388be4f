"""What a notice becomes in each channel that a profile names."""

from datetime import timedelta
from typing import Any

import pytest

from responder.domain.incident import Kind, Severity
from responder.domain.messages import Message, notice_messages, public_state
from responder.domain.notices import InitialNotice, Notice, ResolutionNotice, StatusUpdate
from responder.domain.profile import tightened
from tests.factories import NOON, profile

SLACK = {"token": "SHOP_SLACK", "stakeholder_channel": "#sales"}
PAGE = {"api_token": "SHOP_STATUSPAGE", "page_id": "p1", "component_ids": ["c1", "c2"]}


def initial() -> InitialNotice:
    return InitialNotice(
        description="gateway <down>",
        severity=Severity.P1,
        at=NOON,
        impact=None,
        component="orders",
        next_update="15 minutes",
    )


def update(status: str = "Mitigating", **changes: Any) -> StatusUpdate:
    fields = {"description": "gateway down", "at": NOON, "status": status, "update": "x", "next_update": "y"}
    return StatusUpdate(**fields, impact=None, eta=None, **changes)


def resolution() -> ResolutionNotice:
    return ResolutionNotice(
        description="gateway down",
        at=NOON,
        duration=timedelta(minutes=5),
        summary="restarted",
        impact=None,
        root_cause=None,
        severity=Severity.P2,
    )


def told(
    notice: Notice, *, severity: Severity = Severity.P2, kind: Kind = Kind.AVAILABILITY, **sections: Any
) -> list[Message]:
    return list(notice_messages(profile(**sections), notice, severity=severity, kind=kind))


@pytest.mark.parametrize(
    ("notice", "state"),
    [
        (initial(), "investigating"),
        (update("Investigating"), "investigating"),
        (update("Identified"), "identified"),
        (update("Mitigating"), "identified"),
        (update("Mitigating", verifying=True), "monitoring"),
        (update("Resolved"), "resolved"),
        (resolution(), "resolved"),
    ],
)
def test_a_status_page_has_its_own_words(notice, state):
    assert public_state(notice) == state


def test_a_notice_goes_where_the_profile_says_and_nowhere_else():
    assert told(initial()) == []
    assert [m.channel for m in told(initial(), slack={"token": "SHOP_SLACK"})] == ["slack"]
    messages = told(initial(), slack=SLACK, statuspage=PAGE)
    assert [m.channel for m in messages] == ["slack", "slack-stakeholders", "statuspage"]
    assert messages[1].body["channel"] == "#sales"


def test_each_stakeholders_block_has_a_channel_of_its_own_and_gets_plain_text():
    mail, hook = told(initial(), stakeholders=["incident-notification/sales", "custom-webhook/ops"])
    assert (mail.channel, hook.channel) == (
        "stakeholders/incident-notification/sales",
        "stakeholders/custom-webhook/ops",
    )
    assert mail.body["block"] == "incident-notification/sales"
    assert mail.body["subject"] == "INCIDENT: gateway <down>"
    assert mail.body["text"].startswith("INCIDENT: gateway <down>\nSeverity: P1\n")


@pytest.mark.parametrize(
    ("severity", "impact", "component"),
    [
        (Severity.P1, "critical", "major_outage"),
        (Severity.P2, "major", "partial_outage"),
        (Severity.P3, "minor", "degraded_performance"),
    ],
)
def test_the_page_shows_how_bad_it_is_and_its_components_until_the_end(severity, impact, component):
    [message] = told(initial(), severity=severity, statuspage=PAGE)
    assert (message.body["impact"], message.body["components"]) == (impact, {"c1": component, "c2": component})
    [end] = told(resolution(), severity=severity, statuspage=PAGE)
    assert end.body["components"] == {"c1": "operational", "c2": "operational"}


def test_a_text_for_customers_is_the_notice_without_html():
    [message] = told(initial(), statuspage=PAGE)
    assert message.body["text"].startswith("INCIDENT: gateway &lt;down&gt;\nSeverity: P1\n")
    assert message.body["name"] == "gateway <down>"


def test_a_text_for_customers_is_a_draft_unless_the_profile_grants_it_and_of_a_breach_always():
    def draft(notice: Notice, granted: bool, kind: Kind = Kind.AVAILABILITY) -> bool:
        [message] = told(notice, kind=kind, statuspage=PAGE | {"granted": granted})
        return message.draft

    for notice in (initial(), update(), resolution()):
        assert draft(notice, granted=False)
        assert not draft(notice, granted=True)
        assert draft(notice, granted=True, kind=Kind.SECURITY)


def test_a_later_edit_can_only_take_the_grant_away():
    granted, bare = profile(statuspage=PAGE | {"granted": True}), profile()
    withheld = profile(statuspage=PAGE)
    assert tightened(granted, granted).statuspage.granted
    assert not tightened(granted, withheld).statuspage.granted
    assert not tightened(granted, bare).statuspage.granted
    assert not tightened(withheld, granted).statuspage.granted
