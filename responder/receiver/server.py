"""The HTTP door under uvicorn."""

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import uvicorn

from responder.domain.errors import PermanentError
from responder.receiver.app import create_app
from responder.store import Store, open_store

CONNECTIONS = 100
END_S = 5


def serve(host: str, port: int, *, listening: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; `listening` is called once connections are taken.

    Raises `PermanentError` when the port cannot be used.
    """
    with closing(open_store()) as store:
        server = server_of(store)
        server.config.load()
        asyncio.run(_warm_up(server.config.loaded_app))
        gc.freeze()  # looking through all that is loaded for garbage stops everything for 100 ms
        # Only now: whoever connects before that waits for all of it, and in a storm those are many.
        with listen(host, port) as door:
            listening()
            server.run(sockets=[door])


def listen(host: str, port: int) -> socket.socket:
    """The socket of the door. Raises `PermanentError` when the port cannot be used."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        door = socket.create_server((host, port), family=family)
    except OSError as error:
        raise PermanentError(
            f"port {port} on {host} cannot be used ({error.strerror or error}); stop what listens there, or name "
            "another one"
        ) from error
    # Inherited by each connection. asyncio sets it only where a socket names its protocol, which this one does
    # not, and each answer waited 40 ms for an acknowledgement that the other side delays.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door


async def _warm_up(app: Any) -> None:
    """Ask as somebody who has no token: what is made for the first request, for 100 ms, is made for that one."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as nobody:
        await nobody.post("/alerts/alertmanager", json={})


def server_of(store: Store) -> uvicorn.Server:
    """The door to this store, with its bounds, to be run on a socket."""
    config = uvicorn.Config(
        create_app(store),
        http="h11",  # bounds the headers to 16 KiB
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=END_S,
    )
    return uvicorn.Server(config)
