"""Does it hold? Fresh probes, again and again, until the checks have been healthy over a window."""

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from blocks.service import load_profile, load_ssh
from blocks.ssh import SSHCredentials
from responder.domain import reports
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError
from responder.domain.evidence import Dossier, Evidence
from responder.domain.incident import Ending, Outcome, Phase, ResolveOutcome, VerifyOutcome
from responder.domain.notes import Notes
from responder.domain.observations import note_out_of_reach
from responder.domain.orders import compare_orders
from responder.domain.plan import PlanStep
from responder.domain.profile import Host, Profile
from responder.domain.shell import quote
from responder.domain.verification import (
    Holding,
    Sample,
    brought_back,
    conclude,
    evidence_of,
    holding,
    ill,
    required_checks,
    stayed,
    take_sample,
)
from tasks.admission import ill_metrics, save_orders, snapshot_before, target_of
from tasks.attempt import bar_intents, settle
from tasks.case import Case
from tasks.probes import Look
from tasks.results import read_plan, read_results

MOST_HOSTS_AT_ONCE = 16
ALERT_POLL_S = 0.5
CLOCK_SLACK_S = 0.01  # two clocks measure a window: without it the last sample may lie a hair inside
Checks = frozenset[tuple[str, str]]
Looks = dict[str, Look | None]
"""The last look at each host by name; None where none was possible."""


@task(task_run_name="verify {step.title} on {step.target}", cache_policy=NO_CACHE)
def verify_step(case: Case, step: PlanStep) -> VerifyOutcome:
    """Whether what was to be cured is healthy and the strategy's postcondition true, over the window (phase 3,
    step 3). Of an undo only that what was before is back.

    Error rate and latency may not be unhealthy; unknown ones are left to the resolution unless they were what was
    ill, because a counter that has just begun anew says nothing yet.
    """
    clock = case.profile.clock
    strategy = case.profile.strategies.get(step.strategy)
    before = snapshot_before(case, step)
    names = list(dict.fromkeys((*sorted(step.cures), step.runs_on)))
    late = _late(case, names)

    def add_postcondition(dossier: Dossier, sample: Sample) -> Sample:
        if before is None or strategy is None:
            return sample
        if step.undoes:
            return sample.model_copy(update={"readings": (brought_back(before, dossier, step.runs_on),)})
        cured = tuple(reading for reading in sample.readings if reading.host in step.cures)
        return sample.model_copy(
            update={"readings": (*cured, *strategy.postcondition(before, dossier, target_of(step)))}
        )

    seen = watch(
        case.profile,
        case.ssh,
        [case.host(name) for name in names],
        window_s=clock.verify_window_s,
        deadline_s=clock.settle_s + clock.verify_window_s,
        excused=late,
        postcondition=add_postcondition,
        strategy=step.strategy,
    )
    case.keep("verify", list(seen.dossier.evidence))
    if seen.held and before and step.undoes is None and case.row.mitigated_at is None:
        case.store.update_incident(case.id, case.ref.epoch, mitigated_at=now())
        case.emit("mitigated", severity=case.row.severity, strategy=step.strategy, target=step.target)
    if before and step.undoes is None:
        _compare_orders(case, step, seen.looks)
    checked = VerifyOutcome(holds=seen.held, verdict=seen.last.verdict(late), reason=seen.holding.reason)
    settle(case, step, checked, seen.dossier)
    return checked


def _compare_orders(case: Case, step: PlanStep, looks: Looks) -> None:
    """Say which orders were open before the action and are unknown since (phase 3, "Verify functionality")."""
    table = case.profile.endpoints.orders
    if table is None or not table.present:
        return
    for host in sorted(step.cures):
        look = looks.get(host)
        after = save_orders(case, look, "after") if look else None
        before = case.folder / f"orders-before-{host}.json"
        found = compare_orders(before.read_text() if before.exists() else None, after, table.present[0])
        case.store.keep_record(case.id, case.ref.epoch, f"orders:{host}", found.model_dump(mode="json"))
        case.store.decide(case.id, who="responder", what=f"compares the orders of {host}", why=found.reason)


def _late(case: Case, hosts: Sequence[str]) -> Checks:
    """What may be unknown for now: the order table, and figures that were not what was ill."""
    well = frozenset(hosts) - ill_metrics(case)
    return frozenset({(host, "orders") for host in hosts} | {(host, "metrics") for host in well})


