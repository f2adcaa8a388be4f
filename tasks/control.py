"""A person holds the automation back, from the UI. The store has it from the moment that the task returns."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from responder.domain.notices import inline
from responder.store import open_store


@task(task_run_name="record it", cache_policy=NO_CACHE)
def flip_stop(*, stopped: bool, by: str, why: str) -> str:
    """Stop everything or lift it. Returns how it stands; the artifact `stop` shows it and all that went before."""
    store = open_store()
    store.stop(stopped=stopped, who=by, why=why)
    in_force = store.stopped()
    rows = [
        f"- {flip.at:%Y-%m-%d %H:%M:%S} UTC: {'stopped' if flip.stopped else 'lifted'} by {inline(flip.who)}: "
        f"{inline(flip.why)}"
        for flip in store.flips()[:50]
    ]
    state = f"everything is stopped: {in_force}" if in_force else "nothing is stopped"
    create_markdown_artifact("\n".join([f"**{inline(state)}**", "", *rows]), key="stop")
    return state


@task(task_run_name="record it", cache_policy=NO_CACHE)
def take_incident_over(incident_id: str, *, by: str, why: str) -> str:
    """Take it over. Raises as `Store.take_over`."""
    store = open_store()
    row = store.take_over(store.incident(incident_id).id, who=by, why=why)
    return f"{row.taken_by} has taken {row.id} over; `give_back` returns it to the automation"


@task(task_run_name="record it", cache_policy=NO_CACHE)
def give_incident_back(incident_id: str, *, by: str, why: str) -> str:
    """Give it back. Raises as `Store.give_back`."""
    store = open_store()
    row = store.give_back(store.incident(incident_id).id, who=by, why=why)
    return f"{row.id} is the automation's again: it looks at everything anew"
