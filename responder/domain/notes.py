"""Collecting what one look at one host shows."""

from datetime import datetime
from typing import Any

from responder.domain.evidence import Evidence
from responder.domain.redaction import clipped, redact_value

EXCERPT_CHARACTERS = 1_500
VALUE_CHARACTERS = 1_000


class Notes:
    """Collects the evidence of one look at one host, cleaned of secrets and bounded as it comes in."""

    def __init__(self, host: str, at: datetime) -> None:
        self.host = host
        self.at = at
        self.evidence: list[Evidence] = []

    def saw(self, key: str, how: str, value: Any, excerpt: str = "") -> None:
        """Note an observation; a value of None counts as not seen."""
        if value is None:
            self.missed(key, how, "the answer does not say", excerpt)
            return
        clean = clipped(value, VALUE_CHARACTERS) if isinstance(value, str) else redact_value(value)
        self._note(key, how, excerpt, value=clean)

    def missed(self, key: str, how: str, why: str, excerpt: str = "") -> None:
        """Note that something could not be observed, and why."""
        self._note(key, how, excerpt, unknown=clipped(why, 300) or "no reason given")

    def _note(self, key: str, how: str, excerpt: str, **rest: Any) -> None:
        self.evidence.append(
            Evidence(
                id="",
                key=key,
                host=self.host,
                at=self.at,
                how=clipped(how, 300),
                excerpt=clipped(excerpt, EXCERPT_CHARACTERS),
                **rest,
            )
        )

    def numbered(self, start: int = 1) -> tuple[Evidence, ...]:
        """The evidence with ids, for looks that no incident keeps."""
        return tuple(e.model_copy(update={"id": f"e{n}"}) for n, e in enumerate(self.evidence, start=start))
