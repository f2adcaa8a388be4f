"""Slack: the incident's channel and what is said in it, through the Web API.

Source: api.slack.com/methods. One request a call (more only where a channel's name is looked up): waiting
and repeating are the caller's. Text goes out as it is given: escaping belongs to whoever renders it.
"""

import http.client
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from errno import EHOSTUNREACH, ENETUNREACH
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from responder.domain.base import Frozen
from responder.domain.channels import CHANNEL_NAME_LIMIT
from responder.domain.errors import (
    DeniedError,
    IncidentResponseError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)

TOPIC_LIMIT = 250
"""Characters of a channel's topic (conversations.setTopic); more is refused."""

SCOPES = ("channels:history", "channels:manage", "channels:read", "chat:write")
"""What the bot token needs for the methods below; `check` looks for them.

`channels:history` is for looking whether a message whose answer was lost has arrived.
"""

_EVENT = "incident_responder_message"  # names our metadata
_PAGE, _MOST_PAGES = 200, 25
_CLOCKS_DIFFER = timedelta(minutes=1)

_BUSY = {"ratelimited", "rate_limited", "service_unavailable", "request_timeout", "team_added_to_org"}
# Slack's reference says of both that some part of the call may have succeeded.
_PERHAPS_DONE = {"fatal_error", "internal_error"}
_DENIED = {"invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive"}
_ADVICE = {
    "invalid_auth": "give the block a valid bot token (xoxb-...)",
    "not_authed": "give the block a bot token (xoxb-...)",
    "token_revoked": "install the app again and give the block its new token",
    "token_expired": "give the block a new token",
    "account_inactive": "install the app again and give the block its new token",
    "not_in_channel": "invite the app to the channel",
    "channel_not_found": "check the channel's id; a private one needs the app as a member",
    "restricted_action": "a workspace setting forbids this to the app: ask a workspace owner",
}


class Channel(Frozen):
    """A channel: `id` is what the other calls take."""

    id: str
    name: str
    topic: str = ""
    creator: str = ""
    archived: bool = False


