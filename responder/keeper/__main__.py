"""`python -m responder.keeper`: run the keeper until it is told to end."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable

from responder.domain.logs import clean_logs
from responder.domain.notices import SITE_TEMPLATES
from responder.domain.redaction import pattern_problems
from responder.domain.site_templates import template_problems
from responder.keeper.access import Access
from responder.keeper.backups import Backups
from responder.keeper.clocks import Clock, answer_forms
from responder.keeper.decisions import DecisionNotes
from responder.keeper.leases import keep_pages_quiet
from responder.keeper.outbox import Outbox
from responder.keeper.runs import take_up_lapsed_runs
from responder.keeper.updates import keep_updates
from responder.store import open_store

TICK_S = 0.5
BEAT_S = 2.0
ENDINGS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("keeper")


def main() -> None:
    """Do every duty again and again, each in a thread of its own: one that waits or fails delays no other."""
    clean_logs()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Waited for, not handled: a handler that sets the event stands still for ever when the signal comes while
    # the main thread holds the event's lock. Threads inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    ended = threading.Event()

    if folder := os.environ.get(SITE_TEMPLATES):
        for problem in template_problems(folder):
            log.error("%s; the shipped template is used", problem)
    for problem in pattern_problems():
        log.error("%s", problem)
    store, access = open_store(), Access()
    outbox, backups, notes = Outbox(store, access), Backups(store, access), DecisionNotes(store)
    holder = f"keeper:{socket.gethostname()}:{os.getpid()}"
    duties: tuple[Callable[[], None], ...] = (
        outbox.send_due,
        lambda: keep_pages_quiet(store, access),
        lambda: take_up_lapsed_runs(store, holder),
        lambda: answer_forms(store),
        lambda: keep_updates(store, access),
        backups.ask_due,
        notes.write_due,
    )
    log.info("keeping promises as %s", holder)
    store.keeper_beats(holder)
    for duty in duties:
        threading.Thread(target=_repeat, args=(duty, ended), daemon=True).start()
    clock = Clock()
    while signal.sigtimedwait(ENDINGS, BEAT_S) is None:
        _do(lambda: store.keeper_beats(holder, clock_jump_s=clock.jump_s()))
    ended.set()
    outbox.close()


def _repeat(duty: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(TICK_S):
        _do(duty)


def _do(duty: Callable[[], None]) -> None:
    try:
        duty()
    except Exception:
        log.exception("a duty failed; it is tried again")


if __name__ == "__main__":
    main()
