"""Prefect's own API, as far as we write into it: the run's name and tags, artifacts, scheduled runs.

Prefect is what people see; nothing is decided by what stands here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.states import Completed, Failed, Scheduled

from responder.domain.incident import NO_RUN, Ending
from responder.domain.timeline import Entry

PAGE = 200
MAX_DEPTH = 3


def run_url(run_id: str) -> str:
    """The link that people follow to a run; to all of them while there is none."""
    base = PREFECT_UI_URL.value() or str(PREFECT_API_URL.value() or "").removesuffix("/api")
    return f"{base}/runs" if run_id.startswith(NO_RUN) else f"{base}/runs/flow-run/{run_id}"


def final_state(ending: Ending) -> State[Any]:
    """The run's final state: Completed, or Failed with the reason that people read in the list of runs."""
    message = f"{ending.outcome.value}: {ending.reason}"[:1_000]
    data = ending.model_dump(mode="json")
    return (
        Completed(message=message, data=data) if ending.outcome.succeeded else Failed(message=message, data=data)
    )


class RunPage:
    """One run's page in Prefect, written over one connection. Use as a context manager."""

    def __init__(self, run_id: str) -> None:
        self.run_id = UUID(run_id)

    def __enter__(self) -> Self:
        self._client = get_client(sync_client=True)
        self._client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.__exit__(*error)

    def label(self, *, name: str, tags: Sequence[str]) -> None:
        """Name and tags: what happened, how bad, to whom."""
        run = self._client.read_flow_run(self.run_id)
        if (run.name, sorted(run.tags)) != (name, sorted(tags)):  # a write may hold up the run's own ones
            # The client's own method cannot set tags.
            labels = {"name": name, "tags": sorted(tags)}
            self._client._client.patch(f"/flow_runs/{self.run_id}", json=labels).raise_for_status()

    def show(self, artifacts: Mapping[str, tuple[str, str]]) -> None:
        """Write artifacts, `{key: (Markdown, description)}`; those that the run has already are replaced."""
        known = {
            artifact.key: artifact
            for artifact in self._client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[self.run_id])), limit=PAGE
            )
        }
        for key, (markdown, description) in artifacts.items():
            if key not in known:
                self._client.create_artifact(
                    ArtifactCreate(
                        key=key, type="markdown", data=markdown, description=description, flow_run_id=self.run_id
                    )
                )
            elif known[key].data != markdown:
                self._client.update_artifact(known[key].id, ArtifactUpdate(data=markdown))

    def history(self) -> tuple[Entry, ...]:
        """The run's phases and tasks as timeline entries, as far as the server shows them by now."""
        runs = _tree(self._client, self.run_id)
        entries = [_phase_entry(run) for run in runs if run.id != self.run_id and run.start_time]
        offset = 0
        while True:
            page = self._client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs])),
                sort=TaskRunSort.EXPECTED_START_TIME_ASC,
                limit=PAGE,
                offset=offset,
            )
            entries += [_task_entry(row) for row in page if row.start_time and not _is_subflow(row)]
            if len(page) < PAGE:
                return tuple(entries)
            offset += PAGE


def schedule_review(incident_id: str, at: datetime, *, title: str) -> None:
    """Schedule the post-mortem's review as a run of `post_incident`; asked twice, it is scheduled once.

    `title` says in the list of runs which incident it is.
    """
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("post_incident/post_incident")
        client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"incident_id": incident_id},
            state=Scheduled(scheduled_time=at),
            idempotency_key=f"review-{incident_id}",
            name=f"review of {title}"[:200],
            tags=["review", f"incident:{incident_id}"],
        )


def _tree(client: SyncPrefectClient, root: UUID) -> list[FlowRun]:
    found = [client.read_flow_run(root)]
    level = [root]
    for _ in range(MAX_DEPTH):
        children = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=level)), limit=PAGE
        )
        if not children:
            break
        found += children
        level = [child.id for child in children]
    return found


def _is_subflow(row: TaskRun) -> bool:
    return bool(row.state and row.state.state_details.child_flow_run_id)


def _phase_entry(run: FlowRun) -> Entry:
    step = next(iter(run.parameters.get("step_ids", [])), None)
    name = (run.name or "").split(":")[0]
    assert run.start_time is not None
    return Entry(
        at=run.start_time,
        id=f"phase:{name}:{step}" if step else f"phase:{name}",
        source="phase",
        text=f"phase: {run.name}",
    )


def _task_entry(row: TaskRun) -> Entry:
    assert row.start_time is not None
    state = (row.state.name or "unknown").lower() if row.state else "unknown"
    return Entry(at=row.start_time, id=f"task:{row.id}", source="run", text=f"{row.name} ({state})")
