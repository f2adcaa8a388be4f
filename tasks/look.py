"""Looking at the service: one task for each host, in parallel; a host that fails stops no other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger

from blocks.ssh import SSHCredentials
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError, TransientError
from responder.domain.evidence import Evidence
from responder.domain.impact import COUNTERS
from responder.domain.notes import Notes
from responder.domain.notices import plain
from responder.domain.observations import note_out_of_reach
from responder.domain.profile import Host, Profile
from responder.domain.verification import evidence_of, required_checks
from tasks.probes import Look
from tasks.retrying import transient_only

JOURNAL_BEFORE = timedelta(minutes=15)
NEWEST_LINES = "3000"
"""Of a chatty service: longer output is cut at its newest end, which is the one that matters."""
RETRY_S = 1
MOST_TASKS = 16
"""Hosts that get a task each, and hosts that are looked at at once where none of them hangs."""
Depth = Literal["triage", "diagnosis"]


@task(
    task_run_name="look at {host.name} ({depth})",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=RETRY_S,
    retry_condition_fn=transient_only,
)
def look_at_host(
    profile: Profile, ssh: SSHCredentials, host: Host, depth: Depth, since: datetime, keep_in: Path | None = None
) -> tuple[Evidence, ...]:
    """Everything that one host shows, as evidence (document, phase 1 step 2 and phase 2 step 1).

    `since`: the first alert; the journal is read from 15 minutes before it. `keep_in`: where the metrics
    snapshot is kept. Raises what `SSHCredentials.connect` raises: the host cannot be looked at at all.
    """
    with Look(profile, ssh, host) as look:

        def between_scrapes() -> None:
            main_pid = look.unit()
            look.endpoints()
            if depth == "triage":
                look.journal("-n", "50")
                look.hands(main_pid, since)
            else:
                begin = f"@{int((since - JOURNAL_BEFORE).timestamp())}"
                look.journal("--since", begin, "-n", NEWEST_LINES)
                look.host_state(main_pid, since)

        look.two_scrapes(between_scrapes, keep_in)
        return look.evidence


def look_everywhere(
    profile: Profile, ssh: SSHCredentials, depth: Depth, since: datetime, keep_in: Path | None = None
) -> list[Evidence]:
    """Look at all hosts in parallel. A host that could not be looked at is unknown, with the reason."""
    began = now()
    if len(profile.hosts) > MOST_TASKS:
        return [*_of_the_service(profile, began), *look_at_fleet(profile, ssh, depth, since, keep_in)]
    futures = {host.name: look_at_host.submit(profile, ssh, host, depth, since, keep_in) for host in profile.hosts}
    wait(list(futures.values()))
    found = list(_of_the_service(profile, began))
    for name, future in futures.items():
        found += _evidence(profile, name, future, began)
    return found


@task(task_run_name="look at the hosts of {profile.name} ({depth})", cache_policy=NO_CACHE)
def look_at_fleet(
    profile: Profile, ssh: SSHCredentials, depth: Depth, since: datetime, keep_in: Path | None = None
) -> list[Evidence]:
    """As `look_at_host` for each of many hosts: a task for each would cost more than the looks, and hide the rest.

    A host waits for its turn no longer than connecting may take, however many of the others hang. Raises
    nothing for what hosts do; one that cannot be looked at is unknown, and named in the log.
    """
    log = get_run_logger()
    turns = threading.Semaphore(MOST_TASKS)

    def look(host: Host) -> tuple[Evidence, ...]:
        in_turn = turns.acquire(timeout=profile.ssh.connect_timeout_s)
        try:
            try:
                return look_at_host.fn(profile, ssh, host, depth, since, keep_in)
            except TransientError:
                time.sleep(RETRY_S)
                return look_at_host.fn(profile, ssh, host, depth, since, keep_in)
        except IncidentResponseError as error:
            log.warning("%s cannot be looked at: %s", host.name, plain(str(error)))
            return _out_of_reach(profile, host.name, error, now())
        finally:
            if in_turn:
                turns.release()

    with ThreadPoolExecutor(len(profile.hosts)) as pool:
        return [evidence for found in pool.map(look, profile.hosts) for evidence in found]


def _evidence(
    profile: Profile, host: str, future: PrefectFuture[tuple[Evidence, ...]], at: datetime
) -> tuple[Evidence, ...]:
    result = future.result(raise_on_failure=False)
    if not isinstance(result, BaseException):
        return result
    if not isinstance(result, IncidentResponseError):
        raise result
    return _out_of_reach(profile, host, result, at)


def _out_of_reach(profile: Profile, host: str, error: IncidentResponseError, at: datetime) -> tuple[Evidence, ...]:
    notes = Notes(host, at)
    keys = [evidence_of(check) for check in required_checks(profile)]
    keys += COUNTERS if profile.endpoints.metrics else ()
    note_out_of_reach(notes, str(error), [*keys, "health.failure", "logins.active", "deployments.running"])
    return tuple(notes.evidence)


def _of_the_service(profile: Profile, at: datetime) -> tuple[Evidence, ...]:
    notes = Notes(profile.name, at)
    window = profile.window_at(at)
    notes.saw("window.open", "the profile's windows", window is not None, window.reason if window else "")
    return tuple(notes.evidence)
