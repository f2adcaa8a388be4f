"""What each strategy wants to see before, does, takes back, and wants to see afterwards."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.commands import CommandResult
from responder.domain.evidence import Dossier
from responder.domain.incident import Mode, Severity
from responder.domain.notes import Notes
from responder.domain.readings import Snapshot
from responder.domain.strategies import KINDS, Strategy, Target
from responder.domain.verification import brought_back

AT = datetime(2026, 3, 1, 10, 22, tzinfo=UTC)
HOST = Target(name="gw-1", host="gw-1")
BUDGET = {"attempts": 1, "within_minutes": 10}
STATUS = "primary: down\nin_recovery: true\nlag_seconds: 0.4\nquorum: yes\nfenced: no\n"
FACTS = {
    name: rf"{name}: *(\S+)" for name in ("primary", "in_recovery", "lag_seconds", "quorum", "fenced", "absent")
}


def deployment(replicas: int = 2, ready: int | None = 2, *, seen: bool = True) -> str:
    return json.dumps(
        {
            "metadata": {"resourceVersion": "712", "generation": 4},
            "spec": {"replicas": replicas},
            "status": {"observedGeneration": 4 if seen else 3}
            | ({} if ready is None else {"readyReplicas": ready}),
        }
    )


def strategy(name: str, **changes: Any) -> Strategy:
    data: dict[str, Any] = {"command": ["act"], "budget": BUDGET}
    data |= {
        "rollback": {"script": "/opt/rollback.sh", "back": ["to", "{release}"]},
        "scale": {"host": "gw-1", "deployment": "shop", "replicas": 4, "most": 5},
        "config": {"file": "/etc/shop", "good": "/etc/shop.good"},
        "failover": {
            "host": "gw-1",
            "status": ["status"],
            "facts": FACTS,
            "requires": [{"evidence": "failover.quorum", "value": True}],
            "holds_when": [{"evidence": "failover.in_recovery", "value": False}],
        },
    }.get(name, {})
    return KINDS[name].model_validate(data | changes)


def answered(status: int | None = 0, stdout: str = "", stderr: str = "", **changes: Any) -> CommandResult:
    values = {"truncated": False, "timed_out": False, "took_s": 0.1} | changes
    return CommandResult(command="read", exit_status=status, stdout=stdout, stderr=stderr, **values)


def looked(of: Strategy, **answers: CommandResult) -> Dossier:
    """What is seen when each read of the strategy is answered so, on a host that runs release 1.4.2."""
    notes = Notes("gw-1", AT)
    notes.saw("changes.release", "stat", "'current' -> 'releases/1.4.2'")
    for read, answer in answers.items():
        assert read in of.reads()
        of.note(notes, read, answer)
    return Dossier(evidence=notes.numbered())


def snapshot(of: Strategy, seen: Dossier) -> Snapshot:
    return Snapshot.of(seen, "gw-1", AT, strategy=of.name)


def verdicts(of: Strategy, before: Dossier, after: Dossier) -> dict[str, str]:
    return {r.check: r.verdict for r in of.postcondition(snapshot(of, before), after, HOST)}


# --- the status command --------------------------------------------------------------------------


def test_facts_of_a_status_command_are_evidence_and_what_it_does_not_say_is_unknown() -> None:
    seen = looked(failover := strategy("failover"), status=answered(stdout=STATUS))
    assert {name: seen.value("gw-1", f"failover.{name}") for name in FACTS} == {
        "primary": False,
        "in_recovery": True,
        "lag_seconds": 0.4,
        "quorum": True,
        "fenced": False,
        "absent": None,
    }
    assert failover.problem(seen, HOST) is None


@pytest.mark.parametrize(
    "answer", [answered(1, STATUS), answered(None, STATUS), answered(0, "usage: failover.sh\n"), answered(0, "")]
)
def test_a_status_that_fails_or_says_nothing_forbids_what_needs_it(answer: CommandResult) -> None:
    failover = strategy("failover")
    assert failover.problem(looked(failover, status=answer), HOST)
    assert verdicts(failover, Dossier(), looked(failover, status=answer)) == {"failover": "unknown"}


def test_a_promotion_that_stays_in_recovery_does_not_hold_whatever_the_script_returned() -> None:
    failover = strategy("failover")
    after = {
        state: looked(failover, status=answered(stdout=STATUS.replace("true", state)))
        for state in ("true", "false")
    }
    assert verdicts(failover, Dossier(), after["true"]) == {"failover": "unhealthy"}
    assert verdicts(failover, Dossier(), after["false"]) == {"failover": "healthy"}


@given(text=st.text(max_size=300), status=st.sampled_from([0, 1, None]))
def test_no_answer_of_a_host_breaks_a_strategy(text: str, status: int | None) -> None:
    for name in KINDS:
        kind = strategy(name)
        seen = looked(kind, **{read: answered(status, text, text) for read in kind.reads()})
        problem = kind.problem(seen, HOST)
        assert problem is None or problem
        assert all(reading.reason for reading in kind.postcondition(snapshot(kind, seen), seen, HOST))


# --- one by one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [1, 126, None])
def test_a_rollback_whose_script_is_missing_is_not_tried(status: int | None) -> None:
    rollback = strategy("rollback")
    assert "/opt/rollback.sh is not there" in str(
        rollback.problem(looked(rollback, script=answered(status)), HOST)
    )
    assert rollback.problem(looked(rollback, script=answered(0)), HOST) is None


def test_a_rollback_needs_to_know_which_release_runs() -> None:
    rollback = strategy("rollback", script=None)
    assert "which release runs" in str(rollback.problem(Dossier(), HOST))


def test_a_rollback_holds_only_with_another_release_and_can_be_taken_back() -> None:
    rollback = strategy("rollback")
    before = looked(rollback, script=answered(0))
    other = before.model_copy(
        update={
            "evidence": tuple(
                e.model_copy(update={"value": "'current' -> 'releases/1.4.1'"}) for e in before.evidence
            )
        }
    )
    assert verdicts(rollback, before, before)["release"] == "unhealthy", "usage text and status 0 change nothing"
    assert verdicts(rollback, before, other)["release"] == "healthy"
    assert verdicts(rollback, before, Dossier())["release"] == "unknown"
    assert rollback.undo(snapshot(rollback, before)) == ("to", "1.4.2")
    assert strategy("rollback", back=None).can_undo is False


def test_a_deployment_is_scaled_from_the_version_that_was_seen_and_back_from_the_number_that_was_set() -> None:
    scale = strategy("scale")
    before = looked(scale, deployment=answered(stdout=deployment()))
    assert scale.problem(before, HOST) is None
    assert scale.action(before, HOST) == (
        *("act", "scale", "deployment", "shop", "-n", "default"),
        *("--replicas=4", "--resource-version=712"),
    )
    undo = scale.undo(snapshot(scale, before))
    assert undo is not None
    assert undo[-2:] == ("--replicas=2", "--current-replicas=4")


@pytest.mark.parametrize(
    ("answer", "changes", "words"),
    [
        (answered(1, stderr='Error from server (NotFound): deployments.apps "shop" not found'), {}, "NotFound"),
        (answered(127, stderr="sh: kubectl: not found"), {}, "kubectl: not found"),
        (answered(0, "<html>"), {}, "did not answer with a deployment"),
        (answered(0, deployment(4)), {}, "has 4 replicas already"),
        (answered(0, deployment()), {"replicas": 5, "most": 1}, "more than the limit of 1"),
    ],
)
def test_what_cannot_be_scaled_is_not_tried(answer: CommandResult, changes: dict[str, Any], words: str) -> None:
    scale = strategy("scale", **changes)
    assert words in str(scale.problem(looked(scale, deployment=answer), HOST))


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (deployment(4, 4), "healthy"),
        (deployment(4, 3), "unhealthy"),
        (deployment(4, None), "unhealthy"),
        (deployment(4, 4, seen=False), "unhealthy"),
        ("", "unknown"),
    ],
)
def test_ready_replicas_count_and_not_what_kubectl_says(after: str, verdict: str) -> None:
    scale = strategy("scale")
    seen = looked(scale, deployment=answered(stdout=after))
    assert verdicts(scale, Dossier(), seen) == {"replicas": verdict}


def test_the_last_good_configuration_is_put_back_where_it_differs() -> None:
    config = strategy("config")
    bad, good = (looked(config, good=answered(status)) for status in (1, 0))
    assert config.problem(bad, HOST) is None
    assert "is the good one already" in str(config.problem(good, HOST))
    assert "cannot be compared" in str(config.problem(looked(config, good=answered(2)), HOST))
    assert verdicts(config, bad, good) == {"configuration": "healthy"}
    assert verdicts(config, bad, bad) == {"configuration": "unhealthy"}
    assert config.action(bad, HOST)[-3:] == ("/etc/shop", "/etc/shop.good", "act")
    assert config.undo(snapshot(config, bad)) is not None


def test_a_failover_never_runs_without_a_person_and_never_without_conditions() -> None:
    assert strategy("failover").severities == ()
    for wrong in ({"severities": ["P1"]}, {"requires": []}, {"holds_when": []}, {"status": None}, {"facts": {}}):
        with pytest.raises(ValidationError):
            strategy("failover", **wrong)


# --- all of them ---------------------------------------------------------------------------------


def test_an_undo_holds_when_everything_is_as_it_was() -> None:
    scale = strategy("scale")
    two, four = (looked(scale, deployment=answered(stdout=deployment(n, n))) for n in (2, 4))
    before = snapshot(scale, two)
    assert brought_back(before, two, "gw-1").verdict == "healthy"
    assert brought_back(before, four, "gw-1").verdict == "unhealthy"
    assert brought_back(before, Dossier(), "gw-1").verdict == "unknown"


@pytest.mark.parametrize("name", KINDS)
def test_a_later_edit_only_tightens(name: str) -> None:
    kept = strategy(name)
    strict = {"mode": "dry-run", "severities": [], "requires": [{"evidence": "x.y", "value": 1}]}
    later = strategy(name, **strict)
    tight = kept.tightened(later)
    assert (tight.mode, tight.severities) == (Mode.DRY_RUN, ())
    assert {c.evidence for c in tight.requires} == {c.evidence for c in (*kept.requires, *later.requires)}
    assert Severity.P1 not in later.tightened(kept).severities
