"""A real Prometheus and a real Alertmanager, configured as the README says: one incident from scrape to end."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_pages import README, blocks

from responder.installation import free_port
from responder.lab.lab import Lab
from responder.store import Store
from responder.store.tables import ReceiptRow
from tests.lab_runs import broken_lab, wait_ended, wait_for
from tests.test_receiver import served

PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

UUID_BEGINS = re.compile("[0-9a-f]{8}-")

pytestmark = pytest.mark.skipif(
    not (PROMETHEUS and ALERTMANAGER), reason="no Prometheus, or no Alertmanager, here"
)


def configuration(url: str, token: Path) -> dict[str, Any]:
    """The README's, for this door and this token, and quicker."""
    [block] = [found for found in blocks("yaml") if found.page == README.name and "webhook_configs" in found.text]
    found: dict[str, Any] = yaml.safe_load(block.text)
    [webhook] = found["receivers"][0]["webhook_configs"]
    webhook["url"] = f"{url}/alerts/alertmanager"
    webhook["http_config"]["authorization"]["credentials_file"] = str(token)
    found["route"] |= {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "2s"}
    return found


def rules(service: str, lab: Lab, alertmanager: int) -> dict[str, Any]:
    [host] = lab.facts().hosts
    down = {
        "alert": "VelozGatewayDown",
        "expr": f'up{{service="{service}"}} == 0',
        "for": "1s",
        "labels": {"severity": "critical"},
        "annotations": {"summary": "Gateway {{ $labels.instance }} is down"},
    }
    return {
        "prometheus.yml": {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
            "scrape_configs": [
                {
                    "job_name": "gateway",
                    "static_configs": [
                        {"targets": [f"{host.address}:{host.gateway_port}"], "labels": {"service": service}}
                    ],
                }
            ],
        },
        "rules.yml": {"groups": [{"name": "veloz", "rules": [down]}]},
    }


@contextmanager
def started(*command: str, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield
        assert process.poll() is None, log.read_text()[-2_000:]
    finally:
        process.terminate()
        process.wait(30)


def test_a_crash_that_prometheus_sees_is_one_incident_that_is_repaired_and_resolved(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(store.add_token("alertmanager", sends_alerts=True)[1])
    prometheus, alertmanager = free_port(), free_port()
    with served(store) as (url, _), broken_lab("process-crash", tmp_path) as lab:
        files = rules(lab.service, lab, alertmanager) | {
            "alertmanager.yml": configuration(url, tmp_path / "token")
        }
        for name, content in files.items():
            (tmp_path / name).write_text(yaml.safe_dump(content))
        web = "--web.listen-address=127.0.0.1"
        with (
            started(
                str(ALERTMANAGER),
                "--config.file=alertmanager.yml",
                f"{web}:{alertmanager}",
                "--cluster.listen-address=",
                f"--storage.path={tmp_path / 'am'}",
                log=tmp_path / "alertmanager.log",
            ),
            started(
                str(PROMETHEUS),
                "--config.file=prometheus.yml",
                f"{web}:{prometheus}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                log=tmp_path / "prometheus.log",
            ),
        ):

            def receipts(*, firing: bool) -> list[ReceiptRow]:
                return [
                    row
                    for row in store.receipts(limit=1_000)
                    if row.alert["labels"].get("service") == lab.service and row.firing is firing
                ]

            [fired] = wait_for(lambda: [r for r in receipts(firing=True) if r.incident_id], named="it fires")
            assert (fired.went, fired.source) == ("opened", "alertmanager")
            wait_for(lambda: UUID_BEGINS.match(store.incident(fired.incident_id or "").run_id), named="its run")
            row = wait_ended(store, store.incident(fired.incident_id or "").run_id)
            [over] = wait_for(lambda: receipts(firing=False), named="it stops")
            wait_for(lambda: receipts(firing=False)[0].due_at is None, named="that is noted")
    assert row.outcome == "resolved", row.reason
    assert [found.id for found in store.incidents(limit=1_000) if found.service == lab.service] == [row.id]
    assert receipts(firing=True)[0].times >= 2, "it was repeated while it fired"
    assert over.alert["ends_at"]
