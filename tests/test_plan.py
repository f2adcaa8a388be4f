"""The plan: every step once, and whatever nobody can know leads to a person."""

from collections.abc import Mapping
from itertools import product
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.evidence import Dossier, Verdict
from responder.domain.hypothesis import rank
from responder.domain.incident import AttemptOutcome, Kind, Outcome, ResolveOutcome, VerifyOutcome
from responder.domain.plan import Plan, PlanStep, StepResult, confirmed_ending, make_plan, next_step, step_result
from responder.domain.strategies import NAMES, Strategy
from responder.domain.strategies.config import Config
from responder.domain.strategies.restart import Restart
from responder.domain.strategies.scale import Scale
from tests.factories import catalogue, dossier, hypothesis_data, seen

State = Literal["held", "failed", "refused", "unknown", "taken_over", "unanswered"]
STATES: tuple[State, ...] = get_args(State)
VERDICTS: tuple[Verdict, ...] = ("healthy", "unhealthy", "unknown")


BUDGET = {"attempts": 1, "within_minutes": 10}
RESTART: dict[str, Strategy] = {"restart": Restart.model_validate({"command": ["restart"], "budget": BUDGET})}
CONFIG = {"command": ["reload"], "file": "/etc/shop", "good": "/etc/shop.good", "budget": BUDGET}
SCALE = {"host": "gw-1", "deployment": "shop", "replicas": 3, "most": 5, "budget": BUDGET}
ALL: dict[str, Strategy] = RESTART | {
    "config": Config.model_validate(CONFIG),
    "scale": Scale.model_validate(SCALE),
}


def plan_for(rows: list[dict[str, Any]], *hosts: str, strategies: Mapping[str, Strategy] = RESTART) -> Plan:
    look = dossier(*[seen(host, "unit.active_state", "failed") for host in hosts])
    return planned(rows, look, strategies=strategies)


def planned(
    rows: list[dict[str, Any]], look: Dossier, kind: Kind = Kind.AVAILABILITY, strategies: Any = RESTART
) -> Plan:
    ranking = rank(catalogue(*rows), look, service="shop")
    return make_plan(ranking, service="shop", hosts=["gw-1", "gw-2"], strategies=strategies, kind=kind)


def step(strategy: str = "restart", target: str = "gw-1") -> PlanStep:
    return PlanStep(id=f"{strategy}-{target}", strategy=strategy, target=target, hypothesis="crash", why="it died")


def result(of: PlanStep, state: State) -> StepResult:
    return StepResult(step_id=of.id, state=state, reason=f"{of.id} {state}")


# --- making --------------------------------------------------------------------------------------


def test_a_strategy_stands_once_for_each_target_however_many_causes_ask_for_it() -> None:
    plan = plan_for([hypothesis_data("crash"), hypothesis_data("engine-dead")], "gw-1", "gw-2")
    assert [(s.id, s.hypothesis) for s in plan.steps] == [("restart-gw-1", "crash"), ("restart-gw-2", "crash")]


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("unsupported", [("never.seen", 1), ("unit.active_state", "active")])
def test_only_supported_hypotheses_lead_to_anything(strategy: str, unsupported: tuple[str, Any]) -> None:
    key, value = unsupported
    row = hypothesis_data("a-cause", strategy=strategy, requires=[{"evidence": key, "value": value}])
    assert plan_for([row], "gw-1") == Plan()


def test_only_hosts_that_show_the_cause_are_touched() -> None:
    look = dossier(seen("gw-1", "unit.active_state", "active"), seen("gw-2", "unit.active_state", "failed"))
    plan = planned([hypothesis_data("crash")], look)
    assert [s.target for s in plan.steps] == ["gw-2"]


@pytest.mark.parametrize("strategy", ["person", "rollback", "scale", "failover", "config"])
def test_nothing_less_likely_is_tried_before_a_person_has_decided(strategy: str) -> None:
    people = hypothesis_data("missing-build", strategy=strategy, outranks=["crash"])
    plan = plan_for([hypothesis_data("crash"), people], "gw-1")
    assert plan.steps == ()
    assert len(plan.for_people) == 1
    assert strategy in plan.for_people[0]
    assert next_step(plan, (), verdict="unhealthy").do == "hand_over"


