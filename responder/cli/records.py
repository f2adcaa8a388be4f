"""Reading and closing incidents for the command line."""

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from blocks.run_history import run_url
from responder.cli.output import people
from responder.cli.runs import POLL_S, wait_until_final, wait_until_told
from responder.domain.approval import Answer, still_needed
from responder.domain.errors import PermanentError, TransientError
from responder.domain.incident import NO_RUN, IncidentRef, Mode
from responder.domain.profile import Profile
from responder.domain.shell import quote
from responder.store import Store
from responder.store.people import Asked
from responder.store.tables import IncidentRow
from tasks.case import Case
from tasks.publish import publish_state

ENDING_S = 120.0


def incident_document(store: Store, incident_id: str) -> dict[str, Any]:
    """Everything about one incident that people ask for."""
    row = store.incident(incident_id)
    moments = ("opened_at", "acknowledged_at", "diagnosed_at", "mitigated_at", "resolved_at", "closed_at")
    return {
        **{
            name: getattr(row, name)
            for name in (
                "id",
                "service",
                "kind",
                "mode",
                "severity",
                "severity_reason",
                "status",
                "outcome",
                "reason",
            )
        },
        **{name: at.isoformat(timespec="seconds") if (at := getattr(row, name)) else None for name in moments},
        "summary": row.summary,
        "taken_by": row.taken_by,
        "stopped": store.stopped(),
        "commander": (store.record(row.id, "commander") or {}).get("name"),
        "pagerduty": row.pagerduty_url,
        "channel": row.channel_name,
        "run_url": run_url(row.run_id),
        "phases": [
            {"name": p.name, "starts": p.starts, "ended": p.outcome is not None} for p in store.phases(row.id)
        ],
        "attempts": [
            {
                "id": a.id,
                "strategy": a.strategy,
                "target": a.target,
                "state": a.state,
                "reason": a.reason,
                "difference": "; ".join(f"{name}: {was} → {now}" for name, (was, now) in a.difference.items()),
            }
            for a in store.attempts(row.id)
        ],
        "questions": [
            {
                "digest": asked.question.digest,
                "asks": asked.question.shown,
                "command": quote(asked.question.command),
                "decided": f"{asked.decided.by}: {asked.decided.decision}" if asked.decided else None,
                "needs": None if asked.decided else still_needed(asked.question, asked.answers),
            }
            for asked in store.questions(row.id)
        ],
        "decisions": [
            {"at": d.at.isoformat(timespec="seconds"), "who": d.who, "what": d.what, "why": d.why}
            for d in store.decisions(row.id)
        ],
        "messages": [
            {
                "number": m.number,
                "channel": m.channel,
                "kind": m.kind,
                "state": m.state,
                "tries": m.tries,
                "error": m.error,
            }
            | ({"text": m.body["text"]} if m.state == "draft" else {})
            for m in store.messages(row.id)
        ],
    }


def close_by_hand(store: Store, incident_id: str, *, who: str, why: str) -> dict[str, Any]:
    """Close an incident as `who`: through the form when its run waits for one, else in the store.

    The page is resolved with it. Raises `PermanentError` when it is closed already, `TransientError` when
    its run has taken the answer and does not end.
    """
    row = store.incident(incident_id)
    if row.run_id.startswith(NO_RUN):
        return _closed(store, row, who=who, why=why)
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(row.run_id)).state
        if asked_about(store, row):
            raise PermanentError(
                f"incident {row.id} asks for approval first: `incident approve {row.id}`, or --decline"
            )
        if state and state.type is StateType.PAUSED and row.status == "open":
            answer = client.resume_flow_run(
                UUID(row.run_id), run_input={"decision": "close", "by": who, "why": why}
            )
            if answer.status.value != "ACCEPT":
                raise PermanentError(f"the run did not take the answer: {answer.details}")
            _wait_until_ended(store, row.id)
            wait_until_final(row.run_id)
            return incident_document(store, row.id)
    return _closed(store, row, who=who, why=why)


def _closed(store: Store, row: IncidentRow, *, who: str, why: str) -> dict[str, Any]:
    row = store.close_incident(row.id, who=who, why=why)
    profile = Profile.model_validate(row.profile)
    if profile.pagerduty and row.pagerduty_id:
        store.enqueue(row.id, channel="pagerduty", kind="resolve", body={"text": f"{who}: {why}"}, key="closed")
    if profile.slack and row.channel_id:
        store.enqueue(row.id, channel="slack", kind="post", body={"text": f"Closed by {who}: {why}"}, key="closed")
        store.enqueue(row.id, channel="slack", kind="archive", body={}, key="archive")
    if not row.run_id.startswith(NO_RUN):
        publish_state(Case(IncidentRef(incident_id=row.id, epoch=row.epoch, mode=Mode(row.mode)), store))
    wait_until_told(store, row.id)  # the keeper sends: two senders would say it twice
    return incident_document(store, row.id)


def asked_about(store: Store, row: IncidentRow) -> Asked | None:
    """The question that the incident's run waits for people to answer, if it waits for one."""
    asked = store.open_question(row.id)
    return asked[0] if asked else None


def decide_by_hand(store: Store, row: IncidentRow, answer: Answer) -> None:
    """Answer what the run asks. Raises `PermanentError` when it asks nobody (any more)."""
    asked = asked_about(store, row)
    if asked is None:
        raise PermanentError(
            f"incident {row.id} waits for nobody's approval; `incident show {row.id}` says what it does"
        )
    asked = store.answer(row.id, asked.question.digest, answer)
    if asked.decided is None:
        people.print(f"recorded; {still_needed(asked.question, asked.answers)}")


def _wait_until_ended(store: Store, incident_id: str) -> None:
    """Wait until the run has done what it was answered. Raises `TransientError` when it takes too long."""
    deadline = time.monotonic() + ENDING_S
    while store.incident(incident_id).outcome is None:
        if time.monotonic() > deadline:
            raise TransientError(
                f"the run took the answer and has not ended yet; see `incident show {incident_id}`"
            )
        time.sleep(POLL_S)
