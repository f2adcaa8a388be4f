"""A storm of alerts while parts of us are down: nothing lost, one incident for each service.

1,000 alerts of 50 services, each sent three times over 20 connections by a sender that behaves like Alertmanager:
what is refused is sent again until it is taken, and a fifth more is offered each second than are to be accepted.
In the middle the receiver is killed and started again, and Prefect's server is gone for 20 s. Beside it stands
what the receiver answers at most, when the same connections send without a pause.
`python -m benchmarks.storm [--json] [--services N]`.
"""

import argparse
import http.client
import json
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from responder.installation import Installation, adopt, free_port

if TYPE_CHECKING:  # both bring Prefect, which takes its settings when it is imported: not before the installation
    from responder.lab.lab import RaisedAlert
    from responder.store import Store

ALERTS_EACH, TIMES, CONNECTIONS, CALM = 20, 3, 20, 500
GONE_S, RECEIVER_GONE_S, MOST_RUNS, DRAIN_S = 20.0, 1.0, 3, 900.0
OFFERED_PER_S = 240.0
AIM = {"accepted_per_s": 200, "p99_ms": 100, "lost": 0}
PAUSE_S, INTERVAL_S = 0.25, 2.0
SEED = 11


@dataclass
class Sender:
    """Twenty connections that send what is left again until it is taken, as Alertmanager does."""

    url: str
    token: str
    per_second: float = math.inf
    took_s: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    accepted: int = 0
    next_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send_all(self, bodies: list[bytes]) -> float:
        """Send them all; returns the seconds until the last was accepted."""
        began = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self._send_some, [bodies[n::CONNECTIONS] for n in range(CONNECTIONS)]))
        return time.monotonic() - began

    def _send_some(self, bodies: list[bytes]) -> None:
        # As little of a client as there is: it shares the machine with what it measures.
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        for body in bodies:
            time.sleep(self._until_its_turn())
            while not self._sent(connection, body):
                pass
        connection.close()

    def _until_its_turn(self) -> float:
        """Seconds; what was missed while nobody answered is not made up for in a burst."""
        with self.lock:
            at = time.monotonic()
            turn = max(at, self.next_at)
            self.next_at = turn + 1 / self.per_second
            return turn - at

    def _sent(self, connection: http.client.HTTPConnection, body: bytes) -> bool:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        began = time.perf_counter()
        try:
            connection.request("POST", urlsplit(self.url).path, body, headers)
            with connection.getresponse() as answer:
                answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            status = 0
        took_s = time.perf_counter() - began
        with self.lock:
            if status == 202:
                self.accepted += 1
                self.took_s.append(took_s)
                return True
            self.refused.append(status)
        time.sleep(INTERVAL_S if 400 <= status < 500 else PAUSE_S)
        return False


