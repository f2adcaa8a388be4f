"""Who knocks: personal tokens, and a bound on how often one may guess."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from responder.store import Store
from responder.store.people import TOKEN_PREFIX

GUESSES = 20
PER_SECOND = 0.5
ADDRESSES = 1_000

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
        self._known: set[bytes] = set()
        self._lock = threading.Lock()

    def lets_try(self, address: str, token: str) -> bool:
        """Whether a token from this address is looked at."""
        with self._lock:
            return _hashed(token) in self._known or self._guesses(address) >= 1

    def was_right(self, token: str) -> None:
        """Remember a token that somebody has."""
        with self._lock:
            self._known.add(_hashed(token))

    def was_wrong(self, address: str, token: str) -> None:
        """Take a guess from the address; of many addresses the longest silent are forgotten."""
        with self._lock:
            self._known.discard(_hashed(token))
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


def sender_of(request: Request, store: Annotated[Store, Depends(store_of)], given: Given) -> str:
    """Who sends alerts: a token made for that, or a person's.

    Raises `HTTPException` 401, and 503 after too many wrong ones: what Alertmanager is told with 429, it drops.
    """
    return _known(request, given, store.sender_of, busy=503)


def _known(
    request: Request,
    given: HTTPAuthorizationCredentials | None,
    look: Callable[[str], str | None],
    *,
    busy: int,
) -> str:
    gate: Gate = request.app.state.gate
    address = request.client.host if request.client else ""
    token = given.credentials if given else ""
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
    gate.was_right(token)
    return name


Person = Annotated[str, Depends(person_of)]
Kept = Annotated[Store, Depends(store_of)]


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
