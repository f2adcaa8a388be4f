"""The predicates written in Python: true, false and unknown, each on its own evidence."""

from typing import Any

import pytest
from factories import dossier, seen
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.evidence import Dossier, Evidence, Truth
from responder.domain.predicates import ENDPOINTS, PREDICATES

YES, NO, UNSURE = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN


def truth(name: str, *evidence: Evidence) -> Truth:
    return PREDICATES[name](dossier(*evidence)).truth


def hands(window: Any = False, deployments: Any = 0, logins: Any = 0) -> tuple[Evidence, ...]:
    """What tells of people at work; None is unknown."""
    return (
        seen("shop", "window.open", window),
        seen("gw-1", "deployments.running", deployments),
        seen("gw-1", "logins.active", logins),
    )


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (hands(), NO),
        (hands(window=True), YES),
        (hands(deployments=1), YES),
        (hands(logins=2), YES),
        (hands(logins=1, deployments=None), YES),
        (hands(logins=None), UNSURE),
        (hands(deployments=None), UNSURE),
        (hands(window=None), UNSURE),
        ((), UNSURE),
    ],
)
def test_a_window_a_deployment_or_a_login_explains_it(evidence: tuple[Evidence, ...], expected: Truth) -> None:
    assert truth("somebody_explains_it", *evidence) is expected


def test_who_explains_it_is_said_with_the_host_and_cited() -> None:
    finding = PREDICATES["somebody_explains_it"](dossier(*hands(logins=1)))
    assert "somebody is logged in (gw-1)" in finding.statement
    assert finding.evidence == ("logins.active@gw-1",)


def answers(host: str = "gw-1", **failures: Any) -> tuple[Evidence, ...]:
    return tuple(seen(host, f"{name}.failure", failure) for name, failure in failures.items())


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (answers(health="timeout", engine="timeout", metrics="timeout", orders="timeout"), YES),
        (answers(health="timeout"), YES),
        (answers(health="timeout", metrics="none"), NO),
        (answers(health="refused"), NO),
        (answers(health="timeout", engine=None), UNSURE),
        (answers(health=None), UNSURE),
        (answers(health=None, engine="none"), NO),
        ((seen("gw-1", "unit.active_state", "active"),), NO),
        ((), UNSURE),
        ((*answers(health="timeout"), *answers("gw-2", health="none")), YES),
        ((*answers(health="none"), *answers("gw-2", health=None)), UNSURE),
    ],
)
def test_every_endpoint_hangs_only_where_none_answers(evidence: tuple[Evidence, ...], expected: Truth) -> None:
    assert truth("every_endpoint_hangs", *evidence) is expected


@pytest.mark.parametrize(
    ("state", "percent", "expected"),
    [
        ("T", 0.0, YES),
        ("D", None, YES),
        ("R", 99.0, YES),
        (None, 95.0, YES),
        ("S", 94.9, NO),
        ("S", None, UNSURE),
        (None, 3.0, UNSURE),
        (None, None, UNSURE),
    ],
)
def test_a_process_is_stuck_when_stopped_blocked_or_burning(
    state: str | None, percent: float | None, expected: Truth
) -> None:
    found = (seen("gw-1", "process.state", state), seen("gw-1", "process.cpu_percent", percent))
    assert truth("process_is_stuck", *found) is expected


@pytest.mark.parametrize(
    ("restarts", "state", "expected"),
    [
        (2, "auto-restart", YES),
        (7, "failed", YES),
        (7, "running", NO),
        (1, "failed", NO),
        (0, "dead", NO),
        (None, "failed", UNSURE),
        (7, None, UNSURE),
    ],
)
def test_a_unit_keeps_restarting_when_its_counter_rises_and_it_does_not_run(
    restarts: int | None, state: str | None, expected: Truth
) -> None:
    found = (seen("gw-1", "unit.n_restarts", restarts), seen("gw-1", "unit.sub_state", state))
    assert truth("unit_keeps_restarting", *found) is expected


def verdicts(*values: str | None) -> tuple[Evidence, ...]:
    return tuple(seen("gw-1", f"{name}.verdict", value) for name, value in zip(ENDPOINTS, values, strict=False))


@pytest.mark.parametrize(
    ("values", "unhealthy", "unknown"),
    [
        (("healthy",) * 4, NO, NO),
        (("healthy", "unhealthy", "healthy", "healthy"), YES, NO),
        (("healthy", None, "healthy", "healthy"), UNSURE, YES),
        (("unhealthy", None), YES, YES),
        ((), UNSURE, YES),
    ],
)
def test_unhealthy_and_unknown_readings_are_told_apart(
    values: tuple[str | None, ...], unhealthy: Truth, unknown: Truth
) -> None:
    assert truth("something_unhealthy", *verdicts(*values)) is unhealthy
    assert truth("something_unknown", *verdicts(*values)) is unknown


KEYS = (
    [f"{name}.{what}" for name in ENDPOINTS for what in ("verdict", "failure")]
    + ["process.state", "process.cpu_percent", "unit.n_restarts", "unit.sub_state"]
    + ["window.open", "deployments.running", "logins.active"]
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none()))


@given(st.sampled_from(sorted(PREDICATES)), st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=6))
def test_a_predicate_decides_about_any_evidence_without_an_error(name: str, found: list[tuple[str, Any]]) -> None:
    finding = PREDICATES[name](dossier(*(seen("gw-1", key, value) for key, value in found)))
    assert finding.statement
    assert set(finding.evidence) <= {f"{key}@gw-1" for key, _ in found}


@given(
    st.sampled_from(sorted(set(PREDICATES) - {"something_unknown"})), st.lists(st.sampled_from(KEYS), max_size=9)
)
def test_nothing_is_decided_where_nothing_could_be_seen(name: str, keys: list[str]) -> None:
    """Unknown is neither a fault nor its absence; no endpoint asked means that none hangs."""
    found: Dossier = dossier(*(seen("gw-1", key) for key in keys))
    asked = any(key.endswith(".failure") for key in keys)
    if name == "every_endpoint_hangs" and keys and not asked:
        assert PREDICATES[name](found).truth is NO
    else:
        assert PREDICATES[name](found).truth is UNSURE
