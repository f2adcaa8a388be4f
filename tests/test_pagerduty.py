import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.pagerduty import PagerDuty, _retry_after_s
from responder.domain.base import now
from responder.domain.errors import OutcomeUnknownError, PermanentError, TransientError
from responder.lab.pagerduty import PagerDutyStandIn

KEY = 'veloz/"gw-1"'


@pytest.fixture
def vendor() -> Iterator[PagerDutyStandIn]:
    with PagerDutyStandIn(appear_s=0) as stand_in:
        yield stand_in


@pytest.fixture
def block(vendor: PagerDutyStandIn) -> PagerDuty:
    return PagerDuty(**vendor.settings(), timeout_s=5)


@pytest.fixture
def id(vendor: PagerDutyStandIn, block: PagerDuty) -> str:
    block.trigger(KEY, "gateway down", source="gw-1")
    return vendor.incidents[0].id


def wait_until(true, seconds: float = 5) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "not true in time"
        time.sleep(0.01)


# Finding and opening.


def test_an_incident_appears_a_moment_after_its_event_and_is_found_by_its_key():
    with PagerDutyStandIn(appear_s=0.2) as vendor:
        block = PagerDuty(**vendor.settings())
        block.trigger(KEY, "gateway down", source="gw-1", details={"unit": "veloz"}, links={"run": "http://x/1"})
        assert block.find(KEY) is None
        wait_until(lambda: block.find(KEY))
        found = block.find(KEY)
        assert (found.title, found.status, found.urgency, found.open) == (
            "gateway down",
            "triggered",
            "high",
            True,
        )
        assert vendor.incidents[0].details == {"unit": "veloz"}
        assert block.find("another key") is None


def test_a_second_trigger_while_open_is_the_same_incident_and_no_second_page(vendor, block, id):
    block.trigger(KEY, "gateway down again", source="gw-1")
    assert [incident.id for incident in vendor.incidents] == [id]
    assert [page.why for page in vendor.pages] == ["triggered"]


def test_the_open_incident_is_found_before_newer_resolved_ones_and_old_ones_only_in_the_window(vendor, block, id):
    block.resolve(id, "restarted")
    assert block.find(KEY).status == "resolved"
    assert block.find(KEY, since=now() - timedelta(minutes=5)).id == id
    assert block.find(KEY, since=now() + timedelta(minutes=5)) is None
    block.trigger(KEY, "again", source="gw-1")
    second = vendor.incidents[1].id
    assert block.find(KEY, since=now() + timedelta(minutes=5)).id == second
    block.resolve(second, "")
    assert block.find(KEY).id == second


def test_an_overlong_summary_is_cut_not_refused(vendor, block):
    block.trigger(KEY, "x" * 3000, source="gw-1")
    assert len(vendor.incidents[0].title) == 1024


def test_a_monitoring_system_opens_and_resolves_by_its_own_key(vendor, block):
    vendor.alert(KEY, "VelozGatewayDown")
    assert block.find(KEY).open
    vendor.alert_resolved(KEY)
    assert not block.find(KEY).open


# Holding the page.


def test_an_acknowledged_page_is_a_lease_that_pages_again_when_it_runs_out():
    with PagerDutyStandIn(appear_s=0, clock_scale=100) as vendor:
        block = PagerDuty(**vendor.settings())
        block.trigger(KEY, "gateway down", source="gw-1")
        held = block.acknowledge(vendor.incidents[0].id, snooze_s=30)
        assert held.status == "acknowledged"
        assert [person.id for person in held.acknowledged_by] == [vendor.requester_id]
        wait_until(lambda: len(vendor.pages) == 2)
        assert vendor.pages[1].why == "the acknowledgement ran out"
        assert block.get(held.id).status == "triggered"
        with pytest.raises(PermanentError, match="must be acknowledged"):
            block.snooze(held.id, 30)


