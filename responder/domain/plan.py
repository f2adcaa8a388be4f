"""The plan: what to try in which order, and the one function that says what comes next."""

from typing import Literal

from pydantic import Field

from responder.domain.base import Frozen
from responder.domain.hypothesis import Judgement, StrategyName
from responder.domain.incident import AttemptOutcome, Ending, Kind, Outcome, ResolveOutcome, VerifyOutcome

AUTOMATIC: tuple[StrategyName, ...] = ("restart",)


class PlanStep(Frozen):
    """One strategy on one target, because of one hypothesis."""

    id: str = Field(description="Stable name within the incident, like `restart-gw-1`.")
    strategy: StrategyName
    target: str
    hypothesis: str
    why: str
    capture: bool = False


class StepResult(Frozen):
    """What became of a step.

    `held` is verified; `unknown` means that a person must look; `rehearsed` is a dry run's.
    """

    step_id: str
    state: Literal["held", "failed", "refused", "unknown", "taken_over", "rehearsed"]
    reason: str


class Plan(Frozen):
    """The ordered steps, and what was ruled out with its reason."""

    steps: tuple[PlanStep, ...] = ()
    for_people: tuple[str, ...] = Field((), description="What only a person can do, one sentence each.")


class NextStep(Frozen):
    """What comes next: act or wait (with the step), confirm, or hand over to a person (with the reason).

    `stand_back`: somebody else works on it; `rehearsed`: a dry run has walked the whole plan.
    """

    do: Literal["act", "wait", "confirm", "hand_over", "stand_back", "rehearsed"]
    step: PlanStep | None = None
    reason: str = ""


def make_plan(ranking: tuple[Judgement, ...], *, service: str, kind: Kind = Kind.AVAILABILITY) -> Plan:
    """The supported hypotheses' strategies, each once for each target, the likeliest first.

    For the kinds that people decide there are no steps, whatever the service's health.
    """
    if kind.people_only:
        return Plan(
            for_people=(f"a {kind.value} incident is decided by people: evidence is kept, nothing changed",)
        )
    steps: dict[str, PlanStep] = {}
    for_people: list[str] = []
    for judgement in ranking:
        if judgement.standing != "supported":
            continue
        hypothesis = judgement.hypothesis
        if hypothesis.strategy not in (*AUTOMATIC, "wait"):
            for_people.append(f"{hypothesis.cause} → {hypothesis.strategy}: {hypothesis.why}")
            # What a person must decide outranks every automatic step that is less likely.
            break
        targets = judgement.hosts if hypothesis.strategy in AUTOMATIC else (service,)
        for target in targets:
            step = PlanStep(
                id=f"{hypothesis.strategy}-{target}",
                strategy=hypothesis.strategy,
                target=target,
                hypothesis=hypothesis.id,
                why=hypothesis.why,
                capture=hypothesis.capture,
            )
            steps.setdefault(step.id, step)
    return Plan(steps=tuple(steps.values()), for_people=tuple(for_people))


def next_step(
    plan: Plan,
    results: tuple[StepResult, ...],
    *,
    verdict: Literal["healthy", "unhealthy", "unknown"],
    confirmation: ResolveOutcome | None = None,
    hands: tuple[str, ...] = (),
    seen: str = "",
) -> NextStep:
    """What comes next. `verdict` is the latest reading of the whole service, `seen` says it in words.

    `hands` are signs that people work where it is not healthy: what they do may explain what was found. A
    strategy is tried once on a target. After an outcome that nobody can know, nothing more is tried.
    """
    done = {result.step_id: result for result in results}
    blocked = next((r for r in results if r.state in ("unknown", "taken_over")), None)
    if blocked:
        return NextStep(do="stand_back" if blocked.state == "taken_over" else "hand_over", reason=blocked.reason)
    if confirmation and confirmation.state == "not_restored":
        return NextStep(do="hand_over", reason=confirmation.reason)
    for step in plan.steps:
        if step.id not in done:
            return NextStep(do="wait" if step.strategy == "wait" else "act", step=step, reason=step.why)
    bad = [result for result in results if result.state in ("failed", "refused")]
    if bad:
        return NextStep(do="hand_over", reason="; ".join(result.reason for result in bad))
    if plan.for_people:
        return NextStep(do="hand_over", reason=plan.for_people[0])
    if hands and verdict != "healthy":
        return NextStep(do="stand_back", reason="; ".join(hands))
    rehearsed = [result.reason for result in results if result.state == "rehearsed"]
    if rehearsed:
        return NextStep(do="rehearsed", reason="; ".join(rehearsed))
    if results or verdict == "healthy":
        return NextStep(do="confirm", reason="every step of the plan holds" if results else "nothing is unhealthy")
    reason = "no hypothesis of the catalogue explains what was found"
    return NextStep(do="hand_over", reason=f"{reason}: {seen}" if seen else reason)


def step_result(step_id: str, attempt: AttemptOutcome, check: VerifyOutcome | None) -> StepResult:
    """What became of a step: what the attempt says of itself counts only where nothing was verified."""
    if attempt.state in ("refused", "taken_over", "rehearsed"):
        return StepResult(step_id=step_id, state=attempt.state, reason=attempt.reason)
    if check is not None and check.holds:
        return StepResult(step_id=step_id, state="held", reason=f"{step_id} held: {check.reason}")
    if attempt.state in ("unknown", "failed"):
        return StepResult(step_id=step_id, state=attempt.state, reason=attempt.reason)
    why = f"{attempt.reason}; and it did not hold: {check.reason}" if check else attempt.reason
    return StepResult(step_id=step_id, state="failed", reason=f"{step_id}: {why}")


def confirmed_ending(
    resolution: ResolveOutcome,
    *,
    acted: bool,
    was_unhealthy: bool,
    alerts: bool,
    contradicted: bool,
    still_firing: bool,
) -> Ending:
    """How an incident ends whose checks were watched over the window.

    `acted`: some attempt changed something; `alerts`: an alert began it, not a person's declaration.
    """
    if resolution.state == "not_restored":
        return Ending(outcome=Outcome.ESCALATED, reason=resolution.reason)
    if resolution.state == "unconfirmed":
        return Ending(outcome=Outcome.MITIGATED_UNCONFIRMED, reason=f"unconfirmed: {resolution.reason}")
    if acted:
        return Ending(outcome=Outcome.RESOLVED, reason=resolution.reason)
    if was_unhealthy:
        return Ending(outcome=Outcome.RESOLVED, reason=f"healed without an action: {resolution.reason}")
    if not alerts:
        return Ending(outcome=Outcome.NO_FAULT, reason=f"nothing is wrong: {resolution.reason}")
    if still_firing:
        return Ending(
            outcome=Outcome.MITIGATED_UNCONFIRMED,
            reason="every check is healthy, but the alert still fires: mend the alert or close by hand",
        )
    if contradicted:
        return Ending(outcome=Outcome.FALSE_ALARM, reason=f"the alert was contradicted: {resolution.reason}")
    return Ending(outcome=Outcome.RESOLVED, reason=f"the alert stopped by itself: {resolution.reason}")
