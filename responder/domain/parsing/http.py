"""HTTP replies: how to ask with curl, what curl printed, and what a JSON reply says about a service.

curl's options and exit statuses: curl(1). The shape check is what keeps an index page, a proxy's error or
another program on the same port from looking like a healthy service.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from pydantic import Field

from responder.domain.base import Frozen
from responder.domain.evidence import Verdict
from responder.domain.parsing.parsed import shown

Failure = Literal["refused", "timeout", "empty_reply", "dns", "tls", "cut", "unreachable", "other"]

_MAX_HEAD = 64 * 1024
_MAX_INTERIM_REPLIES = 20
_MAX_JSON = 2 * 1024 * 1024
_MAX_FIELD = 200

_URL = re.compile(r"https?://[^\s\x00-\x1f\x7f]+", re.ASCII)
_STATUS_LINE = re.compile(r"HTTP/\d(?:\.\d)? (\d{3})(?: ([^\r\n]*))?\r?$", re.ASCII | re.MULTILINE)
_HEAD_END = re.compile(r"\r?\n\r?\n")
_SECONDS = re.compile(r"\d{1,6}[.,]\d{1,9}", re.ASCII)

_FAILURES: dict[int, Failure] = {5: "dns", 6: "dns", 7: "refused", 28: "timeout", 52: "empty_reply"}
_FAILURES |= dict.fromkeys((16, 18, 55, 56, 63, 92), "cut")
_FAILURES |= dict.fromkeys((35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98), "tls")
_UNREACHABLE = re.compile(r"no route to host|(?:network|host) is (?:unreachable|down)", re.IGNORECASE)
_REFUSED = re.compile(r"connection refused", re.IGNORECASE)

_IN_WORDS: dict[Failure, str] = {
    "refused": "the connection was refused",
    "timeout": "no answer within the deadline",
    "empty_reply": "the connection was closed without a reply",
    "dns": "the name could not be resolved",
    "tls": "TLS failed",
    "cut": "the reply was cut off",
    "unreachable": "the host cannot be reached",
    "other": "the request failed",
}


class HttpReply(Frozen):
    """What came back. With a `failure`, status and body are what had arrived until then."""

    status: int | None = None
    content_type: str | None = None
    """Lower-case, without parameters."""
    headers: dict[str, str] = Field(default_factory=dict)
    """By lower-case name; several of one name are joined by a comma (RFC 9110, section 5.3)."""
    body: str = ""
    latency_s: float | None = None
    failure: Failure | None = None
    problem: str | None = None
    """The failure in words."""
    retry_after_s: float | None = None
    truncated: bool = False
    """The body is not whole, because it was bounded on the way."""


class Reading(Frozen):
    """What a reply says about the service. `fields` holds what was looked at, by dotted name."""

    verdict: Verdict
    reason: str
    fields: dict[str, Any] = Field(default_factory=dict)


def curl_argv(url: str, deadline_s: float, max_bytes: int) -> tuple[str, ...]:
    """The argument list for one GET whose output `parse_curl` reads; redirects are not followed.

    `max_bytes` stops curl where it knows the length beforehand; bound its output too. Raises ValueError for a
    URL that is not plain http(s), because curl also reads files, and for limits that are not positive.
    """
    if not _URL.fullmatch(url):
        raise ValueError(f"not an http:// or https:// URL: {shown(url)}")
    if not 0 < deadline_s < math.inf or max_bytes <= 0:
        raise ValueError(f"deadline and size must be positive: {deadline_s} s, {max_bytes} bytes")
    # -q: no ~/.curlrc; -g: brackets and braces in the URL mean themselves; no proxy of the login's environment
    # answers in the service's stead.
    limits = ("-m", f"{deadline_s:g}", "--max-filesize", str(max_bytes))
    return ("curl", "-q", "-g", "-sSi", "--noproxy", "*", *limits, "-w", r"\n%{time_total}", "--", url)


def parse_curl(exit_status: int | None, stdout: str, stderr: str, *, truncated: bool = False) -> HttpReply:
    """The reply that `curl_argv` brought. `truncated`: stdout was bounded on the way.

    An exit status of None or below zero is unknown: what was printed is kept, but counts as a failure.
    """
    text, latency_s = (stdout, None) if truncated else _without_trailer(stdout)
    head, body = _last_head(text)
    match = _STATUS_LINE.match(head)
    headers = _headers(head) if match else {}
    reply = HttpReply(
        status=int(match[1]) if match else None,
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower() or None,
        headers=headers,
        body=body if match else text,
        latency_s=latency_s,
        retry_after_s=_retry_after_s(headers),
        truncated=truncated,
    )
    failure = _failure(exit_status, stderr, truncated)
    if failure is None and match is None:
        return reply.model_copy(update={"failure": "other", "problem": f"not an HTTP reply: {shown(text)}"})
    if failure is None:
        return reply
    status = "exit status unknown" if exit_status is None else f"exit status {exit_status}"
    said = stderr.strip()[-_MAX_FIELD:] or status
    return reply.model_copy(update={"failure": failure, "problem": f"{_IN_WORDS[failure]} ({said})"})


def _failure(exit_status: int | None, stderr: str, truncated: bool) -> Failure | None:
    if exit_status == 0 or (exit_status == 23 and truncated):  # 23: its output was no longer read
        return None
    if exit_status == 7 and _UNREACHABLE.search(stderr) and not _REFUSED.search(stderr):
        return "unreachable"
    return _FAILURES.get(exit_status, "other") if exit_status is not None else "other"


def _without_trailer(stdout: str) -> tuple[str, float | None]:
    """The output before the line that `-w` added, and the seconds in it."""
    text, newline, last = stdout.rpartition("\n")
    if newline and _SECONDS.fullmatch(last):
        return text, float(last.replace(",", "."))
    return stdout, None


def _last_head(text: str) -> tuple[str, str]:
    """Head and body of the final reply, after interim ones (100 Continue, a proxy's answer to CONNECT)."""
    for _ in range(_MAX_INTERIM_REPLIES):
        match = _STATUS_LINE.match(text)
        end = _HEAD_END.search(text, 0, _MAX_HEAD)
        if match is None or end is None:
            return text[:_MAX_HEAD], ""
        rest = text[end.end() :]
        interim = match[1][0] == "1" or (match[2] or "").lower() == "connection established"
        followed = match[1][0] == "3" and _STATUS_LINE.match(rest)
        if not (interim or followed) or not rest:
            return text[: end.start()], rest
        text = rest
    return "", text


def _headers(head: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in head.split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and name:
            key = name.strip().lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3). A date counts from the reply's own."""
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(wait.total_seconds(), 0.0)


def read_json(reply: HttpReply, expected: Mapping[str, object], present: Sequence[str] = ()) -> Reading:
    """Whether `reply` is what a healthy service says.

    `expected`: dotted fields with their values. Those that the reply has must agree, and it must have one of
    them: services of different ages answer in different words. `present`: dotted fields that must hold a list
    or a scalar other than null. Only a refused connection, a 5xx and a field that disagrees are unhealthy;
    everything that tells nothing about the service is unknown. A list's length is in `fields` as NAME.length.

    Raises ValueError when there is nothing to look at.
    """
    if not expected and not present:
        raise ValueError("neither expected nor present fields: a status alone proves nothing")
    if (early := _without_looking(reply)) is not None:
        return early
    try:
        document = json.loads(
            reply.body, object_pairs_hook=_unambiguous, parse_constant=_no_number, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        return _unknown(f"not JSON: {type(error).__name__} in {shown(reply.body)}")

    looked_at = {name: _field(document, name) for name in (*expected, *present)}
    found = {name: values[0] for name, values in looked_at.items() if values}
    fields = dict(_shown_field(name, value) for name, value in found.items())
    missing = [name for name in present if name not in found or isinstance(found[name], dict | None)]
    wrong = [name for name in expected if name in found and not _same(found[name], expected[name])]
    if wrong:
        said = ", ".join(f"{name} is {json.dumps(found[name])[:_MAX_FIELD]}" for name in wrong)
        return Reading(verdict="unhealthy", reason=said, fields=fields)
    if missing:
        return _unknown(f"wrong shape: without {', '.join(missing)}", fields)
    if expected and not any(name in found for name in expected):
        return _unknown(f"wrong shape: none of {', '.join(expected)}", fields)
    return Reading(verdict="healthy", reason="answers as expected", fields=fields)


def _without_looking(reply: HttpReply) -> Reading | None:
    """The verdict where the body does not matter, or None where it does."""
    status = reply.status
    if reply.failure is not None:
        reason = reply.problem or _IN_WORDS[reply.failure]
        return Reading(verdict="unhealthy" if reply.failure == "refused" else "unknown", reason=reason)
    if status is None:
        return _unknown("no status")
    if status >= 500:
        return Reading(verdict="unhealthy", reason=f"status {status}")
    if status == 429:
        wait = f", to be asked again in {reply.retry_after_s:g} s" if reply.retry_after_s is not None else ""
        return _unknown(f"rate limited (429){wait}")
    if not 200 <= status < 300:
        return _unknown(f"status {status}")
    if reply.truncated or len(reply.body) > _MAX_JSON:
        return _unknown("the reply is too long")
    kind = reply.content_type
    if kind is not None and kind != "application/json" and not kind.endswith("+json"):
        return _unknown(f"answers {shown(kind)}, not JSON")
    return None


def _unknown(reason: str, fields: Mapping[str, Any] | None = None) -> Reading:
    return Reading(verdict="unknown", reason=reason, fields=dict(fields or {}))


def _field(document: object, name: str) -> tuple[object, ...]:
    """The value at the dotted `name`, alone in a tuple; an empty one when there is none."""
    for part in name.split("."):
        if not isinstance(document, dict) or part not in document:
            return ()
        document = document[part]
    return (document,)


def _same(found: object, wanted: object) -> bool:
    """Equal as JSON: true is not 1."""
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def _shown_field(name: str, value: object) -> tuple[str, Any]:
    if isinstance(value, list):
        return f"{name}.length", len(value)
    if isinstance(value, dict):
        return name, "an object"
    return name, value[:_MAX_FIELD] if isinstance(value, str) else value


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field appears twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is out of range")
    return value
