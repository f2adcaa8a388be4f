"""Who is asked to join, and who next: refusals and silence, each backup once."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from factories import NOON, open_incident, profile, profile_data
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.incident import IncidentRef, Mode
from responder.domain.profile import Profile
from responder.domain.responders import Answers, Asked, Call, next_calls
from responder.store import Store
from tasks.case import Case
from tasks.tell import call_for_part, start_incident

PAGERDUTY = {
    "api_token": "SHOP_TOKEN",
    "routing_key": "SHOP_ROUTING_KEY",
    "from_email": "bot@example.com",
    "requester_id": "PBOT",
    "service_id": "PSHOP",
    "escalation_policy_id": "P1",
    "policies": {"oncall": "P1", "db": "P2", "infra": "P3"},
    "users": {"robin": "U1"},
    "responders": {"orders": ["oncall", "robin"], "database": ["db"]},
}
CONTACTS = [
    {"role": "On-call Engineer", "primary": "pagerduty:oncall", "backup": "pagerduty:infra"},
    {"role": "Database Admin", "primary": "pagerduty:db", "backup": "slack:#db"},
    {"role": "Infrastructure", "primary": "pagerduty:infra", "backup": "pagerduty:oncall"},
    {"role": "Engineering Manager", "primary": "pagerduty:robin", "backup": "Direct contact"},
]
SLACK = {"token": "SHOP_SLACK", "backup_channel": "#oncall"}
LATER = NOON + timedelta(minutes=5)


def shop(**changes: object) -> Profile:
    return profile(**({"pagerduty": PAGERDUTY, "contacts": CONTACTS, "slack": SLACK} | changes))


def asked(*names: str, refused: str = "") -> list[Asked]:
    return [Asked(name=name, at=NOON, refused=refused) for name in names]


def calls(*names: str, at=NOON, made=(), refused: str = "", **answers: object) -> list[Call]:
    said = Answers.model_validate(answers)
    return list(next_calls(shop(), asked(*names, refused=refused), said, at=at, made=made))


def test_a_component_names_its_responders_and_any_other_asks_the_services_own_policy():
    access = shop().pagerduty
    assert access.asked_first("orders") == ("oncall", "robin")
    assert access.asked_first("nothing known") == ("oncall",)
    unnamed = Profile.model_validate(profile_data(pagerduty={**PAGERDUTY, "policies": {}, "responders": {}}))
    assert unnamed.pagerduty.asked_first("orders") == ("P1",)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"pagerduty": {**PAGERDUTY, "responders": {"orders": ["nobody"]}}}, "responders.orders: nobody"),
        ({"contacts": [{"role": "DBA", "primary": "pagerduty:dba"}]}, "contacts: DBA: dba"),
        ({"contacts": [{"role": "DBA", "primary": "x", "backup": "pagerduty:dba"}]}, "contacts: DBA: dba"),
        ({"pagerduty": {**PAGERDUTY, "users": {"db": "U2"}}}, "db: a policy and a user"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_with_its_place(changes, names):
    with pytest.raises(ValidationError, match=names):
        shop(**changes)


def test_a_refusal_asks_the_backup_at_once_and_says_who_refused():
    [call] = calls("oncall", states={"oncall": ("declined",)})
    assert (call.pagerduty, call.slack) == ("infra", None)
    assert (call.decision, call.why) == ("asks the backup of oncall: pagerduty:infra", "oncall declined to join")


def test_a_policy_has_refused_only_when_everybody_behind_it_has():
    assert calls("oncall", states={"oncall": ("declined", "pending")}) == []
    assert len(calls("oncall", states={"oncall": ("declined", "user_cancelled")})) == 1


def test_silence_counts_from_the_clock_on_and_only_while_nobody_at_all_has_answered():
    assert calls("oncall", at=LATER - timedelta(seconds=1)) == []
    [call] = calls("oncall", at=LATER)
    assert call.why == "nobody has joined or acknowledged 300 s after oncall was asked"
    assert calls("oncall", at=LATER, acknowledged=True) == []
    assert calls("oncall", "db", at=LATER, states={"db": ("joined",)}) == []


def test_somebody_elses_yes_does_not_stand_for_an_expert_who_refused():
    [call] = calls("oncall", "db", states={"oncall": ("joined",), "db": ("declined",)})
    assert (call.name, call.slack) == ("db", "#db")


def test_what_pagerduty_does_not_accept_asks_the_backup_with_its_words():
    [call] = calls("oncall", refused="400 Responder request target not found")
    assert call.why == "PagerDuty does not ask oncall: 400 Responder request target not found"


def test_a_backup_that_only_people_can_reach_is_named_in_the_backup_channel():
    [call] = calls("robin", at=LATER)
    assert (call.backup, call.pagerduty, call.slack) == ("Direct contact", None, "#oncall")


def test_without_a_backup_of_its_own_the_backup_channel_hears_and_without_that_nobody():
    silent = asked("P9")
    [call] = next_calls(shop(), silent, Answers(), at=LATER)
    assert call.slack == "#oncall"
    assert next_calls(shop(slack=None), silent, Answers(), at=LATER) == ()


def test_where_no_machine_reaches_the_backup_the_decision_says_so():
    [call] = next_calls(shop(slack=None), asked("robin"), Answers(), at=LATER)
    assert call.decision == "cannot reach the backup of robin: Direct contact"


def test_backups_of_each_other_are_asked_once_each():
    """On-call's backup is infra, whose backup is on-call again."""
    assert [c.pagerduty for c in calls("oncall", at=LATER)] == ["infra"]
    assert calls("oncall", "infra", at=LATER, made={"oncall"}) == []


