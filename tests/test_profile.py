"""The profile: what it selects, what it refuses, and that it survives being stored."""

import re
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.errors import ProfileError
from responder.domain.incident import Mode, Severity
from responder.domain.profile import DRILL_SCALE, Clocks, Profile, read_profile, review_date, review_days
from tests.factories import NOON, alert, profile, profile_data, profile_text


def refused(words: str, **changes: Any) -> None:
    with pytest.raises(ProfileError, match=words):
        read_profile(profile_text(**changes), source="shop.yaml")


def test_a_profile_survives_yaml_and_json() -> None:
    whole = read_profile(profile_text(), source="shop.yaml")
    assert whole == profile()
    assert Profile.model_validate(whole.model_dump(mode="json")) == whole
    assert Profile.model_validate_json(whole.model_dump_json()) == whole


def test_a_new_profile_begins_as_a_dry_run_that_asks_before_closing() -> None:
    new = profile()
    assert (new.mode, new.drill, new.guardrails.closing_granted) == (Mode.DRY_RUN, False, False)
    assert Severity.P4 not in new.strategies["restart"].severities  # type: ignore[index]


# --- secrets and strings -------------------------------------------------------------------------

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize("secret", [PEM, "xoxb-12-hunter2", "hunter2", "", "SHOP KEY", "SHOP_KEY\n", "AB"])
def test_a_secret_in_place_of_its_name_is_refused_and_not_repeated(secret: str) -> None:
    ssh = {"user": "ops", "private_key": secret}
    with pytest.raises(ProfileError, match=r"`ssh\.private_key`: this is the NAME of a secret") as caught:
        read_profile(profile_text(ssh=ssh), source="shop.yaml")
    told = f"{caught.value}{caught.value.__cause__}"
    assert not secret.strip() or secret.strip() not in told


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("description", "trades with password=correct-horse-battery"),
        ("runbooks.0.url", "https://ann:correct-horse-battery@wiki.example.com/runbook"),
        ("strategies.restart.command", ["restart-it", "--api-token", "correct-horse-battery"]),
        ("contacts.0.primary", "the desk, key AKIAIOSFODNN7EXAMPLE"),
    ],
)
def test_a_profile_with_a_secret_in_it_is_refused_by_its_key_and_the_secret_is_not_repeated(
    key: str, words: Any
) -> None:
    data = yaml.safe_load((files("responder") / "services" / "veloz.yaml").read_text())
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = data
    for part in path:
        place = place[part]
    place[last] = words
    with pytest.raises(ProfileError, match=f"`{re.escape(key)}`: holds what looks like a password") as caught:
        read_profile(yaml.safe_dump(data), source="veloz.yaml")
    assert "correct-horse" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    ("ssh", "words"),
    [
        ({}, "`ssh`: `private_key` is missing: name the secret with the key, or say `agent: true`"),
        ({"agent": False}, "`private_key` is missing"),
        ({"agent": True, "private_key": "SHOP_SSH_KEY"}, "`private_key` or `agent: true`, not both"),
        ({"private_key": "SHOP_SSH_KEY", "jump": {"port": 22}}, r"`ssh\.jump\.address`: required"),
    ],
)
def test_the_way_to_log_in_is_said_and_said_once(ssh: dict[str, Any], words: str) -> None:
    refused(words, ssh={"user": "ops", **ssh})


def test_with_an_agent_no_key_is_among_the_secrets() -> None:
    assert profile(ssh={"user": "ops", "agent": True}).secret_names() == []


@pytest.mark.parametrize(
    ("jump", "through"),
    [
        (None, ()),
        ({"address": "gate.example.com"}, ("-J", "ops@gate.example.com:22")),
        ({"address": "fd00::1", "port": 2222, "user": "gate"}, ("-J", "gate@[fd00::1]:2222")),
    ],
)
def test_people_get_the_command_that_leads_to_the_host(
    jump: dict[str, Any] | None, through: tuple[str, ...]
) -> None:
    shop = profile(ssh={"user": "ops", "private_key": "SHOP_SSH_KEY", "jump": jump})
    host = shop.hosts[0]
    assert shop.ssh.command(host) == ("ssh", *through, "-p", str(host.port), f"ops@{host.address}")


