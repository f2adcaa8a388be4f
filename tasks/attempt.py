"""One attempt: guardrails, snapshot, intent, action at most once, outcome. Verifying is another step."""

import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from responder.domain.base import now
from responder.domain.commands import ChangeState
from responder.domain.errors import IncidentResponseError, OutcomeUnknownError, TransientError
from responder.domain.escaping import bound
from responder.domain.evidence import Dossier, Evidence
from responder.domain.guardrails import HANDS_RULE, Refusal, Situation, hands_on, refusal
from responder.domain.incident import AttemptOutcome, Kind, Phase, Severity, lowest_mode
from responder.domain.plan import PlanStep
from responder.domain.profile import Host
from responder.domain.readings import Snapshot
from responder.domain.redaction import redact
from responder.domain.shell import quote
from responder.domain.strategies import Strategy, Target
from responder.domain.verification import healthy_again, take_sample
from responder.store.tables import AttemptRow
from tasks.case import Case, first_alert
from tasks.probes import Look
from tasks.results import approved

POLL_S = 0.5
SEND_TRIES = 5
LOOK_TRIES = 3
PAUSE_S = 1.0
LONGEST_START_LIMIT_S = 60.0


@task(task_run_name="{step.title} {case.profile.unit.name} on {step.target}", cache_policy=NO_CACHE)
def carry_out(case: Case, step: PlanStep) -> AttemptOutcome:
    """Try one strategy on one target, at most once whatever crashes (document, phase 3, step 2).

    An attempt that the store knows already is never begun again: it is looked at. Raises nothing for what
    the host does; `StaleEpochError` when another run has taken the incident up.
    """
    host = case.host(step.runs_on)
    strategy = case.profile.strategies.get(step.strategy)
    attempt = _known_attempt(case, step)
    if attempt is None or attempt.state == "intended":
        _await_start_limit(case, host)
        looked = _look_first(case, step, strategy)
        with case.deciding:
            allowed = _instead_of_acting(case, step, strategy, host, attempt, looked)
            if not isinstance(allowed, AttemptOutcome):
                attempt = attempt or _intend(case, step, allowed)
        if isinstance(allowed, AttemptOutcome):
            return _bar(case, attempt, host, allowed) if attempt else allowed
        assert attempt is not None
        problem = _start(case, attempt, host)
        if problem:
            return problem
    if attempt.state == "not_acted":
        return AttemptOutcome(attempt_id=attempt.id, state="failed", reason=attempt.reason)
    return _poll(case, attempt, host, strategy.timeout_s if strategy else POLL_S)


def _await_start_limit(case: Case, host: Host) -> None:
    """Wait while systemd refuses every start: the one attempt must not be spent on the refusal."""
    seen = case.store.dossier(case.id).on(host.name, "unit.start_barred_s")
    left_s = seen.value - (now() - seen.at).total_seconds() if seen and seen.value else 0.0
    if left_s > 0:
        left_s = min(left_s, LONGEST_START_LIMIT_S) + PAUSE_S
        why = f"the unit on {host.name} has used up its start limit"
        case.store.decide(case.id, who="responder", what=f"wait {left_s:.0f} s", why=why)
        time.sleep(left_s)


def _instead_of_acting(
    case: Case,
    step: PlanStep,
    strategy: Strategy | None,
    host: Host,
    attempt: AttemptRow | None,
    looked: Dossier | AttemptOutcome,
) -> AttemptOutcome | tuple[str, ...]:
    """Why nothing is done: healthy again, a guardrail, a dry run, or no way to look. Else the argument list."""
    if isinstance(looked, AttemptOutcome):
        return looked
    refused = _refusal(case, step, strategy, host, looked, attempt)
    if refused:
        return _refused(case, step, refused)
    assert strategy is not None
    command = _command(case, step, strategy, looked)
    if isinstance(command, str):
        return AttemptOutcome(attempt_id=None, state="failed", reason=f"{step.title} on {step.target}: {command}")
    mode = lowest_mode(case.ref.mode, case.profile.mode, strategy.mode)
    if not mode.acts:
        shown = f"{quote(command)} on {host.name}"
        if case.ref.mode.acts:  # nobody asked for a rehearsal: the service is down and a person must act
            reason = f"the profile allows {step.strategy} as {mode.value} only"
            return _refused(case, step, Refusal(rule="mode", reason=reason, remedy=f"Run by hand: {shown}."))
        first = "" if Severity(case.row.severity or Severity.P1) in strategy.severities else "ask a person, then "
        return AttemptOutcome(attempt_id=None, state="rehearsed", reason=f"would {first}run: {shown}")
    return command


