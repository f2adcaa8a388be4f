"""The forms that a paused run shows to people."""

from enum import StrEnum

from prefect.input import RunInput
from pydantic import Field

from responder.domain.approval import Decision


class Closing(StrEnum):
    """What a person may answer when an incident could be closed."""

    CLOSE = "close"
    KEEP_OPEN = "keep open"


class ApprovalForm(RunInput):
    """Approve the step, decline it, or name another strategy."""

    decision: Decision = Field(Decision.DECLINE, description="What to do.")
    strategy: str = Field("", description="Only for `another strategy`: which one, like restart or rollback.")
    by: str = Field(min_length=2, description="Your name, for the record.")
    why: str = Field("", description="What speaks for it, one sentence.")


class ClosingForm(RunInput):
    """Close a confirmed incident, or keep it open."""

    decision: Closing = Field(Closing.KEEP_OPEN, description="Close the incident, or keep it open.")
    by: str = Field(min_length=2, description="Your name, for the record.")
    why: str = Field("", description="What speaks for it, one sentence.")
