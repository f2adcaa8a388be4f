"""A service profile: everything the responder must know of one service, one model for each section.

The YAML of a profile is read by `read_profile`; its reference in `docs/profile.md` is generated from here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.documents import load_document
from responder.domain.errors import ProfileError
from responder.domain.evidence import Condition
from responder.domain.fields import Command, HttpUrl, Pattern, SecretName
from responder.domain.incident import Alert, Kind, Mode, Phase, Severity, lowest_mode
from responder.domain.predicates import PREDICATES
from responder.domain.redaction import redact
from responder.domain.strategies import Strategies

BY_PAGERDUTY, BY_SLACK = "pagerduty:", "slack:"
DRILL_SCALE = 0.1  # clocks of a drill run at a tenth

# Our proposal, to be moved in the review: the document gives action items a due date but no rule for it.
DUE_DAYS = {Severity.P1: 7, Severity.P2: 14, Severity.P3: 30, Severity.P4: 60}

NotificationName = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]


class Host(Frozen):
    """One machine that runs the service."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="Name used everywhere.")
    address: str = Field(
        pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:%_-]*$", description="IP address or DNS name that SSH connects to."
    )
    port: int = Field(22, ge=1, le=65535, description="SSH port.")


class JumpHost(Frozen):
    """The host through which all others are reached. Its own key is checked like theirs."""

    address: str = Field(
        pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:%_-]*$", description="IP address or DNS name that SSH connects to."
    )
    port: int = Field(22, ge=1, le=65535, description="SSH port.")
    user: str | None = Field(
        None, pattern=r"^[a-z_][a-z0-9_.-]*$", description="Login user there; None: the same as on the hosts."
    )


class Ssh(Frozen):
    """How the hosts are reached. Unknown and changed host keys are always refused."""

    user: str = Field(pattern=r"^[a-z_][a-z0-9_.-]*$", description="Login user, never root where it can be.")
    private_key: SecretName | None = Field(
        None, description="Name of the secret with the private key (PEM text). Required, unless `agent` is set."
    )
    agent: bool = Field(
        False,
        description="Log in with the keys of the agent that SSH_AUTH_SOCK names, where `incident up` or the "
        "worker was started, instead of `private_key`.",
    )
    jump: JumpHost | None = Field(None, description="Connect through this host. For SSH only, not for URLs.")
    known_hosts: str = Field("", description="OpenSSH known_hosts lines of the hosts and the jump host, as text.")
    known_hosts_file: str | None = Field(
        None, description="Path of a known_hosts file, read once by `incident service add`."
    )
    connect_timeout_s: float = Field(
        10, gt=0, le=60, description="Seconds to connect and log in, jump host and all."
    )
    command_timeout_s: float = Field(10, gt=0, le=120, description="Seconds for one reading command.")
    fence_directory: str = Field(
        ".incident", min_length=1, description="Where attempts leave their fence; below $HOME if relative."
    )

    @model_validator(mode="after")
    def _one_key(self) -> "Ssh":
        if self.agent and self.private_key:
            raise ValueError("give `private_key` or `agent: true`, not both")
        if not self.agent and not self.private_key:
            raise ValueError("`private_key` is missing: name the secret with the key, or say `agent: true`")
        return self

    def command(self, host: Host) -> tuple[str, ...]:
        """The OpenSSH command by which a person gets to `host`."""
        through: tuple[str, ...] = ()
        if jump := self.jump:
            address = f"[{jump.address}]" if ":" in jump.address else jump.address
            through = ("-J", f"{jump.user or self.user}@{address}:{jump.port}")
        return ("ssh", *through, "-p", str(host.port), f"{self.user}@{host.address}")


class Unit(Frozen):
    """The systemd unit and what belongs to it on a host."""

    name: str = Field(pattern=r"^[A-Za-z0-9@:._][A-Za-z0-9@:._-]*$", description="Unit name, without a path.")
    process_pattern: Pattern = Field("", description="Regular expression of its processes' command lines.")
    systemctl: Command = Field(("systemctl",), description="How to call systemctl for reading.")
    journalctl: Command = Field(("journalctl",), description="How to call journalctl for reading.")
    release_link: str | None = Field(None, description="Symbolic link to the running release, if any.")
    config_file: str | None = Field(None, description="Path of its configuration.")
    memory_limit_mib: float | None = Field(None, gt=0, description="Resident memory that it may take, MiB.")
    deployment_processes: tuple[Pattern, ...] = Field(
        (), description="Regular expressions of command lines that mean: a deployment is running."
    )


