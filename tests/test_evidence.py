"""Three-valued logic: what is not known never becomes yes or no by itself."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.evidence import OPERATORS, Condition, Dossier, Evidence, Finding, Truth, all_of, any_of
from responder.domain.predicates import PREDICATES
from tests.factories import dossier, seen

TRUE, FALSE, UNKNOWN = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN
NOT = {TRUE: FALSE, FALSE: TRUE, UNKNOWN: UNKNOWN}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
truths = st.sampled_from(Truth)
findings = st.lists(st.builds(Finding, truth=truths, statement=st.just("s")), max_size=6)


def check(condition: Condition, *evidence: Evidence) -> Truth:
    return condition.check(dossier(*evidence), PREDICATES).truth


def is_down(**changes: Any) -> Condition:
    return Condition.model_validate({"evidence": "unit", "value": "down"} | changes)


# --- findings together ---------------------------------------------------------------------------


@given(findings)
def test_all_of_and_any_of_mirror_each_other(several: list[Finding]) -> None:
    turned = [finding.model_copy(update={"truth": NOT[finding.truth]}) for finding in several]
    assert all_of(several) is NOT[any_of(turned)]
    assert any_of(several) is NOT[all_of(turned)]


@given(findings)
def test_learning_what_was_unknown_never_turns_an_answer_over(several: list[Finding]) -> None:
    for judged in (all_of, any_of):
        before = judged(several)
        for known in (TRUE, FALSE):
            learned = [
                finding.model_copy(update={"truth": known}) if finding.truth is UNKNOWN else finding
                for finding in several
            ]
            assert before in (UNKNOWN, judged(learned))


@given(findings, st.randoms())
def test_the_order_of_findings_does_not_matter(several: list[Finding], random: Any) -> None:
    shuffled = random.sample(several, len(several))
    assert (all_of(several), any_of(several)) == (all_of(shuffled), any_of(shuffled))


# --- evidence ------------------------------------------------------------------------------------


def test_evidence_has_a_value_or_the_reason_why_not() -> None:
    for both_or_none in ({}, {"value": 1, "unknown": "timeout"}):
        with pytest.raises(ValidationError, match="either a value or the reason"):
            Evidence.model_validate(seen("h", "k", 1).model_dump(exclude={"value", "unknown"}) | both_or_none)
    assert seen("h", "k", 0).value == 0
    assert seen("h", "k", False).unknown is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unknown_and_neither_above_nor_below(number: float) -> None:
    item = seen("h", "p99", number)
    assert item.value is None
    assert str(number) in (item.unknown or "")
    for operator in ("above", "below", "is", "is_not"):
        assert check(Condition(evidence="p99", operator=operator, value=1.0), item) is UNKNOWN


@given(anything.filter(lambda value: value is not None))
def test_evidence_survives_json(value: Any) -> None:
    item = seen("h", "k", value)
    assert Evidence.model_validate_json(item.model_dump_json()) == item
    item.model_dump_json().encode()


def test_the_latest_observation_counts_for_each_host() -> None:
    look = dossier(seen("a", "unit", "down"), seen("b", "unit", "up"), seen("a", "unit", "up"))
    assert [item.value for item in look.of("unit")] == ["up", "up"]
    assert look.value("a", "unit") == "up"
    assert look.value("a", "nothing") is None
    assert look.hosts == ("a", "b")
    assert look.plus([seen("a", "unit")]).value("a", "unit") is None
    assert [item.value for item in look.for_host("a").evidence] == ["down", "up"]


def test_an_older_reading_does_not_stand_in_for_one_that_failed_since() -> None:
    assert check(is_down(), seen("a", "unit", "down"), seen("a", "unit", unknown="timeout")) is UNKNOWN


# --- conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "states", "expected"),
    [
        ("any", [], UNKNOWN),
        ("any", ["down", "up"], TRUE),
        ("any", ["down", None], TRUE),
        ("any", ["up", None], UNKNOWN),
        ("any", ["up", "up"], FALSE),
        ("all", [], UNKNOWN),
        ("all", ["down", "down"], TRUE),
        ("all", ["down", None], UNKNOWN),
        ("all", ["up", None], FALSE),
        ("all", ["down", "up"], FALSE),
    ],
)
def test_any_and_all_hosts(hosts: str, states: list[str | None], expected: Truth) -> None:
    look = [seen(f"h{number}", "unit", state) for number, state in enumerate(states)]
    assert check(is_down(hosts=hosts), *look) is expected


@given(operator=st.sampled_from(sorted(OPERATORS)), wanted=anything, values=st.lists(anything, max_size=3))
def test_a_condition_never_raises_and_the_unknown_stays_unknown(
    operator: str, wanted: Any, values: list[Any]
) -> None:
    for hosts in ("any", "all"):
        try:
            condition = Condition.model_validate(
                {"evidence": "k", "operator": operator, "value": wanted, "hosts": hosts}
            )
        except ValidationError:
            continue  # refused where the file is read, with its line
        look = [seen(f"h{number}", "k", value) for number, value in enumerate(values)]
        found = condition.check(dossier(*look), PREDICATES)
        assert set(found.evidence) <= {item.id for item in look}
        known = [item for item in look if item.unknown is None]
        if found.truth is not UNKNOWN:
            # An answer rests on something known, and stays the same without what is unknown.
            assert known
            assert condition.check(dossier(*known), PREDICATES).truth is found.truth
        if not known:
            assert found.truth is UNKNOWN


@given(operator=st.sampled_from(["above", "below"]), value=st.text() | st.lists(st.integers()) | st.just({}))
def test_what_cannot_be_compared_is_unknown(operator: str, value: Any) -> None:
    assert check(Condition(evidence="k", operator=operator, value=5), seen("h", "k", value)) is UNKNOWN


@pytest.mark.parametrize(
    ("operator", "wanted", "value", "expected"),
    [
        ("is", "down", "down", TRUE),
        ("is_not", "down", "up", TRUE),
        ("in", ["a", "b"], "b", TRUE),
        ("in", ["a", "b"], "ab", FALSE),
        ("above", 5, 5, FALSE),
        ("above", 5, 5.1, TRUE),
        ("below", 5, 4, TRUE),
        ("matches", "out of memory", ["fine", "Out Of Memory: killed"], TRUE),
        ("matches", "^killed", "was killed", FALSE),
        ("matches", 429, "HTTP 429", TRUE),
        ("matches", "x", [], FALSE),
    ],
)
def test_operators(operator: Any, wanted: Any, value: Any, expected: Truth) -> None:
    assert check(Condition(evidence="k", operator=operator, value=wanted), seen("h", "k", value)) is expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "either"),
        ({"evidence": "k", "value": 1, "predicate": "something_unknown"}, "either"),
        ({"evidence": "k"}, "needs a `value`"),
        ({"evidence": "k", "operator": "matches", "value": "("}, "not a regular expression"),
        ({"evidence": "k", "operator": "matches", "value": "a{99999999999}"}, "not a regular expression"),
        ({"evidence": "k", "operator": "in", "value": "abc"}, "needs a list"),
        ({"evidence": "k", "operator": "exec", "value": "abc"}, "Input should be"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Condition.model_validate(data)


def test_a_finding_cites_what_decided_it() -> None:
    look = dossier(seen("a", "unit", "up"), seen("b", "unit", "down"))
    found = is_down().check(look, PREDICATES)
    assert found.evidence == ("unit@b",)
    assert "b: down" in found.statement
    assert "never observed" in is_down().check(Dossier(), PREDICATES).statement
    assert "timeout" in is_down().check(dossier(seen("a", "unit", unknown="timeout")), PREDICATES).statement


# --- predicates ----------------------------------------------------------------------------------

PREDICATE_KEYS = [
    "window.open",
    "deployments.running",
    "logins.active",
    "health.failure",
    "engine.failure",
    "health.verdict",
    "metrics.verdict",
    "process.state",
    "process.cpu_percent",
    "unit.n_restarts",
    "unit.sub_state",
]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(PREDICATE_KEYS), anything), max_size=10))
def test_a_predicate_never_raises_and_cites_only_what_was_seen(rows: list[tuple[str, str, Any]]) -> None:
    look = dossier(*[seen(host, key, value) for host, key, value in rows])
    for predicate in PREDICATES.values():
        found = predicate(look)
        assert set(found.evidence) <= {item.id for item in look.evidence}
        assert found.statement


@pytest.mark.parametrize("name", sorted(set(PREDICATES) - {"something_unknown"}))
def test_a_predicate_without_evidence_or_with_none_that_is_known_is_unknown(name: str) -> None:
    assert PREDICATES[name](Dossier()).truth is UNKNOWN
    blind = dossier(*[seen("a", key) for key in PREDICATE_KEYS])
    assert PREDICATES[name](blind).truth is UNKNOWN


@pytest.mark.parametrize(
    ("name", "evidence", "expected"),
    [
        ("somebody_explains_it", {"window.open": False, "logins.active": [], "deployments.running": []}, FALSE),
        (
            "somebody_explains_it",
            {"window.open": False, "logins.active": None, "deployments.running": []},
            UNKNOWN,
        ),
        ("somebody_explains_it", {"window.open": None, "logins.active": ["ada"]}, TRUE),
        ("every_endpoint_hangs", {"health.failure": "timeout", "engine.failure": "timeout"}, TRUE),
        ("every_endpoint_hangs", {"health.failure": "timeout", "engine.failure": None}, UNKNOWN),
        ("every_endpoint_hangs", {"health.failure": "timeout", "engine.failure": "none"}, FALSE),
        ("process_is_stuck", {"process.state": "T"}, TRUE),
        ("process_is_stuck", {"process.state": "S", "process.cpu_percent": 99.0}, TRUE),
        ("process_is_stuck", {"process.state": "S", "process.cpu_percent": None}, UNKNOWN),
        ("process_is_stuck", {"process.state": "S", "process.cpu_percent": "much"}, UNKNOWN),
        ("process_is_stuck", {"process.state": "S", "process.cpu_percent": 1}, FALSE),
        ("unit_keeps_restarting", {"unit.n_restarts": 5, "unit.sub_state": "auto-restart"}, TRUE),
        ("unit_keeps_restarting", {"unit.n_restarts": 5, "unit.sub_state": "running"}, FALSE),
        ("unit_keeps_restarting", {"unit.n_restarts": "5", "unit.sub_state": "failed"}, UNKNOWN),
        ("unit_keeps_restarting", {"unit.sub_state": "failed"}, UNKNOWN),
        ("something_unhealthy", {"health.verdict": "unhealthy", "metrics.verdict": "unknown"}, TRUE),
        ("something_unhealthy", {"health.verdict": "healthy", "metrics.verdict": "unknown"}, UNKNOWN),
        ("something_unhealthy", {"health.verdict": "healthy"}, FALSE),
        ("something_unknown", {"health.verdict": "healthy", "metrics.verdict": None}, TRUE),
        ("something_unknown", {"health.verdict": "healthy"}, FALSE),
        ("something_unknown", {}, TRUE),
    ],
)
def test_predicates(name: str, evidence: dict[str, Any], expected: Truth) -> None:
    look = dossier(*[seen("a", key, value) for key, value in evidence.items()])
    assert PREDICATES[name](look).truth is expected


def test_hanging_endpoints_of_two_hosts_are_not_put_together() -> None:
    look = dossier(
        seen("a", "health.failure", "timeout"),
        seen("a", "engine.failure", "none"),
        seen("b", "health.failure", "none"),
        seen("b", "engine.failure", "timeout"),
    )
    assert PREDICATES["every_endpoint_hangs"](look).truth is FALSE
