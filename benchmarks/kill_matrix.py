"""Kills at every step boundary of every strategy, counted by the hosts that were acted on.

Each incident is played on a lab of its own; at the moment that is named its flow's process, the worker, the
keeper, Prefect's server, the store or its connections are taken from it, and what is left behind at its end is
compared with the same incident left in peace. `python -m benchmarks.kill_matrix [--json] [--only WORD]…`.

What all incidents share is taken from four of them at once, while nothing else is played; a kill counts for each
incident that it hits. The store lies on a disk of its own, which only root can mount. Progress goes to standard
error; broken off, it prints what it has. `--only "scale: acted"` plays single cases.
"""

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from responder.installation import Installation, adopt
from responder.store.location import STORE_URL

if TYPE_CHECKING:  # both bring Prefect, which takes its settings when it is imported: not before the installation
    from responder.domain.profile import Profile
    from responder.lab.scenario import Scenario
    from tests.stories import End, Story

AIM_KILLS = 100
AT_ONCE = 4
SERVER_GONE_S = 30.0  # five minutes, at a tenth like every clock here
LOCKED_S = 35.0  # longer than any process waits for a lock
FULL_S = 15.0
DISK_MIB = 64
SETTLE_S = 100.0  # a tenth of it, like all of a drill's clocks
Moment = Callable[["Story"], bool]
Tell = Callable[["Story"], None]
ACTS = "command -v setsid"
LOOKS = "who -u"
PROBES = "/api/health"
RAN_OUT = "the acknowledgement ran out"


@dataclass(frozen=True)
class Case:
    """One incident that is interfered with. `clean`: it must end as if nothing had happened."""

    scenario: str
    point: str
    who: str
    clean: bool

    def __str__(self) -> str:
        return f"{self.scenario}: {self.point}: {self.who}"


Cases = list[tuple[Case, Tell]]


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
        found = [each for each in story.store.phases(row.id) if each.kind == phase]
        return any(each.outcome is not None or not ended for each in found) if phase else True

    return reached


def is_paused(story: "Story") -> bool:
    """Whether Prefect shows the run as paused."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(uuid_of(story)).state
        return state is not None and state.is_paused()


BOUNDARIES: Mapping[str, tuple[Moment, bool]] = {
    # name: (when, whether the kill lies before the intent or after the recorded outcome)
    "not open yet": (lambda _: True, True),
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
    "post-mortem ended": (stored("post_incident", ended=True), True),
}
FROM_MITIGATION = tuple(BOUNDARIES)[6:]
"""What comes before is the same in the scenario `undo` as in `scale`."""
HELD = ("command lost", "command late", "acted, answer lost")
UI_MOMENTS = ("diagnosis begun", "mitigation begun", "acted", "confirming")


def until(story: "Story", reached: Moment) -> bool:
    """Wait for the moment; False when the incident ended without it."""
    from tests.lab_runs import PATIENCE_S

    deadline = time.monotonic() + PATIENCE_S
    while not reached(story):
        row = story.store.incident_of_run(story.run_id)
        if (row is not None and row.outcome is not None) or time.monotonic() > deadline:
            return reached(story)  # both may have come since it was looked at
        time.sleep(0.02)
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
            dead = story.engine(but=dead)
            if until(story, BOUNDARIES[point][0]):
                shoot(story, dead)
        ended(story)


def killed_while_held(how: str, story: "Story") -> None:
    """The flow's process is killed while its command waits on the host, and the command's fate is decided then."""
    with answered(story):
        hold = story.host.hold(ACTS, "after" if how == "acted, answer lost" else "before", most=1)
        story.start()
        story.until(ACTS, "ended" if how == "acted, answer lost" else "received")
        shoot(story, story.process())
        if how == "command late":
            story.until(ACTS, "ended")  # the run that came back has acted
        hold.release(run=how == "command late")
        ended(story)


def killed_while_paused(story: "Story", *, answered_late: bool) -> None:
    """The flow's process is killed while it waits for a person, who answers it at once, or the next one."""
    story.start()
    until(story, stored(asked=True))
    dead = story.process()
    shoot(story, dead)
    if answered_late:
        story.process(but=dead)
        until(story, is_paused)
    with answered(story):
        ended(story)


