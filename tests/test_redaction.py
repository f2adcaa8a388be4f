import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.domain.redaction import MARK, PATTERNS, Redactor, redact, redact_value

# Pieces that begin, end and join what the patterns look for, so that random texts come close to them.
PIECES = [
    *(
        "password",
        "api_key",
        "-token",
        "signature",
        "Authorization",
        "Cookie",
        "X-MBX-APIKEY",
        "bearer ",
        "Basic ",
    ),
    *("=", ":", " ", "\n", '"', "'", "\\", '\\"', "&", ";", "@", "://", "/ws/", "-----", "[", "]", "<", ","),
    *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "eyJhbGciOiJI", ".", "AKIAIOSFODNN7EXAMPLE"),
    *("xoxb-123456789012", MARK, "redacted", "hunter2", "A" * 45, "hooks.slack.com/", "services/T0/B0/abcdefgh"),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)

SECRET = "s3cr3tV4lu3XYZ"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: Token token={SECRET}",
        f"Proxy-Authorization: Basic {SECRET}==",
        f"X-MBX-APIKEY: {SECRET}",
        f"x-api-key={SECRET}",
        f"Set-Cookie: session={SECRET}; Path=/",
        f'{{"Authorization": "Digest user {SECRET}"}}',
        f"sent with bearer {SECRET} to the gateway",
        f"sent with Basic {SECRET}= to the gateway",
        f"token=Bearer {SECRET}",
        f"password={SECRET}",
        f"VELOZ_DB_PASSWORD='with spaces {SECRET}'",
        f"AWS_SECRET_ACCESS_KEY = {SECRET}/+",
        f'{{"api_key": "{SECRET}"}}',
        f'{{"msg": "{{\\"secret\\": \\"{SECRET}\\"}}"}}',
        f'"password": "quote \\" inside {SECRET}"',
        f'password="never closed {SECRET}',
        f"https://api.binance.com/api?symbol=BTC&signature={SECRET}&x=1",
        f"POST /ws listenKey={SECRET}",
        f"postgresql://veloz:{SECRET}@db:5432/veloz",
        f"redis://:p@{SECRET}[x]@db",
        f"veloz_engine --api-key {SECRET} --port 8080",
        f"routing_key: {SECRET}",
        f"wss://stream.binance.com:9443/ws/{SECRET * 4}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n{SECRET}=\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY-----\\nProc-Type: 4,ENCRYPTED\\n{SECRET}\\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET} and no end",
        f"eyJhbGciOiJIUzI1NiJ9.eyJ{SECRET}.{SECRET}",
        f"xoxb-1234567890-{SECRET}",
        f"https://hooks.slack.com/services/T000/B000/{SECRET}",
        f"ghp_{SECRET}{SECRET}",
        f"github_pat_{SECRET}{SECRET}",
    ],
)
def test_a_secret_is_hidden_where_its_surroundings_give_it_away(text: str) -> None:
    redacted = redact(text)
    assert SECRET not in redacted
    assert MARK in redacted


def test_an_aws_access_key_id_is_hidden() -> None:
    assert redact("used AKIAIOSFODNN7EXAMPLE today") == f"used {MARK} today"


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01 10:22:31 [AUDIT] Auth failed: path=/api/account, ip=203.0.113.8, error=invalid_api_key",
        "Out of memory: Killed process 4121 (veloz_engine) total-vm:5120044kB",
        "basic authentication is off and the bearer has it",
        "http://localhost:8080/api/orders_state",
        "idempotency_key=abc client_order_id=lab-7",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_ordinary_lines_are_left_alone(text: str) -> None:
    assert redact(text) == text


def test_what_surrounds_a_secret_stays_readable() -> None:
    assert redact('user=bob password="a b" ip=1.2.3.4') == f'user=bob password="{MARK}" ip=1.2.3.4'
    assert redact("GET /x?signature=abc&symbol=BTC") == f"GET /x?signature={MARK}&symbol=BTC"


def test_an_unfinished_private_key_does_not_hide_the_lines_after_it() -> None:
    assert "[ERROR] disk full" in redact("-----BEGIN PRIVATE KEY-----\n[ERROR] disk full")


@settings(deadline=None)
@given(TEXTS)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@settings(deadline=None)
@given(TEXTS)
def test_redaction_never_grows_a_text_beyond_bounds(text: str) -> None:
    assert len(redact(text)) <= (1 + len(MARK)) * len(text)


@settings(deadline=None)
@given(JSON)
def test_redacting_a_value_twice_changes_nothing_more_and_keeps_it_json(value: object) -> None:
    once = redact_value(value)
    json.dumps(once)
    assert redact_value(once) == once


def test_what_a_telling_name_holds_is_hidden_whatever_it_is() -> None:
    value = {"db": {"password": 1234567, "credentials": {"user": "bob"}, "token": None}, "list": ["pwd=x"]}
    assert redact_value(value) == {
        "db": {"password": MARK, "credentials": MARK, "token": None},
        "list": [f"pwd={MARK}"],
    }


def test_a_bottomless_value_is_cut() -> None:
    value: object = "deep"
    for _ in range(5000):
        value = [value]
    assert "nested too deep" in json.dumps(redact_value(value))


def test_what_json_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        redact_value({"body": b"password=x"})


@settings(deadline=None)
@given(st.text(alphabet='abcXYZ019/+=%&"\\ü\n', min_size=6, max_size=30), TEXTS, TEXTS)
def test_a_known_secret_is_hidden_as_it_is_and_as_json_writes_it(secret: str, before: str, after: str) -> None:
    redactor = Redactor([secret])
    assert secret not in redactor.text(f"{before}{secret}{after}")
    assert json.dumps(secret)[1:-1] not in redactor.text(json.dumps({"note": secret}))


def test_a_known_secret_is_hidden_in_a_url() -> None:
    assert "p%C3%A4ss" not in Redactor(["päss/wörd"]).text("GET /login/p%C3%A4ss%2Fw%C3%B6rd")


def test_known_secrets_that_contain_each_other_leave_no_rest() -> None:
    assert Redactor(["abcdef", "abcdefghi"]).text("abcdefghi") == MARK


def test_a_short_known_secret_does_not_blacken_ordinary_words() -> None:
    assert Redactor(["on"]).text("connection on") == "connection on"


def test_the_mark_itself_is_no_secret() -> None:
    assert Redactor(["redacted"]).text(f"a {MARK} b") == f"a {MARK} b"


@pytest.mark.parametrize(
    "piece",
    ["a", "-", "eyJ-", "-----BEGIN PRIVATE KEY-----", 'password="', "secret='\\", "://", "basic a", "token", "x-"],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 3  # a quadratic pattern takes minutes


def test_every_pattern_says_what_it_is_for() -> None:
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS)