def _command(case: Case, step: PlanStep, strategy: Strategy, looked: Dossier) -> tuple[str, ...] | str:
    """The argument list of the action or of its undo, or why there is none."""
    if step.undoes is None:
        return strategy.action(looked, target_of(step))
    before = snapshot_before(case, step)
    return (before and strategy.undo(before)) or "what was before is not known, so it cannot be brought back"


def target_of(step: PlanStep) -> Target:
    """What the step acts on."""
    return Target(name=step.target, host=step.runs_on)


def snapshot_before(case: Case, step: PlanStep) -> Snapshot | None:
    """What was seen before the step was begun; for an undo, before what it takes back."""
    wanted = step.undoes or step.id
    attempt = next((row for row in case.store.attempts(case.id) if row.step_id == wanted), None)
    return Snapshot.model_validate(attempt.snapshot) if attempt else None


def _intend(case: Case, step: PlanStep, command: tuple[str, ...]) -> AttemptRow:
    case.store.decide(case.id, who="responder", what=f"{step.title} on {step.target}", why=step.why)
    seen = case.store.dossier(case.id)
    return case.store.intend(
        case.id,
        case.ref.epoch,
        step_id=step.id,
        strategy=step.title,
        target=step.target,
        command=command,
        snapshot=Snapshot.of(seen, step.runs_on, now(), strategy=step.strategy).model_dump(mode="json"),
    )


def _known_attempt(case: Case, step: PlanStep) -> AttemptRow | None:
    return next((row for row in case.store.attempts(case.id) if row.step_id == step.id), None)


def _look_first(case: Case, step: PlanStep, strategy: Strategy | None) -> Dossier | AttemptOutcome:
    """The precondition and the snapshot, from connections made now; a passing fault is tried again."""
    hosts = list(dict.fromkeys((step.runs_on, *sorted(step.cures))))
    metrics_of = ill_metrics(case)
    seen: list[Evidence] = []
    for host in map(case.host, hosts):
        for number in range(LOOK_TRIES):
            try:
                seen += _snapshot(case, step, host, rates=host.name in metrics_of)
                break
            except IncidentResponseError as error:
                if not isinstance(error, TransientError) or number + 1 == LOOK_TRIES:
                    reason = f"{step.title} on {step.target} was not begun: {error}"
                    return AttemptOutcome(attempt_id=None, state="failed", reason=reason)
                time.sleep(PAUSE_S)
    dossier = case.keep("mitigate", seen)
    sample = take_sample(Dossier(evidence=tuple(seen)), case.profile, now(), sorted(step.cures))
    if step.undoes is None and healthy_again(sample, metrics_of=metrics_of):
        reason = f"{', '.join(sorted(step.cures))} healthy again, nothing is left to do"
        return AttemptOutcome(attempt_id=None, state="skipped", reason=reason)
    problem = strategy.problem(dossier, target_of(step)) if strategy and step.undoes is None else None
    if problem:
        refused = Refusal(
            rule="precondition", reason=problem, remedy=f"Look why, and {step.strategy} by hand if it is right."
        )
        return _refused(case, step, refused)
    return dossier


def ill_metrics(case: Case) -> frozenset[str]:
    """The hosts whose error rate or latency is what is ill: when diagnosed, or when last read."""
    diagnosed = case.store.dossier(case.id, phases=(Phase.TRIAGE, Phase.DIAGNOSE))
    read = (*diagnosed.of("metrics.verdict"), *case.store.dossier(case.id).of("metrics.verdict"))
    return frozenset(evidence.host for evidence in read if evidence.value == "unhealthy")


def _snapshot(case: Case, step: PlanStep, host: Host, *, rates: bool) -> tuple[Evidence, ...]:
    with Look(case.profile, case.ssh, host) as look:
        main_pid = look.unit()
        if rates:
            look.two_scrapes(look.endpoints)
        else:
            look.endpoints()
        look.hands(main_pid, first_alert(case))
        look.release()
        if host.name == step.runs_on:
            look.strategies(step.strategy)
        if step.capture and main_pid:
            look.capture(main_pid, case.folder)
        save_orders(case, look, "before")
        return look.evidence


