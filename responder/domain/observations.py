"""From what hosts and endpoints answered to evidence: every document command as typed observations.

Nothing here reads anything; it only says what an answer means. What could not be read is unknown, with
the reason, and never a zero.
"""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from responder.domain.commands import CommandResult
from responder.domain.notes import Notes
from responder.domain.parsing.http import HttpReply, Reading
from responder.domain.parsing.journal import find_oom_kills, group_errors, parse_journal
from responder.domain.parsing.metrics import Samples, ServiceRates, total
from responder.domain.parsing.parsed import Parsed
from responder.domain.parsing.processes import matching, parse_ps, parse_who
from responder.domain.parsing.resources import parse_df, parse_df_inodes, parse_free
from responder.domain.parsing.systemd import parse_show
from responder.domain.profile import Impact, Metrics, Unit
from responder.domain.redaction import clipped, without_keys

KEPT_LINES = 100
SHOWN_PATTERNS = 20
_HIDDEN_JOURNAL = re.compile(r"not seeing messages from other users|insufficient permissions", re.IGNORECASE)


def _failed(result: CommandResult, *, accept: Sequence[int] = (0,)) -> str | None:
    """Why the output of a reading command says nothing, or None when it does."""
    if result.timed_out:
        return "no answer within its deadline"
    if result.truncated:
        return "its output did not end within what is read of it"
    if result.exit_status is None:
        return "its exit status is unknown"
    if result.exit_status not in accept:
        words = (result.stderr or result.stdout).strip().splitlines()
        return f"it ended with {result.exit_status}: {words[0] if words else 'without a word'}"
    return None


def note_out_of_reach(notes: Notes, why: str, keys: Sequence[str]) -> None:
    """A host that cannot be looked at: each of `keys` is unknown there, with the reason."""
    how = f"ssh {notes.host}"
    notes.saw("host.reachable", how, False, why)
    for key in keys:
        notes.missed(key, how, why)


def note_unit(notes: Notes, result: CommandResult) -> None:
    """`systemctl show`: the unit's state, process and restarts."""
    how = result.command
    problem = _failed(result)
    state = parse_show(result.stdout)
    if not problem and state.load_state == "not-found":
        problem = "there is no such unit on this host"
    values: dict[str, Any] = {
        "unit.active_state": state.active_state,
        "unit.sub_state": state.sub_state,
        "unit.result": state.result,
        "unit.main_pid": state.main_pid,
        "unit.n_restarts": state.n_restarts,
        "unit.exec_main_status": state.exec_main_status,
        "unit.started_at": _iso(state.started_at),
    }
    for key, value in values.items():
        if problem or (value is None and state.problem):
            notes.missed(key, how, problem or str(state.problem), result.stdout)
        elif value is None:
            notes.missed(key, how, "the unit has none now")
        else:
            notes.saw(key, how, value)
    barred_s = 0.0 if problem else state.start_barred_s(notes.at)
    if barred_s:
        notes.saw("unit.start_barred_s", how, round(barred_s, 1))


def note_status(notes: Notes, result: CommandResult) -> None:
    """`systemctl status`: kept as text for people; 3 and 4 are its words for not running and not there."""
    problem = _failed(result, accept=(0, 3, 4))
    if problem:
        notes.missed("unit.status", result.command, problem)
    else:
        notes.saw("unit.status", result.command, (result.stdout.splitlines() or [""])[0], result.stdout)


