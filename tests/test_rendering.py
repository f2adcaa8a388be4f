"""Every text that people read, against golden files and hostile values.

To rewrite the golden files after a change that is meant: `REWRITE_GOLDEN=1 pytest tests/test_rendering.py`,
then read their difference before committing it.
"""

import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from responder.domain import reports
from responder.domain.evidence import Condition, Dossier, Evidence, Finding, Truth
from responder.domain.handoff import Briefing, render_briefing
from responder.domain.hypothesis import Hypothesis, Judgement
from responder.domain.incident import Alert, Mode, Outcome, Phase, Severity
from responder.domain.notices import (
    ESCALATION_LIMIT,
    LINE_WIDTH,
    NOTE_LIMIT,
    Escalation,
    InitialNotice,
    ResolutionNotice,
    Shown,
    StatusUpdate,
    cadence,
    duration,
    for_slack,
    pagerduty_note,
    render,
    render_escalation,
    render_notice,
    slack_blocks,
    table,
)
from responder.domain.plan import Plan, PlanStep, StepResult
from responder.domain.postmortem import (
    COMMANDER,
    OUTCOME_WORDS,
    PHASE_WORDS,
    STATE_WORDS,
    ActionItem,
    AttemptSummary,
    Blank,
    Decision,
    Delivery,
    PhaseBudget,
    PostMortem,
    draft,
    render_postmortem,
)
from responder.domain.profile import Contact, Runbook
from responder.domain.tickets import Found, Ticket, follow_ups
from responder.domain.timeline import Entry, Timeline

GOLDEN = Path(__file__).parent / "golden"
DOCUMENT = Path(__file__).parents[1].parent / "shared" / "incident_response.md"
START = datetime(2026, 3, 1, 23, 50, tzinfo=UTC)
REPORT_LIMIT = 60_000

HOSTILE = [
    "{{ 7*7 }}",
    "{% for x in ''.__class__.__mro__ %}{{ x }}{% endfor %}",
    "{# gone #}",
    "*bold* _italic_ ~struck~ `code` ```block```",
    "<!channel> <@U123> <https://evil.example|click>",
    "[click](https://evil.example) ![x](https://evil.example/x.png)",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a | b | c\n| forged | row |",
    "one\nStatus: Resolved\r\n# heading\u2028> quote",
    "```\n</details>\n# out of the fence",
    "\x1b[31mred\x1b[0m \u202egnp.exe\u200b",
    "&lt;b&gt; &amp; &#42;",
    "https://evil.example/ www.evil.example",
]
ANYTHING = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=80), st.text("{}%#*_`~<>|[]()!&\n\\-+=> ", max_size=40)
)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")


def initial(text: str | None = None) -> InitialNotice:
    return InitialNotice(
        description=text or "gateway does not answer",
        severity=Severity.P1,
        at=at(1),
        impact=text,
        component=text or "order entry",
        next_update=cadence(15),
    )


def status(text: str | None = None) -> StatusUpdate:
    return StatusUpdate(
        description=text or "gateway does not answer",
        at=at(6),
        status="Identified",
        update=text or "The gateway's process has ended; a restart is being tried.",
        impact=text,
        eta=text,
        next_update=cadence(120),
    )


def resolution(text: str | None = None, severity: Severity = Severity.P1) -> ResolutionNotice:
    return ResolutionNotice(
        description=text or "gateway does not answer",
        at=at(67),
        duration=timedelta(hours=1, minutes=6, seconds=20),
        summary=text or "The gateway was restarted and holds.",
        impact=text,
        root_cause=text,
        severity=severity,
    )


def escalation(text: str = "restart on gw-1: seen dead again after 12 seconds") -> Escalation:
    return Escalation(
        severity=Severity.P1,
        service="veloz",
        what_is_wrong="The gateway on gw-1 ends a few seconds after each start; no order is accepted.",
        tried=(text,),
        refused=("a second restart on gw-1 (rule: budget for each target). Look for the cause first.",),
        next_command="ssh gw-1 journalctl -u veloz -n 100 --no-pager --grep '*fatal*'",
        link="https://prefect.example/runs/flow-run/_1234_",
        runbooks=(Runbook(title="Troubleshooting Guide", url="https://wiki.example/troubleshooting"),),
    )


