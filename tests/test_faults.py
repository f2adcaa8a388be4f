"""Faults of hosts, of the service and of those who are told: each is named or unknown, and none is passed over.

First single looks at a lab whose hosts are broken in as many ways, then whole incidents, several at a time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks.service import save_service
from blocks.ssh import SSHCredentials
from responder.cli.drill import lab_profile
from responder.cli.records import asked_about
from responder.cli.runs import start_run, wait_until_final
from responder.domain.approval import Answer
from responder.domain.base import now
from responder.domain.errors import HostKeyError, PermanentError, TransientError
from responder.domain.evidence import Dossier, Evidence
from responder.domain.incident import Alert, Kind, Mode, Severity
from responder.domain.profile import Profile
from responder.installation import Installation
from responder.lab.lab import Lab
from responder.lab.pagerduty import Incident, Page
from responder.lab.scenario import Scenario
from responder.lab.slack import Message
from responder.store import Store, open_store
from responder.store.entries import store_entries
from responder.store.tables import AttemptRow, IncidentRow, MessageRow
from tasks.hold import watch
from tasks.look import look_at_fleet, look_at_host
from tasks.opening import open_incident
from tests.lab_runs import PATIENCE_S, broken_lab, start_incident, wait_for, wait_opened


def scenario(*faults: Mapping[str, Any], hosts: int = 1, **changes: Any) -> Scenario:
    """A scenario of these faults, whose alert says that the gateway is down."""
    data = {
        "schema_version": 1,
        "name": "faults",
        "summary": "Something breaks.",
        "hosts": hosts,
        "faults": faults,
        "trigger": {"alerts": [{"at_s": 0.3, "name": "VelozGatewayDown"}]},
        "expect": {"outcome": "escalated"},
    }
    return Scenario.model_validate(data | changes)


# --- single looks ----------------------------------------------------------------------------------

BROKEN: dict[str, list[dict[str, Any]]] = {
    "healthy": [],
    "unknown key": [],
    "changed key": [{"do": "host_key_changed"}],
    "refused": [{"do": "host_unreachable"}],
    "silent": [{"do": "host_hangs", "after": "connect"}],
    "stalled": [{"do": "host_hangs", "after": "banner"}],
    "cut before": [{"do": "host_cut", "match": "free -b", "when": "before"}],
    "cut after": [{"do": "host_cut", "match": "free -b", "when": "after"}],
    "crashed": [{"do": "crash"}],
    "frozen": [{"do": "hang"}],
    "429": [{"do": "rate_limited"}],
    "slow": [{"do": "slow", "ms": 3_000}],
    "errors": [{"do": "errors", "share": 1.0}],
    "engine dead": [{"do": "engine_dead"}, {"do": "metrics_no_reply"}],
    "endless": [{"do": "endless_output", "command": "journalctl"}, {"do": "metrics_html"}],
    "metrics garbage": [{"do": "metrics_garbage"}],
    "metrics frozen": [{"do": "metrics_frozen"}],
}
CONNECT_S = 6.0
LOOK_S = 60.0
"""Far above what a look may take here, far below what waiting for a host that hangs would."""


@dataclass
class Looks:
    """A lab with one host for each way to break, what one look at each showed, and how long it took."""

    lab: Lab
    profile: Profile
    ssh: SSHCredentials
    found: dict[str, Dossier | Exception] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)

    def look(self, name: str) -> None:
        host = self.profile.hosts[list(BROKEN).index(name)]
        began = time.monotonic()
        try:
            self.found[name] = Dossier(evidence=look_at_host.fn(self.profile, self.ssh, host, "diagnosis", now()))
        except Exception as error:  # noqa: BLE001 - the tests say which one is right
            self.found[name] = error
        self.took_s[name] = time.monotonic() - began

    def seen(self, name: str, key: str) -> Evidence:
        dossier = self.found[name]
        assert isinstance(dossier, Dossier), f"{name}: {dossier}"
        [item] = dossier.of(key)
        return item


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looks]:
    faults = [fault | {"host": number} for number, each in enumerate(BROKEN.values()) for fault in each]
    with Lab(scenario(*faults, hosts=len(BROKEN)), run_dir=tmp_path_factory.mktemp("looks")) as lab:
        filled, secrets = lab_profile(lab.facts())
        unknown = lab.hosts[list(BROKEN).index("unknown key")].known_hosts
        known = filled.ssh.known_hosts.replace(unknown, "")
        ssh = SSHCredentials(
            user=filled.ssh.user,
            private_key=SecretStr(secrets["LAB_SSH_KEY"]),
            known_hosts=known,
            connect_timeout_s=CONNECT_S,
        )
        for fault in lab.scenario.faults:
            lab.apply(fault)
        made = Looks(lab, filled, ssh)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(made.look, BROKEN))
        yield made


def test_a_healthy_host_is_seen_healthy_while_the_others_are_broken(looks: Looks) -> None:
    for key in ("health.verdict", "engine.verdict", "orders.verdict", "metrics.verdict"):
        assert looks.seen("healthy", key).value == "healthy"
    assert looks.seen("healthy", "unit.active_state").value == "active"
    assert looks.seen("healthy", "logins.active").value == 0


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("unknown key", HostKeyError, "key"),
        ("changed key", HostKeyError, "key"),
        ("refused", TransientError, "refused"),
        ("silent", TransientError, ""),
        ("stalled", TransientError, ""),
        ("cut before", TransientError, "lost"),
        ("cut after", TransientError, "lost"),
    ],
)
def test_a_host_that_cannot_be_looked_at_is_a_named_error(
    looks: Looks, name: str, kind: type[Exception], words: str
) -> None:
    error = looks.found[name]
    assert isinstance(error, kind)
    assert looks.profile.hosts[list(BROKEN).index(name)].name in str(error)
    assert words in str(error)


def test_no_command_reaches_a_host_whose_key_is_not_trusted(looks: Looks) -> None:
    for name in ("unknown key", "changed key"):
        assert looks.lab.hosts[list(BROKEN).index(name)].commands() == []


def test_no_look_takes_longer_than_its_deadlines(looks: Looks) -> None:
    assert max(looks.took_s.values()) < LOOK_S
    assert looks.took_s["silent"] < CONNECT_S + 5
    assert looks.took_s["stalled"] < CONNECT_S + 5


def test_endless_output_is_cut_and_the_rest_is_still_seen(looks: Looks) -> None:
    assert looks.seen("endless", "journal.lines").unknown
    assert looks.seen("endless", "kernel.oom_kills").unknown
    assert looks.seen("endless", "health.verdict").value == "healthy"
    assert looks.seen("endless", "disk.used_percent").value is not None


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("crashed", "unit.active_state", "failed"),
        ("crashed", "health.failure", "refused"),
        ("crashed", "health.verdict", "unhealthy"),
        ("frozen", "health.failure", "timeout"),
        ("frozen", "health.verdict", None),
        ("frozen", "unit.active_state", "active"),
        ("frozen", "process.state", "T"),
        ("engine dead", "health.verdict", "healthy"),
        ("engine dead", "engine.verdict", "unhealthy"),
        ("429", "health.failure", "rate_limited"),
        ("429", "health.verdict", None),
        ("429", "engine.verdict", None),
        ("429", "metrics.verdict", None),
        ("429", "metrics.failure", "rate_limited"),
        ("endless", "metrics.failure", "shape"),
        ("endless", "metrics.verdict", None),
        ("metrics garbage", "metrics.failure", "shape"),
        ("metrics garbage", "metrics.error_share", None),
        ("metrics garbage", "metrics.verdict", None),
        ("engine dead", "metrics.failure", "empty_reply"),
        ("engine dead", "metrics.latency_p99_s", None),
        ("metrics frozen", "metrics.failure", "none"),
        ("metrics frozen", "metrics.verdict", None),
        ("slow", "health.failure", "timeout"),
        ("slow", "health.verdict", None),
        ("slow", "metrics.failure", "none"),
        ("errors", "health.failure", "server_error"),
        ("errors", "health.verdict", "unhealthy"),
        ("errors", "metrics.verdict", "unhealthy"),
    ],
)
def test_a_broken_service_is_seen_for_what_it_is(looks: Looks, name: str, key: str, value: str | None) -> None:
    item = looks.seen(name, key)
    assert item.value == value, item
    assert bool(item.unknown) == (value is None)


@pytest.mark.parametrize("path", ["/", "/api/none"])
def test_a_web_page_for_json_is_unknown_whatever_its_status(looks: Looks, path: str) -> None:
    ends = looks.profile.endpoints
    elsewhere = ends.health.model_copy(update={"url": ends.health.url.replace("/health", path)})
    changed = looks.profile.model_copy(update={"endpoints": ends.model_copy(update={"health": elsewhere})})
    found = Dossier(evidence=look_at_host.fn(changed, looks.ssh, changed.hosts[0], "triage", now()))
    assert found.of("health.verdict")[0].unknown


def test_in_a_fleet_what_is_out_of_reach_is_unknown_and_stops_no_other_host(looks: Looks) -> None:
    wanted = {"healthy": "healthy", "refused": None, "crashed": "unhealthy", "unknown key": None}
    names = {name: looks.profile.hosts[list(BROKEN).index(name)].name for name in wanted}
    hosts = tuple(host for host in looks.profile.hosts if host.name in names.values())
    fleet = looks.profile.model_copy(update={"hosts": hosts})
    with disable_run_logger():
        found = Dossier(evidence=tuple(look_at_fleet.fn(fleet, looks.ssh, "triage", now())))
    assert {name: found.value(host, "health.verdict") for name, host in names.items()} == wanted
    reasons = [each.unknown or "" for each in found.of("health.verdict")]
    assert sum("host key is not known" in reason for reason in reasons) == 1, reasons


def test_of_a_chatty_journal_the_newest_lines_are_the_ones_that_are_read(looks: Looks) -> None:
    chat = [f"order {number} accepted {'x' * 200}" for number in range(9_000)]
    looks.lab.hosts[0].ask("say", lines=[*chat, "[ERROR] disk controller gone"])
    found = Dossier(evidence=look_at_host.fn(looks.profile, looks.ssh, looks.profile.hosts[0], "diagnosis", now()))
    patterns = [each["pattern"] for each in found.of("journal.patterns")[0].value]
    assert any("disk controller gone" in pattern for pattern in patterns)


def test_fresh_probes_call_only_the_healthy_host_healthy(looks: Looks) -> None:
    wanted = {
        "healthy": "healthy",
        "crashed": "unhealthy",
        "errors": "unhealthy",
        "refused": "unknown",
        "changed key": "unknown",
        "429": "unknown",
        "metrics garbage": "unknown",
    }
    hosts = {name: looks.profile.hosts[list(BROKEN).index(name)] for name in wanted}
    seen = watch(looks.profile, looks.ssh, list(hosts.values()), window_s=2, deadline_s=10, excused=frozenset())
    assert not seen.held
    last = seen.last
    mine = {name: [r for r in last.readings if r.host == host.name] for name, host in hosts.items()}
    assert {name: last.model_copy(update={"readings": r}).verdict() for name, r in mine.items()} == wanted


# --- what cannot become an incident ----------------------------------------------------------------


def opened(service: str | None, *alerts: Alert) -> IncidentRow:
    return open_incident.fn("run-of-nobody", "Something", service, Kind.AVAILABILITY, alerts, None, None)


def saved(lab: Lab, name: str, **changes: Any) -> Profile:
    """A profile of the lab's service under another name."""
    filled, secrets = lab_profile(lab.facts())
    renamed = filled.model_copy(update={"name": name} | changes)
    save_service(renamed, secrets)
    return renamed


