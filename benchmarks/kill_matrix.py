"""Kills at every step boundary of every strategy, counted by the hosts that were acted on.

Each incident is played on a lab of its own; at the moment that is named its flow's process, the worker, the
keeper, Prefect's server or its connections are killed, and what is left behind at its end is compared with the
same incident left in peace. `python -m benchmarks.kill_matrix [--json] [--only WORD]`.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from responder.installation import Installation, adopt

if TYPE_CHECKING:  # both bring Prefect, which takes its settings when it is imported: not before the installation
    from responder.lab.scenario import Scenario
    from tests.stories import End, Story

AIM_KILLS = 100
SERVER_GONE_S = 30.0  # five minutes, at a tenth like every clock here
Moment = Callable[["Story"], bool]
ACTS = "command -v setsid"
LOOKS = "who -u"


@dataclass(frozen=True)
class Case:
    """One incident that is interfered with. `clean`: it must end as if nothing had happened."""

    scenario: str
    point: str
    who: str
    kills: int
    clean: bool


# --- moments ------------------------------------------------------------------------------------------------


def stored(phase: str = "", *, ended: bool = False, attempt: str = "", asked: bool = False) -> Moment:
    """Whether the store has come so far: a phase begun or ended, an attempt's state, or a question."""

    def reached(story: "Story") -> bool:
        row = story.store.incident_of_run(story.run_id)
        if row is None:
            return False
        if asked:
            return bool(story.store.questions(row.id))
        if attempt:
            return attempt in [each.state for each in story.store.attempts(row.id)]
        found = [each for each in story.store.phases(row.id) if each.name.partition(":")[0] == phase]
        return any(each.outcome is not None or not ended for each in found) if phase else True

    return reached


BOUNDARIES: Mapping[str, tuple[Moment, bool]] = {
    # name: (when, whether the kill lies before the intent or after the recorded outcome)
    "opened": (stored(), True),
    "triage begun": (stored("detect_and_triage"), True),
    "triage ended": (stored("detect_and_triage", ended=True), True),
    "diagnosis begun": (stored("diagnose"), True),
    "diagnosis ended": (stored("diagnose", ended=True), True),
    "mitigation begun": (stored("mitigate"), True),
    "intended": (stored(attempt="intended"), False),
    "acted": (stored(attempt="acted"), False),
    "ended": (stored(attempt="ended"), True),
    "verification begun": (stored("verify"), True),
    "verified": (stored("verify", ended=True), True),
    "confirming": (stored("resolve"), True),
    "confirmed": (stored("resolve", ended=True), True),
    "post-mortem begun": (stored("post_incident"), True),
}
HELD = ("command lost", "command late", "acted, answer lost")


def until(story: "Story", reached: Moment) -> bool:
    """Wait for the moment; False when the incident ended before it came."""
    from tests.lab_runs import PATIENCE_S

    deadline = time.monotonic() + PATIENCE_S
    while not reached(story):
        row = story.store.incident_of_run(story.run_id)
        if (row is not None and row.outcome is not None) or time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# --- stories ------------------------------------------------------------------------------------------------


def in_peace(story: "Story") -> None:
    """Nothing happens to it."""
    with answered(story):
        story.start()
        ended(story)


def killed_at(points: Iterable[str], story: "Story") -> None:
    """The flow's process is killed at each of these boundaries, whichever process it is by then."""
    with answered(story):
        story.start()
        dead = 0
        for point in points:
            if until(story, BOUNDARIES[point][0]):
                dead = process_of(story, dead)
                shoot(story, dead)
        ended(story)


def killed_while_held(how: str, story: "Story") -> None:
    """The flow's process is killed while its command waits on the host, and the command's fate is decided then."""
    with answered(story):
        hold = story.host.hold(ACTS, "after" if how == "acted, answer lost" else "before", most=1)
        story.start()
        story.until(ACTS, "ended" if how == "acted, answer lost" else "received")
        shoot(story, process_of(story))
        if how == "command late":
            story.until(ACTS, "ended")  # the run that came back has acted
        hold.release(run=how == "command late")
        ended(story)