def cut_off(side: str, matching: str, when: str, story: "Story") -> None:
    """The connection breaks in the middle of a command, seen from the server's or from the client's side."""
    with answered(story):
        if side == "server":
            story.host.ask("cut", match=matching, when=when)
            story.start()
            story.until(matching, "dropped" if when == "before" else "ended")
            story.host.ask("cut", match=None)
            story.seen["kills"] = 1
        else:
            hold = story.host.hold(matching, when, most=1)
            story.start()
            story.until(matching, "ended" if when == "after" else "received")
            story.seen["kills"] = int(story.cut_its_connections() > 0)
            hold.release()
        ended(story)


def from_the_ui(do: str, point: str, story: "Story") -> None:
    """A person cancels, retries, or pauses the run in Prefect's UI, and resumes it some seconds later."""
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry, Cancelling, Suspended

    states = {"cancel": Cancelling, "pause": Suspended, "retry": AwaitingRetry}
    moment = stored(asked=True) if point == "paused" else BOUNDARIES[point][0]
    with answered(story) if point != "paused" else nullcontext():
        story.start()
        until(story, moment)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(uuid_of(story), states[do](), force=True)
            if do == "pause":
                time.sleep(5)
                client.resume_flow_run(uuid_of(story))
    with answered(story):
        ended(story)


def shoot(story: "Story", pid: int) -> None:
    """SIGKILL to the flow's process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it was over a moment before
        return
    story.seen["kills"] = int(str(story.seen.get("kills", 0))) + 1


def uuid_of(story: "Story") -> Any:
    """The run's id as Prefect has it."""
    from uuid import UUID

    return UUID(story.run_id)


@contextmanager
def answered(story: "Story") -> Iterator[None]:
    """A person says yes to whatever the run asks."""
    from sqlalchemy.exc import OperationalError

    from responder.domain.approval import Answer, Decision
    from responder.domain.errors import PermanentError

    over = threading.Event()

    def answer() -> None:
        while not over.wait(0.5):
            try:
                row = story.store.incident_of_run(story.run_id) if story.run_id else None
                for asked in story.store.questions(row.id) if row and row.outcome is None else ():
                    if asked.decided is None:
                        yes = Answer(decision=Decision.APPROVE, by="Ann", why="the matrix says so")
                        story.store.answer(row.id, asked.question.digest, yes)  # type: ignore[union-attr]
            except (PermanentError, OperationalError) as error:  # it ended or asks something else; or no store
                say(f"not answered: {error}")

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


def say(line: str) -> None:
    """To who watches."""
    print(line, file=sys.stderr, flush=True)


# --- one incident each --------------------------------------------------------------------------------------


def scenarios() -> dict[str, "str | Scenario"]:
    """One for each strategy, and one for an undo."""
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


def soon_disappointed(profile: "Profile") -> "Profile":
    """Of what will not hold it waits some seconds only for an effect."""
    from tests.stories import patient

    waits = patient(profile)
    return waits.model_copy(update={"clocks": waits.clocks.model_copy(update={"settle_s": SETTLE_S})})


def matrix() -> Cases:
    """Every case that one process' death, a cut connection, or a click makes; with the story that plays it."""
    cases: Cases = []
    for name in scenarios():
        for point in FROM_MITIGATION if name == "undo" else BOUNDARIES:
            cases.append((Case(name, point, "flow", BOUNDARIES[point][1]), partial(killed_at, (point,))))
        for how in HELD:
            cases.append((Case(name, how, "flow", clean=False), partial(killed_while_held, how)))
        for side in ("server", "client"):
            for matching, when in ((ACTS, "before"), (ACTS, "after"), (LOOKS, "before")):
                if name == "restart" or (
                    matching == ACTS and name in ("scale", "failover")
                ):  # the rest is the same
                    point = f"{when} {'the act' if matching == ACTS else 'a look'}"
                    story = partial(cut_off, side, matching, when)
                    cases.append((Case(name, point, f"connection, {side}", clean=False), story))
    pairs = (("diagnosis begun", "acted"), ("intended", "verification begun"), ("mitigation begun", "confirming"))
    for name in ("restart", "scale", "failover"):
        for pair in pairs:
            cases.append((Case(name, " and ".join(pair), "flow, twice", clean=False), partial(killed_at, pair)))
    for point, late in (("paused", False), ("paused, answered late", True)):
        cases.append(
            (Case("failover", point, "flow", clean=True), partial(killed_while_paused, answered_late=late))
        )
    for do in ("cancel", "pause", "retry"):
        for point in UI_MOMENTS:
            told = partial(from_the_ui, do, point)
            cases.append((Case("restart", point, f"{do} in the UI", clean=False), told))
    cases.append(
        (Case("failover", "paused", "cancel in the UI", clean=False), partial(from_the_ui, "cancel", "paused"))
    )
    return cases