def note_processes(notes: Notes, result: CommandResult, unit: Unit, main_pid: int | None) -> None:
    """`ps`: the unit's processes, the state of its main one, and deployments that run."""
    how = result.command
    parsed = parse_ps(result.stdout)
    problem = _failed(result) or (parsed.problem if parsed.value is None else None)
    if problem or parsed.value is None:
        for key in ("processes.count", "process.state", "process.cpu_percent", "process.rss_bytes"):
            notes.missed(key, how, problem or "no processes were listed")
        notes.missed("deployments.running", how, problem or "no processes were listed")
        return
    pattern = unit.process_pattern or re.escape(unit.name)
    own = matching(parsed.value, pattern, main_pid)
    listing = "\n".join(f"{p.pid} {p.state} {p.cpu_percent}% {p.rss_bytes >> 20} MiB {p.args}" for p in own[:20])
    notes.saw("processes.count", how, len(own), listing)
    main = next((process for process in own if process.pid == main_pid), None)
    for key, value in (
        ("process.state", main and main.state),
        ("process.cpu_percent", main and main.cpu_percent),
        ("process.rss_bytes", main and main.rss_bytes),
    ):
        if main is None:
            notes.missed(key, how, "the unit has no main process")
        else:
            notes.saw(key, how, value)
    if main is not None and unit.memory_limit_mib:
        notes.saw("process.memory_percent", how, round(100 * main.rss_bytes / unit.memory_limit_mib / 2**20, 1))
    deploying = [
        process.args
        for process in parsed.value
        if any(re.search(wanted, process.args) for wanted in unit.deployment_processes)
        and not any(process.pid == p.pid for p in own)
    ]
    notes.saw("deployments.running", how, len(deploying), "\n".join(deploying[:5]))


def note_memory(notes: Notes, result: CommandResult) -> None:
    """`free`: the share of memory that is not available."""
    parsed = parse_free(result.stdout)
    _note_parsed(notes, "memory.used_percent", result, parsed.problem, parsed.value and parsed.value.used_percent)


def note_disk(notes: Notes, result: CommandResult) -> None:
    """`df`: the fullest file system."""
    _note_fullest(notes, "disk.used_percent", result, parse_df)


def note_inodes(notes: Notes, result: CommandResult) -> None:
    """`df -i`: the file system with the fewest free inodes."""
    _note_fullest(notes, "disk.inodes_used_percent", result, parse_df_inodes)


def _note_fullest(notes: Notes, key: str, result: CommandResult, parse: Callable[[str], Any]) -> None:
    parsed = parse(result.stdout)
    rows = parsed.value or ()
    fullest = max(rows, key=lambda row: row.used_percent, default=None)
    _note_parsed(notes, key, result, parsed.problem, fullest and fullest.used_percent)


def _note_parsed(notes: Notes, key: str, result: CommandResult, problem: str | None, value: Any) -> None:
    # df and free may end with 1 because of one odd mount and still tell of all the others.
    if value is None:
        notes.missed(key, result.command, _failed(result) or problem or "no row that counts", result.stdout)
    else:
        notes.saw(key, result.command, value, result.stdout)


def _journal_failed(result: CommandResult) -> str | None:
    """Like `_failed`; journalctl ends with 0 and prints nothing where the login may not read the journal."""
    if _HIDDEN_JOURNAL.search(result.stderr):
        return "the login may not read this journal; add it to the group systemd-journal"
    return _failed(result)


def note_journal(notes: Notes, result: CommandResult) -> None:
    """The unit's journal: its last lines, errors grouped by pattern, kills by the kernel."""
    how = result.command
    parsed = parse_journal(without_keys(result.stdout))
    problem = _journal_failed(result) or (parsed.problem if parsed.value is None else None)
    if problem or parsed.value is None:
        for key in ("journal.lines", "journal.errors", "journal.patterns", "journal.oom_kills"):
            notes.missed(key, how, problem or "nothing was read")
        return
    lines = parsed.value
    groups = group_errors(lines, SHOWN_PATTERNS)
    errors = [group for group in groups if not group.audit]
    tail = [clipped(line.message, 500) for line in lines[-KEPT_LINES:]]
    notes.saw("journal.lines", how, tail, "\n".join(tail[-20:]))
    notes.saw("journal.errors", how, sum(group.count for group in errors))
    notes.saw(
        "journal.patterns",
        how,
        [
            {"pattern": clipped(g.pattern, 200), "count": g.count, "example": clipped(g.example, 300)}
            for g in errors
        ],
    )
    notes.saw("journal.oom_kills", how, len(find_oom_kills(lines)))


