"""What an incident is: severity, kind, mode, alerts and the words for how it ends.

Source: the document's "Incident Severity Levels" and `design.md`, "The words".
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from annotated_types import MaxLen
from pydantic import Field

from responder.domain.base import Frozen, Text, UtcDatetime
from responder.domain.escaping import bound
from responder.domain.redaction import redact_value


class Severity(StrEnum):
    """P1 critical, P2 high, P3 medium, P4 low."""

    P1 = "P1"
    P2 = "P2"
    P3 = "P3"
    P4 = "P4"

    @property
    def pages_people(self) -> bool:
        """Whether additional responders are paged ("Start incident": if P1/P2)."""
        return self in (Severity.P1, Severity.P2)

    def at_least(self, other: "Severity | None") -> "Severity":
        """The graver of the two: a severity is never lowered below what a person set."""
        return min(self, other) if other else self


class Kind(StrEnum):
    """The class of an incident. One of each kind is open for a service at a time."""

    AVAILABILITY = "availability"
    SECURITY = "security"
    RISK = "risk"

    @property
    def people_only(self) -> bool:
        """Security and risk are never acted upon automatically: evidence first, people decide."""
        return self is not Kind.AVAILABILITY


class Mode(StrEnum):
    """How much may really happen. Parameters can lower it, never raise it."""

    DRY_RUN = "dry-run"
    SHADOW = "shadow"
    LIVE = "live"

    @property
    def acts(self) -> bool:
        """Only a live incident changes anything outside our own data."""
        return self is Mode.LIVE


_MODE_ORDER = {Mode.DRY_RUN: 0, Mode.SHADOW: 1, Mode.LIVE: 2}


def lowest_mode(*modes: Mode | None) -> Mode:
    """The most careful of the modes given; None counts as no wish."""
    return min((mode for mode in modes if mode), key=_MODE_ORDER.__getitem__, default=Mode.DRY_RUN)


class Approvers(StrEnum):
    """Who may approve a strategy that is not allowed by itself. The order is strictness."""

    ANYONE = "anyone"
    NAMED = "named"
    TWO = "two"

    @property
    def persons(self) -> int:
        """How many different persons must say yes."""
        return 2 if self is Approvers.TWO else 1


class Outcome(StrEnum):
    """How an incident's run ended. One vocabulary for states, records, scores and messages."""

    RESOLVED = "resolved"
    FALSE_ALARM = "false_alarm"
    NO_FAULT = "no_fault"
    DRY_RUN = "dry_run"
    ATTACHED = "attached"
    MITIGATED_UNCONFIRMED = "mitigated_unconfirmed"
    ESCALATED = "escalated"
    TAKEN_OVER = "taken_over"

    @property
    def succeeded(self) -> bool:
        """Whether the run's final state in Prefect is Completed (else Failed, with the reason)."""
        return self in _SUCCEEDED

    @property
    def closes(self) -> bool:
        """Whether the incident is closed with it; the others stay open until a person closes them."""
        return self in _SUCCEEDED


_SUCCEEDED = frozenset(
    {Outcome.RESOLVED, Outcome.FALSE_ALARM, Outcome.NO_FAULT, Outcome.DRY_RUN, Outcome.ATTACHED}
)


WAITING = "waiting for a person"
"""How every step begins during which nothing happens until somebody answers."""

WAITING_TO_APPROVE = f"{WAITING} to approve"
WAITING_TO_CLOSE = f"{WAITING} to close"


NO_RUN = "none:"
"""Begins the `run_id` of an incident that has no run of Prefect's yet; its own id follows."""

SUMMARY_LIMIT = 300
"""Characters of what a person says when they declare an incident."""


class Alert(Frozen):
    """One signal from a monitoring system, with the fields of an Alertmanager webhook's alert."""

    name: Text = Field(
        min_length=1,
        max_length=200,
        description="The alert's name, its label `alertname`.",
        examples=["VelozGatewayDown"],
    )
    labels: dict[Text, Text] = Field(
        default_factory=dict,
        description="Labels; they select the service.",
        examples=[{"service": "veloz", "instance": "gw-1"}],
    )
    summary: Text = Field(
        "",
        max_length=2_000,
        description="What the alert says of itself.",
        examples=["The gateway on gw-1 does not answer"],
    )
    fingerprint: Text = Field(
        "",
        max_length=200,
        description="The monitoring system's id of this alert.",
        examples=["b11ac1dfc5ab4a77"],
    )
    starts_at: UtcDatetime | None = Field(
        None, description="When it began to fire (UTC).", examples=["2026-03-01T14:05:00Z"]
    )
    ends_at: UtcDatetime | None = Field(
        None, description="When it stopped; empty while it fires.", examples=["2026-03-01T14:25:00Z"]
    )
    incident_key: Text = Field(
        "",
        max_length=255,
        description="PagerDuty's dedup key of this alert (Alertmanager: the hash of its group key).",
        examples=["9a1c7bb0d5e54c2f8c7f3b1f2f7b9a34"],
    )


