"""Incidents that are interfered with: the means to do so, and what is left behind at the end."""

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client

from responder.cli.runs import wait_until_final
from responder.domain.profile import Profile
from responder.lab.host import Hold, LabHost
from responder.lab.lab import HostAction, Lab
from responder.lab.scenario import Scenario
from responder.store import Store, open_store
from responder.store.tables import AttemptRow, DecisionRow, IncidentRow, MessageRow, PhaseRow
from tests.lab_runs import (
    PATIENCE_S,
    broken_lab,
    start_incident,
    telling_how_far,
    wait_ended,
    wait_for,
    wait_opened,
)

AT_ONCE = 4
_PIDFD_GETFD = 438  # the same number on every architecture; Python has no call for it
FENCE = "command -v setsid"
"""In the text that takes an attempt's fence and starts it; not in the ones that bar or poll it."""
LAST_WORDS_OF_DIAGNOSIS = "df -P -i"
LOOK = "who -u"
"""In every look at who else is at work: the triage's, the diagnosis', and the one before acting."""
PROBE = "/api/health"


def patient(profile: Profile) -> Profile:
    """Deadlines that a slow machine keeps, of which a drill takes a tenth; what the stories are about stays."""
    patient = {"run_lease_s": 80, "step_s": 900, "settle_s": 600, "confirm_deadline_s": 1200, "approval_s": 6000}
    return profile.model_copy(update={"clocks": profile.clocks.model_copy(update=patient)})


@dataclass
class Story:
    """One incident on a lab of its own, and the means to interfere with it."""

    lab: Lab
    store: Store
    run_id: str = ""
    seen: dict[str, object] = field(default_factory=dict)
    """What the story itself noticed, for its test."""

    @property
    def host(self) -> LabHost:
        """The lab's only host."""
        return self.lab.hosts[0]

    @property
    def row(self) -> IncidentRow:
        """The incident, once it is open."""
        return wait_opened(self.store, self.run_id)

    def start(self) -> None:
        """Start the incident's run by its alert."""
        self.run_id = start_incident(self.lab)

    def until(self, command: str, state: str = "received", *, count: int = 1, since: float = 0.0) -> None:
        """Wait until the host got so many matching commands since then, and they have come so far."""

        def come() -> bool:
            found = [c for c in self.host.commands() if command in c["command"] and c["at"] >= since]
            return len([c for c in found if c["state"] == state]) >= count

        with telling_how_far(self.store, self.run_id):
            wait_for(come, named=f"{count} of {command!r} {state}")

    def hold_the_look_before_acting(self, *, most: int | None = None) -> Hold:
        """Start, and wait until the mitigation's first look is held: nothing is intended yet."""
        with self.host.hold(LAST_WORDS_OF_DIAGNOSIS):
            self.start()
            self.until(LAST_WORDS_OF_DIAGNOSIS)
            hold, since = self.host.hold(LOOK, most=most), time.time()
        self.until(LOOK, since=since)
        return hold

    def process(self, but: int = 0) -> int:
        """The process of the flow that holds the run's lease; not the one of `but`."""

        def holder() -> int | None:
            for lease, incident in self.store.leases():
                if incident.run_id == self.run_id and not lease.holder.startswith("keeper:"):
                    pid = int(lease.holder.rpartition(":")[2])
                    return pid if pid != but else None
            return None

        return wait_for(holder, named="the process of the flow")

    def engine(self, but: int = 0) -> int:
        """The process that the worker started for the run: known from before the incident is open."""

        def started() -> int | None:
            with get_client(sync_client=True) as client:
                known = client.read_flow_run(UUID(self.run_id)).infrastructure_pid
            pid = int(known.rpartition(":")[2]) if known else 0
            return pid if pid not in (0, but) and alive(pid) else None

        return wait_for(started, named="the process of the run")

    def kill(self) -> int:
        """Kill the flow's process as the kernel would; returns its number."""
        pid = self.process()
        kill(pid)
        return pid

    def cut_its_connections(self) -> int:
        """Shut every SSH connection of the flow's process to the lab, as a network that goes away; how many."""
        ports = {host.port for host in self.lab.hosts}
        pid = self.process()
        pidfd = os.pidfd_open(pid)
        cut = 0
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    if os.readlink(link).startswith("socket:"):
                        cut += _shut(pidfd, int(link.name), ports)
        finally:
            os.close(pidfd)
        return cut


def _shut(pidfd: int, number: int, ports: Container[int]) -> bool:
    """Shut the process' socket of that number if it leads to one of the ports; whether it did."""
    fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_getfd of {number}")
    with socket.socket(fileno=fd) as ours:
        if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.getpeername()[1] not in ports:
            return False
        ours.shutdown(socket.SHUT_RDWR)
        return True


@dataclass(frozen=True)
class End:
    """What a story left behind, in the store, on the host, and with people."""

    row: IncidentRow
    state: str
    attempts: Sequence[AttemptRow]
    phases: Sequence[PhaseRow]
    decisions: Sequence[DecisionRow]
    messages: Sequence[MessageRow]
    postmortem: bool
    actions: list[HostAction]
    page: str
    pages: list[str]
    notes: list[str]
    posts: list[str]
    channels: list[str]
    seen: Mapping[str, object]


def kill(pid: int) -> None:
    """SIGKILL, and wait until it has worked."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid), named=f"the end of process {pid}")


def alive(pid: int) -> bool:
    """Whether the process lives; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def play(
    tell: Callable[[Story], None],
    folder: Path,
    *,
    scenario: str | Scenario = "process-crash",
    profile: Callable[[Profile], Profile] = patient,
) -> End:
    """Tell a story on a lab of its own, broken by the scenario, and return its end."""
    store = open_store()
    try:
        with broken_lab(scenario, folder, profile=profile) as lab:
            story = Story(lab, store)
            tell(story)
            return end_of(story)
    finally:
        store.close()


def play_all(stories: Mapping[str, Callable[[], End]]) -> dict[str, Future[End]]:
    """Play stories side by side, because most of their time is waiting; `result()` raises what one ran into."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {name: pool.submit(story) for name, story in stories.items()}
        wait(futures.values())
    return futures


def _told(store: Store, row: IncidentRow) -> Sequence[MessageRow] | None:
    """All messages, once none waits: the keeper puts some in after an incident has ended."""
    messages = store.messages(row.id)
    return messages if all(message.state != "waiting" for message in messages) else None


def end_of(story: Story) -> End:
    store, lab = story.store, story.lab
    row = wait_ended(store, story.run_id)
    state = wait_until_final(story.run_id, PATIENCE_S)
    messages = wait_for(lambda: _told(store, row), named="what the keeper adds after the end")
    pages = lab.pagerduty.incidents
    page = next((each for each in pages if each.status == "acknowledged"), pages[0])
    return End(
        row=row,
        state=state,
        attempts=store.attempts(row.id),
        phases=store.phases(row.id),
        decisions=store.decisions(row.id),
        messages=messages,
        postmortem=store.record(row.id, "post-mortem") is not None,
        actions=lab.actions(),
        page=page.status,
        pages=[each.why for each in lab.pagerduty.pages],
        notes=[note.rpartition(" [")[0] for note in page.notes],
        posts=[message.text for message in lab.slack.messages],
        channels=[channel.name for channel in lab.slack.channels if channel.creator == lab.slack.bot_id],
        seen=story.seen,
    )