def test_an_unknown_service_is_an_error_that_says_what_to_do(installation: Installation) -> None:
    with pytest.raises(PermanentError, match=r"'no-such'.*incident service list"):
        opened("no-such")


def test_alerts_must_select_one_service(installation: Installation, looks: Looks) -> None:
    shared = {"match": {"service": "shared-by-two"}}
    alerts = looks.profile.alerts.model_validate(looks.profile.alerts.model_dump() | shared)
    for name in ("twin-one", "twin-two"):
        saved(looks.lab, name, alerts=alerts)
    with pytest.raises(PermanentError, match=r"more than one service \(twin-one, twin-two\)"):
        opened(None, Alert(name="Down", labels={"service": "shared-by-two"}))
    with pytest.raises(PermanentError, match="select none"):
        opened(None, Alert(name="Down", labels={"service": "nobodys"}))
    with pytest.raises(PermanentError, match="select none"):
        opened(None)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"summary": "x"},
        {"summary": "x" * 301},
        {"summary": "down", "severity": "P0"},
        {"summary": "down", "mode": "yolo"},
        {"summary": "down", "kind": "weather"},
        {"summary": "down", "service": 7},
        {"summary": "down", "alerts": "all"},
        {"summary": "down", "alerts": [{"labels": {}}]},
        {"summary": "down", "alerts": [{"name": "n" * 201}]},
    ],
)
def test_parameters_out_of_range_start_no_run(installation: Installation, parameters: dict[str, Any]) -> None:
    with pytest.raises(PermanentError, match="not accepted"):
        start_run(parameters)


