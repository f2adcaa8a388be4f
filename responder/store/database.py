"""One database: the engine, the schema, transactions, and the fence that a run's epoch is.

Every write of an incident's run checks its epoch: a run that has been replaced writes nothing more.
"""

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from responder.domain.base import storable
from responder.domain.errors import NotFoundError, StaleEpochError
from responder.store.bell import Bell
from responder.store.tables import IncidentRow

SCHEMA = "0004"  # the newest migration
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 7_402_113  # any number; PostgreSQL's advisory lock, so that two starts do not collide
_OVERTAKEN_AT_MOST = 5
SQLITE_BUSY_S = 30.0
"""How long SQLite is waited for while somebody else writes; then `sqlalchemy.exc.OperationalError`."""
_LOOK_AGAIN_S = (0.0005, 0.003)
_LEFT_TO_OTHERS_S = 0.01

P = ParamSpec("P")
R = TypeVar("R")


def finds_what_overtook_it(method: Callable[P, R]) -> Callable[P, R]:
    """Run `method` again when another writer put the same row there first: now it is found.

    A violation that repeating does not cure is raised.
    """

    @wraps(method)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(_OVERTAKEN_AT_MOST - 1):
            try:
                return method(*args, **kwargs)
            except IntegrityError:
                continue
        return method(*args, **kwargs)

    return repeated


class Database:
    """A database with our schema.

    `url` is SQLAlchemy's; `sqlite:///FILE` and `postgresql+psycopg://…` are supported. Methods open a
    transaction of their own and return detached rows, which are read and never written.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.bell = Bell(url)

    def migrate(self) -> None:
        """Bring the schema up to date; safe to call from several processes at once."""
        with self.engine.connect() as connection:
            if inspect(connection).has_table("alembic_version"):
                found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
                if found == SCHEMA:
                    return
        # Loading Alembic costs a run's start a good part of a second, and hardly any run has to migrate.
        from alembic import command
        from alembic.config import Config

        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
        self.bell.ring()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        """A transaction that writes nothing, and so waits for no writer."""
        reading = self.engine.execution_options(reading=True)
        with Session(reading, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _fenced(self, incident_id: str, epoch: int) -> Iterator[tuple[Session, IncidentRow]]:
        """A transaction that only the incident's current run may write in."""
        with self._session() as session:
            row = locked(session, incident_id)
            if row.epoch != epoch:
                raise StaleEpochError(
                    f"incident {incident_id} was taken up by another run (epoch {row.epoch}, this is {epoch})"
                )
            yield session, row

    def _alone(self, session: Session, what: str) -> None:
        """Let no other transaction that asks for the same `what` go on until this one has ended."""
        if self.engine.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
            session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:what))"), {"what": what})


def new_id() -> str:
    """Twelve random hexadecimal digits."""
    return uuid.uuid4().hex[:12]


def _engine(url: str) -> Engine:
    dumps: dict[str, Any] = {
        "json_serializer": lambda value: json.dumps(storable(value), ensure_ascii=False, allow_nan=False)
    }
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, **dumps)
    # As many as a storm of alerts uses at once: beyond the pool a connection is opened anew for every question.
    engine = create_engine(url, pool_size=20, **dumps)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        busy = f"busy_timeout={SQLITE_BUSY_S * 1000:.0f}"
        for pragma in (busy, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    others_until = 0.0

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that reads before it writes can be refused in the middle; this one waits.
        if connection.get_execution_options().get("reading"):
            connection.exec_driver_sql("BEGIN")
            return
        time.sleep(max(0.0, others_until - time.monotonic()))
        _begin_writing(connection)
        connection.info["began"] = time.monotonic()

    @event.listens_for(engine, "commit")
    @event.listens_for(engine, "rollback")
    def _ended(connection: Connection) -> None:
        # Whoever has written leaves the others as long, and looks again no sooner than they do.
        nonlocal others_until
        if began := connection.info.pop("began", None):
            ended = time.monotonic()
            others_until = ended + min(max(ended - began, _LOOK_AGAIN_S[1]), _LEFT_TO_OTHERS_S)

    return engine


def _begin_writing(connection: Connection) -> None:
    """Wait for SQLite's one writer to end.

    SQLite's own waiting sleeps up to a tenth of a second between two looks, and never meets the gaps that somebody
    who writes without a pause leaves: an alert that was to be kept waited for seconds.
    """
    until = time.monotonic() + SQLITE_BUSY_S
    connection.exec_driver_sql("PRAGMA busy_timeout=0").close()
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                busy = getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY")
                if not busy or time.monotonic() > until:
                    raise
            time.sleep(random.uniform(*_LOOK_AGAIN_S))  # noqa: S311 - so that those who wait do not march in step
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={SQLITE_BUSY_S * 1000:.0f}").close()


def locked(session: Session, incident_id: str) -> IncidentRow:
    """The incident's row, held until the transaction ends. Raises `NotFoundError`."""
    row = session.get(IncidentRow, incident_id, with_for_update=True)
    if row is None:
        raise NotFoundError(f"there is no incident {incident_id}; `incident list` shows them")
    return row
