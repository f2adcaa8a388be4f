"""How soon after an alert somebody knows: the page acknowledged, and the first line of the incident's run.

Against the stock process worker with default settings, in the same run: the same flow, in a pool of its own.
`python -m benchmarks.first_action [--json] [--rounds N]`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from responder.installation import Installation, adopt, free_port

if TYPE_CHECKING:  # Prefect takes its settings when it is imported: not before the installation
    from responder.lab.lab import Lab
    from responder.store import Store

AIM = {"acknowledge_s": 1.0, "first_line_s": 3.0, "ratio": 2.0}
PATIENCE_S = 120.0
STOCK = """
name: stock
pull: []
deployments:
  - name: stock
    entrypoint: flows.incident.incident
    work_pool: {name: stock}
"""


def main() -> int:
    """Measure, print, and return 0 when the aims are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of incidents; medians are reported")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="incident-first-"))
    with Installation(folder / "home", receiver_port=free_port()) as installation:
        adopt(installation.environment)
        with _stock_worker(installation, folder):
            rounds = [_round(installation, folder / f"round-{number}") for number in range(options.rounds)]
    figures: dict[str, Any] = {
        name: round(statistics.median(one[name] for one in rounds), 2)
        for name in ("acknowledge_s", "first_line_s", "stock_first_line_s")
    }
    figures["ratio"] = round(figures["stock_first_line_s"] / figures["first_line_s"], 2)
    figures |= {"rounds": options.rounds, "aim": AIM}
    figures["ok"] = (
        figures["acknowledge_s"] < AIM["acknowledge_s"]
        and figures["first_line_s"] < AIM["first_line_s"]
        and figures["ratio"] >= AIM["ratio"]
    )
    if options.json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if figures["ok"] else 1


@contextmanager
def _stock_worker(installation: Installation, folder: Path) -> Iterator[None]:
    """A process worker as `prefect worker start` gives it: no setting of ours but where the server is."""
    file = folder / "prefect.yaml"
    file.write_text(STOCK)
    installation.run("prefect", "work-pool", "create", "stock", "--type", "process")
    installation.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    environment = {k: v for k, v in installation.environment.items() if k != "PREFECT_WORKER_QUERY_SECONDS"}
    with (folder / "stock.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "stock", "--type", "process"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        while "started" not in (folder / "stock.log").read_text():
            time.sleep(0.2)
        yield
    finally:
        worker.kill()
        worker.wait()


def _round(installation: Installation, folder: Path) -> dict[str, float]:
    from responder.store import open_store

    store = open_store()
    try:
        ours, stock = _ours(installation, store, folder / "ours"), _stock(store, folder / "stock")
    finally:
        store.close()
    return {**ours, "stock_first_line_s": stock}


def _ours(installation: Installation, store: "Store", folder: Path) -> dict[str, float]:
    """Seconds from the POST to the acknowledgement at PagerDuty's stand-in, and to the run's first phase."""
    from responder.lab.alertmanager import post, webhook
    from tests.lab_runs import wait_for

    token = store.add_token("first action", sends_alerts=True)[1]
    with _broken(folder) as lab:
        raised = lab.wait_for_alert()
        began = time.time()
        status = post(f"{installation.receiver_url}/alerts/alertmanager", token, webhook([raised]))
        if status != 202:
            sys.exit(f"the receiver answered {status}; see {installation.home}/logs")
        first_s = _first_line(store, lab.service, began)
        acknowledged = wait_for(partial(_acknowledgements, lab, raised.incident_key), named="the acknowledgement")
        return {"acknowledge_s": min(acknowledged).timestamp() - began, "first_line_s": first_s}


def _acknowledgements(lab: "Lab", key: str) -> list[datetime]:
    pages = [page for page in lab.pagerduty.incidents if page.incident_key == key]
    return [at for page in pages for _, at in page.acknowledgements]


def _stock(store: "Store", folder: Path) -> float:
    from prefect.client.orchestration import get_client

    with _broken(folder) as lab:
        raised = lab.wait_for_alert()
        began = time.time()
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("incident/stock")
            alerts = [raised.alert.model_dump(mode="json")]
            parameters = {"summary": raised.name, "alerts": alerts, "service": lab.service}
            client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        return _first_line(store, lab.service, began)


@contextmanager
def _broken(folder: Path) -> Iterator["Lab"]:
    """A broken lab, whose incident is waited for at the end: the next one has the machine for itself."""
    from responder.store import open_store
    from tests.lab_runs import broken_lab, wait_for

    with broken_lab("process-crash", folder) as lab:
        yield lab
        store = open_store()
        wait_for(lambda: all(row.outcome for row in store.incidents()), named="the incident's end")
        store.close()


def _first_line(store: "Store", service: str, began: float) -> float:
    """Seconds until the run of the service's incident has begun its first phase."""
    deadline = time.time() + PATIENCE_S
    while time.time() < deadline:
        for row in store.incidents():
            if row.service == service and (phases := store.phases(row.id)):
                return phases[0].started_at.timestamp() - began
        time.sleep(0.05)
    sys.exit(f"no run of {service} has begun within {PATIENCE_S:g} s")


def _print(figures: dict[str, Any]) -> None:
    table = Table("figure", "value", title="after an alert, medians")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
