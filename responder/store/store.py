"""The store: one object for one database, SQLite by default, PostgreSQL by URL."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update

from responder.domain.attempt import AttemptState, require_follows
from responder.domain.base import now
from responder.domain.errors import BusyError, NotFoundError, PermanentError, StaleEpochError
from responder.domain.evidence import Dossier, Evidence
from responder.domain.guardrails import PastAttempt
from responder.domain.incident import NO_RUN, Alert, Ending, Kind, Mode, Severity
from responder.domain.messages import next_to_send
from responder.domain.profile import Profile
from responder.domain.redaction import clipped
from responder.store.alerts import OPENING, START_LEASES, Alerts, add_alerts, new_incident, wait_for_a_run
from responder.store.database import finds_what_overtook_it, locked, new_id
from responder.store.tables import (
    AlertRow,
    AttemptRow,
    DecisionRow,
    EvidenceRow,
    IncidentRow,
    KeeperRow,
    LeaseRow,
    MessageRow,
    PhaseRow,
    ReadingRow,
    RecordRow,
)

KEEPER_ALIVE = timedelta(seconds=15)
REASON_CHARACTERS = 4_000


class Store(Alerts):
    """The responder's own database. Methods open a transaction of their own and return detached rows."""

    # --- incidents ---------------------------------------------------------------------------------

    @finds_what_overtook_it
    def open_incident(
        self,
        *,
        run_id: str,
        profile: Profile,
        summary: str,
        kind: Kind,
        mode: Mode,
        alerts: Sequence[Alert],
        severity: Severity | None,
        declared: bool,
        dispatched: str | None = None,
    ) -> IncidentRow:
        """The incident of this run: found again after a crash, else opened.

        `dispatched` is the id of the incident that alerts opened and for which this run was made.

        A live incident holds its service and kind. Where another one holds them already, that one is
        returned: its `run_id` differs, and those alerts that it did not have yet have been added to it.
        """
        open_key = f"{profile.name}:{kind.value}" if mode.acts else None
        with self._session() as session:
            known = session.scalar(select(IncidentRow).where(IncidentRow.run_id == run_id))
            if known:
                return known
            made_for = session.get(IncidentRow, dispatched, with_for_update=True) if dispatched else None
            if made_for and made_for.run_id == NO_RUN + made_for.id:
                made_for.run_id = run_id
                return made_for
            if open_key:
                # Locked, so that nobody closes the holder while alerts are given into its care.
                holder = session.scalar(
                    select(IncidentRow).where(IncidentRow.open_key == open_key).with_for_update()
                )
                if holder:
                    add_alerts(session, holder.id, alerts)
                    return holder
            row = new_incident(
                session,
                profile,
                alerts,
                kind=kind,
                mode=mode,
                summary=summary,
                open_key=open_key,
                run_id=run_id,
                severity_floor=severity.value if severity else None,
                declared=declared,
            )
            until = now() + timedelta(seconds=profile.clock.run_lease_s * START_LEASES)
            wait_for_a_run(session, row, OPENING, until)
            return row

    def incident(self, incident_id: str) -> IncidentRow:
        """The incident of that id, or of a unique beginning of it. Raises `NotFoundError`."""
        if not incident_id:
            raise NotFoundError("an incident's id is needed; `incident list` shows them")
        with self._reading() as session:
            rows = session.scalars(
                select(IncidentRow).where(IncidentRow.id.startswith(incident_id, autoescape=True)).limit(2)
            ).all()
        exact = [row for row in rows if row.id == incident_id]
        if exact or len(rows) == 1:
            return (exact or list(rows))[0]
        problem = "several incidents begin with" if rows else "there is no incident"
        raise NotFoundError(f"{problem} {incident_id!r}; `incident list` shows them")

    def incident_of_run(self, run_id: str) -> IncidentRow | None:
        """The incident that a flow run works on."""
        with self._reading() as session:
            return session.scalar(select(IncidentRow).where(IncidentRow.run_id == run_id))

    def incidents(self, *, limit: int = 50) -> Sequence[IncidentRow]:
        """The last incidents, open or not, the newest first."""
        with self._reading() as session:
            return session.scalars(select(IncidentRow).order_by(IncidentRow.opened_at.desc()).limit(limit)).all()

    def open_incidents(self, *, but: Collection[str] = (), limit: int | None = None) -> Sequence[IncidentRow]:
        """All open incidents but those of these ids, the newest first: with no limit none is left out."""
        query = select(IncidentRow).where(IncidentRow.status == "open", IncidentRow.id.not_in(but))
        with self._reading() as session:
            return session.scalars(query.order_by(IncidentRow.opened_at.desc()).limit(limit)).all()

    def open_security_incident(self, service: str) -> str | None:
        """Id of an open security incident of `service`."""
        with self._reading() as session:
            return session.scalar(
                select(IncidentRow.id).where(
                    IncidentRow.service == service,
                    IncidentRow.kind == Kind.SECURITY.value,
                    IncidentRow.status == "open",
                    IncidentRow.open_key.is_not(None),
                )
            )

    def profile_of(self, incident_id: str) -> Profile:
        """The profile as it was when the incident was opened."""
        return Profile.model_validate(self.incident(incident_id).profile)

    def update_incident(self, incident_id: str, epoch: int, **values: Any) -> None:
        """Set columns of the incident. Raises `StaleEpochError`."""
        with self._fenced(incident_id, epoch) as (session, _):
            session.execute(update(IncidentRow).where(IncidentRow.id == incident_id).values(**values))

    def note_world(self, incident_id: str, **values: Any) -> None:
        """Set what the keeper learned outside (page, channel): facts, which no epoch guards."""
        with self._session() as session:
            session.execute(update(IncidentRow).where(IncidentRow.id == incident_id).values(**values))

    def end_run(self, incident_id: str, epoch: int, ending: Ending) -> None:
        """Record how the run ended; outcomes that close an incident close it. The lease is given back."""
        with self._fenced(incident_id, epoch) as (session, row):
            row.outcome, row.reason = ending.outcome.value, clipped(ending.reason, REASON_CHARACTERS)
            if ending.outcome.closes:
                _close(row)
            session.execute(delete(LeaseRow).where(LeaseRow.incident_id == incident_id))

    def close_incident(self, incident_id: str, *, who: str, why: str) -> IncidentRow:
        """A person closes it. The epoch is raised, so that a run still working on it ends itself."""
        with self._session() as session:
            row = locked(session, incident_id)
            if row.status == "closed":
                raise PermanentError(f"incident {incident_id} is closed already ({row.outcome})")
            _close(row)
            row.epoch += 1
            row.outcome = row.outcome or "resolved"
            session.add(DecisionRow(incident_id=incident_id, at=now(), who=who, what="closed it", why=why))
            session.execute(delete(LeaseRow).where(LeaseRow.incident_id == incident_id))
            return row

    def alerts(self, incident_id: str) -> list[Alert]:
        """The incident's alerts in the order of arrival."""
        with self._reading() as session:
            rows = session.scalars(
                select(AlertRow).where(AlertRow.incident_id == incident_id).order_by(AlertRow.id)
            )
            return [Alert.model_validate(row.alert) for row in rows]

    # --- phases, evidence, records -----------------------------------------------------------------

    def begin_phase(self, incident_id: str, epoch: int, name: str) -> PhaseRow:
        """Note that a phase begins; `starts` counts how often it has, `outcome` is set once it ended."""
        with self._fenced(incident_id, epoch) as (session, _):
            row: PhaseRow | None = session.scalar(_phase(incident_id, name))
            if row is None:
                row = PhaseRow(incident_id=incident_id, name=name, starts=0, started_at=now())
                session.add(row)
            if row.outcome is None:
                row.starts += 1
            session.flush()
            return row

    def end_phase(self, incident_id: str, epoch: int, name: str, outcome: dict[str, Any]) -> None:
        """Keep the outcome of a phase: whoever comes back later skips it."""
        with self._fenced(incident_id, epoch) as (session, _):
            row = session.scalars(_phase(incident_id, name)).one()
            row.outcome, row.ended_at = outcome, now()

    def phases(self, incident_id: str) -> Sequence[PhaseRow]:
        """The phases begun so far, in order."""
        with self._reading() as session:
            return session.scalars(
                select(PhaseRow).where(PhaseRow.incident_id == incident_id).order_by(PhaseRow.id)
            ).all()

    def add_evidence(self, incident_id: str, epoch: int, phase: str, found: Sequence[Evidence]) -> list[Evidence]:
        """Keep observations; each gets its id (`e1`, `e2`, …) here."""
        with self._fenced(incident_id, epoch) as (session, _):
            taken = session.scalar(
                select(func.count()).select_from(EvidenceRow).where(EvidenceRow.incident_id == incident_id)
            )
            numbered = [
                item.model_copy(update={"id": f"e{number}"})
                for number, item in enumerate(found, start=(taken or 0) + 1)
            ]
            session.add_all(
                EvidenceRow(incident_id=incident_id, phase=phase, evidence=item.model_dump(mode="json"))
                for item in numbered
            )
            return numbered

    def dossier(self, incident_id: str, *, phases: Sequence[str] | None = None) -> Dossier:
        """All the evidence of an incident, or only that of some phases."""
        query = select(EvidenceRow.evidence).where(EvidenceRow.incident_id == incident_id)
        if phases is not None:
            query = query.where(EvidenceRow.phase.in_([str(phase) for phase in phases]))
        with self._reading() as session:
            rows = session.scalars(query.order_by(EvidenceRow.number))
            return Dossier(evidence=tuple(Evidence.model_validate(row) for row in rows))

    def keep_record(self, incident_id: str, epoch: int, name: str, content: dict[str, Any]) -> None:
        """Keep (or replace) a document of the incident."""
        with self._fenced(incident_id, epoch) as (session, _):
            row = session.scalar(_record(incident_id, name))
            if row is None:
                session.add(RecordRow(incident_id=incident_id, name=name, content=content))
            else:
                row.content = content

    def record(self, incident_id: str, name: str) -> dict[str, Any] | None:
        """A document kept earlier."""
        with self._reading() as session:
            row = session.scalar(_record(incident_id, name))
            return row.content if row else None

    # --- attempts and decisions --------------------------------------------------------------------

    def intend(
        self,
        incident_id: str,
        epoch: int,
        *,
        step_id: str,
        strategy: str,
        target: str,
        machine: str,
        command: Sequence[str],
        snapshot: dict[str, Any],
    ) -> AttemptRow:
        """Commit the intent of an attempt; the one that exists for this step is returned unchanged.

        Read the stop row and budgets before; nothing may be done on the host before this returns. Raises
        `StaleEpochError` for a closed incident: a run that comes back after a person closed it acts no more; and
        `BusyError` while another incident's attempt is under way on the same `machine` (address and port).
        """
        with self._fenced(incident_id, epoch) as (session, incident):
            if incident.status == "closed":
                raise StaleEpochError(f"incident {incident_id} is closed; nothing is tried any more")
            row = session.scalar(
                select(AttemptRow).where(AttemptRow.incident_id == incident_id, AttemptRow.step_id == step_id)
            )
            if row is None:
                self._alone(session, f"machine {machine}")
                open_ended = [state.value for state in AttemptState if state.open_ended]
                other = session.scalar(
                    select(AttemptRow)
                    .join(IncidentRow, IncidentRow.id == AttemptRow.incident_id)
                    .where(
                        AttemptRow.machine == machine,
                        AttemptRow.state.in_(open_ended),
                        AttemptRow.incident_id != incident_id,
                        IncidentRow.status == "open",
                    )
                )
                if other:
                    raise BusyError(
                        f"incident {other.incident_id} is at work on {machine}: {other.strategy} on {other.target}"
                    )
                row = AttemptRow(
                    id=f"{step_id.lower()[:40]}-{new_id()}",
                    incident_id=incident_id,
                    service=incident.service,
                    step_id=step_id,
                    strategy=strategy,
                    target=target,
                    machine=machine,
                    command=list(command),
                    state=AttemptState.INTENDED.value,
                    epoch=epoch,
                    intent_at=now(),
                    snapshot=snapshot,
                    difference={},
                    output="",
                    reason="",
                )
                session.add(row)
                session.flush()
            return row

    def move_attempt(
        self, incident_id: str, epoch: int, attempt_id: str, to: AttemptState, **values: Any
    ) -> AttemptRow:
        """Move an attempt to its next state, and record what is known with it; returns it as it is then.

        Raises `PermanentError` when the incident has no such attempt, or when the state cannot follow.
        """
        with self._fenced(incident_id, epoch) as (session, _):
            row: AttemptRow | None = session.scalar(
                select(AttemptRow).where(AttemptRow.id == attempt_id, AttemptRow.incident_id == incident_id)
            )
            if row is None:
                raise PermanentError(f"incident {incident_id} has no attempt {attempt_id}")
            require_follows(AttemptState(row.state), to)
            session.execute(update(AttemptRow).where(AttemptRow.id == attempt_id).values(state=to.value, **values))
            session.refresh(row)
            return row

    def attempts(self, incident_id: str) -> Sequence[AttemptRow]:
        """The incident's attempts in order."""
        with self._reading() as session:
            return session.scalars(
                select(AttemptRow).where(AttemptRow.incident_id == incident_id).order_by(AttemptRow.intent_at)
            ).all()

    def past_attempts(self, service: str, *, besides: str | None = None) -> tuple[PastAttempt, ...]:
        """All attempts that were or may have been carried out on a service, for the budgets.

        `besides` is left out: an attempt that is taken up again does not count against itself.
        """
        harmless = [state.value for state in AttemptState if state.harmless]
        with self._reading() as session:
            rows = session.scalars(
                select(AttemptRow).where(
                    AttemptRow.service == service,
                    AttemptRow.state.not_in(harmless),
                    AttemptRow.id != (besides or ""),
                )
            )
            return tuple(
                PastAttempt(incident_id=r.incident_id, strategy=r.strategy, target=r.target, at=r.intent_at)
                for r in rows
            )

    def decide(self, incident_id: str, *, who: str, what: str, why: str) -> None:
        """Write down a decision and its reason, without secrets; the same one is not written twice."""
        who, what, why = (clipped(words, REASON_CHARACTERS) for words in (who, what, why))
        with self._session() as session:
            same = select(DecisionRow.id).where(
                DecisionRow.incident_id == incident_id,
                DecisionRow.who == who,
                DecisionRow.what == what,
                DecisionRow.why == why,
            )
            if session.scalar(same) is None:
                session.add(DecisionRow(incident_id=incident_id, at=now(), who=who, what=what, why=why))

    def decisions(self, incident_id: str) -> Sequence[DecisionRow]:
        """The decisions in order."""
        with self._reading() as session:
            return session.scalars(
                select(DecisionRow).where(DecisionRow.incident_id == incident_id).order_by(DecisionRow.id)
            ).all()

    def latest_decisions(self, *, since: datetime) -> Sequence[tuple[IncidentRow, int]]:
        """Each live incident with a page where something was decided since then, and the last decision's id."""
        query = (
            select(IncidentRow, func.max(DecisionRow.id))
            .join(DecisionRow, DecisionRow.incident_id == IncidentRow.id)
            .where(
                DecisionRow.at >= since,
                IncidentRow.mode == Mode.LIVE.value,
                IncidentRow.pagerduty_id.is_not(None),
            )
            .group_by(IncidentRow.id)
        )
        with self._reading() as session:
            return [(incident, latest) for incident, latest in session.execute(query)]

    # --- the outbox --------------------------------------------------------------------------------

    @finds_what_overtook_it
    def enqueue(
        self,
        incident_id: str,
        *,
        channel: str,
        kind: str,
        body: dict[str, Any],
        key: str | None = None,
        draft: bool = False,
    ) -> None:
        """Put a message into the outbox. With a `key` it is put there once for the incident.

        Messages of an incident that does not act are kept as `withheld`: shown, never sent. A `draft` is kept
        and shown, and waits for a person.
        """
        message_id = f"{incident_id}:{channel}:{key}" if key else new_id()
        with self._session() as session:
            if session.scalar(select(MessageRow.number).where(MessageRow.id == message_id)) is not None:
                return
            mode = session.scalar(select(IncidentRow.mode).where(IncidentRow.id == incident_id))
            sendable = "draft" if draft else "waiting"
            session.add(
                MessageRow(
                    id=message_id,
                    incident_id=incident_id,
                    channel=channel,
                    kind=kind,
                    body=body,
                    state=sendable if mode == Mode.LIVE.value else "withheld",
                    created_at=now(),
                    next_at=now(),
                    error="",
                )
            )

    def publish_draft(self, incident_id: str, *, who: str, number: int | None = None) -> MessageRow:
        """A person publishes a draft, the newest unless `number` says which: from now on it waits to be sent.

        Older drafts are left out: they would put the page back to what was. Raises `PermanentError` when there is
        no such draft (any more).
        """
        with self._session() as session:
            locked(session, incident_id)  # so that of two people one publishes
            rows = session.scalars(
                select(MessageRow).where(MessageRow.incident_id == incident_id, MessageRow.state == "draft")
            )
            drafts = {row.number: row for row in rows}
            chosen = drafts.get(number or max(drafts, default=0))
            if chosen is None:
                those = f"; its drafts are {', '.join(map(str, sorted(drafts)))}" if drafts else ""
                raise PermanentError(
                    f"incident {incident_id} has no draft{f' {number}' if number else ''} to publish{those}; "
                    f"`incident show {incident_id}` shows what became of each message"
                )
            for row in drafts.values():
                if row.channel == chosen.channel and row.number < chosen.number:
                    row.state, row.error = "skipped", f"message {chosen.number}, which is newer, was published"
            chosen.state, chosen.next_at = "waiting", now()
            what = f"publishes message {chosen.number} to {chosen.channel}"
            why = "a person has read it: " + " ".join(str(chosen.body["text"]).split())
            why = clipped(why, 300)
            session.add(DecisionRow(incident_id=incident_id, at=now(), who=who, what=what, why=why))
            return chosen

    def due_messages(self, at: datetime) -> Sequence[MessageRow]:
        """What may be sent now of each incident and channel, as `next_to_send` says, where its time has come."""
        lanes: dict[tuple[str, str], list[MessageRow]] = {}
        with self._reading() as session:
            waiting = select(MessageRow).where(MessageRow.state == "waiting").order_by(MessageRow.number)
            for row in session.scalars(waiting):
                lanes.setdefault((row.incident_id, row.channel), []).append(row)
        heads = [lane[place] for lane in lanes.values() for place in next_to_send([row.kind for row in lane])]
        return sorted((row for row in heads if row.next_at <= at), key=lambda row: row.number)

    def claim_messages(self, seen: Sequence[MessageRow], *, lease_s: float) -> Sequence[MessageRow]:
        """Count one more try of messages before it is begun; nobody else sends them for `lease_s` seconds.

        `seen` are rows as they were read: where one has been claimed or settled since, nothing is returned.
        """
        with self._session() as session:
            numbers = [message.number for message in seen]
            ours = select(MessageRow).where(MessageRow.number.in_(numbers)).order_by(MessageRow.number)
            rows = session.scalars(ours.with_for_update()).all()
            if [("waiting", m.tries) for m in seen] != [(row.state, row.tries) for row in rows]:
                return []
            for row in rows:
                row.tries, row.tried_at = row.tries + 1, row.tried_at or now()
                row.next_at = now() + timedelta(seconds=lease_s)
            return rows

    def hold_claims(self, claimed: Sequence[MessageRow], *, lease_s: float) -> None:
        """Renew a claim while it takes longer to send; one that has lapsed and was taken by another is left."""
        with self._session() as session:
            for message in claimed:
                session.execute(
                    update(MessageRow).where(_claimed(message)).values(next_at=now() + timedelta(seconds=lease_s))
                )

    def settle_message(
        self, claimed: MessageRow, *, state: str, error: str = "", retry_at: datetime | None = None
    ) -> None:
        """Record what became of a try: `sent`, `skipped`, `failed` (given up) or `waiting` (again at `retry_at`).

        A claim that has lapsed settles nothing: whoever has it now looks what arrived.
        """
        values = {"state": state, "error": error, "sent_at": now() if state == "sent" else None}
        if retry_at:
            values["next_at"] = retry_at
        with self._session() as session:
            session.execute(update(MessageRow).where(_claimed(claimed)).values(**values))

    def messages(self, incident_id: str) -> Sequence[MessageRow]:
        """The incident's messages in order."""
        with self._reading() as session:
            return session.scalars(
                select(MessageRow).where(MessageRow.incident_id == incident_id).order_by(MessageRow.number)
            ).all()

    # --- leases ------------------------------------------------------------------------------------

    def begin_run(self, incident_id: str, *, holder: str, lease_s: float) -> int:
        """Take the run's lease and raise the epoch: any older run of the incident ends itself."""
        with self._session() as session:
            row = locked(session, incident_id)
            row.epoch += 1
            lease = session.get(LeaseRow, incident_id)
            until = now() + timedelta(seconds=lease_s)
            if lease is None:
                session.add(
                    LeaseRow(
                        incident_id=incident_id, holder=holder, expires_at=until, step="", step_deadline=until
                    )
                )
            else:
                lease.holder, lease.expires_at, lease.step_deadline = holder, until, until
            return row.epoch

    def renew_run(self, incident_id: str, epoch: int, *, lease_s: float) -> None:
        """Renew the run's lease. Raises `StaleEpochError` when another run has it."""
        with self._fenced(incident_id, epoch) as (session, _):
            session.execute(
                update(LeaseRow)
                .where(LeaseRow.incident_id == incident_id)
                .values(expires_at=now() + timedelta(seconds=lease_s))
            )

    def begin_step(self, incident_id: str, epoch: int, step: str, *, deadline_s: float) -> None:
        """Note the current step: the page's lease is renewed only within its deadline."""
        with self._fenced(incident_id, epoch) as (session, _):
            session.execute(
                update(LeaseRow)
                .where(LeaseRow.incident_id == incident_id)
                .values(step=step, step_deadline=now() + timedelta(seconds=deadline_s))
            )

    def take_over_lease(self, incident_id: str, *, holder: str, lease_s: float) -> bool:
        """The keeper takes a lapsed lease and raises the epoch; False when it did not lapse after all."""
        with self._session() as session:
            row = locked(session, incident_id)
            lease = session.get(LeaseRow, incident_id)
            if lease is None or lease.expires_at > now():
                return False
            row.epoch += 1
            lease.holder, lease.expires_at = holder, now() + timedelta(seconds=lease_s)
            return True

    def count_take_up(self, incident_id: str) -> int:
        """Count one more time that the run was taken up; returns how often it has been."""
        with self._session() as session:
            row = session.get_one(IncidentRow, incident_id, with_for_update=True)
            row.take_ups += 1
            return row.take_ups

    def leases(self) -> Sequence[tuple[LeaseRow, IncidentRow]]:
        """Every lease with its incident."""
        with self._reading() as session:
            rows = session.execute(
                select(LeaseRow, IncidentRow).join(IncidentRow, IncidentRow.id == LeaseRow.incident_id)
            )
            return [(lease, incident) for lease, incident in rows]

    def has_lease(self, incident_id: str) -> bool:
        """Whether a run works on the incident, or will."""
        with self._reading() as session:
            return session.get(LeaseRow, incident_id) is not None

    def renew_page(self, incident_id: str, until: datetime) -> None:
        """Note until when PagerDuty is quiet."""
        with self._session() as session:
            session.execute(update(LeaseRow).where(LeaseRow.incident_id == incident_id).values(page_until=until))

    # --- readings, the keeper ----------------------------------------------------------------------

    @finds_what_overtook_it
    def remember_readings(self, service: str, readings: Sequence[tuple[str, str, str]]) -> None:
        """Keep the last known (host, check, verdict) of a service."""
        with self._session() as session:
            for host, name, verdict in readings:
                row = session.scalar(
                    select(ReadingRow).where(
                        ReadingRow.service == service, ReadingRow.host == host, ReadingRow.name == name
                    )
                )
                if row is None:
                    row = ReadingRow(service=service, host=host, name=name, verdict=verdict, at=now())
                    session.add(row)
                row.verdict, row.at = verdict, now()

    def known_unknowns(self, service: str) -> frozenset[tuple[str, str]]:
        """(host, check) that could not be read the last time either, before the fault."""
        with self._reading() as session:
            rows = session.execute(
                select(ReadingRow.host, ReadingRow.name).where(
                    ReadingRow.service == service, ReadingRow.verdict == "unknown"
                )
            )
            return frozenset((host, name) for host, name in rows)

    @finds_what_overtook_it
    def keeper_beats(self, holder: str, *, clock_jump_s: int = 0) -> None:
        """The keeper's heartbeat; `clock_jump_s`: how far the clock has been set since the last one, seconds."""
        with self._session() as session:
            row = session.get(KeeperRow, 1) or KeeperRow(id=1, clock_jump_s=0)
            row.holder, row.seen_at = holder, now()
            if clock_jump_s:
                row.clock_jumped_at, row.clock_jump_s = now(), clock_jump_s
            session.add(row)

    def clock_jump(self) -> tuple[datetime, int] | None:
        """When the clock was last seen to be set, and by how many seconds."""
        with self._reading() as session:
            row = session.get(KeeperRow, 1)
            return (row.clock_jumped_at, row.clock_jump_s) if row and row.clock_jumped_at else None

    def keeper_alive(self) -> bool:
        """Whether a keeper has been seen within the last seconds."""
        with self._reading() as session:
            row = session.get(KeeperRow, 1)
            return bool(row and now() - row.seen_at < KEEPER_ALIVE)


def _close(row: IncidentRow) -> None:
    row.status, row.open_key = "closed", None
    row.closed_at = now()


def _claimed(message: MessageRow) -> Any:
    unchanged = (MessageRow.state == "waiting") & (MessageRow.tries == message.tries)
    return (MessageRow.number == message.number) & unchanged


def _phase(incident_id: str, name: str) -> Any:
    return select(PhaseRow).where(PhaseRow.incident_id == incident_id, PhaseRow.name == name)


def _record(incident_id: str, name: str) -> Any:
    return select(RecordRow).where(RecordRow.incident_id == incident_id, RecordRow.name == name)
