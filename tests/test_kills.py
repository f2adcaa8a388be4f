"""Kill what works on an incident at every moment that matters; the hosts count what was done to them.

The stories of one wave run side by side on the session's installation; each test then looks at the end of one.
What stops, or kills, something for everybody has a wave of its own.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from responder.installation import Installation
from tests.lab_runs import PATIENCE_S, wait_ended, wait_for
from tests.stories import FENCE, LOOK, PROBE, End, Story, alive, kill, play, play_all


def _wave(stories: Sequence[Callable[[Story], None]], folder: Path) -> dict[str, Future[End]]:
    return play_all({story.__name__: partial(play, story, folder) for story in stories})


def _nothing_was_told_twice(end: End) -> None:
    assert len(end.channels) == 1
    posted = [message.body["text"] for message in end.messages if message.kind == "post"]
    # Late ones share a digest.
    assert [sum(text in post for post in end.posts) for text in posted] == [1] * len(posted)
    assert len(end.notes) == len(set(end.notes))


def _ended_as_if_nothing_had_happened(end: End) -> None:
    assert (end.row.outcome, end.row.status, end.state) == ("resolved", "closed", "Completed"), end.row.reason
    assert [action.verb for action in end.actions] == ["restart"]
    assert [attempt.state for attempt in end.attempts] == ["committed"]
    assert all(phase.outcome for phase in end.phases)
    assert end.postmortem
    assert end.page == "resolved"
    assert all(message.state == "sent" for message in end.messages)
    _nothing_was_told_twice(end)


def _ended_with_a_person(end: End) -> None:
    assert (end.row.outcome, end.row.status, end.state) == ("escalated", "open", "Failed"), end.row.reason
    assert end.page == "triggered"  # never acknowledged with nobody at work
    assert "escalated" in end.pages
    assert end.postmortem
    assert all(message.state == "sent" for message in end.messages)
    _nothing_was_told_twice(end)


# --- The first wave: one process of a flow dies, or seems to -------------------------------------------


def killed_before_its_incident_is_open(story: Story) -> None:
    story.start()
    kill(story.engine())
    story.seen["open"] = story.store.incident_of_run(story.run_id) is not None


def killed_before_the_intent(story: Story) -> None:
    hold = story.hold_the_look_before_acting()
    story.seen["attempts"] = len(story.store.attempts(story.row.id))
    story.kill()
    hold.release(run=False)


def killed_before_acting_and_the_command_is_lost(story: Story) -> None:
    hold = story.host.hold(FENCE)
    story.start()
    story.until(FENCE)
    story.seen["attempts"] = [attempt.state for attempt in story.store.attempts(story.row.id)]
    story.kill()
    hold.release(run=False)


def killed_before_acting_and_the_command_comes_late(story: Story) -> None:
    late = story.host.hold(FENCE, most=1)
    story.start()
    story.until(FENCE)
    story.kill()
    story.until(FENCE, "ended")  # the run that came back has acted
    late.release(run=True)
    story.until(FENCE, "ended", count=2)


def killed_after_acting(story: Story) -> None:
    hold = story.host.hold(FENCE, "after")
    story.start()
    story.until(FENCE, "ended")
    story.seen["attempts"] = [attempt.state for attempt in story.store.attempts(story.row.id)]
    story.kill()
    hold.release(run=False)


def killed_while_verifying(story: Story) -> None:
    with story.host.hold(FENCE, "after"):
        story.start()
        story.until(FENCE, "ended")
        probe, since = story.host.hold(PROBE), time.time()
    story.until(PROBE, since=since)
    story.kill()
    probe.release(run=False)


def killed_twice_in_the_same_phase(story: Story) -> None:
    hold = story.hold_the_look_before_acting()
    since = time.time()
    first = story.kill()
    story.process(but=first)
    story.until(LOOK, since=since)
    story.kill()
    hold.release(run=False)


def frozen_before_acting(story: Story) -> None:
    late = story.host.hold(FENCE, most=1)
    story.start()
    story.until(FENCE)
    frozen = story.process()
    os.kill(frozen, signal.SIGSTOP)
    try:
        with story.host.hold(FENCE, "after"):
            taken_up = story.process(but=frozen)
            story.until(FENCE, "ended")
            probe, since = story.host.hold(PROBE), time.time()
        story.until(PROBE, since=since)
        late.release(run=True)
    finally:
        os.kill(frozen, signal.SIGCONT)
    wait_for(lambda: not alive(frozen), 60, named="the older run's end")
    story.seen["newer run at work"] = alive(taken_up) and story.row.outcome is None
    probe.release()


@pytest.fixture(scope="module")
def ends(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Future[End]]:
    """The ends of the first wave's stories, by their names; `result()` raises what a story ran into."""
    assert installation
    stories = (
        killed_twice_in_the_same_phase,  # the longest first
        frozen_before_acting,
        killed_before_acting_and_the_command_comes_late,
        killed_before_its_incident_is_open,
        killed_before_the_intent,
        killed_before_acting_and_the_command_is_lost,
        killed_after_acting,
        killed_while_verifying,
    )
    return _wave(stories, tmp_path_factory.mktemp("kills"))


