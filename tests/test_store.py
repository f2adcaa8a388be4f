"""The store on SQLite and on PostgreSQL: decided once, fenced by epochs, whole after any crash."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier, Event
from typing import Any, TypeVar

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from responder.domain.attempt import AttemptState
from responder.domain.base import now
from responder.domain.errors import PermanentError, StaleEpochError
from responder.domain.incident import Ending, Kind, Mode, Outcome, Severity
from responder.store import Store
from responder.store import database as database_module
from responder.store.tables import IncidentRow, Table
from tests import factories
from tests.factories import NOON, alert, intend, profile, seen

POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql+psycopg:///test")
T = TypeVar("T")


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database of this session's own, migrated."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('store')}/incidents.db"
        Store(url).migrate()
        yield url
        return
    with OwnPostgresql() as url:
        Store(url).migrate()
        yield url


class OwnPostgresql:
    """A new database on the PostgreSQL server, dropped afterwards; skips the test without a server."""

    def __enter__(self) -> str:
        self.name = f"incident_test_{uuid.uuid4().hex[:12]}"
        self.admin = create_engine(POSTGRESQL, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
        try:
            with self.admin.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {self.name}"))
        except OperationalError as error:
            pytest.skip(f"PostgreSQL cannot be reached: {str(error.orig).splitlines()[0]}")
        return self.admin.url.set(database=self.name).render_as_string(hide_password=False)

    def __exit__(self, *_: object) -> None:
        with self.admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {self.name} WITH (FORCE)"))
        self.admin.dispose()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" in metafunc.fixturenames:
        metafunc.parametrize("database", ["sqlite", "postgresql"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def opened(database: str) -> Iterator[Store]:
    """One engine for all tests: it keeps compiled statements."""
    store = Store(database)
    yield store
    store.close()


@pytest.fixture
def store(opened: Store) -> Store:
    """An empty store."""
    with opened.engine.begin() as connection:
        for table in reversed(Table.metadata.sorted_tables):
            connection.execute(table.delete())
    return opened


def open_incident(store: Store, run_id: str = "run-1", **changes: Any) -> IncidentRow:
    values: dict[str, Any] = {"profile": profile(), "summary": "the gateway is down"} | changes
    return factories.open_incident(store, values.pop("profile"), run_id=run_id, **values)


def begun(store: Store, run_id: str = "run-1", **changes: Any) -> tuple[str, int]:
    """The id and epoch of a new incident whose run has begun."""
    incident = open_incident(store, run_id, **changes)
    return incident.id, store.begin_run(incident.id, holder=run_id, lease_s=30)


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Run the calls in threads that start together."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait(timeout=10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(run, call) for call in calls]]


def in_a_process(url: str, code: str) -> subprocess.Popen[str]:
    """Python code with `store` at hand, in a process of its own."""
    program = f"from responder.store import Store\nstore = Store({url!r})\n{code}"
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


# --- migrations ---------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/incidents.db"
        return
    with OwnPostgresql() as url:
        yield url


def test_two_processes_may_migrate_at_once_and_again(empty_url: str) -> None:
    for process in [in_a_process(empty_url, "store.migrate(); store.migrate()") for _ in range(2)]:
        finished(process)
    store = Store(empty_url)
    store.migrate()
    assert {"incidents", "messages", "alembic_version"} <= set(inspect(store.engine).get_table_names())
    store.close()


def test_the_migrations_make_exactly_the_tables_of_the_models(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_a_store_of_the_schema_before_keeps_its_messages_and_those_tried_may_have_been_sent(
    empty_url: str,
) -> None:
    migrate_to(empty_url, "0003")
    store = Store(empty_url)
    columns = "id, incident_id, channel, kind, body, state, tries, created_at, next_at, error"
    incident = "'i1', 'r1', 'shop', 'availability', 'live', '', '', false, false, '{}', 0, 0, 'open', '', :at, 0"
    with store.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO incidents (id, run_id, service, kind, mode, summary, severity_reason, was_unhealthy, "
                f"declared, profile, epoch, take_ups, status, reason, opened_at, rounds) VALUES ({incident})"
            ),
            {"at": NOON},
        )
        for number, tries in enumerate((0, 2)):
            connection.execute(
                text(
                    f"INSERT INTO messages ({columns}) VALUES "
                    f"('m{number}', 'i1', 'slack', 'post', '{{}}', 'waiting', {tries}, :at, :at, '')"
                ),
                {"at": NOON},
            )
    store.migrate()
    assert [(row.tries, row.tried_at) for row in store.messages("i1")] == [(0, None), (2, NOON)]
    store.close()


def migrate_to(url: str, revision: str) -> None:
    """The database as an older release has left it."""
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


# --- opening ------------------------------------------------------------------------------------


def test_a_run_that_comes_back_finds_its_own_incident(store: Store) -> None:
    first = open_incident(store, alerts=[alert()])
    again = open_incident(store, summary="something else", alerts=[alert()])
    assert (again.id, again.summary) == (first.id, "the gateway is down")
    assert len(store.alerts(first.id)) == 1


def test_a_second_run_gets_the_open_incident_and_its_alerts_join(store: Store) -> None:
    holder = open_incident(store, "run-1", alerts=[alert("First")])
    got = open_incident(store, "run-2", alerts=[alert("Second")])
    assert (got.id, got.run_id) == (holder.id, "run-1")
    assert [a.name for a in store.alerts(holder.id)] == ["First", "Second"]
    assert store.incident_of_run("run-2") is None


def test_an_alert_that_is_sent_again_joins_once(store: Store) -> None:
    holder = open_incident(store, "run-1", alerts=[alert(), alert()])
    for _ in range(2):
        open_incident(store, "run-2", alerts=[alert(), alert("Other")])
    assert [a.name for a in store.alerts(holder.id)] == ["ShopDown", "Other"]


def test_runs_that_start_together_open_exactly_one_incident(store: Store) -> None:
    names = [f"run-{number}" for number in range(6)]
    rows = at_once(*[lambda name=name: open_incident(store, name, alerts=[alert(name)]) for name in names])
    assert len({row.id for row in rows}) == 1
    assert len(store.open_incidents()) == 1
    assert sorted(a.name for a in store.alerts(rows[0].id)) == names


def test_processes_that_start_together_open_exactly_one_incident(store: Store, database: str) -> None:
    code = """