class Endpoint(Frozen):
    """One URL and what a healthy answer looks like. A status of 200 alone proves nothing."""

    url: HttpUrl = Field(description="As seen from where it is probed; `{address}` is the host's address.")
    expect: dict[str, bool | int | str] = Field(
        default_factory=dict,
        description="Dotted JSON fields and their values. Those present must agree, one must be present.",
    )
    present: tuple[str, ...] = Field((), description="Dotted JSON fields that must exist, whatever they hold.")

    @model_validator(mode="after")
    def _says_something(self) -> "Endpoint":
        if not self.expect and not self.present:
            raise ValueError("say what a healthy answer holds: `expect` values or `present` fields")
        return self


class Metrics(Frozen):
    """The Prometheus text endpoint and the names of the families that matter."""

    url: HttpUrl = Field(description="As seen from where it is probed; `{address}` is the host's address.")
    requests: str = Field(description="Counter of requests.")
    errors: str = Field(description="Counter of failed requests; may be the same family, narrowed.")
    errors_where: dict[str, Pattern] = Field(
        default_factory=dict,
        description="Labels (name: regular expression) that make a request a failed one.",
    )
    latency: str = Field(description="Histogram of request latency in seconds.")
    load: str | None = Field(None, description="Gauge of the work at hand, like requests in flight.")
    load_limit: float | None = Field(None, gt=0, description="Above it the service has too much to do.")
    scrape_interval_s: float = Field(5, ge=1, le=60, description="Seconds between the two scrapes.")


class Endpoints(Frozen):
    """Where the service is asked how it is. The document: /health, /metrics, /api/orders_state."""

    probe_from: Literal["host", "here"] = Field(
        "host", description="`host`: curl on each host over SSH; `here`: from this machine."
    )
    timeout_s: float = Field(5, gt=0, le=60, description="Seconds for one answer.")
    health: Endpoint = Field(description="Liveness, the document's quick health check.")
    engine: Endpoint | None = Field(None, description="What /health does not tell: is the engine alive?")
    metrics: Metrics | None = Field(None, description="Error rate and latency.")
    orders: Endpoint | None = Field(None, description="The functional check, saved before a restart.")


class SeverityRule(Frozen):
    """One rule: the level holds when all its conditions do. The first that holds decides."""

    level: Severity = Field(description="The level that it gives.")
    when: tuple[Condition, ...] = Field((), description="All must hold; none given: always.")
    kinds: tuple[Kind, ...] = Field((), description="Only for these kinds of incident; none given: all.")
    reason: str = Field(min_length=1, description="The sentence that people read.")


class SeverityLevel(Frozen):
    """What a level means to people: the document's table, and its clocks."""

    name: str = Field(description="One word, like Critical.")
    description: str = Field(description="What it means.")
    examples: tuple[str, ...] = Field((), description="What would be one.")
    update_every_minutes: int = Field(ge=1, description="Minutes between updates to stakeholders.")


class Severities(Frozen):
    """The levels P1-P4 and the rules that choose one."""

    levels: dict[Severity, SeverityLevel] = Field(description="All four levels.")
    rules: tuple[SeverityRule, ...] = Field(min_length=1, description="Tried from top to bottom.")

    @model_validator(mode="after")
    def _complete(self) -> "Severities":
        missing = [level.value for level in Severity if level not in self.levels]
        if missing:
            raise ValueError(f"describe every level; missing: {', '.join(missing)}")
        return self


