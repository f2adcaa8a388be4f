"""A question and its answers: what is bound to what, whose word counts, and what people are shown."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.approval import Answer, Decision, Question, decided, question_of, still_needed
from responder.domain.incident import Approvers
from responder.domain.plan import PlanStep
from responder.domain.strategies import Budget
from responder.domain.strategies.restart import Restart
from tests.factories import dossier, profile, seen

STRATEGY = Restart(
    command=("systemctl", "restart", "shop"), budget=Budget(attempts=1, within_minutes=30), severities=()
)
STEP = PlanStep(id="restart-gw-1", strategy="restart", target="gw-1", hypothesis="crash", why="it died")


def asked(**changes: Any) -> Question:
    given: dict[str, Any] = {
        "round": 0,
        "command": STRATEGY.command,
        "profile": profile(),
        "seen": dossier(),
        "healthy": [],
    }
    step = changes.pop("step", STEP)
    strategy = changes.pop("strategy", STRATEGY)
    return question_of("abc", step, strategy, **(given | changes))


def said(decision: Decision = Decision.APPROVE, by: str = "Ann", *, proven: bool = False) -> Answer:
    return Answer(decision=decision, by=by, proven=proven)


def needing(approvers: Approvers) -> Question:
    return asked(strategy=STRATEGY.model_copy(update={"approvers": approvers}))


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ("systemctl", "restart", "shop", "--now")},
        {"step": STEP.model_copy(update={"hypothesis": "leak"})},
        {"step": STEP.model_copy(update={"target": "gw-2"})},
        {"step": STEP.model_copy(update={"host": "bastion"})},
        {"step": STEP.model_copy(update={"strategy": "rollback"})},
        {"profile": profile(description="edited meanwhile")},
        {"round": 1},
    ],
    ids=["command", "cause", "target", "host", "strategy", "profile", "given back"],
)
def test_another_thing_is_another_question(changes: dict[str, Any]) -> None:
    assert asked(**changes).digest != asked().digest


def test_what_is_only_shown_does_not_make_it_another_question() -> None:
    later = asked(seen=dossier(seen("gw-1", "orders.items", 9)), healthy=["gw-2"])
    assert later.digest == asked().digest
    assert asked(step=STEP.model_copy(update={"why": "in other words"})).digest == asked().digest


@pytest.mark.parametrize(
    ("approvers", "answers", "yes"),
    [
        (Approvers.ANYONE, [said()], True),
        (Approvers.NAMED, [said()], False),
        (Approvers.NAMED, [said(proven=True)], True),
        (Approvers.TWO, [said(proven=True)], False),
        (Approvers.TWO, [said(proven=True), said(proven=True)], False),
        (Approvers.TWO, [said(proven=True), said(by="ANN", proven=True)], False),
        (Approvers.TWO, [said(proven=True), said(by="Bob")], False),
        (Approvers.TWO, [said(proven=True), said(by="Bob", proven=True)], True),
    ],
)
def test_it_takes_the_persons_that_the_strategy_asks_for(
    approvers: Approvers, answers: list[Answer], yes: bool
) -> None:
    answer = decided(needing(approvers), answers)
    assert (answer is not None) == yes
    assert ("person" in still_needed(needing(approvers), answers)) == (approvers is not Approvers.ANYONE)


@given(
    approvers=st.sampled_from(Approvers),
    answers=st.lists(
        st.builds(said, st.sampled_from(Decision), st.sampled_from(["Ann", "Bob"]), proven=st.booleans())
    ),
)
def test_one_no_is_enough_and_no_later_yes_overrules_it(approvers: Approvers, answers: list[Answer]) -> None:
    question = needing(approvers)
    answer = decided(question, answers)
    refusals = [each for each in answers if each.decision is not Decision.APPROVE]
    if answer is None:
        assert not refusals
    elif answer.decision is Decision.APPROVE:
        before = answers[: answers.index(answer)]
        assert not any(each.decision is not Decision.APPROVE for each in before)
    assert decided(question, [*answers, said(proven=True), said(by="Bob", proven=True)]) in (
        answer,
        *([] if answer else [said(proven=True), said(by="Bob", proven=True)]),
    )


def test_people_are_shown_what_it_touches_what_is_left_and_whether_it_can_be_taken_back() -> None:
    whole = profile()
    hosts = [host.name for host in whole.hosts]
    question = asked(profile=whole, healthy=hosts)
    text = "\n".join(question.radius)
    assert "Acts on gw-1" in text
    assert f"{len(hosts) - 1} of {len(hosts)} hosts are left" in text
    assert "cannot be taken back" in text