def killed_while_paused(who: Callable[[], None] | None, story: "Story") -> None:
    """While a person is waited for the flow's process is killed, or what `who` kills; then the person answers."""
    story.start()
    until(story, stored(asked=True))
    if who is None:
        shoot(story, process_of(story))
    else:
        who()
        story.seen["kills"] = 1
    with answered(story):
        ended(story)


def cut_off(side: str, matching: str, when: str, story: "Story") -> None:
    """The connection breaks in the middle of a command, seen from the server's or from the client's side."""
    with answered(story):
        if side == "server":
            story.host.ask("cut", match=matching, when=when)
            story.start()
            story.until(matching, "dropped" if when == "before" else "received")
            time.sleep(0.2)  # a cut that comes after the command is decided just after it was received
            story.host.ask("cut", match=None)
            story.seen["kills"] = 1
        else:
            hold = story.host.hold(matching, when, most=1)
            story.start()
            story.until(matching, "ended" if when == "after" else "received")
            story.seen["kills"] = int(story.cut_its_connections() > 0)
            hold.release()
        ended(story)


def while_acting(then: Callable[[], None], story: "Story") -> None:
    """`then` happens while a change has been made on the host and its answer is on the way."""
    with answered(story):
        hold = story.host.hold(ACTS, "after", most=1)
        story.start()
        story.until(ACTS, "ended")
        then()
        story.seen["kills"] = 1
        hold.release()
        ended(story)


def from_the_ui(state: str, story: "Story") -> None:
    """A person cancels, pauses, or retries the run in Prefect's UI while it looks before acting."""
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry, Cancelling, Suspended

    states = {"cancel": Cancelling, "pause": Suspended, "retry": AwaitingRetry}
    with answered(story):
        story.start()
        until(story, stored("mitigate"))
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(uuid_of(story), states[state](), force=True)
        ended(story)


def shoot(story: "Story", pid: int) -> None:
    """SIGKILL to the flow's process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it was over a moment before
        return
    story.seen["kills"] = int(str(story.seen.get("kills", 0))) + 1


def process_of(story: "Story", but: int = 0) -> int:
    """The process that holds the run's lease."""
    return story.process(but=but)


def uuid_of(story: "Story") -> Any:
    """The run's id as Prefect has it."""
    from uuid import UUID

    return UUID(story.run_id)


@contextmanager
def answered(story: "Story") -> Iterator[None]:
    """A person says yes to whatever the run asks."""
    from responder.domain.approval import Answer, Decision
    from responder.domain.errors import PermanentError

    over = threading.Event()

    def answer() -> None:
        while not over.wait(0.5):
            row = story.store.incident_of_run(story.run_id) if story.run_id else None
            for asked in story.store.questions(row.id) if row and row.outcome is None else ():
                if asked.decided is None:
                    yes = Answer(decision=Decision.APPROVE, by="Ann", why="the matrix says so")
                    try:
                        story.store.answer(row.id, asked.question.digest, yes)  # type: ignore[union-attr]
                    except PermanentError as error:  # it ended, or asks something else by now
                        print(f"not answered: {error}", file=sys.stderr)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ended(story: "Story") -> None:
    """Wait until the incident has an outcome and everything about it is told."""
    from tests.lab_runs import wait_ended

    wait_ended(story.store, story.run_id)


# --- the matrix ---------------------------------------------------------------------------------------------


def scenarios() -> dict[str, "str | Scenario"]:
    """One for each strategy, one for an undo, and one that is waited out."""
    from responder.lab.scenario import load_scenario

    capacity = load_scenario("capacity")
    [overload] = capacity.faults
    hopeless = capacity.model_copy(
        update={"name": "scale-undone", "faults": (overload.model_copy(update={"needs": 40}),)}
    )
    return {
        "restart": "process-crash",
        "rollback": "bad-release",
        "scale": "capacity",
        "config": "broken-configuration",
        "failover": "lost-primary",
        "undo": hopeless,
    }


