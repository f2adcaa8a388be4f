"""What can go wrong, in three kinds. Blocks turn every vendor's exception into one of these, once.

A caller decides by kind alone: a `TransientError` may be tried again, a `PermanentError` needs a
person or another way, and after an `OutcomeUnknownError` nobody may act before somebody has looked.
"""

from responder.domain.redaction import redact


class IncidentResponseError(Exception):
    """The root of every error of ours. The message says what happened, where, and what to do next.

    It is cleaned of secrets here, once: what hosts and vendors say becomes a part of it, and goes everywhere.

    `page` is where the documentation helps with it, like `docs/how-to.md#host-keys`, for what a person can mend;
    else empty. The command line prints it below the message.
    """

    page: str = ""

    def __init__(self, message: str = "", *, page: str = "") -> None:
        super().__init__(redact(message))
        self.page = page or self.page


class TransientError(IncidentResponseError):
    """Nothing was changed and the same call may succeed later.

    `retry_after_s` is what the other side asked for (seconds), or None.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, page: str = "") -> None:
        super().__init__(message, page=page)
        self.retry_after_s = retry_after_s


class PermanentError(IncidentResponseError):
    """Nothing was changed and repeating the call will not help: wrong key, unknown host, bad input."""


class DeniedError(PermanentError):
    """We are not let in: credentials, a right or an address are wrong, and a person has to mend that."""


class OutcomeUnknownError(IncidentResponseError):
    """The call was sent and its answer was lost: it may or may not have happened."""


class NotFoundError(PermanentError):
    """What was named does not exist."""


class ConflictError(PermanentError):
    """Somebody was quicker, or things have changed meanwhile: look again, and decide anew."""


class HostKeyError(PermanentError):
    """The host's key is unknown or has changed. Never accepted automatically."""

    page = "docs/how-to.md#host-keys"


class ProfileError(PermanentError):
    """A profile, scenario or catalogue file is wrong. The message names file, line and nearest key."""


class StaleEpochError(IncidentResponseError):
    """Another run has taken this incident up: this one must end without touching anything."""


class BusyError(PermanentError):
    """Another incident's attempt is under way on the same machine: this one was not begun."""