_TEXT_LIMITS = {
    name: limit.max_length
    for name, field in Alert.model_fields.items()
    for limit in field.metadata
    if isinstance(limit, MaxLen)
}


def clean_alert(alert: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an alert without secrets. Hiding one may lengthen a text, which must not cost us the alert."""
    clean = {field: redact_value(value) for field, value in alert.items()}
    for field, limit in _TEXT_LIMITS.items():
        if isinstance(alert.get(field), str) and len(alert[field]) <= limit:
            clean[field] = bound(str(clean[field]), limit)
    return clean


class Phase(StrEnum):
    """The document's five phases; `verify` is mitigation's third step, a flow of its own."""

    TRIAGE = "detect_and_triage"
    DIAGNOSE = "diagnose"
    MITIGATE = "mitigate"
    VERIFY = "verify"
    RESOLVE = "resolve"
    POST_INCIDENT = "post_incident"


class IncidentRef(Frozen):
    """What phases are handed: names and small data. The epoch is this run's own, and never looked up."""

    incident_id: str
    epoch: int
    mode: Mode


class Ending(Frozen):
    """How an incident's run ends: the outcome and the sentence that people read first."""

    outcome: Outcome
    reason: str


class TriageOutcome(Frozen):
    """What phase 1 decided. `ending` is set when the incident is over already."""

    severity: Severity
    severity_reason: str
    verdict: Literal["healthy", "unhealthy", "unknown"]
    confirmed: bool | None = Field(description="Whether an alert's predicate holds; None: cannot be told.")
    ending: Ending | None = None


class DiagnosisOutcome(Frozen):
    """What phase 2 found: the leading hypothesis' id and the part that it is about, and those supported."""

    leading: str | None
    part: str | None = None
    supported: tuple[str, ...]
    progress: str


class AttemptOutcome(Frozen):
    """What phase 3's one attempt came to, before it is verified.

    `acted`: it ran to its end; `skipped`: nothing was left to do; `unknown`: it may or may not have run;
    `failed`: it certainly did not run; `rehearsed`: a dry run would have done it; `ask_again`: what a person has
    approved is not what would be done now.
    """

    attempt_id: str | None
    state: Literal["acted", "skipped", "refused", "taken_over", "unknown", "failed", "rehearsed", "ask_again"]
    reason: str


class VerifyOutcome(Frozen):
    """Whether the service was seen healthy by fresh probes over the window."""

    holds: bool
    verdict: Literal["healthy", "unhealthy", "unknown"]
    reason: str


class Attempts(Frozen):
    """What came of each step of a wave by its id; a wave of one is the usual case."""

    outcomes: dict[str, AttemptOutcome]
    reason: str

    @classmethod
    def of(cls, outcomes: dict[str, AttemptOutcome]) -> Self:
        """The outcomes, and their reasons in one sentence."""
        return cls(outcomes=outcomes, reason=_reasons(outcomes))


class Checks(Frozen):
    """Whether each step of a wave holds, by its id."""

    outcomes: dict[str, VerifyOutcome]
    reason: str

    @classmethod
    def of(cls, outcomes: dict[str, VerifyOutcome]) -> Self:
        """The outcomes, and their reasons in one sentence."""
        return cls(outcomes=outcomes, reason=_reasons(outcomes))


def _reasons(outcomes: Mapping[str, AttemptOutcome | VerifyOutcome]) -> str:
    """What people read of them; the reasons of several name their steps."""
    if len(outcomes) == 1:
        return next(outcome.reason for outcome in outcomes.values())
    return "; ".join(f"{step_id}: {outcome.reason}" for step_id, outcome in outcomes.items())


class ResolveOutcome(Frozen):
    """Phase 4: confirmed over the profile's window, or not, and what is still unknown."""

    state: Literal["confirmed", "unconfirmed", "not_restored"]
    reason: str
    unknown: tuple[str, ...] = ()


class PostIncidentOutcome(Frozen):
    """Phase 5: where the post-mortem is, when it is reviewed (None for P4), and each blank with its owner."""

    postmortem_path: str
    review_due: datetime | None
    blanks: tuple[str, ...]


_WORD = re.compile(r"[^a-z0-9]+")


def slug(text: str, limit: int = 40) -> str:
    """Lower-case words joined by dashes, at most `limit` characters; "incident" when nothing is left."""
    return _WORD.sub("-", text.lower()).strip("-")[:limit].rstrip("-") or "incident"


def json_ready(model: Frozen) -> dict[str, Any]:
    """The model as JSON-compatible data."""
    return model.model_dump(mode="json")
