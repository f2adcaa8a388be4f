"""Printing results: a document for programs on standard output, words for people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from responder.domain.escaping import clean

Result = Mapping[str, Any] | Sequence[Mapping[str, Any]]

# What people wrote is printed as they wrote it: `:fire:` is no emoji.
people = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
results = Console(highlight=False, soft_wrap=True, emoji=False)


def print_json(document: Result) -> None:
    """One JSON document on standard output."""
    results.print(json.dumps(document, indent=2, ensure_ascii=False, default=str), markup=False)


def print_json_line(document: Result) -> None:
    """One JSON document on one line of standard output, for what happens one after the other."""
    results.print(json.dumps(document, ensure_ascii=False, default=str), markup=False)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # An id that is cut off is none, and one that is folded cannot be copied.
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column in ("id", "incident"))
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    results.print(table)


def _cell(value: Any) -> Text:
    return value if isinstance(value, Text) else plain("" if value is None else value)


def print_fields(fields: Mapping[str, Any]) -> None:
    """One thing for people, a field a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if value not in (None, "", [], ()):
            results.print(plain(f"{name.replace('_', ' '):<{width}}  {value}"))


def print_incident(document: Mapping[str, Any]) -> None:
    """An incident in a few lines, without its lists of attempts, decisions and messages."""
    print_fields({name: value for name, value in document.items() if not isinstance(value, list)})


def see(page: str) -> list[str]:
    """The line that points to the page of the documentation, if there is one that helps."""
    return [f"See {page}"] if page else []


def print_line(line: str) -> None:
    """One line for people."""
    results.print(plain(line))


def plain(value: object) -> Text:
    """As text: what hosts and people said drives no terminal."""
    return Text(clean(str(value)))
