"""Judging and ranking causes: unknown supports nothing, and two hosts' symptoms make no cause."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.hypothesis import Catalogue, Judgement, judge, rank
from tests.factories import catalogue, dossier, hypothesis_data, seen

SERVICE = "shop"


def condition(evidence: str, value: Any) -> dict[str, Any]:
    return {"evidence": evidence, "value": value}


def judged(row: dict[str, Any], *evidence: Any) -> Judgement:
    return judge(catalogue(row).hypotheses[0], dossier(*evidence), service=SERVICE)


def ranked(rows: list[dict[str, Any]], *evidence: Any) -> list[str]:
    return [j.hypothesis.id for j in rank(catalogue(*rows), dossier(*evidence), service=SERVICE)]


TWO_SIGNS = hypothesis_data("two-signs", requires=[condition("x", 1), condition("y", 1)])


def test_the_symptoms_of_two_hosts_are_never_one_cause() -> None:
    apart = judged(TWO_SIGNS, seen("a", "x", 1), seen("a", "y", 0), seen("b", "x", 0), seen("b", "y", 1))
    assert (apart.standing, apart.hosts) == ("refuted", ())
    together = judged(TWO_SIGNS, seen("a", "x", 0), seen("a", "y", 1), seen("b", "x", 1), seen("b", "y", 1))
    assert (together.standing, together.hosts) == ("supported", ("b",))
    assert {cited for finding in together.supporting for cited in finding.evidence} == {"x@b", "y@b"}


states = st.sampled_from([0, 1, None])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), states), max_size=12))
def test_a_host_is_supported_exactly_when_its_own_evidence_alone_supports_it(rows: list[Any]) -> None:
    row = hypothesis_data(
        "two-signs", requires=[condition("x", 1), condition("y", 1)], refutes=[condition("z", 1)]
    )
    evidence = [seen(host, key, value) for host, key, value in rows]
    whole = judged(row, *evidence)
    for host in "abc":
        own = [item for item in evidence if item.host == host]
        latest = {item.key: item.value for item in own}
        alone = (latest.get("x"), latest.get("y"), latest.get("z")) == (1, 1, 0)
        assert (host in whole.hosts) == alone
    assert (whole.standing == "supported") == bool(whole.hosts)


def test_what_was_seen_of_the_whole_service_counts_on_every_host() -> None:
    whole = judged(TWO_SIGNS, seen(SERVICE, "y", 1), seen("a", "x", 1), seen("b", "x", 0))
    assert whole.hosts == ("a",)
    assert judged(TWO_SIGNS, seen(SERVICE, "y", 1), seen(SERVICE, "x", 1)).hosts == (SERVICE,)


@pytest.mark.parametrize(
    ("evidence", "standing"),
    [
        ([], "open"),
        ([("x", 1)], "open"),
        ([("x", 1), ("y", None)], "open"),
        ([("x", None), ("y", 0)], "refuted"),
        ([("x", 1), ("y", 1)], "open"),  # nobody looked whether z refutes it
        ([("x", 1), ("y", 1), ("z", None)], "open"),
        ([("x", 1), ("y", 1), ("z", 1)], "refuted"),
        ([("x", None), ("y", None), ("z", 1)], "refuted"),
        ([("x", 1), ("y", 1), ("z", 0)], "supported"),
    ],
)
def test_unknown_neither_supports_nor_clears(evidence: list[tuple[str, int | None]], standing: str) -> None:
    row = {**TWO_SIGNS, "refutes": [condition("z", 1)]}
    result = judged(row, *[seen("a", key, value) for key, value in evidence])
    assert result.standing == standing
    assert bool(result.hosts) == (standing == "supported")
    if standing == "open":
        assert result.missing


def test_for_against_and_missing_are_told_apart() -> None:
    row = {**TWO_SIGNS, "supports": [condition("w", 1)], "refutes": [condition("z", 1)]}
    result = judged(row, seen("a", "x", 1), seen("a", "y", 0), seen("a", "w"), seen("a", "z", 1))
    assert [finding.evidence for finding in result.supporting] == [("x@a",)]
    assert [finding.evidence for finding in result.refuting] == [("y@a",), ("z@a",)]
    assert [finding.evidence for finding in result.missing] == [("w@a",)]
    assert result.signals == 1


def test_one_healthy_host_does_not_refute_what_another_shows() -> None:
    row = hypothesis_data("crash")
    result = judged(row, seen("a", "unit.active_state", "active"), seen("b", "unit.active_state", "failed"))
    assert (result.standing, result.hosts) == ("supported", ("b",))
    half = judged(row, seen("a", "unit.active_state", "active"), seen("b", "unit.active_state"))
    assert half.standing == "open"


# --- the order -----------------------------------------------------------------------------------

DOWN = seen("a", "unit.active_state", "failed")


def test_a_row_that_says_wait_never_leads_over_a_supported_one_that_acts() -> None:
    waits = hypothesis_data("exporter-defect", strategy="wait", outranks=["crash"])
    assert ranked([waits, hypothesis_data("crash")], DOWN) == ["crash", "exporter-defect"]
    person = hypothesis_data("breach", strategy="person")
    assert ranked([waits, hypothesis_data("crash"), person], DOWN)[-1] == "exporter-defect"


def test_a_supported_row_that_waits_goes_before_an_open_one_that_acts() -> None:
    waits = hypothesis_data("exporter-defect", strategy="wait")
    opened = hypothesis_data("crash", requires=[condition("never.seen", 1)])
    assert ranked([opened, waits], DOWN) == ["exporter-defect", "crash"]


def test_only_a_supported_row_outranks() -> None:
    crash = hypothesis_data("crash")
    specific = hypothesis_data("missing-build", outranks=["crash"])
    assert ranked([crash, specific], DOWN) == ["missing-build", "crash"]
    unsure = {**specific, "requires": [condition("never.seen", 1)]}
    assert ranked([crash, unsure], DOWN) == ["crash", "missing-build"]


def test_outranking_holds_along_a_chain() -> None:
    rows = [
        hypothesis_data("general"),
        hypothesis_data("special", outranks=["general"]),
        hypothesis_data("most-special", outranks=["special"]),
    ]
    assert ranked(rows, DOWN) == ["most-special", "special", "general"]


@st.composite
def outranking(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = [f"row-{number}" for number in range(draw(st.integers(1, 6)))]
    return [
        hypothesis_data(
            name,
            outranks=draw(st.lists(st.sampled_from(names[number + 1 :]), max_size=2))
            if names[number + 1 :]
            else [],
            strategy=draw(st.sampled_from(["restart", "wait", "person"])),
            requires=[draw(st.sampled_from([condition("unit.active_state", "failed"), condition("unseen", 1)]))],
        )
        for number, name in enumerate(names)
    ]


@given(outranking().flatmap(st.permutations))
def test_a_ranking_holds_every_row_once_and_nothing_stands_before_what_outranks_it(
    rows: list[dict[str, Any]],
) -> None:
    result = rank(catalogue(*rows), dossier(DOWN), service=SERVICE)
    order = [judgement.hypothesis.id for judgement in result]
    assert sorted(order) == sorted(row["id"] for row in rows)
    supported = [judgement.hypothesis for judgement in result if judgement.standing == "supported"]
    assert order[: len(supported)] == [hypothesis.id for hypothesis in supported]
    waits = [hypothesis.strategy == "wait" for hypothesis in supported]
    assert waits == sorted(waits)
    acting = [hypothesis for hypothesis in supported if hypothesis.strategy != "wait"]
    if not any(len(set(row["outranks"]) & {h.id for h in acting}) for row in rows):
        catalogue_order = [row["id"] for row in rows]
        assert [h.id for h in acting] == [name for name in catalogue_order if name in {h.id for h in acting}]
    for place, hypothesis in enumerate(acting):
        for earlier in acting[:place]:
            assert earlier.id not in hypothesis.outranks


# --- the catalogue -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "at least 1"),
        ([hypothesis_data("one-cause"), hypothesis_data("one-cause")], "same id"),
        ([hypothesis_data("one-cause", outranks=["nonesuch"])], "which does not exist"),
        ([hypothesis_data("one-cause", outranks=["one-cause"])], "in a circle: one-cause, one-cause"),
        (
            [hypothesis_data("one-cause", outranks=["other"]), hypothesis_data("other", outranks=["one-cause"])],
            "in a circle",
        ),
        ([hypothesis_data("one-cause", requires=[{"predicate": "nonesuch"}])], "no predicate is called"),
        ([hypothesis_data("one-cause", refutes=[{"predicate": "nonesuch"}])], "no predicate is called"),
        ([hypothesis_data("one-cause", requires=[])], "at least 1"),
        ([hypothesis_data("One Cause")], "match pattern"),
        ([hypothesis_data("one-cause", strategy="reboot")], "no strategy is called"),
    ],
)
def test_a_catalogue_that_contradicts_itself_is_refused(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Catalogue.model_validate({"schema_version": 1, "hypotheses": rows})


def test_a_hypothesis_is_got_by_its_id() -> None:
    known = catalogue(hypothesis_data("one-cause"))
    assert known.get("one-cause").id == "one-cause"
    with pytest.raises(KeyError):
        known.get("nonesuch")
