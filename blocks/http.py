"""Asking a URL from this machine, with one deadline and a bounded answer. Never raises for what it finds."""

import time

import httpx

from responder.domain.parsing.http import Failure, HttpReply


def fetch(url: str, *, timeout_s: float, max_bytes: int) -> HttpReply:
    """One GET without redirects. The whole of it ends after `timeout_s` seconds; the body is cut, marked.

    Every fault of the network is a `failure` of the reply, in the words that `curl` on a host is read with.
    """
    began = time.monotonic()
    body = bytearray()
    try:
        with (
            httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", url) as answer,
        ):
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > max_bytes:
                    break
                if time.monotonic() - began > timeout_s:
                    raise httpx.ReadTimeout("the body came too slowly")
    except httpx.HTTPError as error:
        return HttpReply(failure=_failure(error), problem=f"{type(error).__name__}: {error}")
    kind = answer.headers.get("content-type")
    return HttpReply(
        status=answer.status_code,
        content_type=kind.partition(";")[0].strip().lower() if kind else None,
        headers={name.lower(): value for name, value in answer.headers.items()},
        body=bytes(body[:max_bytes]).decode("utf-8", errors="replace").replace("\0", ""),
        latency_s=time.monotonic() - began,
        retry_after_s=_seconds(answer.headers.get("retry-after")),
        truncated=len(body) > max_bytes,
    )


def _failure(error: httpx.HTTPError) -> Failure:
    words = str(error).lower()
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    if isinstance(error, httpx.ConnectError):
        if "refused" in words:
            return "refused"
        if "certificate" in words or "ssl" in words or "tls" in words:
            return "tls"
        return "dns" if "name or service" in words or "resolution" in words else "unreachable"
    if isinstance(error, httpx.RemoteProtocolError) and "without sending" in words:
        return "empty_reply"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "cut"
    return "other"


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() else None
