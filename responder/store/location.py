"""Where our data lies: one folder, and in it the store unless a URL says otherwise."""

import functools
import os
from pathlib import Path

from responder.store.store import Store

HOME = "INCIDENT_HOME"
STORE_URL = "INCIDENT_STORE_URL"


def data_folder() -> Path:
    """The folder of all state: `INCIDENT_HOME`, else `.incident` in the current directory."""
    return Path(os.environ.get(HOME) or ".incident").resolve()


def incident_folder(incident_id: str) -> Path:
    """The folder of one incident's files (metrics snapshots, orders, post-mortem); made when missing."""
    folder = data_folder() / "incidents" / incident_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_store() -> Store:
    """The store of this installation, its schema brought up to date once for each process."""
    folder = data_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # Prefect's database joins it, with the secrets
    url = os.environ.get(STORE_URL) or f"sqlite:///{folder / 'incidents.db'}"
    _migrate(url)
    return Store(url)


@functools.cache
def _migrate(url: str) -> None:
    store = Store(url)
    store.migrate()
    store.close()