class AlertRule(Frozen):
    """What an alert's name and labels mean: its kind, how bad it is, and what confirms or contradicts it."""

    name: Pattern = Field(description="Regular expression over the whole alert name, in any case.")
    labels: dict[str, Pattern] = Field(
        default_factory=dict, description="Labels (name: regular expression) that must match, too."
    )
    kind: Kind = Field(Kind.AVAILABILITY, description="Security and risk are for people alone.")
    severity: Severity | None = Field(None, description="At least this, unless the alert is contradicted.")
    suggests: tuple[str, ...] = Field(
        (),
        description="Hypotheses that explain it. When another one leads, the alert is something new, and the "
        "incident is triaged again.",
    )
    confirmed_by: tuple[Condition, ...] = Field(
        (), description="The alert is real when one of these holds, contradicted when none does."
    )


class Alerts(Frozen):
    """Which alerts are this service's, and what they mean."""

    match: dict[str, Pattern] = Field(
        description="Labels (name: regular expression over the whole value) that select this service."
    )
    rules: tuple[AlertRule, ...] = Field((), description="The first that matches counts.")
    catch_all: bool = Field(
        False,
        description="This service's on-call is paged for alerts that fit no profile. Where no profile says so, "
        "that of every service is.",
    )


class Window(Frozen):
    """A period in which nothing is changed automatically (times in UTC).

    Either once, with `starts_at` and `ends_at`, or every week, with `weekdays`, `from_time` and `to_time`.
    """

    reason: str = Field(description="Shown to whoever is refused.")
    starts_at: UtcDatetime | None = Field(None, description="Start of a window that is open once.")
    ends_at: UtcDatetime | None = Field(None, description="Its end.")
    weekdays: tuple[int, ...] = Field((), description="Every week on these days, 1 Monday to 7 Sunday.")
    from_time: time | None = Field(None, description="Start of the daily window, UTC.")
    to_time: time | None = Field(None, description="End of the daily window, UTC.")
    holds_alerts: bool = Field(
        False,
        description="Maintenance: alerts of availability wait for its end, and count only if they still fire.",
    )

    @model_validator(mode="after")
    def _one_shape(self) -> "Window":
        dated = [self.starts_at is not None, self.ends_at is not None]
        weekly = [bool(self.weekdays), self.from_time is not None, self.to_time is not None]
        if (all(dated), any(weekly)) != (True, False) and (all(weekly), any(dated)) != (True, False):
            raise ValueError("give `starts_at` and `ends_at`, or `weekdays`, `from_time` and `to_time`")
        if self.starts_at and self.ends_at and self.starts_at >= self.ends_at:
            raise ValueError("the window ends before it starts")
        if any(moment and moment.tzinfo for moment in (self.from_time, self.to_time)):
            raise ValueError("`from_time` and `to_time` are in UTC; leave the zone out")
        if any(day not in range(1, 8) for day in self.weekdays):
            raise ValueError("weekdays go from 1 (Monday) to 7 (Sunday)")
        return self

    def holds(self, at: datetime) -> bool:
        """Whether `at` lies in the window. A daily window may pass midnight and is never empty: from 08:00
        to 08:00 is a whole day.
        """
        at = at.astimezone(UTC)
        if self.starts_at and self.ends_at:
            return self.starts_at <= at < self.ends_at
        assert self.from_time is not None
        assert self.to_time is not None
        clock, day = at.time(), at.isoweekday()
        if self.from_time < self.to_time:
            return day in self.weekdays and self.from_time <= clock < self.to_time
        yesterday = 7 if day == 1 else day - 1
        return (day in self.weekdays and clock >= self.from_time) or (
            yesterday in self.weekdays and clock < self.to_time
        )


class OverallBudget(Frozen):
    """How often a service may be changed at all, over all strategies, targets and incidents."""

    attempts: int = Field(10, ge=0, description="Attempts within the period.")
    within_minutes: float = Field(60, gt=0, le=525_600, description="The period, minutes.")

    def tightened(self, other: "OverallBudget") -> "OverallBudget":
        """The stricter of the two in each respect."""
        return OverallBudget(
            attempts=min(self.attempts, other.attempts),
            within_minutes=max(self.within_minutes, other.within_minutes),
        )


class Guardrails(Frozen):
    """What holds the automation back, whatever it believes."""

    windows: tuple[Window, ...] = Field((), description="Freeze and maintenance windows.")
    budget: OverallBudget = OverallBudget()
    closing_granted: bool = Field(
        False, description="May close a P1/P2 by itself once confirmed; otherwise a person is asked."
    )


class Sla(Frozen):
    """What "back to normal" means."""

    error_share: float = Field(0.01, ge=0, le=1, description="Failed of all requests, 0 to 1.")
    latency_p99_s: float = Field(1.0, gt=0, description="99th percentile of latency, seconds.")
    availability_percent: float = Field(99.9, ge=0, le=100, description="Promised availability, 30 days.")


class Impact(Frozen):
    """Which metrics tell how many are affected. What cannot be read is a blank in the post-mortem, never zero."""

    clients: str | None = Field(None, description="Gauge of the clients connected; its series are added up.")
    total: str | None = Field(None, description="Counter of requests; unless given `endpoints.metrics.requests`.")
    failed: str | None = Field(
        None, description="Counter of failed ones; unless given `endpoints.metrics.errors`."
    )
    failed_where: dict[str, Pattern] = Field(
        default_factory=dict, description="Labels (name: regular expression) that make one of `failed` count."
    )


class Clocks(Frozen):
    """Every clock, in seconds. A drill runs them at a tenth; the bounds are for production."""

    run_lease_s: float = Field(30, ge=15, le=600, description="Without renewal the run is taken up again.")
    queue_s: float = Field(15, ge=5, le=120, description="A P1 whose run has not begun by then: a person.")
    page_lease_s: float = Field(240, ge=60, le=3600, description="Snooze of an acknowledged page.")
    step_s: float = Field(180, ge=60, le=3600, description="A reading step should have ended by then.")
    find_page_s: float = Field(15, ge=5, le=120, description="Looking for the alert's page before opening one.")
    verify_window_s: float = Field(30, ge=10, le=1800, description="How long a mitigation must hold.")
    settle_s: float = Field(60, ge=10, le=3600, description="After an action, until it must show an effect.")
    confirm_window_s: float = Field(60, ge=15, le=3600, description="How long all checks must stay healthy.")
    confirm_deadline_s: float = Field(300, ge=60, le=7200, description="Until confirming is given up.")
    samples: int = Field(3, ge=3, le=50, description="Healthy samples in a row, spread over a window.")
    observe_s: float = Field(300, ge=60, le=3600, description="Deadline of the strategy `wait`.")
    approval_s: float = Field(900, ge=120, le=86400, description="Waiting for a person to approve a step.")
    close_form_s: float = Field(3600, ge=300, le=86400, description="Waiting for a person to close.")
    silence_s: float = Field(300, ge=60, le=3600, description="Nobody joins or acknowledges: then the backup.")
    late_s: float = Field(60, ge=30, le=3600, description="What waited so long to be told goes as one digest.")

    def for_drill(self) -> "Clocks":
        """The same clocks at a tenth of the time (counts stay as they are)."""
        scaled = {
            name: value * DRILL_SCALE if name.endswith("_s") else value
            for name, value in self.model_dump().items()
        }
        return Clocks.model_construct(**scaled)


class Contact(Frozen):
    """A role, whom to reach first and whom when that fails. The document's "Emergency Contacts"."""

    role: str = Field(min_length=1, description="Like `On-call Engineer`.")
    primary: str = Field(
        description="`pagerduty:NAME` (of `pagerduty.policies` or `users`), `slack:#channel` or text for people."
    )
    backup: str | None = Field(None, description="The same: asked when the primary refuses or stays silent.")


class Runbook(Frozen):
    """A link that people are shown."""

    title: str = Field(description="What people read.")
    url: str = Field(description="Where it is.")


PagerDutyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]


