"""How bad is it? Confirm the alerts against the service, and choose the severity by the profile's rules."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from responder.domain.base import now
from responder.domain.evidence import Dossier, Truth, any_of
from responder.domain.incident import Alert, Ending, Kind, Outcome, Severity, TriageOutcome
from responder.domain.notices import plain
from responder.domain.predicates import PREDICATES
from responder.domain.profile import Profile
from responder.domain.severity import choose_severity
from responder.domain.verification import take_sample
from responder.store.tables import IncidentRow
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
    truths = [_truth(case.profile, alert, dossier) for alert in alerts]
    confirmed = _confirmed(truths)
    floor, floor_by = _floor(case.profile, row, alerts, truths)
    severities = case.profile.severities
    severity, reason = choose_severity(severities, Kind(row.kind), dossier, floor=floor, floor_by=floor_by)
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
    if severity.value != row.severity:
        case.emit("severity_changed", key=f"{row.rounds}", severity=severity.value, before=row.severity)
    return TriageOutcome(
        severity=severity, severity_reason=reason, verdict=verdict, confirmed=confirmed, ending=ending
    )


def _truth(profile: Profile, alert: Alert, dossier: Dossier) -> Truth:
    """Whether the alert's own predicate holds; only that can contradict it."""
    rule = profile.rule_for(alert)
    findings = [condition.check(dossier, PREDICATES) for condition in (rule.confirmed_by if rule else ())]
    return any_of(findings) if findings else Truth.UNKNOWN


def _confirmed(truths: list[Truth]) -> bool | None:
    """Whether any alert is confirmed, or all are contradicted. None: not told."""
    if Truth.TRUE in truths:
        return True
    return False if truths and Truth.UNKNOWN not in truths else None


def _floor(
    profile: Profile, row: IncidentRow, alerts: list[Alert], truths: list[Truth]
) -> tuple[Severity | None, str]:
    """The least severity, and who set it: whoever opened the incident, or an alert that is not contradicted."""
    floors = [(Severity(row.severity_floor), "a person")] if row.severity_floor else []
    for alert, truth in zip(alerts, truths, strict=True):
        rule = profile.rule_for(alert)
        if rule and rule.severity and truth is not Truth.FALSE:
            floors.append((rule.severity, f"the rule of {plain(alert.name)}"))
    return min(floors, default=(None, ""), key=lambda floor: floor[0] or Severity.P4)
