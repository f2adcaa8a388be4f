"""The forms that a paused run shows to people, and how their answers are waited for."""

import asyncio
import itertools
from enum import StrEnum
from functools import partial
from typing import TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from prefect.input.actions import aread_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.runtime import flow_run
from pydantic import Field

from responder.domain.approval import Decision
from tasks.retrying import is_away, outlast

# Far beyond our own deadline: Prefect turns every later state of a run whose pause timed out into Failed.
PAUSE_LIMIT_S = 7 * 24 * 3600
POLL_S = 1
Form = TypeVar("Form", bound=RunInput)


class Closing(StrEnum):
    """What a person may answer when an incident could be closed."""

    CLOSE = "close"
    KEEP_OPEN = "keep open"


class ApprovalForm(RunInput):
    """Approve the step, decline it, or name another strategy."""

    decision: Decision = Field(Decision.DECLINE, description="What to do.")
    strategy: str = Field("", description="Only for `another strategy`: which one, like restart or rollback.")
    by: str = Field(min_length=2, description="Your name, for the record.")
    why: str = Field("", description="What speaks for it, one sentence.")


class ClosingForm(RunInput):
    """Close a confirmed incident, or keep it open."""

    decision: Closing = Field(Closing.KEEP_OPEN, description="Close the incident, or keep it open.")
    by: str = Field(min_length=2, description="Your name, for the record.")
    why: str = Field("", description="What speaks for it, one sentence.")


async def answer_to(form: type[Form], key: str) -> Form:
    """Pause the run with the form until a person has answered it. Raises `FlowPauseTimeout` after a week.

    A server that is away meanwhile is waited for: what was answered before we noticed that it is back is read, and
    a run that is paused still is not paused again, which Prefect takes for its end. The `key` must be new.
    """
    for number in itertools.count():
        try:
            return await apause_flow_run(
                wait_for_input=form, timeout=PAUSE_LIMIT_S, poll_interval=POLL_S, key=f"{key}-{number}"
            )
        except Exception as error:
            if not is_away(error):
                raise
        if given := await outlast(partial(_answer_of_paused, form, f"paused-{key}-{number}")):
            return given
    raise AssertionError("numbers do not end")


async def _answer_of_paused(form: type[Form], base_key: str) -> Form | None:
    """The answer once the run is paused no more; None: there is none, and it may be paused anew.

    A run that was paused just before its server went away has no form yet, and nobody could answer it.
    """
    keyset = keyset_from_base_key(base_key)
    async with get_client() as client:
        state = (await client.read_flow_run(UUID(flow_run.id))).state
        if state and state.is_paused() and await aread_flow_run_input(keyset["schema"]) is None:
            await form.asave(keyset)
        while (state := (await client.read_flow_run(UUID(flow_run.id))).state) and state.is_paused():
            await asyncio.sleep(POLL_S)
    given = await aread_flow_run_input(keyset["response"])
    return form(**given) if given else None
