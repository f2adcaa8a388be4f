"""The name of an incident's channel: `incident-YYYYMMDD-brief-description` ("Start incident", Phase 1.4)."""

from datetime import date

from slugify import slugify

CHANNEL_NAME_LIMIT = 80
"""Characters of a Slack channel's name (Slack API, conversations.create)."""


def channel_name(at: date, description: str) -> str:
    """The channel's name, at most 80 characters of a-z, 0-9 and hyphen, whatever the description holds.

    `at` is the day (UTC) of the opening. Words are cut whole where that is possible; a description
    without a letter or digit leaves the date alone.
    """
    prefix = f"incident-{at:%Y%m%d}"
    slug = slugify(
        description, max_length=CHANNEL_NAME_LIMIT - len(prefix) - 1, word_boundary=True, save_order=True
    )
    return f"{prefix}-{slug}".rstrip("-")