from responder.domain.incident import Kind, Mode
from tests.factories import alert, profile
row = store.open_incident(run_id="{0}", profile=profile(), summary="down", kind=Kind.AVAILABILITY,
    mode=Mode.LIVE, alerts=[alert("{0}")], severity=None, declared=False)
print(row.id)
"""
    processes = [in_a_process(database, code.format(f"run-{number}")) for number in range(2)]
    ids = {finished(process) for process in processes}
    assert len(ids) == 1
    assert sorted(a.name for a in store.alerts(ids.pop())) == ["run-0", "run-1"]


@pytest.mark.parametrize("mode", list(Mode))
def test_one_run_that_opens_twice_at_once_gets_one_incident(store: Store, mode: Mode) -> None:
    other = open_incident(store, "other", mode=Mode.DRY_RUN)
    rows = at_once(*[lambda: open_incident(store, mode=mode, alerts=[alert()]) for _ in range(5)])
    assert len({row.id for row in rows}) == 1
    assert {row.run_id for row in rows} == {"run-1"}
    assert store.alerts(other.id) == []


def test_alerts_are_not_given_into_the_care_of_an_incident_that_is_just_being_closed(store: Store) -> None:
    holder, epoch = begun(store, "run-1")
    closing = Event()

    def close_slowly() -> None:
        with store._fenced(holder, epoch) as (session, row):
            row.status, row.open_key = "closed", None
            session.flush()
            closing.set()
            time.sleep(0.3)

    def declare() -> str:
        assert closing.wait(timeout=10)
        return open_incident(store, "run-2", alerts=[alert()]).id

    _, opened = at_once(close_slowly, declare)
    assert opened != holder
    assert [row.id for row in store.open_incidents()] == [opened]
    assert [a.name for a in store.alerts(opened)] == ["ShopDown"]
    assert store.alerts(holder) == []


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.SHADOW])
def test_an_incident_that_does_not_act_never_holds_the_place(store: Store, mode: Mode) -> None:
    trial = open_incident(store, "run-1", mode=mode)
    real = open_incident(store, "run-2")
    another_trial = open_incident(store, "run-3", mode=mode)
    assert len({trial.id, real.id, another_trial.id}) == 3


def test_each_kind_and_each_service_has_a_place_of_its_own(store: Store) -> None:
    rows = [
        open_incident(store, "run-1"),
        open_incident(store, "run-2", kind=Kind.SECURITY),
        open_incident(store, "run-3", profile=profile(name="bank")),
    ]
    assert len({row.id for row in rows}) == 3
    assert store.open_security_incident("shop") == rows[1].id
    assert store.open_security_incident("bank") is None


def test_a_security_incident_blocks_until_it_is_closed_and_only_when_live(store: Store) -> None:
    open_incident(store, "run-1", kind=Kind.SECURITY, mode=Mode.DRY_RUN)
    assert store.open_security_incident("shop") is None
    real = open_incident(store, "run-2", kind=Kind.SECURITY)
    store.end_run(real.id, 0, Ending(outcome=Outcome.ESCALATED, reason="a person decides"))
    assert store.open_security_incident("shop") == real.id
    store.close_incident(real.id, who="ada", why="evidence is safe")
    assert store.open_security_incident("shop") is None


def test_the_profile_is_kept_as_it_was_at_the_opening(store: Store) -> None:
    whole = profile(
        mode="live",
        guardrails={"windows": [{"reason": "night", "weekdays": [7], "from_time": "22:00", "to_time": "06:00"}]},
        clocks={"run_lease_s": 45},
    )
    incident = open_incident(store, profile=whole)
    open_incident(store, "run-2", profile=profile(mode="dry-run"))
    assert store.profile_of(incident.id) == whole


def test_an_incident_is_found_by_a_beginning_of_its_id_only_when_it_is_the_only_one(store: Store) -> None:
    first = open_incident(store, "run-1")
    assert store.incident(first.id[:5]).id == first.id
    others = [open_incident(store, f"trial-{n}", mode=Mode.DRY_RUN) for n in range(17)]  # > 16 first digits
    digits = [row.id[0] for row in others]
    doubled = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(PermanentError, match="several"):
        store.incident(doubled)
    for nonsense in ("", "%", "_", "x" * 12, "'; DROP TABLE incidents; --", "\x00"):
        with pytest.raises(PermanentError):
            store.incident(nonsense)


# --- epochs -------------------------------------------------------------------------------------

FENCED_WRITES: dict[str, Callable[[Store, str, int], Any]] = {
    "update_incident": lambda store, i, e: store.update_incident(i, e, summary="changed"),
    "end_run": lambda store, i, e: store.end_run(i, e, Ending(outcome=Outcome.RESOLVED, reason="fine")),
    "begin_phase": lambda store, i, e: store.begin_phase(i, e, "mitigate"),
    "end_phase": lambda store, i, e: store.end_phase(i, e, "diagnose", {"leading": "changed"}),
    "add_evidence": lambda store, i, e: store.add_evidence(i, e, "diagnose", [seen("gw-1", "k", 2)]),
    "keep_record": lambda store, i, e: store.keep_record(i, e, "plan", {"steps": ["changed"]}),
    "intend": lambda store, i, e: intend(store, i, e, "restart-gw-2", "gw-2"),
    "move_attempt": lambda store, i, e: store.move_attempt(i, e, store.attempts(i)[0].id, AttemptState.ACTED),
    "renew_run": lambda store, i, e: store.renew_run(i, e, lease_s=9_999),
    "begin_step": lambda store, i, e: store.begin_step(i, e, "changed", deadline_s=9_999),
}


def everything_in(store: Store) -> dict[str, list[Any]]:
    with store.engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key))]
            for table in Table.metadata.sorted_tables
        }


@pytest.mark.parametrize("write", FENCED_WRITES)
def test_an_older_run_writes_nothing_more(store: Store, write: str) -> None:
    incident_id, old = begun(store)
    store.begin_phase(incident_id, old, "diagnose")
    store.add_evidence(incident_id, old, "diagnose", [seen("gw-1", "k", 1)])
    store.keep_record(incident_id, old, "plan", {"steps": []})
    intend(store, incident_id, old)
    store.begin_run(incident_id, holder="run-1 again", lease_s=30)
    before = everything_in(store)
    with pytest.raises(StaleEpochError):
        FENCED_WRITES[write](store, incident_id, old)
    assert everything_in(store) == before


@pytest.mark.parametrize("write", sorted(set(FENCED_WRITES) - {"move_attempt"}))
def test_a_write_to_no_incident_says_so(store: Store, write: str) -> None:
    with pytest.raises(PermanentError, match="no incident"):
        FENCED_WRITES[write](store, "nonesuch", 0)


@pytest.mark.parametrize("write", FENCED_WRITES)
def test_the_current_run_writes(store: Store, write: str) -> None:
    incident_id, epoch = begun(store)
    store.begin_phase(incident_id, epoch, "diagnose")
    intend(store, incident_id, epoch)
    before = everything_in(store)
    FENCED_WRITES[write](store, incident_id, epoch)
    assert everything_in(store) != before


def test_every_write_that_takes_an_epoch_is_among_those_tested() -> None:
    takes_epoch = {
        name
        for name, method in vars(Store).items()
        if not name.startswith("_") and "epoch" in getattr(method, "__annotations__", {})
    }
    assert takes_epoch == set(FENCED_WRITES)


def test_a_column_that_does_not_exist_is_an_error_not_a_silence(store: Store) -> None:
    incident_id, epoch = begun(store)
    for write in (
        lambda: store.update_incident(incident_id, epoch, sevrity="P1"),
        lambda: store.note_world(incident_id, chanel_id="C1"),
    ):
        with pytest.raises(Exception, match="Unconsumed column names"):
            write()


def test_closing_by_a_person_ends_the_run_that_still_works_on_it(store: Store) -> None:
    incident_id, epoch = begun(store)
    closed = store.close_incident(incident_id, who="ada", why="I restarted it by hand")
    assert (closed.status, closed.open_key, store.leases()) == ("closed", None, [])
    assert [(d.who, d.what, d.why) for d in store.decisions(incident_id)] == [
        ("ada", "closed it", "I restarted it by hand")
    ]
    with pytest.raises(StaleEpochError):
        intend(store, incident_id, epoch)
    with pytest.raises(PermanentError, match="closed already"):
        store.close_incident(incident_id, who="bob", why="me too")


def test_a_run_that_comes_back_after_the_incident_was_closed_acts_no_more(store: Store) -> None:
    incident_id, epoch = begun(store)
    intend(store, incident_id, epoch)
    store.close_incident(incident_id, who="ada", why="I restarted it by hand")
    again = store.begin_run(open_incident(store).id, holder="run-1 again", lease_s=30)
    for step_id in ("restart-gw-1", "restart-gw-2"):
        with pytest.raises(StaleEpochError, match="closed"):
            intend(store, incident_id, again, step_id)
    assert len(store.attempts(incident_id)) == 1


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_outcomes_that_close_give_the_place_back(store: Store, outcome: Outcome) -> None:
    incident_id, epoch = begun(store)
    store.end_run(incident_id, epoch, Ending(outcome=outcome, reason="so it ended"))
    row = store.incident(incident_id)
    assert (row.status == "closed", row.open_key is None) == (outcome.closes, outcome.closes)
    assert (row.outcome, row.reason) == (outcome.value, "so it ended")
    assert store.leases() == []
    assert (open_incident(store, "run-2").id == incident_id) is not outcome.closes


# --- phases, evidence, records ------------------------------------------------------------------


def test_a_phase_counts_its_starts_until_it_has_an_outcome(store: Store) -> None:
    incident_id, epoch = begun(store)
    assert [store.begin_phase(incident_id, epoch, "diagnose").starts for _ in range(3)] == [1, 2, 3]
    store.end_phase(incident_id, epoch, "diagnose", {"leading": None})
    again = store.begin_phase(incident_id, epoch, "diagnose")
    assert (again.starts, again.outcome) == (3, {"leading": None})


def test_evidence_gets_unique_rising_ids_from_two_writers_too(store: Store) -> None:
    incident_id, epoch = begun(store)

    def write(host: str) -> list[str]:
        found = [
            store.add_evidence(incident_id, epoch, "diagnose", [seen(host, "k", n), seen(host, "l", n)])
            for n in range(5)
        ]
        return [item.id for pair in found for item in pair]

    per_writer = at_once(lambda: write("gw-1"), lambda: write("gw-2"))
    for ids in per_writer:
        assert ids == sorted(ids, key=lambda name: int(name[1:]))
    kept = [item.id for item in store.dossier(incident_id).evidence]
    assert kept == [f"e{number}" for number in range(1, 21)]
    assert sorted(kept) == sorted(per_writer[0] + per_writer[1])


def test_a_record_is_replaced_by_name(store: Store) -> None:
    incident_id, epoch = begun(store)
    assert store.record(incident_id, "plan") is None
    for steps in (["one"], ["one", "two"]):
        store.keep_record(incident_id, epoch, "plan", {"steps": steps})
    assert store.record(incident_id, "plan") == {"steps": ["one", "two"]}


# --- attempts and decisions ---------------------------------------------------------------------


def test_an_intent_is_written_once_for_a_step_whatever_crashes(store: Store) -> None:
    incident_id, epoch = begun(store)
    first = intend(store, incident_id, epoch)
    later = store.begin_run(incident_id, holder="run-1 again", lease_s=30)
    again = intend(store, incident_id, later)
    assert (again.id, again.epoch, again.intent_at) == (first.id, epoch, first.intent_at)
    ids = {row.id for row in at_once(*[lambda: intend(store, incident_id, later, "x-1") for _ in range(4)])}
    assert len(ids) == 1
    assert len(store.attempts(incident_id)) == 2


def test_an_attempt_is_updated_only_within_its_incident(store: Store) -> None:
    incident_id, epoch = begun(store)
    attempt = intend(store, incident_id, epoch)
    other, other_epoch = begun(store, "run-2", kind=Kind.RISK)
    for wrong in (
        lambda: store.move_attempt(other, other_epoch, attempt.id, AttemptState.ACTED),
        lambda: store.move_attempt(incident_id, epoch, "nonesuch", AttemptState.ACTED),
    ):
        with pytest.raises(PermanentError, match="no attempt"):
            wrong()
    assert [row.state for row in store.attempts(incident_id)] == ["intended"]


def test_budgets_count_all_that_may_have_happened_over_all_incidents_of_the_service(store: Store) -> None:
    ways = {state: (state,) for state in ("intended", "acted", "ended", "unknown", "barred", "not_acted")}
    ways |= {
        "committed": ("ended", "committed"),
        "failed": ("ended", "failed"),
        "undone": ("ended", "failed", "undone"),
    }
    for number, way in enumerate(ways.values()):
        incident_id, epoch = begun(store, f"run-{number}")
        attempt = intend(store, incident_id, epoch)
        for state in way:
            store.move_attempt(incident_id, epoch, attempt.id, AttemptState(state))
        store.close_incident(incident_id, who="ada", why="next")
    elsewhere, epoch = begun(store, "bank", profile=profile(name="bank"))
    intend(store, elsewhere, epoch)
    past = store.past_attempts("shop")
    assert len(past) == 7
    assert {(item.strategy, item.target) for item in past} == {("restart", "gw-1")}
    assert len({item.incident_id for item in past}) == 7
    assert all(item.at.tzinfo is UTC for item in past)


def test_the_same_decision_is_written_once(store: Store) -> None:
    incident_id, _ = begun(store)
    for _ in range(2):
        store.decide(incident_id, who="guardrails", what="refused restart", why="everything is stopped")
    store.decide(incident_id, who="ada", what="refused restart", why="everything is stopped")
    assert [row.who for row in store.decisions(incident_id)] == ["guardrails", "ada"]


# --- the outbox ---------------------------------------------------------------------------------


def due(store: Store, after_s: float = 1) -> list[str]:
    return [row.kind for row in store.due_messages(now() + timedelta(seconds=after_s))]


def claim(store: Store, incident_id: str, lease_s: float = 60) -> Any:
    """The incident's first message, to be sent by us."""
    return store.claim_messages(store.messages(incident_id)[:1], lease_s=lease_s)


