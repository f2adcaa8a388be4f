"""When is a service healthy again? Enough samples in a row, spread over a window; unknown starts anew.

Source: the document's "Verify mitigation" and "Confirm service restored".
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.evidence import Dossier, Verdict
from responder.domain.incident import ResolveOutcome
from responder.domain.profile import Profile
from responder.domain.readings import Reading, Snapshot

UNIT_CHECK = "unit"
MOVING = frozenset({"scale.version", "scale.ready"})  # they differ without anybody having changed anything


class Sample(Frozen):
    """One look at everything that must be healthy."""

    at: UtcDatetime
    readings: tuple[Reading, ...]

    def verdict(self, excused: frozenset[tuple[str, str]] = frozenset()) -> Verdict:
        """Unhealthy as soon as one reading is, then unknown; `excused` unknowns do not count."""
        verdicts = {
            reading.verdict
            for reading in self.readings
            if not (reading.verdict == "unknown" and (reading.host, reading.check) in excused)
        }
        if "unhealthy" in verdicts:
            return "unhealthy"
        return "unknown" if "unknown" in verdicts or not verdicts else "healthy"

    def describe(self, verdict: Verdict) -> str:
        """The readings of that verdict, one clause for each host and reason."""
        checks: dict[tuple[str, str], list[str]] = {}
        for reading in self.readings:
            if reading.verdict == verdict:
                checks.setdefault((reading.host, reading.reason), []).append(reading.check)
        return "; ".join(f"{', '.join(names)} on {host}: {why}" for (host, why), names in checks.items())


def ill(sample: Sample) -> frozenset[tuple[str, str]]:
    """The (host, check) pairs that are unhealthy."""
    return frozenset((r.host, r.check) for r in sample.readings if r.verdict == "unhealthy")


def healthy_again(sample: Sample, *, metrics_of: Collection[str]) -> bool:
    """Whether a single look shows that nothing is left to do: every check is healthy; unknown is not.

    `metrics_of`: the hosts whose error rate or latency was ill. Elsewhere they are not read again (it takes two
    scrapes), and only there they are left out.
    """
    judged = [each for each in sample.readings if each.check != "metrics" or each.host in metrics_of]
    return bool(judged) and all(reading.verdict == "healthy" for reading in judged)


def required_checks(profile: Profile) -> tuple[str, ...]:
    """The checks that must be healthy on every host."""
    ends = profile.endpoints
    optional = {"engine": ends.engine, "metrics": ends.metrics, "orders": ends.orders}
    return (UNIT_CHECK, "health", *(name for name, endpoint in optional.items() if endpoint))


def evidence_of(check: str) -> str:
    """The key of the evidence that a required check is judged by."""
    return "unit.active_state" if check == UNIT_CHECK else f"{check}.verdict"


def take_sample(dossier: Dossier, profile: Profile, at: datetime, hosts: Sequence[str]) -> Sample:
    """The readings of the required checks on `hosts` from one look."""
    checks = required_checks(profile)
    return Sample(at=at, readings=tuple(_reading(dossier, host, check) for host in hosts for check in checks))


def _reading(dossier: Dossier, host: str, check: str) -> Reading:
    found = dossier.on(host, evidence_of(check))
    if found is None:
        return Reading(host=host, check=check, verdict="unknown", reason="not observed")
    if found.unknown is not None:
        return Reading(host=host, check=check, verdict="unknown", reason=found.unknown)
    if check == UNIT_CHECK:
        verdict: Verdict = "healthy" if found.value == "active" else "unhealthy"
        return Reading(host=host, check=check, verdict=verdict, reason=f"the unit is {found.value}")
    failure = dossier.value(host, f"{check}.failure")
    reason = "as expected" if found.value == "healthy" else _why(dossier, host, check, failure)
    return Reading(host=host, check=check, verdict=found.value, reason=reason)


def _why(dossier: Dossier, host: str, check: str, failure: str | None) -> str:
    if check == "metrics":
        share, p99 = (dossier.value(host, f"metrics.{key}") for key in ("error_share", "latency_p99_s"))
        figures = [f"{share:.1%} of requests fail"] if share is not None else []
        figures += [f"p99 {p99:.2f} s"] if p99 is not None else []
        return ", ".join(figures) or "out of the SLA"
    return (failure or "not as expected").replace("_", " ")


def brought_back(before: Snapshot, dossier: Dossier, host: str) -> Reading:
    """The postcondition of an undo: release and whatever the strategy reads are as they were `before`."""
    wanted = {"changes.release": before.release} | before.facts
    seen = {key: dossier.value(host, key) for key in wanted}
    unknown = [key for key, value in seen.items() if value is None and wanted[key] is not None]
    other = [
        key for key, value in seen.items() if value is not None and value != wanted[key] and key not in MOVING
    ]
    if other:
        reason = ", ".join(f"{key} is {seen[key]}, not {wanted[key]}" for key in other)
        return Reading(host=host, check="undo", verdict="unhealthy", reason=reason)
    if unknown:
        return Reading(host=host, check="undo", verdict="unknown", reason=f"not seen: {', '.join(unknown)}")
    return Reading(host=host, check="undo", verdict="healthy", reason="everything is as it was before")


def stayed(verified_pid: int, dossier: Dossier, host: str) -> Reading:
    """Whether the process that an attempt was verified with still runs: one that died again is not restored,
    however quickly its supervisor brought it back (document, "Verify mitigation": stable).
    """
    pid = dossier.value(host, "unit.main_pid")
    if not pid:
        return Reading(host=host, check="process", verdict="unknown", reason="the unit has no main process")
    if pid == verified_pid:
        return Reading(host=host, check="process", verdict="healthy", reason=f"process {pid} has stayed")
    reason = f"process {verified_pid} did not live: {pid} runs in its place"
    return Reading(host=host, check="process", verdict="unhealthy", reason=reason, final=True)


class Holding(Frozen):
    """Whether the samples hold over the window: `held`, `not_yet`, or why not."""

    state: Literal["held", "not_yet"]
    streak: int
    spread_s: float
    reason: str


def holding(
    samples: Sequence[Sample],
    *,
    window_s: float,
    needed: int,
    excused: frozenset[tuple[str, str]] = frozenset(),
    processes: Sequence[int | None] = (),
) -> Holding:
    """Judge the samples so far: `needed` healthy ones in a row, spread over at least `window_s` seconds.

    One unhealthy or unknown sample starts the count again, and so does another main process than in the
    sample before (`processes`, one for each sample where given).
    """
    streak: list[Sample] = []
    for index, sample in enumerate(samples):
        if processes and index and processes[index] != processes[index - 1]:
            streak = []
        streak = [*streak, sample] if sample.verdict(excused) == "healthy" else []
    spread = (streak[-1].at - streak[0].at).total_seconds() if streak else 0.0
    if len(streak) >= needed and spread >= window_s:
        text = f"{len(streak)} healthy samples in a row over {spread:.0f} s"
        return Holding(state="held", streak=len(streak), spread_s=spread, reason=text)
    last = samples[-1] if samples else None
    verdict = last.verdict(excused) if last else "unknown"
    changed = "; its main process is another one than before" if len(set(processes)) > 1 else ""
    short = f"only {spread:.0f} s healthy{changed}"
    reason = (last.describe(verdict) if last and verdict != "healthy" else "") or short
    return Holding(state="not_yet", streak=len(streak), spread_s=spread, reason=reason)


def conclude(held: Holding, last: Sample, excused: frozenset[tuple[str, str]]) -> ResolveOutcome:
    """What the end of confirming means: confirmed, unconfirmed, or not restored.

    `excused` are the (host, check) pairs that could not be read before the fault either, or whose silence
    the leading hypothesis explains: with only those unknown, a person closes. Anything else that stayed
    unknown means that the service is not restored, as far as anybody can tell.
    """
    unknown = [r for r in last.readings if r.verdict == "unknown"]
    names = tuple(f"{r.check} on {r.host}" for r in unknown)
    if held.state == "held" and last.verdict() == "healthy":
        return ResolveOutcome(state="confirmed", reason=held.reason)
    if last.verdict(excused) != "unhealthy" and unknown and all((r.host, r.check) in excused for r in unknown):
        return ResolveOutcome(state="unconfirmed", reason=last.describe("unknown"), unknown=names)
    verdict = last.verdict(excused)
    if verdict == "healthy":
        return ResolveOutcome(state="not_restored", reason=f"it does not stay healthy: {held.reason}")
    reason = last.describe(verdict)
    return ResolveOutcome(
        state="not_restored",
        reason=reason if verdict == "unhealthy" else f"it cannot be confirmed: {reason}",
        unknown=names,
    )
