"""Alerts that came in: one receipt for each, decided once, and the incidents that they open or join."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session, defer

from responder.domain.base import now
from responder.domain.incident import NO_RUN, Alert, Kind, Mode, Outcome, Phase, Severity
from responder.domain.profile import Profile
from responder.domain.webhooks import Signal
from responder.store.database import finds_what_overtook_it, new_id
from responder.store.people import GIVEN_BACK, People, set_aside
from responder.store.tables import (
    AlertRow,
    AttemptRow,
    DecisionRow,
    IncidentRow,
    LeaseRow,
    MessageRow,
    PhaseRow,
    ReceiptRow,
)

DISPATCH = "keeper:dispatch"
"""Holder of the lease of an incident whose run has not begun."""
OPENING = "keeper:opening"
"""Holder of the lease of an incident that its run has just opened: lost right then, it is taken up, too."""
FOR = "incident:"
"""Begins the tag of a run that was made for an incident; its id follows."""
START_LEASES = 4
"""So many leases of a run until it should have begun: a process takes its time to start."""
REFIRES = timedelta(minutes=30)
"""A re-fire so soon after the end is the same incident, which did not end."""
OUTLIVES = timedelta(minutes=5)
"""An alert that is repeated so long after its incident ended has not just been slow to resolve."""
HELD_AGAIN = timedelta(minutes=1)
_KEYS_AT_ONCE = 500


class Went(StrEnum):
    """Where an alert went."""

    RECEIVED = "received"
    OPENED = "opened"
    ATTACHED = "attached"
    REOPENED = "reopened"
    RESOLVED = "resolved"
    REPEAT = "repeat"
    EXPECTED = "expected"
    HELD = "held"
    NO_PROFILE = "no profile"
    REFUSED = "refused"


class Reading(NamedTuple):
    """What a profile makes of an alert."""

    profile: Profile
    kind: Kind
    severity: Severity | None
    suggests: tuple[str, ...]


class Decided(NamedTuple):
    """Where an alert went, and the incident that it opened, joined or reopened."""

    went: Went
    why: str
    incident: IncidentRow | None = None


class Alerts(People):
    """The part of the store in which alerts become incidents: one for each cause, whoever else decides."""

    # --- receipts ----------------------------------------------------------------------------------

    @finds_what_overtook_it
    def receive(self, signals: Sequence[Signal]) -> None:
        """Keep the signals, each once: of one that is known it is noted that it was said again."""
        arrived: dict[str, list[Signal]] = {}
        for signal in signals:
            arrived.setdefault(signal.key, []).append(signal)
        keys, at = sorted(arrived), now()  # in one order for all who write: nobody waits for each other
        with self._session() as session:
            known: dict[str, ReceiptRow] = {}
            for first in range(0, len(keys), _KEYS_AT_ONCE):
                found = select(ReceiptRow).where(ReceiptRow.key.in_(keys[first : first + _KEYS_AT_ONCE]))
                # Most are repeats: what they say is known, and reading it again would take longer than all else.
                found = found.options(defer(ReceiptRow.alert), defer(ReceiptRow.why))
                rows = session.scalars(found.order_by(ReceiptRow.key).with_for_update())
                known |= {row.key: row for row in rows}
            for key in keys:
                same = arrived[key]
                if row := known.get(key):
                    row.times, row.seen_at = row.times + len(same), at
                    _look_again(session, row)
                else:
                    session.add(_receipt(same[-1], len(same), at))

    def receipts(self, *, incident_id: str = "", limit: int = 50) -> Sequence[ReceiptRow]:
        """Receipts, the newest first; of one incident, or all."""
        query = select(ReceiptRow).order_by(ReceiptRow.id.desc()).limit(limit)
        if incident_id:
            query = query.where(ReceiptRow.incident_id == incident_id)
        with self._reading() as session:
            return session.scalars(query).all()

    def due_receipts(self, at: datetime, limit: int = 200) -> Sequence[ReceiptRow]:
        """Receipts about which something is to be decided, in the order of arrival."""
        with self._reading() as session:
            return session.scalars(
                select(ReceiptRow).where(ReceiptRow.due_at <= at).order_by(ReceiptRow.id).limit(limit)
            ).all()

    def backlog(self) -> tuple[int, float]:
        """How many receipts wait for their decision, and for how many seconds the oldest has."""
        at = now()
        with self._reading() as session:
            count, oldest = session.execute(
                select(func.count(), func.min(ReceiptRow.received_at)).where(ReceiptRow.due_at <= at)
            ).one()
        return count, (at - oldest).total_seconds() if oldest else 0.0

    def postpone(self, receipt_id: int, *, went: Went, why: str, until: datetime) -> None:
        """Decide about it later, and say why."""
        with self._session() as session:
            row = session.get_one(ReceiptRow, receipt_id)
            row.went, row.why, row.due_at = went.value, why, until

    def settle_receipt(self, receipt_id: int, *, went: Went, why: str) -> None:
        """Say of an alert that concerns no incident what became of it."""
        with self._session() as session:
            _settle(session.get_one(ReceiptRow, receipt_id), Decided(went, why))

    # --- what becomes of an alert ------------------------------------------------------------------

    def take_in(self, receipt_id: int, reading: Reading) -> Decided | None:
        """Decide about an alert: open an incident, or give it to one. None: it was decided already.

        The receipt and what it causes are one transaction: nothing is decided twice or half.
        """
        service, kind = reading.profile.name, reading.kind
        with self._session() as session:
            self._alone(session, f"incident:{service}:{kind.value}")
            receipt = session.get_one(ReceiptRow, receipt_id, with_for_update=True)
            if receipt.due_at is None:
                return None
            decided = self._decide(session, receipt, reading)
            _settle(receipt, decided)
            if decided.incident and receipt.truncated:
                _note(
                    session, decided.incident, "the sender has left alerts out", f"{receipt.truncated} of a group"
                )
            return decided

    def take_in_unknown(self, receipt_id: int, profiles: Sequence[Profile], why: str) -> list[IncidentRow]:
        """Keep an alert that fits no profile with an incident for people alone, of each of these services.

        Returns those incidents that it opened or is new to: their people are to be paged.
        """
        with self._session() as session:
            self._alone(session, "incident:unknown alerts")
            receipt = session.get_one(ReceiptRow, receipt_id, with_for_update=True)
            if receipt.due_at is None:
                return []
            alert, told = Alert.model_validate(receipt.alert), []
            for profile in profiles if receipt.firing else ():
                open_key = f"unknown alerts:{profile.name}"
                row = session.scalar(select(IncidentRow).where(IncidentRow.open_key == open_key).with_for_update())
                new = row is None
                if row is None:
                    row = new_incident(
                        session,
                        profile,
                        [alert],
                        kind=Kind.AVAILABILITY,
                        mode=Mode.LIVE,  # nothing is ever changed for it, but people must hear of it
                        summary=alert.summary or alert.name,
                        open_key=open_key,
                    )
                    row.severity, row.severity_reason = Severity.P2.value, "nobody knows what it is about"
                    row.outcome, row.reason = Outcome.ESCALATED.value, why
                named = {each.name for each in _alerts(session, row.id)} if not new else set()
                add_alerts(session, row.id, [alert])
                if new or alert.name not in named:
                    told.append(row)
                receipt.incident_id = row.id
            _settle(receipt, Decided(Went.NO_PROFILE, why))
            return told

    def _decide(self, session: Session, receipt: ReceiptRow, reading: Reading) -> Decided:
        alert = Alert.model_validate(receipt.alert)
        if alert.incident_key and (ours := _our_own(session, alert)):
            return Decided(Went.EXPECTED, f"it is the page of incident {ours.id} itself", ours)
        if not receipt.firing:
            return _resolved(session, alert)
        if stopped := _stopped_already(session, alert):
            return Decided(Went.REPEAT, f"it had stopped at {stopped:%H:%M:%S} UTC, before this arrived")
        holder = _open_incident(session, reading)
        recent = holder or _ended_lately(session, reading)
        if recent and receipt.times == 1 and (why := _caused_by_us(session, recent, alert)):
            add_alerts(session, recent.id, [alert])
            return Decided(Went.EXPECTED, why, recent)
        if holder:
            return _attach(session, holder, alert, reading)
        if recent:
            return _reopen(session, recent, alert, reading)
        row = new_incident(
            session,
            reading.profile,
            [alert],
            kind=reading.kind,
            mode=reading.profile.mode,
            summary=alert.summary or alert.name,
            open_key=_open_key(reading),
        )
        until = now() + timedelta(seconds=reading.profile.clock.run_lease_s * START_LEASES)
        wait_for_a_run(session, row, DISPATCH, until)
        _find_page(session, row, alert)
        return Decided(Went.OPENED, f"its labels select {reading.profile.name}", row)

    # --- runs to begin -----------------------------------------------------------------------------

    def waiting_for_a_run(self) -> Sequence[IncidentRow]:
        """Incidents that alerts opened and for which no run was made yet."""
        with self._reading() as session:
            return session.scalars(
                select(IncidentRow)
                .where(IncidentRow.run_id.startswith(NO_RUN), IncidentRow.outcome.is_(None))
                .order_by(IncidentRow.opened_at)
            ).all()

    def has_run(self, incident_id: str, run_id: str) -> None:
        """Note the run that works on an incident that had none."""
        with self._session() as session:
            session.execute(
                update(IncidentRow)
                .where(IncidentRow.id == incident_id, IncidentRow.run_id == NO_RUN + incident_id)
                .values(run_id=run_id)
            )

    def begin_anew(self, incident_id: str, epoch: int) -> None:
        """Set triage and diagnosis aside because of a new alert. Raises `StaleEpochError`."""
        with self._fenced(incident_id, epoch) as (session, row):
            row.rounds += 1
            row.anew = None
            set_aside(session, row, triage=True)


def add_alerts(session: Session, incident_id: str, alerts: Sequence[Alert]) -> None:
    """Give alerts to an incident, each once."""
    known = list(session.scalars(select(AlertRow.alert).where(AlertRow.incident_id == incident_id)))
    for alert in (alert.model_dump(mode="json") for alert in alerts):
        # A monitoring system repeats itself, and so does a run that is taken up again.
        if alert not in known:
            session.add(AlertRow(incident_id=incident_id, received_at=now(), alert=alert))
            known.append(alert)


def _receipt(signal: Signal, times: int, at: datetime) -> ReceiptRow:
    went = Went.REFUSED if signal.refused else Went.RECEIVED
    return ReceiptRow(
        key=signal.key,
        source=signal.source,
        received_at=at,
        seen_at=at,
        times=times,
        name=signal.alert.name,
        alert=signal.alert.model_dump(mode="json"),
        fingerprint=signal.alert.fingerprint,
        firing=signal.alert.ends_at is None,
        truncated=signal.truncated,
        due_at=None if signal.refused else at,
        went=went.value,
        why=signal.refused,
    )


def _look_again(session: Session, row: ReceiptRow) -> None:
    """An alert that still fires well after its incident has ended is decided about once more."""
    if not row.firing or row.due_at is not None or row.incident_id is None:
        return
    incident = session.get_one(IncidentRow, row.incident_id)
    if incident.closed_at and row.seen_at - incident.closed_at > OUTLIVES:
        row.due_at = row.seen_at


def _settle(receipt: ReceiptRow, decided: Decided) -> None:
    receipt.went, receipt.why, receipt.due_at = decided.went.value, decided.why, None
    if decided.incident:
        receipt.incident_id = decided.incident.id


def _our_own(session: Session, alert: Alert) -> IncidentRow | None:
    """The incident whose page this is: opened by us, or taken over from the alert."""
    found: IncidentRow | None = session.get(IncidentRow, alert.incident_key.removeprefix("incident-"))
    if found is None and alert.fingerprint:
        found = session.scalar(select(IncidentRow).where(IncidentRow.pagerduty_id == alert.fingerprint))
    return found


def _resolved(session: Session, alert: Alert) -> Decided:
    """Note the end with every incident that has the alert."""
    rows = session.scalars(
        select(AlertRow).join(IncidentRow).where(IncidentRow.opened_at > now() - timedelta(days=7))
    ).all()
    same = [row for row in rows if _is(row, alert)]
    if not same:
        return Decided(Went.RESOLVED, "no incident has it")
    for row in same:
        row.alert = row.alert | {"ends_at": alert.model_dump(mode="json")["ends_at"]}
    session.flush()
    incident = session.get_one(IncidentRow, same[-1].incident_id)
    left = sum(each.ends_at is None for each in _alerts(session, incident.id))
    firing = (
        f"{left} of its alerts still {'fires' if left == 1 else 'fire'}" if left else "none of its alerts fires"
    )
    if not left:
        _note(session, incident, "all its alerts have stopped", f"the last was {alert.name}")
    return Decided(Went.RESOLVED, f"noted; {firing}", incident)


def _is(row: AlertRow, alert: Alert) -> bool:
    kept = Alert.model_validate(row.alert)
    return bool(alert.fingerprint) and (kept.fingerprint, kept.starts_at) == (alert.fingerprint, alert.starts_at)


def _stopped_already(session: Session, alert: Alert) -> datetime | None:
    rows = session.scalars(
        select(ReceiptRow.alert).where(ReceiptRow.fingerprint == alert.fingerprint, ReceiptRow.firing.is_(False))
    )
    ends = [each.ends_at for row in rows if (each := Alert.model_validate(row)).starts_at == alert.starts_at]
    return next((end for end in ends if end), None)


def _open_key(reading: Reading) -> str | None:
    return f"{reading.profile.name}:{reading.kind.value}" if reading.profile.mode.acts else None


def _of(reading: Reading) -> list[object]:
    return [IncidentRow.service == reading.profile.name, IncidentRow.kind == reading.kind.value]


def _open_incident(session: Session, reading: Reading) -> IncidentRow | None:
    """The open incident of the service and class; a dry run stands in for it only where nothing else may."""
    at_hand: ColumnElement[bool] = IncidentRow.open_key.is_not(None)
    if not reading.profile.mode.acts:
        at_hand = or_(at_hand, IncidentRow.mode == reading.profile.mode.value)
    query = select(IncidentRow).where(*_of(reading), IncidentRow.status == "open", at_hand)  # type: ignore[arg-type]
    own = query.where(or_(IncidentRow.open_key.is_(None), IncidentRow.open_key.not_like("unknown alerts:%")))
    found: IncidentRow | None = session.scalar(own.order_by(IncidentRow.opened_at.desc()).with_for_update())
    return found


def _ended_lately(session: Session, reading: Reading) -> IncidentRow | None:
    since = now() - REFIRES
    query = select(IncidentRow).where(
        *_of(reading),  # type: ignore[arg-type]
        IncidentRow.closed_at > since,
        IncidentRow.mode == reading.profile.mode.value,
        IncidentRow.run_id.not_like(f"{NO_RUN}%"),
    )
    found: IncidentRow | None = session.scalar(query.order_by(IncidentRow.closed_at.desc()).with_for_update())
    return found


def _caused_by_us(session: Session, incident: IncidentRow, alert: Alert) -> str | None:
    """Why the alert is what an action of ours looks like from outside, if it began while that was under way."""
    if alert.starts_at is None:
        return None
    attempts = session.scalars(
        select(AttemptRow).where(
            AttemptRow.incident_id == incident.id,
            AttemptRow.acted_at <= alert.starts_at,
            AttemptRow.strategy != "wait",
        )
    ).all()
    if not attempts:
        return None
    settle = timedelta(seconds=Profile.model_validate(incident.profile).clock.settle_s)
    for attempt in attempts:
        until = (attempt.checked_at or attempt.ended_at or now()) + settle
        named = any(attempt.target and attempt.target in value for value in alert.labels.values())
        if named and alert.starts_at <= until:
            return f"{attempt.strategy} on {attempt.target} was under way when it began"
    return None


def _attach(session: Session, incident: IncidentRow, alert: Alert, reading: Reading) -> Decided:
    """Give an alert to the open incident. Attached is not silenced: what it does not explain is triaged again."""
    new = _new_in(session, incident, alert, reading)
    add_alerts(session, incident.id, [alert])
    if new:
        incident.anew = new
        _note(session, incident, f"{alert.name} joins", new)
    return Decided(Went.ATTACHED, new or "an incident of the service is open", incident)


def _new_in(session: Session, incident: IncidentRow, alert: Alert, reading: Reading) -> str | None:
    """Why an alert that joins is news to the incident, if it is."""
    if reading.severity and incident.severity and reading.severity.value < incident.severity:
        return f"{alert.name} raises it to {reading.severity.value}"
    if incident.outcome is not None and alert.name not in {each.name for each in _alerts(session, incident.id)}:
        return f"{alert.name} fires, and no run works on it"
    found = session.scalar(
        select(PhaseRow.outcome).where(PhaseRow.incident_id == incident.id, PhaseRow.name == Phase.DIAGNOSE.value)
    )
    leading = found["leading"] if found else None
    if leading and reading.suggests and leading not in reading.suggests:
        return f"{leading}, which leads, does not explain {alert.name}"
    return None


def _reopen(session: Session, incident: IncidentRow, alert: Alert, reading: Reading) -> Decided:
    """Take an incident up again that ended too soon, with the budgets that it has used."""
    why = f"{alert.name} fires again {(now() - (incident.closed_at or now())).total_seconds():.0f} s after its end"
    incident.status, incident.outcome, incident.reason = "open", None, ""
    incident.open_key, incident.closed_at, incident.resolved_at = _open_key(reading), None, None
    # Its page and its channel are closed: people get new ones.
    incident.pagerduty_id = incident.pagerduty_status = incident.acknowledged_by = incident.channel_id = None
    incident.rounds += 1
    incident.epoch += 1
    set_aside(session, incident, triage=True)
    add_alerts(session, incident.id, [alert])
    wait_for_a_run(session, incident, GIVEN_BACK, now())
    _find_page(session, incident, alert)
    _note(session, incident, "reopens it", why)
    return Decided(Went.REOPENED, why, incident)


def new_incident(
    session: Session,
    profile: Profile,
    alerts: Sequence[Alert],
    *,
    kind: Kind,
    mode: Mode,
    summary: str,
    open_key: str | None,
    run_id: str | None = None,
    severity_floor: str | None = None,
    declared: bool = False,
) -> IncidentRow:
    """A new incident with its alerts; without `run_id` one whose run is still to be made."""
    incident_id = new_id()
    row = IncidentRow(
        id=incident_id,
        run_id=run_id or NO_RUN + incident_id,
        open_key=open_key,
        service=profile.name,
        kind=kind.value,
        mode=mode.value,
        summary=summary,
        severity_floor=severity_floor,
        declared=declared,
        profile=profile.model_dump(mode="json"),
        opened_at=now(),
        epoch=0,
        status="open",
    )
    session.add(row)
    session.flush()
    add_alerts(session, row.id, alerts)
    return row


def wait_for_a_run(session: Session, incident: IncidentRow, holder: str, until: datetime) -> None:
    """Promise that a run will come: the page stays quiet only until then."""
    session.execute(delete(LeaseRow).where(LeaseRow.incident_id == incident.id))
    step = "waiting for a run"
    session.add(LeaseRow(incident_id=incident.id, holder=holder, expires_at=until, step=step, step_deadline=until))


def _find_page(session: Session, incident: IncidentRow, alert: Alert) -> None:
    """Have the alert's page acknowledged while the run begins; the triage would ask for the same."""
    profile = Profile.model_validate(incident.profile)
    if profile.pagerduty and alert.incident_key and incident.mode == Mode.LIVE.value:
        round_ = f"-{incident.rounds}" if incident.rounds else ""
        session.add(
            MessageRow(
                id=f"{incident.id}:pagerduty:find{round_}",
                incident_id=incident.id,
                channel="pagerduty",
                kind="find",
                body={"keys": [alert.incident_key], "wait_s": profile.clock.find_page_s},
                state="waiting",
                created_at=now(),
                next_at=now(),
            )
        )


def _alerts(session: Session, incident_id: str) -> list[Alert]:
    rows = session.scalars(select(AlertRow.alert).where(AlertRow.incident_id == incident_id))
    return [Alert.model_validate(row) for row in rows]


def _note(session: Session, incident: IncidentRow, what: str, why: str) -> None:
    session.add(DecisionRow(incident_id=incident.id, at=now(), who="keeper", what=what, why=why))