def seen(id: str, key: str, value: object = None, **more: object) -> Evidence:
    fields = {"host": "gw-1", "at": at(2), "how": "curl http://127.0.0.1:8080/health", "value": value, **more}
    return Evidence(id=id, key=key, **fields)


def dossier(text: str = "connection refused") -> Dossier:
    return Dossier(
        evidence=(
            seen("e1", "health.verdict", "unhealthy", excerpt=text),
            seen("e2", "metrics.verdict", unknown=text),
            seen("e3", "unit.active_state", "failed", how="systemctl show veloz"),
            seen("e4", "journal.errors", ["fatal: out of luck", text], how="journalctl -u veloz"),
            seen("e5", "health.verdict", "healthy", host="gw-2"),
        )
    )


def hypothesis(text: str = "The process has ended by itself.") -> Hypothesis:
    return Hypothesis(
        id="process-crash",
        part="gateway",
        cause=text,
        requires=(Condition(evidence="unit.active_state", value="failed"),),
        strategy="restart",
        why="A dead process does not come back by itself.",
        prevention="Find what ends the process.",
        monitoring="Alert on the unit's state.",
        documentation="Describe the restart in the runbook.",
    )


def ranking(text: str = "unit.active_state is failed") -> tuple[Judgement, ...]:
    def finding(truth: Truth, *ids: str) -> Finding:
        return Finding(truth=truth, statement=text, evidence=ids)

    crash = Judgement(
        hypothesis=hypothesis(),
        standing="supported",
        hosts=("gw-1",),
        supporting=(finding(Truth.TRUE, "e3", "e4"),),
        refuting=(),
        missing=(finding(Truth.UNKNOWN, "e2"),),
    )
    stopped = Judgement(
        hypothesis=hypothesis("Somebody has stopped it.").model_copy(update={"id": "stopped"}),
        standing="refuted",
        hosts=(),
        supporting=(),
        refuting=(finding(Truth.FALSE, "e1"),),
        missing=(),
    )
    return crash, stopped


def plan(text: str = "A dead process does not come back by itself.") -> Plan:
    restart = PlanStep(id="restart-gw-1", strategy="restart", target="gw-1", hypothesis="process-crash", why=text)
    other = restart.model_copy(update={"id": "restart-gw-2", "target": "gw-2"})
    return Plan(steps=(restart, other), for_people=(text,))


def tickets(text: str = "gateway does not answer") -> tuple[Ticket, ...]:
    found = Found(
        incident_id="abc123",
        service="veloz",
        severity=Severity.P1,
        summary=text,
        at=at(0),
        link="https://prefect.example/runs/1",
    )
    return follow_ups(found, ranking(text)[0], drafted(text).action_items, owner="veloz-oncall")


def events(text: str = "restart veloz on gw-1") -> Timeline:
    return Timeline(
        entries=(
            Entry(at=at(0), id="a", source="alert", text="VeloZGatewayDown began to fire"),
            Entry(at=at(8), id="b", source="attempt", text=text),
            Entry(at=at(15), id="c", source="phase", text="resolved"),
        ),
        gaps=("the phase diagnose",),
    )


def briefing(text: str = "restart on gw-1 is being checked") -> Briefing:
    return Briefing(
        description="gateway does not answer",
        severity=Severity.P1,
        at=at(20),
        incoming="robin",
        outgoing="ana",
        status=f"open: {text}",
        in_progress=("verify gw-1",),
        questions=("is the exchange told?",),
        stakeholders=("#sales", "Engineering Manager: Direct contact"),
    )


def budgets() -> tuple[PhaseBudget, ...]:
    return (
        PhaseBudget(phase=Phase.TRIAGE, budget_minutes=5, ended_after_minutes=1.25),
        PhaseBudget(phase=Phase.DIAGNOSE, budget_minutes=15, ended_after_minutes=21),
        PhaseBudget(phase=Phase.MITIGATE, budget_minutes=30, ended_after_minutes=None),
    )


READINGS = {"requests-failed": "12 of 400 requests failed"}


