"""Flows for the worker to run."""

import os
import time
from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings


@flow
def speaks() -> None:
    """Says of what process it is, and in which environment."""
    parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    settings = get_current_settings()
    get_run_logger().info(
        "forked: %s, word: %s, persists: %s, folder: %s",
        b"forkserver" in parent,
        os.environ.get("A_WORD"),
        settings.results.persist_by_default,
        os.listdir(),
    )


@flow
def waits(file: str) -> None:
    """Writes down its process and waits for its end."""
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)
