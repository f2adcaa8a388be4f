import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.parsing.http import HttpReply, curl_argv, parse_curl, read_json

HAS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
ALIVE = {"ok": True, "engine.connected": True}


@contextmanager
def answering(reply: bytes | None) -> Iterator[str]:
    """A server that answers every connection with `reply` and closes; None: never answers. Gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            if reply is not None:
                connection.recv(65536)
                connection.sendall(reply)
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/health"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in held:
            connection.close()


def ask(url: str, deadline_s: float = 5, max_bytes: int = 100_000) -> HttpReply:
    env = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9"}  # a proxy that must not be asked
    argv = curl_argv(url, deadline_s, max_bytes)
    done = subprocess.run(argv, capture_output=True, check=False, env=env)
    return parse_curl(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())


def page(body: str, status: str = "200 OK", kind: str | None = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\n{extra}"
    return (head + (f"Content-Type: {kind}\r\n" if kind else "") + "\r\n" + body).encode()


def json_reply(body: object, status: int = 200) -> HttpReply:
    text = body if isinstance(body, str) else json.dumps(body)
    return HttpReply(status=status, content_type="application/json", body=text)


@HAS_CURL
def test_a_reply_is_read_from_what_curl_prints() -> None:
    with answering(page('{"ok":true}\n', kind="Application/JSON; charset=utf-8")) as url:
        reply = ask(url)
    assert (reply.status, reply.content_type, reply.body) == (200, "application/json", '{"ok":true}\n')
    assert reply.failure is None
    assert reply.latency_s is not None
    assert 0 < reply.latency_s < 5


@HAS_CURL
def test_a_refused_connection_is_named() -> None:
    with answering(b"") as url:
        pass
    assert ask(url).failure == "refused"


@HAS_CURL
@pytest.mark.parametrize(
    ("sent", "failure"),
    [
        (b"", "empty_reply"),
        (None, "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", "cut"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "other"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n", "cut"),
    ],
)
def test_each_failure_of_a_server_is_named(sent: bytes | None, failure: str) -> None:
    with answering(sent) as url:
        reply = ask(url, deadline_s=0.3 if sent is None else 5)
    assert reply.failure == failure
    assert reply.problem
    assert read_json(reply, ALIVE).verdict == "unknown"


@HAS_CURL
def test_plain_http_where_tls_is_expected_is_a_failure_of_tls() -> None:
    with answering(page("{}")) as url:
        assert ask(url.replace("http:", "https:")).failure == "tls"


@HAS_CURL
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + page("{}"), 200),
        (b"HTTP/1.0 503\r\n\r\n{}", 503),
        (b"HTTP/1.0 200 OK\nContent-Type: application/json\n\n{}", 200),
    ],
)
def test_unusual_heads_are_read(sent: bytes, status: int) -> None:
    with answering(sent) as url:
        reply = ask(url)
    assert (reply.status, reply.body) == (status, "{}")


@HAS_CURL
def test_a_body_of_binary_garbage_is_only_a_body() -> None:
    with answering(
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n\xff\xfe\x00HTTP/1.1 200 OK\r\n\r\n{}"
    ) as url:
        reply = ask(url)
    assert reply.status == 200
    assert read_json(reply, ALIVE).verdict == "unknown"


def test_the_last_of_followed_replies_counts() -> None:
    text = "HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\nHTTP/2 404 \r\ncontent-type: text/html\r\n\r\n<html>\n0.5"
    reply = parse_curl(0, text, "")
    assert (reply.status, reply.content_type, reply.body, reply.latency_s) == (404, "text/html", "<html>", 0.5)


def test_a_reply_within_a_body_does_not_count() -> None:
    text = 'HTTP/1.1 500 Oops\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{"ok":true}\n0.5'
    assert parse_curl(0, text, "").status == 500


@pytest.mark.parametrize(
    ("status", "stderr", "failure"),
    [
        (7, "curl: (7) Failed to connect to ::1: No route to host", "unreachable"),
        (7, "::1: Network is unreachable; 127.0.0.1: Connection refused", "refused"),
        (6, "curl: (6) Could not resolve host: nowhere.invalid", "dns"),
        (60, "curl: (60) SSL certificate problem", "tls"),
        (56, "curl: (56) Recv failure: Connection reset by peer", "cut"),
        (127, "sh: curl: not found", "other"),
        (-1, "", "other"),
        (None, "", "other"),
    ],
)
def test_exit_statuses_that_no_server_here_causes(status: int | None, stderr: str, failure: str) -> None:
    reply = parse_curl(status, "\n0.1", stderr)
    assert reply.failure == failure
    assert stderr in (reply.problem or "")


def test_an_unknown_exit_status_is_no_answer_whatever_was_printed() -> None:
    reply = parse_curl(-1, 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"ok":true}\n0.1', "")
    assert read_json(reply, ALIVE).verdict == "unknown"


def test_a_bounded_output_is_marked() -> None:
    reply = parse_curl(23, "HTTP/1.1 200 OK\r\n\r\n[1,\n0.5", "", truncated=True)
    assert (reply.truncated, reply.failure, reply.latency_s, reply.body) == (True, None, None, "[1,\n0.5")
    assert read_json(reply, ALIVE).verdict == "unknown"


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    head = "HTTP/1.1 429 Slow down\r\n{}\r\n\r\n\n0.1"
    assert parse_curl(0, head.format("Retry-After: 12"), "").retry_after_s == 12
    dates = "Date: Mon, 23 Nov 2026 13:00:00 GMT\r\nRetry-After: Mon, 23 Nov 2026 13:01:00 GMT"
    assert parse_curl(0, head.format(dates), "").retry_after_s == 60
    assert parse_curl(0, head.format("Retry-After: soon"), "").retry_after_s is None


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "-o/tmp/x", "localhost:8080", "http://", "http://a b", "http://a\n"]
)
def test_only_a_plain_http_url_is_asked(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        curl_argv(url, 5, 1000)


@pytest.mark.parametrize(("deadline_s", "max_bytes"), [(0, 10), (float("inf"), 10), (float("nan"), 10), (1, 0)])
def test_a_request_without_limits_is_refused(deadline_s: float, max_bytes: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        curl_argv("http://localhost/", deadline_s, max_bytes)


@pytest.mark.parametrize(
    "body",
    [
        {"ok": True, "engine": {"connected": True}},
        {"ok": True},
        {"engine": {"connected": True}, "more": [1]},
    ],
)
def test_expected_fields_that_agree_are_healthy(body: object) -> None:
    assert read_json(json_reply(body), ALIVE).verdict == "healthy"


@pytest.mark.parametrize(
    "body",
    [
        {"ok": True, "engine": {"connected": False}},
        {"ok": 1},
        {"ok": "true"},
        {"ok": None},
        {"engine": {"connected": {}}},
    ],
)
def test_an_expected_field_that_disagrees_is_unhealthy(body: object) -> None:
    reading = read_json(json_reply(body), ALIVE)
    assert reading.verdict == "unhealthy"
    assert " is " in reading.reason


@pytest.mark.parametrize(
    "body",
    [
        {"alive": True},
        {"engine": []},
        [],
        "true",
        "null",
        "",
        "<html>",
        '{"ok": true, "ok": true}',
        '{"ok": true, "load": NaN}',
        '{"ok": true, "load": 1e999}',
        '{"ok": true, "n": ' + "9" * 5000 + "}",
        '{"ok": true, "deep": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"ok": true}' + " " * 3_000_000,
    ],
)
def test_another_shape_is_unknown(body: object) -> None:
    reading = read_json(json_reply(body), ALIVE)
    assert reading.verdict == "unknown"
    assert reading.reason
    assert len(reading.reason) < 500


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(500, "unhealthy"), (503, "unhealthy"), (404, "unknown"), (401, "unknown"), (302, "unknown")],
)
def test_a_status_that_is_no_success_decides_alone(status: int, verdict: str) -> None:
    assert read_json(json_reply({"ok": True}, status), ALIVE).verdict == verdict


def test_a_limited_rate_says_when_to_ask_again() -> None:
    reply = HttpReply(status=429, retry_after_s=7, content_type="application/json", body="{}")
    reading = read_json(reply, ALIVE)
    assert reading.verdict == "unknown"
    assert "7 s" in reading.reason


def test_only_refusal_among_the_failures_is_unhealthy() -> None:
    assert read_json(HttpReply(failure="refused"), ALIVE).verdict == "unhealthy"
    for failure in ("timeout", "empty_reply", "dns", "tls", "cut", "unreachable", "other"):
        assert read_json(HttpReply(failure=failure, status=200, body='{"ok": true}'), ALIVE).verdict == "unknown"


def test_an_index_page_is_not_a_healthy_service() -> None:
    reply = HttpReply(status=200, content_type="text/html", body='{"ok": true}')
    assert read_json(reply, ALIVE).verdict == "unknown"


def test_json_without_a_content_type_is_read() -> None:
    assert read_json(HttpReply(status=200, body='{"ok": true}'), ALIVE).verdict == "healthy"


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({"items": []}, "healthy"),
        ({"items": 0}, "healthy"),
        ({"items": None}, "unknown"),
        ({"items": {}}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_field_that_must_be_present_holds_a_list_or_a_scalar(body: object, verdict: str) -> None:
    assert read_json(json_reply(body), {}, ["items"]).verdict == verdict


def test_what_was_looked_at_is_kept_in_bounds() -> None:
    body = {"ok": True, "items": [1, 2, 3], "text": "x" * 1000, "other": 1}
    assert read_json(json_reply(body), {"ok": True}, ["items", "text"]).fields == {
        "ok": True,
        "items.length": 3,
        "text": "x" * 200,
    }


def test_nothing_to_look_at_is_an_error() -> None:
    with pytest.raises(ValueError, match="proves nothing"):
        read_json(json_reply({}), {}, [])


@given(
    st.sampled_from([0, 7, 23, 28, 56, 127, -1, None]),
    st.lists(
        st.sampled_from(
            ["HTTP/1.1 200 OK", "HTTP/2 100", "\r\n", "\n", "Date: x", "Retry-After: 1", ":", "{}", "0.5"]
        )
        | st.text(max_size=5)
    ).map("".join),
    st.text(max_size=20),
)
def test_whatever_curl_prints_is_a_reply_and_never_healthy_by_chance(
    status: int | None, stdout: str, stderr: str
) -> None:
    reply = parse_curl(status, stdout, stderr)
    assert reply.failure is not None or reply.status is not None
    assert read_json(reply, ALIVE).verdict != "healthy"


def test_ten_megabytes_of_anything_are_read_in_no_time() -> None:
    for text in (
        "HTTP/1.1 100 Continue\r\n\r\n" * 400_000,
        "HTTP/1.1 200 OK\r\n" + "a:" * 5_000_000,
        "\n" * 10_000_000,
    ):
        assert read_json(parse_curl(0, text, ""), ALIVE).verdict == "unknown"