@task(task_run_name="confirm that {case.profile.name} is restored", cache_policy=NO_CACHE)
def confirm(case: Case, excused: Checks) -> ResolveOutcome:
    """Whether every required check on every host stays healthy over the window (phase 4, step 1).

    What was restarted and verified may not have died since: it would die again.
    """
    clock = case.profile.clock
    verified = case.store.dossier(case.id, phases=("verify",))
    acted = {attempt.target for attempt in case.store.attempts(case.id) if attempt.acted_at}
    pids = {host: pid for host in acted if (pid := verified.value(host, "unit.main_pid"))}

    def add_stability(dossier: Dossier, sample: Sample) -> Sample:
        readings = tuple(stayed(pid, dossier, host) for host, pid in pids.items())
        return sample.model_copy(update={"readings": (*sample.readings, *readings)})

    seen = watch(
        case.profile,
        case.ssh,
        case.profile.hosts,
        window_s=clock.confirm_window_s,
        deadline_s=clock.confirm_deadline_s,
        excused=excused,
        postcondition=add_stability,
    )
    case.keep("resolve", list(seen.dossier.evidence))
    return conclude(seen.holding, seen.last, excused)


@dataclass(frozen=True)
class Watched:
    """What watching came to: the judgement, and the last sample with its evidence and looks."""

    holding: Holding
    last: Sample
    dossier: Dossier
    looks: Looks

    @property
    def held(self) -> bool:
        """Whether the checks have been healthy over the window."""
        return self.holding.state == "held"


def watch(
    profile: Profile,
    ssh: SSHCredentials,
    hosts: Sequence[Host],
    *,
    window_s: float,
    deadline_s: float,
    excused: Checks,
    postcondition: Callable[[Dossier, Sample], Sample] | None = None,
    strategy: str = "",
) -> Watched:
    """Sample `hosts` until the checks hold over `window_s` or `deadline_s` has passed (seconds).

    Every sample makes connections of its own, and reads what `strategy` reads.
    """
    needed = profile.clock.samples
    pause = window_s / (needed - 1) + CLOCK_SLACK_S
    metrics = profile.endpoints.metrics
    short = min(pause, metrics.scrape_interval_s) if metrics else pause
    began = time.monotonic()
    samples: list[Sample] = []
    processes: list[int | None] = []
    looks: Looks = {}
    probe = functools.partial(_probe, profile, ssh, strategy)
    with ThreadPoolExecutor(max_workers=min(len(hosts), MOST_HOSTS_AT_ONCE)) as pool:
        while True:
            looked, at = time.monotonic(), now()
            found = list(pool.map(probe, hosts, [looks.get(host.name) for host in hosts]))
            looks = {host.name: look for host, (_, look) in zip(hosts, found, strict=True)}
            dossier = Dossier(evidence=tuple(item for items, _ in found for item in items))
            sample = take_sample(dossier, profile, at, [host.name for host in hosts])
            samples.append(postcondition(dossier, sample) if postcondition else sample)
            processes.append(_process(dossier, hosts))
            held = holding(samples, window_s=window_s, needed=needed, excused=excused, processes=processes)
            over = any(reading.final for reading in samples[-1].readings)
            if over or held.state == "held" or time.monotonic() - began + pause > deadline_s:
                return Watched(holding=held, last=samples[-1], dossier=dossier, looks=looks)
            # A sample that does not count (the first lacks rates) need not be followed by a whole pause.
            time.sleep(max(0.0, (pause if held.streak else short) - (time.monotonic() - looked)))


def _process(dossier: Dossier, hosts: Sequence[Host]) -> int | None:
    """One number for the main processes of all hosts: another one starts the count of samples again."""
    return hash(tuple(dossier.value(host.name, "unit.main_pid") for host in hosts))


def _probe(
    profile: Profile, ssh: SSHCredentials, strategy: str, host: Host, before: Look | None
) -> tuple[tuple[Evidence, ...], Look | None]:
    """One host's evidence, with rates since the look `before`, and the look itself where one was possible."""
    try:
        with Look(profile, ssh, host) as look:
            look.unit()
            look.endpoints()
            look.rates(before.scraped if before else None, look.scrape())
            if strategy:
                look.release()
                look.strategies(strategy)
            return look.evidence, look
    except IncidentResponseError as error:
        notes = Notes(host.name, now())
        note_out_of_reach(notes, str(error), [evidence_of(check) for check in required_checks(profile)])
        return tuple(notes.evidence), None


def _watch_once(case: Case) -> Watched:
    """The whole service, over one window of verification; nothing is excused."""
    window_s = case.profile.clock.verify_window_s
    hosts = case.profile.hosts
    return watch(case.profile, case.ssh, hosts, window_s=window_s, deadline_s=window_s, excused=frozenset())


