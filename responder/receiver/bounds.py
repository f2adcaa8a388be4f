"""Bounds on what a request may be, before anything looks at it."""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 64 * 1024
MOST_ALERT_BYTES = 8 * 1024 * 1024
"""Alertmanager sends a whole group at once."""
LONGEST_S = 10.0
"""For a whole body to arrive."""


class BoundedBody:
    """Reads a body before the application is asked: 413 for too large a one, 408 for one that does not come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = MOST_ALERT_BYTES if scope["path"].startswith("/alerts/") else MOST_BYTES
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(LONGEST_S):
                while more and len(body) <= most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            await _refuse(408, f"the body did not arrive within {LONGEST_S:g} s")(scope, receive, send)
            return
        if len(body) > most:
            await _refuse(413, f"the body has more than {most} bytes")(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)


def _refuse(status: int, words: str) -> JSONResponse:
    # What is still to come on this connection is not read.
    return JSONResponse({"error": words, "see": ""}, status, {"Connection": "close"})