def test_a_wait_is_for_the_whole_service_and_comes_last() -> None:
    rows = [hypothesis_data("exporter", strategy="wait"), hypothesis_data("crash")]
    plan = plan_for(rows, "gw-1", "gw-2")
    assert [s.id for s in plan.steps] == ["restart-gw-1", "restart-gw-2", "wait-shop"]


def test_what_the_step_must_save_first_is_kept_with_it() -> None:
    assert [s.capture for s in plan_for([hypothesis_data("crash", capture=True)], "gw-1").steps] == [True]


# --- stepping ------------------------------------------------------------------------------------

plans = st.builds(
    Plan,
    steps=st.lists(
        st.builds(step, st.sampled_from(["restart", "wait"]), st.sampled_from(["gw-1", "gw-2", "shop"])),
        max_size=6,
        unique_by=lambda s: s.id,
    ).map(tuple),
    for_people=st.lists(st.just("roll back"), max_size=1).map(tuple),
)


@given(plan=plans, states=st.lists(st.sampled_from(STATES), min_size=6), verdict=st.sampled_from(VERDICTS))
def test_no_step_is_tried_twice_and_the_plan_ends(plan: Plan, states: list[State], verdict: Any) -> None:
    done: list[StepResult] = []
    acting = {each.id: each for each in plan.steps if each.strategy != "wait"}
    cured: set[str] = set()
    while (following := next_step(plan, tuple(done), verdict=verdict)).step:
        assert following.do == ("wait" if following.step.strategy == "wait" else "act")
        assert following.step.strategy == "wait" or not following.step.cures <= cured, "it is well already"
        assert following.step.id not in [known.step_id for known in done]
        assert not any(known.state in ("unknown", "taken_over", "unanswered") for known in done)
        done.append(result(following.step, states[len(done)]))
        if done[-1].state == "held" and following.step.id in acting:
            cured |= following.step.cures
        assert len(done) <= len(plan.steps)
    assert following.reason
    by_id = {each.id: each for each in plan.steps}
    came = {known.state for known in done}
    helped_nowhere = [
        known for known in done if known.state in ("failed", "refused") and not by_id[known.step_id].cures <= cured
    ]
    if "taken_over" in came:
        assert following.do == "stand_back"
    elif (
        came & {"unknown", "unanswered"}
        or helped_nowhere
        or (plan.for_people and not (cured and verdict == "healthy"))
    ):
        assert following.do == "hand_over"
    else:
        assert following.do == ("confirm" if done or verdict == "healthy" else "hand_over")


@given(
    plan=plans, verdict=st.sampled_from(VERDICTS), state=st.sampled_from(["unknown", "taken_over", "unanswered"])
)
def test_after_an_outcome_nobody_knows_or_other_hands_nothing_more_is_tried(
    plan: Plan, verdict: Any, state: State
) -> None:
    results = (StepResult(step_id="restart-elsewhere", state=state, reason="who knows"),)
    following = next_step(plan, results, verdict=verdict)
    assert (following.do, following.step, following.reason) == (
        "stand_back" if state == "taken_over" else "hand_over",
        None,
        "who knows",
    )


@pytest.mark.parametrize("state", ["failed", "refused"])
def test_a_refused_or_failed_step_leads_to_a_person_with_its_reason_though_others_hold(state: State) -> None:
    one, two = step(target="gw-1"), step("rollback", target="gw-2")
    plan = Plan(steps=(one, two))
    assert next_step(plan, (result(one, state),), verdict="healthy").step == two
    ended = next_step(plan, (result(one, state), result(two, "held")), verdict="healthy")
    assert (ended.do, ended.reason) == ("hand_over", f"restart-gw-1 {state}")


def test_what_failed_on_the_first_host_is_not_tried_on_the_others() -> None:
    one, two = step(target="gw-1"), step(target="gw-2")
    ended = next_step(Plan(steps=(one, two)), (result(one, "failed"),), verdict="unhealthy")
    assert (ended.do, ended.reason) == ("hand_over", "restart-gw-1 failed")
    assert next_step(Plan(steps=(one, two)), (result(one, "refused"),), verdict="unhealthy").step == two


def held(of: PlanStep) -> StepResult:
    return StepResult(step_id=of.id, state="held", reason=f"{of.id} held", acted=True)


def wave(plan: Plan, *results: StepResult, at_once: int = 2, unasked: frozenset[str] = frozenset()) -> list[str]:
    following = next_step(plan, results, verdict="unhealthy", at_once={"restart": at_once}, unasked=unasked)
    return [each.target for each in following.steps]