def note_kernel(notes: Notes, result: CommandResult) -> None:
    """The kernel's journal: out-of-memory kills, added to what the unit's journal tells of them."""
    parsed = parse_journal(result.stdout)
    problem = _journal_failed(result) or (parsed.problem if parsed.value is None else None)
    if problem or parsed.value is None:
        notes.missed("kernel.oom_kills", result.command, problem or "nothing was read")
        return
    kills = find_oom_kills(parsed.value)
    notes.saw("kernel.oom_kills", result.command, len(kills), "\n".join(kill.name for kill in kills[:10]))


def note_logins(
    notes: Notes, result: CommandResult, since: datetime, now: datetime, utc_offset: timedelta | None
) -> None:
    """`who -u`: interactive sessions begun or used since `since` (the first alert)."""
    parsed = parse_who(result.stdout, now, utc_offset)
    problem = _failed(result) or (parsed.problem if parsed.value is None else None)
    if problem or parsed.value is None:
        notes.missed("logins.active", result.command, problem or "nothing was read")
        return
    active = [
        login
        for login in parsed.value
        if (login.since and login.since >= since)
        or (login.idle_s is not None and now - timedelta(seconds=login.idle_s) >= since)
    ]
    text = "\n".join(f"{login.user} on {login.line} since {login.since_text}" for login in active)
    notes.saw("logins.active", result.command, len(active), text)


def note_release(notes: Notes, result: CommandResult) -> None:
    """`stat` of the release link: `seconds-since-epoch target`, changed when the release was switched."""
    problem = _failed(result)
    words = result.stdout.split(maxsplit=1)
    if not problem and (len(words) != 2 or not words[0].isdigit()):
        problem = "the link's time and target could not be read"
    if problem:
        notes.missed("changes.release", result.command, problem)
        notes.missed("changes.release_switched_at", result.command, problem)
        notes.missed("changes.release_minutes", result.command, problem)
        return
    notes.saw("changes.release", result.command, words[1].strip())
    switched = datetime.fromtimestamp(int(words[0]), tz=UTC)
    notes.saw("changes.release_switched_at", result.command, _iso(switched))
    notes.saw("changes.release_minutes", result.command, _minutes(notes, switched))


def note_config(notes: Notes, result: CommandResult) -> None:
    """`stat -c %Y` of the configuration: for how long it has been as it is."""
    problem = _failed(result) or (None if result.stdout.strip().isdigit() else "the time could not be read")
    if problem:
        notes.missed("changes.config_minutes", result.command, problem)
    else:
        changed = datetime.fromtimestamp(int(result.stdout.strip()), tz=UTC)
        notes.saw("changes.config_minutes", result.command, _minutes(notes, changed))


def _minutes(notes: Notes, since: datetime) -> float:
    return round(max(0.0, (notes.at - since).total_seconds() / 60), 1)


def note_endpoint(notes: Notes, name: str, url: str, reply: HttpReply, reading: Reading) -> None:
    """One endpoint's answer: its verdict, what failed if anything did, status and latency (seconds)."""
    if reading.verdict == "unknown":
        notes.missed(f"{name}.verdict", url, reading.reason, reply.body)
    else:
        notes.saw(f"{name}.verdict", url, reading.verdict, reply.body)
    failure = failure_word(reply, reading)
    if failure is None:
        notes.missed(f"{name}.failure", url, reading.reason)
    else:
        notes.saw(f"{name}.failure", url, failure)
    if reply.status is not None:
        notes.saw(f"{name}.status", url, reply.status)
    if reply.latency_s is not None:
        notes.saw(f"{name}.latency_s", url, round(reply.latency_s, 4))