def main() -> int:
    """Play the storm, print it, and return 0 when the aims are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--services", type=int, default=50, help="how many services have alerts")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="incident-storm-"))
    with Installation(folder, receiver_port=free_port(), most_runs=MOST_RUNS) as installation:
        adopt(installation.environment)
        figures = _storm(installation, options.services)
    if options.json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if figures["ok"] else 1


def _storm(installation: Installation, services: int) -> dict[str, Any]:
    from responder.domain.base import now
    from responder.lab.alertmanager import webhook
    from responder.store import open_store

    store = open_store()
    names = [f"storm-{number}" for number in range(services)]
    _save(names)
    token = store.add_token("storm", sends_alerts=True)[1]
    alerts = [_alert(name, number) for name in names for number in range(ALERTS_EACH)]
    bodies = [webhook([alert]) for alert in alerts] * TIMES
    random.Random(SEED).shuffle(bodies)
    sender = Sender(f"{installation.receiver_url}/alerts/alertmanager", token, OFFERED_PER_S)
    calm = Sender(sender.url, token)
    # The same receiver, one alert, nothing else going on.
    most_per_s = CALM / calm.send_all([webhook([_alert(names[0], -1)])] * CALM)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as aside:
        sending = aside.submit(sender.send_all, bodies)
        # In the main thread, by which children live and die.
        gone_s, peak_mib = _break(installation, sender, len(bodies))
        sent_s = sending.result()
    while store.due_receipts(now(), limit=1):
        time.sleep(0.2)
    decided_s = time.monotonic() - began
    drained_s = _drained(store, services, began)
    peak_mib = max(peak_mib, _memory_mib(installation))
    incidents = [row for row in store.incidents(limit=10_000) if row.service in names]
    receipts = [row for row in store.receipts(limit=100_000) if row.name != "Storm-1"]
    lost = len(alerts) - len({row.fingerprint for row in receipts if row.incident_id})
    took = sorted(sender.took_s)
    figures: dict[str, Any] = {
        "alerts": len(alerts),
        "posts": len(bodies),
        "incidents": len(incidents),
        "receipts": len(receipts),
        "repeats": sum(row.times - 1 for row in receipts),
        "lost": lost,
        "accepted_per_s": round(len(bodies) / (sent_s - gone_s), 1),
        "p50_ms": round(statistics.median(took) * 1000, 1),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 1),
        "most_per_s": round(most_per_s, 1),
        "gone_s": round(gone_s, 1),
        "calm_p50_ms": round(statistics.median(calm.took_s) * 1000, 1),
        "answered_otherwise": len(sender.refused),
        "decided_after_s": round(decided_s, 1),
        "drained_after_s": drained_s,
        "peak_mib": peak_mib,
        "aim": {**AIM, "incidents": services, "receipts": len(alerts)},
    }
    figures["p50_ratio"] = round(figures["p50_ms"] / max(figures["calm_p50_ms"], 0.1), 1)
    figures["ok"] = (
        figures["incidents"] == services
        and figures["receipts"] == len(alerts)
        and lost == 0
        and figures["accepted_per_s"] >= AIM["accepted_per_s"]
        and figures["p99_ms"] <= AIM["p99_ms"]
    )
    store.close()
    return figures


def _break(installation: Installation, sender: Sender, posts: int) -> tuple[float, int]:
    """Kill the receiver after a third of the posts, then the server for a while.

    Returns how many seconds the receiver did not answer, and the MiB that it had before.
    """
    while sender.accepted < posts / 3:
        time.sleep(0.01)
    before_mib = _memory_mib(installation)
    receiver, server = installation.child("receiver"), installation.child("server")
    receiver.kill()
    receiver.wait()
    server.kill()
    server.wait()
    began = time.monotonic()
    time.sleep(RECEIVER_GONE_S)
    installation.start_receiver()
    while not installation.receiver_answers() and time.monotonic() - began < GONE_S:
        time.sleep(0.01)
    gone_s = time.monotonic() - began
    time.sleep(max(0.0, GONE_S - gone_s))
    installation.start_server()
    return gone_s, before_mib


def _memory_mib(installation: Installation) -> int:
    """The most memory that the receiver has used since it was started, MiB (proc(5), VmHWM)."""
    status = Path(f"/proc/{installation.child('receiver').pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def _save(names: list[str]) -> None:
    """Save services that are live and cannot be reached: this is about what happens before."""
    from blocks.service import save_service
    from tests.factories import profile

    for name in names:
        hosts = [{"name": "gw-1", "address": "127.0.0.1", "port": 1}]
        alerts = {"match": {"service": name}, "rules": [{"name": ".*", "severity": "P3"}]}
        save_service(profile(name=name, mode="live", hosts=hosts, alerts=alerts), {"SHOP_SSH_KEY": "none"})


def _alert(service: str, number: int) -> "RaisedAlert":
    from responder.domain.base import now
    from responder.lab.lab import RaisedAlert

    name = f"Storm{number}"
    return RaisedAlert(
        name=name,
        labels={"alertname": name, "service": service, "instance": f"{service}-{number}"},
        annotations={"summary": f"{name} of {service}"},
        fingerprint=f"{service}-{number}",
        starts_at=now() - timedelta(seconds=10),
        group_key=f"{{}}:{{service={service}}}",
    )


def _drained(store: "Store", services: int, began: float) -> float | None:
    """Seconds from the storm's beginning until the run of each incident has ended; None: not in time."""
    while time.monotonic() - began < DRAIN_S:
        ended = [row for row in store.incidents(limit=10_000) if row.outcome is not None]
        if len(ended) >= services:
            return round(time.monotonic() - began, 1)
        time.sleep(1)
    return None


def _print(figures: dict[str, Any]) -> None:
    table = Table("figure", "value", title="a storm of alerts")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