def test_every_secret_that_is_named_is_known_once() -> None:
    pagerduty = {
        "api_token": "SHOP_PD_TOKEN",
        "routing_key": "SHOP_SSH_KEY",
        "from_email": "ops@example.com",
        "requester_id": "U1",
        "service_id": "S1",
        "escalation_policy_id": "E1",
    }
    named = profile(pagerduty=pagerduty, slack={"token": "SHOP_SLACK"}).secret_names()
    assert named == ["SHOP_SSH_KEY", "SHOP_PD_TOKEN", "SHOP_SLACK"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://ada:hunter2@localhost/health", "no user name or password"),
        ("http://hunter2@localhost/health", "no user name or password"),
        ("http://:hunter2@localhost/health", "no user name or password"),
        ("ftp://ada:hunter2@localhost/health", "no user name or password"),
        ("hunter2@localhost/health", "not an http"),
        ("ftp://hunter2/health", "not an http"),
        ("file:///etc/passwd", "not an http"),
        ("localhost:8080/health", "not an http"),
        ("http://", "not an http"),
        ("--output=/etc/passwd", "not an http"),
        ("http://localhost:port/health", "Port could not be cast"),
        ("http://localhost:99999/health", "out of range"),
        ("http://[::1/health", "Invalid IPv6"),
        ("http://localhost/a b", "neither spaces nor control"),
        ("http://localhost/a\n-o/etc/passwd", "neither spaces nor control"),
        ("http://localhost/\x7f", "neither spaces nor control"),
    ],
)
def test_a_url_is_http_without_credentials_or_control_characters(url: str, words: str) -> None:
    health = {"url": url, "expect": {"ok": True}}
    with pytest.raises(ProfileError, match=words) as caught:
        read_profile(profile_text(endpoints={"health": health}), source="shop.yaml")
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize("url", ["http://{address}:8080/health", "https://[::1]:1/x?q=a%20b", "http://é.example/"])
def test_urls_that_are_fine(url: str) -> None:
    assert profile(endpoints={"health": {"url": url, "expect": {"ok": True}}}).endpoints.health.url == url


@pytest.mark.parametrize("nasty", ["", "a\nb", "a\x00b", "a\x1b[2J", "a\x7f", "a\u2028b", "\ud800"], ids=ascii)
def test_an_argument_of_a_command_holds_no_control_characters(nasty: str) -> None:
    restart = {"command": ["systemctl", nasty], "budget": {"attempts": 1, "within_minutes": 30}}
    with pytest.raises(ValidationError):
        profile(strategies={"restart": restart})
    with pytest.raises(ValidationError):
        profile(unit={"name": "shop", "systemctl": [nasty]})


@pytest.mark.parametrize("argument", ["$(reboot)", "; reboot", "a b", "'", "`id`", "é", "--force", "\\"])
def test_an_argument_may_hold_whatever_a_shell_would_mistake(argument: str) -> None:
    restart = {"command": ["systemctl", argument], "budget": {"attempts": 1, "within_minutes": 30}}
    assert profile(strategies={"restart": restart}).strategies["restart"].command[1] == argument  # type: ignore[index]


@pytest.mark.parametrize("name", ["--now", "-a", "a/b", "a b", "a;b", "", "a\n", "$(id)"])
def test_a_units_name_is_no_option_path_or_shell_text(name: str) -> None:
    refused(r"`unit\.name`", unit={"name": name})


@pytest.mark.parametrize("address", ["", "-oProxyCommand=x", "a b", "a/b", "user@host", "a\n", "http://a", "a,b"])
def test_a_hosts_address_is_an_address(address: str) -> None:
    refused(r"`hosts\.0\.address`", hosts=[{"name": "gw-1", "address": address}])


@pytest.mark.parametrize("address", ["10.0.0.1", "gw-1.internal", "::1", "fe80::1%eth0", "localhost"])
def test_addresses_that_are_fine(address: str) -> None:
    assert profile(hosts=[{"name": "gw-1", "address": address}]).hosts[0].address == address


# --- hosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"name": "gw-1", "address": "10.0.0.9"}, "host name used twice: gw-1"),
        ({"name": "GW-1", "address": "10.0.0.9"}, "host name used twice: gw-1"),
        ({"name": "gw-2", "address": "One.internal"}, "host address and port used twice: one.internal:22"),
        ({"name": "gw-2", "address": "one.internal", "port": 22}, "host address and port used twice"),
        ({"name": "shop", "address": "10.0.0.9"}, "called shop like the service"),
    ],
)
def test_two_hosts_that_could_be_mixed_up_are_refused(second: dict[str, Any], words: str) -> None:
    refused(words, hosts=[{"name": "gw-1", "address": "one.internal"}, second])


def test_hosts_behind_one_address_differ_by_port_and_a_single_one_may_be_called_like_the_service() -> None:
    one = {"name": "gw-1", "address": "127.0.0.1", "port": 2201}
    assert len(profile(hosts=[one, {"name": "gw-2", "address": "127.0.0.1", "port": 2202}]).hosts) == 2
    assert len(profile(hosts=[{"name": "shop", "address": "127.0.0.1"}]).hosts) == 1
    refused("at least 1", hosts=[])


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategies": {"reboot": {}}}, "no such key"),
        (
            {"strategies": {"restart": {"command": [], "budget": {"attempts": 1, "within_minutes": 1}}}},
            "at least 1",
        ),
        ({"strategies": {"restart": {"command": ["x"]}}}, "`strategies.restart.budget`: required"),
        ({"mode": "yolo"}, "'dry-run', 'shadow' or 'live'"),
        ({"alerts": {"match": {"service": "("}}}, "not a regular expression"),
        ({"alerts": {"match": {}, "rules": [{"name": "a{99999999999}"}]}}, "not a regular expression"),
        (
            {"alerts": {"match": {}, "rules": [{"name": "a", "confirmed_by": [{"predicate": "x"}]}]}},
            "no predicate",
        ),
        ({"severities": {"levels": {}, "rules": [{"level": "P1", "reason": "x"}]}}, "missing: P1, P2, P3, P4"),
        ({"endpoints": {"health": {"url": "http://x/"}}}, "say what a healthy answer holds"),
        ({"name": "Shop"}, "`name`"),
        ({"sla": {"error_share": float("nan")}}, "finite"),
        ({"phase_budgets_minutes": {"diagnose": float("inf")}}, "finite"),
    ],
)
def test_a_profile_that_means_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    refused(words, **changes)