# --- what they share ----------------------------------------------------------------------------------------


class Strike:
    """Something that four incidents share is taken from them at once, and given back.

    `take` and `give` are done by the main thread: what an installation starts dies with who started it. With
    `flow` each incident's own process is killed as well. `away`: it is the server, for longer than a page is kept
    quiet, and the stories look at what happens meanwhile.
    """

    def __init__(
        self,
        who: str,
        take: Callable[[], None],
        give: Callable[[], None],
        *,
        for_s: float = 0.0,
        flow: bool = False,
        kills: int = 1,
        away: bool = False,
    ) -> None:
        self.who, self.take, self.give, self.for_s = who, take, give, for_s
        self.flow, self.kills, self.away = flow, kills, away
        self.struck, self.over = threading.Event(), threading.Event()
        self._there = threading.Semaphore(0)
        self._to_act: list[Story] = []
        self._act = threading.Event()

    def cases(self) -> Cases:
        """Four incidents at moments of their own."""
        points: tuple[tuple[str, str, Tell], ...] = (
            ("restart", "while acting", self._while_acting),
            ("restart", "confirming", self._while_confirming),
            ("scale", "while acting", self._while_acting),
            ("failover", "paused", self._while_paused),
        )
        return [(Case(name, point, self.who, clean=False), tell) for name, point, tell in points]

    def strike(self, stories: Sequence[Future[Any]]) -> None:
        """Wait until the stories have come to their moments, take it from them, and give it back.

        Those that act begin last: a command that its host holds back for too long is given up.
        """
        arrived = there = 0
        while there < len(stories):
            arrived += self._there.acquire(timeout=0.5)
            there = arrived + sum(story.done() for story in stories)
            if there + len(self._to_act) >= len(stories):
                self._act.set()
        try:
            self.take()
            self.struck.set()
            time.sleep(self.for_s)
        finally:
            self.give()
            self.struck.set()
            self.over.set()

    def _happens_to(self, story: "Story") -> None:
        pid = story.process() if self.flow else 0
        self._there.release()
        self.struck.wait()
        if pid:
            shoot(story, pid)
        story.seen["kills"] = self.kills if story.row.outcome is None else 0  # none that had ended before

    def _while_acting(self, story: "Story") -> None:
        """It makes its change on the host, or has made it and the answer is on the way."""
        self._to_act.append(story)
        self._act.wait()
        with answered(story):
            hold = story.host.hold(ACTS, "before" if self.away else "after", most=1)
            story.start()
            story.until(ACTS, "received" if self.away else "ended")
            self._happens_to(story)
            hold.release()
            if self.away:
                self._look(story)
            self.over.wait()  # an incident may end while it is gone, and then Prefect is asked how
            ended(story)

    def _look(self, story: "Story") -> None:
        """With the server gone the detached change ends on its host, and people are paged again."""
        missed = []
        while not self.over.is_set() and not story.lab.actions():
            time.sleep(0.2)
        if not story.lab.actions() or self.over.is_set():
            missed.append("the change did not end on its host meanwhile")
        self.over.wait()
        if RAN_OUT not in [page.why for page in story.lab.pagerduty.pages]:
            missed.append("nobody was paged again")
        story.seen["missed"] = missed

    def _while_confirming(self, story: "Story") -> None:
        """It looks whether the service stays healthy; the looks are held until all four are there."""
        with answered(story):
            story.start()
            until(story, stored("resolve"))
            with story.host.hold(PROBES):
                self._happens_to(story)
            self.over.wait()
            ended(story)

    def _while_paused(self, story: "Story") -> None:
        story.start()
        until(story, stored(asked=True))
        self._happens_to(story)
        self.over.wait()
        with answered(story):
            ended(story)


