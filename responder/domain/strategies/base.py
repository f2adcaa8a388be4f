"""What every strategy is: its targets, what must hold before, the action, its undo, what must hold afterwards.

A strategy of a profile is one of these models, filled in. Everything here is pure: the commands are run, and
their output handed back, by `tasks/`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from responder.domain.base import Frozen
from responder.domain.commands import CommandResult
from responder.domain.evidence import Condition, Dossier, Truth
from responder.domain.fields import Command, Pattern
from responder.domain.incident import Approvers, Mode, Severity, lowest_mode
from responder.domain.notes import Notes
from responder.domain.predicates import PREDICATES
from responder.domain.readings import Reading, Snapshot

STATUS = "status"
_YES, _NO = ("true", "yes", "t", "up"), ("false", "no", "f", "down")


class Budget(Frozen):
    """How often a strategy may be tried on one target."""

    attempts: int = Field(ge=0, description="Attempts on one target within the period.")
    within_minutes: float = Field(gt=0, le=525_600, description="The period, minutes.")
    per_incident: int = Field(2, ge=0, description="Attempts in one incident, over all targets.")

    def tightened(self, other: "Budget") -> "Budget":
        """The stricter of the two in each respect."""
        return Budget(
            attempts=min(self.attempts, other.attempts),
            within_minutes=max(self.within_minutes, other.within_minutes),
            per_incident=min(self.per_incident, other.per_incident),
        )


class Target(Frozen):
    """What is acted on (a host, a deployment, a cluster), and the host on which the command runs."""

    name: str
    host: str


class Strategy(Frozen):
    """One way to mitigate: the command, when it may run by itself, and how often."""

    name: ClassVar[str]
    """The word that profiles, hypotheses and records use."""

    command: Command = Field(description="Argument list run as the login user.")
    mode: Mode = Field(Mode.LIVE, description="The ceiling for this strategy.")
    severities: tuple[Severity, ...] = Field(
        (Severity.P1, Severity.P2, Severity.P3),
        description="Severities at which it may run without asking anybody; at the others a person is asked.",
    )
    approvers: Approvers = Field(
        Approvers.ANYONE,
        description="Who may approve it where a person is asked: `anyone` by the form, a `named` person or `two` "
        "persons by their personal tokens.",
    )
    timeout_s: float = Field(180, gt=0, le=3600, description="Seconds until its end is called unknown.")
    budget: Budget
    at_once: int = Field(
        2, ge=1, le=50, description="Targets at once, after it held on a first one; 1: one after the other."
    )
    status: Command | None = Field(None, description="A reading command that `facts` are taken from.")
    facts: dict[str, Pattern] = Field(
        default_factory=dict,
        description="Evidence `STRATEGY.NAME`: the first group of each pattern in the status command's output.",
    )
    requires: tuple[Condition, ...] = Field((), description="All must hold before; unknown means no.")
    holds_when: tuple[Condition, ...] = Field((), description="All must hold afterwards, besides the checks.")

    def targets(self, ill: Sequence[str], hosts: Sequence[str]) -> tuple[Target, ...]:  # noqa: ARG002
        """What to act on, first one first: of all `hosts` those that the hypothesis is about (`ill`)."""
        return tuple(Target(name=host, host=host) for host in ill)

    def reads_on(self, host: str, hosts: Sequence[str]) -> bool:  # noqa: ARG002
        """Whether the strategy reads anything on `host` of all `hosts`."""
        return True

    def reads(self) -> dict[str, Command]:
        """What is read on the target's host before and after, by name."""
        return {STATUS: self.status} if self.status else {}

    def note(self, notes: Notes, read: str, result: CommandResult) -> None:
        """Note what the reading command called `read` answered, as evidence `STRATEGY.NAME`."""
        if read != STATUS:
            return
        for name, pattern in self.facts.items():
            found = re.search(pattern, result.stdout, re.MULTILINE)
            key = f"{self.name}.{name}"
            if result.exit_status != 0 or result.truncated:
                notes.missed(key, result.command, f"the status command ended with {result.exit_status}")
            elif found is None or not found.groups():
                notes.missed(key, result.command, "the status command does not say", result.stdout)
            else:
                notes.saw(key, result.command, _typed(found.group(1)), result.stdout)

    def problem(self, seen: Dossier, target: Target) -> str | None:
        """Why it must not be tried now, or None. What is not known counts against it."""
        return _unmet(self.requires, seen.for_host(target.host))

    def action(self, seen: Dossier, target: Target) -> Command:  # noqa: ARG002
        """The argument list to run on the target's host."""
        return self.command

    def described(self, seen: Dossier, target: Target) -> Command:
        """The action as a person approves it: without what changes from one look to the next."""
        return self.action(seen, target)

    @property
    def can_undo(self) -> bool:
        """Whether there is an inverse at all."""
        return False

    def undo(self, before: Snapshot) -> Command | None:  # noqa: ARG002
        """The argument list that brings back what was `before`, where there is one."""
        return None

    def postcondition(self, before: Snapshot, after: Dossier, target: Target) -> tuple[Reading, ...]:  # noqa: ARG002
        """What must be seen afterwards besides the service's own checks: exit status 0 proves nothing."""
        if not self.holds_when:
            return ()
        seen = after.for_host(target.host)
        return tuple(
            Reading(host=target.host, check=self.name, verdict=_VERDICTS[found.truth], reason=found.statement)
            for found in (condition.check(seen, PREDICATES) for condition in self.holds_when)
        )

    def tightened(self, later: "Strategy") -> "Strategy":
        """This strategy, made stricter by a later edit, never looser."""
        return self.model_copy(
            update={
                "mode": lowest_mode(self.mode, later.mode),
                "severities": tuple(s for s in self.severities if s in later.severities),
                "approvers": max(self.approvers, later.approvers, key=list(Approvers).index),
                "budget": self.budget.tightened(later.budget),
                "at_once": min(self.at_once, later.at_once),
                "requires": tuple(dict.fromkeys((*self.requires, *later.requires))),
            }
        )


_VERDICTS: Mapping[Truth, Any] = {Truth.TRUE: "healthy", Truth.FALSE: "unhealthy", Truth.UNKNOWN: "unknown"}


def _unmet(conditions: Sequence[Condition], seen: Dossier) -> str | None:
    findings = [condition.check(seen, PREDICATES) for condition in conditions]
    return next((finding.statement for finding in findings if finding.truth is not Truth.TRUE), None)


def _typed(text: str) -> bool | float | str:
    if text.lower() in (*_YES, *_NO):
        return text.lower() in _YES
    try:
        return float(text)
    except ValueError:
        return text
