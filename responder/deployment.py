"""`python -m responder.deployment MOST_RUNS FILE`: our work pool as it should be, and what `prefect.yaml` deploys.

One process for both: each of Prefect's own commands takes seconds to begin.
"""

import sys
import time

from prefect.cli import app
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from responder.installation import POOL
from responder.worker import WarmWorker

POOL_S = 120
"""The worker makes the pool when it starts; a slow machine takes long for that."""
POLL_S = 0.1


def main() -> None:
    """Set the pool's limit, which is the pool's and not the worker's, and deploy.

    A worker that has a limit of its own dies when a run that it has started is handed to it again, as the keeper
    does with a crashed run ("this borrower is already holding").
    """
    most_runs, file = sys.argv[1:]
    template = WarmWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        _wait_for_the_pool(client)
        wanted = WorkPoolUpdate(base_job_template=template, concurrency_limit=int(most_runs))
        client.update_work_pool(POOL, wanted)
    sys.argv[1:] = ["--no-prompt", "deploy", "--all", "--prefect-file", file]
    app()


def _wait_for_the_pool(client: SyncPrefectClient) -> None:
    deadline = time.monotonic() + POOL_S
    while True:
        try:
            client.read_work_pool(POOL)
            return
        except ObjectNotFound:
            if time.monotonic() > deadline:
                sys.exit(f"no worker has made the pool {POOL} within {POOL_S} s; its log says why")
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