class Slack(Block):
    """One Slack workspace, spoken to by a bot."""

    _block_type_slug = "incident-slack"
    _block_type_name = "Incident Slack"
    _description = "A Slack workspace: makes the incident's channel and posts in it."

    token: SecretStr = Field(description=f"Bot token (xoxb-...) with the scopes {', '.join(SCOPES)}.")
    base_url: str = Field("https://slack.com/api/", description="Web API; GovSlack: https://slack-gov.com/api/.")
    timeout_s: int = Field(10, gt=0, le=60, description="Seconds for connecting and for each wait on data.")

    @field_validator("base_url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("must begin with https:// (plain http only on loopback): it carries the token")
        return url.rstrip("/") + "/"

    def create_channel(self, name: str, topic: str, *, incident_id: str) -> Channel:
        """A channel for this incident: a new one, or the one that an earlier try of ours has made.

        A taken name is ours if its topic carries the incident's id (the topic that is set ends with it),
        or if we made it and got no further; else `name-2` and so on are tried. Safe to repeat. Raises
        TransientError, PermanentError (also when nine names are taken) and OutcomeUnknownError.
        Source: conversations.create, conversations.setTopic; Phase 1.4 of the document.
        """
        for number in range(1, 10):
            suffix = "" if number == 1 else f"-{number}"
            candidate = name[: CHANNEL_NAME_LIMIT - len(suffix)] + suffix
            channel = self._create(candidate) or self._ours(candidate, incident_id)
            if channel is None:
                continue
            if incident_id not in channel.topic:
                if incident_id not in topic[:TOPIC_LIMIT]:
                    mark = f" · {incident_id}"
                    topic = topic[: TOPIC_LIMIT - len(mark)] + mark
                self.set_topic(channel.id, topic)
                channel = channel.model_copy(update={"topic": topic})
            return channel
        raise PermanentError(f"Slack: could not create #{name}: it and eight numbered ones are taken")

    def find_channel(self, name: str) -> Channel | None:
        """The public channel with this name, archived or not, or None.

        Raises TransientError and PermanentError. Source: conversations.list.
        """
        what, fields = f"look for #{name}", {"types": "public_channel", "limit": "999"}
        while True:
            answer = self._call(what, "conversations.list", fields, changes=False)
            with _read(what, changes=False):
                found = [_channel(raw) for raw in answer["channels"] if raw["name"] == name]
                cursor = (answer.get("response_metadata") or {}).get("next_cursor")
            if found or not cursor:
                return found[0] if found else None
            fields["cursor"] = cursor

    def post(
        self,
        channel: str,
        text: str,
        blocks: Sequence[Mapping[str, Any]] | None = None,
        *,
        tags: Collection[str] = (),
    ) -> str:
        """Post in a channel (id, or name of one that the app is in); the message's `ts`, its id there.

        `text` is what notifications show, and the message where there are no `blocks`. Repeating posts
        again: look for the `tags`, which people do not see, with `arrived` before. Raises TransientError,
        PermanentError and OutcomeUnknownError. Source: chat.postMessage; "Using message metadata".
        """
        what = f"post in {channel}"
        fields: dict[str, Any] = {"channel": channel, "text": text, "unfurl_links": False}
        if tags:
            fields["metadata"] = {"event_type": _EVENT, "event_payload": {"tags": " ".join(tags)}}
        if blocks:
            fields["blocks"] = [dict(block) for block in blocks]
        answer = self._call(what, "chat.postMessage", fields)
        with _read(what, changes=True):
            return str(answer["ts"])

    def arrived(self, channel: str, *, since: datetime) -> frozenset[str]:
        """The tags of all that was posted in a channel (id, or name of a public one) since then.

        Raises TransientError and, where the scope channels:history is missing or more than 5,000 messages are to
        be looked through, PermanentError. Source: conversations.history with include_all_metadata.
        """
        what = f"look what has arrived in {channel}"
        if not re.fullmatch(r"[CGD][A-Z0-9]{8,}", channel):
            found = self.find_channel(channel.removeprefix("#"))
            if found is None:
                raise PermanentError(f"Slack: could not {what}: there is no public channel of that name")
            channel = found.id
        fields = {"channel": channel, "limit": str(_PAGE), "include_all_metadata": "true"}
        fields["oldest"] = f"{(since - _CLOCKS_DIFFER).timestamp():.6f}"
        tags: set[str] = set()
        for _ in range(_MOST_PAGES):
            answer = self._call(what, "conversations.history", fields, changes=False)
            with _read(what, changes=False):
                for data in [message.get("metadata") or {} for message in answer["messages"]]:
                    if data.get("event_type") == _EVENT:
                        tags.update(str((data.get("event_payload") or {}).get("tags") or "").split())
                more = answer.get("has_more") and (answer.get("response_metadata") or {}).get("next_cursor")
            if not more:
                return frozenset(tags)
            fields["cursor"] = more
        raise PermanentError(
            f"Slack: could not {what}: it has more than {_MOST_PAGES * _PAGE} messages since then"
        )

    def set_topic(self, channel: str, topic: str) -> None:
        """Set a channel's topic, cut to 250 characters. Safe to repeat.

        Raises TransientError, PermanentError and OutcomeUnknownError. Source: conversations.setTopic.
        """
        fields = {"channel": channel, "topic": topic[:TOPIC_LIMIT]}
        self._call(f"set the topic of {channel}", "conversations.setTopic", fields)

    def invite(self, channel: str, users: Sequence[str]) -> None:
        """Invite users by id; who is there already stays. Safe to repeat.

        Raises TransientError, PermanentError and OutcomeUnknownError. Source: conversations.invite.
        """
        fields = {"channel": channel, "users": ",".join(users)}
        self._call(f"invite to {channel}", "conversations.invite", fields, settled="already_in_channel")

    def archive(self, channel: str) -> None:
        """Archive a channel; an archived one stays so. Safe to repeat.

        Raises TransientError, PermanentError and OutcomeUnknownError. Source: conversations.archive.
        """
        self._call(f"archive {channel}", "conversations.archive", {"channel": channel}, settled="already_archived")

    def permalink(self, channel: str, ts: str) -> str:
        """The address of a message. Raises TransientError and PermanentError. Source: chat.getPermalink."""
        what = f"read the address of a message in {channel}"
        fields = {"channel": channel, "message_ts": ts}
        answer = self._call(what, "chat.getPermalink", fields, changes=False)
        with _read(what, changes=False):
            return str(answer["permalink"])

    def check(self) -> list[str]:
        """What would keep messages from arriving, one sentence each; empty when all is well. Only reads.

        Scopes are looked at where Slack names them (header x-oauth-scopes). Source: auth.test.
        """
        try:
            answer = self._call("authenticate", "auth.test", {}, changes=False)
        except IncidentResponseError as error:
            return [str(error)]
        granted = {name.lower(): value for name, value in answer.headers.items()}.get("x-oauth-scopes")
        if granted is None:
            return []
        missing = [scope for scope in SCOPES if scope not in re.split(r"[,\s]+", granted)]
        return [f"Slack: the token lacks the scope {scope}: grant it to the app" for scope in missing]

    def _create(self, name: str) -> Channel | None:
        """A new channel, or None if the name is taken (by an archived one too)."""
        what = f"create #{name}"
        answer = self._call(what, "conversations.create", {"name": name}, settled="name_taken")
        with _read(what, changes=True):
            return _channel(answer["channel"]) if answer["ok"] else None

    def _ours(self, name: str, incident_id: str) -> Channel | None:
        channel = self.find_channel(name)
        if channel is None or channel.archived:
            return None
        if incident_id in channel.topic:
            return channel
        if channel.topic:
            return None
        with _read("authenticate", changes=False):
            us = self._call("authenticate", "auth.test", {}, changes=False)["user_id"]
        return channel if channel.creator == us else None

    def _call(
        self, what: str, method: str, fields: Mapping[str, Any], *, changes: bool = True, settled: str = ""
    ) -> Any:
        """The SDK's answer, also the refusal whose code is `settled`; any other error becomes ours."""
        token = self.token.get_secret_value()
        client = WebClient(token, base_url=self.base_url, timeout=self.timeout_s, retry_handlers=[])
        # The SDK takes the first proxy it finds and overlooks NO_PROXY; urllib, left alone, reads both.
        client.proxy = None
        try:
            # Only methods that write take JSON; those that read want a form.
            if changes:
                return client.api_call(method, json=dict(fields))
            return client.api_call(method, params=dict(fields))
        except SlackApiError as error:
            if settled and _code(error) == settled:
                return error.response
            raise _refused(what, error, changes=changes) from error
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            problem = f"Slack: could not {what}: {type(error).__name__}: {error}"
            if changes and not _never_sent(error):
                raise OutcomeUnknownError(problem) from error
            raise TransientError(problem) from error


def _never_sent(error: Exception) -> bool:
    """Whether the connection itself failed: urllib wraps what happens before the answer in URLError."""
    reason = error.reason if isinstance(error, URLError) else None
    refused = ConnectionRefusedError | TimeoutError | socket.gaierror | ssl.SSLError
    return isinstance(reason, refused) or (
        isinstance(reason, OSError) and reason.errno in (ENETUNREACH, EHOSTUNREACH)
    )


def _code(error: SlackApiError) -> str:
    """Slack's code for the error, or "" where the answer is not Slack's (a proxy's page, half a body)."""
    data = error.response.data
    code = data.get("error") if isinstance(data, dict) else None
    return code if isinstance(code, str) and re.fullmatch(r"[a-z_0-9]+", code) else ""


def _refused(what: str, error: SlackApiError, *, changes: bool) -> IncidentResponseError:
    response, code = error.response, _code(error)
    problem = f"Slack: could not {what}: {code or f'HTTP {response.status_code}, unreadable answer'}"
    if response.status_code == 429 or code in _BUSY:
        asked = {name.lower(): value for name, value in response.headers.items()}.get("retry-after", "")
        return TransientError(problem, retry_after_s=float(asked) if asked.isdecimal() else None)
    # A 5xx or a conflict counts as not done: whoever repeats looks first whether it was.
    if response.status_code >= 500 or response.status_code == 409:
        return TransientError(problem)
    if code in _PERHAPS_DONE or (not code and response.status_code == 200):
        return OutcomeUnknownError(problem) if changes else TransientError(problem)
    if code == "missing_scope":
        return DeniedError(f"{problem}: grant the app the scope {response.get('needed')}")
    return (DeniedError if code in _DENIED else PermanentError)(
        f"{problem}: {_ADVICE[code]}" if code in _ADVICE else problem
    )


@contextmanager
def _read(what: str, *, changes: bool) -> Iterator[None]:
    """Turn an answer of the wrong shape into an error of ours."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        problem = f"Slack: could not {what}: unreadable answer: {type(error).__name__}: {error}"
        raise (OutcomeUnknownError if changes else TransientError)(problem) from error


def _channel(raw: Mapping[str, Any]) -> Channel:
    return Channel(
        id=raw["id"],
        name=raw["name"],
        topic=(raw.get("topic") or {}).get("value", ""),
        creator=raw.get("creator") or "",
        archived=bool(raw.get("is_archived")),
    )
