"""What it costs to diagnose fifty hosts at once: the whole phase against bare SSH clients on the same hosts.

The phase is the product's own (`diagnose_incident`, with Prefect, evidence, parsing and store). The floor is
asyncssh alone, which keeps nothing: six commands a host at once, 16 hosts wide. The hosts are real OpenSSH
servers on this machine. `python -m benchmarks.fanout [--json] [--rounds N] [--hosts N] [--rig DIR]`.
"""

import argparse
import asyncio
import functools
import http.server
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from responder.installation import Installation

AIMS = {"ratio_to_floor": 2.0, "ratio_to_ssh": 1.0, "peak_growth": 1.1}
WIDE = 16
JOURNAL_MIB = 2
LARGE_MIB = 200
PORT = 2322
RIG = Path(__file__).parents[2] / "shared" / "rig"
PROFILE = Path(__file__).parents[1] / "docs" / "example-profile.yaml"
SERVICE, SECRET = "shop", "SHOP_SSH_KEY"

SHOW = """\
LoadState=loaded
ActiveState=active
SubState=running
Result=success
MainPID=1
NRestarts=0
ExecMainStatus=0
ExecMainStartTimestamp=Mon 2025-11-24 10:00:00 UTC
"""


def main() -> int:
    """Measure, print, and return 0 when all aims are met, 2 without the rig."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all contenders; medians are reported")
    parser.add_argument("--hosts", type=int, default=50, help="how many hosts")
    parser.add_argument("--rig", type=Path, default=RIG, help=f"folder with sshd/sshd_farm.py (default {RIG})")
    parser.add_argument("--measure", choices=sorted(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--farm", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options.farm, options.hosts)))
        return 0
    if not (options.rig / "sshd" / "sshd_farm.py").exists():
        print(
            f"no OpenSSH servers to measure on: {options.rig}/sshd/sshd_farm.py is missing. The rig is expected "
            "beside the checkout, in ../shared/rig; --rig DIR names another place",
            file=sys.stderr,
        )
        return 2
    figures = measure(options.rig, options.hosts, options.rounds)
    if options.json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if figures["ok"] else 1


def measure(rig: Path, hosts: int, rounds: int) -> dict[str, Any]:
    """All figures: medians over the rounds, each of which runs every contender once."""
    with tempfile.TemporaryDirectory(prefix="incident-fanout-") as temporary, _farm(rig, hosts) as farm:
        folder = Path(temporary)
        with _health() as health_url, Installation(folder / "home", workers=False):
            _prepare(farm, hosts, folder, health_url, JOURNAL_MIB)
            seen = [{name: _in_child(name, farm, hosts) for name in MEASURES} for _ in range(rounds)]
            _prepare(farm, hosts, folder, health_url, LARGE_MIB)
            large = _in_child("phase", farm, hosts)

    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(one) for one in seen)

    phase_s = median(lambda one: one["phase"]["seconds"])
    ssh_s = median(lambda one: one["looks"]["ssh_s"])
    looks_s = median(lambda one: one["looks"]["seconds"])
    store_s = median(lambda one: one["phase"]["store_s"])
    peak = median(lambda one: one["phase"]["peak_mib"])
    figures: dict[str, Any] = {
        "ratio_to_floor": median(lambda one: one["phase"]["seconds"] / one["floor"]["seconds"]),
        "ratio_to_ssh": median(lambda one: one["phase"]["seconds"] / one["openssh"]["seconds"]),
        "phase_s": phase_s,
        "floor_s": median(lambda one: one["floor"]["seconds"]),
        "openssh_s": median(lambda one: one["openssh"]["seconds"]),
        "split_s": {
            "ssh": ssh_s,
            "parsing": looks_s - ssh_s,
            "store": store_s,
            "prefect": phase_s - looks_s - store_s,
        },
        "peak_mib": {f"{JOURNAL_MIB}": peak, f"{LARGE_MIB}": large["peak_mib"]},
        "peak_growth": large["peak_mib"] / peak,
    }
    figures = _rounded(figures)
    missed = [name for name, aim in AIMS.items() if not figures[name] < aim]
    commands, evidence = seen[0]["looks"]["commands"], seen[0]["phase"]["evidence"]
    return figures | {
        "hosts": hosts,
        "commands": {"phase": commands, "floor": len(six(Path()))},
        "read_mib": _rounded({"phase": seen[0]["looks"]["read_mib"], "floor": seen[0]["floor"]["read_mib"]}),
        "evidence": evidence,
        "rounds": rounds,
        "aims": AIMS,
        "missed": missed,
        "ok": not missed,
    }


# --- the hosts ------------------------------------------------------------------------------------------


@contextmanager
def _farm(rig: Path, hosts: int):
    """The rig's OpenSSH servers on a port of our own; left running where they ran before."""
    temporary = Path(os.environ.get("RIG_TMP", Path(tempfile.gettempdir()) / "rig-fanout"))
    environment = os.environ | {"RIG_TMP": str(temporary)}
    farm = [sys.executable, str(rig / "sshd" / "sshd_farm.py")]
    running = subprocess.run([*farm, "status"], env=environment, capture_output=True, check=False).returncode == 0
    start = [*farm, "start", "--n", str(hosts), "--port", str(PORT)]
    subprocess.run(start, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=300)
    try:
        yield temporary / "sshd"
    finally:
        shutil.rmtree(_programs(temporary / "sshd"), ignore_errors=True)
        if not running:
            subprocess.run([*farm, "stop"], env=environment, stdout=subprocess.DEVNULL, check=True)


