"""Who knocks: personal tokens, and a bound on how often one may guess."""

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated
from weakref import WeakValueDictionary

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from responder.store import Store
from responder.store.people import TOKEN_PREFIX

GUESSES = 20
PER_SECOND = 0.5
ADDRESSES = 1_000
SENDER_KNOWN_S = 1.0
"""So long who sends alerts is not asked for again: in a storm that would cost as much as keeping the alerts."""

bearer = HTTPBearer(
    scheme_name="personalToken",
    description="Of `incident token add PERSON`; for alerts alone, of `incident token add --sender NAME`.",
    bearerFormat="incident_…",
    auto_error=False,
)


class Gate:
    """How many wrong tokens an address may still show: 20 at once, then one every two seconds.

    Whoever has shown a right one is let through even so: behind a proxy everybody has the same address, and nobody
    may lock out those on call.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._known: dict[bytes, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._asking: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    def lets_try(self, address: str, token: str) -> bool:
        """Whether a token from this address is looked at."""
        with self._lock:
            return _hashed(token) in self._known or self._guesses(address) >= 1

    def was_right(self, token: str, name: str) -> None:
        """Remember a token that somebody has."""
        with self._lock:
            self._known[_hashed(token)] = (name, self._clock())

    def right_just_now(self, token: str) -> str | None:
        """Whose token it is, if that was found out within the last second."""
        name, since = self._known.get(_hashed(token), (None, 0.0))
        return name if self._clock() - since < SENDER_KNOWN_S else None

    def asking(self, token: str) -> asyncio.Lock:
        """Held by who asks the store about this token."""
        return self._asking.setdefault(_hashed(token), asyncio.Lock())

    def was_wrong(self, address: str, token: str) -> None:
        """Take a guess from the address; of many addresses the longest silent are forgotten."""
        with self._lock:
            self._known.pop(_hashed(token), None)
            self._left[address] = (self._guesses(address) - 1, self._clock())
            self._left.move_to_end(address)
            while len(self._left) > ADDRESSES:
                self._left.popitem(last=False)

    def _guesses(self, address: str) -> float:
        left, since = self._left.get(address, (GUESSES, 0.0))
        return min(left + PER_SECOND * (self._clock() - since), GUESSES)


async def store_of(request: Request) -> Store:
    """The store of the application that was asked."""
    return request.app.state.store  # type: ignore[no-any-return]


Given = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


def person_of(request: Request, store: Annotated[Store, Depends(store_of)], given: Given) -> str:
    """Whose personal token came with the request.

    Raises `HTTPException` 401 for none, an unknown or a revoked one, 429 after too many of those.
    """
    return _known(request, given, store.person_of, busy=429)


async def sender_of(request: Request, given: Given) -> str:
    """Who sends alerts: a token made for that, or a person's. A revoked one is worthless within a second.

    Raises `HTTPException` 401, and 503 after too many wrong ones: what Alertmanager is told with 429, it drops.
    """
    gate: Gate = request.app.state.gate
    token = _shown(given)
    # One asks for all that come with the same token; who guesses holds nobody else up.
    async with gate.asking(token):
        if name := gate.right_just_now(token):
            return name
        return await run_in_threadpool(_known, request, given, request.app.state.store.sender_of, busy=503)


def _known(
    request: Request,
    given: HTTPAuthorizationCredentials | None,
    look: Callable[[str], str | None],
    *,
    busy: int,
) -> str:
    gate: Gate = request.app.state.gate
    address = request.client.host if request.client else ""
    token = _shown(given)
    if token and not gate.lets_try(address, token):
        raise HTTPException(
            busy, "too many wrong tokens; try again in a moment", {"Retry-After": f"{1 / PER_SECOND:g}"}
        )
    name = look(token) if token.startswith(TOKEN_PREFIX) else None
    if name is None:
        if token:
            gate.was_wrong(address, token)
        words = "unknown or revoked" if token else "missing: send `Authorization: Bearer incident_…`"
        raise HTTPException(401, f"the token is {words}", {"WWW-Authenticate": "Bearer"})
    gate.was_right(token, name)
    return name


Person = Annotated[str, Depends(person_of)]
Kept = Annotated[Store, Depends(store_of)]


def _shown(given: HTTPAuthorizationCredentials | None) -> str:
    return given.credentials if given else ""


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
