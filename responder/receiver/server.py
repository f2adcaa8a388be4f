"""The HTTP door under uvicorn."""

import socket
from collections.abc import Callable
from contextlib import closing

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
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        door = socket.create_server((host, port), family=family)
    except OSError as error:
        raise PermanentError(
            f"port {port} on {host} cannot be used ({error.strerror or error}); stop what listens there, or name "
            "another one"
        ) from error
    with door, closing(open_store()) as store:
        listening()
        server_of(store).run(sockets=[door])


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
