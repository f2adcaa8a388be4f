"""One attempt, from the intent to what it changed: the only code that changes anything on a host.

The states stand in `responder.domain.attempt`; whoever finds an attempt after a crash goes on from its state.
"""

import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from responder.domain.attempt import AttemptState, difference
from responder.domain.base import now
from responder.domain.commands import ChangeState
from responder.domain.errors import BusyError, IncidentResponseError, OutcomeUnknownError, TransientError
from responder.domain.escaping import bound
from responder.domain.evidence import Dossier
from responder.domain.guardrails import Refusal
from responder.domain.incident import AttemptOutcome, VerifyOutcome
from responder.domain.plan import PlanStep
from responder.domain.profile import Host
from responder.domain.readings import Snapshot
from responder.domain.redaction import clipped, redact
from responder.store.tables import AttemptRow
from tasks.admission import Admitted, admit, attempt_of, await_start_limit, look_first, refused
from tasks.case import Case

POLL_S = 0.5
SEND_TRIES = 5


@task(task_run_name="{step.title} {case.profile.unit.name} on {step.target}", cache_policy=NO_CACHE)
def carry_out(case: Case, step: PlanStep) -> AttemptOutcome:
    """Try one strategy on one target, at most once whatever crashes (document, phase 3, step 2).

    An attempt that the store knows already is never begun again: it is looked at. Raises nothing for what
    the host does; `StaleEpochError` when another run has taken the incident up.
    """
    host = case.host(step.runs_on)
    attempt = attempt_of(case, step.id)
    if attempt is None or attempt.state == AttemptState.INTENDED:
        begun = _begin(case, step, host, attempt)
        if isinstance(begun, AttemptOutcome):
            return begun
        attempt = begun
    if attempt.state == AttemptState.NOT_ACTED:
        return AttemptOutcome(attempt_id=attempt.id, state="failed", reason=attempt.reason)
    strategy = case.profile.strategies.get(step.strategy)
    return _poll(case, attempt, host, strategy.timeout_s if strategy else POLL_S)


def _begin(case: Case, step: PlanStep, host: Host, attempt: AttemptRow | None) -> AttemptRow | AttemptOutcome:
    """Look, ask the guardrails, commit the intent and start it on the host. An outcome: it was not started."""
    await_start_limit(case, host)
    looked = look_first(case, step)
    with case.deciding:
        admitted = looked if isinstance(looked, AttemptOutcome) else admit(case, step, looked, attempt)
        if isinstance(admitted, Admitted) and attempt is None:
            try:
                attempt = _intend(case, step, host, admitted)
            except BusyError as error:
                remedy = "It is tried no more: look at both incidents, and act by hand."
                admitted = refused(case, step, Refusal(rule="targets at once", reason=str(error), remedy=remedy))
    if isinstance(admitted, AttemptOutcome):
        return _bar(case, attempt, host, admitted) if attempt else admitted
    assert attempt is not None
    return _start(case, attempt, host)


def _intend(case: Case, step: PlanStep, host: Host, admitted: Admitted) -> AttemptRow:
    case.store.decide(case.id, who="responder", what=f"{step.title} on {step.target}", why=step.why)
    return case.store.intend(
        case.id,
        case.ref.epoch,
        step_id=step.id,
        strategy=step.title,
        target=step.target,
        machine=machine_of(host),
        command=admitted.command,
        snapshot=admitted.before.model_dump(mode="json"),
    )


def _start(case: Case, attempt: AttemptRow, host: Host) -> AttemptRow | AttemptOutcome:
    """Fence the attempt and start it; it, if it has been started, by us now or by an earlier run of ours."""
    why = ""
    held_back = case.store.held_back(case.id)  # read last of all: it is in force from the moment it stands there
    if held_back:
        state = "refused" if case.store.stopped() else "taken_over"
        instead = AttemptOutcome.model_validate({"attempt_id": attempt.id, "state": state, "reason": held_back})
        return _bar(case, attempt, host, instead)
    for number in range(SEND_TRIES):
        try:
            fence = case.ssh.start_change(
                host.name,
                host.address,
                host.port,
                attempt.id,
                attempt.command,
                root=case.profile.ssh.fence_directory,
            )
        except (TransientError, OutcomeUnknownError) as error:
            # The same fence again is safe whatever became of the first one: only one of them can win.
            why = str(error)
            time.sleep(min(2.0**number, 5.0) * 0.2)
            continue
        except IncidentResponseError as error:
            return _not_acted(case, attempt, str(error))
        if fence.outcome == "error":
            return _not_acted(case, attempt, f"the fence could not be made: {fence.detail}")
        return _move(case, attempt, AttemptState.ACTED, acted_at=now())
    return _unknown(case, attempt, f"{host.name} could not be told to begin, nor asked whether it did: {why}")


