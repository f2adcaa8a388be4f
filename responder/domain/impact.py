"""How many are affected, as far as it is measured. What cannot be read is a blank, never a guess."""

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from responder.domain.base import Frozen
from responder.domain.evidence import Dossier

QUESTIONS = {
    "clients-affected": "how many clients were connected?",
    "requests-failed": "how many of how many requests failed?",
}
"""What is asked where a reading that the profile names could not be made; the keys are the blanks' names."""


COUNTERS = ("impact.requests", "impact.failed")


class Counted(Frozen):
    """Requests of one host between its first and last reading. `at_least`: some were not counted."""

    failed: float
    total: float
    since: datetime
    at_least: bool


def measured_impact(dossier: Dossier) -> str | None:
    """The requests that fail now, those that have failed so far, and the clients connected. None: not known."""
    shares = [(e.host, e.value) for e in dossier.of("metrics.error_share") if e.value]
    now = "failing requests: " + ", ".join(f"{share:.1%} on {host}" for host, share in shares) if shares else None
    return "; ".join(filter(None, [now, *affected(dossier).values()])) or None


def affected(dossier: Dossier) -> Mapping[str, str | None]:
    """What each reading that was asked for says, by the name of its blank; None where it could not be read."""
    asked = {evidence.key for evidence in dossier.evidence}
    return ({"clients-affected": _clients(dossier)} if "impact.clients" in asked else {}) | (
        {"requests-failed": _requests(dossier)} if asked & set(COUNTERS) else {}
    )


def _clients(dossier: Dossier) -> str | None:
    """The most that were connected at once on each host: a host that is down has none left to count."""
    most = [max(values) for host in dossier.hosts if (values := _values(dossier, host, "impact.clients"))]
    return f"up to {sum(most):,.0f} clients were connected" if most else None


def _requests(dossier: Dossier) -> str | None:
    counted = [found for host in dossier.hosts if (found := count(dossier.for_host(host)))]
    if not counted:
        return None
    total, failed = (sum(one.total for one in counted), sum(one.failed for one in counted))
    most = "at least " if any(one.at_least for one in counted) else ""
    since = min(one.since for one in counted).astimezone(UTC)
    return f"{most}{failed:,.0f} of {total:,.0f} requests failed since {since:%H:%M} UTC"


def count(dossier: Dossier) -> Counted | None:
    """How many requests one host's counters counted, and how many of them failed. None where they cannot tell.

    A counter that went back began anew with a restart: what it has counted since is added, as PromQL's
    `increase` does, and what it counted between the last reading and the restart is lost. While counters cannot
    be read, the service may be down and count nothing: then "none failed" is no answer.
    """
    readings = list(_pairs(dossier))
    if len(readings) < 2:
        return None
    failed = total = 0.0
    anew = any(evidence.unknown for evidence in dossier.evidence if evidence.key in COUNTERS)
    for (_, failed_before, total_before), (_, failed_now, total_now) in itertools.pairwise(readings):
        restarted = failed_now < failed_before or total_now < total_before
        failed += failed_now - (0 if restarted else failed_before)
        total += total_now - (0 if restarted else total_before)
        anew = anew or restarted
    if total == 0 or failed > total or (anew and failed == 0):  # more failed than asked: two unrelated families
        return None
    return Counted(failed=failed, total=total, since=readings[0][0], at_least=anew)


def _pairs(dossier: Dossier) -> Iterator[tuple[datetime, float, float]]:
    """(at, failed, total) of each look that read both counters."""
    total: float | None = None
    for evidence in dossier.evidence:
        if evidence.key == "impact.requests":
            total = evidence.value
        elif evidence.key == "impact.failed" and evidence.value is not None and total is not None:
            yield evidence.at, evidence.value, total


def _values(dossier: Dossier, host: str, key: str) -> list[float]:
    seen = dossier.for_host(host).evidence
    return [evidence.value for evidence in seen if evidence.key == key and evidence.value is not None]
