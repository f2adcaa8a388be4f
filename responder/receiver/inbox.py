"""Alerts on their way into the store: what comes together is written together, and answered when it is safe."""

import asyncio
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool

from responder.domain.errors import TransientError
from responder.domain.webhooks import Signal
from responder.store import Store

MOST_WAITING = 20_000
MOST_AT_ONCE = 2_000


class Inbox:
    """Writes all that waits in one transaction, then all that came meanwhile: a disk syncs some hundred times a
    second, a storm has more.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Sequence[Signal], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, signals: Sequence[Signal]) -> None:
        """Return when the signals are in the store. Raises `TransientError` when too many wait."""
        if sum(len(each) for each, _ in self._waiting) > MOST_WAITING:
            raise TransientError("more alerts wait than can be kept; send them again", retry_after_s=1.0)
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((signals, kept))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(kept)

    async def _write(self) -> None:
        while self._waiting:
            batch = self._next()
            try:
                await run_in_threadpool(
                    self._store.receive, [signal for signals, _ in batch for signal in signals]
                )
            except Exception as error:  # noqa: BLE001 - each of those who wait is told
                failed: Exception | None = error
            else:
                failed = None
            for _, kept in batch:
                if kept.cancelled():
                    continue
                if failed:
                    kept.set_exception(failed)
                else:
                    kept.set_result(None)

    def _next(self) -> list[tuple[Sequence[Signal], "asyncio.Future[None]"]]:
        count, size = 0, 0
        while count < len(self._waiting) and (size < MOST_AT_ONCE or count == 0):
            size += len(self._waiting[count][0])
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch
