import time
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.slack import Slack
from responder.domain.base import now
from responder.domain.channels import channel_name
from responder.domain.errors import OutcomeUnknownError, PermanentError, TransientError
from responder.lab.slack import SlackStandIn

NAME = "incident-20261123-gateway-down"


@pytest.fixture
def vendor() -> Iterator[SlackStandIn]:
    with SlackStandIn(channels=["veloz-oncall"]) as stand_in:
        yield stand_in


@pytest.fixture
def block(vendor: SlackStandIn) -> Slack:
    return Slack(**vendor.settings(), timeout_s=5)


# Names.


@given(st.dates(min_value=date(2000, 1, 1)), st.text(max_size=300))
def test_a_channels_name_is_one_that_slack_accepts_whatever_the_description(at, description):
    name = channel_name(at, description)
    assert len(name) <= 80
    assert name.startswith(f"incident-{at:%Y%m%d}")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not name.endswith("-")


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("Gateway down", "incident-20261123-gateway-down"),
        ("Größere Störung: Börse «X»", "incident-20261123-grossere-storung-borse-x"),
        ("網關", "incident-20261123-wang-guan"),
        ("☃ !!!", "incident-20261123"),
        ("error " * 40, "incident-20261123" + "-error" * 10),
    ],
)
def test_a_channels_name_is_the_date_and_a_brief_description(description, name):
    assert channel_name(date(2026, 11, 23), description) == name


# Channels.


def test_a_channel_is_made_with_a_topic_that_carries_the_incident(vendor, block):
    channel = block.create_channel(NAME, "P1 gateway down", incident_id="INC-7")
    assert channel == block.find_channel(NAME)
    assert channel.topic == vendor.channels[-1].topic == "P1 gateway down · INC-7"


def test_creating_again_after_a_crash_reuses_our_channel(vendor, block):
    first = block.create_channel(NAME, "P1", incident_id="INC-7")
    block.set_topic(first.id, "P2 mitigating · INC-7")
    assert block.create_channel(NAME, "P1", incident_id="INC-7").id == first.id
    assert vendor.channels[-1].topic == "P2 mitigating · INC-7"


@pytest.mark.parametrize("kind", ["cut", "malformed", "500"])
def test_a_channel_whose_topic_was_never_set_is_still_known_as_ours(vendor, block, kind):
    vendor.fail(kind, path="conversations.setTopic" if kind == "500" else "conversations.create")
    with pytest.raises((OutcomeUnknownError, TransientError)):
        block.create_channel(NAME, "P1", incident_id="INC-7")
    channel = block.create_channel(NAME, "P1", incident_id="INC-7")
    assert [c.name for c in vendor.channels] == ["veloz-oncall", NAME]
    assert vendor.channels[-1].id == channel.id
    assert vendor.channels[-1].topic == "P1 · INC-7"


def test_a_name_that_somebody_else_has_taken_gets_a_number(vendor, block):
    vendor.add_channel(NAME, topic="lunch")
    vendor.add_channel(NAME + "-2")
    assert block.create_channel(NAME, "P1", incident_id="INC-7").name == NAME + "-3"
    long = "incident-20261123-" + "x" * 62
    vendor.add_channel(long, archived=True)
    assert block.create_channel(long, "P1", incident_id="INC-8").name == long[:78] + "-2"


def test_nine_taken_names_are_a_permanent_error(vendor, block):
    for suffix in ("", *(f"-{n}" for n in range(2, 10))):
        vendor.add_channel(NAME + suffix, topic="lunch")
    with pytest.raises(PermanentError, match="taken"):
        block.create_channel(NAME, "P1", incident_id="INC-7")


def test_a_channel_is_found_on_a_later_page(vendor, block):
    for number in range(1200):
        vendor.add_channel(f"other-{number}")
    vendor.add_channel(NAME)
    assert block.find_channel(NAME).name == NAME
    assert block.find_channel("nowhere") is None


def test_a_long_topic_is_cut_and_keeps_the_incident(vendor, block):
    channel = block.create_channel(NAME, "x" * 400, incident_id="INC-7")
    assert len(channel.topic) == 250
    assert channel.topic.endswith(" · INC-7")
    block.set_topic(channel.id, "y" * 400)
    assert vendor.channels[-1].topic == "y" * 250


def test_inviting_and_archiving_may_be_repeated(vendor, block):
    channel = block.create_channel(NAME, "P1", incident_id="INC-7")
    for _ in range(2):
        block.invite(channel.id, ["U1", "U2"])
    assert vendor.channels[-1].invited == ["U1", "U2"]
    for _ in range(2):
        block.archive(channel.id)
    assert block.find_channel(NAME).archived
    with pytest.raises(PermanentError, match="is_archived"):
        block.post(channel.id, "too late")


# Messages.


