"""The post-mortem: a draft of facts with their evidence, and named blanks for what only a person knows.

Source: the document's "Post-Mortem Template" and the three questions of its phase 4, "Root cause analysis".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.evidence import Finding, Truth
from responder.domain.handoff import COMMANDER
from responder.domain.hypothesis import Judgement
from responder.domain.impact import QUESTIONS
from responder.domain.incident import Outcome, Phase, Severity
from responder.domain.notices import Shown, day, duration, inline, render
from responder.domain.plan import StepState
from responder.domain.profile import DUE_DAYS, Contact, Runbook
from responder.domain.timeline import Timeline

LATE_S = 60.0
ROWS = 150

FollowUp = Literal["prevention", "monitoring", "documentation"]

# Which of the profile's contacts owns which kind of follow-up.
OWNERS: dict[FollowUp, str] = {
    "prevention": "Engineering Manager",
    "monitoring": "Infrastructure",
    "documentation": "On-call Engineer",
}

PHASE_WORDS = {
    Phase.TRIAGE: "detection and triage",
    Phase.DIAGNOSE: "diagnosis",
    Phase.MITIGATE: "mitigation",
    Phase.VERIFY: "verification",
    Phase.RESOLVE: "resolution",
    Phase.POST_INCIDENT: "post-incident work",
}

OUTCOME_WORDS = {
    Outcome.RESOLVED: "It was resolved",
    Outcome.FALSE_ALARM: "It was a false alarm",
    Outcome.NO_FAULT: "Nothing was found wrong",
    Outcome.DRY_RUN: "It was a dry run",
    Outcome.ATTACHED: "It was attached to an incident already open",
    Outcome.MITIGATED_UNCONFIRMED: "It was mitigated, but that could not be confirmed",
    Outcome.ESCALATED: "It was handed over to a person",
    Outcome.TAKEN_OVER: "A person took it over",
}

STATE_WORDS = {
    "held": "held",
    "failed": "failed",
    "refused": "was refused",
    "unknown": "has an unknown outcome",
    "taken_over": "was left to a person",
    "rehearsed": "was only rehearsed",
    "unanswered": "was not answered by anybody in time",
}


class Blank(Frozen):
    """What only a person knows: its name, who is asked, and the question."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    owner: str = Field(min_length=1)
    question: str

    @property
    def asked(self) -> str:
        """Like `root-cause (Incident Commander)`."""
        return f"{self.name} ({self.owner})"


Fact = str | Blank


class ActionItem(Frozen):
    """One follow-up. Owners are roles: a person takes it over in the review."""

    kind: FollowUp
    action: Fact
    owner: Fact
    due: date | Blank
    status: Literal["Open"] = "Open"


class PostMortem(Frozen):
    """All sections of the document's template."""

    title: str
    date: date
    duration: timedelta | Blank
    severity: Severity | Blank
    author: Fact
    summary: Fact
    users_affected: tuple[Fact, ...]
    revenue_impact: Fact
    sla_impact: Fact
    timeline: Timeline
    root_cause: tuple[Fact, ...]
    resolution: tuple[Fact, ...]
    went_well: tuple[Fact, ...]
    went_poorly: tuple[Fact, ...]
    action_items: tuple[ActionItem, ...]
    lessons: tuple[Fact, ...]

    @property
    def blanks(self) -> tuple[Blank, ...]:
        """Every blank in the order of the document, each once."""
        return tuple(dict.fromkeys(_blanks(getattr(self, name) for name in type(self).model_fields)))


def _blanks(values: Iterable[object]) -> Iterator[Blank]:
    for value in values:
        if isinstance(value, Blank):
            yield value
        elif isinstance(value, tuple):
            yield from _blanks(value)
        elif isinstance(value, ActionItem):
            yield from _blanks((value.action, value.owner, value.due))


def render_postmortem(pm: PostMortem) -> str:
    """The post-mortem as Markdown, section by section as the document's template has it."""
    return render("postmortem.md.j2", pm=pm, fact=fact, facts=_facts, events=_events(pm), actions=_actions(pm))


def fact(value: Fact | Severity | date | timedelta | tuple[Fact, ...]) -> Shown:
    """A known value in Markdown, or the blank that stands for it; several stand beside each other."""
    match value:
        case tuple():
            return Shown("; ".join(map(fact, value)))
        case Blank(name=name, owner=owner, question=question):
            return Shown(f"[blank: {name} — {inline(owner)}: {inline(question)}]")
        case timedelta():
            return duration(value)
        case date():
            return day(value)
        case _:
            return inline(value, 2_000)


def _facts(values: Iterable[Fact]) -> list[Shown]:
    return [fact(value) for value in values]


def _events(pm: PostMortem) -> list[tuple[Shown, Shown]]:
    return [(_clock(entry.at, pm.date), inline(entry.text)) for entry in pm.timeline.told(ROWS)]


def _clock(at: datetime, opened: date) -> Shown:
    days = (at.date() - opened).days
    return Shown(f"{at:%H:%M}" + (f" ({days:+d} d)" if days else ""))


