"""Severity: the first rule that holds, what cannot be decided does not hold, a person's word is a floor."""

from typing import Any

import pytest
from factories import dossier, profile, seen
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.evidence import Dossier
from responder.domain.incident import Kind, Severity
from responder.domain.profile import Severities
from responder.domain.severity import choose_severity


def rules(*rows: dict[str, Any]) -> Severities:
    return Severities.model_validate(profile().severities.model_dump() | {"rules": rows})


def when(key: str, value: Any, operator: str = "is", **more: Any) -> list[dict[str, Any]]:
    return [{"evidence": key, "operator": operator, "value": value, **more}]


DOWN = {"level": "P1", "when": when("health.failure", "refused", hosts="all"), "reason": "down everywhere"}
PARTLY = {"level": "P2", "when": when("health.failure", "refused"), "reason": "down somewhere"}
FINE = {"level": "P4", "reason": "nothing is wrong"}


def chosen(severities: Severities, *failures: str | None, floor: Severity | None = None) -> tuple[Severity, str]:
    found = dossier(*(seen(f"gw-{n}", "health.failure", failure) for n, failure in enumerate(failures, start=1)))
    return choose_severity(severities, Kind.AVAILABILITY, found, floor=floor)


@pytest.mark.parametrize(
    ("failures", "level"),
    [
        (("refused", "refused"), "P1"),
        (("refused", "none"), "P2"),
        (("refused", None), "P2"),
        (("none", "none"), "P4"),
        ((None, None), "P4"),
        ((), "P4"),
    ],
)
def test_the_first_rule_that_holds_decides_and_unknown_does_not_hold(
    failures: tuple[str | None, ...], level: str
) -> None:
    assert chosen(rules(DOWN, PARTLY, FINE), *failures)[0] == level


def test_the_order_of_the_rules_counts_not_their_gravity() -> None:
    assert chosen(rules(PARTLY, DOWN, FINE), "refused", "refused")[0] is Severity.P2


def test_the_reason_cites_the_evidence_and_no_more_than_six() -> None:
    assert chosen(rules(PARTLY), "refused")[1] == "down somewhere (health.failure@gw-1)"
    assert chosen(rules(DOWN), *["refused"] * 9)[1].endswith("health.failure@gw-6, …)")


def test_where_no_rule_holds_it_is_not_taken_lightly() -> None:
    severity, reason = chosen(rules(PARTLY), "none")
    assert severity is Severity.P3
    assert "no rule" in reason


def test_all_conditions_of_a_rule_must_hold() -> None:
    both = {
        "level": "P1",
        "when": when("health.failure", "refused") + when("unit.result", "signal"),
        "reason": "x",
    }
    found = dossier(seen("gw-1", "health.failure", "refused"), seen("gw-1", "unit.result", "success"))
    assert choose_severity(rules(both, FINE), Kind.AVAILABILITY, found, floor=None)[0] is Severity.P4


def test_a_rule_for_one_kind_does_not_hold_for_another() -> None:
    severities = rules({"level": "P1", "kinds": ["security"], "reason": "a breach"}, FINE)
    levels = [choose_severity(severities, kind, dossier(), floor=None)[0] for kind in Kind]
    assert dict(zip(Kind, levels, strict=True)) == {Kind.AVAILABILITY: "P4", Kind.SECURITY: "P1", Kind.RISK: "P4"}


def test_a_person_raises_the_severity_and_never_lowers_it() -> None:
    severity, reason = chosen(rules(DOWN, FINE), "none", floor=Severity.P2)
    assert severity is Severity.P2
    assert "a person set P2" in reason
    assert "nothing is wrong" in reason
    assert chosen(rules(DOWN, FINE), "refused", floor=Severity.P3)[0] is Severity.P1


@given(
    st.lists(st.sampled_from(["refused", "none", None]), max_size=4),
    st.one_of(st.none(), st.sampled_from(list(Severity))),
)
def test_the_result_is_never_below_what_a_person_set(failures: list[str | None], floor: Severity | None) -> None:
    severity, reason = chosen(rules(DOWN, PARTLY, FINE), *failures, floor=floor)
    assert severity == severity.at_least(floor)
    assert reason


@given(st.text(), st.sampled_from(["above", "below", "in", "matches", "is"]))
def test_a_value_that_cannot_be_compared_makes_no_rule_hold(value: str, operator: str) -> None:
    wanted: Any = [1] if operator == "in" else "^\\d+$^" if operator == "matches" else 1
    severities = rules({"level": "P1", "when": when("metrics.error_share", wanted, operator), "reason": "x"}, FINE)
    found: Dossier = dossier(seen("gw-1", "metrics.error_share", value))
    assert choose_severity(severities, Kind.AVAILABILITY, found, floor=None)[0] is Severity.P4
