"""The plan: what to try in which order, and the one function that says what comes next."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from responder.domain.base import Frozen
from responder.domain.hypothesis import Judgement
from responder.domain.incident import AttemptOutcome, Ending, Kind, Outcome, ResolveOutcome, VerifyOutcome
from responder.domain.strategies import PERSON, WAIT, Strategy, StrategyName, Target

UNDO = "undo-"
StepState = Literal["held", "failed", "refused", "unknown", "taken_over", "rehearsed", "unanswered"]


class PlanStep(Frozen):
    """One strategy on one target, because of one hypothesis."""

    id: str = Field(description="Stable name within the incident, like `restart-gw-1`.")
    strategy: StrategyName
    target: str = Field(description="What is acted on: a host, a deployment, a cluster.")
    host: str = Field("", description="The host that the command runs on; empty where it is the target.")
    about: tuple[str, ...] = Field((), description="The hosts that it is to make well; none: the target.")
    hypothesis: str
    why: str
    capture: bool = False
    undoable: bool = Field(False, description="Whether it is undone when it does not hold.")

    @property
    def runs_on(self) -> str:
        """The host that the command runs on."""
        return self.host or self.target

    @property
    def cures(self) -> frozenset[str]:
        """The hosts that are well when it holds."""
        return frozenset(self.about or (self.target,))

    @property
    def undoes(self) -> str | None:
        """The id of the step that this one takes back, if it is an undo."""
        return self.id.removeprefix(UNDO) if self.id.startswith(UNDO) else None

    @property
    def title(self) -> str:
        """What is done, as records and budgets know it: an undo is no second try of its strategy."""
        return f"{UNDO}{self.strategy}" if self.undoes else self.strategy

    def undo(self) -> "PlanStep":
        """The step that takes this one back."""
        why = f"{self.strategy} on {self.target} did not hold"
        return self.model_copy(update={"id": f"{UNDO}{self.id}", "why": why, "undoable": False})


class StepResult(Frozen):
    """What became of a step.

    `held` is verified; `unknown` means that a person must look; `rehearsed` is a dry run's; `unanswered`: people
    were asked, and nobody answered in time.
    """

    step_id: str
    state: StepState
    reason: str
    acted: bool = Field(False, description="Whether something was changed.")


class Plan(Frozen):
    """The ordered steps, and what was ruled out with its reason."""

    steps: tuple[PlanStep, ...] = ()
    for_people: tuple[str, ...] = Field((), description="What only a person can do, one sentence each.")

    def step(self, step_id: str) -> PlanStep | None:
        """The step of that id, or the undo of one."""
        found = {step.id: step for step in self.steps}
        wanted = found.get(step_id.removeprefix(UNDO))
        return wanted.undo() if wanted and step_id.startswith(UNDO) else wanted

    def instead(self, step: PlanStep, others: Sequence[PlanStep]) -> "Plan":
        """The plan in which `others` stand right after `step`, which a person declined in favour of them."""
        place = [each.id for each in self.steps].index(step.id) + 1
        new = {each.id: each for each in others}
        later = tuple(each for each in self.steps[place:] if each.id not in new)
        earlier = tuple(each for each in self.steps[:place] if each.id not in new)
        return self.model_copy(update={"steps": (*earlier, *new.values(), *later)})


class NextStep(Frozen):
    """What comes next: ask for approval, act or wait (with the steps), confirm, or hand over (with the reason).

    Several steps are a wave: they are taken at once. `confirm` with a step: instead of it. `stand_back`: somebody
    else works on it; `begin_anew`: an alert tells of something new; `rehearsed`: a dry run has walked the plan.
    """

    do: Literal["ask", "act", "wait", "confirm", "hand_over", "stand_back", "begin_anew", "rehearsed"]
    steps: tuple[PlanStep, ...] = ()
    reason: str = ""
    approval: str = Field("", description="Digest of the question that people have approved, if they were asked.")

    @property
    def step(self) -> PlanStep | None:
        """The only step, or the first one of a wave."""
        return next(iter(self.steps), None)


def make_plan(
    ranking: tuple[Judgement, ...],
    *,
    service: str,
    hosts: Sequence[str],
    strategies: Mapping[str, Strategy],
    kind: Kind = Kind.AVAILABILITY,
) -> Plan:
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
        strategy = strategies.get(hypothesis.strategy)
        if strategy is None and hypothesis.strategy != WAIT:
            missing = "" if hypothesis.strategy == PERSON else " (the profile does not configure it)"
            for_people.append(f"{hypothesis.cause} → {hypothesis.strategy}{missing}: {hypothesis.why}")
            # What a person must decide outranks every automatic step that is less likely.
            break
        for step in _steps(judgement, strategy, service, hosts):
            steps.setdefault(step.id, step)
    return Plan(steps=tuple(steps.values()), for_people=tuple(for_people))


def steps_of(name: str, strategy: Strategy, ill: Sequence[str], hosts: Sequence[str], why: str) -> list[PlanStep]:
    """The steps of a strategy that a person names instead of the planned one."""
    targets = strategy.targets(ill, hosts)
    return [_step(name, target, ill, strategy, hypothesis="a person's choice", why=why) for target in targets]


def _steps(judgement: Judgement, strategy: Strategy | None, service: str, hosts: Sequence[str]) -> list[PlanStep]:
    hypothesis, ill = judgement.hypothesis, judgement.hosts
    targets = strategy.targets(ill, hosts) if strategy else (Target(name=service, host=service),)
    return [
        _step(
            hypothesis.strategy,
            target,
            ill,
            strategy,
            hypothesis=hypothesis.id,
            why=hypothesis.why,
            capture=hypothesis.capture,
        )
        for target in targets
    ]


def _step(
    name: str,
    target: Target,
    ill: Sequence[str],
    strategy: Strategy | None,
    *,
    hypothesis: str,
    why: str,
    capture: bool = False,
) -> PlanStep:
    return PlanStep(
        id=f"{name}-{target.name}",
        strategy=name,
        target=target.name,
        host="" if target.host == target.name else target.host,
        about=() if target.host == target.name else tuple(ill),
        hypothesis=hypothesis,
        why=why,
        capture=capture,
        undoable=bool(strategy and strategy.can_undo),
    )


def next_step(
    plan: Plan,
    results: tuple[StepResult, ...],
    *,
    verdict: Literal["healthy", "unhealthy", "unknown"],
    confirmation: ResolveOutcome | None = None,
    hands: tuple[str, ...] = (),
    seen: str = "",
    unasked: frozenset[str] = frozenset(),
    at_once: Mapping[str, int] | None = None,
    stopped: bool = False,
) -> NextStep:
    """What comes next. `verdict` is the latest reading of the whole service, `seen` says it in words.

    `hands` are signs that people work where it is not healthy: what they do may explain what was found;
    `unasked` are the steps that a person must approve and was not asked about. A strategy is tried once on a
    target, first on one; after it held there on `at_once` (by strategy, else one) others at a time, and on no
    other one after it failed on any. What does not hold is undone where it can be, before the next is tried.
    After an outcome that nobody can know, nothing more is tried. When all alerts have `stopped`, the service is
    confirmed instead of the step that would come next.
    """
    done = {result.step_id: result for result in results}
    blocked = next((r for r in results if r.state in ("unknown", "taken_over", "unanswered")), None)
    if blocked:
        return NextStep(do="stand_back" if blocked.state == "taken_over" else "hand_over", reason=blocked.reason)
    if confirmation and confirmation.state == "not_restored":
        return NextStep(do="hand_over", reason=confirmation.reason)
    following = _following(plan, done)
    if following and stopped and not following.undoes:
        return NextStep(do="confirm", steps=(following,), reason="all its alerts have stopped")
    if following:
        if following.id in unasked:
            return NextStep(do="ask", steps=(following,), reason=following.why)
        wave = _wave(following, plan, done, unasked, (at_once or {}).get(following.strategy, 1))
        return NextStep(do="wait" if following.strategy == WAIT else "act", steps=wave, reason=following.why)
    bad = [done[step.id] for step in plan.steps if _is_bad(step, plan, done)]
    if bad:
        return NextStep(do="hand_over", reason="; ".join(result.reason for result in bad))
    if plan.for_people and not (verdict == "healthy" and _cured(plan, done)):
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


def _following(plan: Plan, done: Mapping[str, StepResult]) -> PlanStep | None:
    """The step that is to be taken now: an undo that is due, or the next one that still makes sense."""
    failed: set[tuple[str, str]] = set()
    cured = _cured(plan, done)
    for step in plan.steps:
        result = done.get(step.id)
        if result and result.state == "failed":
            failed.add((step.strategy, step.hypothesis))
            if step.undoable and result.acted and f"{UNDO}{step.id}" not in done:
                return step.undo()
        if result is None and (step.strategy, step.hypothesis) not in failed and not step.cures <= cured:
            return step
    return None


def _wave(
    first: PlanStep, plan: Plan, done: Mapping[str, StepResult], unasked: frozenset[str], most: int
) -> tuple[PlanStep, ...]:
    """`first`, and the steps that may be taken at once with it: none before the same held on a target."""
    alike = [step for step in plan.steps if (step.strategy, step.hypothesis) == (first.strategy, first.hypothesis)]
    proven = any(done[step.id].state == "held" and done[step.id].acted for step in alike if step.id in done)
    if first.undoes or not proven:
        return (first,)
    cured = _cured(plan, done)
    open_ones = [s for s in alike if s.id not in done and s.id not in unasked and not s.cures <= cured]
    return tuple(open_ones[:most])


def _cured(plan: Plan, done: Mapping[str, StepResult]) -> frozenset[str]:
    """The hosts that a step has made well."""
    held = [
        step for step in plan.steps if step.strategy != WAIT and step.id in done and done[step.id].state == "held"
    ]
    return frozenset(host for step in held for host in step.cures)


def _is_bad(step: PlanStep, plan: Plan, done: Mapping[str, StepResult]) -> bool:
    """Whether the step did not help, and no other did where it was tried."""
    result = done.get(step.id)
    return result is not None and result.state in ("failed", "refused") and not step.cures <= _cured(plan, done)


def step_result(step_id: str, attempt: AttemptOutcome, check: VerifyOutcome | None) -> StepResult:
    """What became of a step: what the attempt says of itself counts only where nothing was verified."""
    acted = attempt.state == "acted"
    if attempt.state in ("refused", "taken_over", "rehearsed"):
        return StepResult(step_id=step_id, state=attempt.state, reason=attempt.reason)
    if check is not None and check.holds:
        return StepResult(step_id=step_id, state="held", reason=f"{step_id} held: {check.reason}", acted=acted)
    if attempt.state in ("unknown", "failed"):
        return StepResult(step_id=step_id, state=attempt.state, reason=attempt.reason)
    why = f"{attempt.reason}; and it did not hold: {check.reason}" if check else attempt.reason
    return StepResult(step_id=step_id, state="failed", reason=f"{step_id}: {why}", acted=acted)


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
