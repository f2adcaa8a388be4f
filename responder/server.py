"""Prefect's command line (`python -m responder.server server start …`), with one thing changed for SQLite.

Prefect begins most transactions on SQLite as readers. One that reads first and writes then fails at once with
"database is locked" when another has written meanwhile, however long it was ready to wait, and the client is
answered 503: now and then at rest, and again and again while several incidents run. Here they wait for each other.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from prefect.cli import app
from prefect.server.api.server import SQLITE_LOCKED_MSG
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


class WritersTakeTurns(AioSqliteConfiguration):
    """SQLite, with every transaction begun as one that writes (`BEGIN IMMEDIATE`), in the order they come.

    Prefect lets the configuration of its database be replaced (`prefect.server.database.dependencies`). The turns
    are among the transactions of this process; for other processes' SQLite waits. Both wait 60 s at most, as
    Prefect sets it: were two ever to wait for each other, that would end.
    """

    def __init__(self, connection_url: str, patience_s: float = 60) -> None:
        super().__init__(connection_url=connection_url)
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self._holder: object = None
        self._mine: ContextVar[object] = ContextVar("the turn that this task, or who began it, has taken")

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Wait for who writes, then begin to write. Within a transaction another one begins as Prefect says."""
        if self._holder and self._mine.get(None) is self._holder:
            async with super().begin_transaction(session, with_for_update) as transaction:
                yield transaction
            return
        async with self._a_turn(), super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction

    @asynccontextmanager
    async def _a_turn(self) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turn.acquire()
        except TimeoutError:
            busy = sqlite3.OperationalError(SQLITE_LOCKED_MSG)
            raise OperationalError("BEGIN IMMEDIATE", None, busy) from None  # the client is told to come again
        self._holder = turn = object()
        token = self._mine.set(turn)
        try:
            yield
        finally:
            self._holder = None
            self._turn.release()
            self._mine.reset(token)


def main() -> None:
    """Run the command that this process was started with."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if make_url(url).get_backend_name() == "sqlite":
        MODELS_DEPENDENCIES["database_config"] = WritersTakeTurns(url)
    app()


if __name__ == "__main__":
    main()
