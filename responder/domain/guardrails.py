"""Guardrails: what holds an action back, each decided in one place. Unknown means no.

Source: `design.md`, "Rules that keep people safe". Every refusal names its rule and the way on.
"""

from datetime import timedelta

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.evidence import Dossier
from responder.domain.incident import Kind, Mode, Severity
from responder.domain.profile import OverallBudget, Window
from responder.domain.strategies import Strategy

CLOCK_TRUSTED_AFTER = timedelta(hours=1)
CLOCK_TOLERANCE = timedelta(minutes=1)
HANDS_RULE = "somebody else's hands"
_HANDS = {"deployments.running": "a deployment is running", "logins.active": "somebody is logged in"}


class PastAttempt(Frozen):
    """One earlier attempt, as far as budgets care."""

    incident_id: str
    strategy: str
    target: str
    at: UtcDatetime


class Situation(Frozen):
    """Everything the guardrails look at, read freshly before each action."""

    now: UtcDatetime
    kind: Kind
    severity: Severity
    mode: Mode
    incident_id: str
    stopped: str | None = None
    """Who stopped everything and why; None while nothing is stopped."""
    window: Window | None = None
    security_incident: str | None = None
    """Id of an open security incident of the same service."""
    hands: tuple[str, ...] = ()
    """Signs that somebody has begun to work on it: sentences."""
    hands_unknown: str | None = None
    clock_jump: tuple[UtcDatetime, int] | None = None
    """When this machine's clock was last seen to be set, and by how many seconds."""
    past: tuple[PastAttempt, ...] = ()
    overall: OverallBudget | None = None
    approved: bool = False
    """A person has approved this very step."""
    undoes: bool = False
    """It takes back what an attempt of this incident did."""


class Refusal(Frozen):
    """Why an action is not taken: the rule, the reason, and what a person can do."""

    rule: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason} (rule: {self.rule}). {self.remedy}"


def taken_over(by: str) -> str:
    """The sign that a person has taken the whole incident."""
    return f"{by} has taken the incident over"


def hands_on(host: str, looked: Dossier) -> tuple[tuple[str, ...], str | None]:
    """Signs that somebody works on `host`, one sentence each; and why that cannot be told, if it cannot."""
    signs: list[str] = []
    unknown: str | None = None
    for key, words in _HANDS.items():
        found = looked.on(host, key)
        if found is None or found.unknown is not None:
            unknown = unknown or f"{key.replace('.', ' ')} on {host}: {found.unknown if found else 'not observed'}"
        elif found.value:
            signs.append(f"{words} on {host}: {(found.excerpt.splitlines() or ['no detail'])[0]}")
    return tuple(signs), unknown


def refusal(name: str, strategy: Strategy | None, target: str, now: Situation) -> Refusal | None:
    """The first guardrail that forbids `strategy` on `target`, or None when it may run.

    Dry runs and shadows pass through the same guardrails, so that they show what would have happened.
    """
    if now.stopped is not None:
        return Refusal(
            rule="stop everything",
            reason=f"everything is stopped: {now.stopped}",
            remedy="Lift it with `incident stop --lift` when it is safe, or act by hand.",
        )
    if now.kind.people_only:
        return Refusal(
            rule="people-only class",
            reason=f"incidents of the kind {now.kind.value} are never acted upon automatically",
            remedy="Keep the evidence; a person decides what to do.",
        )
    if now.security_incident not in (None, now.incident_id):
        return Refusal(
            rule="open security incident",
            reason=f"a security incident of this service is open ({now.security_incident})",
            remedy="Ask its lead; nothing is changed on this service while evidence is secured.",
        )
    if strategy is None:
        return Refusal(
            rule="strategy not configured",
            reason=f"the profile does not configure {name}",
            remedy=f"Do it by hand, or add `strategies.{name}` to the profile for the next time.",
        )
    if now.window:
        return Refusal(
            rule="freeze or maintenance window",
            reason=f"a window is open: {now.window.reason}",
            remedy="Act by hand in agreement with whoever holds the window.",
        )
    if now.hands:
        return Refusal(
            rule=HANDS_RULE,
            reason="; ".join(now.hands),
            remedy="They go on; the evidence and the advice are in this incident.",
        )
    if now.hands_unknown is not None:
        return Refusal(
            rule="unknown hands",
            reason=f"it cannot be told whether somebody is at work: {now.hands_unknown}",
            remedy="Look who is logged in on the host, then act by hand.",
        )
    if now.undoes:  # what was allowed may be taken back, whatever it has cost by now
        return None
    if now.severity not in strategy.severities and not now.approved:
        return Refusal(
            rule="strategy by severity",
            reason=f"{name} is not allowed without a person at {now.severity.value}",
            remedy="Approve it, act by hand, or allow the severity in the profile.",
        )
    return _clock_problem(now) or _over_budget(name, strategy, target, now)


def _clock_problem(now: Situation) -> Refusal | None:
    """Windows and budgets hang on the clock: after it was set, what they say is not known."""
    ahead = max((attempt.at for attempt in now.past), default=now.now) - now.now
    reason = ""
    if now.clock_jump and now.now - now.clock_jump[0] < CLOCK_TRUSTED_AFTER:
        reason = f"this machine's clock was set by {now.clock_jump[1]:+d} s at {now.clock_jump[0]:%H:%M} UTC"
    elif ahead > CLOCK_TOLERANCE:
        reason = f"the last attempt is dated {ahead.total_seconds():.0f} s in the future: the clock was set back"
    if not reason or now.approved:
        return None
    return Refusal(
        rule="clock",
        reason=f"{reason}, so that budgets and windows cannot be told",
        remedy="Look at the clock (`timedatectl`), then act by hand.",
    )


def _over_budget(name: str, strategy: Strategy, target: str, now: Situation) -> Refusal | None:
    same = [attempt for attempt in now.past if attempt.strategy == name]
    since = now.now - timedelta(minutes=strategy.budget.within_minutes)
    recent = [a for a in same if a.target == target and a.at > since]
    if len(recent) >= strategy.budget.attempts:
        minutes = f"{strategy.budget.within_minutes:g}"
        return Refusal(
            rule="budget for each target",
            reason=f"{name} was tried {len(recent)} time(s) on {target} in the last {minutes} minutes",
            remedy="It did not hold: look for the cause before trying it again by hand.",
        )
    if now.overall:
        since = now.now - timedelta(minutes=now.overall.within_minutes)
        recent = [attempt for attempt in now.past if attempt.at > since]
        if len(recent) >= now.overall.attempts:
            return Refusal(
                rule="budget over all",
                reason=f"{len(recent)} changes in the last {now.overall.within_minutes:g} minutes",
                remedy="Something is wrong that these changes do not cure: look for it before the next one.",
            )
    mine = [attempt for attempt in same if attempt.incident_id == now.incident_id]
    if len(mine) >= strategy.budget.per_incident:
        return Refusal(
            rule="budget for each incident",
            reason=f"{name} was tried {len(mine)} time(s) in this incident",
            remedy="Look for the cause before trying it again by hand.",
        )
    return None
