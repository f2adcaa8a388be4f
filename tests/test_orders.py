"""Orders before and after: an empty table is never taken for "none open"."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from responder.domain.orders import compare_orders


def table(*orders: tuple[str, str | None]) -> str:
    return json.dumps({"items": [{"client_order_id": name, "status": status} for name, status in orders]})


def test_what_a_restart_empties_is_unknown_and_listed() -> None:
    found = compare_orders(table(("a", "NEW"), ("b", None), ("c", "FILLED")), table(), "items")
    assert found.to_reconcile == ("a", "b")
    assert "2 open orders are unknown" in found.reason
    assert "none" not in found.reason


def test_what_could_not_be_read_before_leaves_everything_to_be_reconciled() -> None:
    for before in (None, "", "<html>", "[]", '{"items": null}', '{"orders": []}'):
        found = compare_orders(before, table(), "items")
        assert not found.known
        assert "reconcile all of them" in found.reason


def test_a_table_that_cannot_be_read_afterwards_leaves_what_was_open() -> None:
    found = compare_orders(table(("a", "NEW")), None, "items")
    assert (found.to_reconcile, found.known) == (("a",), False)


def test_what_is_still_there_or_was_final_needs_nobody() -> None:
    kept = compare_orders(table(("a", "NEW")), table(("a", "PARTIALLY_FILLED")), "items")
    assert (kept.to_reconcile, kept.reason) == ((), "1 open orders are still in the table")
    done = compare_orders(table(("a", "FILLED"), ("b", "cancelled")), table(), "items")
    assert (done.to_reconcile, done.reason) == ((), "no order was open before")


def test_a_long_list_is_cut_in_the_sentence_and_whole_in_the_record() -> None:
    found = compare_orders(table(*((f"o{n}", "NEW") for n in range(50))), table(), "items")
    assert len(found.to_reconcile) == 50
    assert found.reason.endswith("o19 and 30 more")


rows = st.recursive(
    st.none() | st.booleans() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=4)
) | st.lists(
    st.dictionaries(st.sampled_from(["client_order_id", "status", "id"]), st.none() | st.text(max_size=8)),
    max_size=5,
)


@given(before=rows, after=rows)
def test_no_table_breaks_the_comparison_and_nothing_open_is_lost(before: Any, after: Any) -> None:
    found = compare_orders(json.dumps({"items": before}), json.dumps({"items": after}), "items")
    assert found.reason
    if isinstance(before, list) and after == []:
        listed = [
            row for row in before if isinstance(row, dict) and row.get("client_order_id") and not row.get("status")
        ]
        assert {row["client_order_id"] for row in listed} <= set(found.to_reconcile)
