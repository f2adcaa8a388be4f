"""Looking at one host: the document's commands, one after the other, over one connection.

Facts only: nothing here changes anything. What cannot be read becomes unknown evidence with its reason.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

from blocks.http import fetch
from blocks.ssh import SSHConnection, SSHCredentials
from responder.domain import observations as observed
from responder.domain.base import now
from responder.domain.commands import CommandResult
from responder.domain.errors import TransientError
from responder.domain.evidence import Evidence
from responder.domain.notes import Notes
from responder.domain.parsing.http import HttpReply, curl_argv, parse_curl, read_json
from responder.domain.parsing.metrics import MetricNames, Samples, compare, parse_metrics
from responder.domain.parsing.parsed import Parsed
from responder.domain.parsing.processes import PS_COLUMNS
from responder.domain.parsing.systemd import PROPERTIES, START_LIMIT
from responder.domain.parsing.times import parse_utc_offset
from responder.domain.profile import Endpoint, Host, Profile
from responder.domain.redaction import redact

MAX_BODY = 256 * 1024
REPORTED_AFTER = timedelta(minutes=5)
MAX_METRICS = 4 * 1024 * 1024
_JOURNALS = threading.BoundedSemaphore(16)
"""However many hosts are looked at, so many journals of a megabyte are in memory at most."""
_ONE_PARSES = threading.Lock()
"""Parsing megabytes keeps the interpreter busy: side by side it is no faster, and the connections starve."""
Scrape = tuple[float, Parsed[Samples]]
"""When (monotonic seconds) the metrics were read, and what they said."""


class Look:
    """One look at one host. Use as a context manager: the connection is made once and closed at the end."""

    def __init__(self, profile: Profile, ssh: SSHCredentials, host: Host) -> None:
        self.profile = profile
        self.host = host
        self.notes = Notes(host.name, now())
        self.replies: dict[str, HttpReply] = {}
        self.scraped: Scrape | None = None
        self._ssh = ssh
        self._connection: SSHConnection | None = None

    def __enter__(self) -> "Look":
        self._connection = self._ssh.connect(self.host.name, self.host.address, self.host.port)
        self.notes.saw("host.reachable", f"ssh {self.host.name}", True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection:
            self._connection.close()

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What was seen so far."""
        return tuple(self.notes.evidence)

    def read(self, *command: str, cap_bytes: int | None = None) -> CommandResult:
        """Run a reading command on the host within the profile's deadline."""
        assert self._connection is not None
        return self._connection.read(
            list(command), deadline_s=self.profile.ssh.command_timeout_s, cap_bytes=cap_bytes
        )

    def read_all(self, *commands: Sequence[str]) -> list[CommandResult]:
        """The same for several commands, in one session."""
        assert self._connection is not None
        return self._connection.read_all(commands, deadline_s=self.profile.ssh.command_timeout_s)

    def unit(self) -> int | None:
        """The unit's state; returns its main process' id."""
        systemctl = self.profile.unit.systemctl
        asked = (*PROPERTIES, START_LIMIT)
        shown = self.read(*systemctl, "show", self.profile.unit.name, "--no-pager", "-p", ",".join(asked))
        observed.note_unit(self.notes, shown)
        pid = next((e.value for e in reversed(self.notes.evidence) if e.key == "unit.main_pid"), None)
        return pid or None

    def endpoints(self) -> None:
        """Health, engine and orders, as the profile expects them; what they answered stays in `replies`."""
        ends = self.profile.endpoints
        named = {"health": ends.health, "engine": ends.engine, "orders": ends.orders}
        asked = {name: endpoint for name, endpoint in named.items() if endpoint}
        self.replies = dict(zip(asked, self._ask([end.url for end in asked.values()]), strict=True))
        for name, endpoint in asked.items():
            self._note_endpoint(name, endpoint, self.replies[name])

    def _ask(self, urls: Sequence[str]) -> list[HttpReply]:
        """The replies of `urls`, asked at once: a service that hangs costs a whole time-out for each.

        One after the other where the host's sshd takes one session at a time only.
        """
        try:
            with ThreadPoolExecutor(len(urls)) as pool:
                return list(pool.map(lambda url: self.get(url, MAX_BODY), urls))
        except TransientError:
            return [self.get(url, MAX_BODY) for url in urls]

    def _note_endpoint(self, name: str, endpoint: Endpoint, reply: HttpReply) -> None:
        reading = read_json(reply, endpoint.expect, endpoint.present)
        observed.note_endpoint(self.notes, name, self._url(endpoint.url), reply, reading)
        if name == "orders" and endpoint.present:
            observed.note_orders(self.notes, self._url(endpoint.url), reading, endpoint.present[0])

    def get(self, url: str, max_bytes: int) -> HttpReply:
        """Ask a URL from the host or from here, as the profile says."""
        timeout_s = self.profile.endpoints.timeout_s
        url = self._url(url)
        if self.profile.endpoints.probe_from == "here":
            return fetch(url, timeout_s=timeout_s, max_bytes=max_bytes)
        assert self._connection is not None
        answer = self._connection.read(
            curl_argv(url, timeout_s, max_bytes), deadline_s=timeout_s + 5, cap_bytes=max_bytes
        )
        return parse_curl(answer.exit_status, answer.stdout, answer.stderr, truncated=answer.truncated)

    def _url(self, url: str) -> str:
        return url.replace("{address}", self.host.address)

    def scrape(self, keep_in: Path | None = None) -> Scrape | None:
        """Read the metrics once, also into `scraped`; with `keep_in` the text is kept there as a file."""
        metrics = self.profile.endpoints.metrics
        if metrics is None:
            return None
        reply = self.get(metrics.url, MAX_METRICS)
        at = time.monotonic()
        usable = reply.failure is None and reply.status == 200
        parsed: Parsed[Samples] = (
            parse_metrics(reply.body) if usable else Parsed(problem=reply.problem or f"status {reply.status}")
        )
        if keep_in and usable:
            path = keep_in / f"metrics-{self.host.name}-{int(time.time())}.txt"
            path.write_text(redact(reply.body))
            self.notes.saw("metrics.snapshot", self._url(metrics.url), path.name)
        observed.note_scrape(self.notes, self._url(metrics.url), reply, parsed)
        self.scraped = at, parsed
        return self.scraped

    def rates(self, first: Scrape | None, second: Scrape | None) -> None:
        """Error share and latency between two scrapes, judged by the SLA."""
        metrics = self.profile.endpoints.metrics
        if metrics is None or first is None or second is None:
            return
        names = MetricNames(
            requests=metrics.requests,
            errors=metrics.errors,
            errors_where={label: re.compile(text) for label, text in metrics.errors_where.items()},
            latency=metrics.latency,
        )
        measured = compare(first[1], second[1], second[0] - first[0], names)
        if metrics.load and metrics.load_limit:
            observed.note_load(self.notes, self._url(metrics.url), second[1], metrics.load, metrics.load_limit)
        observed.note_impact(self.notes, self._url(metrics.url), second[1], self.profile.impact, metrics)
        sla = self.profile.sla
        observed.note_rates(
            self.notes, self._url(metrics.url), measured, limits=(sla.error_share, sla.latency_p99_s)
        )

    def two_scrapes(self, between: Callable[[], None], keep_in: Path | None = None) -> None:
        """Scrape, do something useful, wait out the interval, scrape again and compare."""
        first = self.scrape(keep_in)
        between()
        metrics = self.profile.endpoints.metrics
        if first and metrics and first[1].value is not None:
            time.sleep(max(0.0, metrics.scrape_interval_s - (time.monotonic() - first[0])))
            self.rates(first, self.scrape())
        else:
            self.rates(first, first)

    def journal(self, *selection: str) -> None:
        """The unit's journal, selected by `-n 50` or `--since`."""
        command = self.profile.unit.journalctl
        how = ("-u", self.profile.unit.name, *selection, "--no-pager", "-o", "short-unix")
        with _JOURNALS:
            read = self.read(*command, *how)
            with _ONE_PARSES:
                observed.note_journal(self.notes, read)

    def host_state(self, main_pid: int | None, since: datetime) -> None:
        """Status, processes, memory, disks, kernel, logins and the release: the document's diagnosis."""
        unit = self.profile.unit
        self.hands(main_pid, since)
        status, memory, disk, inodes, kernel = self.read_all(
            (*unit.systemctl, "status", unit.name, "--no-pager", "-n", "0"),
            ("free", "-b"),
            ("df", "-P", "-B1"),
            ("df", "-P", "-i"),
            (*unit.journalctl, "-k", "--since", f"@{int(since.timestamp())}", "--no-pager", "-o", "short-unix"),
        )
        observed.note_status(self.notes, status)
        observed.note_memory(self.notes, memory)
        observed.note_disk(self.notes, disk)
        observed.note_inodes(self.notes, inodes)
        observed.note_kernel(self.notes, kernel)
        self.release()
        self.configuration()
        self.strategies(*self.profile.strategies)

    def release(self) -> None:
        """Which release runs, and since when it is the one."""
        if link := self.profile.unit.release_link:
            observed.note_release(self.notes, self.read("stat", "-c", "%Y %N", "--", link))

    def configuration(self) -> None:
        """Since when the configuration is as it is."""
        if file := self.profile.unit.config_file:
            observed.note_config(self.notes, self.read("stat", "-L", "-c", "%Y", "--", file))

    def strategies(self, *names: str) -> None:
        """What the configured strategies read on this host: whether they could be tried, and what they changed."""
        for name in names:
            strategy = self.profile.strategies.get(name)
            hosts = [host.name for host in self.profile.hosts]
            if strategy is None or not strategy.reads_on(self.host.name, hosts):
                continue
            for read, command in strategy.reads().items():
                strategy.note(self.notes, read, self.read(*command))

    def hands(self, main_pid: int | None, since: datetime) -> None:
        """Who else is at work: processes of deployments, and interactive logins begun or used since the first
        alert (`since`) or shortly before: monitoring and people report only after what they saw.
        """
        listed, date, logins = self.read_all(("ps", "-eo", PS_COLUMNS), ("date", "+%z"), ("who", "-u"))
        observed.note_processes(self.notes, listed, self.profile.unit, main_pid)
        offset = parse_utc_offset(date.stdout)
        observed.note_logins(self.notes, logins, since - REPORTED_AFTER, now(), offset)

    def capture(self, main_pid: int, folder: Path) -> None:
        """Save what a stuck process is doing before it is ended (needs no right beyond reading /proc)."""
        parts: Sequence[str] = ("status", "wchan", "stat", "limits")
        texts = [f"== {part}\n{self.read('cat', f'/proc/{main_pid}/{part}').stdout}" for part in parts]
        path = folder / f"process-{self.host.name}-{main_pid}.txt"
        path.write_text(redact("\n".join(texts)))
        self.notes.saw("process.capture", f"/proc/{main_pid}", path.name)