def test_an_unquoted_time_in_a_window_means_what_it_says() -> None:
    text = profile_text() + (
        "guardrails:\n  windows:\n    - {reason: nights, weekdays: [1], from_time: 22:00, to_time: 06:30}\n"
    )
    [window] = read_profile(text, source="shop.yaml").guardrails.windows
    assert (window.from_time, window.to_time) == (NOON.time().replace(hour=22), NOON.time().replace(6, 30))


@pytest.mark.parametrize("seconds", [1320, 22.5])
def test_a_number_is_not_taken_for_a_time_of_day(seconds: float) -> None:
    window = {"reason": "nights", "weekdays": [1], "from_time": seconds, "to_time": "06:30"}
    refused("from_time", guardrails={"windows": [window]})


# --- alerts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "labels", "selected"),
    [
        ({"service": "shop"}, {"service": "shop"}, True),
        ({"service": "shop"}, {"service": "Shop", "more": "x"}, True),
        ({"service": "shop"}, {"service": "workshop"}, False),
        ({"service": "shop"}, {"service": "shop-2"}, False),
        ({"service": "shop"}, {"service": "shop\nx"}, False),
        ({"service": "a|shop"}, {"service": "shop-2"}, False),
        ({"service": "shop.*"}, {"service": "shop-2"}, True),
        ({"service": "shop", "env": "prod"}, {"service": "shop", "env": "test"}, False),
        ({"service": "shop", "env": "prod"}, {"service": "shop"}, False),
        ({"service": "shop", "env": "prod"}, {"service": "shop", "env": "prod"}, True),
        ({"service": ".*"}, {}, False),
        ({}, {"service": "shop"}, False),
        ({}, {}, False),
    ],
)
def test_an_alert_is_the_services_when_every_label_matches_whole(
    match: dict[str, str], labels: dict[str, str], selected: bool
) -> None:
    assert profile(alerts={"match": match}).selects(alert(labels=labels)) is selected


@given(st.text(max_size=8))
def test_a_longer_value_never_selects(extra: str) -> None:
    value = "shop" + extra
    assert profile().selects(alert(labels={"service": value})) is (value.lower() == "shop")


RULES = [{"name": "VeloZ(Gateway|Engine)Down"}, {"name": "veloz.*", "kind": "security"}]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("VeloZGatewayDown", 0),
        ("velozengineDOWN", 0),
        ("VELOZ", 1),
        ("VelozGatewayDownAgain", 1),
        ("OtherVeloz", None),
        ("", None),
    ],
)
def test_the_first_rule_that_matches_the_whole_name_in_any_case_is_the_alerts(name: str, rule: int | None) -> None:
    found = profile(alerts={"match": {"a": "b"}, "rules": RULES}).rule_for(alert(name or "x"))
    assert (found.name if found else None) == (RULES[rule]["name"] if rule is not None else None)


# --- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Clocks.model_fields)
def test_every_clock_has_a_safe_lower_bound_and_an_upper_one(name: str) -> None:
    for unsafe in (0, -1, 1e9, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Clocks.model_validate({name: unsafe})


def test_a_drill_runs_every_clock_at_a_tenth_and_leaves_counts_alone() -> None:
    normal, drill = profile().clock, profile(drill=True).clock
    for name in Clocks.model_fields:
        scale = DRILL_SCALE if name.endswith("_s") else 1
        assert getattr(drill, name) == pytest.approx(getattr(normal, name) * scale)
    assert drill.samples >= 3


def test_a_drills_clocks_are_not_scaled_again_when_the_profile_is_stored() -> None:
    drill = profile(drill=True)
    again = Profile.model_validate(drill.model_dump(mode="json"))
    assert again.clock == drill.clock


# --- reviews -------------------------------------------------------------------------------------


def test_reviews_are_due_after_two_days_a_week_or_never() -> None:
    assert [review_days(severity) for severity in Severity] == [2, 2, 7, None]
    day = NOON.date()
    assert review_date(Severity.P1, day) == day.replace(day=6)
    assert review_date(Severity.P3, day) == day.replace(day=11)
    assert review_date(Severity.P4, day) is None


def test_the_factory_is_the_smallest_profile_that_is_valid() -> None:
    for section in set(profile_data()) - {"strategies"}:
        with pytest.raises(ValidationError):
            Profile.model_validate({key: value for key, value in profile_data().items() if key != section})