def _prepare(farm: Path, hosts: int, folder: Path, health_url: str, journal_mib: int) -> None:
    """The programs of the hosts, with a journal of that size (MiB), and the service saved in Prefect."""
    from blocks.service import save_service
    from responder.domain.profile import Profile

    folder.chmod(0o755)  # the hosts' login reads it
    programs = _programs(farm)
    programs.mkdir(exist_ok=True)
    (programs / "show").write_text(SHOW)
    _write_journal(programs / "journal", journal_mib)
    _program(
        programs / "systemctl", f'case $1 in show) exec cat {programs}/show ;; *) echo "shop.service" ;; esac'
    )
    _program(programs / "journalctl", f"case $1 in -u) exec cat {programs}/journal ;; esac")
    inventory = _inventory(farm, hosts)
    data = yaml.safe_load(PROFILE.read_text())
    del data["slack"]
    data |= {
        "name": SERVICE,
        "hosts": [{key: host[key] for key in ("name", "address", "port")} for host in inventory],
        "ssh": {
            "user": inventory[0]["user"],
            "private_key": SECRET,
            "known_hosts": Path(inventory[0]["known_hosts"]).read_text(),
        },
    }
    data["unit"] |= {"systemctl": [f"{programs}/systemctl"], "journalctl": [f"{programs}/journalctl"]}
    data["endpoints"]["health"]["url"] = health_url
    key = Path(inventory[0]["key"]).read_text()
    save_service(Profile.model_validate(data), {SECRET: key})


