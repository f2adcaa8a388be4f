"""Evidence: typed observations with where, when and how; and the three-valued logic over them.

Unknown is a value of its own. A missing metric, a time-out or a 429 is unknown: never healthy, never zero.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from responder.domain.base import Frozen, Text, UtcDatetime, storable

Verdict = Literal["healthy", "unhealthy", "unknown"]


class Truth(StrEnum):
    """Yes, no, or cannot be told."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


class Evidence(Frozen):
    """One observation. `value` is None exactly when `unknown` says why it could not be made.

    A number that is not finite is no observation: it becomes unknown.
    """

    id: str = Field(description="Short id that statements cite, like `e12`.")
    key: str = Field(description="What was observed, like `unit.active_state`.")
    host: str = Field(description="Where; the service's name for what no single host shows.")
    at: UtcDatetime
    how: Text = Field(description="The command or URL that showed it.")
    value: Annotated[Any, BeforeValidator(storable)] = None
    unknown: Text | None = None
    excerpt: Text = Field("", description="A bounded, cleaned piece of the raw answer.")

    @model_validator(mode="before")
    @classmethod
    def _finite(cls, data: Any) -> Any:
        value = data.get("value") if isinstance(data, dict) else None
        if isinstance(value, float) and not math.isfinite(value):
            return {**data, "value": None, "unknown": f"the answer was {value}, which is no number"}
        return data

    @model_validator(mode="after")
    def _value_or_reason(self) -> "Evidence":
        if (self.value is None) != (self.unknown is not None):
            raise ValueError(f"{self.key}: evidence has either a value or the reason why it has none")
        return self


class Dossier(Frozen):
    """All the evidence of one look at the service."""

    evidence: tuple[Evidence, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every place that something was observed at, in order of first appearance."""
        return tuple(dict.fromkeys(item.host for item in self.evidence))

    def of(self, key: str) -> tuple[Evidence, ...]:
        """Every host's latest evidence of `key`."""
        latest = {item.host: item for item in self.evidence if item.key == key}
        return tuple(latest.values())

    def on(self, host: str, key: str) -> Evidence | None:
        """The latest evidence of `key` on `host`."""
        return next((item for item in reversed(self.evidence) if item.key == key and item.host == host), None)

    def value(self, host: str, key: str) -> Any:
        """The latest value of `key` on `host`; None when unknown or never looked at."""
        found = self.on(host, key)
        return found.value if found else None

    def for_host(self, host: str) -> "Dossier":
        """Only what was seen at `host`."""
        return Dossier(evidence=tuple(item for item in self.evidence if item.host == host))

    def plus(self, more: Iterable[Evidence]) -> "Dossier":
        """This dossier and `more`, which counts as later."""
        return Dossier(evidence=(*self.evidence, *more))


def _matches(value: Any, pattern: str) -> bool:
    lines = value if isinstance(value, list | tuple) else [value]
    return any(re.search(str(pattern), str(line), re.IGNORECASE) for line in lines)


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "is": lambda value, wanted: value == wanted,
    "is_not": lambda value, wanted: value != wanted,
    "in": lambda value, wanted: value in wanted,
    "above": lambda value, wanted: value > wanted,
    "below": lambda value, wanted: value < wanted,
    "matches": _matches,
}


class Finding(Frozen):
    """What came of one condition, with the ids of the evidence it rests on."""

    truth: Truth
    statement: str
    evidence: tuple[str, ...] = ()


Predicate = Callable[[Dossier], Finding]


class Condition(Frozen):
    """Evidence, operator and value; or the name of a predicate written in Python.

    Over several hosts a condition holds when it holds on `any` of them (the default) or on `all`.
    """

    evidence: str | None = Field(None, description="Key of the evidence, like `health.failure`.")
    operator: Literal["is", "is_not", "in", "above", "below", "matches"] = Field(
        "is", description="How the evidence is compared with the value."
    )
    value: Any = Field(None, description="What it is compared with; `matches` takes a regular expression.")
    hosts: Literal["any", "all"] = Field("any", description="On how many hosts it must hold.")
    predicate: str | None = Field(None, description="Name of a predicate, instead of the three above.")

    @model_validator(mode="after")
    def _one_of_both(self) -> "Condition":
        if (self.evidence is None) == (self.predicate is None):
            raise ValueError("a condition names either `evidence` or a `predicate`")
        if self.evidence and self.value is None:
            raise ValueError(f"the condition on `{self.evidence}` needs a `value`")
        if self.operator == "matches" and self.evidence:
            try:
                re.compile(str(self.value))
            except (re.error, OverflowError) as error:
                raise ValueError(f"`{self.value}` is not a regular expression: {error}") from error
        if self.operator == "in" and self.evidence and not isinstance(self.value, list | tuple):
            raise ValueError("`in` needs a list as its value")
        return self

    def check(self, dossier: Dossier, predicates: Mapping[str, Predicate]) -> Finding:
        """Decide the condition on `dossier`. Never raises: what cannot be compared is unknown."""
        if self.predicate:
            return predicates[self.predicate](dossier)
        assert self.evidence is not None
        found = dossier.of(self.evidence)
        truths = {item.id: self._holds(item) for item in found}
        decisive = [key for key, truth in truths.items() if truth is self._decisive]
        if decisive:
            return Finding(truth=self._decisive, statement=self._text(found), evidence=tuple(decisive))
        if not truths or Truth.UNKNOWN in truths.values():
            return Finding(truth=Truth.UNKNOWN, statement=self._text(found), evidence=tuple(truths))
        return Finding(truth=self._otherwise, statement=self._text(found), evidence=tuple(truths))

    @property
    def _decisive(self) -> Truth:
        return Truth.TRUE if self.hosts == "any" else Truth.FALSE

    @property
    def _otherwise(self) -> Truth:
        return Truth.FALSE if self.hosts == "any" else Truth.TRUE

    def _holds(self, item: Evidence) -> Truth:
        if item.unknown is not None:
            return Truth.UNKNOWN
        try:
            return Truth.TRUE if OPERATORS[self.operator](item.value, self.value) else Truth.FALSE
        except TypeError:
            return Truth.UNKNOWN

    def _text(self, found: tuple[Evidence, ...]) -> str:
        wanted = f"{self.evidence} {self.operator.replace('_', ' ')} {self.value}"
        if not found:
            return f"{wanted}: never observed"
        seen = "; ".join(f"{item.host}: {_seen(item)}" for item in found[:5])
        return f"{wanted} ({seen}{'; …' if len(found) > 5 else ''})"


def _seen(item: Evidence) -> str:
    if item.unknown is not None:
        return f"unknown, {item.unknown}"
    if isinstance(item.value, list | tuple):
        return f"{len(item.value)} entries"
    return str(item.value)[:80]


def all_of(findings: Iterable[Finding]) -> Truth:
    """True when all are; false as soon as one is; else unknown. No findings: true."""
    truths = [finding.truth for finding in findings]
    if Truth.FALSE in truths:
        return Truth.FALSE
    return Truth.UNKNOWN if Truth.UNKNOWN in truths else Truth.TRUE


def any_of(findings: Iterable[Finding]) -> Truth:
    """True as soon as one is; unknown when one might be; else false."""
    truths = [finding.truth for finding in findings]
    if Truth.TRUE in truths:
        return Truth.TRUE
    return Truth.UNKNOWN if Truth.UNKNOWN in truths else Truth.FALSE