def drafted(text: str = "restart holds", **changes: object) -> PostMortem:
    known = {
        "title": "gateway does not answer",
        "service": "veloz",
        "severity": Severity.P1,
        "opened_at": at(0),
        "ended_at": at(67),
        "outcome": Outcome.RESOLVED,
        "reason": text,
        "leading": ranking()[0],
        "timeline": events(),
        "attempts": (AttemptSummary(strategy="restart", target="gw-1", state="held", reason=text),),
        "decisions": (Decision(at=at(60), who="ana", what="close the incident", why=text),),
        "deliveries": (
            Delivery(channel="slack", what="initial notification", delay_s=2),
            Delivery(channel="pagerduty", what="note", delay_s=None, error=text),
        ),
        "budgets": budgets(),
        "contacts": (
            Contact(role="On-call Engineer", primary="pagerduty:veloz-oncall"),
            Contact(role="Engineering Manager", primary="direct"),
        ),
        "runbooks": (Runbook(title="Troubleshooting Guide", url="https://wiki.example/troubleshooting"),),
    }
    return draft(**(known | changes))


def all_reports(text: str) -> list[str]:
    alert = Alert(name=text[:200] or "x", labels={"a": text}, summary=text[:2_000], starts_at=at(0))
    return [
        reports.assessment(
            severity=Severity.P1, reason=text, mode=Mode.LIVE, dossier=dossier(text), alerts=[alert], impact=text
        ),
        reports.evidence_table(dossier(text)),
        reports.hypotheses(ranking(text)),
        reports.plan(plan(text), [StepResult(step_id="restart-gw-1", state="failed", reason=text)]),
        reports.timeline(events(text)),
        render_postmortem(drafted(text, title=text, timeline=events(text))),
        *(visible_part(ticket) for ticket in tickets(text)),
    ]


def visible_part(ticket: Ticket) -> str:
    """A ticket without its markers, and without the link, which is ours."""
    return re.sub(r"<!-- .* -->|<https://prefect.example/runs/1>", "", ticket.text)


# The document's templates


def template_of(heading: str) -> str:
    if not DOCUMENT.exists():
        pytest.skip(f"{DOCUMENT.name} is not beside this checkout")
    return re.search(rf"{heading}\n\n```\w*\n(.*?)\n```", DOCUMENT.read_text(encoding="utf-8"), re.S)[1]


def as_pattern(template: str) -> str:
    words = re.split(r"\[[^\]]*\]|YYYY-MM-DD|HH:MM|X hours Y minutes|48 hours|15 minutes", template)
    return ".+?".join(re.escape(word) for word in words)


@pytest.mark.parametrize(
    ("heading", "notice"),
    [
        ("### Initial Notification", initial()),
        ("### Status Update", status()),
        ("### Resolution Notification", resolution()),
    ],
)
def test_a_notice_has_the_lines_of_the_documents_template(heading, notice):
    assert re.fullmatch(as_pattern(template_of(heading)), render_notice(notice))


def test_a_postmortem_has_the_headings_fields_and_tables_of_the_documents_template():
    template = template_of("## Post-Mortem Template")
    text = render_postmortem(drafted())

    def skeleton(text: str) -> list[str]:
        kept = re.findall(
            r"^(?:# Post-Mortem:|## .*|\*\*\w+:\*\*|- \w[\w ]*:(?= [\[\d])|\|-.*|\| (?:Time|Action) .*)",
            text,
            re.M,
        )
        return [line for line in kept if not line.startswith("- ") or "mpact" in line or "Users" in line]

    assert skeleton(text) == skeleton(template)
    assert re.search(
        r"^\*\*Date:\*\* 2026-03-01\n\*\*Duration:\*\* 1 hour 7 minutes\n\*\*Severity:\*\* P1\n", text, re.M
    )


