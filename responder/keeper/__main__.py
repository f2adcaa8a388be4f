"""`python -m responder.keeper`: run the keeper until it is told to end."""

import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

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
from responder.keeper.runs import LostRuns, take_up_lapsed_runs
from responder.keeper.updates import keep_updates
from responder.store import open_store
from responder.store.bell import Bell

TICK_S = 0.5
PAUSE_S = 0.2
"""Between two looks for what was committed: in a storm each look finds many."""
BEAT_S = 2.0
END_S = 10.0
"""What is being done or sent is waited for so long; whoever told us to end kills us a little later."""
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
        LostRuns(store).mend_due,
        lambda: answer_forms(store),
        lambda: keep_updates(store, access),
        backups.ask_due,
        notes.write_due,
        CrashDetection().ensure,
        Auditor(store, access).look,
    )
    rung = {Duty(do): threading.Event() for do in soon}
    duties = [Duty(do) for do in often]
    if switch := dead_man([alive, *rung, *duties]):
        duties.append(Duty(switch.beat))
    log.info("keeping promises as %s", holder)
    store.keeper_beats(holder)
    loops: list[tuple[Any, ...]] = [(repeat_soon, duty, bell, ended) for duty, bell in rung.items()]
    loops += [(_repeat, duty, ended) for duty in duties]
    gc.freeze()  # looking through all that is loaded for garbage stops everything, also while the store is locked
    threading.Thread(target=_hear, args=(store.bell, rung.values()), daemon=True).start()
    threads = [threading.Thread(target=loop, args=arguments, daemon=True) for loop, *arguments in loops]
    for thread in threads:
        thread.start()
    while signal.sigtimedwait(ENDINGS, BEAT_S) is None:
        alive.do()
    ended.set()
    deadline = time.monotonic() + END_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    outbox.close(max(0.0, deadline - time.monotonic()))
    # Not by Python's own end, which runs OpenSSL's beside threads that still use it: a segmentation fault.
    logging.shutdown()
    os._exit(0)


def repeat_soon(duty: Duty, rung: threading.Event, ended: threading.Event, tick_s: float = TICK_S) -> None:
    """Do it as soon as something was committed, and every `tick_s` for what was not heard."""
    while not ended.is_set():
        heard = rung.wait(tick_s)
        rung.clear()
        duty.do()
        if heard:
            ended.wait(PAUSE_S)


def _repeat(duty: Duty, ended: threading.Event) -> None:
    while not ended.wait(TICK_S):
        duty.do()


def _hear(bell: Bell, rung: Collection[threading.Event]) -> None:
    ears = bell.listen()
    if ears is None:
        log.info("another keeper here hears what is committed: looking every %g s instead", TICK_S)
        return
    while True:
        ears.recv(1)
        for each in rung:
            each.set()


if __name__ == "__main__":
    main()