def matrix(only: str) -> list[tuple[Case, Callable[["Story"], None]]]:
    """Every case that one process' death, or a cut connection, makes; with the story that plays it."""
    cases: list[tuple[Case, Callable[[Story], None]]] = []
    for name in scenarios():
        for point, (_, clean) in BOUNDARIES.items():
            cases.append((Case(name, point, "flow", 1, clean), partial(killed_at, (point,))))
        for how in HELD:
            cases.append((Case(name, how, "flow", 1, clean=False), partial(killed_while_held, how)))
        for side in ("server", "client"):
            for matching, when in ((ACTS, "before"), (ACTS, "after"), (LOOKS, "before")):
                what = "the act" if matching == ACTS else "a look"
                story = partial(cut_off, side, matching, when)
                cases.append((Case(name, f"{when} {what}", f"connection, {side}", 1, clean=False), story))
    pairs = (("diagnosis begun", "acted"), ("intended", "verification begun"), ("mitigation begun", "confirming"))
    for name in ("restart", "scale", "failover"):
        for pair in pairs:
            cases.append((Case(name, " and ".join(pair), "flow, twice", 2, clean=False), partial(killed_at, pair)))
    cases.append((Case("failover", "paused", "flow", 1, clean=True), partial(killed_while_paused, None)))
    for state in ("cancel", "pause", "retry"):
        cases.append(
            (Case("restart", "mitigation begun", f"{state} in the UI", 0, False), partial(from_the_ui, state))
        )
    return [each for each in cases if only in f"{each[0].scenario}: {each[0].point}: {each[0].who}"]


def shared(installation: Installation, only: str) -> list[tuple[Case, Callable[["Story"], None]]]:
    """The cases in which something dies that all incidents share: one at a time."""

    def dies(name: str, start: Callable[[], None], gone_s: float = 0.0) -> Callable[[], None]:
        def kill() -> None:
            child = installation.child(name)
            child.kill()
            child.wait()
            time.sleep(gone_s)
            start()

        return kill

    victims = {
        "keeper": dies("keeper", installation.start_keeper),
        "worker": dies("worker", installation.start_worker),
        "server": dies("server", installation.start_server),
        f"server, for {SERVER_GONE_S:g} s": dies("server", installation.start_server, SERVER_GONE_S),
    }
    cases: list[tuple[Case, Callable[[Story], None]]] = []
    for who, kill in victims.items():
        for name in ("restart", "scale"):
            cases.append((Case(name, "while acting", who, 1, clean=False), partial(while_acting, kill)))
        paused = partial(killed_while_paused, kill)
        cases.append((Case("failover", "paused", who, 1, clean=False), paused))
    return [each for each in cases if only in f"{each[0].scenario}: {each[0].point}: {each[0].who}"]


# --- judging ------------------------------------------------------------------------------------------------


def judged(case: Case, end: "End | BaseException", peace: "End") -> dict[str, Any]:
    """What became of one case, against the same incident left in peace."""
    row: dict[str, Any] = {"scenario": case.scenario, "point": case.point, "who": case.who}
    if isinstance(end, BaseException):
        return row | {
            "kills": 0,
            "doubled": 0,
            "lost": 1,
            "orphaned": 0,
            "clean": False,
            "outcome": repr(end)[:300],
        }
    expected, found = Counter(a.verb for a in peace.actions), Counter(a.verb for a in end.actions)
    unsaid = [message for message in end.messages if message.state not in ("sent", "skipped", "draft", "withheld")]
    settled = [each.state for each in end.attempts if each.state in ("intended", "acted", "ended")]
    return row | {
        "kills": int(str(end.seen.get("kills", 0))),
        "doubled": sum((found - expected).values()),
        "lost": len(unsaid) + len(settled) + (end.row.outcome is None),
        "orphaned": int(end.page == "acknowledged"),
        "clean": not case.clean or (end.row.outcome, end.state) == (peace.row.outcome, peace.state),
        "outcome": f"{end.row.outcome}: {end.row.reason}"[:300],
        "resolved": end.row.outcome == peace.row.outcome,
    }