def _actions(pm: PostMortem) -> list[tuple[Shown, ...]]:
    return [tuple(map(fact, (item.action, item.owner, item.due, item.status))) for item in pm.action_items]


class AttemptSummary(Frozen):
    """What became of one attempt."""

    strategy: str
    target: str
    state: StepState
    reason: str

    @property
    def sentence(self) -> str:
        """Like `restart on gw-1 held: …`."""
        return f"{self.strategy} on {self.target} {STATE_WORDS[self.state]}: {self.reason}"


class Decision(Frozen):
    """Who decided what, and why."""

    at: UtcDatetime
    who: str
    what: str
    why: str


class Delivery(Frozen):
    """What became of one message. `delay_s` is from its writing to its sending; None when never sent."""

    channel: str
    what: str
    delay_s: float | None
    error: str = ""


class PhaseBudget(Frozen):
    """A phase against its budget; both in minutes from the first alert. None: it has not ended."""

    phase: Phase
    budget_minutes: float
    ended_after_minutes: float | None

    @property
    def kept(self) -> bool:
        """Whether it ended within its budget."""
        return self.ended_after_minutes is not None and self.ended_after_minutes <= self.budget_minutes

    @property
    def sentence(self) -> str:
        """Like `diagnosis ended 2.0 minutes after the first alert (budget 15 minutes)`."""
        words, budget = PHASE_WORDS[self.phase], f"(budget {self.budget_minutes:g} minutes)"
        if self.ended_after_minutes is None:
            return f"{words} never ended {budget}"
        return f"{words} ended {self.ended_after_minutes:.1f} minutes after the first alert {budget}"


def draft(
    *,
    title: str,
    service: str,
    severity: Severity | None,
    opened_at: datetime,
    ended_at: datetime | None,
    outcome: Outcome | None,
    reason: str,
    leading: Judgement | None,
    timeline: Timeline,
    attempts: Sequence[AttemptSummary] = (),
    decisions: Sequence[Decision] = (),
    deliveries: Sequence[Delivery] = (),
    budgets: Sequence[PhaseBudget] = (),
    contacts: Sequence[Contact] = (),
    runbooks: Sequence[Runbook] = (),
    due_days: Mapping[Severity, int] = DUE_DAYS,
    users_affected: Mapping[str, str | None] = MappingProxyType({}),
    revenue_impact: str | None = None,
    sla_impact: str | None = None,
) -> PostMortem:
    """The post-mortem as far as the facts go. Whatever is not known becomes a blank, never a guess.

    `reason` is the sentence of the incident's ending; `leading` the hypothesis that stands first;
    `users_affected` as `responder.domain.impact.affected` has it.
    """
    manager = _role(contacts, "Engineering Manager") or COMMANDER
    span = ended_at - opened_at if ended_at else None
    return PostMortem(
        title=title,
        date=opened_at.astimezone(UTC).date(),
        duration=span or _ask("duration", "when did the incident end?"),
        severity=severity or _ask("severity", "how severe was it, P1 to P4?"),
        author=_ask("author", "who completes this draft?"),
        summary=_summary(title, service, outcome, span, reason),
        users_affected=_users_affected(users_affected),
        revenue_impact=revenue_impact or _ask("revenue-impact", "did it cost revenue, and how much?", manager),
        sla_impact=sla_impact or _ask("sla-impact", "for how many minutes was the service outside its SLA?"),
        timeline=timeline,
        root_cause=(*_likely_cause(leading), *_root_cause_questions()),
        resolution=_resolution(outcome, reason, attempts, decisions),
        went_well=_went_well(attempts, deliveries, budgets) or (_ask("went-well", "what went well?"),),
        went_poorly=_went_poorly(leading, attempts, deliveries, budgets, timeline)
        or (_ask("went-poorly", "what went poorly?"),),
        action_items=follow_up(leading, severity, ended_at or opened_at, contacts, runbooks, due_days),
        lessons=(_ask("lessons", "what should other teams take away from this?"),),
    )


def _ask(name: str, question: str, owner: str = COMMANDER) -> Blank:
    return Blank(name=name, owner=owner, question=question)


def _users_affected(readings: Mapping[str, str | None]) -> tuple[Fact, ...]:
    """What was read, and a blank for each reading that could not be made; one blank where there is nothing."""
    if not any(readings.values()):
        return (_ask("users-affected", "how many users were affected?"),)
    known = tuple(said for said in readings.values() if said)
    return (*known, *(_ask(name, QUESTIONS[name]) for name, said in readings.items() if not said))


def _summary(title: str, service: str, outcome: Outcome | None, span: timedelta | None, reason: str) -> str:
    words = OUTCOME_WORDS[outcome] if outcome else "It has not ended"
    after = f" ({duration(span)})" if span else ""
    because = f": {reason}" if reason else ""
    return f"{service}: {title.rstrip('.')}. {words}{after}{because.rstrip('.')}."


def cited(finding: Finding) -> str:
    """The finding's statement, said to be false where it is, with the ids of its evidence."""
    ids = ", ".join(finding.evidence)
    said = f"does not hold: {finding.statement}" if finding.truth is Truth.FALSE else finding.statement
    return f"{said} ({ids})" if ids else said