def _bar(case: Case, attempt: AttemptRow, host: Host, instead: AttemptOutcome) -> AttemptOutcome:
    """Make sure that an intended attempt never begins, however late a message of ours may arrive."""
    try:
        fence = case.ssh.bar_change(
            host.name, host.address, host.port, attempt.id, root=case.profile.ssh.fence_directory
        )
    except IncidentResponseError as error:
        return _unknown(case, attempt, f"{instead.reason}; and it cannot be told whether it had begun: {error}")
    if fence.outcome == "won":
        _move(case, attempt, AttemptState.BARRED, ended_at=now(), reason=instead.reason)
        return instead
    if fence.outcome == "exists":
        return _poll(case, attempt, host, POLL_S)
    return _unknown(case, attempt, f"{instead.reason}; and the fence says: {fence.detail}")


def bar_intents(case: Case, why: str) -> None:
    """Bar every attempt that was intended and perhaps never sent: nothing may begin once nobody waits for it."""
    for attempt in case.store.attempts(case.id):
        if attempt.state == AttemptState.INTENDED:
            [host] = [host for host in case.profile.hosts if machine_of(host) == attempt.machine]
            _bar(case, attempt, host, AttemptOutcome(attempt_id=attempt.id, state="refused", reason=why))


def machine_of(host: Host) -> str:
    """The machine as attempts know it, whatever a profile calls it."""
    return f"{host.address.lower()}:{host.port}"


def _poll(case: Case, attempt: AttemptRow, host: Host, timeout_s: float) -> AttemptOutcome:
    deadline = time.monotonic() + timeout_s
    why = "it was never asked"
    while True:
        try:
            change = case.ssh.poll_change(
                host.name, host.address, host.port, attempt.id, root=case.profile.ssh.fence_directory
            )
        except IncidentResponseError as error:
            why = str(error)
        else:
            if change.state != "running":
                return _ended(case, attempt, change)
            why = "it is still running"
        if time.monotonic() > deadline:
            return _unknown(case, attempt, f"no end after {timeout_s:g} s: {why}")
        time.sleep(POLL_S)


def _ended(case: Case, attempt: AttemptRow, change: ChangeState) -> AttemptOutcome:
    if change.state == "barred":
        _move(case, attempt, AttemptState.BARRED, ended_at=now(), reason="it was barred before it began")
        return AttemptOutcome(attempt_id=attempt.id, state="refused", reason="it was barred before it began")
    if change.state != "ended":
        return _unknown(case, attempt, f"the host has lost track of it ({change.state}): rebooted, or killed")

    output = clipped(change.output, 4_000)
    text = f"ended with status {change.exit_status}, which proves nothing yet"
    begun = attempt.acted_at or attempt.intent_at  # an earlier run may have died before it could say so
    ended: dict[str, object] = {"acted_at": begun, "ended_at": now(), "exit_status": change.exit_status}
    ended |= {"output": output, "reason": text}
    _move(case, attempt, AttemptState.ENDED, **ended)
    last_words = (output.strip().splitlines() or [""])[-1]
    reason = text if change.exit_status == 0 else f"{text}: {last_words}"
    return AttemptOutcome(attempt_id=attempt.id, state="acted", reason=reason)


def settle(case: Case, step: PlanStep, check: VerifyOutcome, after: Dossier) -> None:
    """Record what fresh probes say of an attempt: committed or failed, and what differs from before.

    An undo that is committed makes the attempt that it took back `undone`.
    """
    attempt = attempt_of(case, step.id)
    if attempt is None or AttemptState(attempt.state).harmless:
        return
    before = Snapshot.model_validate(attempt.snapshot)
    changed = difference(before, Snapshot.of(after, step.runs_on, now(), strategy=step.strategy))
    seen = {
        "checked_at": now(),
        "difference": changed,
        "reason": bound(f"{attempt.reason}; {check.reason}", 4_000),
    }
    if attempt.state == AttemptState.UNKNOWN and not check.holds:
        to = AttemptState.UNKNOWN  # whether it ran at all is still not known
    else:
        to = AttemptState.COMMITTED if check.holds else AttemptState.FAILED
    _move(case, attempt, to, **seen)
    taken_back = attempt_of(case, step.undoes) if step.undoes and check.holds else None
    if taken_back:
        _move(case, taken_back, AttemptState.UNDONE, checked_at=now())


def _not_acted(case: Case, attempt: AttemptRow, why: str) -> AttemptOutcome:
    _move(case, attempt, AttemptState.NOT_ACTED, ended_at=now(), reason=why)
    return AttemptOutcome(attempt_id=attempt.id, state="failed", reason=f"nothing was done: {why}")


def _unknown(case: Case, attempt: AttemptRow, why: str) -> AttemptOutcome:
    _move(case, attempt, AttemptState.UNKNOWN, ended_at=now(), reason=why)
    reason = f"{attempt.strategy} on {attempt.target} may or may not have run: {why}"
    return AttemptOutcome(attempt_id=attempt.id, state="unknown", reason=reason)


def _move(case: Case, attempt: AttemptRow, to: AttemptState, **values: object) -> AttemptRow:
    clean = {name: redact(value) if isinstance(value, str) else value for name, value in values.items()}
    return case.store.move_attempt(case.id, case.ref.epoch, attempt.id, to, **clean)