# Golden files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("initial_notice.txt", lambda: render_notice(initial())),
        ("status_update.txt", lambda: render_notice(status())),
        ("resolution_notice.txt", lambda: render_notice(resolution())),
        ("escalation.txt", lambda: render_escalation(escalation())),
        ("escalation_slack.txt", lambda: for_slack(render_escalation(escalation()), exact=escalation().exact)),
        (
            "pagerduty_note.txt",
            lambda: pagerduty_note(
                "restart on gw-1 held", at=at(9), details=["PID 17, was 12"], link="https://x.example/1"
            ),
        ),
        ("postmortem_resolved.md", lambda: render_postmortem(drafted())),
        (
            "postmortem_escalated.md",
            lambda: render_postmortem(
                drafted(
                    "restart on gw-1 did not hold",
                    outcome=Outcome.ESCALATED,
                    ended_at=None,
                    leading=None,
                    severity=Severity.P3,
                    attempts=(),
                    decisions=(),
                    contacts=(),
                    users_affected={"clients-affected": None, "requests-failed": "12 of 400 requests failed"},
                )
            ),
        ),
        (
            "assessment.md",
            lambda: reports.assessment(
                severity=Severity.P1,
                reason="the gateway refuses connections",
                mode=Mode.DRY_RUN,
                dossier=dossier(),
                alerts=[Alert(name="VeloZGatewayDown", summary="up == 0", starts_at=at(0))],
                confirmed=True,
            ),
        ),
        (
            "assessment_declared.md",
            lambda: reports.assessment(severity=Severity.P4, reason="cosmetic", mode=Mode.LIVE, dossier=Dossier()),
        ),
        ("evidence.md", lambda: reports.evidence_table(dossier())),
        ("hypotheses.md", lambda: reports.hypotheses(ranking())),
        (
            "what_now_escalated.md",
            lambda: reports.what_now(
                "4711", status="open", outcome="escalated", reason="restart did not help", waiting=""
            ),
        ),
        (
            "what_now_waiting.md",
            lambda: reports.what_now(
                "4711", status="open", outcome=None, reason=None, waiting="waiting for a person to approve"
            ),
        ),
        ("plan_before.md", lambda: reports.plan(plan())),
        (
            "plan_after.md",
            lambda: reports.plan(
                plan(),
                [StepResult(step_id="restart-gw-1", state="taken_over", reason="ana is at work")],
                ended=True,
            ),
        ),
        ("plan_empty.md", lambda: reports.plan(Plan())),
        ("ticket.md", lambda: tickets()[0].text),
        ("ticket_comment.md", lambda: tickets()[0].comment),
        ("timeline.md", lambda: reports.timeline(events())),
        ("handoff.txt", lambda: render_briefing(briefing())),
        ("phase_budgets.md", lambda: reports.phase_budgets(budgets())),
    ],
)
def test_the_text_is_the_golden_one(name, text):
    check_golden(name, text())


# Words


def test_what_is_not_known_is_said_and_never_invented():
    assert "Impact: not yet known" in render_notice(initial())
    assert "ETA: not yet known" in render_notice(status())
    assert "Root Cause: not yet known" in render_notice(resolution())


@pytest.mark.parametrize(
    ("severity", "sentence"),
    [
        (Severity.P1, "Post-mortem will be shared within 48 hours."),
        (Severity.P2, "Post-mortem will be shared within 48 hours."),
        (Severity.P3, "Post-mortem will be shared within 1 week."),
        (Severity.P4, "No post-mortem will be held for this severity."),
    ],
)
def test_the_last_sentence_follows_the_severity(severity, sentence):
    assert render_notice(resolution(severity=severity)).splitlines()[-1] == sentence


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 hours 0 minutes"),
        (1, "0 hours 1 minute"),
        (3600, "1 hour 0 minutes"),
        (90_061, "25 hours 2 minutes"),
    ],
)
def test_a_duration_is_never_shorter_than_it_was(seconds, words):
    assert duration(timedelta(seconds=seconds)) == words


def test_a_cadence_is_told_in_the_largest_unit_that_is_exact():
    assert [cadence(minutes) for minutes in (1, 15, 60, 90, 120)] == [
        "1 minute",
        "15 minutes",
        "1 hour",
        "90 minutes",
        "2 hours",
    ]


# The post-mortem's facts


def test_every_blank_is_named_once_with_an_owner_and_a_question():
    blanks = drafted().blanks
    names = [blank.name for blank in blanks]

    assert len(names) == len(set(names))
    assert {"users-affected", "root-cause", "root-cause-why", "root-cause-prevention", "lessons"} <= set(names)
    assert all(blank.owner and blank.question.endswith("?") for blank in blanks)
    assert "[blank: users-affected — Incident Commander: how many users were affected?]" in render_postmortem(
        drafted()
    )