def _programs(farm: Path) -> Path:
    return farm / "fanout"


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _write_journal(path: Path, size_mib: int) -> None:
    """A journal as `-o short-unix` prints it; one line in fifty is an error.

    At 2 MiB it has as many lines as a diagnosis asks for at most (`NEWEST_LINES`), of a structured log's length.
    """
    from tasks.look import NEWEST_LINES

    began, width = time.time() - 600, JOURNAL_MIB * 2**20 // int(NEWEST_LINES)
    lines = []
    for number in range(int(NEWEST_LINES)):
        what = "ERROR order %d failed: connection reset by peer" if number % 50 == 0 else "GET /orders/%d 200"
        head = f"{began + number / 100:.6f} shop-1 shop[4711]: {what % number} "
        lines.append(head + "trace=" + "0123456789abcdef"[number % 16] * (width - len(head) - 7))
    block = ("\n".join(lines) + "\n").encode()
    with path.open("wb") as file:
        for _ in range(size_mib * 2**20 // len(block) + 1):
            file.write(block)
        file.truncate(size_mib * 2**20)


def _inventory(farm: Path, hosts: int) -> list[dict[str, Any]]:
    listed = json.loads((farm / "hosts.json").read_text())
    return [host for host in listed if host["kind"] == "plain"][:hosts]


@contextmanager
def _health():
    """A healthy service; all hosts are this machine. Yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status": "ok"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/health"
    server.shutdown()


def six(programs: Path) -> list[str]:
    """What the document lists for a diagnosis (phase 2, step 1), as a person would type it."""
    return [
        f"{programs}/systemctl status shop.service --no-pager",
        "ps aux",
        "free -b",
        "df -P -B1",
        f"{programs}/journalctl -u shop.service --since -15min --no-pager",
        f"{programs}/systemctl show shop.service",
    ]


# --- the contenders, each in a process of its own -------------------------------------------------------


def _in_child(name: str, farm: Path, hosts: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.fanout", "--measure", name, "--farm", str(farm)]
    done = subprocess.run([*command, "--hosts", str(hosts)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} could not be measured:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _floor(farm: Path, hosts: int) -> dict[str, Any]:
    """asyncssh alone."""
    import asyncssh

    async def ask(host: dict[str, Any], slots: asyncio.Semaphore) -> int:
        async with (
            slots,
            asyncssh.connect(
                host["address"],
                host["port"],
                username=host["user"],
                client_keys=[host["key"]],
                known_hosts=host["known_hosts"],
                config=None,
            ) as connection,
        ):
            answers = await asyncio.gather(*(connection.run(c, encoding=None) for c in six(_programs(farm))))
        return sum(len(answer.stdout) + len(answer.stderr) for answer in answers)

    async def ask_all() -> int:
        slots = asyncio.Semaphore(WIDE)
        return sum(await asyncio.gather(*(ask(host, slots) for host in _inventory(farm, hosts))))

    began = time.monotonic()
    read = asyncio.run(ask_all())
    return {"seconds": time.monotonic() - began, "read_mib": read / 2**20 / hosts}


def _openssh(farm: Path, hosts: int) -> dict[str, Any]:
    """OpenSSH's own client: one master connection a host, six commands over it at once."""

    def ask(host: dict[str, Any], sockets: str) -> int:
        ssh = ["ssh", "-F", str(farm / "ssh_config"), "-S", f"{sockets}/{host['name']}", host["name"]]
        subprocess.run([*ssh[:-1], "-fNM", ssh[-1]], check=True, stdin=subprocess.DEVNULL)
        asked = [
            subprocess.Popen([*ssh, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            for command in six(_programs(farm))
        ]
        with ThreadPoolExecutor(len(asked)) as readers:
            read = sum(readers.map(lambda one: len(one.communicate()[0]), asked))
        subprocess.run([*ssh[:-1], "-O", "exit", ssh[-1]], check=True, stderr=subprocess.DEVNULL)
        return read

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as sockets, ThreadPoolExecutor(WIDE) as pool:
        read = sum(pool.map(lambda host: ask(host, sockets), _inventory(farm, hosts)))
        seconds = time.monotonic() - began
    return {"seconds": seconds, "read_mib": read / 2**20 / hosts}


def _looks(_: Path, hosts: int) -> dict[str, Any]:
    """The phase's looks without Prefect and store, and then their SSH alone: the same reads, unparsed."""
    from blocks.service import load_profile, load_ssh
    from blocks.ssh import SSHConnection
    from responder.domain.base import now
    from tasks.look import look_at_host

    profile, ssh = load_profile(SERVICE), load_ssh(SERVICE)
    asked: dict[str, list[tuple[Any, dict[str, Any]]]] = {host.name: [] for host in profile.hosts}
    plain, several = SSHConnection.read, SSHConnection.read_all

    def noting_one(self: SSHConnection, command: Any, **options: Any) -> Any:
        asked[self._where.split()[0]].append(([command], options))
        return plain(self, command, **options)

    def noting_all(self: SSHConnection, commands: Any, **options: Any) -> Any:
        asked[self._where.split()[0]].append((commands, options))
        return several(self, commands, **options)

    def again(host: Any) -> int:
        with ssh.connect(host.name, host.address, host.port) as connection:
            answers = [
                answer
                for commands, options in asked[host.name]
                for answer in (
                    several(connection, commands, **options)
                    if len(commands) > 1
                    else [plain(connection, commands[0], **options)]
                )
            ]
        return sum(len(answer.stdout) + len(answer.stderr) for answer in answers)

    with ThreadPoolExecutor(hosts) as pool:  # as the phase does
        SSHConnection.read, SSHConnection.read_all = noting_one, noting_all  # type: ignore[method-assign]
        began, since = time.monotonic(), now()
        list(pool.map(lambda host: look_at_host.fn(profile, ssh, host, "diagnosis", since), profile.hosts))
        between = time.monotonic()
        SSHConnection.read, SSHConnection.read_all = plain, several  # type: ignore[method-assign]
        read_bytes = sum(pool.map(again, profile.hosts))
        ended = time.monotonic()
    return {
        "seconds": between - began,
        "ssh_s": ended - between,
        "commands": sum(len(commands) for commands, _ in asked[profile.hosts[0].name]),
        "read_mib": read_bytes / 2**20 / hosts,
    }


def _phase(_: Path, hosts: int) -> dict[str, Any]:
    """The diagnosis of a declared incident, as a phase of a run."""
    from prefect import flow

    from flows.diagnose import diagnose_incident
    from flows.phases import run_phase
    from responder.domain.incident import DiagnosisOutcome, Kind, Phase
    from responder.store import open_store
    from responder.store.store import Store
    from tasks.opening import keep_lease, open_incident

    spent: dict[str, float] = {"store_s": 0.0}
    depth = threading.local()

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == "run-lease" or getattr(depth, "inside", False):
                return method(*args, **kwargs)
            depth.inside, began = True, time.monotonic()
            try:
                return method(*args, **kwargs)
            finally:
                depth.inside = False
                spent["store_s"] += time.monotonic() - began

        return call

    for name, method in list(vars(Store).items()):
        if callable(method) and not name.startswith("_"):
            setattr(Store, name, timed(method))

    @flow
    async def incident() -> dict[str, Any]:
        row = open_incident(os.urandom(8).hex(), "the shop is slow", SERVICE, Kind.AVAILABILITY, [], None, None)
        with keep_lease(row) as ref:
            spent["store_s"], began = 0.0, time.monotonic()
            await run_phase(ref, Phase.DIAGNOSE, DiagnosisOutcome, lambda: diagnose_incident(ref))
            seconds, store_s = time.monotonic() - began, spent["store_s"]
        store = open_store()
        evidence = store.dossier(row.id).evidence
        store.close_incident(row.id, who="benchmark", why="measured")
        reached = sum(e.value is True for e in evidence if e.key == "host.reachable")
        if reached < hosts:
            sys.exit(f"only {reached} of {hosts} hosts could be looked at, so there is nothing to measure")
        return {"seconds": seconds, "store_s": store_s, "evidence": len(evidence)}

    found = asyncio.run(incident())
    return found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


MEASURES = {"floor": _floor, "openssh": _openssh, "looks": _looks, "phase": _phase}


# --- what is printed ------------------------------------------------------------------------------------


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _rounded(value) if isinstance(value, dict) else round(value, 2) for name, value in figures.items()
    }


def _print(figures: dict[str, Any]) -> None:
    commands, read, aims = figures["commands"], figures["read_mib"], figures["aims"]
    table = Table(title=f"diagnosis of {figures['hosts']} hosts, medians of {figures['rounds']} rounds")
    table.add_column("figure")
    table.add_column("value", justify="right")
    rows = {
        f"the phase: {commands['phase']} commands, {read['phase']} MiB a host": f"{figures['phase_s']} s",
        f"asyncssh alone: {commands['floor']} commands, {read['floor']} MiB a host": f"{figures['floor_s']} s",
        "OpenSSH with ControlMaster: the same as asyncssh": f"{figures['openssh_s']} s",
        "ratio to asyncssh alone": f"{figures['ratio_to_floor']} (aim: under {aims['ratio_to_floor']:g})",
        "ratio to OpenSSH": f"{figures['ratio_to_ssh']} (aim: under {aims['ratio_to_ssh']:g})",
        **{f"  of the phase: {part}": f"{seconds} s" for part, seconds in figures["split_s"].items()},
        **{f"peak memory at {size} MiB a host": f"{mib} MiB" for size, mib in figures["peak_mib"].items()},
        "growth of the peak": f"{figures['peak_growth']} (aim: under {aims['peak_growth']:g})",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