def test_a_run_that_prefect_was_too_busy_to_confirm_is_made_once(installation: Installation) -> None:
    made: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        """Prefect's server, which does what it is asked, and twice answers 503 all the same."""

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            url = installation.api_url.removesuffix("/api") + self.path
            answer = httpx.request(self.command, url, content=body, headers=headers, trust_env=False, timeout=60)
            if creates := self.path.endswith("/create_flow_run"):
                made.append(answer.json()["id"])
            self.send_response(503 if creates and len(made) <= 2 else answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as busy:
        Thread(target=busy.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{busy.server_port}/api"}):
            run_id = start_run({"summary": "down", "service": "no-such-service"})
        busy.shutdown()
    assert made == [run_id] * 3


# --- whole incidents -------------------------------------------------------------------------------


@dataclass
class Story:
    """One incident from its beginning to its end, as everybody concerned has it."""

    row: IncidentRow
    state: str
    attempts: Sequence[AttemptRow]
    messages: Sequence[MessageRow]
    phases: set[str]
    timeline: str
    pages: Sequence[Page]
    incidents: Sequence[Incident]
    slack: Sequence[Message]
    actions: dict[str, list[str]]
    commands: dict[str, list[str]]
    service_hosts: list[str]
    notes: dict[str, Any]

    def sent(self, channel: str, kind: str = "") -> list[MessageRow]:
        return [m for m in self.messages if m.channel == channel and m.kind.startswith(kind) and m.state == "sent"]

    @property
    def page_text(self) -> str:
        """What the person who was woken reads, however its lines are broken."""
        [page] = [m for m in self.messages if m.kind == "escalate"]
        return " ".join(str(page.body["text"]).split())


Notes = dict[str, Any]
Hook = Callable[[Lab, Store, str, Notes], None]


def nothing(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
    """Nobody intervenes."""


def play(
    scene: Scenario,
    folder: Path,
    *,
    before: Callable[[Lab], None] = lambda lab: None,
    during: Hook = nothing,
    after: Hook = nothing,
    profile: Callable[[Profile], Profile] = lambda p: p,
    **parameters: Any,
) -> Story:
    """Run an incident to its end; `during` and `after` are what happens meanwhile and then."""
    notes: Notes = {}
    store = open_store()

    def quick(filled: Profile) -> Profile:
        """Twice the deadline of a host that hangs stays within a drill's step; a busy machine is not a fault."""
        ssh = filled.ssh.model_copy(update={"connect_timeout_s": CONNECT_S})
        ends = filled.endpoints.model_copy(update={"timeout_s": 5})
        return profile(filled.model_copy(update={"ssh": ssh, "endpoints": ends}))

    with broken_lab(scene, folder, profile=quick) as lab:
        before(lab)
        run_id = start_incident(lab, **parameters)
        incident_id = wait_opened(store, run_id).id
        during(lab, store, run_id, notes)
        wait_for(lambda: store.incident(incident_id).outcome, 2 * PATIENCE_S, named=f"the end of {lab.service}")
        after(lab, store, run_id, notes)
        wait_for(lambda: all(m.state != "waiting" for m in store.messages(incident_id)), named="telling")
        state = wait_until_final(run_id)
        reachable = [host for host in lab.hosts if host.name not in notes.get("gone", ())]
        return Story(
            row=store.incident(incident_id),
            state=state,
            attempts=store.attempts(incident_id),
            messages=store.messages(incident_id),
            phases={phase.name for phase in store.phases(incident_id)},
            timeline="\n".join(entry.text for entry in store_entries(store, incident_id)),
            pages=lab.pagerduty.pages,
            incidents=lab.pagerduty.incidents,
            slack=lab.slack.messages,
            actions={host.name: [a.verb for a in lab.actions() if a.host == host.name] for host in lab.hosts},
            commands={host.name: [str(c["command"]) for c in host.commands()] for host in reachable},
            service_hosts=[host.name for host in lab.hosts],
            notes=notes,
        )


CRASH = {"do": "crash"}


def pagerduty_hangs_at_first(folder: Path) -> Story:
    """PagerDuty answers nothing until the repair is done."""

    def heal(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        row = wait_opened(store, run_id)
        begun = wait_for(lambda: [a.acted_at for a in store.attempts(row.id) if a.acted_at], named="the attempt")
        notes["begun"] = begun[0]
        lab.pagerduty.heal()
        lab.pagerduty.stop()  # lets go of the calls that wait
        lab.pagerduty.start()

    def hang(lab: Lab) -> None:
        lab.pagerduty.fail("timeout", times=None, path="/incidents")

    return play(scenario(CRASH), folder, before=hang, during=heal)


def nobody_can_be_told(folder: Path) -> Story:
    """PagerDuty is down until the end and beyond, the others until the end; the repair does not hold."""

    def down(lab: Lab) -> None:
        lab.pagerduty.stop()
        for vendor in (lab.slack, lab.statuspage, lab.github):
            vendor.fail("500", times=None)

    def up_again(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        notes["told before"] = [m for m in store.messages(wait_opened(store, run_id).id) if m.state == "sent"]
        for vendor in (lab.slack, lab.statuspage, lab.github):
            vendor.heal()

        def backup_knows() -> bool:
            """It is told with the next try at PagerDuty, which must not be answered before."""
            return any(m.channel_name == "lab-oncall" and "did not hold" in m.text for m in lab.slack.messages)

        wait_for(backup_knows, named="the backup")
        notes["pages before"] = lab.pagerduty.pages
        lab.pagerduty.start()

    dies_again = {"do": "crash_after_restart", "after_s": 1}
    return play(scenario(dies_again, CRASH), folder, before=down, after=up_again)


def one_of_two_hosts_hangs(folder: Path) -> Story:
    def note_gone(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        notes["host"] = lab.hosts[1].name

    return play(scenario(CRASH, {"do": "host_hangs", "host": 1}, hosts=2), folder, after=note_gone)


def host_key_changes(folder: Path) -> Story:
    return play(scenario(CRASH, {"do": "host_key_changed"}), folder)


def sudo_refuses(folder: Path) -> Story:
    def again(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        second = start_incident(lab)
        notes["state"] = wait_until_final(second, 120)
        notes["second"] = store.incident_of_run(second)
        notes["alerts"] = store.alerts(wait_opened(store, run_id).id)

    return play(scenario(CRASH, {"do": "no_sudo"}), folder, after=again)


def people_are_at_work(folder: Path) -> Story:
    hands = ({"do": "login", "host": 0}, {"do": "deploy", "host": 1})
    return play(scenario(CRASH, CRASH | {"host": 1}, *hands, hosts=2), folder)


def it_is_a_security_incident(folder: Path) -> Story:
    alert = {"at_s": 0, "name": "VelozAuthFailures"}
    return play(scenario(CRASH, {"do": "login"}, trigger={"alerts": [alert]}), folder)


def rehearsal(folder: Path) -> Story:
    return play(scenario(CRASH), folder, mode=Mode.DRY_RUN.value)


def profile_is_edited(folder: Path) -> Story:
    """Somebody lowers the mode, and asks for more clocks and rights, while the diagnosis reads."""

    def edit(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        with lab.hosts[0].hold("free -b"):
            lab.hosts[0].wait_for("free -b", timeout_s=120)
            saved(lab, lab.service, mode=Mode.DRY_RUN)

    return play(scenario(CRASH), folder, during=edit)


def metrics_stay_garbage(folder: Path) -> Story:
    return play(scenario(CRASH, {"do": "metrics_garbage"}), folder)


def answered(store: Store, run_id: str, notes: Notes, **answer: str) -> None:
    """Answer what the run asks, once it asks; what was asked stands in the notes."""
    row = wait_opened(store, run_id)
    asked = wait_for(lambda: asked_about(store, row), named="the question")
    notes["asked"] = asked.question
    notes["acted before"] = [a.state for a in store.attempts(row.id)]
    store.answer(row.id, asked.question.digest, Answer.model_validate({"by": "Ann", **answer}))


def a_person_approves_the_failover(folder: Path) -> Story:
    def approve(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        answered(store, run_id, notes, decision="approve", why="the primary's disk is gone")

    return play(scenario({"do": "primary_lost"}), folder, during=approve)


def a_person_names_another_strategy(folder: Path) -> Story:
    """Asked whether to restart, somebody who knows better has the release rolled back."""

    def name(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        answered(store, run_id, notes, decision="another strategy", strategy="rollback", why="known to be bad")

    def asks(filled: Profile) -> Profile:
        restart = filled.strategies["restart"].model_copy(update={"severities": ()})
        return filled.model_copy(update={"strategies": filled.strategies | {"restart": restart}})

    bad = {"do": "bad_release", "how": "exit"}
    return play(scenario(bad), folder, during=name, profile=asks)


def more_replicas_do_not_help(folder: Path) -> Story:
    def look(lab: Lab, store: Store, run_id: str, notes: Notes) -> None:
        notes["replicas"] = lab.shared.read()["deployment"]["replicas"]

    slow = {"alerts": [{"at_s": 0.3, "name": "VelozHighLatency"}]}
    return play(scenario({"do": "overload", "needs": 9}, trigger=slow), folder, after=look)


PLAYS = (
    nobody_can_be_told,
    more_replicas_do_not_help,
    a_person_approves_the_failover,
    a_person_names_another_strategy,
    metrics_stay_garbage,
    one_of_two_hosts_hangs,
    sudo_refuses,
    pagerduty_hangs_at_first,
    host_key_changes,
    people_are_at_work,
    it_is_a_security_incident,
    rehearsal,
    profile_is_edited,
)
AT_ONCE = 3


@pytest.fixture(scope="module")
def stories(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Story]]]:
    """The stories that the selected tests are about, some at a time."""
    calls = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    named = {params.get("story") for params in calls}
    folder = tmp_path_factory.mktemp("stories")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {act.__name__: pool.submit(act, folder) for act in PLAYS if act in named}


@pytest.fixture
def story(stories: dict[str, Future[Story]], request: pytest.FixtureRequest) -> Story:
    """The story that the test names by its marker's argument."""
    return stories[request.param.__name__].result()


def of(act: Callable[[Path], Story]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("story", [act], indirect=True, ids=[act.__name__])


def untouched(story: Story) -> bool:
    return not any(story.actions.values()) and not story.attempts


@pytest.mark.parametrize("story", PLAYS, indirect=True, ids=lambda act: act.__name__)
def test_no_page_is_left_acknowledged_without_a_person(story: Story) -> None:
    """Resolved, ringing, or about to ring: a snooze that nobody renews runs out."""
    for page in story.incidents:
        assert page.status != "acknowledged" or story.row.outcome == "taken_over"


@pytest.mark.parametrize("story", PLAYS, indirect=True, ids=lambda act: act.__name__)
def test_the_end_is_told_with_its_reason(story: Story) -> None:
    assert story.row.reason
    assert story.state == ("Completed" if story.row.outcome in ("resolved", "dry_run") else "Failed")
    assert "post_incident" in story.phases


@of(pagerduty_hangs_at_first)
def test_a_pagerduty_that_hangs_delays_no_repair_and_hears_of_it_later(story: Story) -> None:
    assert story.row.outcome == "resolved"
    assert story.actions[story.service_hosts[0]] == ["restart"]
    [attempt] = story.attempts
    assert attempt.acted_at == story.notes["begun"], "its end says nothing else of when it began"
    assert all(m.sent_at and m.sent_at > attempt.acted_at for m in story.sent("pagerduty"))
    assert story.sent("pagerduty", "page")
    assert {page.status for page in story.incidents} == {"resolved"}
    first = min(m.sent_at for m in story.sent("slack") if m.sent_at)
    assert first < attempt.acted_at, "one channel that hangs holds up no other"


@of(nobody_can_be_told)
def test_when_nobody_can_be_told_repairing_goes_on_and_somebody_is_told_as_soon_as_can_be(story: Story) -> None:
    assert story.row.outcome == "escalated"
    assert story.actions[story.service_hosts[0]] == ["restart"]
    assert story.notes["told before"] == []
    backup = [m.text for m in story.slack if m.channel_name == "lab-oncall"]
    assert any("PagerDuty cannot be reached" in text for text in backup)
    assert any("did not hold" in text for text in backup), "the backup knows what was tried"
    assert story.sent("pagerduty", "escalate")
    assert len(story.pages) > len(story.notes["pages before"]), "somebody's telephone rang once more, for us"
    assert {page.status for page in story.incidents} == {"triggered"}


@of(one_of_two_hosts_hangs)
def test_a_host_that_hangs_keeps_no_other_from_being_repaired(story: Story) -> None:
    first, hanging = story.service_hosts
    assert story.actions == {first: ["restart"], hanging: []}
    assert story.commands[hanging] == []
    assert story.row.outcome == "escalated"
    assert hanging in story.row.reason
    assert [attempt.target for attempt in story.attempts] == [first]
    assert f"{first} did not hold" not in story.timeline
    acted = story.attempts[0].acted_at
    assert acted is not None
    waited = (acted - story.row.opened_at).total_seconds()
    assert waited < PATIENCE_S, "two looks, each with two tries of some seconds at the host that hangs"


@of(host_key_changes)
def test_a_changed_host_key_is_named_and_nothing_is_sent_to_that_host(story: Story) -> None:
    assert story.row.outcome == "escalated"
    assert story.row.severity == "P2"
    assert "host key" in story.row.reason
    assert "host key" in story.page_text
    assert untouched(story)
    assert story.commands[story.service_hosts[0]] == []


@of(sudo_refuses)
def test_a_missing_right_is_told_to_a_person_with_the_next_command(story: Story) -> None:
    assert story.row.outcome == "escalated"
    assert story.actions[story.service_hosts[0]] == []
    [attempt] = story.attempts
    assert (attempt.state, attempt.exit_status) == ("failed", 1)
    assert "a password is required" in story.page_text
    assert "journalctl" in story.page_text
    assert story.sent("pagerduty", "escalate")


@of(sudo_refuses)
def test_a_service_whose_incident_is_open_gets_no_second_one(story: Story) -> None:
    assert story.notes["state"] == "Completed"
    assert story.notes["second"] is None
    assert len(story.attempts) == 1
    assert len(story.notes["alerts"]) == 1, "the same alert again is not another one"


@of(people_are_at_work)
def test_where_people_are_at_work_nothing_is_changed(story: Story) -> None:
    assert story.row.outcome == "taken_over"
    assert "somebody is logged in" in story.row.reason
    assert "a deployment is running" in story.row.reason
    assert untouched(story)


@of(it_is_a_security_incident)
def test_a_security_incident_is_for_people_and_nothing_is_restarted(story: Story) -> None:
    assert (story.row.kind, story.row.severity, story.row.outcome) == ("security", "P1", "escalated")
    assert "decided by people" in story.row.reason
    assert untouched(story)
    assert story.sent("pagerduty", "escalate")


@of(rehearsal)
def test_a_rehearsal_does_nothing_and_tells_nobody_but_shows_both(story: Story) -> None:
    assert story.row.outcome == "dry_run"
    assert untouched(story)
    assert "would run: sudo -n systemctl restart" in story.row.reason
    assert {message.state for message in story.messages} == {"withheld"}
    assert {"open", "page", "post"} <= {message.kind for message in story.messages}
    assert story.slack == []
    assert not any(page.acknowledgements or page.notes for page in story.incidents)
    assert not [c for c in story.commands[story.service_hosts[0]] if "mkdir" in c or "restart" in c]
    assert story.row.open_key is None


@of(profile_is_edited)
def test_an_edit_during_the_incident_only_tightens(story: Story) -> None:
    assert story.row.outcome == "escalated"
    assert "the profile allows restart as dry-run only" in story.row.reason
    assert "sudo -n systemctl restart" in story.page_text
    assert untouched(story)


@of(metrics_stay_garbage)
def test_what_stays_unknown_is_never_called_restored(story: Story) -> None:
    assert story.row.outcome == "escalated"
    assert story.actions[story.service_hosts[0]] == ["restart"]
    assert "cannot be confirmed" in story.row.reason
    assert "metrics on" in story.row.reason


@of(a_person_approves_the_failover)
def test_a_failover_waits_for_a_person_and_is_done_once_when_they_approve(story: Story) -> None:
    assert story.notes["asked"].strategy == "failover"
    assert story.notes["acted before"] == []
    assert story.row.outcome == "resolved"
    assert story.actions[story.service_hosts[0]] == ["failover"]
    assert "answered: approve" in story.timeline
    assert "the primary's disk is gone" in story.timeline
    assert any("a person must decide" in message.text for message in story.slack)
    assert [m for m in story.sent("pagerduty", "page") if "a person must decide" in m.body["text"]]


@of(a_person_names_another_strategy)
def test_the_strategy_that_a_person_names_is_tried_instead_of_the_planned_one(story: Story) -> None:
    assert story.notes["asked"].strategy == "restart"
    assert story.row.outcome == "resolved"
    assert [attempt.strategy for attempt in story.attempts] == ["rollback"]
    assert story.actions[story.service_hosts[0]] == ["rollback"]


@of(more_replicas_do_not_help)
def test_what_does_not_hold_is_undone_and_given_to_a_person(story: Story) -> None:
    assert story.row.outcome == "escalated"
    assert [attempt.strategy for attempt in story.attempts] == ["scale", "undo-scale"]
    assert story.actions[story.service_hosts[0]] == ["scale", "scale"]
    assert story.notes["replicas"] == 2, "as many as before"
    assert "did not hold" in story.page_text


def test_a_run_for_an_unknown_service_fails_with_the_reason(installation: Installation, store: Store) -> None:
    run_id = start_run({"summary": "down", "service": "no-such", "severity": Severity.P1.value})
    assert wait_until_final(run_id, 120) == "Failed"
    assert store.incident_of_run(run_id) is None