@pytest.mark.parametrize("leading", [None, 0, 1], ids=["no hypothesis", "supported", "refuted"])
@pytest.mark.parametrize("contacts", [(), (Contact(role="Engineering Manager", primary="direct"),)])
@pytest.mark.parametrize("readings", [{}, {"clients-affected": None, "requests-failed": "1 of 2"}])
def test_whatever_is_unknown_each_blank_has_an_owner_who_is_named_in_the_text(leading, contacts, readings):
    pm = drafted(
        leading=None if leading is None else ranking()[leading],
        contacts=contacts,
        severity=None,
        ended_at=None,
        outcome=Outcome.ESCALATED,
        users_affected=readings,
        attempts=(),
        deliveries=(),
        budgets=(),
        timeline=Timeline(),
    )
    text = render_postmortem(pm)
    manager = "Engineering Manager" if contacts else COMMANDER
    owners = {blank.name: blank.owner for blank in pm.blanks}
    assert owners.pop("revenue-impact") == manager
    assert set(owners.values()) == {COMMANDER}
    assert {"duration", "severity", "author", "sla-impact", "resolution", "due-date", "lessons"} <= set(owners)
    assert ("users-affected" in owners) == (not readings)
    for blank in pm.blanks:
        assert f"[blank: {blank.name} — {blank.owner}: {blank.question}]" in text


def test_a_known_reading_takes_the_blanks_place():
    names = [blank.name for blank in drafted(users_affected=READINGS, sla_impact="14 minutes").blanks]

    assert "users-affected" not in names
    assert "sla-impact" not in names


def test_the_cause_is_called_likely_and_cites_its_evidence():
    assert drafted().root_cause[0] == "Likely on gw-1, supported by e3, e4: The process has ended by itself."


def test_a_hypothesis_that_is_only_open_is_not_called_likely_and_makes_no_ticket():
    opened = ranking()[0].model_copy(update={"standing": "open", "hosts": ()})
    pm = drafted(leading=opened)

    assert str(pm.root_cause[0]).startswith("Possible but not established")
    assert len(pm.action_items) == 1


def test_action_items_quote_the_hypothesis_with_a_role_and_a_day():
    first, second, third = drafted().action_items

    assert first == ActionItem(
        kind="prevention", action="Find what ends the process.", owner="Engineering Manager", due=date(2026, 3, 9)
    )
    assert second.action == "Alert on the unit's state."
    assert isinstance(second.owner, Blank)
    assert third.owner == "On-call Engineer"


def test_what_went_well_and_poorly_are_facts_only():
    pm = drafted()

    assert pm.went_well == (
        "Detection and triage ended 1.2 minutes after the first alert (budget 5 minutes).",
        "Restart on gw-1 held: restart holds.",
    )
    assert pm.went_poorly[:3] == (
        "Diagnosis ended 21.0 minutes after the first alert (budget 15 minutes).",
        "Mitigation never ended (budget 30 minutes).",
        "Note to pagerduty had not been sent when this was drafted: restart holds.",
    )


def test_a_late_message_went_poorly_and_prompt_ones_went_well():
    late = drafted(deliveries=(Delivery(channel="slack", what="update", delay_s=90),))
    prompt = drafted(deliveries=(Delivery(channel="slack", what="update", delay_s=1),))

    assert "Update to slack was sent after 90 seconds." in late.went_poorly
    assert "Every message (1) was sent within 60 seconds." in prompt.went_well


def test_without_facts_the_sections_are_blanks_for_people():
    pm = drafted(attempts=(), deliveries=(), budgets=(), leading=None, timeline=Timeline())

    assert [fact.name for fact in (*pm.went_well, *pm.went_poorly) if isinstance(fact, Blank)] == [
        "went-well",
        "went-poorly",
    ]


def test_a_postmortem_survives_its_record():
    pm = drafted()

    assert PostMortem.model_validate_json(pm.model_dump_json()) == pm


def test_there_are_words_for_every_outcome_phase_and_result():
    results = get_args(StepResult.model_fields["state"].annotation)

    assert set(OUTCOME_WORDS) == set(Outcome)
    assert set(PHASE_WORDS) == set(Phase)
    assert set(results) <= set(STATE_WORDS) == set(get_args(AttemptSummary.model_fields["state"].annotation))


def test_times_of_other_zones_are_told_in_utc():
    late = datetime.fromisoformat("2026-03-02T00:30:00+02:00")

    assert pagerduty_note("seen", at=late) == "2026-03-01 22:30 UTC: seen"
    assert drafted(opened_at=late).date == date(2026, 3, 1)


