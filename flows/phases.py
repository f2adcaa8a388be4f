"""Running one phase: skip what the store already has, count the starts, keep the outcome."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from responder.domain.base import Frozen
from responder.domain.errors import PermanentError
from responder.domain.incident import IncidentRef
from responder.domain.notices import plain
from tasks.case import open_case
from tasks.retrying import outlast

Outcome = TypeVar("Outcome", bound=Frozen)
MOST_STARTS = 2
SAID = ("reason", "progress", "severity_reason")


def wave_name() -> str:
    """What a run of a wave's phase is called, like `mitigate: restart-gw-1`."""
    name = (flow_run.flow_name or "").partition("-")[0]
    return f"{name}: {', '.join(flow_run.parameters['step_ids'])}"[:200]


def incident_name() -> str:
    """What an incident's run is called until it has a severity."""
    return f"incident: {plain(flow_run.parameters['summary'])}"


async def run_phase(
    ref: IncidentRef, name: str, kind: type[Outcome], phase: Callable[[], Awaitable[Outcome]]
) -> Outcome:
    """The outcome of the phase called `name`: from the store when it has ended before, else by running it.

    Raises `PermanentError` when the phase has been begun and lost twice already: a person must look.
    """
    case = open_case(ref)
    begun = case.store.begin_phase(ref.incident_id, ref.epoch, name)
    if begun.outcome is not None:
        return kind.model_validate(begun.outcome)
    if begun.starts > MOST_STARTS:
        raise PermanentError(f"{name} was begun {begun.starts - 1} times and the run was lost each time")

    async def go_through() -> Outcome:
        outcome = await phase()  # without tags: Prefect asks its server for a slot of each tag before each task
        case.store.end_phase(ref.incident_id, ref.epoch, name, outcome.model_dump(mode="json"))
        return outcome

    outcome = await outlast(go_through)
    # The logs are what a run's page shows first.
    said = next((words for field in SAID if (words := getattr(outcome, field, None))), "done")
    get_run_logger().info("%s: %s", name, plain(said))
    return outcome