def save_orders(case: Case, look: Look, when: str) -> str | None:
    """Keep the order table as a file `orders-WHEN-HOST.json`; None where it cannot be read.

    A restart empties it: what was open before must be reconciled by people.
    """
    reply = look.replies.get("orders")
    if reply is None or reply.failure is not None or reply.status != 200:
        return None
    path = case.folder / f"orders-{when}-{look.host.name}.json"
    path.write_text(redact(reply.body))
    return path.read_text()


def _refusal(
    case: Case,
    step: PlanStep,
    strategy: Strategy | None,
    host: Host,
    looked: Dossier,
    attempt: AttemptRow | None,
) -> Refusal | None:
    row = case.row
    hands, unknown = hands_on(host.name, looked)
    if row.acknowledged_by:
        hands = (*hands, f"{row.acknowledged_by} has acknowledged the page")
    situation = Situation(
        now=now(),
        kind=Kind(row.kind),
        severity=Severity(row.severity or Severity.P1),
        mode=case.ref.mode,
        incident_id=case.id,
        stopped=case.store.stopped(),
        window=case.profile.window_at(now()),
        security_incident=case.store.open_security_incident(row.service),
        hands=hands,
        hands_unknown=unknown,
        past=case.store.past_attempts(row.service, besides=attempt.id if attempt else None),
        approved=approved(case, step),
        undoes=step.undoes is not None,
    )
    return refusal(step.strategy, strategy, step.target, situation)


def _refused(case: Case, step: PlanStep, refused: Refusal) -> AttemptOutcome:
    what = f"refused {step.title} on {step.target}"
    case.store.decide(case.id, who=f"guardrail: {refused.rule}", what=what, why=str(refused))
    return AttemptOutcome(
        attempt_id=None,
        state="taken_over" if refused.rule == HANDS_RULE else "refused",
        reason=f"{step.title} on {step.target} is refused: {refused}",
    )


def _start(case: Case, attempt: AttemptRow, host: Host) -> AttemptOutcome | None:
    """Fence the attempt and start it. None: it has been started, by us now or by an earlier run of ours."""
    why = ""
    stopped = case.store.stopped()  # read last of all: it is in force from the moment it stands there
    if stopped:
        refused = AttemptOutcome(
            attempt_id=attempt.id, state="refused", reason=f"everything is stopped: {stopped}"
        )
        return _bar(case, attempt, host, refused)
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
        _record(case, attempt, state="acted", acted_at=now())
        return None
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
        _record(case, attempt, state="barred", ended_at=now(), reason=instead.reason)
        return instead
    if fence.outcome == "exists":
        return _poll(case, attempt, host, POLL_S)
    return _unknown(case, attempt, f"{instead.reason}; and the fence says: {fence.detail}")


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
        _record(case, attempt, state="barred", ended_at=now(), reason="it was barred before it began")
        return AttemptOutcome(attempt_id=attempt.id, state="refused", reason="it was barred before it began")
    if change.state != "ended":
        return _unknown(case, attempt, f"the host has lost track of it ({change.state}): rebooted, or killed")

    output = redact(bound(change.output, 4_000))
    text = f"ended with status {change.exit_status}, which proves nothing yet"
    _record(
        case,
        attempt,
        state="ended",
        ended_at=now(),
        exit_status=change.exit_status,
        output=output,
        reason=text,
    )
    last_words = (output.strip().splitlines() or [""])[-1]
    reason = text if change.exit_status == 0 else f"{text}: {last_words}"
    return AttemptOutcome(attempt_id=attempt.id, state="acted", reason=reason)


def _not_acted(case: Case, attempt: AttemptRow, why: str) -> AttemptOutcome:
    _record(case, attempt, state="not_acted", ended_at=now(), reason=why)
    return AttemptOutcome(attempt_id=attempt.id, state="failed", reason=f"nothing was done: {why}")


def _unknown(case: Case, attempt: AttemptRow, why: str) -> AttemptOutcome:
    _record(case, attempt, state="unknown", ended_at=now(), reason=why)
    reason = f"{attempt.strategy} on {attempt.target} may or may not have run: {why}"
    return AttemptOutcome(attempt_id=attempt.id, state="unknown", reason=reason)


def _record(case: Case, attempt: AttemptRow, **values: object) -> None:
    case.store.update_attempt(case.id, case.ref.epoch, attempt.id, **values)
