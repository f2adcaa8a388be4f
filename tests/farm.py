"""The rig's OpenSSH servers, good and awkward, for one test module at a time."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blocks.ssh import SSHCredentials

FARM = Path(__file__).parents[1] / ".." / "shared" / "rig" / "sshd" / "sshd_farm.py"
RIG_TMP = Path(os.environ.get("RIG_TMP", "/tmp/rig"))
Farm = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    """The servers by kind, `plain` one of the good ones; left running if somebody else runs them."""
    if not FARM.exists():
        pytest.skip("no ../shared/rig")
    if os.geteuid() or not shutil.which("sshd", path="/usr/sbin"):
        pytest.skip("the rig's OpenSSH servers need root and openssh-server")
    RIG_TMP.mkdir(parents=True, exist_ok=True)
    with (RIG_TMP / "farm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another module may run beside this one, and would stop it
        running = (
            subprocess.run([sys.executable, FARM, "status"], capture_output=True, check=False).returncode == 0
        )
        if not running:
            subprocess.run(
                [sys.executable, FARM, "start", "--n", "2"], capture_output=True, check=True, timeout=60
            )
        yield {host["kind"]: host for host in farm_hosts()}
        if not running:
            subprocess.run([sys.executable, FARM, "stop"], capture_output=True, check=True, timeout=60)


def farm_hosts() -> list[dict[str, Any]]:
    """All of its hosts, while it runs."""
    hosts: list[dict[str, Any]] = json.loads((RIG_TMP / "sshd" / "hosts.json").read_text())
    return hosts


def farm_credentials(host: dict[str, Any], connect_timeout_s: float = 1) -> SSHCredentials:
    """The way to a host of the farm; its user's key opens all the others, too."""
    return SSHCredentials(
        user=host["user"],
        private_key=Path(host["key"]).read_text(),
        known_hosts=Path(host["known_hosts"]).read_text(),
        connect_timeout_s=connect_timeout_s,
        output_cap_bytes=1_000_000,
    )