def send(store: Store, kind: str, incident_id: str, channel: str = "slack", **more: Any) -> None:
    store.enqueue(incident_id, channel=channel, kind=kind, body={"text": kind}, **more)


def test_only_the_first_waiting_message_of_each_incident_and_channel_is_due(store: Store) -> None:
    one, _ = begun(store)
    two, _ = begun(store, "run-2", kind=Kind.RISK)
    for kind in ("a1", "a2"):
        send(store, kind, one)
    send(store, "p1", one, "pagerduty")
    send(store, "b1", two)
    assert due(store) == ["a1", "p1", "b1"]
    [first] = claim(store, one)
    assert due(store) == ["p1", "b1"]  # while a1 is being sent, a2 does not overtake it
    store.settle_message(first, state="waiting", error="429", retry_at=now() + timedelta(seconds=60))
    assert due(store) == ["p1", "b1"]
    assert due(store, after_s=61) == ["a1", "p1", "b1"]
    [first] = claim(store, one)
    store.settle_message(first, state="sent")
    assert due(store) == ["a2", "p1", "b1"]
    settled = store.messages(one)[0]
    assert (settled.state, settled.tries, settled.error) == ("sent", 2, "")
    assert settled.sent_at is not None


def test_a_message_that_is_given_up_lets_the_next_one_go(store: Store) -> None:
    incident_id, _ = begun(store)
    for kind in ("a1", "a2"):
        send(store, kind, incident_id)
    [first] = claim(store, incident_id)
    store.settle_message(first, state="failed", error="channel_not_found")
    assert due(store) == ["a2"]


