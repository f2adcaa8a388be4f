"""The forms that a paused run shows to people."""

from enum import StrEnum

from prefect.input import RunInput
from pydantic import Field


class Closing(StrEnum):
    """What a person may answer when an incident could be closed."""

    CLOSE = "close"
    KEEP_OPEN = "keep open"


class Approving(StrEnum):
    """What a person may answer before a step that is not taken without them."""

    APPROVE = "approve"
    DECLINE = "decline"
    ANOTHER = "another strategy"


class ApprovalForm(RunInput):
    """Approve the step, decline it, or name another strategy."""

    decision: Approving = Field(Approving.DECLINE, description="What to do.")
    strategy: str = Field("", description="Only for `another strategy`: which one, like restart or rollback.")
    by: str = Field(min_length=2, description="Your name, for the record.")
    why: str = Field("", description="What speaks for it, one sentence.")


class ClosingForm(RunInput):
    """Close a confirmed incident, or keep it open."""

    decision: Closing = Field(Closing.KEEP_OPEN, description="Close the incident, or keep it open.")
    by: str = Field(min_length=2, description="Your name, for the record.")
    why: str = Field("", description="What speaks for it, one sentence.")
