"""What people decide: answers to questions, personal tokens, taking an incident over and giving it back."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from responder.domain.approval import Answer, Question, decided, require_open
from responder.domain.attempt import AttemptState
from responder.domain.base import now
from responder.domain.errors import ConflictError, NotFoundError, PermanentError
from responder.domain.guardrails import taken_over
from responder.domain.incident import WAITING_TO_APPROVE, Outcome, Phase
from responder.domain.redaction import redact
from responder.store.database import Database, finds_what_overtook_it, locked
from responder.store.tables import (
    AnswerRow,
    AttemptRow,
    DecisionRow,
    IncidentRow,
    LeaseRow,
    PhaseRow,
    QuestionRow,
    SwitchRow,
    TokenRow,
)

TOKEN_PREFIX = "incident_"  # noqa: S105 - not a secret: it tells people, and scanners, what they have found
GIVEN_BACK = "keeper:given back"
"""Holder of the lease of an incident that waits to be taken up again."""


class Asked(NamedTuple):
    """A question with the answers that it has so far."""

    question: Question
    answers: tuple[Answer, ...]
    asked_at: datetime

    @property
    def decided(self) -> Answer | None:
        """The answer that decides, or None while it is open."""
        return decided(self.question, self.answers)


class People(Database):
    """The part of the store that people write to, by the UI's forms, the command line and the HTTP door."""

    # --- questions ---------------------------------------------------------------------------------

    @finds_what_overtook_it
    def ask(self, incident_id: str, epoch: int, question: Question) -> None:
        """Keep a question; the same one is kept once, with the answers that it has. Raises `StaleEpochError`."""
        with self._fenced(incident_id, epoch) as (session, _):
            if session.scalar(_question(incident_id, question.digest)) is None:
                row = QuestionRow(
                    incident_id=incident_id,
                    digest=question.digest,
                    step_id=question.step_id,
                    question=question.model_dump(mode="json"),
                    asked_at=now(),
                )
                session.add(row)

    def questions(self, incident_id: str) -> tuple[Asked, ...]:
        """All that people were asked about the incident, the newest last, with their answers."""
        with self._session() as session:
            rows = session.scalars(
                select(QuestionRow).where(QuestionRow.incident_id == incident_id).order_by(QuestionRow.id)
            )
            return tuple(_asked(session, row) for row in rows)

    def open_question(self, incident_id: str) -> tuple[Asked, datetime] | None:
        """The question that the incident's run waits for people to answer, and until when; None if it does not."""
        with self._session() as session:
            lease = session.get(LeaseRow, incident_id)
            row = session.scalar(
                select(QuestionRow).where(QuestionRow.incident_id == incident_id).order_by(QuestionRow.id.desc())
            )
            if lease is None or lease.step != WAITING_TO_APPROVE or row is None:
                return None
            asked = _asked(session, row)
            return None if asked.decided else (asked, lease.step_deadline)

    def answer(self, incident_id: str, digest: str, answer: Answer) -> Asked:
        """Keep what a person said to the question of that digest; returns how it stands now.

        Raises `ConflictError` when nobody asked that (any more), or when it has been decided.
        """
        answer = answer.model_copy(update={"by": redact(answer.by), "why": redact(answer.why)})
        with self._session() as session:
            incident = locked(session, incident_id)
            row: QuestionRow | None = session.scalar(_question(incident_id, digest))
            newest = session.scalar(
                select(QuestionRow.digest)
                .where(QuestionRow.incident_id == incident_id)
                .order_by(QuestionRow.id.desc())
            )
            if row is None or newest != digest:
                raise ConflictError(
                    f"incident {incident_id} does not ask {digest} (any more): what was to be done has changed; "
                    f"`incident show {incident_id}` has the question that is open"
                )
            if incident.outcome is not None:
                raise ConflictError(f"incident {incident_id} has ended ({incident.outcome}) and asks nothing")
            before = _asked(session, row)
            require_open(before.question, before.answers)
            session.add(AnswerRow(question_id=row.id, at=now(), answer=answer.model_dump(mode="json")))
            session.add(
                DecisionRow(
                    incident_id=incident_id,
                    at=now(),
                    who=answer.by,
                    what=f"answered: {answer.decision}, {row.step_id}",
                    why=(answer.why or "no reason given") + (" (by personal token)" if answer.proven else ""),
                )
            )
            return before._replace(answers=(*before.answers, answer))

    # --- personal tokens ---------------------------------------------------------------------------

    def add_token(self, person: str, *, sends_alerts: bool = False) -> tuple[TokenRow, str]:
        """Make a personal token: returns its row, and its text, which is shown once: only its hash is kept.

        One that `sends_alerts` belongs to a monitoring system, and opens nothing else.

        Raises `PermanentError` for a name that nobody could read back.
        """
        person = " ".join(person.split())
        if not (2 <= len(person) <= 100 and person.isprintable()):
            raise PermanentError("a token belongs to a person: give a name of 2 to 100 printable characters")
        with self._session() as session:
            return _add_token(session, person, sends_alerts=sends_alerts)

    def rotate_token(self, token_id: int) -> tuple[TokenRow, str]:
        """Make a new token for whom an old one belongs to, which is worthless from now on.

        Raises `NotFoundError` when there is no such token, `ConflictError` when it was revoked.
        """
        with self._session() as session:
            old = _token(session, token_id)
            if old.revoked_at:
                raise ConflictError(
                    f"token {token_id} of {old.person} was revoked; `incident token add` makes one"
                )
            old.revoked_at = now()
            return _add_token(session, old.person, sends_alerts=old.sends_alerts)

    def tokens(self) -> Sequence[TokenRow]:
        """All personal tokens, the revoked ones too, without their text."""
        with self._session() as session:
            return session.scalars(select(TokenRow).order_by(TokenRow.id)).all()

    def revoke_token(self, token_id: int) -> TokenRow:
        """Make a token worthless from now on. Raises `NotFoundError` when there is no such token."""
        with self._session() as session:
            row = _token(session, token_id)
            row.revoked_at = row.revoked_at or now()
            return row

    def person_of(self, token: str) -> str | None:
        """Whose personal token this is; None for one that is unknown or revoked. Takes the same time for all."""
        name, sends_alerts = self._owner(token)
        return None if sends_alerts else name

    def sender_of(self, token: str) -> str | None:
        """Who may send alerts with this token: a monitoring system, or a person."""
        return self._owner(token)[0]

    def _owner(self, token: str) -> tuple[str | None, bool]:
        # Columns and no entities: this is asked before every alert.
        columns = select(TokenRow.digest, TokenRow.person, TokenRow.sends_alerts)
        with self._reading() as session:
            rows = session.execute(columns.where(TokenRow.revoked_at.is_(None))).all()
        given = _hashed(token)
        found: tuple[str | None, bool] = (None, False)
        for digest, person, sends_alerts in rows:
            if hmac.compare_digest(digest, given):
                found = (person, sends_alerts)
        return found

    # --- taking over, giving back ------------------------------------------------------------------

    def take_over(self, incident_id: str, *, who: str, why: str) -> IncidentRow:
        """A person takes the incident: from now on nothing is changed on its behalf, only looked at.

        Raises `ConflictError` when it is closed, or somebody else has it.
        """
        with self._session() as session:
            row = locked(session, incident_id)
            if row.status == "closed":
                raise ConflictError(f"incident {incident_id} is closed ({row.outcome}): nothing is left to take")
            if row.taken_by not in (None, who):
                raise ConflictError(
                    f"incident {incident_id} was taken over by {row.taken_by}; `incident give-back {incident_id}` "
                    "first, or `incident handoff` for the command"
                )
            row.taken_by = who
            session.add(DecisionRow(incident_id=incident_id, at=now(), who=who, what="takes over", why=why))
            return row

    def give_back(self, incident_id: str, *, who: str, why: str) -> IncidentRow:
        """A person gives the incident back: the automation looks afresh and goes on with what is left of the plan.

        What was acted on stays tried. A run that has ended already is taken up again by the keeper. Raises
        `ConflictError` when it is closed, or ended for another reason than somebody's hands.
        """
        with self._session() as session:
            row = locked(session, incident_id)
            if row.status == "closed" or row.outcome not in (None, Outcome.TAKEN_OVER):
                raise ConflictError(
                    f"incident {incident_id} is {row.status} ({row.outcome}): only what is worked on, or was "
                    "taken over, can be given back"
                )
            row.taken_by = row.acknowledged_by = None
            row.rounds += 1
            session.add(DecisionRow(incident_id=incident_id, at=now(), who=who, what="gives it back", why=why))
            if row.outcome is not None:  # else its run sets aside what it has found, when it notices
                set_aside(session, row)
                row.outcome, row.reason = None, ""
                row.epoch += 1
                session.execute(delete(LeaseRow).where(LeaseRow.incident_id == incident_id))
                session.add(
                    LeaseRow(
                        incident_id=incident_id,
                        holder=GIVEN_BACK,
                        expires_at=now(),
                        step="given back",
                        step_deadline=now(),
                    )
                )
            return row

    def set_aside(self, incident_id: str, epoch: int) -> None:
        """Let what was found be found again, and what was only refused be tried. Raises `StaleEpochError`."""
        with self._fenced(incident_id, epoch) as (session, row):
            set_aside(session, row)

    # --- stop everything ---------------------------------------------------------------------------

    def stop(self, *, stopped: bool, who: str, why: str) -> None:
        """Stop everything, or lift it. Every flip stays recorded."""
        with self._session() as session:
            session.add(SwitchRow(stopped=stopped, at=now(), who=redact(who), why=redact(why)))

    def flips(self) -> Sequence[SwitchRow]:
        """Every stop and every lifting, the newest first."""
        with self._session() as session:
            return session.scalars(select(SwitchRow).order_by(SwitchRow.id.desc())).all()

    def stopped(self) -> str | None:
        """Who stopped everything, when and why; None while it may act."""
        with self._session() as session:
            return _stopped(session)

    def held_back(self, incident_id: str) -> str | None:
        """Why nothing may be begun for this incident at this moment: everything is stopped, or a person has it.

        Read last before each change: in force from the moment it stands there.
        """
        with self._session() as session:
            if stop := _stopped(session):
                return f"everything is stopped: {stop}"
            row = session.get_one(IncidentRow, incident_id)
            return taken_over(row.taken_by) if row.taken_by else None