def _likely_cause(leading: Judgement | None) -> tuple[str, ...]:
    if leading is None or leading.standing == "refuted":
        return ("No hypothesis of the catalogue explains what was found.",)
    ids = ", ".join(dict.fromkeys(id for finding in leading.supporting for id in finding.evidence))
    where = f" on {', '.join(leading.hosts)}" if leading.hosts else ""
    likely = "Likely" if leading.standing == "supported" else "Possible but not established"
    return (
        f"{likely}{where}, supported by {ids or 'no evidence'}: {leading.hypothesis.cause}",
        *(f"For: {cited(finding)}" for finding in leading.supporting),
        *(f"Against: {cited(finding)}" for finding in leading.refuting),
        *(f"Unknown: {cited(finding)}" for finding in leading.missing),
    )


def _root_cause_questions() -> tuple[Blank, ...]:
    return (
        _ask("root-cause", "what was the actual cause?"),
        _ask("root-cause-why", "why did it happen?"),
        _ask("root-cause-prevention", "how can we prevent recurrence?"),
    )


def _resolution(
    outcome: Outcome | None, reason: str, attempts: Sequence[AttemptSummary], decisions: Sequence[Decision]
) -> tuple[Fact, ...]:
    done = [_sentence(attempt.sentence) for attempt in attempts] or ["Nothing was changed automatically."]
    decided = [_sentence(f"Decision of {made.who}: {made.what}, because {made.why}") for made in decisions]
    if outcome and outcome.closes:
        end: Fact = _sentence(f"{OUTCOME_WORDS[outcome]}: {reason}")
    else:
        end = _ask("resolution", "how was the service restored?")
        done += [_sentence(f"{OUTCOME_WORDS[outcome]}: {reason}")] if outcome else []
    return (*done, *decided, end)


def _went_well(
    attempts: Sequence[AttemptSummary], deliveries: Sequence[Delivery], budgets: Sequence[PhaseBudget]
) -> tuple[Fact, ...]:
    kept = [budget.sentence for budget in budgets if budget.kept]
    held = [attempt.sentence for attempt in attempts if attempt.state == "held"]
    prompt = bool(deliveries) and not any(_trouble(delivery) for delivery in deliveries)
    told = [f"every message ({len(deliveries)}) was sent within {LATE_S:g} seconds"] if prompt else []
    return tuple(_sentence(text) for text in (*kept, *held, *told))


def _went_poorly(
    leading: Judgement | None,
    attempts: Sequence[AttemptSummary],
    deliveries: Sequence[Delivery],
    budgets: Sequence[PhaseBudget],
    timeline: Timeline,
) -> tuple[Fact, ...]:
    missed = [budget.sentence for budget in budgets if not budget.kept]
    failed = [attempt.sentence for attempt in attempts if attempt.state in ("failed", "unknown")]
    late = [trouble for delivery in deliveries if (trouble := _trouble(delivery))]
    unread = [f"could not be told: {cited(finding)}" for finding in (leading.missing if leading else ())]
    gaps = [f"missing from the run history: {gap}" for gap in timeline.gaps]
    return tuple(_sentence(text) for text in (*missed, *failed, *late, *unread, *gaps))


def _trouble(delivery: Delivery) -> str | None:
    told = f"{delivery.what} to {delivery.channel}"
    if delivery.delay_s is None:
        return f"{told} had not been sent when this was drafted{f': {delivery.error}' if delivery.error else ''}"
    return f"{told} was sent after {delivery.delay_s:.0f} seconds" if delivery.delay_s > LATE_S else None


def follow_up(
    leading: Judgement | None,
    severity: Severity | None,
    ended: datetime,
    contacts: Sequence[Contact] = (),
    runbooks: Sequence[Runbook] = (),
    due_days: Mapping[Severity, int] = DUE_DAYS,
) -> tuple[ActionItem, ...]:
    """What is to be done afterwards: the leading hypothesis' own texts, each with an owner and a due date."""
    due: date | Blank = _ask("due-date", "when is it due?")
    if severity:
        due = ended.astimezone(UTC).date() + timedelta(days=due_days[severity])

    def item(kind: FollowUp, action: str) -> ActionItem:
        owner = _role(contacts, OWNERS[kind]) or _ask(f"{kind}-owner", f"who owns the {kind} follow-up?")
        return ActionItem(kind=kind, action=action, owner=owner, due=due)

    if leading is None or leading.standing != "supported":
        return (item("documentation", "Describe what was found as a hypothesis of the catalogue"),)
    hypothesis = leading.hypothesis
    books = f" (runbooks: {', '.join(book.title for book in runbooks)})" if runbooks else ""
    return (
        item("prevention", hypothesis.prevention),
        item("monitoring", hypothesis.monitoring),
        item("documentation", f"{hypothesis.documentation.rstrip('.')}{books}"),
    )


def _role(contacts: Sequence[Contact], wanted: str) -> str | None:
    return next((contact.role for contact in contacts if contact.role.casefold() == wanted.casefold()), None)


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
