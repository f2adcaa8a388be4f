"""What Prefect, the store and the keeper cost: a whole incident against a bare script of the same calls.

Both repair the same crash in the same lab: the same looks, change, polls and waiting windows, in the same
order. The difference is ours. `python -m benchmarks.overhead [--json] [--rounds N]`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from responder.installation import Installation
from responder.lab.lab import Lab
from responder.lab.scenario import load_scenario

AIM_S = 5.0
SCENARIO = "process-crash"
FIRST_SEED = 7


def main() -> int:
    """Measure, print, and return 0 when the aim is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs; medians are reported")
    options = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="incident-overhead-"))
    with Installation(folder) as installation:
        # Another service in each round: what was done to one counts against its budget.
        rounds = [
            _round(installation, folder / f"round-{seed}", seed)
            for seed in range(FIRST_SEED, FIRST_SEED + options.rounds)
        ]
    figures: dict[str, Any] = {
        name: round(statistics.median(one[name] for one in rounds), 2)
        for name in ("flow_s", "bare_s", "seconds_over_bare", "ratio", "start_s")
    }
    figures |= {"rounds": options.rounds, "aim_s": AIM_S, "ok": figures["seconds_over_bare"] < AIM_S}
    if options.json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if figures["ok"] else 1


def _round(installation: Installation, folder: Path, seed: int) -> dict[str, float]:
    start_s, flow_s = _incident(installation, folder / "flow", seed)
    bare_s = _bare(folder / "bare", seed)
    return {
        "flow_s": flow_s,
        "bare_s": bare_s,
        "seconds_over_bare": flow_s - bare_s,
        "ratio": flow_s / bare_s,
        "start_s": start_s,
    }


def _incident(installation: Installation, run_dir: Path, seed: int) -> tuple[float, float]:
    """Seconds from the run's creation to the flow's first line, and from there to its end."""
    from prefect.client.orchestration import get_client

    from blocks.service import save_service
    from responder.cli.drill import lab_profile
    from responder.cli.runs import start_run, wait_until_final

    with Lab(load_scenario(SCENARIO), run_dir=run_dir, seed=seed) as lab:
        profile, secrets = lab_profile(lab.facts())
        save_service(profile, secrets)
        lab.begin()
        raised = lab.wait_for_alert()
        run_id = start_run({"summary": raised.name, "alerts": [raised.alert.model_dump(mode="json")]})
        state = wait_until_final(run_id, timeout_s=300)
    if state != "Completed":
        sys.exit(f"the incident ended as {state}, so there is nothing to measure; see {installation.home}")
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(run_id)
    assert run.created
    assert run.start_time
    assert run.end_time
    return (run.start_time - run.created).total_seconds(), (run.end_time - run.start_time).total_seconds()


def _bare(run_dir: Path, seed: int) -> float:
    """The same repair as a script would do it: look twice, restart, poll, and watch over both windows."""
    from blocks.ssh import SSHCredentials
    from responder.cli.drill import lab_profile
    from responder.domain.base import now
    from tasks.hold import watch
    from tasks.look import look_at_host
    from tasks.probes import Look

    with Lab(load_scenario(SCENARIO), run_dir=run_dir, seed=seed) as lab:
        profile, secrets = lab_profile(lab.facts())
        ssh = SSHCredentials(
            user=profile.ssh.user, private_key=secrets["LAB_SSH_KEY"], known_hosts=profile.ssh.known_hosts
        )
        lab.begin()
        lab.wait_for_alert()
        host, clock = profile.hosts[0], profile.clock
        where = (host.name, host.address, host.port)
        began, since = time.monotonic(), now()
        look_at_host.fn(profile, ssh, host, "triage", since)
        look_at_host.fn(profile, ssh, host, "diagnosis", since, run_dir)
        with Look(profile, ssh, host) as look:
            main_pid = look.unit()
            look.endpoints()
            look.hands(main_pid, since)
            look.release()
            look.strategies("restart")
        ssh.start_change(*where, "bare-restart", next(iter(profile.strategies.values())).command)
        while ssh.poll_change(*where, "bare-restart").state == "running":
            time.sleep(0.5)
        verify_s, late = clock.verify_window_s, frozenset({(host.name, "metrics"), (host.name, "orders")})
        for seen in (
            watch(profile, ssh, [host], window_s=verify_s, deadline_s=120, excused=late, strategy="restart"),
            watch(profile, ssh, [host], window_s=clock.confirm_window_s, deadline_s=120, excused=frozenset()),
        ):
            if not seen.held:
                sys.exit(f"the bare script did not repair the service: {seen.holding.reason}")
        return time.monotonic() - began


def _print(figures: dict[str, Any]) -> None:
    table = Table(title=f"one incident ({SCENARIO}), medians of {figures['rounds']} pairs")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("incident flow, first line to end", f"{figures['flow_s']:.2f} s")
    table.add_row("bare script, the same calls and windows", f"{figures['bare_s']:.2f} s")
    table.add_row("seconds over bare", f"{figures['seconds_over_bare']:.2f} s (aim: under {AIM_S:g})")
    table.add_row("ratio", f"{figures['ratio']:.2f}")
    table.add_row("process start, apart", f"{figures['start_s']:.2f} s")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
