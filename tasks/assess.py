"""How bad is it? Confirm the alerts against the service, and choose the severity by the profile's rules."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from responder.domain.base import now
from responder.domain.evidence import Dossier, Truth, any_of
from responder.domain.incident import Alert, Ending, Kind, Outcome, Severity, TriageOutcome
from responder.domain.predicates import PREDICATES
from responder.domain.profile import Profile
from responder.domain.severity import choose_severity
from responder.domain.verification import take_sample
from tasks.case import Case
from tasks.hold import still_firing


@task(task_run_name="assess {case.profile.name}", cache_policy=NO_CACHE)
def assess(case: Case) -> TriageOutcome:
    """Severity, verdict, and whether the alerts are confirmed (document, phase 1, step 3).

    An alert that is contradicted and has stopped firing ends the incident as a false alarm.
    """
    row, dossier = case.row, case.store.dossier(case.id)
    alerts = case.store.alerts(case.id)
    sample = take_sample(dossier, case.profile, now(), [host.name for host in case.profile.hosts])
    verdict = sample.verdict()
    confirmed = _confirmed(case.profile, alerts, dossier)
    floor = Severity(row.severity_floor) if row.severity_floor else None
    severity, reason = choose_severity(case.profile.severities, Kind(row.kind), dossier, floor=floor)
    case.store.update_incident(
        case.id,
        case.ref.epoch,
        severity=severity.value,
        severity_reason=reason,
        confirmed=confirmed,
        was_unhealthy=verdict == "unhealthy",
    )
    ending = None
    if confirmed is False and verdict == "healthy" and not still_firing(case):
        names = ", ".join(alert.name for alert in alerts)
        ending = Ending(outcome=Outcome.FALSE_ALARM, reason=f"{names} is contradicted: every check is healthy")
    case.store.decide(case.id, who="responder", what=f"severity {severity.value}", why=reason)
    return TriageOutcome(
        severity=severity, severity_reason=reason, verdict=verdict, confirmed=confirmed, ending=ending
    )


def _confirmed(profile: Profile, alerts: list[Alert], dossier: Dossier) -> bool | None:
    """Whether any alert's own predicate holds; only that predicate can contradict it. None: not told."""
    truths = []
    for alert in alerts:
        rule = profile.rule_for(alert)
        conditions = rule.confirmed_by if rule else ()
        findings = [condition.check(dossier, PREDICATES) for condition in conditions]
        truths.append(any_of(findings) if findings else Truth.UNKNOWN)
    if Truth.TRUE in truths:
        return True
    return False if truths and Truth.UNKNOWN not in truths else None
