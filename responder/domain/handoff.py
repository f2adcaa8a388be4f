"""Handing the command of an incident to another person: the briefing.

Source: the document's "IC Handoff Procedure".
"""

from pydantic import Field

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.incident import Severity
from responder.domain.notices import render

COMMANDER = "Incident Commander"


class Briefing(Frozen):
    """What the incoming commander must know. `outgoing` is None where nobody held the command."""

    description: str
    severity: Severity | None
    at: UtcDatetime
    incoming: str = Field(min_length=1)
    outgoing: str | None
    status: str
    in_progress: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    stakeholders: tuple[str, ...] = ()

    @property
    def change(self) -> str:
        """Like `robin takes over from ana`."""
        return f"{self.incoming} takes over{f' from {self.outgoing}' if self.outgoing else ''}"


def render_briefing(briefing: Briefing) -> str:
    """The briefing as plain text: status, actions in progress, open questions, key stakeholders."""
    return render("handoff.txt.j2", briefing=briefing)