class PagerDutyAccess(Frozen):
    """The PagerDuty service of this profile, and who is asked to join its incidents."""

    api_token: SecretName = Field(description="Name of the secret with a REST API token.")
    routing_key: SecretName = Field(description="Name of the secret with the Events v2 integration key.")
    from_email: str = Field(description="The user in whose name changes are made.")
    requester_id: str = Field(description="Id of that user, who requests responders.")
    service_id: str = Field(description="Id of the PagerDuty service.")
    escalation_policy_id: str = Field(description="Policy that is paged.")
    policies: dict[str, PagerDutyId] = Field(
        default_factory=dict,
        description="Ids of escalation policies by the names that contacts and responders use.",
    )
    users: dict[str, PagerDutyId] = Field(
        default_factory=dict, description="Ids of users by name: asked like a policy, or handed the command."
    )
    responders: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Names asked to join a P1 or P2, by component: the profile's own `component` at once (unless "
        "given: the service's policy), a `part` of the catalogue when its hypothesis leads.",
    )
    api_url: HttpUrl = Field("https://api.pagerduty.com", description="Base URL of the REST API.")
    events_url: HttpUrl = Field("https://events.pagerduty.com", description="Base URL of the Events API.")

    @model_validator(mode="after")
    def _names_are_known(self) -> "PagerDutyAccess":
        if doubled := sorted(self.policies.keys() & self.users.keys()):
            raise ValueError(f"{', '.join(doubled)}: a policy and a user of the same name")
        for component, names in self.responders.items():
            self.know(f"responders.{component}", names)
        return self

    def know(self, where: str, names: Iterable[str]) -> None:
        """Raises ValueError, naming the place, when one of the names is not known here."""
        unknown = [name for name in names if name not in self.policies and name not in self.users]
        if unknown:
            raise ValueError(f"{where}: {', '.join(unknown)} is none of `pagerduty.policies` and `users`")

    @property
    def own_policy(self) -> str:
        """The name of the service's own policy; its id where it has none."""
        named = (name for name, id in self.policies.items() if id == self.escalation_policy_id)
        return next(named, self.escalation_policy_id)

    def asked_first(self, component: str) -> tuple[str, ...]:
        """Whom a P1 or P2 of the component asks to join: names, else the service's own policy."""
        return self.responders.get(component) or (self.own_policy,)


class SlackAccess(Frozen):
    """The Slack workspace of this profile."""

    token: SecretName = Field(description="Name of the secret with a bot token.")
    stakeholder_channel: str | None = Field(None, description="Channel that gets the three notices, too.")
    backup_channel: str | None = Field(None, description="Told when the page cannot be delivered.")
    base_url: HttpUrl = Field("https://slack.com/api/", description="Base URL of the Web API.")


class StatuspageAccess(Frozen):
    """The status page that customers read. Without `granted` every text for it stays a draft."""

    api_token: SecretName = Field(description="Name of the secret with a Statuspage API key.")
    page_id: str = Field(pattern=r"^[A-Za-z0-9]{1,64}$", description="Id of the page.")
    component_ids: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")], ...] = Field(
        (), description="Ids of the components that stand for this service; shown as impaired meanwhile."
    )
    granted: bool = Field(
        False, description="Texts for customers may be published without a person, but for security and risk."
    )
    base_url: HttpUrl = Field("https://api.statuspage.io/v1", description="Base URL of the API.")


class TicketAccess(Frozen):
    """The GitHub repository whose issues are the tickets of this service."""

    token: SecretName = Field(description="Name of the secret with a token that may write issues.")
    repository: str = Field(pattern=r"^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", description="`owner/name`.")
    owner: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,38}$", description="Login of whoever is assigned to each ticket."
    )
    labels: tuple[Annotated[str, Field(min_length=1, max_length=50)], ...] = Field(
        ("incident",), description="Labels of each ticket."
    )
    due_days: dict[Severity, Annotated[int, Field(ge=1, le=365)]] = Field(
        default_factory=dict, description="Days until a follow-up is due; unless given P1 7, P2 14, P3 30, P4 60."
    )
    base_url: HttpUrl = Field("https://api.github.com", description="Base URL of the REST API.")