def failure_word(reply: HttpReply, reading: Reading) -> str | None:
    """What failed, in one word: `none` when nothing did, None when the probe itself could not run."""
    if reply.failure == "other":
        return None
    if reply.failure:
        return reply.failure
    if reply.status == 429:
        return "rate_limited"
    if reply.status is not None and reply.status >= 500:
        return "server_error"
    if reply.status is not None and reply.status >= 400:
        return "client_error"
    return {"healthy": "none", "unhealthy": "unhealthy", "unknown": "shape"}[reading.verdict]


def note_orders(notes: Notes, url: str, reading: Reading, field: str) -> None:
    """How many orders the service tells of. After a restart an empty list is not "no open orders"."""
    length = reading.fields.get(f"{field}.length")
    if length is None:
        notes.missed("orders.items", url, reading.reason)
    else:
        notes.saw("orders.items", url, length)


def note_scrape(notes: Notes, url: str, reply: HttpReply, parsed: Parsed[Samples]) -> None:
    """Whether the metrics could be read, and what failed if not."""
    if reply.failure == "other":
        notes.missed("metrics.failure", url, reply.problem or "the probe could not run")
    elif reply.failure or reply.status != 200:
        reading = Reading(verdict="unknown", reason=reply.problem or f"status {reply.status}")
        notes.saw("metrics.failure", url, failure_word(reply, reading), reply.body)
    else:
        notes.saw("metrics.failure", url, "none" if parsed.value is not None else "shape", reply.body)


def note_rates(notes: Notes, url: str, rates: ServiceRates, *, limits: tuple[float, float]) -> None:
    """Error share and latency between two scrapes, and the verdict by the SLA's (share, p99 seconds)."""
    for key, rate in (
        ("metrics.error_share", rates.error_share),
        ("metrics.errors_per_s", rates.errors_per_s),
        ("metrics.requests_per_s", rates.requests_per_s),
        ("metrics.latency_p50_s", rates.latency_p50_s),
        ("metrics.latency_p90_s", rates.latency_p90_s),
        ("metrics.latency_p99_s", rates.latency_p99_s),
    ):
        if rate.value is None:
            notes.missed(key, url, rate.problem or "not computed")
        else:
            notes.saw(key, url, round(rate.value, 6))
    share, latency = rates.error_share.value, rates.latency_p99_s.value
    if (share is not None and share > limits[0]) or (latency is not None and latency > limits[1]):
        notes.saw("metrics.verdict", url, "unhealthy")
    elif share is None or latency is None:
        why = rates.error_share.problem or rates.latency_p99_s.problem or "not computed"
        notes.missed("metrics.verdict", url, why)
    else:
        notes.saw("metrics.verdict", url, "healthy")


def note_load(notes: Notes, url: str, scraped: Parsed[Samples], gauge: str, limit: float) -> None:
    """The work at hand, over all series of its gauge, and whether it is more than the service can do."""
    figures = list(scraped.value.values.get(gauge, {}).values()) if scraped.value else []
    if not figures or any(math.isnan(figure) for figure in figures):
        notes.missed("metrics.load", url, scraped.problem or f"{gauge} is not among the metrics")
        notes.missed("metrics.overloaded", url, scraped.problem or f"{gauge} is not among the metrics")
        return
    notes.saw("metrics.load", url, sum(figures))
    notes.saw("metrics.overloaded", url, sum(figures) > limit)


def note_impact(notes: Notes, url: str, scraped: Parsed[Samples], impact: Impact, metrics: Metrics) -> None:
    """The counters of all and of failed requests as they stand, and how many clients are connected."""
    where = impact.failed_where if impact.failed else metrics.errors_where
    selecting = {label: re.compile(pattern) for label, pattern in where.items()}
    read = {
        "impact.requests": total(scraped, impact.total or metrics.requests),
        "impact.failed": total(scraped, impact.failed or metrics.errors, selecting),
    }
    if impact.clients:
        read["impact.clients"] = total(scraped, impact.clients)
    for key, measure in read.items():
        if measure.value is None:
            notes.missed(key, url, measure.problem or "not read")
        else:
            notes.saw(key, url, measure.value)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
