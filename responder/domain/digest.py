"""Late messages as one: in order, each with the time at which it was to be told."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from responder.domain.notices import NOTE_LIMIT, SLACK_BLOCKS, STATUSPAGE_LIMIT

Body = Mapping[str, Any]

# Characters of a digest, by the kind of its messages; what calls people is not among them.
_LIMITS = {"post": 12_000, "note": NOTE_LIMIT, "notify": 50_000, "publish": STATUSPAGE_LIMIT}
_HEAD, _PART = 60, 30  # what a digest adds at its head and to each part, at most


def together(waiting: Sequence[tuple[str, Body]]) -> int:
    """How many of the messages (kind, body) that wait for one channel, from the first on, may go as one.

    Those of the first one's kind and destination, until one is neither or there would be too much in it.
    """
    kind, first = waiting[0]
    room, blocks, count = _LIMITS.get(kind, 0) - _HEAD, SLACK_BLOCKS - 2, 0
    for other, body in waiting:
        room -= len(body.get("text", "")) + _PART
        blocks -= len(_blocks(body)) + 1
        if (other, body.get("channel")) != (kind, first.get("channel")) or room < 0 or blocks < 0:
            break
        count += 1
    return max(count, 1)


def digest(kind: str, held: Sequence[tuple[datetime, Body]]) -> Body:
    """One body for several of that kind, which were to be told at these times; a single one stays as it is.

    On a status page the state is that of the last; subscribers are spared words about us.
    """
    if len(held) == 1:
        return held[0][1]
    last = held[-1][1]
    head = f"{len(held)} messages that could not be told before"
    texts = [f"{_when(at)}\n{body['text']}" for at, body in held]
    if kind == "publish":
        components = {id: state for _, body in held for id, state in body["components"].items()}
        return {**last, "name": held[0][1]["name"], "components": components, "text": "\n\n".join(texts)}
    whole: dict[str, Any] = {**last, "text": "\n\n".join([f"{head}:", *texts])}
    if kind == "notify":
        whole["subject"] = f"{head}: {last['subject']}"
    if kind == "post":
        parts = [block for at, body in held for block in (section(_when(at)), *_blocks(body))]
        whole["blocks"] = [section(f"*{head}:*"), *parts]
    return whole


def section(text: str) -> dict[str, Any]:
    """A section of Slack's Block Kit; `text` is escaped already."""
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _blocks(body: Body) -> Sequence[Mapping[str, Any]]:
    return body.get("blocks") or [section(body.get("text", ""))]


def _when(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC:"