class Profile(Frozen):
    """A service. A new profile begins as dry-run: raise `mode` when you trust it."""

    schema_version: Literal[1] = Field(description="Version of the file's format.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,49}$", description="Lower-case name of the service.")
    description: str = Field("", description="What it does and for whom, one sentence.")
    component: str = Field("", description="What customers call it, used in notices.")
    mode: Mode = Field(Mode.DRY_RUN, description="The ceiling: dry-run, shadow or live.")
    drill: bool = Field(False, description="A drill's profile: every clock runs at a tenth.")
    hosts: tuple[Host, ...] = Field(min_length=1)
    ssh: Ssh
    unit: Unit
    endpoints: Endpoints
    severities: Severities
    alerts: Alerts
    strategies: Strategies = Field(
        default_factory=Strategies, description="What may be done; whatever is not here is never done."
    )
    guardrails: Guardrails = Guardrails()
    sla: Sla = Sla()
    impact: Impact = Impact()
    clocks: Clocks = Clocks()
    phase_budgets_minutes: dict[Phase, float] = Field(
        default_factory=lambda: {Phase.TRIAGE: 5.0, Phase.DIAGNOSE: 15.0, Phase.MITIGATE: 30.0},
        description="Minutes from the alert within which each phase should have ended.",
    )
    contacts: tuple[Contact, ...] = Field((), description="Whom to reach, by role; owners of follow-ups.")
    runbooks: tuple[Runbook, ...] = Field((), description="Links shown to whoever is paged.")
    pagerduty: PagerDutyAccess | None = None
    slack: SlackAccess | None = None
    statuspage: StatuspageAccess | None = None
    tickets: TicketAccess | None = None
    stakeholders: tuple[NotificationName, ...] = Field(
        (), description="Saved notification blocks of Prefect that get the three notices: `block-type/name`."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        for what, names in (
            ("host name", [host.name.lower() for host in self.hosts]),
            ("host address and port", [f"{host.address.lower()}:{host.port}" for host in self.hosts]),
        ):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"{what} used twice: {', '.join(doubled)}")
        if len(self.hosts) > 1 and self.name in [host.name for host in self.hosts]:
            raise ValueError(f"a host is called {self.name} like the service; what was seen where would mix")
        for strategy in self.strategies.values():
            runs_on = getattr(strategy, "host", None)
            if runs_on is not None and runs_on not in [host.name for host in self.hosts]:
                raise ValueError(f"strategies.{strategy.name} runs on {runs_on!r}, which is none of the hosts")
        if self.impact != Impact() and self.endpoints.metrics is None:
            raise ValueError("impact: its readings are metrics, and `endpoints.metrics` is not given")
        if self.pagerduty and (self.pagerduty.policies or self.pagerduty.users):
            for contact in self.contacts:
                ways = (contact.primary, contact.backup or "")
                called = [way.removeprefix(BY_PAGERDUTY) for way in ways if way.startswith(BY_PAGERDUTY)]
                self.pagerduty.know(f"contacts: {contact.role}", called)
        for name in self.condition_predicates():
            if name not in PREDICATES:
                raise ValueError(f"no predicate is called {name!r}; there are: {', '.join(sorted(PREDICATES))}")
        return self

    def condition_predicates(self) -> list[str]:
        """Names of all predicates that the profile's conditions use."""
        conditions = [c for rule in self.severities.rules for c in rule.when]
        conditions += [c for rule in self.alerts.rules for c in rule.confirmed_by]
        conditions += [c for s in self.strategies.values() for c in (*s.requires, *s.holds_when)]
        return [c.predicate for c in conditions if c.predicate]

    def action_deadline_s(self, strategy: str) -> float:
        """Seconds until an attempt of `strategy` should have ended, with looking before and asking after."""
        longest = max((known.timeout_s for known in self.strategies.values()), default=0.0)
        configured = self.strategies.get(strategy)
        return (configured.timeout_s if configured else longest) + self.clock.step_s

    @property
    def due_days(self) -> dict[Severity, int]:
        """Days until a follow-up is due, by severity."""
        return DUE_DAYS | (self.tickets.due_days if self.tickets else {})

    def update_interval(self, severity: Severity) -> timedelta:
        """Until stakeholders are to hear again; in a drill a tenth of what they are told."""
        minutes = self.severities.levels[severity].update_every_minutes
        return timedelta(minutes=minutes * (DRILL_SCALE if self.drill else 1))

    @property
    def clock(self) -> Clocks:
        """The clocks in force."""
        return self.clocks.for_drill() if self.drill else self.clocks

    def secret_names(self) -> list[str]:
        """Every secret that the profile names, without repetition."""
        names = [self.ssh.private_key] if self.ssh.private_key else []
        if self.pagerduty:
            names += [self.pagerduty.api_token, self.pagerduty.routing_key]
        if self.slack:
            names.append(self.slack.token)
        if self.statuspage:
            names.append(self.statuspage.api_token)
        if self.tickets:
            names.append(self.tickets.token)
        return list(dict.fromkeys(names))

    def selects(self, alert: Alert) -> bool:
        """Whether the alert's labels are this service's. Every configured label must match."""
        return bool(self.alerts.match) and _match(self.alerts.match, alert)

    def rule_for(self, alert: Alert) -> AlertRule | None:
        """The first rule that matches the alert's name, in any case (`VeloZ`, `Veloz`), and its labels."""
        return next(
            (
                rule
                for rule in self.alerts.rules
                if re.fullmatch(rule.name, alert.name, re.IGNORECASE) and _match(rule.labels, alert)
            ),
            None,
        )

    def held_by(self, at: datetime) -> Window | None:
        """The maintenance window that alerts wait for at `at`, if any."""
        return next((w for w in self.guardrails.windows if w.holds_alerts and w.holds(at)), None)

    def window_at(self, at: datetime) -> Window | None:
        """The freeze or maintenance window that holds at `at`, if any."""
        return next((window for window in self.guardrails.windows if window.holds(at)), None)