def test_the_first_target_is_alone_and_after_it_held_the_others_come_in_waves() -> None:
    steps = [step(target=f"gw-{n}") for n in range(1, 5)]
    plan = Plan(steps=tuple(steps))
    assert wave(plan) == ["gw-1"]
    assert wave(plan, held(steps[0])) == ["gw-2", "gw-3"]
    assert wave(plan, held(steps[0]), held(steps[1])) == ["gw-3", "gw-4"]
    assert wave(plan, held(steps[0]), at_once=9) == ["gw-2", "gw-3", "gw-4"]
    assert wave(plan, held(steps[0]), at_once=1) == ["gw-2"]


def test_a_target_that_was_well_again_proves_nothing_for_the_others() -> None:
    one, two, three = (step(target=f"gw-{n}") for n in range(1, 4))
    assert wave(Plan(steps=(one, two, three)), result(one, "held")) == ["gw-2"]


def test_no_wave_follows_one_in_which_a_target_failed() -> None:
    steps = [step(target=f"gw-{n}") for n in range(1, 5)]
    failed = result(steps[2], "failed")
    assert wave(Plan(steps=tuple(steps)), held(steps[0]), held(steps[1]), failed) == []


def test_what_a_person_must_approve_is_in_no_wave() -> None:
    one, two, three, four = (step(target=f"gw-{n}") for n in range(1, 5))
    unasked = frozenset({three.id})
    assert wave(Plan(steps=(one, two, three, four)), held(one), at_once=3, unasked=unasked) == ["gw-2", "gw-4"]


def test_another_hypothesis_proves_itself_on_a_target_of_its_own() -> None:
    one, two = step(target="gw-1"), step(target="gw-2")
    other = [step(target=f"gw-{n}").model_copy(update={"hypothesis": "frozen"}) for n in (3, 4)]
    assert wave(Plan(steps=(one, two, *other)), held(one), held(two), at_once=4) == ["gw-3"]


def test_where_the_first_strategy_failed_the_next_one_makes_it_good() -> None:
    restart, rollback = step(), step("rollback")
    plan = Plan(steps=(restart, rollback))
    assert next_step(plan, (result(restart, "failed"),), verdict="unhealthy").step == rollback
    results = (result(restart, "failed"), result(rollback, "held"))
    assert next_step(plan, results, verdict="healthy").do == "confirm"
    assert next_step(plan, (result(restart, "held"),), verdict="healthy").do == "confirm", (
        "no rollback for nothing"
    )


def test_what_did_not_hold_is_undone_before_the_next_is_tried() -> None:
    scale = step("scale").model_copy(update={"undoable": True})
    plan = Plan(steps=(scale, step("rollback")))
    failed = result(scale, "failed").model_copy(update={"acted": True})
    undo = next_step(plan, (failed,), verdict="unhealthy").step
    assert undo is not None
    assert (undo.id, undo.undoes, undo.title) == ("undo-scale-gw-1", "scale-gw-1", "undo-scale")
    assert plan.step(undo.id) == undo
    for state in ("held", "failed"):
        following = next_step(plan, (failed, result(undo, state)), verdict="unhealthy").step  # type: ignore[arg-type]
        assert following == step("rollback")
    assert next_step(plan, (result(scale, "failed"),), verdict="unhealthy").step == step("rollback"), (
        "nothing was done"
    )


def test_a_step_that_is_not_taken_alone_is_asked_about_once() -> None:
    restart = step()
    plan = Plan(steps=(restart,))
    asked = next_step(plan, (), verdict="unhealthy", unasked=frozenset({restart.id}))
    assert (asked.do, asked.step) == ("ask", restart)
    assert next_step(plan, (), verdict="unhealthy").do == "act"
    assert next_step(plan, (result(restart, "refused"),), verdict="unhealthy").do == "hand_over"


def test_a_person_may_choose_another_strategy() -> None:
    restart, rollback, scale = step(), step("rollback"), step("scale", "shop")
    assert Plan(steps=(restart, scale)).instead(restart, [rollback]).steps == (restart, rollback, scale)
    assert Plan(steps=(restart, scale)).instead(restart, [scale]).steps == (restart, scale)


def test_a_deployment_is_scaled_once_for_all_the_hosts_that_it_is_about() -> None:
    plan = plan_for([hypothesis_data("capacity", strategy="scale")], "gw-1", "gw-2", strategies=ALL)
    [scale] = plan.steps
    assert (scale.target, scale.runs_on, scale.cures) == ("shop", "gw-1", frozenset({"gw-1", "gw-2"}))
    assert scale.undoable


