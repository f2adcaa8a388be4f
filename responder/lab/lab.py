"""The lab: a scenario's hosts, the outside services' stand-ins, and the clock that breaks things.

    with Lab(load_scenario("process-crash"), run_dir=directory) as lab:
        profile = fill(template, lab.facts())
        lab.begin()
        alert = lab.wait_for_alert()

All names, addresses and ports are drawn at random, so that nothing can be tuned to them.
"""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from responder.domain.base import Frozen, UtcDatetime, now
from responder.domain.incident import Alert
from responder.lab.faults import AnyFault, Heal
from responder.lab.github import GitHubStandIn
from responder.lab.host import LabError, LabHost
from responder.lab.http import StandIn
from responder.lab.machine import Spec
from responder.lab.pagerduty import PagerDutyStandIn
from responder.lab.scenario import Scenario, ScenarioAlert
from responder.lab.shared import Shared, healthy
from responder.lab.slack import SlackStandIn
from responder.lab.sshd import load_key, new_key, reserve
from responder.lab.statuspage import StatuspageStandIn

WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "falcon",
    "garnet",
    "heron",
    "indigo",
    "juniper",
    "kestrel",
    "lupin",
    "maple",
    "nimbus",
    "onyx",
    "plover",
    "quartz",
    "raven",
    "sable",
    "tundra",
    "umber",
    "violet",
    "willow",
    "yarrow",
    "zephyr",
)
KINDS = (
    "trade",
    "order",
    "quote",
    "clear",
    "route",
    "price",
    "match",
    "hedge",
    "fund",
    "swap",
    "yield",
    "bond",
    "option",
    "margin",
    "ledger",
    "settle",
    "report",
    "audit",
    "limit",
    "risk",
)


class HostFacts(Frozen):
    """One host, as a profile needs it."""

    name: str
    address: str
    port: int = Field(description="SSH port.")
    gateway_port: int
    directory: str = Field(description="Where the host lies on this machine; nothing a profile should use.")


class LabFacts(Frozen):
    """All that a profile of the lab's service has to say. Paths start at the login directory.

    Hosts share one file system here, so that an absolute path could not be the same on all of them.
    """

    service: str
    unit: str
    process_pattern: str = Field(description="Regular expression that matches the unit's processes.")
    hosts: tuple[HostFacts, ...]
    user: str
    private_key: str = Field(repr=False)
    known_hosts: str
    gateway_port: int = Field(description="The same on all hosts.")
    gateway_url: str = Field(description="As seen from each host, without a slash at its end.")
    root: str = Field(description="Where the service is installed on each host.")
    release_link: str
    config_file: str = Field(description="The last good copy is beside it, with .good at its end.")
    namespace: str = Field(description="Of the deployment that kubectl on each host knows.")
    deployment: str
    rollback_script: str
    failover_script: str
    metrics_prefix: str
    alert_labels: dict[str, str] = Field(description="Labels that all alerts of this service have.")
    pagerduty: dict[str, Any] = Field(repr=False, description="The stand-in's settings().")
    slack: dict[str, Any] = Field(repr=False, description="The stand-in's settings().")
    statuspage: dict[str, Any] = Field(repr=False, description="The stand-in's settings().")
    github: dict[str, Any] = Field(repr=False, description="The stand-in's settings().")


class HostAction(Frozen):
    """One change that was made on a host or from it, by whatever command, as its supervisor counted it.

    What a script of the service does as a part of it, like the restart in a rollback, is not counted again.
    """

    host: str
    verb: str = Field(description="A verb of systemctl, or rollback, config, scale, failover.")
    unit: str = Field(description="What was changed: the unit, deployment/NAME or postgres.")
    at: UtcDatetime
    pid_before: int
    pid_after: int
    returned: int
    detail: str = Field("", description="What it was and became, where that is known.")


class RaisedAlert(Frozen):
    """An alert as Alertmanager would send it."""

    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    fingerprint: str
    starts_at: UtcDatetime
    ends_at: UtcDatetime | None = None
    group_key: str

    @property
    def incident_key(self) -> str:
        """PagerDuty's key of this alert: Alertmanager's integration sends the hash of the group key."""
        return hashlib.sha256(self.group_key.encode()).hexdigest()

    @property
    def alert(self) -> Alert:
        """The same in the domain's words."""
        return Alert(
            name=self.name,
            labels=self.labels,
            summary=self.annotations["summary"],
            fingerprint=self.fingerprint,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            incident_key=self.incident_key,
        )


