"""Reports: the Markdown of the artifacts on an incident's run. Each stays below 60 KB, whatever comes in.

Source: the document's phases 1 to 4; `design.md`, "In one picture".
"""

from collections.abc import Sequence
from datetime import datetime

from responder.domain.evidence import Dossier, Evidence
from responder.domain.hypothesis import Judgement
from responder.domain.incident import Alert, Mode, Severity
from responder.domain.notices import NOT_KNOWN, Shown, plain, render
from responder.domain.plan import Plan, PlanStep, StepResult
from responder.domain.postmortem import PHASE_WORDS, PhaseBudget, cited
from responder.domain.predicates import ENDPOINTS
from responder.domain.timeline import Timeline

DETAILED = 5
EXCERPTS = 8
TIMELINE_ROWS = 300


def what_now(
    incident_id: str,
    *,
    status: str,
    outcome: str | None,
    reason: str | None,
    waiting: str,
    held_back: str | None = None,
) -> str:
    """Where the incident stands, and what a person can do next.

    `waiting` says what a person is waited for; empty for nothing. `held_back` says why nothing is begun for it.
    """
    close = f'incident close {incident_id} --why "what was done"'
    if status == "closed":
        state, commands = f"Closed, {outcome or 'by hand'}", [f"incident postmortem {incident_id}"]
    elif outcome:
        state, commands = f"Open, {outcome}: a person is needed", [f"incident show {incident_id}", close]
    elif waiting:
        answer = f"incident approve {incident_id}" if "approve" in waiting else close
        state, commands = f"Open, {waiting}: Resume on this page, or the command below", [answer]
    else:
        state, commands = "Open, it is worked on", [f"incident watch {incident_id}", 'incident stop "why"']
    if held_back and status != "closed":
        state = f"{state}. Nothing is changed: {held_back}"
        commands.append(
            'incident stop --lift "why"' if "stopped" in held_back else f"incident give-back {incident_id}"
        )
    return render("what_now.md.j2", state=state, reason=reason, commands="\n".join(commands))


def assessment(
    *,
    severity: Severity,
    reason: str,
    mode: Mode,
    dossier: Dossier,
    alerts: Sequence[Alert] = (),
    confirmed: bool | None = None,
    impact: str | None = None,
) -> str:
    """How bad it is and why, what each host answers, and the alerts (phase 1).

    `confirmed` says whether the alerts agree with what was seen; None: cannot be told.
    """
    verdicts = {(item.host, item.key): _value(item) for item in dossier.evidence}
    checks = [f"{name}.verdict" for name in ENDPOINTS]
    asked = dict.fromkeys(item.host for item in dossier.evidence if item.key in checks)
    return render(
        "assessment.md.j2",
        severity=severity,
        reason=reason,
        mode=mode,
        impact=impact,
        confirmed={True: "yes", False: "no, contradicted", None: "cannot be told"}[confirmed],
        hosts=[(host, *(verdicts.get((host, check), "not asked") for check in checks)) for host in asked],
        checks=("Host", *(name.capitalize() for name in ENDPOINTS)),
        alerts=[(a.name, _moment(a.starts_at), _moment(a.ends_at, "still firing"), a.summary) for a in alerts],
    )


def evidence_table(dossier: Dossier) -> str:
    """What was observed of each key on each host, the unknown ones first, and some excerpts (phase 2).

    Looks that saw the same share a row with the ids of all, so that an id which a statement cites is found.
    """
    seen: dict[tuple[str, str, str], list[Evidence]] = {}
    for item in dossier.evidence:
        what = _value(item) if item.unknown is None else "unknown"
        seen.setdefault((item.host, item.key, what), []).append(item)
    rows = sorted(seen.values(), key=lambda same: same[-1].unknown is None)
    excerpts = list({(e.host, e.key): e for e in dossier.evidence if e.excerpt.strip()}.values())
    excerpts.sort(key=lambda item: item.unknown is None)
    return render(
        "evidence.md.j2",
        rows=[
            (", ".join(e.id for e in same), e.host, e.key, _value(e), Shown(f"{e.at:%H:%M:%S}"), e.how)
            for same in rows
            for e in same[-1:]
        ],
        excerpts=excerpts[:EXCERPTS],
        left_out=len(excerpts[EXCERPTS:]),
    )