# The page


def test_a_page_is_short_and_its_command_stands_alone():
    text = render_escalation(escalation())

    assert len(text) <= ESCALATION_LIMIT
    assert escalation().next_command in text.splitlines()
    assert escalation().link in text.splitlines()
    assert all(len(line) <= LINE_WIDTH for line in text.splitlines() if line not in escalation().exact)


def test_a_command_that_cannot_be_shown_whole_is_not_shown_at_all():
    for command in ("x" * 2_000, "echo a\nrm -rf b", "curl -H 'Authorization: Bearer abcdefghijklmnop0123456789'"):
        text = render_escalation(escalation().model_copy(update={"next_command": command}))

        assert "see the link" in text
        assert command[:20] not in text


@settings(max_examples=50)
@given(ANYTHING, st.integers(1, 40))
@example("word " * 400, 40)
@example("x" * 3_000, 40)
def test_a_page_never_grows_beyond_its_limit(text: str, times: int):
    page = Escalation(
        severity=Severity.P1,
        service=text,
        what_is_wrong=text * times,
        tried=(text,) * times,
        refused=(text * times,) * times,
        next_command=text * times,
        link=text * times,
        runbooks=(Runbook(title=text, url=text),) * times,
    )

    assert len(render_escalation(page)) <= ESCALATION_LIMIT
    assert len(pagerduty_note(text * times, at=at(0), details=(text,) * times, link=text)) <= NOTE_LIMIT


def test_slack_keeps_what_is_copied_and_links_what_is_followed():
    text = for_slack(render_escalation(escalation()), exact=escalation().exact)

    assert f"```\n{escalation().next_command}\n```" in text
    assert f"<{escalation().link}>" in text


def test_slacks_blocks_are_a_bold_head_and_a_section_for_each_paragraph():
    blocks = slack_blocks(render_notice(initial()))
    texts = [block["text"]["text"] for block in blocks]

    assert {block["type"] for block in blocks} == {"section"}
    assert texts[0] == "*INCIDENT: gateway does not answer*"
    assert texts[1].startswith("Severity: P1\nTime: 2026-03-01 23:51 UTC")
    assert texts[-1] == "Next update in: 15 minutes"
    assert len(texts) == 4


def test_slacks_blocks_keep_what_is_copied():
    blocks = slack_blocks(render_escalation(escalation()), exact=escalation().exact)

    assert any(f"```\n{escalation().next_command}\n```" in block["text"]["text"] for block in blocks)


# Values are data


@settings(max_examples=50)
@given(ANYTHING)
@example("&" * 3_000)
@example("\n\n" * 200)
def test_slacks_blocks_are_within_its_limits_and_free_of_marks_from_values(text: str):
    for notice in (initial(f"x{text}"), status(f"x{text}"), resolution(f"x{text}")):
        texts = [block["text"]["text"] for block in slack_blocks(render_notice(notice))]

        assert 1 <= len(texts) <= 50
        assert all(0 < len(part) <= 3_000 for part in texts)
        assert not re.search(r"[<>*`~]", texts[0][1:-1] + "".join(texts[1:]))


@settings(max_examples=50)
@given(ANYTHING)
def test_slack_gets_neither_a_mention_nor_a_mark_from_a_value(text: str):
    shown = for_slack(render_notice(initial(f"x{text}")))

    assert not re.search(r"[<>*`~]", shown)
    assert not re.search(r"(?:^|[\W_])_", shown)
    assert not re.search(r"^&gt;", shown, re.M)


@settings(max_examples=50)
@given(ANYTHING)
def test_a_value_never_adds_a_line_to_a_notice(text: str):
    for make in (initial, status, resolution):
        assert len(render_notice(make(f"x{text}")).split("\n")) == len(render_notice(make()).split("\n"))


@pytest.mark.parametrize("text", ["{{ 7*7 }}", "{% raw %}x{% endraw %}", "{{ notice.__class__ }}", "{# gone #}"])
def test_a_template_inside_a_value_is_printed_and_not_run(text):
    assert text in render_notice(initial(text))
    assert all(
        visible(text) in visible(MarkdownIt().enable("table").render(report)) for report in all_reports(text)
    )


