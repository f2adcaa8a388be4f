"""When a task may be tried again, and what is waited for instead of giving an incident up."""

import asyncio
import errno
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import httpx
from sqlalchemy.exc import OperationalError

from responder.domain.errors import TransientError

AWAY_POLL_S = 1.0
Found = TypeVar("Found")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BUSY = frozenset({408, 429})


def transient_only(task: Any, run: Any, state: Any) -> bool:  # noqa: ARG001 - Prefect calls it so
    """Only errors that changed nothing and may pass. A plain function: Prefect ignores any other callable."""
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, it is not worth a retry
        return False
    return False


@overload
async def outlast(what: Callable[[], Awaitable[Found]]) -> Found: ...
@overload
async def outlast(what: Callable[[], Found]) -> Found: ...
async def outlast(what: Callable[[], Any]) -> Any:
    """What `what()` returns, begun anew for as long as Prefect's server or the store is away.

    Only for what may be interrupted anywhere and repeated, like a phase: to it this is one more crash. There is no
    deadline: meanwhile the page's lease lapses, and people are called.
    """
    while True:
        try:
            found = what()
            return await found if inspect.isawaitable(found) else found
        except Exception as error:
            if not is_away(error):
                raise
            logging.getLogger(__name__).warning("It waits for what does not answer: %s", error)
            await asyncio.sleep(AWAY_POLL_S)


def is_away(error: BaseException | None) -> bool:
    """Whether it was Prefect's server or the store that failed, which says nothing of the incident.

    Every other system's errors are turned into ours by its block. A store is away, too, that another process has
    locked, or whose disk is full.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error or error.response.status_code in _BUSY
    if type(error) is RuntimeError:  # "Failed to reach API": Prefect's check of versions, once for each process
        return is_away(error.__cause__)
    return isinstance(error, httpx.TransportError | OperationalError) or (
        isinstance(error, OSError) and error.errno in _FULL
    )