def hypotheses(ranking: Sequence[Judgement]) -> str:
    """Every hypothesis with what speaks for it, against it and what is unknown; ids of the evidence cited."""
    return render(
        "hypotheses.md.j2",
        rows=[(j.hypothesis.cause, _standing(j), j.hypothesis.strategy) for j in ranking],
        details=[_sides(j) for j in ranking if j.standing != "refuted"][:DETAILED],
        ruled_out=[
            (j.hypothesis.cause, "; ".join(map(cited, j.refuting))) for j in ranking if j.standing == "refuted"
        ],
    )


def plan(plan: Plan, results: Sequence[StepResult] = (), *, ended: bool = False) -> str:
    """The steps in order with what became of each; `ended`: no step that has no result will be tried."""
    done = {result.step_id: result for result in results}
    rows = [
        (number, f"{step.strategy} on {step.target}", step.why, *_result(step, done, ended))
        for number, step in enumerate(plan.steps, start=1)
    ]
    return render("plan.md.j2", rows=rows, for_people=plan.for_people)


def timeline(timeline: Timeline) -> str:
    """What happened, in UTC, with the day only where it changes, and the gaps."""
    told = timeline.told(TIMELINE_ROWS)
    days = [None, *(entry.at.date() for entry in told)]
    rows = [
        (
            Shown(f"{entry.at:%H:%M:%S}" if entry.at.date() == day else f"{entry.at:%F %T}"),
            entry.source,
            entry.text,
        )
        for entry, day in zip(told, days, strict=False)
    ]
    return render("timeline.md.j2", rows=rows, left_out=len(timeline.entries) - len(told), gaps=timeline.gaps)


def phase_budgets(budgets: Sequence[PhaseBudget]) -> str:
    """Each phase against its budget, minutes from the first alert."""
    rows = [
        (PHASE_WORDS[budget.phase], Shown(f"{budget.budget_minutes:g}"), *_against_budget(budget))
        for budget in budgets
    ]
    return render("phase_budgets.md.j2", rows=rows)


def _moment(at: datetime | None, otherwise: str = NOT_KNOWN) -> Shown:
    return Shown(f"{at:%F %T}" if at else otherwise)


def _value(found: Evidence) -> str:
    if found.unknown is not None:
        return f"unknown: {found.unknown}"
    if isinstance(found.value, list | tuple):
        return f"{len(found.value)} entries" + (f": {plain(found.value[0], 100)} …" if found.value else "")
    return str(found.value) or "(empty)"


def _standing(judgement: Judgement) -> str:
    return " on ".join(filter(None, (judgement.standing, ", ".join(judgement.hosts))))


def _sides(judgement: Judgement) -> dict[str, object]:
    return {
        "cause": judgement.hypothesis.cause,
        "why": f"{judgement.hypothesis.strategy}: {judgement.hypothesis.why}",
        "findings": {
            "For": [cited(finding) for finding in judgement.supporting],
            "Against": [cited(finding) for finding in judgement.refuting],
            "Unknown": [cited(finding) for finding in judgement.missing],
        },
    }


def _result(step: PlanStep, done: dict[str, StepResult], ended: bool) -> tuple[object, object]:
    result = done.get(step.id)
    if result is None:
        return Shown("not tried" if ended else "planned"), Shown("")
    return result.state.replace("_", " "), result.reason


def _against_budget(budget: PhaseBudget) -> tuple[str, str]:
    if budget.ended_after_minutes is None:
        return "–", "not ended"
    return Shown(f"{budget.ended_after_minutes:.1f}"), "kept" if budget.kept else "missed"
