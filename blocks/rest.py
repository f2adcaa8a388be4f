"""One call of a vendor's JSON API, with whatever goes wrong turned into our errors, once.

For vendors without an SDK of their own here: Statuspage and GitHub. One request a call: waiting and
repeating are the caller's, who knows the incident's clocks.
"""

import functools
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from responder.domain.errors import DeniedError, OutcomeUnknownError, PermanentError, TransientError
from responder.domain.redaction import clipped

_SAID_LIMIT = 300


def encrypted(url: str) -> str:
    """The base URL without a slash at its end. Raises ValueError where it would carry a token in clear."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ValueError("must begin with https:// (plain http only on loopback): it carries the token")
    return url.rstrip("/")


def call(
    what: str,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    params: Mapping[str, str | int] | None = None,
    body: Mapping[str, Any] | None = None,
) -> Any:
    """The decoded JSON of a successful answer. `what` begins with the vendor's name, like `GitHub: open a ticket`.

    Raises TransientError (limits, outages, conflicts, a read whose answer was lost), PermanentError (refused)
    and, for what is no GET, OutcomeUnknownError where the answer was lost. `timeout_s` is for connecting and for
    each wait on data.
    """
    changes = method != "GET"
    lost = OutcomeUnknownError if changes else TransientError
    try:
        with httpx.Client(timeout=timeout_s, headers=dict(headers), verify=_tls()) as client:
            answer = client.request(method, url, params=params, json=body)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise TransientError(f"{what}: {type(error).__name__}: {error}") from error
    except httpx.HTTPError as error:
        raise lost(f"{what}: {type(error).__name__}: {error}") from error
    if answer.is_success:
        try:
            return answer.json()
        except ValueError as error:
            raise lost(f"{what}: unreadable answer: {clipped(answer.text, _SAID_LIMIT)}") from error
    problem = f"{what}: {answer.status_code} {_said(answer)}".rstrip()
    if _limited(answer):
        raise TransientError(problem, retry_after_s=_seconds(answer.headers.get("retry-after")))
    # A 5xx or a conflict counts as not done: whoever repeats looks first whether it was.
    if answer.status_code >= 500 or answer.status_code == 409:
        raise TransientError(problem)
    # What we may not see is said not to be there: GitHub, "Troubleshooting the REST API".
    raise (DeniedError if answer.status_code in (401, 403, 404) else PermanentError)(problem)


@functools.cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates takes 50 ms. The client is made anew for each call all the same: a change sent on a
    # connection that the other side has closed would be in doubt.
    return httpx.create_ssl_context()


def _limited(answer: httpx.Response) -> bool:
    """Whether it was refused for asking too often. GitHub says that with 403, Statuspage with 420 as well."""
    spent = answer.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in answer.headers
    return answer.status_code in (420, 429) or (answer.status_code == 403 and spent)


def _said(answer: httpx.Response) -> str:
    """The vendor's own words: `message` (GitHub) or `error` (Statuspage), else how the body begins."""
    try:
        body = answer.json()
        words = body.get("message") or body["error"]
        return clipped(str("; ".join(words) if isinstance(words, list) else words), _SAID_LIMIT)
    except (ValueError, LookupError, TypeError, AttributeError):
        return clipped(answer.text.strip(), _SAID_LIMIT)


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() else None
