"""A wave: the same task for several steps at once."""

from collections.abc import Sequence
from typing import Any, TypeVar

from prefect import Task
from prefect.futures import wait

from responder.domain.plan import PlanStep
from tasks.case import Case

Outcome = TypeVar("Outcome")


def at_once(task: Task[[Case, PlanStep], Outcome], case: Case, steps: Sequence[PlanStep]) -> dict[str, Outcome]:
    """The outcome of `task` for each step, by the step's id, once all have ended. Raises what one raised."""
    if len(steps) == 1:
        return {steps[0].id: task(case, steps[0])}
    futures: dict[str, Any] = {step.id: task.submit(case, step) for step in steps}
    wait(list(futures.values()))
    return {step_id: future.result() for step_id, future in futures.items()}
