"""The shipped data: each hypothesis on dossiers for it, against it and undecided; each severity rule of VeloZ."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from factories import dossier, seen

from responder.domain.evidence import Dossier
from responder.domain.hypothesis import Catalogue, Judgement, judge, rank, read_catalogue
from responder.domain.incident import Alert, Kind, Mode, Phase, Severity
from responder.domain.plan import Plan, make_plan
from responder.domain.predicates import PREDICATES
from responder.domain.profile import Profile, read_profile, review_days
from responder.domain.severity import choose_severity
from responder.domain.strategies.restart import Restart

ROWS = {
    "metrics-exporter-defect": 3,
    "own-probes-rate-limited": 5,
    "engine-dead": 6,
    "gateway-crash": 8,
    "gateway-hangs": 9,
    "missing-build": 12,
    "incomplete-artifact": 13,
    "out-of-memory": 21,
    "bad-release": 19,
    "memory-leak": 22,
    "capacity": 24,
    "disk-full": 27,
    "exchange-outage": None,
    "configuration-changed": None,
    "database-primary-lost": None,
}
HOST, SERVICE = "gw-1", "shop"
UNKNOWN = object()
HEALTHY: Mapping[str, Any] = {
    "host.reachable": True,
    "unit.active_state": "active",
    "unit.sub_state": "running",
    "unit.result": "success",
    "unit.n_restarts": 0,
    "unit.exec_main_status": 0,
    "health.verdict": "healthy",
    "health.failure": "none",
    "engine.verdict": "healthy",
    "engine.failure": "none",
    "orders.verdict": "healthy",
    "orders.failure": "none",
    "metrics.verdict": "healthy",
    "metrics.failure": "none",
    "metrics.error_share": 0.001,
    "metrics.latency_p99_s": 0.02,
    "process.state": "S",
    "process.cpu_percent": 3.0,
    "memory.used_percent": 40.0,
    "journal.lines": ["Gateway listening on http://0.0.0.0:8080"],
    "journal.oom_kills": 0,
    "deployments.running": 0,
    "logins.active": 0,
    "disk.used_percent": 40,
    "process.memory_percent": 30,
    "metrics.overloaded": False,
    "changes.release_minutes": 4_320,
    "changes.config_minutes": 4_320,
    "config.is_good": True,
    "failover.primary_up": True,
}


def everywhere(failure: str, verdict: Any) -> dict[str, Any]:
    """The same answer of every endpoint."""
    found = {f"{name}.failure": failure for name in ("health", "engine", "orders", "metrics")}
    return found | {f"{name}.verdict": verdict for name in ("health", "engine", "orders", "metrics")}


DOWN = everywhere("refused", "unhealthy") | {
    "unit.active_state": "failed",
    "unit.sub_state": "failed",
    "unit.result": "signal",
    "unit.exec_main_status": 11,
    "process.state": UNKNOWN,
    "process.cpu_percent": UNKNOWN,
}
HANGING = everywhere("timeout", UNKNOWN) | {"process.state": "T"}
SILENT_METRICS = {"metrics.failure": "empty_reply", "metrics.verdict": UNKNOWN}
LIMITED = everywhere("rate_limited", UNKNOWN)
ENGINE_DEAD = {"engine.verdict": "unhealthy", "engine.failure": "unhealthy"}
NO_BUILD = DOWN | {"journal.lines": ["engine not found: /opt/veloz/build/dev/apps/engine/veloz_engine"]}
NO_MODULE = DOWN | {"journal.lines": ["ModuleNotFoundError: No module named 'rbac'"]}
KILLED = DOWN | {"journal.oom_kills": 1, "unit.result": "oom-kill"}
SLOW = {"metrics.latency_p99_s": 1.4, "metrics.verdict": "unhealthy"}
FAILING = {"metrics.error_share": 0.3, "metrics.verdict": "unhealthy"}
SERVING_503 = {"health.failure": "server_error", "health.verdict": "unhealthy"}
NEW_RELEASE = FAILING | {"changes.release_minutes": 3}
LEAKING = SLOW | {"process.memory_percent": 120, "metrics.overloaded": True}
OVERLOADED = SLOW | {"metrics.overloaded": True}
FULL = SERVING_503 | {"disk.used_percent": 100}
EXCHANGE_AWAY = FAILING | {"journal.lines": ["binance_websocket.cpp:862: error: WebSocket read error"]}
NEW_CONFIG = DOWN | {"changes.config_minutes": 3, "config.is_good": False}
NO_PRIMARY = SERVING_503 | {"failover.primary_up": False}


def at(host: str = HOST, *, window: bool | None = False, **changes: Any) -> Dossier:
    """A healthy host but for the changes (dots written as double underscores); `UNKNOWN` could not be seen."""
    return observed({host: {name.replace("__", "."): value for name, value in changes.items()}}, window=window)


def observed(hosts: Mapping[str, Mapping[str, Any]], *, window: bool | None = False) -> Dossier:
    """Several hosts, each healthy but for its changes."""
    items = [seen(SERVICE, "window.open", window)]
    for host, changes in hosts.items():
        for key, value in (HEALTHY | dict(changes)).items():
            items.append(seen(host, key) if value is UNKNOWN else seen(host, key, value))
    return dossier(*items)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    path = files("responder") / "hypotheses" / "catalogue.yaml"
    return read_catalogue(path.read_text(), source="catalogue.yaml")


@pytest.fixture(scope="module")
def veloz() -> Profile:
    path = files("responder") / "services" / "veloz.yaml"
    return read_profile(path.read_text(), source="veloz.yaml")


SUPPORTED = {
    "metrics-exporter-defect": SILENT_METRICS,
    "own-probes-rate-limited": LIMITED,
    "engine-dead": ENGINE_DEAD,
    "gateway-crash": DOWN,
    "gateway-hangs": HANGING,
    "missing-build": NO_BUILD,
    "incomplete-artifact": NO_MODULE,
    "out-of-memory": KILLED,
    "bad-release": NEW_RELEASE,
    "memory-leak": LEAKING,
    "capacity": OVERLOADED,
    "disk-full": FULL,
    "exchange-outage": EXCHANGE_AWAY,
    "configuration-changed": NEW_CONFIG,
    "database-primary-lost": NO_PRIMARY,
}
REFUTED: list[tuple[str, Mapping[str, Any]]] = [
    *((name, {}) for name in ROWS),
    ("metrics-exporter-defect", DOWN),
    ("metrics-exporter-defect", {"metrics.failure": "shape"}),
    ("own-probes-rate-limited", DOWN),
    ("engine-dead", DOWN),
    ("engine-dead", ENGINE_DEAD | {"logins.active": 1}),
    ("engine-dead", ENGINE_DEAD | {"deployments.running": 1}),
    ("gateway-crash", HANGING),
    ("gateway-crash", DOWN | {"unit.active_state": "active"}),
    ("gateway-crash", DOWN | {"logins.active": 1}),
    ("gateway-crash", DOWN | {"deployments.running": 1}),
    ("gateway-hangs", DOWN),
    ("gateway-hangs", HANGING | {"orders.failure": "none"}),
    ("gateway-hangs", HANGING | {"logins.active": 1}),
    ("missing-build", NO_MODULE),
    ("missing-build", NO_BUILD | {"unit.active_state": "active"}),
    ("incomplete-artifact", NO_BUILD),
    ("incomplete-artifact", NO_MODULE | {"unit.active_state": "active"}),
    ("out-of-memory", {"journal.oom_kills": 3}),
    ("out-of-memory", KILLED | {"deployments.running": 1}),
    ("bad-release", FAILING),
    ("bad-release", {"changes.release_minutes": 3}),
    ("bad-release", NEW_RELEASE | {"deployments.running": 1}),
    ("memory-leak", OVERLOADED),
    ("memory-leak", {"process.memory_percent": 120}),
    ("capacity", OVERLOADED | SERVING_503),
    ("capacity", SLOW),
    ("disk-full", {"disk.used_percent": 100}),
    ("exchange-outage", EXCHANGE_AWAY | ENGINE_DEAD),
    ("exchange-outage", FAILING),
    ("configuration-changed", DOWN | {"changes.config_minutes": 3}),
    ("configuration-changed", DOWN | {"config.is_good": False}),
    ("configuration-changed", NEW_CONFIG | {"logins.active": 1}),
    ("database-primary-lost", SERVING_503),
    ("database-primary-lost", NO_PRIMARY | {"deployments.running": 1}),
]
OPEN: list[tuple[str, Mapping[str, Any]]] = [
    ("metrics-exporter-defect", SILENT_METRICS | {"health.verdict": UNKNOWN}),
    ("metrics-exporter-defect", {"metrics.failure": UNKNOWN}),
    ("own-probes-rate-limited", {"health.failure": UNKNOWN}),
    ("engine-dead", {"engine.verdict": UNKNOWN}),
    ("engine-dead", ENGINE_DEAD | {"logins.active": UNKNOWN}),
    ("gateway-crash", DOWN | {"unit.active_state": UNKNOWN}),
    ("gateway-crash", DOWN | {"health.failure": UNKNOWN}),
    ("gateway-crash", DOWN | {"logins.active": UNKNOWN}),
    ("gateway-crash", DOWN | {"deployments.running": UNKNOWN}),
    ("gateway-hangs", HANGING | {"orders.failure": UNKNOWN}),
    ("gateway-hangs", HANGING | {"unit.active_state": UNKNOWN}),
    ("missing-build", NO_BUILD | {"unit.active_state": UNKNOWN}),
    ("missing-build", DOWN | {"journal.lines": UNKNOWN}),
    ("incomplete-artifact", DOWN | {"journal.lines": UNKNOWN}),
    ("out-of-memory", KILLED | {"journal.oom_kills": UNKNOWN}),
    ("out-of-memory", HEALTHY | {"journal.oom_kills": 1, "health.verdict": UNKNOWN}),
    ("bad-release", NEW_RELEASE | {"changes.release_minutes": UNKNOWN}),
    ("memory-leak", LEAKING | {"process.memory_percent": UNKNOWN}),
    ("capacity", OVERLOADED | {"metrics.overloaded": UNKNOWN}),
    ("disk-full", FULL | {"disk.used_percent": UNKNOWN}),
    ("exchange-outage", EXCHANGE_AWAY | {"engine.verdict": UNKNOWN}),
    ("configuration-changed", NEW_CONFIG | {"config.is_good": UNKNOWN}),
    ("database-primary-lost", NO_PRIMARY | {"failover.primary_up": UNKNOWN}),
]


def test_the_catalogue_holds_the_rows_that_are_built(catalogue: Catalogue) -> None:
    assert {hypothesis.id for hypothesis in catalogue.hypotheses} == set(ROWS) == set(SUPPORTED)


@pytest.mark.parametrize("name", ROWS)
def test_a_hypothesis_is_supported_by_its_own_symptoms(catalogue: Catalogue, name: str) -> None:
    judgement = judge(catalogue.get(name), observed({HOST: SUPPORTED[name]}), service=SERVICE)
    assert judgement.standing == "supported"
    assert judgement.hosts == (HOST,)
    assert all(finding.evidence for finding in judgement.supporting)


@pytest.mark.parametrize("name", ROWS)
def test_its_symptoms_make_it_the_leading_one(catalogue: Catalogue, name: str) -> None:
    first = rank(catalogue, observed({HOST: SUPPORTED[name]}), service=SERVICE)[0]
    assert (first.hypothesis.id, first.standing) == (name, "supported")


@pytest.mark.parametrize(("name", "changes"), REFUTED)
def test_a_hypothesis_is_refuted_by_other_symptoms(
    catalogue: Catalogue, name: str, changes: Mapping[str, Any]
) -> None:
    judgement = judge(catalogue.get(name), observed({HOST: changes}), service=SERVICE)
    assert judgement.standing == "refuted"
    assert judgement.refuting


@pytest.mark.parametrize(("name", "changes"), OPEN)
def test_a_hypothesis_stays_open_where_something_is_unknown(
    catalogue: Catalogue, name: str, changes: Mapping[str, Any]
) -> None:
    judgement = judge(catalogue.get(name), observed({HOST: changes}), service=SERVICE)
    assert judgement.standing == "open"
    assert judgement.missing


@pytest.mark.parametrize("name", ["engine-dead", "gateway-crash", "gateway-hangs", "out-of-memory"])
def test_a_window_explains_what_would_be_restarted_and_an_unknown_one_leaves_it_open(
    catalogue: Catalogue, name: str
) -> None:
    hypothesis, symptoms = catalogue.get(name), {HOST: SUPPORTED[name]}
    assert judge(hypothesis, observed(symptoms, window=True), service=SERVICE).standing == "refuted"
    assert judge(hypothesis, observed(symptoms, window=None), service=SERVICE).standing == "open"


def test_nothing_is_supported_on_a_healthy_host_and_nothing_on_one_that_nobody_can_reach(
    catalogue: Catalogue,
) -> None:
    cut_off = dossier(seen(HOST, "host.reachable", False), *(seen(HOST, k) for k in HEALTHY if "." in k[5:]))
    for found in (at(), cut_off, dossier()):
        assert not [j for j in rank(catalogue, found, service=SERVICE) if j.standing == "supported"]


def planned(ranking: tuple[Judgement, ...]) -> Plan:
    budget = {"attempts": 1, "within_minutes": 10}
    restart = Restart.model_validate({"command": ["restart"], "budget": budget})
    return make_plan(ranking, service=SERVICE, hosts=["gw-1", "gw-2"], strategies={"restart": restart})


def test_only_the_host_that_shows_it_is_restarted(catalogue: Catalogue) -> None:
    ranking = rank(catalogue, observed({"gw-1": {}, "gw-2": DOWN}), service=SERVICE)
    assert [(step.strategy, step.target) for step in planned(ranking).steps] == [("restart", "gw-2")]


@pytest.mark.parametrize("symptoms", [NO_BUILD, NO_MODULE])
def test_a_bad_artifact_is_for_people_and_never_restarted_first(
    catalogue: Catalogue, symptoms: Mapping[str, Any]
) -> None:
    plan = planned(rank(catalogue, observed({HOST: symptoms}), service=SERVICE))
    assert not plan.steps
    assert "rollback" in plan.for_people[0]


@pytest.mark.parametrize("symptoms", [SILENT_METRICS, LIMITED])
def test_what_heals_itself_is_only_watched(catalogue: Catalogue, symptoms: Mapping[str, Any]) -> None:
    plan = planned(rank(catalogue, observed({HOST: symptoms}), service=SERVICE))
    assert [step.strategy for step in plan.steps] == ["wait"]


def test_a_known_defect_of_the_metrics_hides_no_outage(catalogue: Catalogue) -> None:
    ranking = rank(catalogue, observed({"gw-1": SILENT_METRICS, "gw-2": DOWN}), service=SERVICE)
    assert ranking[0].hypothesis.id == "gateway-crash"


def test_every_hypothesis_brings_its_own_texts(catalogue: Catalogue) -> None:
    for text in ("prevention", "monitoring", "documentation"):
        assert len({getattr(hypothesis, text) for hypothesis in catalogue.hypotheses}) == len(ROWS)
    assert all(h.why and h.danger for h in catalogue.hypotheses)
    assert {h.id for h in catalogue.hypotheses if h.capture} == {"gateway-hangs"}


# The profile of VeloZ

HEALTH_DOWN = ("refused", "timeout", "empty_reply", "server_error", "unhealthy", "unreachable")
RULES: list[tuple[str, Mapping[str, Mapping[str, Any]], str]] = [
    *(("P1", {"gw-1": {"health.failure": f}}, "completely down") for f in HEALTH_DOWN),
    ("P1", {"gw-1": DOWN, "gw-2": DOWN}, "completely down"),
    ("P1", {"gw-1": ENGINE_DEAD, "gw-2": ENGINE_DEAD}, "engine is dead on every host"),
    ("P2", {"gw-1": {"host.reachable": False, "health.failure": UNKNOWN}}, "no host can be reached"),
    ("P2", {"gw-1": DOWN, "gw-2": {}}, "down on some of its hosts"),
    ("P2", {"gw-1": ENGINE_DEAD, "gw-2": {}}, "engine is dead on some"),
    ("P2", {"gw-1": {"metrics.latency_p99_s": 1.01}}, "above 1 s"),
    ("P2", {"gw-1": {"metrics.error_share": 0.06}}, "5 % of requests"),
    ("P2", {"gw-1": {"orders.verdict": "unhealthy"}}, "order processing"),
    ("P3", {"gw-1": {"metrics.latency_p99_s": 1.0}}, "above 0.5 s"),
    ("P3", {"gw-1": {"metrics.error_share": 0.05}}, "1 % of requests"),
    ("P3", {"gw-1": {}, "gw-2": {"host.reachable": False}}, "a host cannot be reached"),
    ("P3", {"gw-1": SILENT_METRICS}, "unknown is not healthy"),
    ("P3", {"gw-1": LIMITED}, "unknown is not healthy"),
    ("P4", {"gw-1": {"metrics.latency_p99_s": 0.5, "metrics.error_share": 0.01}}, "no check shows an impact"),
]


@pytest.mark.parametrize(("level", "hosts", "words"), RULES)
def test_a_severity_rule_of_veloz_fires_on_its_evidence(
    veloz: Profile, level: str, hosts: Mapping[str, Mapping[str, Any]], words: str
) -> None:
    severity, reason = choose_severity(veloz.severities, Kind.AVAILABILITY, observed(hosts), floor=None)
    assert severity == level
    assert words in reason


@pytest.mark.parametrize(("kind", "level"), [(Kind.SECURITY, "P1"), (Kind.RISK, "P2")])
def test_security_and_risk_have_their_severity_even_on_a_healthy_service(
    veloz: Profile, kind: Kind, level: str
) -> None:
    assert choose_severity(veloz.severities, kind, at(), floor=None)[0] == level


def test_every_rule_of_veloz_is_tried_here(veloz: Profile) -> None:
    tried = {words for _, _, words in RULES} | {"security breach", "risk limits"}
    assert [r.reason for r in veloz.severities.rules if not any(words in r.reason for words in tried)] == []


def test_veloz_and_the_lab_judge_severity_alike(veloz: Profile) -> None:
    template = (files("responder") / "services" / "lab.yaml").read_text()
    ours = (files("responder") / "services" / "veloz.yaml").read_text()
    section = re.compile(r"^severities:\n.*?^alerts:", re.MULTILINE | re.DOTALL)
    assert section.findall(template) == section.findall(ours)


def test_veloz_holds_the_documents_values(veloz: Profile) -> None:
    assert veloz.mode is Mode.DRY_RUN
    assert veloz.unit.name == "veloz"
    ends = veloz.endpoints
    urls = [ends.health.url, *(end.url for end in (ends.engine, ends.metrics, ends.orders) if end)]
    paths = ("/health", "/api/health", "/metrics", "/api/orders_state")
    assert urls == [f"http://localhost:8080{path}" for path in paths]
    assert veloz.strategies["restart"].command == ("sudo", "-n", "systemctl", "restart", "veloz")
    assert veloz.phase_budgets_minutes == {Phase.TRIAGE: 5, Phase.DIAGNOSE: 15, Phase.MITIGATE: 30}
    assert [review_days(severity) for severity in Severity] == [2, 2, 7, None]
    assert veloz.severities.levels[Severity.P1].update_every_minutes == 15
    assert not veloz.guardrails.closing_granted


DOCUMENT = Path(__file__).parents[2] / "shared" / "incident_response.md"
needs_document = pytest.mark.skipif(not DOCUMENT.exists(), reason="the document is not beside this checkout")


@needs_document
def test_the_levels_are_the_documents_table(veloz: Profile) -> None:
    rows = re.findall(r"^\| (P\d) \| (.+?) \| (.+?) \| (.+?) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) == 4
    for level, name, description, examples in rows:
        ours = veloz.severities.levels[Severity(level)]
        assert (ours.name, ours.description, ", ".join(ours.examples)) == (name, description, examples)


@needs_document
def test_the_contacts_with_backups_are_the_documents(veloz: Profile) -> None:
    text = DOCUMENT.read_text().partition("## Emergency Contacts")[2]
    rows = re.findall(r"^\| ([A-Z].+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)[1:]
    ours = [(c.role, c.primary, c.backup or "-") for c in veloz.contacts]
    assert len(rows) == 5
    assert ours == [(role, *(_as_ours(way) for way in ways)) for role, *ways in rows]


def _as_ours(way: str) -> str:
    return way.replace("PagerDuty: ", "pagerduty:").replace("Slack: ", "slack:")


@needs_document
def test_the_runbook_links_are_the_documents(veloz: Profile) -> None:
    text = DOCUMENT.read_text().partition("## Runbook Quick Links")[2]
    links = re.findall(r"^- \[(.+?)\]\((.+?)\)$", text, re.MULTILINE)
    assert len(links) == 5
    assert [(runbook.title, runbook.url) for runbook in veloz.runbooks] == links


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("VeloZGatewayDown", Kind.AVAILABILITY),
        ("VelozGatewayDown", Kind.AVAILABILITY),
        ("GatewayHealthCheckFailed", Kind.AVAILABILITY),
        ("VelozEngineDown", Kind.AVAILABILITY),
        ("VelozHighErrorRate", Kind.AVAILABILITY),
        ("HighOrderLatency", Kind.AVAILABILITY),
        ("GatewayAuthFailures", Kind.SECURITY),
        ("HighAuthFailureRate", Kind.SECURITY),
        ("VelozVaRBreach", Kind.RISK),
        ("VelozPositionRiskBreach", Kind.RISK),
        ("VelozCriticalDrawdown", Kind.RISK),
    ],
)
def test_an_alert_of_veloz_has_its_kind(veloz: Profile, name: str, kind: Kind) -> None:
    alert = Alert(name=name, labels={"service": "veloz-gateway"})
    assert veloz.selects(alert)
    rule = veloz.rule_for(alert)
    assert rule is not None
    assert rule.kind is kind
    assert rule.confirmed_by or rule.kind.people_only


@pytest.mark.parametrize(
    ("name", "labels", "kind", "severity"),
    [
        ("VeloZEngineDown", {"severity": "critical"}, Kind.AVAILABILITY, "P1"),
        ("VeloZWebSocketDisconnected", {"severity": "warning"}, Kind.AVAILABILITY, "P3"),  # fires for ever
        ("VelozWebSocketDisconnected", {"severity": "critical"}, Kind.AVAILABILITY, "P1"),
        ("CriticalOrderLatency", {}, Kind.AVAILABILITY, "P2"),
        ("VelozHighLatency", {}, Kind.AVAILABILITY, "P3"),
        ("VelozHighOrderLatency", {}, Kind.AVAILABILITY, "P2"),
        ("GatewayHighP99Latency", {"severity": "critical"}, Kind.AVAILABILITY, "P3"),  # above 5 ms
        ("HighMarketDataLag", {}, Kind.AVAILABILITY, "P3"),
        ("CriticalMarketDataLag", {}, Kind.AVAILABILITY, "P2"),
        ("CriticalErrorRate", {}, Kind.AVAILABILITY, "P2"),
        ("GatewayHighErrorRate", {}, Kind.AVAILABILITY, "P2"),
        ("ExchangeAPIErrors", {}, Kind.AVAILABILITY, "P3"),
        ("HighWebSocketReconnects", {}, Kind.AVAILABILITY, "P3"),
        ("LowMarketDataRate", {}, Kind.AVAILABILITY, "P3"),
        ("HighRiskUtilization", {}, Kind.RISK, "P2"),
        ("CriticalRiskUtilization", {}, Kind.RISK, "P1"),
        ("RiskRejectionsSpike", {}, Kind.RISK, "P2"),
        ("EventLoopBacklog", {}, Kind.AVAILABILITY, "P3"),
        ("CriticalEventLoopBacklog", {}, Kind.AVAILABILITY, "P2"),
        ("HighActiveOrders", {}, Kind.AVAILABILITY, "P3"),
        ("HighSSEClients", {}, Kind.AVAILABILITY, "P4"),
        ("GatewayMemoryLeak", {}, Kind.AVAILABILITY, "P3"),
        ("VelozMemoryPressure", {}, Kind.AVAILABILITY, "P3"),
        ("VelozHighMemoryUsage", {}, Kind.AVAILABILITY, "P3"),
        ("MemoryUsageHigh", {}, Kind.AVAILABILITY, "P3"),
        ("GatewayHighCPU", {}, Kind.AVAILABILITY, "P3"),
        ("GatewaySSEConnectionDrops", {}, Kind.AVAILABILITY, "P3"),
        ("GatewayOrderErrors", {}, Kind.AVAILABILITY, "P2"),
        ("GatewaySlowHealthCheck", {}, Kind.AVAILABILITY, "P4"),
        ("GatewayErrorRateDiscrepancy", {}, Kind.AVAILABILITY, "P3"),
        ("GatewayLatencyWorse", {}, Kind.AVAILABILITY, "P3"),
        ("VelozPodRestarting", {}, Kind.AVAILABILITY, "P3"),
        ("VelozOrderExecutionFailure", {}, Kind.AVAILABILITY, "P2"),
        ("VelozHighDrawdown", {}, Kind.RISK, "P2"),
        ("VelozCriticalDrawdown", {}, Kind.RISK, "P1"),
        ("VelozVaRBreach", {}, Kind.RISK, "P1"),
        ("VelozHighLeverage", {}, Kind.RISK, "P2"),
        ("VelozHighConcentration", {}, Kind.RISK, "P3"),
        ("VelozLowWinRate", {}, Kind.RISK, "P3"),
        ("VelozNegativeSharpe", {}, Kind.RISK, "P4"),
    ],
)
def test_each_alert_that_veloz_ships_has_its_kind_and_its_least_severity(
    veloz: Profile, name: str, labels: dict[str, str], kind: Kind, severity: str
) -> None:
    rule = veloz.rule_for(Alert(name=name, labels=labels))
    assert rule
    assert (rule.kind, rule.severity) == (kind, severity)


def test_every_hypothesis_that_an_alert_suggests_exists(veloz: Profile, catalogue: Catalogue) -> None:
    known = {hypothesis.id for hypothesis in catalogue.hypotheses}
    assert {name for rule in veloz.alerts.rules for name in rule.suggests} <= known


def test_an_alert_of_another_service_or_without_labels_is_not_velozs(veloz: Profile) -> None:
    assert not veloz.selects(Alert(name="VeloZGatewayDown", labels={"service": "shop"}))
    assert not veloz.selects(Alert(name="VeloZGatewayDown"))


def test_every_predicate_that_the_data_names_exists(veloz: Profile, catalogue: Catalogue) -> None:
    used = {c.predicate for h in catalogue.hypotheses for c in (*h.requires, *h.supports, *h.refutes)} - {None}
    assert used | set(veloz.condition_predicates()) <= set(PREDICATES)
