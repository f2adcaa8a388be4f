"""A value or the reason why there is none."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from pydantic import model_validator

from responder.domain.base import Frozen

T = TypeVar("T")

_SHOWN = 120


class Parsed(Frozen, Generic[T]):
    """What was understood. With both a value and a problem, the value is what could be read of it."""

    value: T | None = None
    problem: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Parsed[T]":
        if self.value is None and self.problem is None:
            raise ValueError("without a value there must be a problem")
        return self


def lines_of(text: str, limit: int) -> Iterator[str]:
    """At most `limit` lines, split at line feeds only.

    `str.splitlines` would also split at the odd separators that a hostile process puts into its name.
    """
    start = 0
    while limit > 0 and start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end].removesuffix("\r")
        start, limit = end + 1, limit - 1


def shown(text: str) -> str:
    """The beginning of `text`, quoted, for a problem's words."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def collected(rows: list[T], refused: list[str], what: str, *, cut: str = "") -> Parsed[tuple[T, ...]]:
    """The rows, with a problem that counts the refused lines and says what was `cut`.

    None when nothing but refused lines was found.
    """
    problems = [cut] if cut else []
    if refused:
        problems.append(f"not {what}: {len(refused)} of the lines, first {shown(refused[0])}")
    return Parsed(value=tuple(rows) if rows or not refused else None, problem="; ".join(problems) or None)


def cut_at(text: str, limit: int) -> str:
    """What to say when `text` has more than `limit` lines; else an empty string."""
    return f"only the first {limit} lines were read" if text.count("\n", 0, -1) >= limit else ""
