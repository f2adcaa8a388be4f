"""The forms that a paused run shows to people."""

from enum import StrEnum

from prefect.input import RunInput
from pydantic import Field


class Closing(StrEnum):
    """What a person may answer when an incident could be closed."""

    CLOSE = "close"
    KEEP_OPEN = "keep open"


class ClosingForm(RunInput):
    """Close a confirmed incident, or keep it open."""

    decision: Closing = Field(Closing.KEEP_OPEN, description="Close the incident, or keep it open.")
    by: str = Field(min_length=2, description="Your name, for the record.")
    why: str = Field("", description="What speaks for it, one sentence.")
