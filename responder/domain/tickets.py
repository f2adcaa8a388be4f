"""Tickets: what an incident leaves to be done, worded so that it is found again when it comes back.

Source: the document's phase 5, "Create follow-up tickets", and its P4, which is nothing but a ticket.
"""

from collections.abc import Sequence
from datetime import date

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.hypothesis import Judgement
from responder.domain.incident import Alert, Severity, slug
from responder.domain.notices import Shown, copied, issue, plain, render
from responder.domain.postmortem import ActionItem, cited

TITLE_LIMIT = 200
_LONGEST_ACTION = 2_000


class Found(Frozen):
    """The incident that a ticket comes from."""

    incident_id: str
    service: str
    severity: Severity
    summary: str
    at: UtcDatetime
    link: str


class Ticket(Frozen):
    """A ticket for what was found, and the comment that an open one gets instead of a second one.

    Texts are Markdown. `marker` says what was found, `seen_in` in which incident: both stand in the texts,
    unseen by readers, and the next incident looks for them.
    """

    title: str
    text: str
    comment: str
    marker: str
    seen_in: str


def follow_ups(
    found: Found, leading: Judgement | None, items: Sequence[ActionItem], *, owner: str
) -> tuple[Ticket, ...]:
    """One ticket for each action item. `owner` stands in where an item has none.

    The same hypothesis of the same service is the same finding, in whichever incident.
    """
    supported = leading if leading and leading.standing == "supported" else None
    cause = supported.hypothesis.cause if supported else None
    evidence = [cited(finding) for finding in supported.supporting] if supported else []
    about = supported.hypothesis.id if supported else "unexplained"
    return tuple(
        _ticket(
            found,
            finding=f"{found.service}/{about}/{item.kind}",
            title=f"{found.service}: {item.action}",
            action=str(item.action),
            owner=item.owner if isinstance(item.owner, str) else owner,
            due=item.due,
            cause=cause,
            evidence=evidence,
        )
        for item in items
        if isinstance(item.due, date)
    )


def minor_incident(found: Found, reason: str, alerts: Sequence[Alert], *, owner: str, due: date) -> Ticket:
    """The ticket that a P4 is: neither page nor channel, but not forgotten."""
    return _ticket(
        found,
        finding=f"{found.service}/{found.severity.value}/{slug(found.summary)}",
        title=f"{found.severity.value} {found.service}: {found.summary}",
        action=f"Look into it: {reason}",
        owner=owner,
        due=due,
        cause=None,
        evidence=[f"{alert.name}: {alert.summary}" for alert in alerts],
    )


def closing_comment(found: Found, ending: str) -> tuple[str, str]:
    """What a P4's ticket is told of the incident's end, and the mark by which it is told once."""
    mark = _marker("ended", found.incident_id)
    return f"Incident {issue(found.incident_id)}: {issue(ending, _LONGEST_ACTION)}\n\n{mark}", mark


def _ticket(
    found: Found,
    *,
    finding: str,
    title: str,
    action: str,
    owner: str,
    due: date,
    cause: str | None,
    evidence: Sequence[str],
) -> Ticket:
    marker, seen_in = _marker("finding", finding), _marker("incident", found.incident_id)
    link = copied(found.link)
    values = {
        "found": found,
        "action": action,
        "owner": owner,
        "due": due,
        "cause": cause,
        "evidence": [issue(item) for item in evidence],
        "link": Shown(f"<{link}>" if link and not set(link) & set("<>") else ""),
    }
    return Ticket(
        title=plain(title, TITLE_LIMIT),
        text=f"{render('ticket.md.j2', **values)}\n\n{marker}\n{seen_in}",
        comment=f"{render('ticket_comment.md.j2', **values)}\n\n{seen_in}",
        marker=marker,
        seen_in=seen_in,
    )


def _marker(what: str, name: str) -> str:
    return f"<!-- incident-responder {what} {name} -->"
