import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from responder.domain.timeline import Entry, merge

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENTRIES = st.lists(
    st.builds(
        Entry,
        at=st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds)),
        id=st.sampled_from("abcdef"),
        source=st.sampled_from(["alert", "run", "attempt", "decision", "message", "phase"]),
        text=st.sampled_from(["one", "two"]),
    ),
    max_size=12,
)


def entry(seconds: float, id: str, text: str = "", source: str = "run") -> Entry:
    return Entry(at=START + timedelta(seconds=seconds), id=id, source=source, text=text or id)


def test_entries_are_ordered_by_time_and_then_by_id():
    merged = merge([entry(2, "b"), entry(2, "a")], [entry(1, "c")])

    assert [e.id for e in merged.entries] == ["c", "a", "b"]


def test_the_store_wins_where_both_know_of_an_entry():
    merged = merge([entry(5, "attempt-1", "held")], [entry(1, "attempt-1", "Running")])

    assert [(e.text, e.at) for e in merged.entries] == [("held", START + timedelta(seconds=5))]


def test_what_the_run_history_lacks_is_a_gap_and_what_it_has_is_none():
    merged = merge(
        [entry(1, "phase-1", source="phase"), entry(2, "attempt-1", source="attempt")],
        [entry(1, "phase-1")],
        expected={"phase-1": "the phase diagnose", "attempt-1": "the attempt restart on gw-1"},
    )

    assert merged.gaps == ("the attempt restart on gw-1",)
    assert [e.id for e in merged.entries] == ["phase-1", "attempt-1"]


def test_without_anything_expected_there_is_no_gap():
    assert merge([], [entry(1, "a")]).gaps == ()


def test_times_of_other_zones_are_put_in_order_in_utc():
    merged = merge(
        [
            Entry(at=datetime.fromisoformat("2026-03-01T13:00:00+01:00"), id="b", source="alert", text="noon"),
            Entry(at=datetime.fromisoformat("2026-03-01T11:59:00+00:00"), id="a", source="alert", text="before"),
        ],
        [],
    )

    assert [f"{e.at:%H:%M}" for e in merged.entries] == ["11:59", "12:00"]


@given(ENTRIES, ENTRIES, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(store: list[Entry], prefect: list[Entry], shuffle: random.Random):
    merged = merge(store, prefect)
    shuffle.shuffle(store)
    shuffle.shuffle(prefect)

    assert merge(store, prefect) == merged
    assert {e.id for e in merged.entries} == {e.id for e in (*store, *prefect)}
    assert len(merged.entries) == len({e.id for e in merged.entries})
    assert all(e in store for e in merged.entries if e.id in {known.id for known in store})
    assert [(e.at, e.id) for e in merged.entries] == sorted((e.at, e.id) for e in merged.entries)


def test_a_long_timeline_keeps_what_was_decided_and_leaves_out_reading():
    read = [entry(second, f"read-{second}") for second in range(10)]
    timeline = merge([entry(3.5, "decision-1", source="decision")], read)

    assert timeline.told(11) == timeline.entries
    assert [e.id for e in timeline.told(10)] == ["decision-1"]
