"""When a task may be tried again."""

from typing import Any

from responder.domain.errors import TransientError


def transient_only(task: Any, run: Any, state: Any) -> bool:  # noqa: ARG001 - Prefect calls it so
    """Only errors that changed nothing and may pass. A plain function: Prefect ignores any other callable."""
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, it is not worth a retry
        return False
    return False
