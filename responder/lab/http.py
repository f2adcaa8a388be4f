"""The base of the lab's stand-ins: a real HTTP server on loopback that remembers and can misbehave."""

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from responder.domain.base import now

Fault = Literal[
    "refuse",
    "timeout",
    "timeout-done",
    "malformed",
    "cut",
    "401",
    "403",
    "404",
    "409",
    "429",
    "429-bare",
    "500",
    "500-done",
]
"""How a call goes wrong.

`refuse` closes the connection and `timeout` never answers, both without having done anything; `cut`, `malformed`
and whatever ends with `-done` do what was asked, and then the answer is broken, missing or a lie; `429-bare` is a
429 without Retry-After.
"""


@dataclass(frozen=True)
class Request:
    """One request as it arrived, `params` being query and form fields together."""

    at: datetime
    method: str
    path: str
    params: dict[str, list[str]]
    headers: Message
    json: Any = None

    def param(self, name: str, default: str = "") -> str:
        """The first value of a query or form field."""
        return self.params.get(name, [default])[0]


@dataclass(frozen=True)
class Answer:
    """What a stand-in answers: a dict or list is sent as JSON, text as HTML."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Fault:
    kind: Fault
    path: str
    method: str
    times: float
    ends: float


class StandIn:
    """A vendor's API on a loopback port of its own. Subclasses answer in `handle` and `refusal`.

    State is guarded by `lock`; `handle` runs with it held. `requests` keeps every request in the order of
    its arrival, also those that a fault swallowed.
    """

    retry_after_s = 1

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.requests: list[Request] = []
        self._faults: list[_Fault] = []
        self._stopped = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def handle(self, request: Request) -> Answer:
        """Do what was asked and answer as the vendor does."""
        raise NotImplementedError

    def refusal(self, status: int) -> Answer:
        """The vendor's own wording of an HTTP error."""
        raise NotImplementedError

    def start(self) -> Self:
        """Listen; after a `stop` on the same port again, as a service that comes back does."""
        self._stopped.clear()
        server = _Server(("127.0.0.1", self._port), _handler_for(self))
        self._server, self._port = server, server.server_address[1]
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, name=type(self).__name__, daemon=True
        ).start()
        return self

    def stop(self) -> None:
        """Close the port (connections are refused from now on) and let waiting calls go. Repeatable."""
        self._stopped.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Base URL without a slash at its end."""
        return f"http://127.0.0.1:{self._port}"

    def fail(
        self, kind: Fault, *, times: int | None = 1, for_s: float | None = None, path: str = "", method: str = ""
    ) -> None:
        """Let the next `times` calls whose path contains `path` fail; None means until `for_s` or `heal`.

        With a `method` only calls of that one.
        """
        ends = time.monotonic() + for_s if for_s is not None else float("inf")
        with self.lock:
            self._faults.append(_Fault(kind, path, method, float("inf") if times is None else times, ends))

    def heal(self) -> None:
        """Forget all faults."""
        with self.lock:
            self._faults.clear()

    def _next_fault(self, request: Request) -> Fault | None:
        moment = time.monotonic()
        self._faults = [fault for fault in self._faults if fault.times > 0 and fault.ends > moment]
        for fault in self._faults:
            if fault.path in request.path and fault.method in ("", request.method):
                fault.times -= 1
                return fault.kind
        return None

    def _answer(self, request: Request) -> tuple[Answer | None, Fault | None]:
        """The answer to send, if any, and the fault that spoils it."""
        with self.lock:
            self.requests.append(request)
            fault = self._next_fault(request)
            if fault in ("refuse", "timeout"):
                return None, fault
            done = self.handle(request) if fault in (None, "cut", "malformed") or fault.endswith("-done") else None
            if done and fault != "500-done":
                return None if fault == "timeout-done" else done, fault
            status = int(str(fault).partition("-")[0])
            answer = self.refusal(status)
            if fault == "429":
                answer.headers["Retry-After"] = str(self.retry_after_s)
            return answer, fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers may hang up (a time-out of theirs is what some faults are for); anything else is a bug."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler_for(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            params = parse_qs(url.query, keep_blank_values=True)
            body = None
            if self.headers.get_content_type() == "application/x-www-form-urlencoded":
                params |= parse_qs(raw.decode(), keep_blank_values=True)
            elif raw:
                try:
                    body = json.loads(raw)
                except ValueError:
                    self._send(stand_in.refusal(400))
                    return
            request = Request(now(), self.command, url.path, params, self.headers, body)
            answer, fault = stand_in._answer(request)
            if answer is None:
                if fault != "refuse":
                    stand_in._stopped.wait(60)
                self.close_connection = True
                return
            self._send(answer, fault)

        do_GET = do_POST = do_PUT = do_PATCH = _serve

        def _send(self, answer: Answer, fault: Fault | None = None) -> None:
            is_text = isinstance(answer.body, str)
            data = answer.body.encode() if is_text else json.dumps(answer.body).encode()
            if fault == "malformed":
                is_text, data = True, b"<html><body>Bad gateway"
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/html" if is_text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

        def log_message(self, *_: object) -> None:
            """Say nothing: `requests` is the log."""

    return Handler