def strikes(installation: Installation, disk: Path | None) -> list[Strike]:
    """Every process that all incidents share, two at once, and the store."""
    starts = {
        "keeper": installation.start_keeper,
        "worker": installation.start_worker,
        "server": installation.start_server,
    }

    def kill(*names: str) -> None:
        for name in names:
            installation.child(name).kill()
        for name in names:
            installation.child(name).wait()

    def start(*names: str) -> None:
        for name in names:
            starts[name]()
        while "server" in names and not installation.answers():
            time.sleep(0.2)

    def strike(*names: str, for_s: float = 0.0, flow: bool = False) -> Strike:
        who = " and ".join((*(("flow",) if flow else ()), *names)) + (f", for {for_s:g} s" if for_s else "")
        take, give = partial(kill, *names), partial(start, *names)
        return Strike(who, take, give, for_s=for_s, flow=flow, kills=len(names) + flow, away=bool(for_s))

    store = Path(installation.environment[STORE_URL].removeprefix("sqlite:///"))
    lock, filler = Lock(store), Filler(store)
    return [
        strike("keeper"),
        strike("worker"),
        strike("server"),
        strike("server", for_s=SERVER_GONE_S),
        strike("worker", flow=True),
        strike("keeper", flow=True),
        strike("server", flow=True),
        strike("worker", "keeper"),
        Strike("store locked", lock.take, lock.give, for_s=LOCKED_S),
        *([Strike("store's disk full", filler.fill, filler.empty, for_s=FULL_S)] if disk else []),
    ]


