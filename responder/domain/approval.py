"""A question to people before a step, and what their answers come to.

An answer binds to exactly what was shown: the cause, the strategy, the target, the command and the profile. When
one of these changes it is another question. Source: `design.md`, "Rules that keep people safe" (approval).
"""

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum

from pydantic import Field

from responder.domain.base import Frozen
from responder.domain.errors import ConflictError
from responder.domain.evidence import Dossier
from responder.domain.incident import Approvers, Severity
from responder.domain.plan import PlanStep
from responder.domain.profile import Profile
from responder.domain.shell import quote
from responder.domain.strategies import Strategy

DEADLINE = "deadline"
"""Who answers when nobody did in time."""


class Decision(StrEnum):
    """What a person may answer before a step that is not taken without them."""

    APPROVE = "approve"
    DECLINE = "decline"
    ANOTHER = "another strategy"


class Question(Frozen):
    """What is asked, and what people should know before they answer."""

    incident_id: str
    round: int = Field(description="How often the incident was given back to the automation before.")
    step_id: str
    cause: str = Field(description="Id of the hypothesis.")
    strategy: str
    target: str
    host: str = Field(description="Where the command would run.")
    command: tuple[str, ...]
    profile: str = Field(description="Version of the profile in force: a hash of it.")
    why: str
    approvers: Approvers
    radius: tuple[str, ...] = Field(description="What it touches, one sentence each.")

    @property
    def digest(self) -> str:
        """What an answer is bound to: 16 hexadecimal digits, the same for the same question."""
        asked = self.model_dump(exclude={"why", "approvers", "radius"})
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def shown(self) -> str:
        """The question in one line."""
        return f"{self.strategy} on {self.target}? {self.why}"


class Answer(Frozen):
    """What one person said. `proven`: by a personal token, not by a name typed into a form."""

    decision: Decision
    by: str = Field(min_length=2, max_length=100, description="Who said it; `deadline` when nobody did.")
    why: str = Field("", max_length=1_000)
    strategy: str = Field("", max_length=50, description="For `another strategy`: which one.")
    proven: bool = False


def counts(answer: Answer, approvers: Approvers) -> bool:
    """Whether this person's word can carry a strategy that asks for these approvers."""
    return answer.proven or approvers is Approvers.ANYONE


def decided(question: Question, answers: Sequence[Answer]) -> Answer | None:
    """The answer that decides, or None while it is open.

    Anybody may decline or point to another strategy; to approve takes the persons that the strategy asks for.
    """
    approving: dict[str, Answer] = {}
    for answer in answers:
        if answer.decision is not Decision.APPROVE:
            return answer
        if counts(answer, question.approvers):
            approving[answer.by.casefold()] = answer
        if len(approving) >= question.approvers.persons:
            return answer
    return None


def still_needed(question: Question, answers: Sequence[Answer]) -> str:
    """Who has still to say yes, in words for people."""
    have = sorted({a.by for a in answers if a.decision is Decision.APPROVE and counts(a, question.approvers)})
    if question.approvers is Approvers.ANYONE:
        return "anybody on call may approve"
    proven = "by a personal token (`incident approve`, or the HTTP door)"
    if question.approvers is Approvers.TWO:
        return f"two persons must approve, each {proven}; so far: {', '.join(have) or 'nobody'}"
    return f"a named person must approve {proven}"


def version_of(profile: Profile) -> str:
    """A hash of the profile in force."""
    return hashlib.sha256(profile.model_dump_json().encode()).hexdigest()[:12]


def question_of(
    incident_id: str,
    step: PlanStep,
    strategy: Strategy,
    *,
    round: int,
    command: Sequence[str],
    profile: Profile,
    seen: Dossier,
    healthy: Sequence[str],
) -> Question:
    """The question before `step`, as things are now. `healthy`: the hosts that are well."""
    return Question(
        incident_id=incident_id,
        round=round,
        step_id=step.id,
        cause=step.hypothesis,
        strategy=step.title,
        target=step.target,
        host=step.runs_on,
        command=tuple(command),
        profile=version_of(profile),
        why=step.why,
        approvers=strategy.approvers,
        radius=blast_radius(step, strategy, profile=profile, seen=seen, healthy=healthy),
    )


def blast_radius(
    step: PlanStep, strategy: Strategy, *, profile: Profile, seen: Dossier, healthy: Sequence[str]
) -> tuple[str, ...]:
    """What the step touches, what is left meanwhile, what it may cost, and whether it can be taken back."""
    touched = sorted({step.runs_on, *step.cures})
    names = [host.name for host in profile.hosts]
    left = [name for name in names if name in healthy and name not in touched]
    orders = [_orders(seen, host) for host in touched if host in names] if profile.endpoints.orders else []
    return (
        f"Acts on {step.target}, to make {', '.join(sorted(step.cures))} well.",
        f"Meanwhile {len(left)} of {len(names)} hosts are left" + (f": {', '.join(left)}." if left else "."),
        *orders,
        "It can be taken back." if strategy.can_undo else "It cannot be taken back.",
    )


def _orders(seen: Dossier, host: str) -> str:
    count = seen.value(host, "orders.items")
    if count is None:
        return f"How many orders are open on {host} is not known."
    return f"{count} orders are in the table of {host}: reconcile them with the exchange afterwards."


def in_words(question: Question, severity: Severity, answers: Sequence[Answer]) -> str:
    """The question as people read it outside the form."""
    lines = [
        f"{severity.value}: {question.shown}",
        f"Command: {quote(question.command)} on {question.host}",
        *question.radius,
        still_needed(question, answers).capitalize() + ".",
    ]
    return "\n".join(lines)


def require_open(question: Question, answers: Sequence[Answer]) -> None:
    """Raise `ConflictError` when the question has been decided."""
    if done := decided(question, answers):
        raise ConflictError(f"{question.strategy} on {question.target} was decided by {done.by}: {done.decision}")
