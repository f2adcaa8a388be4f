from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from blocks.statuspage import Statuspage
from responder.domain.errors import OutcomeUnknownError, PermanentError, TransientError
from responder.lab.statuspage import StatuspageStandIn

NO_CHANGE: dict[str, str] = {}


@pytest.fixture
def vendor() -> Iterator[StatuspageStandIn]:
    with StatuspageStandIn(components=("trading", "reports")) as stand_in:
        yield stand_in


@pytest.fixture
def block(vendor: StatuspageStandIn) -> Statuspage:
    return Statuspage(**vendor.settings(), timeout_s=5)


def publish(block: Statuspage, key: str = "INC-7", text: str = "We look into it.") -> None:
    component = {block.component_ids[0]: "major_outage"}
    block.create(key, "Gateway down", status="investigating", text=text, impact="critical", components=component)


def test_an_incident_is_published_with_its_component_and_found_by_our_own_key(vendor, block):
    publish(block)
    [shown] = vendor.incidents
    found = block.find("INC-7")
    assert (shown.name, shown.impact, shown.status) == ("Gateway down", "critical", "investigating")
    assert (found.id, found.status, found.updates, found.open) == (
        shown.id,
        "investigating",
        ("We look into it.",),
        True,
    )
    assert list(vendor.components.values()) == ["major_outage", "operational"]
    assert block.find("INC-8") is None


def test_updates_and_the_end_are_published_in_order_and_the_component_is_well_again(vendor, block):
    publish(block)
    shown = block.find("INC-7")
    block.update(shown, status="monitoring", text="It is watched.", components=NO_CHANGE, tags=["0000aaaa"])
    block.update(
        block.find("INC-7"),
        status="resolved",
        text="It is over.",
        components={block.component_ids[0]: "operational"},
        tags=["0000bbbb"],
    )
    [shown] = vendor.incidents
    assert [(update.status, update.body) for update in shown.updates] == [
        ("investigating", "We look into it."),
        ("monitoring", "It is watched."),
        ("resolved", "It is over."),
    ]
    assert set(vendor.components.values()) == {"operational"}
    assert block.find("INC-7").updates[0] == "It is over."
    assert block.find("INC-7").tags == ("0000aaaa", "0000bbbb")
    assert not block.find("INC-7").open


@pytest.mark.parametrize("kind", ["cut", "malformed"])
def test_what_was_published_before_its_answer_was_lost_is_found_again(vendor, block, kind):
    vendor.fail(kind)
    with pytest.raises(OutcomeUnknownError):
        publish(block)
    assert block.find("INC-7").says("We look\n into it.")
    assert not block.find("INC-7").says("We look")


@pytest.mark.parametrize("kind", ["timeout", "cut", "malformed", "500"])
def test_a_read_that_fails_is_transient(vendor, kind):
    block = Statuspage(**vendor.settings(), timeout_s=0.2)
    vendor.fail(kind)
    with pytest.raises(TransientError):
        block.find("INC-7")


def test_a_page_that_cannot_be_reached_was_told_nothing(vendor, block):
    vendor.stop()
    with pytest.raises(TransientError, match="ConnectError"):
        publish(block)


@pytest.mark.parametrize(("kind", "wait"), [("429", 7.0), ("429-bare", None), ("500", None)])
def test_a_limit_and_an_outage_are_transient_with_the_wait_asked_for(vendor, block, kind, wait):
    vendor.retry_after_s = 7
    vendor.fail(kind)
    with pytest.raises(TransientError) as caught:
        publish(block)
    assert caught.value.retry_after_s == wait
    assert vendor.incidents == []


def test_a_refusal_is_permanent_and_carries_the_vendors_words_but_not_the_key(vendor, block):
    with pytest.raises(PermanentError, match="422 Component not found"):
        block.create("k", "n", status="identified", text="t", impact="none", components={"absent": "operational"})
    wrong = Statuspage(**vendor.settings() | {"api_token": "t0ps3cret"})
    with pytest.raises(PermanentError, match="401 Could not authenticate") as caught:
        wrong.find("INC-7")
    assert "t0ps3cret" not in str(caught.value)


def test_a_long_name_is_cut_not_refused(vendor, block):
    block.create("k", "x" * 300, status="identified", text="t", impact="none", components=NO_CHANGE)
    assert len(vendor.incidents[0].name) == 255


def test_check_names_a_key_that_is_refused_and_components_that_are_not_there(vendor, block):
    assert block.check() == []
    unknown = Statuspage(**vendor.settings() | {"component_ids": ["absent"]})
    assert unknown.check() == ["Statuspage: the page has no component absent"]
    [problem] = Statuspage(**vendor.settings() | {"api_token": "wrong"}).check()
    assert "401" in problem
    vendor.stop()
    assert "ConnectError" in block.check()[0]


def test_the_key_is_never_sent_in_clear_over_a_network():
    with pytest.raises(ValidationError, match="https"):
        Statuspage(api_token="t", page_id="p", base_url="http://api.statuspage.io/v1")
