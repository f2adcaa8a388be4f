"""The store's own knowledge of an incident as timeline entries."""

from responder.domain.timeline import Entry
from responder.store.store import Store
from responder.store.tables import MessageRow

# What a message is to people, by its kind, or by the key of a post.
_MESSAGES = {
    "find": "find and acknowledge the alert's page",
    "open": "open a page where there is none",
    "page": "page additional responders",
    "escalate": "page a person: help is needed",
    "assign": "assign the page to the commander",
    "note": "note on the page",
    "resolve": "resolve the page",
    "create_channel": "create the incident's channel",
    "archive": "archive the incident's channel",
    "ticket": "ticket for what is left to do",
    "comment": "comment on the ticket",
    "initial": "initial notice",
    "escalation": "call for a person",
    "resolution": "resolution notice",
    "closed": "closing notice",
    "update": "status update",
    "review": "reminder of the review",
    "backup": "tell the backup contact",
    "handoff": "handoff of the command",
    "role": "a role is given",
    "denied": "a channel cannot be told for now",
    "failed": "a channel could not be told",
}
_CHANNELS = {
    "pagerduty": "PagerDuty",
    "slack": "Slack",
    "slack-backup": "Slack (backup)",
    "slack-stakeholders": "Slack (stakeholders)",
    "statuspage": "Statuspage",
    "tickets": "Tickets",
    "stakeholders": "Stakeholders",
}


def store_entries(store: Store, incident_id: str) -> tuple[Entry, ...]:
    """What the store knows happened: alerts, phases, attempts, decisions, messages, the ending."""
    row = store.incident(incident_id)
    entries = [
        Entry(at=row.opened_at, id=f"incident:{row.id}", source="run", text=f"incident opened: {row.summary}")
    ]
    for number, alert in enumerate(store.alerts(incident_id)):
        at = alert.starts_at or row.opened_at
        text = f"alert {alert.name} fires{': ' + alert.summary if alert.summary else ''}"
        entries.append(Entry(at=at, id=f"alert:{number}", source="alert", text=text))
    for phase in store.phases(incident_id):
        text = f"{phase.name} begins" + (f" (begun {phase.starts} times)" if phase.starts > 1 else "")
        entries.append(Entry(at=phase.started_at, id=f"phase:{phase.name}", source="phase", text=text))
        if phase.ended_at and phase.outcome:
            words = (
                phase.outcome.get("reason")
                or phase.outcome.get("progress")
                or phase.outcome.get("severity_reason")
            )
            entries.append(
                Entry(
                    at=phase.ended_at,
                    id=f"phase:{phase.name}:end",
                    source="phase",
                    text=f"{phase.name} ends: {words or 'done'}",
                )
            )
    for attempt in store.attempts(incident_id):
        name = f"{attempt.strategy} on {attempt.target}"
        became = f"{attempt.state}: {name}: {attempt.reason}"
        status = "at a time unknown" if attempt.exit_status is None else f"with status {attempt.exit_status}"
        told = (
            (attempt.intent_at, "", f"intent: {name}"),
            (attempt.acted_at, ":act", f"begun: {name}"),
            (attempt.ended_at, ":end", f"ended {status}: {name}" if attempt.checked_at else became),
            (attempt.checked_at, f":{attempt.state}", became),
        )
        entries += [
            Entry(at=at, id=f"attempt:{attempt.id}{which}", source="attempt", text=text)
            for at, which, text in told
            if at
        ]
    entries += [
        Entry(at=d.at, id=f"decision:{d.id}", source="decision", text=f"{d.who}: {d.what}, because {d.why}")
        for d in store.decisions(incident_id)
    ]
    for message in store.messages(incident_id):
        entries.append(
            Entry(
                at=message.sent_at or message.created_at,
                id=f"message:{message.number}",
                source="message",
                text=f"{_told(message)}: {message.state}" + (f" ({message.error})" if message.error else ""),
            )
        )
    return tuple(entries)


def _told(message: MessageRow) -> str:
    key = message.id.rpartition(":")[2].partition("-")[0]
    words = _MESSAGES.get(
        key if message.kind in ("post", "publish", "notify") else message.kind, message.kind.replace("_", " ")
    )
    channel, _, name = message.channel.partition("/")
    where = _CHANNELS.get(channel, channel) + (f" ({name})" if name else "")
    return f"{where}, {words}"