def _stopped(session: Session) -> str | None:
    row = session.scalar(select(SwitchRow).order_by(SwitchRow.id.desc()).limit(1))
    return f"{row.who} at {row.at:%Y-%m-%d %H:%M} UTC: {row.why}" if row and row.stopped else None


def _token(session: Session, token_id: int) -> TokenRow:
    row = session.get(TokenRow, token_id, with_for_update=True)
    if row is None:
        raise NotFoundError(f"there is no token {token_id}; `incident token list` shows them")
    return row


def _add_token(session: Session, person: str, *, sends_alerts: bool) -> tuple[TokenRow, str]:
    text = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = TokenRow(person=person, digest=_hashed(text), created_at=now(), sends_alerts=sends_alerts)
    session.add(row)
    session.flush()
    return row, text


def _question(incident_id: str, digest: str) -> Select[Any]:
    return select(QuestionRow).where(QuestionRow.incident_id == incident_id, QuestionRow.digest == digest)


def _asked(session: Session, row: QuestionRow) -> Asked:
    answers = session.scalars(select(AnswerRow).where(AnswerRow.question_id == row.id).order_by(AnswerRow.id))
    said = tuple(Answer.model_validate(each.answer) for each in answers)
    return Asked(Question.model_validate(row.question), said, row.asked_at)


def set_aside(session: Session, incident: IncidentRow, *, triage: bool = False) -> None:
    """Let what was found before be found again, and what was only refused be tried: the old rows get new names."""
    mark = f"round {incident.rounds}"
    again = {Phase.DIAGNOSE, Phase.RESOLVE, Phase.POST_INCIDENT} | ({Phase.TRIAGE} if triage else set())
    for phase in session.scalars(select(PhaseRow).where(PhaseRow.incident_id == incident.id)):
        refused = phase.kind == Phase.MITIGATE and not _acted(phase)
        if phase.kind in again or refused:
            phase.name = f"{mark}: {phase.name}"
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.incident_id == incident.id, AttemptRow.state == AttemptState.BARRED.value)
        .values(step_id=AttemptRow.step_id + f" ({mark})")
    )


def _acted(phase: PhaseRow) -> bool:
    outcomes = ((phase.outcome or {}).get("outcomes") or {}).values()
    return any(outcome["state"] in ("acted", "unknown", "failed", "skipped") for outcome in outcomes)


def _hashed(token: str) -> str:
    # Tokens are random and long: a slow hash would protect nothing and cost every request.
    return hashlib.sha256(token.encode()).hexdigest()
