"""A stand-in for Slack's Web API: what our block uses of it."""

import copy
import json
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from responder.domain.base import now
from responder.lab.http import Answer, Request, StandIn


@dataclass
class Channel:
    """A channel at the stand-in; `member` says whether the bot is in it."""

    id: str
    name: str
    creator: str
    topic: str = ""
    member: bool = True
    archived: bool = False
    invited: list[str] = field(default_factory=list)


@dataclass
class Message:
    """One message: where (channel id and name), when, and what."""

    at: datetime
    channel: str
    channel_name: str
    text: str
    blocks: list[Any]
    ts: str
    metadata: dict[str, Any] | None = None


class _Refused(Exception):
    """Slack answers 200 with ok false and this code."""

    def __init__(self, code: str, **more: str) -> None:
        super().__init__(code)
        self.body = {"ok": False, "error": code, **more}


class SlackStandIn(StandIn):
    """One workspace with one bot. All state is in memory and may be read at any time.

    `channels` names what exists already, with the bot as a member; `scopes` is what its token may do.
    """

    def __init__(self, *, channels: Iterable[str] = ()) -> None:
        super().__init__()
        self.token = f"xoxb-{secrets.token_hex(12)}"
        self.bot_id = _new_id("U")
        self.scopes = {"channels:history", "channels:manage", "channels:read", "chat:write"}
        self._channels: dict[str, Channel] = {}
        self._messages: list[Message] = []
        for name in channels:
            self.add_channel(name)

    def settings(self) -> dict[str, Any]:
        """The fields of a Slack block that speaks to this stand-in."""
        return {"token": self.token, "base_url": f"{self.url}/api/"}

    def add_channel(self, name: str, *, topic: str = "", member: bool = True, archived: bool = False) -> str:
        """A channel that somebody else has made; its id."""
        with self.lock:
            channel = Channel(_new_id("C"), name, _new_id("U"), topic, member, archived)
            self._channels[channel.id] = channel
            return channel.id

    @property
    def channels(self) -> list[Channel]:
        """All channels in the order of their making, as copies."""
        with self.lock:
            return copy.deepcopy(list(self._channels.values()))

    @property
    def messages(self) -> list[Message]:
        """All messages, oldest first, as copies."""
        with self.lock:
            return copy.deepcopy(self._messages)

    def refusal(self, status: int) -> Answer:
        """Slack refuses most things with 200 and ok false; only limits and outages have their status."""
        bodies: dict[int, dict[str, Any]] = {
            400: {"ok": False, "error": "invalid_json"},
            401: {"ok": False, "error": "invalid_auth"},
            403: {"ok": False, "error": "missing_scope", "needed": "chat:write", "provided": "channels:read"},
            404: {"ok": False, "error": "channel_not_found"},
            409: {"ok": False, "error": "conflict"},
            429: {"ok": False, "error": "ratelimited"},
        }
        if status == 500:
            return Answer(500, "<html><body>Server Error</body></html>")
        return Answer(status if status in (409, 429) else 200, bodies[status])

    def handle(self, request: Request) -> Answer:
        """Answer as Slack does, the token checked first."""
        methods: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
            "auth.test": ("", self._auth_test),
            "chat.getPermalink": ("", self._permalink),
            "chat.postMessage": ("chat:write", self._post),
            "conversations.archive": ("channels:manage", self._archive),
            "conversations.history": ("channels:history", self._history),
            "conversations.create": ("channels:manage", self._create),
            "conversations.invite": ("channels:manage", self._invite),
            "conversations.list": ("channels:read", self._list),
            "conversations.setTopic": ("channels:manage", self._set_topic),
        }
        name = request.path.removeprefix("/api/")
        fields = request.json if isinstance(request.json, dict) else {k: v[0] for k, v in request.params.items()}
        headers = {"x-oauth-scopes": ",".join(sorted(self.scopes))}
        try:
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                raise _Refused("invalid_auth")
            if name not in methods:
                raise _Refused("unknown_method")
            scope, method = methods[name]
            if scope and scope not in self.scopes:
                raise _Refused("missing_scope", needed=scope, provided=headers["x-oauth-scopes"])
            return Answer(200, {"ok": True, **method(fields)}, headers)
        except _Refused as refused:
            return Answer(200, refused.body, headers)

    def _channel(self, fields: dict[str, Any], *, writing: bool = True) -> Channel:
        wanted = str(fields.get("channel", ""))
        channel = self._channels.get(wanted) or self._named(wanted.removeprefix("#"))
        if channel is None:
            raise _Refused("channel_not_found")
        if writing and channel.archived:
            raise _Refused("is_archived")
        if writing and not channel.member:
            raise _Refused("not_in_channel")
        return channel

    def _named(self, name: str) -> Channel | None:
        return next((channel for channel in self._channels.values() if channel.name == name), None)

    def _auth_test(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"user_id": self.bot_id, "user": "responder", "team": "Lab", "team_id": "T0LAB", "url": self.url}

    def _create(self, fields: dict[str, Any]) -> dict[str, Any]:
        name = str(fields.get("name", ""))
        if not name:
            raise _Refused("invalid_name_required")
        if len(name) > 80:
            raise _Refused("invalid_name_maxlength")
        if not re.fullmatch(r"[a-z0-9_-]+", name):
            raise _Refused("invalid_name_specials")
        if self._named(name):
            raise _Refused("name_taken")
        channel = Channel(_new_id("C"), name, self.bot_id)
        self._channels[channel.id] = channel
        return {"channel": _json(channel)}

    def _list(self, fields: dict[str, Any]) -> dict[str, Any]:
        start, limit = int(fields.get("cursor") or 0), int(fields.get("limit") or 100)
        if not 1 <= limit < 1000:
            raise _Refused("invalid_limit")
        found = list(self._channels.values())
        following = str(start + limit) if start + limit < len(found) else ""
        page = [_json(channel) for channel in found[start : start + limit]]
        return {"channels": page, "response_metadata": {"next_cursor": following}}

    def _set_topic(self, fields: dict[str, Any]) -> dict[str, Any]:
        channel, topic = self._channel(fields), str(fields.get("topic", ""))
        if len(topic) > 250:
            raise _Refused("too_long")
        channel.topic = topic
        return {"channel": _json(channel)}

    def _invite(self, fields: dict[str, Any]) -> dict[str, Any]:
        channel, users = self._channel(fields), str(fields.get("users", "")).split(",")
        if set(users) <= set(channel.invited):
            raise _Refused("already_in_channel")
        channel.invited += [user for user in users if user not in channel.invited]
        return {"channel": _json(channel)}

    def _archive(self, fields: dict[str, Any]) -> dict[str, Any]:
        channel = self._channel(fields, writing=False)
        if channel.archived:
            raise _Refused("already_archived")
        channel.archived = True
        return {}

    def _post(self, fields: dict[str, Any]) -> dict[str, Any]:
        channel, text, blocks = self._channel(fields), str(fields.get("text") or ""), fields.get("blocks") or []
        if isinstance(blocks, str):
            blocks = json.loads(blocks)
        if not text and not blocks:
            raise _Refused("no_text")
        if len(blocks) > 50:
            raise _Refused("invalid_blocks")
        at = now()
        ts = f"{int(at.timestamp())}.{len(self._messages):06d}"
        metadata = fields.get("metadata")
        if metadata is not None and not (
            metadata.get("event_type") and isinstance(metadata["event_payload"], dict)
        ):
            raise _Refused("invalid_metadata_format")
        self._messages.append(Message(at, channel.id, channel.name, text, blocks, ts, metadata))
        return {"channel": channel.id, "ts": ts, "message": {"type": "message", "text": text, "ts": ts}}

    def _history(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The newest first. Only ids are taken here; an event's payload is shown where it is asked for."""
        if fields.get("channel") not in self._channels:
            raise _Refused("channel_not_found")
        channel = self._channels[fields["channel"]]
        if not channel.member:
            raise _Refused("not_in_channel")
        oldest, limit = float(fields.get("oldest") or 0), int(fields.get("limit") or 100)
        start, whole = int(fields.get("cursor") or 0), fields.get("include_all_metadata") == "true"
        found = [m for m in self._messages[::-1] if m.channel == channel.id and float(m.ts) > oldest]
        following = str(start + limit) if start + limit < len(found) else ""
        page = [_message_json(message, whole) for message in found[start : start + limit]]
        answer = {"messages": page, "has_more": bool(following)}
        return answer | ({"response_metadata": {"next_cursor": following}} if following else {})

    def _permalink(self, fields: dict[str, Any]) -> dict[str, Any]:
        channel, ts = self._channel(fields, writing=False), str(fields.get("message_ts", ""))
        if all((message.channel, message.ts) != (channel.id, ts) for message in self._messages):
            raise _Refused("message_not_found")
        link = f"https://lab.slack.com/archives/{channel.id}/p{ts.replace('.', '')}"
        return {"channel": channel.id, "permalink": link}


def _new_id(letter: str) -> str:
    return letter + secrets.token_hex(5).upper()


def _message_json(message: Message, whole: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": "message", "text": message.text, "ts": message.ts}
    if message.metadata:
        shown["metadata"] = message.metadata if whole else {"event_type": message.metadata["event_type"]}
    return shown


def _json(channel: Channel) -> dict[str, Any]:
    return {
        "id": channel.id,
        "name": channel.name,
        "creator": channel.creator,
        "is_archived": channel.archived,
        "is_member": channel.member,
        "topic": {"value": channel.topic, "creator": "", "last_set": 0},
    }
