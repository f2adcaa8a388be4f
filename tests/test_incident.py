"""Severity, mode, outcome and alert: the words that everything else decides by."""

from datetime import UTC, datetime
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from responder.domain.incident import Alert, Kind, Mode, Outcome, Severity, lowest_mode, slug
from tests.factories import alert

DANGER = [Mode.DRY_RUN, Mode.SHADOW, Mode.LIVE]


@given(st.lists(st.none() | st.sampled_from(Mode), max_size=5), st.sampled_from(Mode))
def test_a_further_wish_can_only_lower_the_mode(wishes: list[Mode | None], more: Mode) -> None:
    assert DANGER.index(lowest_mode(*wishes, more)) <= DANGER.index(more)
    if any(wishes):
        assert DANGER.index(lowest_mode(*wishes, more)) <= DANGER.index(lowest_mode(*wishes))


def test_without_any_wish_nothing_acts() -> None:
    assert lowest_mode() is Mode.DRY_RUN
    assert lowest_mode(None, None) is Mode.DRY_RUN
    assert [mode for mode in Mode if mode.acts] == [Mode.LIVE]


def test_of_all_orders_of_modes_the_most_careful_wins() -> None:
    assert {lowest_mode(*order) for order in permutations(DANGER)} == {Mode.DRY_RUN}
    assert lowest_mode(Mode.LIVE, Mode.SHADOW, None) is Mode.SHADOW


@given(st.sampled_from(Severity), st.none() | st.sampled_from(Severity))
def test_a_severity_is_never_lowered_below_what_a_person_set(found: Severity, floor: Severity | None) -> None:
    result = found.at_least(floor)
    assert result <= found
    assert floor is None or result <= floor
    assert result in (found, floor)


def test_only_p1_and_p2_page_people() -> None:
    assert [severity for severity in Severity if severity.pages_people] == [Severity.P1, Severity.P2]


def test_only_availability_is_ever_acted_upon() -> None:
    assert [kind for kind in Kind if not kind.people_only] == [Kind.AVAILABILITY]


def test_an_incident_that_still_needs_a_person_stays_open() -> None:
    still_open = {outcome for outcome in Outcome if not outcome.closes}
    assert still_open == {Outcome.MITIGATED_UNCONFIRMED, Outcome.ESCALATED, Outcome.TAKEN_OVER}
    assert {outcome for outcome in Outcome if not outcome.succeeded} == still_open


@given(st.text(max_size=100), st.integers(min_value=1, max_value=80))
def test_a_slug_is_a_plain_word_of_bounded_length(text: str, limit: int) -> None:
    word = slug(text, limit)
    assert word
    assert set(word) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert word[0] != "-"
    assert word[-1] != "-"
    assert word == "incident" or len(word) <= limit


def test_hostile_bytes_do_not_cost_us_the_alert() -> None:
    got = Alert.model_validate(
        {"name": "Down\x00", "labels": {"a\ud800": "b\x00"}, "summary": "\udfff!", "fingerprint": "\x00"}
    )
    assert got.name == "Down\ufffd"
    assert got.labels == {"a\ufffd": "b\ufffd"}
    assert (got.summary, got.fingerprint) == ("\ufffd!", "\ufffd")
    assert Alert.model_validate_json(got.model_dump_json()) == got


@given(st.text(min_size=1, max_size=50), st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=4))
def test_any_alert_can_be_encoded_and_read_back(name: str, labels: dict[str, str]) -> None:
    got = Alert(name=name, labels=labels, summary=name)
    assert Alert.model_validate_json(got.model_dump_json().encode()) == got


def test_moments_of_an_alert_are_in_utc_and_one_outside_the_calendar_is_refused() -> None:
    assert alert(starts_at="2026-03-04T14:00:00+02:00").starts_at == datetime(2026, 3, 4, 12, tzinfo=UTC)
    assert alert(starts_at="2026-03-04T14:00:00").starts_at == datetime(2026, 3, 4, 14, tzinfo=UTC)
    for outside in ("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"):
        with pytest.raises(ValidationError, match="cannot be told in UTC"):
            alert(starts_at=outside)


def test_an_unknown_field_or_a_later_change_of_an_alert_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        alert(sumary="typo")
    with pytest.raises(ValidationError, match="frozen"):
        alert().name = "other"  # type: ignore[misc]
