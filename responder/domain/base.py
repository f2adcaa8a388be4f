"""The base of every model that passes between phases or comes from a file."""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Frozen(BaseModel):
    """Immutable, and strict about unknown keys: a typo is an error, not a default.

    Errors do not repeat what was put in: it may be a secret in the wrong place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def in_utc(moment: datetime) -> datetime:
    """`moment` in UTC; one without a zone is taken as UTC. Raises ValueError outside the calendar."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{moment.isoformat()} cannot be told in UTC") from error


UtcDatetime = Annotated[datetime, AfterValidator(in_utc)]

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(data: Any) -> Any:
    """`data` (JSON-like) as every database and encoding can hold it.

    NUL, which PostgreSQL refuses, and lone surrogates, which UTF-8 does, become U+FFFD; a number that
    is not finite, which JSON does not know, becomes None.
    """
    match data:
        case str():
            return _UNSTORABLE.sub("\ufffd", data)
        case float() if not math.isfinite(data):
            return None
        case dict():
            return {storable(key): storable(value) for key, value in data.items()}
        case list() | tuple():
            return [storable(item) for item in data]
    return data


Text = Annotated[str, BeforeValidator(storable)]
"""Text from outside: a hostile byte must not cost us the alert or the evidence that holds it."""


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)