def play_cases(
    cases: list[tuple[Case, Callable[["Story"], None]]], folder: Path, *, at_once: bool
) -> dict[str, "Future[End]"]:
    """Play them all, four at a time or one after the other."""
    from tests.stories import patient, play, play_all

    known = scenarios()
    stories = {
        f"{case.scenario}: {case.point}: {case.who}": partial(
            play, story, folder, scenario=known[case.scenario], profile=patient
        )
        for case, story in cases
    }
    if at_once:
        return play_all(stories)
    futures: dict[str, Future[End]] = {}
    for name, story in stories.items():
        # In this thread: what an installation starts again dies with the thread that started it.
        futures[name] = future = Future()
        try:
            future.set_result(story())
        except Exception as error:  # noqa: BLE001 - it is one row of the table
            future.set_exception(error)
    return futures


def main() -> int:
    """Play the matrix, print it, and return 0 when nothing was doubled, lost or orphaned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--only", default="", help="only the cases whose name has this in it")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="incident-kills-"))
    with Installation(folder / "home") as installation:
        adopt(installation.environment)
        cases, together = matrix(options.only), shared(installation, options.only)
        names = dict.fromkeys(case.scenario for case, _ in (*cases, *together))
        quiet = [(Case(name, "nowhere", "nobody", 0, clean=True), in_peace) for name in names]
        peace = {
            name.partition(":")[0]: future.result()
            for name, future in play_cases(quiet, folder, at_once=True).items()
        }
        ends = play_cases(cases, folder, at_once=True) | play_cases(together, folder, at_once=False)
        rows = []
        for case, _ in (*cases, *together):
            future = ends[f"{case.scenario}: {case.point}: {case.who}"]
            rows.append(judged(case, future.exception() or future.result(), peace[case.scenario]))
    document = summary(rows, whole=not options.only)
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)
    return 0 if document["ok"] else 1


def summary(rows: list[dict[str, Any]], *, whole: bool) -> dict[str, Any]:
    """The figures, the aim, and every case."""
    sums = {name: sum(row[name] for row in rows) for name in ("kills", "doubled", "lost", "orphaned")}
    unclean = [row for row in rows if not row["clean"]]
    return {
        "kills": sums["kills"],
        "doubled": sums["doubled"],
        "lost": sums["lost"],
        "orphaned_pages": sums["orphaned"],
        "resolved_share": round(sum(bool(row.get("resolved")) for row in rows) / max(len(rows), 1), 3),
        "not_as_if_nothing_had_happened": len(unclean),
        "aim": {"kills": AIM_KILLS, "doubled": 0, "lost": 0, "orphaned_pages": 0},
        "ok": (sums["kills"] >= AIM_KILLS or not whole)
        and not (sums["doubled"] or sums["lost"] or sums["orphaned"] or unclean),
        "cases": rows,
    }


def show(document: Mapping[str, Any]) -> None:
    """Print the table."""
    table = Table("scenario", "point", "who", "kills", "doubled", "lost", "orphaned", "as if not", "outcome")
    for row in document["cases"]:
        words = [str(row[name]) for name in ("scenario", "point", "who", "kills", "doubled", "lost", "orphaned")]
        table.add_row(*words, "yes" if row["clean"] else "NO", row["outcome"][:80])
    console = Console()
    console.print(table)
    console.print({name: value for name, value in document.items() if name != "cases"})


if __name__ == "__main__":
    sys.exit(main())