def test_a_renewed_snooze_moves_the_end_of_the_lease(vendor, block, id):
    block.acknowledge(id, snooze_s=60)
    first = vendor.incidents[0].held_until
    assert first - time.monotonic() <= 60
    assert block.snooze(id, 120).status == "acknowledged"
    assert vendor.incidents[0].held_until > first + 30


def test_time_passes_at_the_stand_in_while_nobody_asks():
    with PagerDutyStandIn(appear_s=0, clock_scale=100) as vendor:
        vendor.alert(KEY, "down")
        vendor.person_acknowledges(vendor.incidents[0].id)
        vendor._hold(vendor._incidents[vendor.incidents[0].id], 1)
        wait_until(lambda: len(vendor._pages) == 2)


def test_a_page_that_may_not_be_snoozed_is_handed_back(vendor, block, id):
    vendor.fail("403", path="/snooze")
    with pytest.raises(PermanentError):
        block.acknowledge(id, 300)
    assert vendor.incidents[0].status == "triggered"
    assert vendor.pages[-1].why == "handed back"


def test_a_page_that_a_person_holds_too_is_not_taken_from_them(vendor, block, id):
    vendor.person_acknowledges(id)
    vendor.fail("403", path="/snooze")
    with pytest.raises(PermanentError):
        block.acknowledge(id, 300)
    assert vendor.incidents[0].status == "acknowledged"
    assert [page.why for page in vendor.pages] == ["triggered"]


def test_an_incident_that_a_person_resolves_is_seen_so_and_is_nobodys_to_acknowledge(vendor, block, id):
    who = vendor.person_resolves(id, "Ann Onymous")
    seen = block.get(id)
    assert (seen.open, seen.changed_by, seen.assigned_to) == (False, who, ())
    with pytest.raises(ValueError, match="is resolved"):
        vendor.person_acknowledges(id)


def test_a_person_who_acknowledges_is_seen_by_name(vendor, block, id):
    who = vendor.person_acknowledges(id, "Ann Onymous")
    seen = block.get(id)
    assert [(p.id, p.name) for p in seen.acknowledged_by] == [(who, "Ann Onymous")]
    assert seen.changed_by == who != block.requester_id
    assert [p.id for p in seen.assigned_to] == [vendor.on_call_id]


# Telling, handing over, closing.


def test_notes_are_read_back_as_written(vendor, block, id):
    block.note(id, 'restarted `veloz`: "ok" <b>&</b> ☃')
    assert block.notes(id) == vendor.notes[id] == ['restarted `veloz`: "ok" <b>&</b> ☃']


def test_each_policy_is_paged_and_an_unknown_one_is_refused(vendor, block, id):
    vendor.policies |= {"PDBONCALL", "PINFRA"}
    block.page(id, "disk is full on db-1", ["PDBONCALL", "PINFRA"])
    assert [(p.who, p.why) for p in vendor.pages[1:]] == [
        ("PDBONCALL", "disk is full on db-1"),
        ("PINFRA", "disk is full on db-1"),
    ]
    with pytest.raises(PermanentError, match="target not found"):
        block.page(id, "hello", ["PNOBODY"])


def test_escalating_wakes_the_policy_again_and_is_seen_to_have_been_done(vendor, block, id):
    block.acknowledge(id, 300)
    vendor.person_acknowledges(id)
    before = now()
    assert not block.reassigned(id, since=before)
    vendor.fail("cut")
    with pytest.raises(OutcomeUnknownError):
        block.escalate(id)
    assert vendor.incidents[0].status == "triggered"
    assert (vendor.pages[-1].who, vendor.pages[-1].why) == (vendor.escalation_policy_id, "escalated")
    assert block.reassigned(id, since=before)
    assert not block.reassigned(id, since=now() + timedelta(seconds=2))