@given(st.text(min_size=1, max_size=100).filter(str.strip))
def test_a_message_arrives_as_it_was_given(text):
    block = Slack(**_shared.settings())
    ts = block.post("veloz-oncall", text, blocks=[{"type": "section", "text": {"type": "mrkdwn", "text": text}}])
    arrived = _shared.messages[-1]
    assert (arrived.text, arrived.ts, arrived.channel_name) == (text, ts, "veloz-oncall")
    assert arrived.blocks[0]["text"]["text"] == text


_shared = SlackStandIn(channels=["veloz-oncall"])


@pytest.fixture(autouse=True, scope="module")
def _shared_stand_in() -> Iterator[None]:
    with _shared:
        yield


def test_what_has_arrived_is_known_by_its_tags_in_that_channel_and_since_then(vendor, block):
    other = vendor.add_channel("other")
    block.post("#veloz-oncall", "one", tags=["0000aaaa", "0000bbbb"])
    for number in range(250):
        block.post("#veloz-oncall", f"by somebody {number}")
    block.post(other, "elsewhere", tags=["0000cccc"])
    assert block.arrived("#veloz-oncall", since=now()) == {"0000aaaa", "0000bbbb"}
    assert block.arrived(other, since=now()) == {"0000cccc"}
    assert block.arrived(other, since=now() + timedelta(minutes=2)) == frozenset()


def test_where_it_may_not_be_looked_that_is_permanent_and_names_the_scope(vendor, block):
    vendor.scopes.remove("channels:history")
    with pytest.raises(PermanentError, match="scope channels:history"):
        block.arrived("#veloz-oncall", since=now())
    with pytest.raises(PermanentError, match="no public channel of that name"):
        block.arrived("#nowhere", since=now())


def test_a_message_has_an_address(vendor, block):
    ts = block.post("#veloz-oncall", "paging you")
    channel = vendor.channels[0].id
    assert channel in block.permalink(channel, ts)
    with pytest.raises(PermanentError, match="message_not_found"):
        block.permalink(channel, "1.2")


# Errors.


def test_a_refused_connection_is_transient(vendor, block):
    vendor.stop()
    with pytest.raises(TransientError, match="refused"):
        block.post("veloz-oncall", "x")
    vendor.start()
    block.post("veloz-oncall", "x")
    assert len(vendor.messages) == 1


@pytest.mark.parametrize("kind", ["refuse", "cut", "malformed", "timeout"])
def test_a_lost_answer_is_transient_for_a_read_and_unknown_for_a_change(vendor, kind):
    block = Slack(**vendor.settings(), timeout_s=1)
    vendor.fail(kind, times=2)
    with pytest.raises(TransientError):
        block.find_channel(NAME)
    with pytest.raises(OutcomeUnknownError):
        block.post("veloz-oncall", "perhaps")
    assert len(vendor.messages) == (kind in ("cut", "malformed"))


@pytest.mark.parametrize(("kind", "wait"), [("429", 7.0), ("429-bare", None), ("500", None), ("409", None)])
def test_a_limit_and_an_outage_are_transient_at_once_with_the_wait_asked_for(vendor, block, kind, wait):
    vendor.retry_after_s = 7
    vendor.fail(kind, times=None)
    begun = time.monotonic()
    with pytest.raises(TransientError) as caught:
        block.post("veloz-oncall", "x")
    assert caught.value.retry_after_s == wait
    assert time.monotonic() - begun < 2.5
    assert len(vendor.requests) == 1


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("401", "valid bot token"), ("403", "scope chat:write"), ("404", "check the channel's id")],
)
def test_a_refusal_is_permanent_and_says_what_to_grant(vendor, block, kind, advice):
    vendor.fail(kind)
    with pytest.raises(PermanentError, match=advice):
        block.post("veloz-oncall", "x")


def test_a_channel_that_the_app_is_not_in_says_so(vendor, block):
    id = vendor.add_channel("private-party", member=False)
    with pytest.raises(PermanentError, match="invite the app"):
        block.post(id, "x")


def test_a_wrong_token_is_never_part_of_the_message(vendor):
    with pytest.raises(PermanentError) as caught:
        Slack(**vendor.settings() | {"token": "xoxb-t0ps3cret"}).post("veloz-oncall", "x")
    assert "cret" not in str(caught.value)


def test_a_token_is_never_sent_in_clear_over_a_network():
    with pytest.raises(ValidationError, match="https"):
        Slack(token="xoxb-1", base_url="http://slack.example/api/")


def test_check_is_silent_when_all_is_well_and_names_missing_scopes(vendor, block):
    assert block.check() == []
    vendor.scopes.remove("chat:write")
    assert block.check() == ["Slack: the token lacks the scope chat:write: grant it to the app"]
    vendor.fail("401")
    assert "invalid_auth" in block.check()[0]
    assert vendor.messages == []


def test_a_proxy_in_the_environment_is_not_used_where_no_proxy_says_so(vendor, block, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert block.check() == []
