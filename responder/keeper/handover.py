"""Handing an incident to a person when no run is left that could."""

from blocks.events import emit
from blocks.run_history import run_url
from responder.domain.incident import Ending, Severity
from responder.domain.notices import Escalation, for_slack, render_escalation, slack_blocks
from responder.domain.profile import Profile
from responder.store import Store


def hand_over(store: Store, incident_id: str, ending: Ending, *, key: str = "") -> None:
    """Page a person with what is known, and record how the run ended. The incident stays open.

    They are told once for each `key`.
    """
    row = store.incident(incident_id)
    profile = Profile.model_validate(row.profile)
    link = run_url(row.run_id)
    text = render_escalation(
        Escalation(
            severity=Severity(row.severity or Severity.P1),
            service=row.service,
            what_is_wrong=f"{row.summary}: {ending.reason}",
            tried=tuple(f"{a.strategy} on {a.target}: {a.state}" for a in store.attempts(incident_id)),
            next_command=f"incident show {row.id}",
            link=link,
            runbooks=profile.runbooks,
        )
    )
    body = {"text": text, "summary": f"{row.severity or ''} {row.service}: {row.summary}".strip(), "link": link}
    again = f"-{row.rounds}" if row.rounds else ""  # given back, the same may have to be said again
    again += f"-{key}" if key else ""
    if profile.pagerduty:
        store.enqueue(incident_id, channel="pagerduty", kind="escalate", body=body, key=f"escalate{again}")
    if profile.slack:
        kind = "post" if profile.pagerduty else "escalate"
        said = {"text": for_slack(text), "blocks": slack_blocks(text)}
        store.enqueue(incident_id, channel="slack", kind=kind, body=said, key=f"escalation{again}")
    store.end_run(incident_id, row.epoch, ending)
    event_key = f"{row.rounds}{key}"
    emit(
        "escalated",
        incident_id=row.id,
        service=row.service,
        key=event_key,
        severity=row.severity,
        reason=ending.reason,
    )
