"""One installation for the whole session: a Prefect server, a worker and a keeper of our own.

The environment is set before any test module imports Prefect, which takes its settings then.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from responder.installation import Installation, adopt
from responder.store import Store, open_store
from responder.store.location import STORE_URL

os.environ.pop(STORE_URL, None)  # ours alone: neither the user's nor another test process'
_HOME = Path(tempfile.mkdtemp(prefix="incident-tests-"))
_INSTALLATION = Installation(_HOME)
adopt(_INSTALLATION.environment)
settings.register_profile("here", deadline=None)  # a test tells nothing about how fast a machine is
settings.load_profile("here")


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """A running server, worker and keeper. Started once, when the first test asks for it."""
    with _INSTALLATION as running:
        yield running


@pytest.fixture
def store(installation: Installation) -> Iterator[Store]:
    """The installation's store."""
    opened = open_store()
    yield opened
    opened.close()


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    _INSTALLATION.stop()
    if not os.environ.get("INCIDENT_KEEP_TESTS"):
        shutil.rmtree(_HOME, ignore_errors=True)
