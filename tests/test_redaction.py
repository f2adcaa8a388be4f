import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.domain import redaction
from responder.domain.errors import TransientError
from responder.domain.logs import clean_logs
from responder.domain.redaction import (
    MARK,
    PATTERNS,
    SITE_PATTERNS,
    Pattern,
    Redactor,
    clipped,
    know,
    pattern_problems,
    redact,
    redact_value,
)

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


@given(TEXTS)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(TEXTS)
def test_redaction_never_grows_a_text_beyond_bounds(text: str) -> None:
    assert len(redact(text)) <= (1 + len(MARK)) * len(text)


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


# --- the table -------------------------------------------------------------------------------------


def example_of(pattern: Pattern) -> tuple[str, str]:
    """The example as it would stand in a log, and the secret in it."""
    before, rest = pattern.example.split("‹")
    secret, after = rest.split("›")
    return before + secret + after, secret


# What stands around a secret in a log: never a part of the word itself.
CONTEXTS = st.lists(
    st.sampled_from([" ", "\n", ", ", "; ", "| ", "> ", "\t", "(", "[ERROR] ", "at 2026-03-01 10:22:31 "])
    | st.text(st.characters(categories=["Ll", "Lu", "Nd"]), max_size=8).map(lambda word: f" {word} "),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
@settings(max_examples=40)
@given(before=CONTEXTS, after=CONTEXTS)
def test_the_example_of_each_pattern_is_hidden_wherever_it_stands(
    pattern: Pattern, before: str, after: str
) -> None:
    text, secret = example_of(pattern)
    end = "" if after[:1] in ("", " ", "\n", "\t") else " "
    assert secret not in redact(f"{before} {text}{end}{after}")


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_the_example_of_each_pattern_is_hidden_by_that_pattern(
    pattern: Pattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, secret = example_of(pattern)
    monkeypatch.setattr(redaction, "PATTERNS", (pattern,))
    assert secret not in redact(text)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
@settings(max_examples=40)
@given(cut=st.integers(min_value=0, max_value=200))
def test_a_secret_on_the_cut_leaves_no_piece_of_itself(pattern: Pattern, cut: int) -> None:
    text, secret = example_of(pattern)
    shown = clipped("x " * 100 + text, 150 + cut)
    assert not [start for start in range(len(secret) - 7) if secret[start : start + 8] in shown]


HEX = "0123456789abcdef"
ORDINARY = st.one_of(
    st.text(HEX, min_size=40, max_size=40),  # a commit
    st.text(HEX, min_size=64, max_size=64).map(lambda digest: f"sha256:{digest}"),
    st.text(HEX, min_size=32, max_size=32),
    st.uuids().map(str),
    st.integers(0, 2**63).map(str),
    st.integers(10**9, 2 * 10**9).map(lambda second: f"{second}.123456"),
    st.integers(0, 2**48).map(lambda number: f"order web-{number} BTCUSDT BUY 0.01 at 61000.5"),
    st.ip_addresses().map(str),
    st.datetimes().map(str),
    st.sampled_from(
        [
            "/opt/veloz/releases/1.4.2/lib/python3.11/site-packages/veloz/gateway.py",
            'veloz_http_requests_total{method="GET",endpoint="/api/orders_state",status="200"} 812',
            "Started veloz.service - VeloZ gateway.",
            "PID 4121 (python), 12 threads, 5.1 GiB resident",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5aHhKzpkTCcXwBkkDZr2BRxCG0T3bQ6k5D3KZ1Zz9q gw-1",
            "SHA256:HUB921HqJ3c2WelAMEQRGtJ0CnqyJYPAKl5ch9MhF9Q",
        ]
    ),
)


@settings(max_examples=200)
@given(st.lists(ORDINARY, min_size=1, max_size=4).map(" ".join))
def test_ids_hashes_times_and_paths_are_not_eaten(text: str) -> None:
    assert redact(text) == text


# --- what a site adds, and what we hold ------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def write(text: str) -> None:
        (tmp_path / "patterns.yaml").write_text(text)
        monkeypatch.setenv(SITE_PATTERNS, str(tmp_path / "patterns.yaml"))
        redaction.site_patterns.cache_clear()
        redaction._remembered.cache_clear()

    yield write
    redaction.site_patterns.cache_clear()
    redaction._remembered.cache_clear()


def test_a_site_adds_patterns_of_its_own(site: Callable[[str], None]) -> None:
    site("desk ticket: 'DESK-[0-9]{6}'\n")
    assert redact("see DESK-123456 and password=x1y2z3") == f"see {MARK} and password={MARK}"
    assert pattern_problems() == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("broken: '['\nfine: 'DESK-[0-9]+'\n", "broken: not a regular expression"),
        ("everything: '.*'\nfine: 'DESK-[0-9]+'\n", "everything: matches nothing at all"),
        ("- a list\n", "expected `name: regular expression`"),
        ("a: [\n", "cannot be read as YAML"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_named_and_costs_no_other(
    site: Callable[[str], None], text: str, problem: str
) -> None:
    site(text)
    assert [problem in said for said in pattern_problems()] == [True]
    assert redact("DESK-1 password=x1y2z3") == f"{MARK if 'fine' in text else 'DESK-1'} password={MARK}"


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", frozenset())
    monkeypatch.setattr(redaction, "_forms", ())


@pytest.mark.usefixtures("knowing")
def test_what_we_hold_is_hidden_by_its_value_in_every_text_and_error() -> None:
    know("y8Nb-AkKc66ryYTWUXYEu", "-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5v\n-----END KEY-----", "on")
    assert redact("bad token y8Nb-AkKc66ryYTWUXYEu") == f"bad token {MARK}"
    assert str(TransientError("refused: b3BlbnNzaC1rZXktdjEAAAAABG5v")) == f"refused: {MARK}"
    assert redact("connection on") == "connection on"


@pytest.mark.usefixtures("knowing")
def test_what_is_learned_again_and_again_takes_no_more_to_look_for() -> None:
    know("abc/def+ghi=")
    once = redaction._forms
    know("abc/def+ghi=")
    assert redaction._forms == once
    assert len(once) == 2, "as it is, and as a URL writes it"


@pytest.mark.usefixtures("knowing")
def test_what_is_learned_at_the_same_time_is_all_known() -> None:
    secrets = [f"planted/secret+{number:04}" for number in range(400)]
    with ThreadPoolExecutor(8) as learners:
        list(learners.map(know, secrets))
    assert {redact(secret) for secret in secrets} == {MARK}


@pytest.mark.usefixtures("knowing")
def test_a_log_record_is_clean_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    know("y8Nb-AkKc66ryYTWUXYEu")
    clean_logs()
    try:
        raise ValueError("the vendor said y8Nb-AkKc66ryYTWUXYEu")
    except ValueError:
        logging.getLogger("vendor").exception("answered %s", "password=hunter2hunter2")
    assert "y8Nb" not in caplog.text
    assert "hunter2" not in caplog.text
    assert f"answered password={MARK}" in caplog.text
    assert f"ValueError: the vendor said {MARK}" in caplog.text
