"""Alerts: each is given to its incident, and an incident that one opens gets its run.

Deciding needs the store and the profiles, which are kept in memory; only making the run needs Prefect. So a
Prefect that is down costs the run its time, and no alert.
"""

import logging
from datetime import timedelta

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from blocks.run_history import run_url
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError
from responder.domain.incident import SUMMARY_LIMIT, Alert, Ending, Kind, Outcome, Severity
from responder.domain.notices import for_slack, plain
from responder.domain.profile import Profile
from responder.keeper.access import Access
from responder.keeper.handover import hand_over
from responder.store import Store
from responder.store.alerts import DISPATCH, FOR, HELD_AGAIN, Reading, Went
from responder.store.tables import IncidentRow, ReceiptRow

RETRY = timedelta(seconds=5)
INCIDENT, DIAGNOSE = "incident/incident", "diagnose/diagnose"

log = logging.getLogger(__name__)


def take_in_alerts(store: Store, access: Access) -> None:
    """Decide about every alert that is due: which incident it opens or joins, if any."""
    due = store.due_receipts(now())
    if not due:
        return
    try:
        profiles = access.profiles()
    except IncidentResponseError as error:
        log.warning("alerts wait: the profiles cannot be read: %s", error)
        for receipt in due:
            store.postpone(receipt.id, went=Went.RECEIVED, why=str(error), until=now() + RETRY)
        return
    for receipt in due:
        _take_in(store, profiles, receipt)


def _take_in(store: Store, profiles: list[Profile], receipt: ReceiptRow) -> None:
    alert = Alert.model_validate(receipt.alert)
    fitting = [profile for profile in profiles if profile.selects(alert)]
    if len(fitting) != 1:
        names = ", ".join(profile.name for profile in fitting)
        why = f"its labels select {names}: narrow `alerts.match`" if fitting else "its labels select no service"
        _tell_of_unknown(store, receipt, fitting or _catching_all(profiles), why)
        return
    [profile] = fitting
    rule = profile.rule_for(alert)
    kind = rule.kind if rule else Kind.AVAILABILITY
    window = profile.held_by(now())
    if window and receipt.firing and kind is Kind.AVAILABILITY:
        store.postpone(receipt.id, went=Went.HELD, why=f"maintenance: {window.reason}", until=now() + HELD_AGAIN)
        return
    reading = Reading(profile, kind, rule.severity if rule else None, rule.suggests if rule else ())
    decided = store.take_in(receipt.id, reading)
    if decided and decided.incident and decided.went is Went.ATTACHED and decided.incident.outcome is not None:
        _tell_who_has_it(store, decided.incident, alert, decided.why)


def _catching_all(profiles: list[Profile]) -> list[Profile]:
    return [profile for profile in profiles if profile.alerts.catch_all] or profiles


def _tell_of_unknown(store: Store, receipt: ReceiptRow, profiles: list[Profile], why: str) -> None:
    """Nobody knows what it is about: the on-call is paged all the same, once for each name."""
    if not profiles and receipt.firing:
        log.error("%s is about no service, and no service is saved whose on-call could be told", receipt.name)
    told = store.take_in_unknown(receipt.id, profiles, why)
    for incident in told:
        ending = Ending(outcome=Outcome.ESCALATED, reason=f"{receipt.name}: {why}")
        hand_over(store, incident.id, ending, key=plain(receipt.name, 100))


def _tell_who_has_it(store: Store, incident: IncidentRow, alert: Alert, why: str) -> None:
    """An alert joins an incident that a person has: they are paged, and a read-only look at the service begins."""
    if not incident.anew:
        return
    store.note_world(incident.id, anew=None)
    _page(store, incident, f"{alert.name}: {why}", key=f"joined-{plain(alert.name, 100)}")
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(DIAGNOSE)
            client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"service": incident.service},
                idempotency_key=f"{incident.id}:{alert.name}:{alert.starts_at}",
                tags=[FOR + incident.id],
            )
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("no look at %s was begun for %s: %s", incident.service, incident.id, error)


def begin_runs(store: Store) -> None:
    """Make the run of each incident that alerts opened. The key makes a second one the same run."""
    waiting = store.waiting_for_a_run()
    if not waiting:
        return
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(INCIDENT)
            for incident in waiting:
                run = client.create_flow_run_from_deployment(
                    deployment.id,
                    parameters=_parameters(store, incident),
                    idempotency_key=incident.id,
                    tags=[FOR + incident.id],
                )
                store.has_run(incident.id, str(run.id))
    except (httpx.HTTPError, PrefectException) as error:
        where = PREFECT_API_URL.value()
        log.warning("%s incidents wait for their runs: Prefect at %s: %s", len(waiting), where, error)


def _parameters(store: Store, incident: IncidentRow) -> dict[str, object]:
    summary = str(plain(incident.summary, SUMMARY_LIMIT))
    alerts = [alert.model_dump(mode="json") for alert in store.alerts(incident.id)[:1]]
    return {
        "summary": summary if len(summary) >= 3 else f"alert {summary}",
        "service": incident.service,
        "kind": incident.kind,
        "alerts": alerts,
    }


def page_queued(store: Store) -> None:
    """Page a person for each P1 whose run has not begun in time: the workers are busy, or there is none."""
    for lease, incident in store.leases():
        if lease.holder != DISPATCH:
            continue
        profile = Profile.model_validate(incident.profile)
        waited_s = (now() - incident.opened_at).total_seconds()
        if waited_s <= profile.clock.queue_s:
            continue
        rules = [profile.rule_for(alert) for alert in store.alerts(incident.id)]
        if any(rule and rule.severity is Severity.P1 for rule in rules):
            _page(store, incident, f"no worker has begun after {waited_s:.0f} s", key="queued")


def _page(store: Store, incident: IncidentRow, why: str, *, key: str) -> None:
    """Call people to an incident, once for each `key`."""
    profile, link = Profile.model_validate(incident.profile), run_url(incident.run_id)
    title = f"{incident.severity or ''} {incident.service}: {incident.summary}".strip()
    text = f"{title}. {why}. {link}"
    if profile.pagerduty:
        body = {"text": text, "summary": title, "link": link}
        store.enqueue(incident.id, channel="pagerduty", kind="escalate", body=body, key=key)
    if profile.slack:
        kind = "post" if profile.pagerduty else "escalate"
        store.enqueue(incident.id, channel="slack", kind=kind, body={"text": for_slack(text)}, key=key)
