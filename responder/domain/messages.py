"""What a notice becomes in each channel that a profile names: messages for the outbox, not yet sent."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from responder.domain.base import Frozen
from responder.domain.incident import Kind, Severity
from responder.domain.notices import (
    InitialNotice,
    Notice,
    ResolutionNotice,
    StatusUpdate,
    for_slack,
    for_statuspage,
    plain,
    render_notice,
    slack_blocks,
)
from responder.domain.profile import Profile, StatuspageAccess

PAGERDUTY, SLACK, SLACK_STAKEHOLDERS = "pagerduty", "slack", "slack-stakeholders"
STATUSPAGE, TICKETS, STAKEHOLDERS = "statuspage", "tickets", "stakeholders"

PAGES = frozenset({"open", "page", "escalate"})
"""Kinds of messages by which somebody is called: never given up, unless somebody else is asked instead."""

_OVERTAKEN = frozenset({"create_channel", "post", "note"})

PublicState = Literal["investigating", "identified", "monitoring", "resolved"]

# Statuspage has no word for mitigating; what is being verified is being monitored there.
_STATES: dict[str, PublicState] = {
    "Investigating": "investigating",
    "Identified": "identified",
    "Mitigating": "identified",
    "Resolved": "resolved",
}
_IMPACTS = {Severity.P1: "critical", Severity.P2: "major", Severity.P3: "minor", Severity.P4: "none"}
_COMPONENTS = {
    Severity.P1: "major_outage",
    Severity.P2: "partial_outage",
    Severity.P3: "degraded_performance",
    Severity.P4: "operational",
}


class Message(Frozen):
    """One message of the outbox. A draft waits for a person."""

    channel: str
    kind: str
    body: dict[str, Any]
    draft: bool = False


REPEATED = "Repeated, because it may not have arrived: "
"""Stands before what is said again where nobody can look whether it has been said."""


def tagged(text: str, tags: Sequence[str]) -> str:
    """`text` with its tags at the end, by which it is found again where people read it, as `tags_in` does."""
    return f"{text} [{' '.join(tags)}]"


def tags_in(texts: Iterable[str]) -> frozenset[str]:
    """The tags of all these texts."""
    ends = (re.search(r"\[([0-9a-f]{8}(?: [0-9a-f]{8})*)\]\s*$", text) for text in texts)
    return frozenset(tag for end in ends if end for tag in end[1].split())


def next_to_send(kinds: Sequence[str]) -> tuple[int, ...]:
    """Which of the messages that wait for one channel, by place in their order, may be sent now.

    The first; and a page beside it, unless something stands before that which may change whom it reaches.
    """
    behind = next((place for place, kind in enumerate(kinds) if kind not in _OVERTAKEN), len(kinds))
    overtakes = 0 < behind < len(kinds) and kinds[behind] in PAGES
    return (0, behind) if overtakes else (0,)


def notice_messages(profile: Profile, notice: Notice, *, severity: Severity, kind: Kind) -> tuple[Message, ...]:
    """The notice for every channel that gets notices: the incident's, the stakeholders', the status page.

    Text for stakeholders is plain.

    Source: the document's phases 1, 2 and 4 ("Post initial assessment", "Update stakeholders", "Update status
    page") and its "Communication Templates".
    """
    text = render_notice(notice)
    messages: list[Message] = []
    if profile.slack:
        body: dict[str, Any] = {"text": for_slack(text), "blocks": slack_blocks(text)}
        messages.append(Message(channel=SLACK, kind="post", body=body))
        if channel := profile.slack.stakeholder_channel:
            body = {**body, "channel": channel}
            messages.append(Message(channel=SLACK_STAKEHOLDERS, kind="post", body=body))
    for name in profile.stakeholders:
        # A channel for each, so that one that cannot be reached holds up no other.
        body = {"block": name, "subject": plain(text.split("\n")[0], 200), "text": text}
        messages.append(Message(channel=f"{STAKEHOLDERS}/{name}", kind="notify", body=body))
    if profile.statuspage:
        messages.append(_for_customers(profile.statuspage, notice, text, severity, kind))
    return tuple(messages)


def _for_customers(page: StatuspageAccess, notice: Notice, text: str, severity: Severity, kind: Kind) -> Message:
    state = public_state(notice)
    component = "operational" if state == "resolved" else _COMPONENTS[severity]
    body = {
        "name": plain(notice.description, 255),
        "status": state,
        "text": for_statuspage(text),
        "impact": _IMPACTS[severity],
        "components": dict.fromkeys(page.component_ids, component),
    }
    # What is said in public of a breach is never decided by a profile.
    return Message(channel=STATUSPAGE, kind="publish", body=body, draft=not page.granted or kind.people_only)


def public_state(notice: Notice) -> PublicState:
    """The state of a status page for a notice: mitigating is identified, being verified is monitoring."""
    match notice:
        case InitialNotice():
            return "investigating"
        case ResolutionNotice():
            return "resolved"
        case StatusUpdate():
            return "monitoring" if notice.verifying else _STATES[notice.status]
