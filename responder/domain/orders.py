"""Orders before and after an action: what a restart empties is unknown, and never "none open".

Orders at the exchange live on while the service is down, and its own table starts empty.
"""

import json
from typing import Any

from pydantic import Field

from responder.domain.base import Frozen

IDS = ("client_order_id", "order_id", "id")
FINAL = frozenset({"FILLED", "CANCELED", "CANCELLED", "REJECTED", "EXPIRED"})
SHOWN = 20


class OrderDifference(Frozen):
    """What became of the orders that were open before an action."""

    reason: str = Field(description="The sentence that people read.")
    to_reconcile: tuple[str, ...] = Field((), description="Ids of the orders whose state only the exchange knows.")
    known: bool = Field(description="Whether both tables could be read.")


def compare_orders(before: str | None, after: str | None, field: str) -> OrderDifference:
    """Compare two answers of the order table (JSON with its rows under `field`); None: could not be read."""
    was, now = _open(before, field), _open(after, field)
    if was is None:
        reason = "which orders were open before is not known: reconcile all of them with the exchange"
        return OrderDifference(reason=reason, known=False)
    if now is None:
        return _unknown(was, "the order table cannot be read now", known=False)
    missing = [order for order in was if order not in now]
    if missing:
        return _unknown(missing, "they are not in the table any more", known=True)
    words = f"{len(was)} open orders are still in the table" if was else "no order was open before"
    return OrderDifference(reason=words, known=True)


def _unknown(orders: list[str], why: str, *, known: bool) -> OrderDifference:
    if not orders:
        return OrderDifference(reason=f"no order was open before; {why}", known=known)
    more = f" and {len(orders) - SHOWN} more" if len(orders) > SHOWN else ""
    named = ", ".join(orders[:SHOWN])
    reason = f"{len(orders)} open orders are unknown, {why}: reconcile with the exchange: {named}{more}"
    return OrderDifference(reason=reason, to_reconcile=tuple(orders), known=known)


def _open(text: str | None, field: str) -> list[str] | None:
    """The ids of the orders without a final status, in the table's order; None where the text is no table."""
    try:
        rows = json.loads(text or "")
    except ValueError:
        return None
    for part in field.split("."):
        rows = rows.get(part) if isinstance(rows, dict) else None
    if not isinstance(rows, list):
        return None
    orders = [row for row in rows if isinstance(row, dict) and str(row.get("status")).upper() not in FINAL]
    return list(dict.fromkeys(_id(row, place) for place, row in enumerate(orders, start=1)))


def _id(row: dict[str, Any], place: int) -> str:
    return next((str(row[key])[:60] for key in IDS if row.get(key)), f"row {place} without an id")
