"""People hold the automation back: they take over, give back, and are asked again about what has changed.

The incidents run side by side on the session's installation; each test looks at the end of one.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from blocks.service import save_service
from responder.cli.drill import lab_profile
from responder.domain.approval import Answer, Decision
from responder.domain.errors import PermanentError
from responder.domain.incident import Approvers
from responder.domain.profile import Profile
from responder.installation import Installation
from responder.store.people import Asked
from tests.lab_runs import has_form, wait_ended, wait_for
from tests.stories import FENCE, End, Story, patient, play, play_all

YES = Decision.APPROVE


def asks(approvers: Approvers = Approvers.ANYONE) -> Callable[[Profile], Profile]:
    """A profile whose restart is never taken without a person."""

    def changed(profile: Profile) -> Profile:
        careful = {"severities": (), "approvers": approvers}
        restart = profile.strategies["restart"].model_copy(update=careful)
        return patient(profile).model_copy(update={"strategies": {"restart": restart}})

    return changed


def asks_for_a_short_time(profile: Profile) -> Profile:
    """The same, and an answer is waited for 30 s only."""
    asking = asks()(profile)
    return asking.model_copy(update={"clocks": asking.clocks.model_copy(update={"approval_s": 300})})


def question(story: Story, number: int = 1) -> Asked:
    """The question of that number, once the run waits for its answer in a form."""

    def paused() -> Asked | None:
        asked = story.store.questions(story.row.id)
        return asked[number - 1] if len(asked) >= number and has_form(story.run_id) else None

    return wait_for(paused, named=f"question {number}")


def answer(story: Story, asked: Asked, decision: Decision = YES, by: str = "Ann", *, proven: bool = False) -> None:
    said = Answer(decision=decision, by=by, why="it is safe", proven=proven)
    story.store.answer(story.row.id, asked.question.digest, said)


def fill_in_the_form(story: Story, by: str) -> None:
    """Resume the paused run as the UI does, with a name that nothing proves."""
    with get_client(sync_client=True) as client:
        given = {"decision": "approve", "by": by, "why": "typed into the form", "strategy": ""}
        taken = client.resume_flow_run(UUID(story.run_id), run_input=given)
    assert taken.status.value == "ACCEPT", taken


def wait_until_it_observes(story: Story) -> None:
    def observes() -> bool:
        leases = story.store.leases()
        return any("observe" in lease.step for lease, row in leases if row.run_id == story.run_id)

    wait_for(observes, named="observing")


def taken_over_and_given_back(story: Story) -> None:
    hold = story.hold_the_look_before_acting()
    story.store.take_over(story.row.id, who="Ann", why="I know this one")
    hold.release()
    wait_until_it_observes(story)
    story.seen["before"] = len(story.lab.actions())
    with pytest.raises(PermanentError, match="taken over by Ann"):
        story.store.take_over(story.row.id, who="Bob", why="me too")
    story.store.give_back(story.row.id, who="Ann", why="go on")


def given_back_after_its_end(story: Story) -> None:
    hold = story.hold_the_look_before_acting()
    story.store.take_over(story.row.id, who="Ann", why="I know this one")
    hold.release()
    ended = wait_ended(story.store, story.run_id)
    story.seen["first end"] = (ended.outcome, len(story.lab.actions()))
    pages = story.lab.pagerduty
    wait_for(lambda: pages.incidents[0].status == "triggered", named="the end of the snooze: nobody is at work")
    story.store.give_back(story.row.id, who="Ann", why="I could not find it")


def taken_over_between_intent_and_action(story: Story) -> None:
    late = story.host.hold(FENCE)
    story.start()
    story.until(FENCE)
    story.kill()
    story.store.take_over(story.row.id, who="Ann", why="not like this")
    wait_until_it_observes(story)
    late.release(run=True)
    wait_ended(story.store, story.run_id)


def approved_as_it_was_before(story: Story) -> None:
    """The profile is edited while people think: their yes is to something else."""
    story.start()
    first = question(story)
    profile, secrets = lab_profile(story.lab.facts())
    tight = asks()(profile).strategies["restart"].model_copy(update={"at_once": 1})
    save_service(asks()(profile).model_copy(update={"strategies": {"restart": tight}}), secrets)
    answer(story, first)
    second = question(story, 2)
    story.seen["actions before the second yes"] = len(story.lab.actions())
    with pytest.raises(PermanentError, match="does not ask"):
        answer(story, first, by="Bob")
    answer(story, second, by="Bob")


def two_persons_needed(story: Story) -> None:
    story.start()
    asked = question(story)
    fill_in_the_form(story, by="Ann")  # a name that anybody could have typed
    wait_for(lambda: story.store.questions(story.row.id)[0].answers, named="the form's answer")
    answer(story, asked, by="Ann", proven=True)
    answer(story, asked, by="Ann", proven=True)
    time.sleep(2)  # long enough for a run that would go on now
    story.seen["decided by one"] = story.store.questions(story.row.id)[0].decided
    answer(story, asked, by="Bob", proven=True)


def nobody_answers(story: Story) -> None:
    story.start()
    story.seen["asked"] = question(story).question


def killed_while_people_think(story: Story) -> None:
    story.start()
    asked = question(story)
    story.kill()
    answer(story, asked)


@pytest.fixture(scope="module")
def ends(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Future[End]]:
    """The ends of the stories, by their names; `result()` raises what a story ran into."""
    assert installation
    folder = tmp_path_factory.mktemp("hands")
    told = {
        given_back_after_its_end: patient,
        killed_while_people_think: asks(),
        nobody_answers: asks_for_a_short_time,
        taken_over_between_intent_and_action: patient,
        taken_over_and_given_back: patient,
        approved_as_it_was_before: asks(),
        two_persons_needed: asks(Approvers.TWO),
    }
    return play_all(
        {story.__name__: partial(play, story, folder, profile=profile) for story, profile in told.items()}
    )


def _resolved_by_one_restart(end: End) -> None:
    assert (end.row.outcome, end.row.status, end.state) == ("resolved", "closed", "Completed"), end.row.reason
    assert [action.verb for action in end.actions] == ["restart"]
    assert end.page == "resolved"


def test_whoever_takes_over_is_observed_and_advised_and_may_give_back(ends: Mapping[str, Future[End]]) -> None:
    end = ends["taken_over_and_given_back"].result()
    assert end.seen["before"] == 0
    [advice] = [made.why for made in end.decisions if made.what.startswith("observes, advises")]
    assert "Ann has taken the incident over" in advice
    assert "it would try next: restart on" in advice
    _resolved_by_one_restart(end)
    assert {"takes over", "gives it back"} <= {made.what for made in end.decisions}
    names = [phase.name for phase in end.phases]
    assert "round 1: diagnose" in names, "what was found before is kept beside what was found anew"
    assert "diagnose" in names


def test_an_incident_that_ended_as_taken_over_is_taken_up_when_it_is_given_back(
    ends: Mapping[str, Future[End]],
) -> None:
    end = ends["given_back_after_its_end"].result()
    assert end.seen["first end"] == ("taken_over", 0)
    _resolved_by_one_restart(end)


def test_an_intent_that_a_person_overtakes_is_barred_for_good(ends: Mapping[str, Future[End]]) -> None:
    end = ends["taken_over_between_intent_and_action"].result()
    assert (end.row.outcome, end.actions) == ("taken_over", [])
    assert [attempt.state for attempt in end.attempts] == ["barred"]


def test_a_yes_to_what_has_changed_since_is_asked_for_again(ends: Mapping[str, Future[End]]) -> None:
    end = ends["approved_as_it_was_before"].result()
    assert end.seen["actions before the second yes"] == 0
    _resolved_by_one_restart(end)


def test_two_persons_are_two_tokens_and_never_a_name_in_a_form(ends: Mapping[str, Future[End]]) -> None:
    end = ends["two_persons_needed"].result()
    assert end.seen["decided by one"] is None
    _resolved_by_one_restart(end)


def test_silence_is_no_yes_and_calls_a_person(ends: Mapping[str, Future[End]]) -> None:
    end = ends["nobody_answers"].result()
    assert (end.row.outcome, end.row.status, end.actions) == ("escalated", "open", [])
    assert "nobody answered in time" in end.row.reason
    assert end.page == "triggered"
    assert "escalated" in end.pages


def test_a_run_that_dies_while_people_think_asks_nobody_twice(ends: Mapping[str, Future[End]]) -> None:
    end = ends["killed_while_people_think"].result()
    _resolved_by_one_restart(end)
    assert len([made for made in end.decisions if made.what.startswith("asks a person")]) == 1
    assert len([made for made in end.decisions if made.what.startswith("answered")]) == 1
