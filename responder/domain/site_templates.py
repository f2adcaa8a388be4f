"""A site's own wording: templates in a folder, each in the place of the shipped one of the same name.

The folder is named by the environment variable INCIDENT_TEMPLATES. Every file is rendered once with sample data
before it is relied upon: by the keeper when it starts, and by `incident service check`.
"""

import difflib
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from jinja2 import TemplateSyntaxError

from responder.domain import reports
from responder.domain.evidence import Condition, Dossier, Evidence, Finding, Truth
from responder.domain.handoff import Briefing, render_briefing
from responder.domain.hypothesis import Hypothesis, Judgement
from responder.domain.incident import Alert, Mode, Outcome, Phase, Severity
from responder.domain.notices import (
    InitialNotice,
    ResolutionNotice,
    StatusUpdate,
    cadence,
    checking,
    render_notice,
    shipped_templates,
)
from responder.domain.plan import Plan, PlanStep, StepResult
from responder.domain.postmortem import PhaseBudget, PostMortem, draft, render_postmortem
from responder.domain.tickets import Found, Ticket, minor_incident
from responder.domain.timeline import Entry, Timeline

_AT = datetime(2026, 3, 1, 23, 50, tzinfo=UTC)
_WHAT = "the gateway does not answer"


def template_problems(folder: str) -> list[str]:
    """What is wrong with a site's templates, one line each with file and line; empty when all can be used."""
    path = Path(folder)
    if not path.is_dir():
        return [f"{folder}: no such folder of templates"]
    known = shipped_templates()
    problems = []
    for file in sorted(path.glob("*.j2")):
        if file.name not in known:
            near = difflib.get_close_matches(file.name, known, n=1, cutoff=0.0)
            problems.append(f"{file}: there is no template of that name; the nearest is {near[0]}")
            continue
        try:
            with checking(folder):
                _SAMPLES[file.name]()
        except Exception as error:  # noqa: BLE001 - a template can fail in every way that an expression can
            problems.append(f"{file}, line {_line(error, file)}: {type(error).__name__}: {error}")
    return problems


def _line(error: Exception, file: Path) -> int:
    """The line of the template where it went wrong."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or 1 for frame in reversed(frames) if Path(frame.filename) == file), 1)


def _judgement() -> Judgement:
    hypothesis = Hypothesis(
        id="process-crash",
        part="gateway",
        cause="The process has ended by itself.",
        requires=(Condition(evidence="unit.active_state", value="failed"),),
        strategy="restart",
        why="A dead process does not come back by itself.",
        prevention="Find what ends the process.",
        monitoring="Alert on the unit's state.",
        documentation="Describe the restart in the runbook.",
    )
    finding = Finding(truth=Truth.TRUE, statement="unit.active_state is failed", evidence=("e1",))
    unknown = Finding(truth=Truth.UNKNOWN, statement="metrics.verdict is unknown", evidence=("e2",))
    return Judgement(
        hypothesis=hypothesis,
        standing="supported",
        hosts=("gw-1",),
        supporting=(finding,),
        refuting=(),
        missing=(unknown,),
    )


def _dossier() -> Dossier:
    seen = Evidence(
        id="e1", key="unit.active_state", host="gw-1", at=_AT, how="systemctl", value="failed", excerpt="failed"
    )
    missed = Evidence(id="e2", key="metrics.verdict", host="gw-1", at=_AT, how="curl", unknown="refused")
    return Dossier(evidence=(seen, missed))


def _timeline() -> Timeline:
    return Timeline(
        entries=(Entry(at=_AT, id="a", source="alert", text="it fires"),), gaps=("the phase diagnose",)
    )


def _budgets() -> tuple[PhaseBudget, ...]:
    return (PhaseBudget(phase=Phase.TRIAGE, budget_minutes=5, ended_after_minutes=1.25),)


def _alert() -> Alert:
    return Alert(name="GatewayDown", summary="up == 0", starts_at=_AT)


def _ticket() -> Ticket:
    found = Found(
        incident_id="abc123",
        service="shop",
        severity=Severity.P4,
        summary=_WHAT,
        at=_AT,
        link="https://x.example/1",
    )
    return minor_incident(found, "no check shows an impact", [_alert()], owner="robin", due=date(2026, 5, 1))


def _postmortem() -> PostMortem:
    return draft(
        title=_WHAT,
        service="shop",
        severity=Severity.P1,
        opened_at=_AT,
        ended_at=_AT + timedelta(hours=1),
        outcome=Outcome.RESOLVED,
        reason="it was restarted and holds",
        leading=_judgement(),
        timeline=_timeline(),
        budgets=_budgets(),
    )


def _initial() -> InitialNotice:
    return InitialNotice(
        description=_WHAT,
        severity=Severity.P1,
        at=_AT,
        impact=None,
        component="order entry",
        next_update=cadence(15),
    )


def _update() -> StatusUpdate:
    return StatusUpdate(
        description=_WHAT,
        at=_AT,
        status="Identified",
        update="a restart is being tried",
        impact="failing requests: 12.0% on gw-1",
        eta=None,
        next_update=cadence(15),
    )


def _resolution() -> ResolutionNotice:
    return ResolutionNotice(
        description=_WHAT,
        at=_AT,
        duration=timedelta(hours=1),
        summary="it was restarted and holds",
        impact=None,
        root_cause=None,
        severity=Severity.P1,
    )


def _assessment() -> str:
    return reports.assessment(
        severity=Severity.P1,
        reason=_WHAT,
        mode=Mode.LIVE,
        dossier=_dossier(),
        alerts=[_alert()],
        confirmed=True,
        impact=None,
    )


def _plan() -> str:
    step = PlanStep(
        id="restart-gw-1", strategy="restart", target="gw-1", hypothesis="process-crash", why="it is dead"
    )
    result = StepResult(step_id="restart-gw-1", state="held", reason="it holds")
    return reports.plan(Plan(steps=(step,), for_people=("look at the disk",)), [result])


def _briefing() -> Briefing:
    return Briefing(
        description=_WHAT,
        severity=Severity.P1,
        at=_AT,
        incoming="robin",
        outgoing="ana",
        status="open: a restart is being tried",
        in_progress=("restart on gw-1",),
        stakeholders=("#sales",),
    )


_SAMPLES: dict[str, Callable[[], object]] = {
    "assessment.md.j2": _assessment,
    "evidence.md.j2": lambda: reports.evidence_table(_dossier()),
    "handoff.txt.j2": lambda: render_briefing(_briefing()),
    "hypotheses.md.j2": lambda: reports.hypotheses((_judgement(),)),
    "initial_notice.txt.j2": lambda: render_notice(_initial()),
    "phase_budgets.md.j2": lambda: reports.phase_budgets(_budgets()),
    "plan.md.j2": _plan,
    "postmortem.md.j2": lambda: render_postmortem(_postmortem()),
    "resolution_notice.txt.j2": lambda: render_notice(_resolution()),
    "status_update.txt.j2": lambda: render_notice(_update()),
    "ticket.md.j2": _ticket,
    "ticket_comment.md.j2": _ticket,
    "timeline.md.j2": lambda: reports.timeline(_timeline()),
    "what_now.md.j2": lambda: reports.what_now("abc123", status="open", outcome=None, reason=_WHAT, waiting=""),
}