def test_a_run_killed_before_its_incident_is_open_is_begun_again(ends: Mapping[str, Future[End]]) -> None:
    end = ends["killed_before_its_incident_is_open"].result()
    assert end.seen["open"] is False
    _ended_as_if_nothing_had_happened(end)


def test_a_run_killed_before_its_intent_is_taken_up_and_acts_once(ends: Mapping[str, Future[End]]) -> None:
    end = ends["killed_before_the_intent"].result()
    assert end.seen["attempts"] == 0
    _ended_as_if_nothing_had_happened(end)
    assert {phase.name.split(":")[0]: phase.starts for phase in end.phases}["mitigate"] == 2


def test_an_action_lost_with_its_run_is_done_by_the_next(ends: Mapping[str, Future[End]]) -> None:
    end = ends["killed_before_acting_and_the_command_is_lost"].result()
    assert end.seen["attempts"] == ["intended"]
    _ended_as_if_nothing_had_happened(end)


def test_an_action_that_comes_late_finds_the_fence_taken(ends: Mapping[str, Future[End]]) -> None:
    _ended_as_if_nothing_had_happened(ends["killed_before_acting_and_the_command_comes_late"].result())


def test_an_action_done_but_not_recorded_is_looked_at_and_not_repeated(ends: Mapping[str, Future[End]]) -> None:
    end = ends["killed_after_acting"].result()
    assert end.seen["attempts"] == ["intended"]
    _ended_as_if_nothing_had_happened(end)


def test_a_run_killed_while_verifying_verifies_again(ends: Mapping[str, Future[End]]) -> None:
    end = ends["killed_while_verifying"].result()
    _ended_as_if_nothing_had_happened(end)
    starts = {phase.name.split(":")[0]: phase.starts for phase in end.phases}
    assert (starts["mitigate"], starts["verify"]) == (1, 2)


def test_a_phase_that_loses_its_run_twice_is_given_to_a_person(ends: Mapping[str, Future[End]]) -> None:
    end = ends["killed_twice_in_the_same_phase"].result()
    _ended_with_a_person(end)
    assert (end.actions, end.attempts) == ([], [])
    assert any("lost each time" in note for note in end.notes)


def test_a_run_that_wakes_up_late_ends_itself_and_repeats_nothing(ends: Mapping[str, Future[End]]) -> None:
    end = ends["frozen_before_acting"].result()
    assert end.seen["newer run at work"]
    _ended_as_if_nothing_had_happened(end)


# --- The second wave: everything is stopped -------------------------------------------------------------


def stopped_between_intent_and_action(story: Story) -> None:
    late = story.host.hold(FENCE)
    story.start()
    story.until(FENCE)
    story.kill()
    _incident("stop", "the change advisory board says so")
    wait_ended(story.store, story.run_id)
    late.release(run=True)
    story.until(FENCE, "ended")


def stopped_before_the_incident(story: Story) -> None:
    wait_for(lambda: story.store.stopped(), named="the stop")
    story.start()


