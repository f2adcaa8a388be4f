"""Take the pictures of the documentation: run drills, and photograph Prefect's pages while and after they run.

`python docs/take_pictures.py "CAMERA"`: CAMERA is a command that is called with a URL, a PNG file, a size like
1280x800, `--settle SECONDS` and some `--fill CSS=TEXT` and `--click CSS`. It takes a picture of that page with a
real browser so many seconds after all is loaded, filled in and clicked.
"""

import argparse
import json
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from responder.cli.drill import run_drill
from responder.installation import Installation, server_password
from responder.lab.scenario import Person, Scenario, load_scenario
from responder.store import open_store
from responder.store.tables import IncidentRow

PICTURES = Path(__file__).parent / "pictures"
PAGE, LIST = "1280x1330", "1280x1100"
SETTLE_S = 8  # task rows reach Prefect's server seconds late
DRAW_S = 8  # a run's graph is drawn, and put into its frame, after the page is loaded
PASSWORD, LOG_IN = "input", 'button:has-text("Login")'
RESUME = 'button:has-text("Resume")'


def main() -> None:
    """Take all pictures. Raises CalledProcessError when the camera fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camera", help="command that takes URL, file and size")
    camera = parser.parse_args().camera

    with tempfile.TemporaryDirectory() as home, Installation(Path(home)) as installation:

        def take(name: str, url: str, size: str = PAGE, *more: str) -> None:
            picture, login = str(PICTURES / f"{name}.png"), f"{installation.ui_url}/login?redirect="
            log_in = ("--fill", f"{PASSWORD}={server_password(installation.home)}", "--click", LOG_IN)
            page = login + quote(url.removeprefix(installation.ui_url))
            subprocess.run(
                [*shlex.split(camera), page, picture, size, "--settle", f"{DRAW_S}", *log_in, *more], check=True
            )

        silent = load_scenario("lost-primary").model_copy(update={"people": (Person(decision="silent"),)})
        finished = _play(load_scenario("process-crash"), installation, until=_mitigates)
        take("running", finished)
        escalated = _play(load_scenario("crash-after-restart"), installation, until=_ended)
        waiting = _play(silent, installation, until=_asks)
        time.sleep(SETTLE_S)
        take("approval", waiting, PAGE, "--click", RESUME)
        take("run", finished)
        take("escalated", escalated)
        # By the deployment: else the list shows the phases' runs, too.
        take("list", f"{installation.ui_url}/runs?deployment={_deployment(installation)}", LIST)


def _deployment(installation: Installation) -> str:
    """The id of the deployment `incident`."""
    shown = installation.run("prefect", "deployment", "inspect", "incident/incident", "--output", "json")
    return str(json.loads(shown)["id"])


def _play(scenario: Scenario, installation: Installation, *, until: Callable[[IncidentRow], bool]) -> str:
    """Begin a drill in a thread of its own; returns its run's URL when the incident has come so far."""
    known = {row.id for row in open_store().incidents()}
    threading.Thread(target=run_drill, args=(scenario, installation), kwargs={"seed": None}, daemon=True).start()
    while True:
        for row in open_store().incidents():
            if row.id not in known and until(row):
                return f"{installation.ui_url}/runs/flow-run/{row.run_id}"
        time.sleep(0.5)


def _asks(row: IncidentRow) -> bool:
    from responder.cli.records import asked_about  # Prefect takes its settings when it is first imported

    return asked_about(open_store(), row) is not None


def _mitigates(row: IncidentRow) -> bool:
    return any(attempt.acted_at for attempt in open_store().attempts(row.id))


def _ended(row: IncidentRow) -> bool:
    return row.outcome is not None


if __name__ == "__main__":
    main()