def test_resolving_twice_is_resolving_once_and_a_resolved_incident_cannot_be_acknowledged(vendor, block, id):
    block.resolve(id, "restarted")
    block.resolve(id, "restarted")
    assert [entry.kind for entry in vendor.incidents[0].log].count("resolve") == 1
    assert vendor.incidents[0].resolution == "restarted"
    with pytest.raises(PermanentError, match="Incident Already Resolved"):
        block.acknowledge(id, 300)


# Errors.


def test_a_refused_connection_is_transient_for_reads_and_changes(vendor, block, id):
    vendor.stop()
    for call in (lambda: block.get(id), lambda: block.note(id, "x"), lambda: block.trigger(KEY, "x", source="y")):
        with pytest.raises(TransientError, match="ConnectError"):
            call()
    vendor.start()
    assert block.get(id).open


@pytest.mark.parametrize("kind", ["refuse", "cut", "malformed", "timeout"])
def test_a_lost_answer_is_transient_for_a_read_and_unknown_for_a_change(vendor, id, kind):
    block = PagerDuty(**vendor.settings(), timeout_s=0.2)
    vendor.fail(kind, times=None)
    with pytest.raises(TransientError):
        block.get(id)
    with pytest.raises(TransientError):
        block.find(KEY)
    with pytest.raises(OutcomeUnknownError):
        block.note(id, "perhaps")
    with pytest.raises(OutcomeUnknownError):
        block.trigger("other", "perhaps", source="gw-1")
    done = kind in ("cut", "malformed")
    assert vendor.notes[id] == (["perhaps"] if done else [])


@pytest.mark.parametrize(
    ("status", "said"), [("401", "Unauthorized"), ("403", "Access Denied"), ("404", "Not Found")]
)
def test_a_refusal_is_permanent_and_carries_pagerdutys_words(vendor, block, id, status, said):
    vendor.fail(status)
    with pytest.raises(PermanentError, match=f"{status} {said}"):
        block.note(id, "x")


@pytest.mark.parametrize(("kind", "wait"), [("429", 7.0), ("429-bare", None), ("500", None), ("409", None)])
def test_a_limit_and_an_outage_are_transient_at_once_with_the_wait_asked_for(vendor, block, id, kind, wait):
    vendor.retry_after_s = 7
    vendor.fail(kind, times=None)
    begun = time.monotonic()
    for call in (lambda: block.get(id), lambda: block.note(id, "x"), lambda: block.trigger(KEY, "x", source="y")):
        with pytest.raises(TransientError) as caught:
            call()
        assert caught.value.retry_after_s == wait
    assert time.monotonic() - begun < 2.5, "the SDK's own waiting is off"


def test_each_call_is_one_request(vendor, block, id):
    before = len(vendor.requests)
    vendor.fail("500", times=None)
    with pytest.raises(TransientError):
        block.get(id)
    with pytest.raises(TransientError):
        block.trigger(KEY, "x", source="y")
    assert len(vendor.requests) == before + 2


def test_wrong_credentials_are_permanent_and_never_part_of_the_message(vendor, id):
    wrong = PagerDuty(**vendor.settings() | {"api_token": "t0ps3cret", "routing_key": "r0uting"})
    for call in (lambda: wrong.get(id), lambda: wrong.trigger(KEY, "x", source="y")):
        with pytest.raises(PermanentError) as caught:
            call()
        assert "cret" not in str(caught.value)
        assert "uting" not in str(caught.value).replace("routing_key", "")


def test_a_user_that_pagerduty_does_not_know_cannot_change_anything(vendor, id):
    wrong = PagerDuty(**vendor.settings() | {"from_email": "nobody@example.com"})
    with pytest.raises(PermanentError, match="Requester User Not Found"):
        wrong.note(id, "x")


def test_an_id_from_outside_cannot_leave_its_path(vendor, block):
    with pytest.raises(PermanentError):
        block.get("../services/" + vendor.service_id)
    assert vendor.requests[-1].path.startswith("/incidents/")


