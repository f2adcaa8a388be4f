"""The promise in each notice, "Next update in": kept while the incident's run is alive."""

from collections.abc import Sequence

from responder.domain.base import now
from responder.domain.errors import IncidentResponseError
from responder.domain.impact import measured_impact
from responder.domain.incident import Kind, Mode, Phase, Severity
from responder.domain.messages import notice_messages
from responder.domain.notices import StatusUpdate, cadence
from responder.domain.profile import Profile, tightened
from responder.keeper.access import Access
from responder.store import Store
from responder.store.tables import IncidentRow, LeaseRow, MessageRow, PhaseRow


def keep_updates(store: Store, access: Access) -> None:
    """Put one status update into the outbox for each incident whose severity's clock has run out.

    The clock starts anew with every notice. Nothing is said for a dry run, for a P4, after the end, or for a
    run whose lease has lapsed: nobody is at work then, and saying so would be wrong.
    """
    for lease, incident in store.leases():
        working = lease.expires_at > now() and incident.outcome is None
        if working and Mode(incident.mode).acts and incident.severity:
            _update_if_due(store, access, lease, incident, Severity(incident.severity))


def _update_if_due(
    store: Store, access: Access, lease: LeaseRow, incident: IncidentRow, severity: Severity
) -> None:
    notices = [message for message in store.messages(incident.id) if _is_notice(message)]
    kept = Profile.model_validate(incident.profile)
    if not notices or now() - notices[-1].created_at < kept.update_interval(severity):
        return
    profile = _in_force(access, kept)
    notice = _news(store, lease, incident, profile, severity)
    # A channel that cannot be reached is not to get a pile of old news when it can.
    stuck = {message.channel for message in notices if message.state == "waiting"}
    for message in notice_messages(profile, notice, severity=severity, kind=Kind(incident.kind)):
        if message.channel not in stuck:
            store.enqueue(
                incident.id,
                channel=message.channel,
                kind=message.kind,
                body=message.body,
                key=f"update-due-{notices[-1].number}",
                draft=message.draft,
            )


def _is_notice(message: MessageRow) -> bool:
    key = message.id.split(":", 2)[-1]
    return key == "initial" or key.startswith("update-")


def _in_force(access: Access, kept: Profile) -> Profile:
    """The profile of the opening, tightened by edits until now; where they cannot be read nothing is granted."""
    try:
        return tightened(kept, access.profile(kept.name))
    except IncidentResponseError:
        return tightened(kept, kept.model_copy(update={"statuspage": None}))


def _news(
    store: Store, lease: LeaseRow, incident: IncidentRow, profile: Profile, severity: Severity
) -> StatusUpdate:
    phases = store.phases(incident.id)
    said = next((words for phase in reversed(phases) if (words := _result(phase))), None)
    last = phases[-1].kind if phases else ""
    return StatusUpdate.model_validate(
        {
            "description": incident.summary,
            "at": now(),
            "status": status_word(phases),
            "update": f"At work: {lease.step or last}." + (f" Last result: {said}" if said else ""),
            "impact": measured_impact(store.dossier(incident.id)),
            "eta": None,
            "next_update": cadence(profile.severities.levels[severity].update_every_minutes),
            "verifying": last in (Phase.VERIFY, Phase.RESOLVE),
        }
    )


def status_word(phases: Sequence[PhaseRow]) -> str:
    """How far it is, in a word of the document's "Status Update"; who is at work does not say resolved."""
    begun = {phase.kind: phase.outcome for phase in phases}
    if Phase.MITIGATE in begun or Phase.RESOLVE in begun:
        return "Mitigating"
    return "Identified" if (begun.get(Phase.DIAGNOSE) or {}).get("leading") else "Investigating"


def _result(phase: PhaseRow) -> str | None:
    outcome = phase.outcome or {}
    return outcome.get("reason") or outcome.get("progress") or outcome.get("severity_reason")