@task(task_run_name="wait and watch: {step.why}", cache_policy=NO_CACHE)
def observe(case: Case, step: PlanStep) -> VerifyOutcome:  # noqa: ARG001 - names the run
    """The strategy `wait`: watch until everything is healthy and the alert has stopped, or its deadline.

    It ends early when something falls ill that was not when waiting began, and never silently: at the deadline
    the last reading decides what comes next.
    """
    clock = case.profile.clock
    hosts = [host.name for host in case.profile.hosts]
    known = ill(take_sample(case.store.dossier(case.id), case.profile, now(), hosts))
    deadline = time.monotonic() + clock.observe_s
    while True:
        seen = _watch_once(case)
        firing = still_firing(case)
        over = time.monotonic() + clock.verify_window_s > deadline
        if not ill(seen.last) <= known or over or (seen.held and not firing):
            case.keep("verify", list(seen.dossier.evidence))
            verdict = seen.last.verdict()
            text = f"{seen.holding.reason}; the alert {'still fires' if firing else 'has stopped'}"
            return VerifyOutcome(holds=verdict != "unhealthy", verdict=verdict, reason=text)


@task(task_run_name="observe {case.profile.name}: {reason}", cache_policy=NO_CACHE)
def stand_by(case: Case, reason: str) -> Ending | None:
    """Observe and advise while somebody else works on it, and change nothing.

    Until it is healthy over the window or the clock's `observe_s` is over; both end as taken over. None when it
    was given back: the earlier findings are set aside, so that everything is looked at anew.
    """
    clock = case.profile.clock
    rounds = case.row.rounds
    bar_intents(case, reason)
    case.step(f"observe: {reason}"[:300], deadline_s=clock.observe_s + clock.step_s)
    case.store.decide(
        case.id, who="responder", what="observes, advises and changes nothing", why=_advice(case, reason)
    )
    deadline = time.monotonic() + (clock.observe_s if case.ref.mode.acts else 0)
    while True:
        if case.row.rounds != rounds:
            case.store.set_aside(case.id, case.ref.epoch)
            return None
        if time.monotonic() >= deadline:
            return Ending(outcome=Outcome.TAKEN_OVER, reason=reason)
        seen = _watch_once(case)
        case.keep(Phase.VERIFY, list(seen.dossier.evidence))
        if seen.held and case.row.rounds == rounds:
            return Ending(outcome=Outcome.TAKEN_OVER, reason=f"{reason}; {seen.holding.reason} since")


def _advice(case: Case, reason: str) -> str:
    """What would be tried next if nobody else were at work."""
    done = {result.step_id for result in read_results(case.store, case.id) if result.state != "taken_over"}
    following = next((step for step in read_plan(case.store, case.id).steps if step.id not in done), None)
    strategy = case.profile.strategies.get(following.strategy) if following else None
    if following is None or strategy is None:
        return f"{reason}; there is nothing left in the plan to advise"
    command = quote(strategy.described(case.store.dossier(case.id), target_of(following)))
    return f"{reason}; it would try next: {following.strategy} on {following.target} ({following.why}): {command}"


def begin_anew(case: Case) -> None:
    """Look at everything again because of an alert that the incident so far does not explain."""
    case.store.begin_anew(case.id, case.ref.epoch)


@task(task_run_name="wait for the alert of {case.profile.name} to stop", cache_policy=NO_CACHE)
def await_alert(case: Case) -> bool:
    """Whether the alerts stop within the clock's `observe_s`, where nothing was wrong or it healed itself."""
    deadline = time.monotonic() + case.profile.clock.observe_s
    while still_firing(case):
        if time.monotonic() > deadline:
            return False
        time.sleep(ALERT_POLL_S)
    return True


@task(task_run_name="check {service} over its window", cache_policy=NO_CACHE)
def show_check(service: str) -> VerifyOutcome:
    """Whether a service is healthy over its window, without an incident; shown as an artifact of the run."""
    profile = load_profile(service)
    clock = profile.clock
    seen = watch(
        profile,
        load_ssh(service),
        profile.hosts,
        window_s=clock.verify_window_s,
        deadline_s=clock.verify_window_s * 2,
        excused=frozenset(),
    )
    numbered = Dossier(
        evidence=tuple(e.model_copy(update={"id": f"e{n}"}) for n, e in enumerate(seen.dossier.evidence))
    )
    create_markdown_artifact(reports.evidence_table(numbered), key="evidence")
    return VerifyOutcome(holds=seen.held, verdict=seen.last.verdict(), reason=seen.holding.reason)


def still_firing(case: Case) -> bool:
    """Whether the alerts still fire: by themselves, and by the page that their integration resolves."""
    alerts = case.store.alerts(case.id)
    ended = bool(alerts) and all(alert.ends_at and alert.ends_at <= now() for alert in alerts)
    return bool(alerts) and not ended and case.row.pagerduty_status != "resolved"