def test_a_token_is_never_sent_in_clear_over_a_network(vendor):
    with pytest.raises(ValidationError, match="https"):
        PagerDuty(**vendor.settings() | {"api_url": "http://pagerduty.example"})


@given(st.text(max_size=40))
def test_whatever_retry_after_says_it_is_a_wait_or_nothing(text):
    wait = _retry_after_s({"retry-after": text})
    assert wait is None or wait >= 0


def test_retry_after_is_read_as_seconds_as_a_date_and_from_pagerdutys_own_header():
    assert _retry_after_s({"retry-after": "12"}) == 12
    assert _retry_after_s({"ratelimit-reset": "3"}) == 3
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < _retry_after_s({"retry-after": date}) <= 60
    assert _retry_after_s({}) is None


# Before the first incident.


def test_check_is_silent_when_all_is_well_and_triggers_nothing(vendor, block):
    assert block.check() == []
    assert (vendor.incidents, vendor.pages) == ([], [])
    assert {request.method for request in vendor.requests} == {"GET"}


def test_check_names_the_policies_without_anybody_on_call(vendor, block):
    vendor.policies.add("PDB")
    assert block.check(["PDB", "PGONE"]) == ["nobody is on call for escalation policy PGONE"]


def test_check_names_what_would_keep_a_page_from_working(vendor, block):
    vendor.service_status, vendor.urgency, vendor.acknowledgement_timeout_s = "disabled", "low", 0
    wrong = block.model_copy(update={"escalation_policy_id": "PNOBODY", "routing_key": block.api_token})
    problems = "\n".join(wrong.check())
    for word in ("disabled", "low urgency", "acknowledgement timeout", "routing_key", "nobody is on call"):
        assert word in problems
    vendor.fail("401")
    assert "Unauthorized" in block.check()[0]
    vendor.stop()
    assert "ConnectError" in block.check()[0]


HOURS = {
    "type": "use_support_hours",
    "during_support_hours": {"type": "constant", "urgency": "high"},
    "outside_support_hours": {"type": "constant", "urgency": "low"},
}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"acknowledgement_timeout": 3600}, "an acknowledgement timeout of 3600 s: set 1800 at most"),
        ({"acknowledgement_timeout": None}, "no acknowledgement timeout"),
        ({"auto_resolve_timeout": 3600}, "resolves incidents by itself after 3600 s: set 14400 at least"),
        ({"incident_urgency_rule": HOURS}, "low urgency outside support hours"),
        ({"auto_pause_notifications_parameters": {"enabled": True, "timeout": 300}}, "notifications for 300 s"),
        ({"status": "maintenance"}, "status maintenance: it pages nobody"),
        ({"integrations": []}, "routing_key is none of the integration keys"),
    ],
)
def test_check_refuses_a_service_on_which_an_acknowledged_page_could_stay_silent(vendor, block, settings, said):
    vendor.service_settings = settings
    [problem] = block.check()
    assert said in problem


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_resolve_timeout": 14_400},
        {"auto_resolve_timeout": None},
        {"acknowledgement_timeout": 600},
        {"auto_pause_notifications_parameters": {"enabled": False, "timeout": 300}},
        {"incident_urgency_rule": {"type": "constant", "urgency": "severity_based"}},
        {"incident_urgency_rule": HOURS | {"outside_support_hours": HOURS["during_support_hours"]}},
        {"status": "critical"},
    ],
)
def test_check_accepts_what_lets_the_lease_of_a_page_work(vendor, block, settings):
    vendor.service_settings = settings
    assert block.check() == []


def test_a_fault_ends_after_its_time_and_touches_only_its_path(vendor, block, id):
    vendor.fail("500", times=None, for_s=60, path="/notes")
    assert block.get(id).open
    with pytest.raises(TransientError):
        block.notes(id)
    vendor.heal()
    vendor.fail("500", times=None, for_s=0)
    assert block.notes(id) == []
