"""The second net under our leases: a run whose process died with all who watched it must not look alive.

Our own lease takes an incident up again. This is for what people see, and for the automations that they hang on
`prefect.flow-run.Crashed`. It needs nothing but Prefect's server, even when worker and keeper are gone for good.
"""

import logging
from datetime import timedelta

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import PrefectException

NAME = "a run of an incident without a heartbeat has crashed"
SILENCE = timedelta(minutes=10)
"""Longer than a server may be away: a heartbeat that it did not hear is no crash."""
TAG = "incident"
HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")

log = logging.getLogger(__name__)


class CrashDetection:
    """Makes the automation once. One that is there, switched off or changed by a person, stays as it is."""

    def __init__(self, silence: timedelta = SILENCE) -> None:
        self._silence = silence
        self._there = False

    def ensure(self) -> None:
        """Make it, unless it is there; tried again while Prefect does not answer."""
        if self._there:
            return
        try:
            with get_client(sync_client=True) as client:
                if not client.read_automations_by_name(NAME):
                    client.create_automation(automation(self._silence))
        except (httpx.HTTPError, PrefectException) as error:
            log.warning("crash detection waits for Prefect: %s", error)
        else:
            self._there = True


def automation(silence: timedelta) -> AutomationCore:
    """Sets a run of ours to Crashed that neither beats nor ends for so long.

    Source: https://docs.prefect.io/v3/advanced/detect-zombie-flows
    """
    said = f"no heartbeat for {silence.total_seconds():.0f} s"
    return AutomationCore(
        name=NAME,
        description="Prefect sees a crash by itself only while the worker that started the run lives.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}"},
            for_each={"prefect.resource.id"},
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDINGS)},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=said)],
    )