NAMES = st.sampled_from(["oncall", "db", "infra", "robin", "stranger"])
STATES = st.dictionaries(NAMES, st.lists(st.sampled_from(["pending", "joined", "declined"])).map(tuple))


@given(st.lists(NAMES), STATES, st.booleans(), st.integers(0, 900))
def test_whatever_is_answered_the_chain_ends_and_asks_nobody_twice(first, states, acknowledged, seconds):
    people, made = asked(*first), set()
    reached = []
    for _ in range(10):
        at = NOON + timedelta(seconds=seconds)
        found = next_calls(shop(), people, Answers(states=states, acknowledged=acknowledged), at=at, made=made)
        made |= {call.name for call in found}
        reached += [(call.name, call.backup) for call in found]
        people += [Asked(name=call.pagerduty, at=NOON) for call in found if call.pagerduty]
    assert found == ()
    assert len(reached) == len(set(reached))
    assert {name for name, _ in reached} <= {one.name for one in people}


# --- what an incident's run puts into the outbox ---------------------------------------------------------


@pytest.fixture
def case(tmp_path) -> Iterator[Case]:
    store = Store(f"sqlite:///{tmp_path / 'own.db'}")
    store.migrate()
    row = open_incident(store, shop(mode="live", component="orders"), summary="orders fail")
    found = Case(IncidentRef(incident_id=row.id, epoch=0, mode=Mode.LIVE), store)
    found.__dict__["profile"] = Profile.model_validate(row.profile)  # what Prefect would hand out
    yield found
    store.close()


def paged(case: Case) -> list[str]:
    return [m.body["target"] for m in case.store.messages(case.id) if m.kind == "page"]


def test_a_p1_asks_the_components_responders_at_once_and_those_of_the_found_part_later(case):
    case.store.note_world(case.id, severity="P1", severity_reason="nothing is traded")
    start_incident(case, None)
    assert paged(case) == ["oncall", "robin"]
    for part in ("gateway", "database", "database"):
        call_for_part(case, part)
    assert paged(case) == ["oncall", "robin", "db"]


@pytest.mark.parametrize("severity", ["P3", "P4"])
def test_a_lesser_incident_asks_nobody_to_join(case, severity):
    case.store.note_world(case.id, severity=severity, severity_reason="little is wrong")
    start_incident(case, None)
    call_for_part(case, "database")
    assert paged(case) == []