def read_profile(text: str, *, source: str) -> Profile:
    """The profile in `text`. Raises `ProfileError` with line and nearest key for each mistake, and for a secret
    in it: a profile is shown, and kept with each incident.
    """
    profile = load_document(text, Profile, source=source, page="docs/profile.md")
    leaks = [where for where, words in _texts(profile.model_dump(mode="json")) if redact(words) != words]
    if leaks:
        raise ProfileError(
            f"{source}: {', '.join(f'`{where}`' for where in leaks)}: holds what looks like a password, key or "
            "token. Keep it in a file on the host, or name a secret where the profile takes one",
            page="docs/how-to.md#secrets",
        )
    return profile


def _texts(data: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text with its dotted key; a list of words as a command line."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _texts(value, f"{where}.{key}" if where else str(key))
    elif isinstance(data, list) and all(isinstance(item, str) for item in data):
        yield where, " ".join(data)
    elif isinstance(data, list):
        for number, item in enumerate(data):
            yield from _texts(item, f"{where}.{number}")
    elif isinstance(data, str):
        yield where, data


def _match(patterns: Mapping[str, str], alert: Alert) -> bool:
    return all(
        label in alert.labels and re.fullmatch(pattern, alert.labels[label], re.IGNORECASE)
        for label, pattern in patterns.items()
    )


def tightened(kept: Profile, current: Profile) -> Profile:
    """The profile of an open incident: as it was at the opening, made stricter by later edits, never looser."""
    strategies = {
        name: strategy.tightened(later)
        for name, strategy in kept.strategies.items()
        if (later := current.strategies.get(name))
    }
    statuspage = kept.statuspage
    if statuspage and not (current.statuspage and current.statuspage.granted):
        statuspage = statuspage.model_copy(update={"granted": False})
    windows = dict.fromkeys((*kept.guardrails.windows, *current.guardrails.windows))
    closing = kept.guardrails.closing_granted and current.guardrails.closing_granted
    return kept.model_copy(
        update={
            "mode": lowest_mode(kept.mode, current.mode),
            "strategies": strategies,
            "guardrails": Guardrails(
                windows=tuple(windows),
                budget=kept.guardrails.budget.tightened(current.guardrails.budget),
                closing_granted=closing,
            ),
            "statuspage": statuspage,
        }
    )


def review_days(severity: Severity) -> int | None:
    """Days until the post-mortem's review: 2 for P1/P2, 7 for P3, none for P4 (document, phase 5)."""
    return {Severity.P1: 2, Severity.P2: 2, Severity.P3: 7}.get(severity)


def review_date(severity: Severity, resolved: date) -> date | None:
    """The day by which the post-mortem is to be reviewed, or None."""
    days = review_days(severity)
    return resolved + timedelta(days=days) if days else None
