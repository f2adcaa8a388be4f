"""What all hosts of a lab share: a Kubernetes deployment and a database with its standby, kept in one JSON file.

The gateway reads the same file (`gateway.py`), so that what is done by a command shows in what it answers.
"""

import fcntl
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from responder.lab.gateway import ready_replicas

REPLICAS = 2
State = dict[str, dict[str, Any]]


def healthy(namespace: str, deployment: str, primary: str, standby: str) -> State:
    """The state in which nothing is wrong. Times are seconds since the epoch."""
    return {
        "deployment": {
            "namespace": namespace,
            "name": deployment,
            "exists": True,
            "replicas": REPLICAS,
            "generation": 1,
            "version": random.randint(10_000, 900_000),
            "created_at": time.time() - 30 * 86400,
            "scaled_at": 0,
            "ready_before": REPLICAS,
            "never_ready": False,
        },
        "database": {
            "primary": primary,
            "standby": standby,
            "lost": False,
            "in_recovery": True,
            "stays_in_recovery": False,
            "lag_s": 0.1,
            "quorum": True,
            "fenced": False,
        },
    }


class Shared:
    """The file. Written whole under a lock and put in place at once, so that readers need none."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def read(self) -> State:
        state: State = json.loads(self.path.read_text())
        return state

    def write(self, state: State) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(self.path)

    def change(self, change: Callable[[State], Any]) -> Any:
        """Change the state as one; gives what `change` gives. What it raises leaves the state as it was."""
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            result = change(state)
            self.write(state)
        return result

    def heal(self) -> None:
        """Everything as at the beginning, under the same names."""

        def change(state: State) -> None:
            at, db = state["deployment"], state["database"]
            state |= healthy(at["namespace"], at["name"], db["primary"], db["standby"])

        self.change(change)


def scale(deployment: dict[str, Any], replicas: int) -> None:
    """What the API server does for `kubectl scale`; the replicas become ready a moment later."""
    deployment["ready_before"] = ready_replicas(deployment, time.time())
    deployment["replicas"], deployment["scaled_at"] = replicas, time.time()
    deployment["generation"] += 1
    deployment["version"] += random.randint(3, 60)
