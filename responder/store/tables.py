"""The tables. What must be decided once stands here; Prefect shows, the store decides."""

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, String, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from responder.domain.base import in_utc, storable
from responder.domain.incident import Ending, Outcome


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes, also on SQLite, which keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        return in_utc(value) if value else None

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        return in_utc(value) if value else None


class Storable(TypeDecorator[str]):
    """Text in which whatever no database can hold has been replaced."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, _: Dialect) -> str | None:
        return None if value is None else str(storable(value))


class Table(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime(),
        str: Storable(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
    }


class IncidentRow(Table):
    """One incident. `open_key` is service and kind while it is open and live: one at a time."""

    __tablename__ = "incidents"

    id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(unique=True)
    open_key: Mapped[str | None] = mapped_column(unique=True)
    service: Mapped[str]
    kind: Mapped[str]
    mode: Mapped[str]
    summary: Mapped[str]
    severity: Mapped[str | None]
    severity_floor: Mapped[str | None]
    severity_reason: Mapped[str] = mapped_column(default="")
    confirmed: Mapped[bool | None]
    was_unhealthy: Mapped[bool] = mapped_column(default=False)
    declared: Mapped[bool] = mapped_column(default=False)
    profile: Mapped[dict[str, Any]]
    epoch: Mapped[int] = mapped_column(default=0)
    take_ups: Mapped[int] = mapped_column(default=0)
    status: Mapped[str] = mapped_column(default="open")
    outcome: Mapped[str | None]
    reason: Mapped[str] = mapped_column(default="")
    opened_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    diagnosed_at: Mapped[datetime | None]
    mitigated_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    pagerduty_id: Mapped[str | None]
    pagerduty_url: Mapped[str | None]
    pagerduty_status: Mapped[str | None]
    acknowledged_by: Mapped[str | None]
    taken_by: Mapped[str | None]
    rounds: Mapped[int] = mapped_column(default=0)
    anew: Mapped[str | None]
    channel_id: Mapped[str | None]
    channel_name: Mapped[str | None]

    @property
    def ending(self) -> Ending:
        """How it ended; without an outcome of its run, a person closed it."""
        return Ending(
            outcome=Outcome(self.outcome or Outcome.RESOLVED), reason=self.reason or "closed by a person"
        )


class AlertRow(Table):
    """An alert that began or joined an incident."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    received_at: Mapped[datetime]
    alert: Mapped[dict[str, Any]]


class ReceiptRow(Table):
    """An alert that came in, where it went and why. `due_at`: when that is decided (again); None: it is."""

    __tablename__ = "receipts"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    source: Mapped[str]
    received_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    times: Mapped[int] = mapped_column(default=1)
    name: Mapped[str]
    alert: Mapped[dict[str, Any]]
    fingerprint: Mapped[str] = mapped_column(index=True)
    firing: Mapped[bool]
    truncated: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    went: Mapped[str] = mapped_column(default="received")
    why: Mapped[str] = mapped_column(default="")
    incident_id: Mapped[str | None] = mapped_column(ForeignKey("incidents.id"), index=True)


