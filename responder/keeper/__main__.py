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
from responder.keeper.audit import Auditor
from responder.keeper.backups import Backups
from responder.keeper.clocks import Clock, answer_forms
from responder.keeper.crashes import CrashDetection
from responder.keeper.deadman import Duty, dead_man
from responder.keeper.decisions import DecisionNotes
from responder.keeper.dispatch import begin_runs, page_queued, take_in_alerts
from responder.keeper.leases import keep_pages_quiet
from responder.keeper.outbox import Outbox
from responder.keeper.runs import CrashedRuns, take_up_lapsed_runs
from responder.keeper.updates import keep_updates
from responder.store import open_store

TICK_S = 0.5
SOON_S = 0.2
"""What an alert waits for: each of these is a query that mostly finds nothing."""
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
    clock = Clock()
    alive = Duty(lambda: store.keeper_beats(holder, clock_jump_s=clock.jump_s()))
    soon: tuple[Callable[[], None], ...] = (
        lambda: take_in_alerts(store, access),
        lambda: begin_runs(store),
        outbox.send_due,
    )
    often: tuple[Callable[[], None], ...] = (
        lambda: page_queued(store),
        lambda: keep_pages_quiet(store, access),
        lambda: take_up_lapsed_runs(store, holder),
        CrashedRuns(store).mend_due,
        lambda: answer_forms(store),
        lambda: keep_updates(store, access),
        backups.ask_due,
        notes.write_due,
        CrashDetection().ensure,
        Auditor(store, access).look,
    )
    duties = [(Duty(do), SOON_S) for do in soon] + [(Duty(do), TICK_S) for do in often]
    if switch := dead_man([alive, *(duty for duty, _ in duties)]):
        duties.append((Duty(switch.beat), TICK_S))
    log.info("keeping promises as %s", holder)
    store.keeper_beats(holder)
    for duty, tick_s in duties:
        threading.Thread(target=_repeat, args=(duty, tick_s, ended), daemon=True).start()
    while signal.sigtimedwait(ENDINGS, BEAT_S) is None:
        alive.do()
    ended.set()
    outbox.close()


def _repeat(duty: Duty, tick_s: float, ended: threading.Event) -> None:
    while not ended.wait(tick_s):
        duty.do()


if __name__ == "__main__":
    main()