class Lock:
    """Another process' transaction that does not end: whoever writes waits for it."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def take(self) -> None:
        """Begin it."""
        self._connection = sqlite3.connect(self._store, timeout=30, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def give(self) -> None:
        """End it."""
        self._connection.execute("ROLLBACK")
        self._connection.close()


class Filler:
    """A file that takes all that is left of the store's disk."""

    def __init__(self, store: Path) -> None:
        self._store, self._file = store, store.with_name("filler")

    def fill(self) -> None:
        """Nothing more can be written, not even into what the write-ahead log had been given before."""
        with sqlite3.connect(self._store, timeout=30) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with self._file.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as full:
                    say(f"{self._store.parent}: {full}")

    def empty(self) -> None:
        """Give it back."""
        self._file.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of its own for the store, that can be filled without harm; None where none may be mounted."""
    folder.mkdir(parents=True, mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        say(f"no disk to fill: {mounted.stderr.strip()}")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# --- judging ------------------------------------------------------------------------------------------------


def judged(case: Case, played: "Future[End]", peace: "End") -> dict[str, Any]:
    """What became of one case, against the same incident left in peace."""
    row: dict[str, Any] = {"scenario": case.scenario, "point": case.point, "who": case.who}
    if error := played.exception():
        bad = {"kills": 0, "doubled": 0, "lost": 1, "orphaned": 0, "clean": False, "resolved": False}
        return row | bad | {"outcome": f"{type(error).__name__}: {error}"[:300]}
    end = played.result()
    expected, found = Counter(a.verb for a in peace.actions), Counter(a.verb for a in end.actions)
    unsaid = [message for message in end.messages if message.state not in ("sent", "skipped", "draft", "withheld")]
    # With a person, who is told of each attempt as far as it came, one may stay as it is.
    hanging = [each.state for each in end.attempts if each.state in ("intended", "acted", "ended")]
    missed = list(end.seen.get("missed", ()))  # type: ignore[call-overload]
    as_in_peace = (end.row.outcome, end.state) == (peace.row.outcome, peace.state)
    return row | {
        "kills": int(str(end.seen.get("kills", 0))),
        "doubled": sum((found - expected).values()),
        "lost": len(unsaid) + (end.row.outcome is None) + (len(hanging) if end.row.outcome == "resolved" else 0),
        "orphaned": int(end.page == "acknowledged"),
        "clean": not missed and (as_in_peace or not case.clean),
        "outcome": "; ".join((f"{end.row.outcome} ({end.state}): {end.row.reason}", *missed))[:300],
        "resolved": end.row.outcome == "resolved",
    }


def summary(rows: Sequence[dict[str, Any]], could: int, *, left: int, whole: bool) -> dict[str, Any]:
    """The figures, the aim, and every case that was played; so many are `left`.

    `could`: in so many of them a person would not have been needed, had they been left in peace.
    """
    sums = {name: sum(row[name] for row in rows) for name in ("kills", "doubled", "lost", "orphaned")}
    unclean = [row for row in rows if not row["clean"]]
    faults = sums["doubled"] or sums["lost"] or sums["orphaned"] or unclean
    return {
        "kills": sums["kills"],
        "doubled": sums["doubled"],
        "lost": sums["lost"],
        "orphaned_pages": sums["orphaned"],
        "resolved_share": round(sum(row["resolved"] for row in rows) / max(could, 1), 3),
        "not_as_if_nothing_had_happened": len(unclean),
        "aim": {"kills": AIM_KILLS, "doubled": 0, "lost": 0, "orphaned_pages": 0},
        "ok": not (left or faults) and (sums["kills"] >= AIM_KILLS or not whole),
        "not_played": left,
        "cases": list(rows),
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


# --- playing ------------------------------------------------------------------------------------------------


class Matrix:
    """Plays cases and keeps what became of them, row by row."""

    def __init__(self, installation: Installation, folder: Path, only: Sequence[str], disk: Path | None) -> None:
        self._folder = folder
        self._began = time.monotonic()
        self._peace: dict[str, End] = {}
        self._scenarios = scenarios()
        self._single = [each for each in matrix() if _wanted(each[0], only)]
        hit = [
            (strike, [each for each in strike.cases() if _wanted(each[0], only)])
            for strike in strikes(installation, disk)
        ]
        self._strikes = [(strike, cases) for strike, cases in hit if cases]
        self.whole = not only
        self._unplayable = 0 if disk or only else AT_ONCE  # the disk that is full
        self.rows: list[dict[str, Any]] = []

    @property
    def all(self) -> list[Case]:
        """Every case that is to be played."""
        return [case for case, _ in (*self._single, *(each for _, cases in self._strikes for each in cases))]

    @property
    def left(self) -> int:
        """How many were not played."""
        return len(self.all) + self._unplayable - len(self.rows)

    @property
    def could_be_resolved(self) -> int:
        """How many of those that were played would have ended without a person, left in peace."""
        return sum(self._peace[row["scenario"]].row.outcome == "resolved" for row in self.rows)

    def play(self) -> None:
        """Play each incident in peace first, then those with fates of their own, then the shared ones."""
        names = dict.fromkeys(case.scenario for case in self.all)
        say(f"{len(self.all)} cases of {len(names)} scenarios")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            quiet = {name: self._submit(pool, name, in_peace) for name in names}
        self._peace = {name: future.result() for name, future in quiet.items()}
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            playing = {self._submit(pool, case.scenario, tell): case for case, tell in self._single}
            for future in as_completed(playing):
                self._keep(playing[future], future)
            for strike, cases in self._strikes:
                struck = [self._submit(pool, case.scenario, tell) for case, tell in cases]
                strike.strike(struck)
                for (case, _), future in zip(cases, struck, strict=True):
                    future.exception()
                    self._keep(case, future)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, name: str, tell: Tell) -> "Future[End]":
        from tests.stories import patient, play

        profile = soon_disappointed if name == "undo" else patient
        return pool.submit(play, tell, self._folder, scenario=self._scenarios[name], profile=profile)

    def _keep(self, case: Case, future: "Future[End]") -> None:
        row = judged(case, future, self._peace[case.scenario])
        self.rows.append(row)
        faults = [name for name in ("doubled", "lost", "orphaned") if row[name]]
        faults += [] if row["clean"] else ["NOT AS IF NOTHING HAD HAPPENED"]
        minutes = (time.monotonic() - self._began) / 60
        count = f"{len(self.rows)}/{len(self.all)} {minutes:.1f} min"
        say(f"{count}  {case}  {', '.join(faults) or 'fine'}  {row['outcome'][:120]}")


def _wanted(case: Case, only: Sequence[str]) -> bool:
    return not only or any(words in str(case) for words in only)


def main() -> int:
    """Play the matrix, print it, and return 0 when nothing was doubled, lost or orphaned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--only", action="append", default=[], help="only cases whose name has this in it; may be repeated"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="incident-kills-"))
    with small_disk(folder / "disk") as disk:
        os.environ[STORE_URL] = f"sqlite:///{(disk or folder) / 'incidents.db'}"
        with Installation(folder / "home") as installation:
            adopt(installation.environment)
            played = Matrix(installation, folder, options.only, disk)
            broken_off = False
            try:
                played.play()
            except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - it prints what it has all the same
                broken_off = True
                say(f"broken off: {error!r}")
            document = summary(played.rows, played.could_be_resolved, left=played.left, whole=played.whole)
            if options.json:
                print(json.dumps(document, indent=2), flush=True)
            else:
                show(document)
    if broken_off:
        os._exit(1)  # stories that are still played would be waited for
    if document["ok"]:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if document["ok"] and not broken_off else 1


if __name__ == "__main__":
    sys.exit(main())