def _incident(*arguments: str) -> None:
    """Run the command `incident` as a person would."""
    subprocess.run([Path(sys.executable).with_name("incident"), *arguments], check=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def stopped(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Future[End]]:
    """The ends of two incidents during which everything was stopped; it is lifted when they are over."""
    assert installation
    stories = (stopped_between_intent_and_action, stopped_before_the_incident)
    try:
        return _wave(stories, tmp_path_factory.mktemp("stopped"))
    finally:
        _incident("stop", "--lift")


def test_a_stop_between_intent_and_action_bars_it_for_good(stopped: Mapping[str, Future[End]]) -> None:
    end = stopped["stopped_between_intent_and_action"].result()
    _ended_with_a_person(end)
    assert end.actions == []  # although the command arrived after all
    assert [attempt.state for attempt in end.attempts] == ["barred"]
    assert any("the change advisory board says so" in note for note in end.notes)


def test_a_stop_before_the_incident_refuses_every_action(stopped: Mapping[str, Future[End]]) -> None:
    end = stopped["stopped_before_the_incident"].result()
    _ended_with_a_person(end)
    assert (end.actions, end.attempts) == ([], [])
    assert any(decision.who.startswith("guardrail") for decision in end.decisions)
    assert any("the change advisory board says so" in note for note in end.notes)


# --- The worker, the keeper and the server die ----------------------------------------------------------
# One after the other, and nothing beside them: a dead worker ends every run that it has started, at their next
# line to the console. From the main thread: what the installation starts dies with the thread that started it.


def test_a_run_killed_with_its_worker_is_taken_up_by_the_next_worker(
    installation: Installation, tmp_path: Path
) -> None:
    def killed_with_its_worker(story: Story) -> None:
        hold = story.host.hold(FENCE, "after")
        story.start()
        story.until(FENCE, "ended")
        worker, flow = installation.child("worker"), story.process()
        for pid in (worker.pid, flow):
            os.kill(pid, signal.SIGKILL)
        worker.wait()
        hold.release(run=False)
        installation.start_worker()

    _ended_as_if_nothing_had_happened(play(killed_with_its_worker, tmp_path))


def test_what_could_not_be_told_without_a_keeper_is_told_later_and_once(
    installation: Installation, tmp_path: Path
) -> None:
    def without_a_keeper(story: Story) -> None:
        # While the run is held nothing is said: what is cut off while being sent is sent again, perhaps twice.
        with story.host.hold(FENCE, "after"):
            story.start()
            story.until(FENCE, "ended")
            wait_for(lambda: all(m.state == "sent" for m in story.store.messages(story.row.id)), named="silence")
            keeper = installation.child("keeper")
            os.kill(keeper.pid, signal.SIGKILL)
            keeper.wait()
        try:
            wait_for(lambda: story.row.outcome, named="the end of the run")
            story.seen["waiting"] = {m.kind for m in story.store.messages(story.row.id) if m.state == "waiting"}
        finally:
            installation.start_keeper()  # other tests need it, too

    end = play(without_a_keeper, tmp_path)
    assert end.seen["waiting"] == {"post", "note", "resolve", "publish", "ticket", "archive"}
    _ended_as_if_nothing_had_happened(end)


def test_while_the_server_is_gone_a_change_ends_on_its_host_and_the_run_goes_on_afterwards(
    installation: Installation, tmp_path: Path
) -> None:
    def without_a_server(story: Story) -> None:
        hold = story.host.hold(FENCE)
        story.start()
        story.until(FENCE)
        server = installation.child("server")
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        try:
            hold.release()
            wait_for(story.lab.actions, named="the end of the change on its host")
            wait_for(
                lambda: "the acknowledgement ran out" in [p.why for p in story.lab.pagerduty.pages], named="a page"
            )
            story.seen["outcome"] = story.row.outcome
        finally:
            installation.start_server()
            wait_for(installation.answers, named="the server")  # other tests need it, too

    end = play(without_a_server, tmp_path)
    assert end.seen["outcome"] is None
    _ended_as_if_nothing_had_happened(end)
