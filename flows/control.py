"""What a person starts to hold the automation back: stop everything, take an incident over, give it back."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.control import flip_stop, give_incident_back, take_incident_over

Id = Annotated[str, Field(min_length=1, examples=["aba3d199952b"])]
Name = Annotated[str, Field(min_length=2, max_length=100, examples=["Robin"])]
Why = Annotated[str, Field(min_length=3, max_length=1_000, examples=["The exchange asked us to touch nothing"])]


@flow(name="stop", flow_run_name="stop everything: {why}")
async def stop(by: Name, why: Why) -> str:
    """Stop everything: from this moment nothing is changed anywhere, until `lift` is run.

    Args:
        by: Your name, for the record.
        why: Why, for everybody who is refused.
    """
    return flip_stop(stopped=True, by=by, why=why)


@flow(name="lift", flow_run_name="lift the stop: {why}")
async def lift(by: Name, why: Why) -> str:
    """Lift the stop: the automation may change things again.

    Args:
        by: Your name, for the record.
        why: Why it is safe again.
    """
    return flip_stop(stopped=False, by=by, why=why)


@flow(name="take_over", flow_run_name="take over {incident_id}")
async def take_over(incident_id: Id, by: Name, why: Why) -> str:
    """Take an incident over: the automation observes and advises, and changes nothing for it any more.

    Args:
        incident_id: Id of the incident, like `aba3d199952b`; `incident list` shows them.
        by: Your name, for the record.
        why: Why, for the timeline.
    """
    return take_incident_over(incident_id, by=by, why=why)


@flow(name="give_back", flow_run_name="give back {incident_id}")
async def give_back(incident_id: Id, by: Name, why: Why) -> str:
    """Give an incident back: the automation looks at everything anew and goes on with what was not tried yet.

    Args:
        incident_id: Id of the incident, like `aba3d199952b`; `incident list` shows them.
        by: Your name, for the record.
        why: What you did meanwhile, for the timeline.
    """
    return give_incident_back(incident_id, by=by, why=why)
