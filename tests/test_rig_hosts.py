"""Whole incidents on real Debian hosts with systemd and OpenSSH, from the command line, in live mode.

Too long for every run: it is asked for with INCIDENT_TEST_RIG=1, as root, where ../shared/rig is.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rig_profile import SECRET, rig_profile

from responder.domain.incident import slug
from responder.installation import Installation

RIG = Path(__file__).parents[1].parent / "shared" / "rig" / "hosts" / "hosts.sh"
RIG_TMP = Path(os.environ.get("RIG_TMP", "/tmp/rig"))
INVENTORY = RIG_TMP / "hosts" / "hosts.json"
NEEDS = {
    "INCIDENT_TEST_RIG=1 is not set: it takes minutes and boots systemd hosts": os.environ.get(
        "INCIDENT_TEST_RIG"
    ),
    f"no rig at {RIG}": RIG.exists(),
    "the rig needs root": os.geteuid() == 0,
    "systemd-nspawn is missing, and no apt-get to install it": shutil.which("systemd-nspawn")
    or shutil.which("apt-get"),
}
MISSING = next((why for why, there in NEEDS.items() if not there), "")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "the rig is here")
RELEASE = "/opt/veloz/releases/1.4.2"


def rig(*words: str) -> str:
    done = subprocess.run(
        ["bash", str(RIG), *words],
        env=os.environ | {"RIG_TMP": str(RIG_TMP)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def on_host(command: str) -> str:
    return rig("sh", "1", command)


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    running = "running" in rig("status")
    rig("start", "2")
    yield
    if not running:
        rig("stop")


@pytest.fixture
def service(hosts: None, installation: Installation, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A saved and checked service on both hosts; the first is as it was installed."""
    rig("reset", "1")
    name = slug(request.node.name.removeprefix("test_"))
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(rig_profile(INVENTORY, name=name), allow_unicode=True))
    key = RIG_TMP / "hosts" / "keys" / "ops"
    assert incident("service", "add", str(path), "--secret", f"{SECRET}=@{key}")[0] == 0
    status, checked = incident("service", "check", name)
    assert status == 0, [finding for finding in checked["checks"] if not finding["ok"]]
    return name


def incident(*words: str) -> tuple[int, Any]:
    """Exit status and document of one command, on the session's installation."""
    command = [str(Path(sys.executable).parent / "incident"), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def declare(service: str) -> tuple[int, Any]:
    return incident("declare", "gateway down", "--service", service)


def main_pid() -> str:
    return on_host("systemctl show -P MainPID veloz")


def restarts() -> int:
    """How often the login user restarted the unit since the host was installed, by sudo's own journal."""
    return on_host("journalctl _COMM=sudo --no-pager -o cat").count("systemctl restart veloz")


def test_a_stopped_unit_is_started_again(service: str) -> None:
    on_host("systemctl stop veloz")
    status, ended = declare(service)
    assert (status, ended["outcome"], ended["status"]) == (0, "resolved", "closed"), ended
    assert on_host("systemctl is-active veloz") == "active"
    assert restarts() == 1


def test_a_gateway_that_hangs_is_restarted(service: str) -> None:
    on_host("""curl -s -XPOST http://localhost:8080/__fault -d '{"hang": true}'""")
    before = main_pid()
    status, ended = declare(service)
    assert (status, ended["outcome"]) == (0, "resolved"), ended
    assert main_pid() not in (before, "0")
    assert restarts() == 1


def test_a_release_that_dies_later_is_given_to_a_person_after_one_restart(service: str) -> None:
    on_host(f"systemctl stop veloz; echo late:20 > {RELEASE}/BROKEN")
    status, ended = declare(service)
    assert (status, ended["outcome"], ended["status"]) == (1, "escalated", "open"), ended
    assert restarts() == 1


def test_a_new_release_that_dies_at_its_start_is_rolled_back(service: str) -> None:
    on_host(f"ln -sfn {RELEASE} /opt/veloz/current; touch {RELEASE}/BROKEN; systemctl restart veloz")
    status, ended = declare(service)
    assert (status, ended["outcome"]) == (0, "resolved"), ended
    assert "1.4.2" not in on_host("readlink /opt/veloz/current")


def test_nothing_is_touched_where_nothing_is_wrong(service: str) -> None:
    before = main_pid()
    status, ended = declare(service)
    assert (status, ended["outcome"]) == (0, "no_fault"), ended
    assert (main_pid(), restarts()) == (before, 0)