def visible(html: str) -> str:
    import html as entities

    return entities.unescape(re.sub(r"<[^>]+>", "", html))


MARKUP = {
    "em_open",
    "s_open",
    "link_open",
    "image",
    "html_inline",
    "html_block",
    "code_inline",
    "blockquote_open",
    "hr",
}


def structure(text: str) -> list[str]:
    """What a reader's Markdown makes of `text`, without the words themselves."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = [inner for token in parser.parse(text) for inner in (token, *(token.children or ()))]
    return [token.type for token in tokens if token.type not in ("text", "text_special")]


PLAIN_STRUCTURE = [structure(report) for report in all_reports("plain")]


def assert_only_text_comes_from(value: str) -> None:
    for report, expected in zip(all_reports(value), PLAIN_STRUCTURE, strict=True):
        found = structure(report)
        assert not MARKUP & set(found)
        assert found == expected


@pytest.mark.parametrize("text", [*HOSTILE, "x" * 5_000, "- item", "1. item", "    indented", "a\n===", "\\"])
def test_a_hostile_value_brings_no_markup_into_a_report(text):
    assert_only_text_comes_from(text)


@settings(max_examples=25)
@given(ANYTHING)
def test_no_value_brings_markup_into_a_report(text: str):
    assert_only_text_comes_from(f"{text}x")


def test_a_value_that_passed_no_filter_stops_the_rendering():
    with pytest.raises(TypeError, match="without having passed a filter"):
        render("timeline.md.j2", rows=[], left_out="raw", gaps=())


def test_a_ticket_calls_neither_a_person_nor_another_ticket():
    [ticket, *_] = tickets("@everyone see #1 and shop/shop#2")
    shown = visible(MarkdownIt().render(visible_part(ticket)))

    assert "everyone see" in shown
    assert not re.search(r"[@#]\w", shown)


def test_a_secret_in_a_value_is_not_printed():
    secret = "password=hunter2hunter2"

    assert "hunter2" not in render_notice(initial(secret))
    assert "hunter2" not in "".join(all_reports(secret))
    assert "hunter2" not in render_escalation(escalation(secret))


def test_a_report_stays_small_whatever_comes_in():
    long = "|*`<&" * 1_000
    many = Dossier(
        evidence=tuple(seen(f"e{n}", f"key.{n}", long, excerpt=long, how=long, host=f"h{n}") for n in range(700))
    )
    huge = Timeline(
        entries=tuple(Entry(at=at(n), id=str(n), source="run", text=long) for n in range(700)),
        gaps=(long,) * 500,
    )
    judged = tuple(ranking(long)) * 60
    steps = plan(long).steps * 500

    texts = [
        reports.assessment(
            severity=Severity.P1,
            reason=long,
            mode=Mode.LIVE,
            impact=long,
            dossier=Dossier(evidence=tuple(seen("e", "health.verdict", long, host=f"h{n}") for n in range(700))),
            alerts=[Alert(name="a", summary=long[:2_000])] * 500,
        ),
        reports.evidence_table(many),
        reports.hypotheses(judged),
        reports.plan(Plan(steps=steps, for_people=(long,) * 500)),
        reports.timeline(huge),
        reports.phase_budgets(budgets()),
    ]

    assert [len(text.encode()) <= REPORT_LIMIT for text in texts] == [True] * 6
    assert "more, not shown here" in texts[1]


def test_a_table_says_how_much_it_left_out():
    text = table([(Shown("x" * 50),)] * 10, ["A"], budget=200)

    assert text.splitlines()[-1] == "| … 7 more, not shown here |"


def test_looks_that_saw_the_same_share_a_row_and_each_cited_id_is_found():
    looks = (
        seen("e1", "health.failure", "refused"),
        seen("e2", "metrics.verdict", unknown="refused after 4 ms"),
        seen("e3", "health.failure", "refused"),
        seen("e4", "metrics.verdict", unknown="refused after 0 ms"),
        seen("e5", "health.failure", "timeout"),
    )
    text = reports.evidence_table(Dossier(evidence=looks))
    assert "| e2, e4 | gw-1 | metrics.verdict | unknown: refused after 0 ms |" in text
    assert "| e1, e3 | gw-1 | health.failure | refused |" in text
    assert "| e5 | gw-1 | health.failure | timeout |" in text
