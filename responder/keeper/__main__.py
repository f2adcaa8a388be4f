"""`python -m responder.keeper`: run the keeper until it is told to end."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable

from responder.keeper.access import Access
from responder.keeper.clocks import answer_overdue_forms
from responder.keeper.leases import keep_pages_quiet
from responder.keeper.outbox import send_due_messages
from responder.keeper.runs import take_up_lapsed_runs
from responder.store import open_store

TICK_S = 0.5
BEAT_EVERY = 5


def main() -> None:
    """Do every duty once a tick. A duty that fails is logged and tried again; none stops another."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    log = logging.getLogger("keeper")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    store, access = open_store(), Access()
    holder = f"keeper:{socket.gethostname()}:{os.getpid()}"
    duties: tuple[Callable[[], None], ...] = (
        lambda: send_due_messages(store, access),
        lambda: keep_pages_quiet(store, access),
        lambda: take_up_lapsed_runs(store, holder),
        lambda: answer_overdue_forms(store),
    )
    log.info("keeping promises as %s", holder)
    beat = 0
    while not ended.wait(TICK_S):
        for duty in duties:
            try:
                duty()
            except Exception:
                log.exception("a duty failed; it is tried again")
        if beat % BEAT_EVERY == 0:
            store.keeper_beats(holder)
        beat += 1


if __name__ == "__main__":
    main()