def test_a_try_is_counted_before_it_is_begun_and_of_two_keepers_one_has_it(store: Store) -> None:
    incident_id, _ = begun(store)
    send(store, "a1", incident_id)
    [seen] = store.due_messages(now())
    won = at_once(*[lambda: store.claim_messages([seen], lease_s=30)] * 4)
    [[claimed]] = [rows for rows in won if rows]
    [row] = store.messages(incident_id)
    assert (claimed.tries, row.tries, row.state, row.sent_at) == (1, 1, "waiting", None)
    assert timedelta(0) <= now() - row.tried_at < timedelta(seconds=10)
    assert (due(store, after_s=29), due(store, after_s=31)) == ([], ["a1"])


def test_a_claim_is_held_while_it_is_renewed_and_settles_nothing_once_another_has_taken_over(store: Store) -> None:
    incident_id, _ = begun(store)
    send(store, "a1", incident_id)
    [lost] = claim(store, incident_id, lease_s=0)
    store.hold_claims([lost], lease_s=60)
    assert due(store, after_s=30) == []
    store.hold_claims([lost], lease_s=0)
    [taken] = claim(store, incident_id)
    store.settle_message(lost, state="failed", error="it hung")
    store.hold_claims([lost], lease_s=600)
    assert store.messages(incident_id)[0].state == "waiting"
    assert due(store, after_s=61) == ["a1"]
    store.settle_message(taken, state="sent")
    assert [(row.state, row.tries) for row in store.messages(incident_id)] == [("sent", 2)]