class PhaseRow(Table):
    """A phase of an incident: its outcome once it has one, and how often it was begun."""

    __tablename__ = "phases"
    __table_args__ = (UniqueConstraint("incident_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    name: Mapped[str]
    starts: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[dict[str, Any] | None]

    @property
    def kind(self) -> str:
        """Which phase it is, whatever of it this was: `mitigate` of `mitigate:restart-gw-1`."""
        return self.name.partition(":")[0]


class EvidenceRow(Table):
    """One observation."""

    __tablename__ = "evidence"

    number: Mapped[int] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    phase: Mapped[str]
    evidence: Mapped[dict[str, Any]]


class RecordRow(Table):
    """A document that belongs to an incident: ranking, plan, post-mortem."""

    __tablename__ = "records"
    __table_args__ = (UniqueConstraint("incident_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    name: Mapped[str]
    content: Mapped[dict[str, Any]]


class AttemptRow(Table):
    """One try of a strategy on a target. The row is committed before anything is done."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("incident_id", "step_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    service: Mapped[str]
    step_id: Mapped[str]
    strategy: Mapped[str]
    target: Mapped[str]
    machine: Mapped[str] = mapped_column(default="")
    command: Mapped[list[Any]]
    state: Mapped[str]
    epoch: Mapped[int]
    intent_at: Mapped[datetime]
    acted_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]
    snapshot: Mapped[dict[str, Any]]
    difference: Mapped[dict[str, Any]] = mapped_column(default=dict)
    exit_status: Mapped[int | None]
    output: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")


class DecisionRow(Table):
    """Who decided what, and why: people, guardrails and the automation alike."""

    __tablename__ = "decisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    at: Mapped[datetime]
    who: Mapped[str]
    what: Mapped[str]
    why: Mapped[str]


class QuestionRow(Table):
    """What people were asked before a step; an answer is bound to its digest."""

    __tablename__ = "questions"
    __table_args__ = (UniqueConstraint("incident_id", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    digest: Mapped[str]
    step_id: Mapped[str]
    question: Mapped[dict[str, Any]]
    asked_at: Mapped[datetime]


class AnswerRow(Table):
    """What one person answered, by whichever door."""

    __tablename__ = "answers"

    id: Mapped[int] = mapped_column(primary_key=True)
    question_id: Mapped[int] = mapped_column(ForeignKey("questions.id"), index=True)
    at: Mapped[datetime]
    answer: Mapped[dict[str, Any]]


class TokenRow(Table):
    """A token of a person, or of a system that sends alerts: only its hash is kept."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    person: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    sends_alerts: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class MessageRow(Table):
    """The outbox. Sent in order for each incident and channel by the keeper.

    A try is counted before it is begun: where `tries` is more than was settled, it may have been sent.
    """

    __tablename__ = "messages"
    __table_args__ = (Index("ix_messages_waiting", "state", "next_at"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    channel: Mapped[str]
    kind: Mapped[str]
    body: Mapped[dict[str, Any]]
    state: Mapped[str]
    tries: Mapped[int] = mapped_column(default=0)
    tried_at: Mapped[datetime | None]
    """When the first try was begun."""
    created_at: Mapped[datetime]
    next_at: Mapped[datetime]
    """When it may be tried (again); while it is being sent, when another keeper may."""
    sent_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(default="")

    @property
    def tag(self) -> str:
        """Eight hexadecimal digits that it carries where it is sent to, so that it can be found there."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:8]


class LeaseRow(Table):
    """A promise that somebody works on an incident, renewed every few seconds."""

    __tablename__ = "leases"

    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), primary_key=True)
    holder: Mapped[str]
    expires_at: Mapped[datetime]
    step: Mapped[str] = mapped_column(default="")
    step_deadline: Mapped[datetime]
    page_until: Mapped[datetime | None]

    def at_work(self, at: datetime) -> bool:
        """Whether its holder lived then and was in time with its step."""
        return self.expires_at > at and self.step_deadline > at


class SwitchRow(Table):
    """The stop row, and the record of who flipped it."""

    __tablename__ = "switches"

    id: Mapped[int] = mapped_column(primary_key=True)
    stopped: Mapped[bool]
    at: Mapped[datetime]
    who: Mapped[str]
    why: Mapped[str]


class ReadingRow(Table):
    """What was known of a service's checks before a fault: the last verdict of each."""

    __tablename__ = "readings"
    __table_args__ = (UniqueConstraint("service", "host", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    service: Mapped[str] = mapped_column(index=True)
    host: Mapped[str]
    name: Mapped[str]
    verdict: Mapped[str]
    at: Mapped[datetime]


class KeeperRow(Table):
    """The keeper's heartbeat: one row."""

    __tablename__ = "keepers"

    id: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str]
    seen_at: Mapped[datetime]
    clock_jumped_at: Mapped[datetime | None]
    clock_jump_s: Mapped[int] = mapped_column(default=0)