def test_what_is_not_restored_goes_to_a_person_and_not_to_the_next_step() -> None:
    relapsed = ResolveOutcome(state="not_restored", reason="it died again")
    following = next_step(Plan(steps=(step(),)), (), verdict="unhealthy", confirmation=relapsed)
    assert (following.do, following.reason) == ("hand_over", "it died again")


@pytest.mark.parametrize("verdict", ["unhealthy", "unknown"])
def test_what_no_hypothesis_explains_goes_to_a_person(verdict: Any) -> None:
    assert next_step(Plan(), (), verdict=verdict).do == "hand_over"


def test_nothing_wrong_is_confirmed_and_not_acted_upon() -> None:
    assert next_step(Plan(), (), verdict="healthy").do == "confirm"


# --- ending --------------------------------------------------------------------------------------

FLAGS = ("acted", "was_unhealthy", "alerts", "contradicted", "still_firing")


def ending(state: Any = "confirmed", **flags: bool) -> Outcome:
    given_flags = dict.fromkeys(FLAGS, False) | flags
    return confirmed_ending(ResolveOutcome(state=state, reason="three times healthy"), **given_flags).outcome


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        ({}, Outcome.NO_FAULT),
        ({"acted": True}, Outcome.RESOLVED),
        ({"acted": True, "alerts": True, "still_firing": True, "contradicted": True}, Outcome.RESOLVED),
        ({"was_unhealthy": True}, Outcome.RESOLVED),
        ({"was_unhealthy": True, "alerts": True, "contradicted": True}, Outcome.RESOLVED),
        ({"alerts": True}, Outcome.RESOLVED),
        ({"alerts": True, "contradicted": True}, Outcome.FALSE_ALARM),
        ({"alerts": True, "contradicted": True, "still_firing": True}, Outcome.MITIGATED_UNCONFIRMED),
        ({"alerts": True, "still_firing": True}, Outcome.MITIGATED_UNCONFIRMED),
    ],
)
def test_how_a_confirmed_incident_ends(flags: dict[str, bool], outcome: Outcome) -> None:
    assert ending(**flags) is outcome


def test_what_is_unconfirmed_or_not_restored_never_closes_whatever_else_holds() -> None:
    for values in product([False, True], repeat=len(FLAGS)):
        flags = dict(zip(FLAGS, values, strict=True))
        assert ending("unconfirmed", **flags) is Outcome.MITIGATED_UNCONFIRMED
        assert ending("not_restored", **flags) is Outcome.ESCALATED
        if ending(**flags) is Outcome.FALSE_ALARM:
            assert flags == dict.fromkeys(FLAGS, False) | {"alerts": True, "contradicted": True}


# --- people ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.SECURITY, Kind.RISK])
def test_what_people_decide_has_no_steps_and_is_handed_over_even_when_all_is_well(kind: Kind) -> None:
    look = dossier(seen("gw-1", "unit.active_state", "failed"))
    plan = planned([hypothesis_data("crash")], look, kind)
    assert plan.steps == ()
    for verdict in VERDICTS:
        following = next_step(plan, (), verdict=verdict, hands=("somebody is logged in on gw-1",))
        assert (following.do, kind.value in following.reason) == ("hand_over", True)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_where_people_are_at_work_and_nothing_else_explains_it_they_go_on(verdict: Verdict) -> None:
    following = next_step(Plan(), (), verdict=verdict, hands=("alex is logged in on gw-1",))
    assert following.do == ("confirm" if verdict == "healthy" else "stand_back")


def test_what_no_hypothesis_explains_is_handed_over_with_what_was_seen() -> None:
    following = next_step(Plan(), (), verdict="unknown", seen="health on gw-1: the host key has changed")
    assert following.do == "hand_over"
    assert "the host key has changed" in following.reason


def test_a_step_that_did_not_hold_says_what_the_command_said_and_what_was_seen() -> None:
    attempt = AttemptOutcome(attempt_id="a", state="acted", reason="ended with status 1: a password is required")
    check = VerifyOutcome(holds=False, verdict="unhealthy", reason="the unit is failed")
    reason = step_result("restart-gw-1", attempt, check).reason
    assert "a password is required" in reason
    assert "the unit is failed" in reason