def test_a_page_goes_before_notes_that_wait_and_not_before_what_may_resolve_it(store: Store) -> None:
    incident_id, _ = begun(store)
    for kind in ("note", "note", "escalate", "resolve", "page"):
        send(store, kind, incident_id, "pagerduty")
    assert due(store) == ["note", "escalate"]
    for _ in range(2):
        for message in store.due_messages(now()):
            store.settle_message(store.claim_messages([message], lease_s=60)[0], state="sent")
    assert due(store) == ["resolve"]


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.SHADOW])
def test_messages_of_an_incident_that_does_not_act_are_shown_never_sent(store: Store, mode: Mode) -> None:
    incident_id = open_incident(store, mode=mode).id
    send(store, "page", incident_id, "pagerduty")
    assert [row.state for row in store.messages(incident_id)] == ["withheld"]
    assert due(store) == []


def test_a_message_with_a_key_is_put_there_once_by_any_number_of_writers(store: Store) -> None:
    incident_id, _ = begun(store)
    at_once(*[lambda: send(store, "page", incident_id, key="page") for _ in range(6)])
    send(store, "page", incident_id, key="page")
    send(store, "page", incident_id, "email", key="page")
    assert [row.channel for row in store.messages(incident_id)] == ["slack", "email"]


def test_a_message_of_no_incident_is_an_error(store: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        send(store, "page", "nonesuch", key="page")


# --- leases -------------------------------------------------------------------------------------


def test_each_run_that_begins_raises_the_epoch(store: Store) -> None:
    incident_id, first = begun(store)
    second = store.begin_run(incident_id, holder="again", lease_s=30)
    assert (first, second) == (1, 2)
    [(lease, row)] = store.leases()
    assert (lease.holder, row.epoch) == ("again", 2)
    with pytest.raises(PermanentError):
        store.begin_run("nonesuch", holder="x", lease_s=30)


def test_a_lease_is_taken_over_only_when_it_has_lapsed(store: Store) -> None:
    incident_id, epoch = begun(store)
    assert not store.take_over_lease(incident_id, holder="keeper", lease_s=30)
    store.renew_run(incident_id, epoch, lease_s=-1)
    store.renew_run(incident_id, epoch, lease_s=30)
    assert not store.take_over_lease(incident_id, holder="keeper", lease_s=30)
    assert store.incident(incident_id).epoch == epoch
    store.renew_run(incident_id, epoch, lease_s=-1)
    assert store.take_over_lease(incident_id, holder="keeper", lease_s=30)
    with pytest.raises(StaleEpochError):
        store.renew_run(incident_id, epoch, lease_s=30)


def test_of_keepers_that_see_a_lapsed_lease_at_once_exactly_one_takes_it(store: Store) -> None:
    incident_id, epoch = begun(store)
    for number in range(5):
        store.renew_run(incident_id, epoch + number, lease_s=-1)
        took = at_once(
            *[lambda n=n: store.take_over_lease(incident_id, holder=f"keeper-{n}", lease_s=30) for n in range(3)]
        )
        assert sorted(took) == [False, False, True]
        assert store.incident(incident_id).epoch == epoch + number + 1


def test_there_is_no_lease_to_take_before_a_run_begins_and_after_it_ends(store: Store) -> None:
    incident = open_incident(store)
    assert not store.take_over_lease(incident.id, holder="keeper", lease_s=30)
    epoch = store.begin_run(incident.id, holder="run", lease_s=-1)
    store.end_run(incident.id, epoch, Ending(outcome=Outcome.ESCALATED, reason="a person"))
    assert not store.take_over_lease(incident.id, holder="keeper", lease_s=30)


def test_the_lease_knows_the_step_its_deadline_and_the_pages_silence(store: Store) -> None:
    incident_id, epoch = begun(store)
    store.begin_step(incident_id, epoch, "restart shop on gw-1", deadline_s=100)
    until = datetime(2026, 3, 4, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    store.renew_page(incident_id, until)
    [(lease, _)] = store.leases()
    assert lease.step == "restart shop on gw-1"
    assert timedelta(seconds=95) < lease.step_deadline - now() <= timedelta(seconds=100)
    assert lease.page_until == until
    assert lease.page_until.tzinfo is UTC


# --- the stop row, readings, the keeper ---------------------------------------------------------


def test_stop_everything_holds_until_it_is_lifted(store: Store, database: str) -> None:
    assert store.stopped() is None
    store.stop(stopped=True, who="ada", why="the wrong hosts")
    other = Store(database)
    assert other.stopped() is not None
    assert "ada" in (other.stopped() or "")
    assert "the wrong hosts" in (other.stopped() or "")
    other.close()
    store.stop(stopped=True, who="bob", why="still")
    store.stop(stopped=False, who="bob", why="checked")
    assert store.stopped() is None


def test_what_was_unknown_the_last_time_is_known_to_be_unknown(store: Store) -> None:
    store.remember_readings("shop", [("gw-1", "metrics", "unknown"), ("gw-1", "health", "healthy")])
    store.remember_readings("bank", [("gw-1", "health", "unknown")])
    assert store.known_unknowns("shop") == {("gw-1", "metrics")}
    store.remember_readings("shop", [("gw-1", "metrics", "healthy"), ("gw-1", "health", "unknown")])
    assert store.known_unknowns("shop") == {("gw-1", "health")}
    assert store.known_unknowns("nonesuch") == frozenset()


def test_readings_and_heartbeats_may_be_written_by_several_at_once(store: Store) -> None:
    at_once(*[lambda: store.remember_readings("shop", [("gw-1", "metrics", "unknown")]) for _ in range(5)])
    at_once(*[lambda n=n: store.keeper_beats(f"keeper-{n}") for n in range(5)])
    assert store.known_unknowns("shop") == {("gw-1", "metrics")}
    assert store.keeper_alive()


def test_no_keeper_is_alive_before_one_has_been_seen(store: Store) -> None:
    assert not store.keeper_alive()


# --- values -------------------------------------------------------------------------------------


def test_moments_come_back_aware_in_utc_whatever_zone_they_were_given_in(store: Store) -> None:
    incident_id, epoch = begun(store)
    elsewhere = datetime(2026, 3, 4, 20, 30, 15, 123456, tzinfo=timezone(timedelta(hours=8)))
    store.update_incident(incident_id, epoch, resolved_at=elsewhere)
    row = store.incident(incident_id)
    assert row.resolved_at == elsewhere
    assert (row.resolved_at.tzinfo, row.opened_at.tzinfo) == (UTC, UTC)


def test_a_machine_in_another_time_zone_reads_and_writes_the_same_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident_id, epoch = begun(store)
    opened = store.incident(incident_id).opened_at
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        store.update_incident(incident_id, epoch, mitigated_at=datetime(2026, 3, 4, 12, 30))
        assert store.incident(incident_id).opened_at == opened
    time.tzset()
    assert store.incident(incident_id).mitigated_at == datetime(2026, 3, 4, 12, 30, tzinfo=UTC)


HOSTILE = [
    "\x00",
    "\ud800",
    "a\x00b\udfffc",
    "'; DROP TABLE incidents; --",
    "%s {0} {{x}} :name",
    "\x1b[2J",
    "é漢🔥",
]


@pytest.mark.parametrize("nasty", HOSTILE, ids=ascii)
def test_hostile_text_is_kept_everywhere_and_breaks_nothing(store: Store, nasty: str) -> None:
    kept = nasty.replace("\x00", "\ufffd").replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")
    incident_id, epoch = begun(
        store, summary=nasty, alerts=[alert(f"x{nasty}", summary=nasty, labels={nasty: nasty})]
    )
    store.add_evidence(incident_id, epoch, "diagnose", [seen("gw-1", "journal.lines", [nasty, {nasty: nasty}])])
    store.keep_record(incident_id, epoch, "plan", {nasty: [nasty]})
    attempt = intend(store, incident_id, epoch)
    store.move_attempt(
        incident_id, epoch, attempt.id, AttemptState.ENDED, output=nasty, reason=nasty, snapshot={"cmd": nasty}
    )
    store.decide(incident_id, who=nasty, what=nasty, why=nasty)
    store.enqueue(incident_id, channel="slack", kind="note", body={"text": nasty}, key=nasty)
    store.enqueue(incident_id, channel="slack", kind="note", body={"text": nasty}, key=nasty)
    store.begin_step(incident_id, epoch, nasty, deadline_s=9)
    store.stop(stopped=True, who=nasty, why=nasty)

    assert store.incident(incident_id).summary == kept
    [joined] = store.alerts(incident_id)
    assert (joined.name, joined.labels) == (f"x{kept}", {kept: kept})
    assert store.dossier(incident_id).value("gw-1", "journal.lines") == [kept, {kept: kept}]
    assert store.record(incident_id, "plan") == {kept: [kept]}
    assert store.attempts(incident_id)[0].output == kept
    assert store.decisions(incident_id)[0].why == kept
    assert [row.body for row in store.messages(incident_id)] == [{"text": kept}]
    assert kept in (store.stopped() or "")


def test_a_number_that_json_does_not_know_is_kept_as_unknown(store: Store) -> None:
    incident_id, epoch = begun(store)
    store.add_evidence(incident_id, epoch, "diagnose", [seen("gw-1", "metrics.p99_s", float("nan"))])
    store.keep_record(incident_id, epoch, "metrics", {"p99": float("inf"), "deep": [float("nan")]})
    [found] = store.dossier(incident_id).evidence
    assert (found.value, found.unknown) == (None, "the answer was nan, which is no number")
    assert store.record(incident_id, "metrics") == {"p99": None, "deep": [None]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values.filter(lambda value: value is not None))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_evidence_reads_back_as_it_was_written(store: Store, value: Any) -> None:
    incident_id, epoch = begun(store, str(uuid.uuid4()), mode=Mode.DRY_RUN)
    [written] = store.add_evidence(incident_id, epoch, "diagnose", [seen("gw-1", "k", value)])
    assert store.dossier(incident_id).evidence == (written,)


def test_a_severity_that_a_person_set_is_kept_as_the_floor(store: Store) -> None:
    row = open_incident(store, severity=Severity.P2)
    assert (row.severity, row.severity_floor) == (None, "P2")


def test_a_writer_waits_for_another_and_does_not_fail(store: Store) -> None:
    incident_id, epoch = begun(store)

    def hold() -> None:
        with store._fenced(incident_id, epoch) as (_, row):
            row.summary = "held"
            time.sleep(0.3)

    at_once(hold, lambda: store.update_incident(incident_id, epoch, severity="P1"))
    row = store.incident(incident_id)
    assert (row.summary, row.severity) == ("held", "P1")


def test_the_newest_migration_is_the_one_that_counts_as_up_to_date() -> None:
    scripts = ScriptDirectory(str(Path(database_module.__file__).parent / "migrations"))
    assert scripts.get_current_head() == database_module.SCHEMA


def test_nobody_who_writes_without_a_pause_keeps_others_from_writing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/incidents.db"
    store = Store(url)
    store.migrate()
    incident_id, epoch = begun(store)
    restless = in_a_process(
        url,
        f"""
import itertools, time
for number in itertools.count(1):
    with store._fenced({incident_id!r}, {epoch}) as (_, row):
        row.summary = str(number)
        time.sleep(0.003)
""",
    )

    def turns() -> int:
        return int(store.incident(incident_id).summary)

    waited = []
    try:
        while not store.incident(incident_id).summary.isdecimal():
            assert restless.poll() is None, restless.communicate()
            time.sleep(0.01)
        for number in range(60):
            before = turns()
            open_incident(store, f"run-{number}x")
            waited.append(turns() - before)
    finally:
        restless.kill()
        restless.communicate()
        store.close()
    assert max(waited) < 100, sorted(waited)
    assert sum(waited) < 3 * len(waited), sorted(waited)