class Lab:
    """A scenario's world, from `start` to `stop`, or as a `with` block."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        run_dir: Path | str,
        seed: int | None = None,
        clock_scale: float = 1,
    ) -> None:
        """`run_dir` gets one directory a host. `clock_scale` is how much faster PagerDuty's clocks run.

        A drill's profile has its clocks at a tenth already, snoozes too: the stand-in takes them as they are.
        """
        self.scenario = scenario
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self.run_dir = Path(run_dir).resolve()
        self.began_at: datetime | None = None
        self.raised: list[RaisedAlert] = []
        self.errors: list[str] = []
        self.pagerduty = PagerDutyStandIn(clock_scale=clock_scale)
        self.slack = SlackStandIn(channels=("lab-oncall",))
        self.statuspage = StatuspageStandIn()
        self.github = GitHubStandIn()
        self._changed = threading.Condition()
        self._clock_ends = threading.Event()
        self._clock: threading.Thread | None = None
        self._private_key = new_key()
        self.hosts = self._draw()

    def _draw(self) -> tuple[LabHost, ...]:
        draw = random.Random(self.seed)
        word, other = draw.sample(WORDS, 2)
        self.service = f"{word}-{draw.choice(KINDS)}"
        self.unit = f"{word}{draw.choice(('d', '-gw', '-svc', ''))}"
        self.metrics_prefix = f"{word}_{draw.choice(KINDS)}"
        self.namespace = f"{other}-{draw.choice(('live', 'prod', 'main'))}"
        self.deployment = f"{word}-{draw.choice(('gateway', 'api', 'edge'))}"
        self.database = (f"{other}-pg-1", f"{other}-pg-2")
        self.shared = Shared(self.run_dir / "shared.json")
        user = draw.choice(("ops", "oncall", "sre", "relay"))
        names = [f"{other}-{draw.choice('abc')}{number}" for number in range(1, self.scenario.hosts + 1)]
        network = f"127.{draw.randint(1, 250)}.{draw.randint(1, 250)}"
        addresses = [f"{network}.{number}" for number in range(1, self.scenario.hosts + 1)]
        port = _free_port(addresses, draw)
        client_key = load_key(self._private_key).get_base64()
        return tuple(
            LabHost(
                Spec(
                    # Says nothing of the service, or every command line on the host would match its name.
                    directory=str(self.run_dir / f"host-{number}"),
                    name=name,
                    address=address,
                    gateway_port=port,
                    user=user,
                    client_key=client_key,
                    unit=self.unit,
                    service=self.service,
                    metrics_prefix=self.metrics_prefix,
                    shared=str(self.shared.path),
                    restart_policy=self.scenario.restart_policy or "no",
                )
            )
            for number, (name, address) in enumerate(zip(names, addresses, strict=True))
        )

    def start(self) -> Self:
        """Start everything; after this all is healthy. Raises `LabError`."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self.shared.write(healthy(self.namespace, self.deployment, *self.database))
            for vendor in self._vendors:
                vendor.start()
            for host in self.hosts:
                host.start()
            for host in self.hosts:
                host.ready()
        except BaseException:
            self.stop()
            raise
        return self

    def facts(self) -> LabFacts:
        """What the profile of the lab's service is filled from."""
        spec = self.hosts[0].spec
        base = f"opt/{self.service}"
        return LabFacts(
            service=self.service,
            unit=self.unit,
            process_pattern=f"{self.service}_(gateway|engine)",
            hosts=tuple(
                HostFacts(
                    name=host.name,
                    address=host.address,
                    port=host.port,
                    gateway_port=spec.gateway_port,
                    directory=str(host.directory),
                )
                for host in self.hosts
            ),
            user=spec.user,
            private_key=self._private_key,
            known_hosts="".join(f"{host.known_hosts}\n" for host in self.hosts),
            gateway_port=spec.gateway_port,
            gateway_url=f"http://127.0.0.1:{spec.gateway_port}",
            root=base,
            release_link=f"{base}/current",
            config_file=f"{base}/etc/gateway.env",
            namespace=self.namespace,
            deployment=self.deployment,
            rollback_script=f"{base}/scripts/rollback.sh",
            failover_script=f"{base}/scripts/failover.sh",
            metrics_prefix=self.metrics_prefix,
            alert_labels={"service": self.service},
            pagerduty=self.pagerduty.settings(),
            slack=self.slack.settings(),
            statuspage=self.statuspage.settings(),
            github=self.github.settings(),
        )

    def begin(self, scenario: Scenario | None = None) -> None:
        """Start the scenario's clock: from now on things break and alerts fire at their times.

        Another `scenario` than the lab's own takes its place, and needs no more hosts.
        """
        self._end_clock()
        self.scenario = scenario or self.scenario
        self.errors.clear()
        events: list[tuple[float, Callable[[], None]]] = []
        for fault in self.scenario.faults:
            events.append((fault.at_s, partial(self.apply, fault)))
        for alert in self.scenario.trigger.alerts:
            events.append((alert.at_s, partial(self._raise, alert)))
            if alert.resolves_at_s is not None:
                events.append((alert.resolves_at_s, partial(self._resolve, alert)))
        self.began_at = now()
        ordered = sorted(events, key=lambda event: event[0])
        arguments = (ordered, time.monotonic(), self._clock_ends)
        self._clock = threading.Thread(target=self._run, args=arguments, daemon=True)
        self._clock.start()

    def heal(self) -> None:
        """End the scenario: its clock, every fault, every alert. Raises `LabError`."""
        self._end_clock()
        self.apply(Heal(do="heal", host="all"))
        self._end_alerts({raised.fingerprint for raised in self.raised})

    def apply(self, fault: AnyFault) -> None:
        """Do a fault now, to the hosts that it names; one with a time to live ends later. Raises `LabError`."""
        hosts = self.hosts if fault.host == "all" else (self.hosts[fault.host],)
        for host in hosts:
            fault.apply(host)
        if fault.for_s is not None:
            ends = [(fault.for_s, partial(fault.end, host)) for host in hosts]
            arguments = (ends, time.monotonic(), self._clock_ends)
            threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def wait_for_alert(self, timeout_s: float = 30, count: int = 1) -> RaisedAlert:
        """The newest alert, once so many have been raised. Raises TimeoutError, `LabError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.errors or len(self.raised) >= count, timeout_s):
                raise TimeoutError(f"{len(self.raised)} of {count} alerts after {timeout_s} s")
            if self.errors:
                raise LabError("; ".join(self.errors))
            return self.raised[-1]

    def actions(self) -> list[HostAction]:
        """Everything that was changed on the hosts or from them, in order of time."""
        found = [HostAction(host=host.name, **action) for host in self.hosts for action in host.ask("actions")]
        return sorted(found, key=lambda action: action.at)

    def stop(self) -> None:
        """End everything that was started. Repeatable."""
        self._end_clock()
        for host in self.hosts:
            host.stop()
        for vendor in self._vendors:
            vendor.stop()

    @property
    def _vendors(self) -> tuple[StandIn, ...]:
        return (self.pagerduty, self.slack, self.statuspage, self.github)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end_clock(self) -> None:
        self._clock_ends.set()
        if self._clock is not None:
            self._clock.join(5)
        self._clock_ends = threading.Event()  # for what is done without a scenario, and for the next one

    def _run(self, events: list[tuple[float, Callable[[], None]]], began: float, ends: threading.Event) -> None:
        for at_s, event in events:
            if ends.wait(max(0, began + at_s - time.monotonic())):
                return
            try:
                event()
            except (LabError, OSError) as error:
                # The clock goes on, and whoever waits or reads `errors` learns that the drill is worthless.
                with self._changed:
                    self.errors.append(f"at {at_s} s: {error}")
                    self._changed.notify_all()

    def _labels(self, alert: ScenarioAlert) -> dict[str, str]:
        return {
            "alertname": alert.name,
            "service": self.service,
            "instance": self.hosts[alert.host].name,
            "job": self.service,
            "severity": alert.severity,
            **alert.labels,
        }

    def _raise(self, alert: ScenarioAlert) -> None:
        labels = self._labels(alert)
        grouped = ", ".join(f'{name}="{labels[name]}"' for name in ("alertname", "service"))
        raised = RaisedAlert(
            name=alert.name,
            labels=labels,
            annotations={"summary": alert.summary or f"{alert.name} on {labels['instance']}"},
            fingerprint=_fingerprint(labels),
            starts_at=now(),
            group_key=f"{{}}:{{{grouped}}}",
        )
        self.pagerduty.alert(raised.incident_key, raised.annotations["summary"])
        with self._changed:
            self.raised.append(raised)
            self._changed.notify_all()

    def _resolve(self, alert: ScenarioAlert) -> None:
        self._end_alerts({_fingerprint(self._labels(alert))})

    def _end_alerts(self, fingerprints: set[str]) -> None:
        with self._changed:
            ending = [r for r in self.raised if r.fingerprint in fingerprints and r.ends_at is None]
            self.raised = [r.model_copy(update={"ends_at": now()}) if r in ending else r for r in self.raised]
            firing = {raised.incident_key for raised in self.raised if raised.ends_at is None}
            self._changed.notify_all()
        for key in {raised.incident_key for raised in ending} - firing:
            self.pagerduty.alert_resolved(key)


def _fingerprint(labels: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]


def _free_port(addresses: list[str], draw: random.Random) -> int:
    """A port that is free on all addresses, below those that the system hands out. Raises LabError."""
    for _ in range(1_000):
        port = draw.randint(20_000, 32_000)
        try:
            for address in addresses:
                reserve(address, port).close()
        except OSError:
            continue
        return port
    raise LabError("found no port that is free on all hosts' addresses")
