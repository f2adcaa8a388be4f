"""Secrets taken out of everything that is kept, logged or sent.

Rather too much than too little: a hidden word costs a look at the host, a leaked token costs a rotation.
"""

import functools
import json
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import yaml

from responder.domain.escaping import bound

MARK = "[redacted]"
SITE_PATTERNS = "INCIDENT_SECRET_PATTERNS"
"""Names the file with a site's own patterns: YAML, `name: regular expression`; a match is hidden whole."""

_MIN_SECRET = 6
_MAX_DEPTH = 64
_LONGEST_SECRET = 4_096


class Pattern(NamedTuple):
    """What a secret looks like. `replacement` keeps what tells a reader which secret it was.

    In the `example` (a line of a log) the secret itself stands between ‹ and ›.
    """

    name: str
    example: str
    regex: re.Pattern[str]
    replacement: str = MARK


_SENSITIVE = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|token|api[-_ ]?key|access[-_]?key|private[-_]?key|routing[-_]?key"
    r"|integration[-_]?key|listen[-_]?key|signature|credential)"
)
_SENSITIVE_NAME = re.compile(_SENSITIVE, re.IGNORECASE | re.ASCII)


def _pattern(name: str, example: str, regex: str, replacement: str = MARK) -> Pattern:
    return Pattern(name, example, re.compile(regex, re.IGNORECASE | re.ASCII), replacement)


# Every repetition is bounded, or consumes what it has scanned: the whole takes time linear in the text.
PATTERNS = (
    _pattern(
        "private key (PEM, RFC 7468)",
        "-----BEGIN PRIVATE KEY-----\n‹MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAg›\n-----END PRIVATE KEY-----",
        # Whatever stands before its lines in a journal or a comment; without an end only what can be of a key.
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:"
        r"(?:(?!-----BEGIN )[\s\S]){0,8000}?-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----"
        r"|(?:[A-Z0-9+/=\s\\:,]|-(?!-))*)",
    ),
    Pattern(
        # A journal has each line of a key by itself; OpenSSH's have 70 characters. No hash in hexadecimal.
        "line of a private key, or an exchange's key of 64 characters",
        "gw-1 veloz[7]: ‹vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A›",
        re.compile(
            r"(?<![\w+/=])(?=[A-Z0-9+/]{0,69}[a-z])(?=[a-z0-9+/]{0,69}[A-Z])(?=[A-Za-z+/]{0,69}\d)"
            r"(?:[\w+/]{70}|[\w+/]{64})(?![\w+/])",
            re.ASCII,
        ),
    ),
    _pattern(
        "header that carries credentials",
        "X-MBX-APIKEY: ‹Kj3nB8vQz71LmPq›",
        r"(?<![\w-])((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]{0,20}api-?key)"
        r"(\\{0,3}[\"']?\s{0,4}[:=]\s{0,4}\\{0,3}[\"']?)[^\s\"'\\][^\r\n\"'\\]*",
        rf"\1\2{MARK}",
    ),
    _pattern(
        "named value",
        "login failed: password=‹correct-horse-battery›",
        rf"({_SENSITIVE}[\w-]{{0,40}})(\\{{0,3}}[\"']?\s{{0,4}}[:=]\s{{0,4}})"
        r"(?:"
        r"(\")(?:[^\"\\\n]|\\.)*\"?"  # quoted
        r"|(')(?:[^'\\\n]|\\.)*'?"
        r"|(\\{1,3}[\"'])[^\"'\\\n]*"  # quoted within a quoted text
        r"|\[redacted\]|(?:(?:bearer|basic)\s{1,4})?[^\s\"'&;<>]+"  # bare; what is already hidden stays
        r")",
        rf"\1\2\3\4\5{MARK}\3\4",
    ),
    _pattern(
        "option of a command line",
        "veloz_engine --api-secret ‹hV7kQ2pR9wYs›",
        # Not what our own words say of such an option: `--secret NAME=@FILE`, `--secret NAME: …`.
        rf"(?<=-)({_SENSITIVE}[\w-]{{0,40}})(\s{{1,4}})(?!\w{{1,64}}(?:=@|:\s))[^\s-]\S*",
        rf"\1\2{MARK}",
    ),
    _pattern(
        "bearer token (RFC 6750)",
        "sent with bearer ‹mF_9.B5f-4.1JqM› to the gateway",
        r"\b(bearer)(\s{1,4})[A-Z0-9._~+/-][A-Z0-9._~+/=-]{5,}",
        rf"\1\2{MARK}",
    ),
    _pattern(
        "basic credentials (RFC 7617)",
        "sent with Basic ‹QWxhZGRpbjpvcGVuIHNlc2FtZQ==› to the gateway",
        r"\b(basic)(\s{1,4})(?=[A-Z]{0,400}[0-9=+/])[A-Z0-9+/]{6,}={0,2}",
        rf"\1\2{MARK}",
    ),
    _pattern(
        "JSON web token (RFC 7519)",
        "session ‹eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ2ZWxveiJ9.c2lnbmF0dXJl› opened",
        r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{2,}(?:\.[\w-]*)?",
    ),
    _pattern(
        "AWS access key id",
        "used ‹AKIAIOSFODNN7EXAMPLE› today",
        r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    ),
    _pattern("Slack token", "posted as ‹xoxb-417723456789-planted0bot›", r"(?<![\w-])x(?:ox[a-z]|app)-[\w-]{10,}"),
    _pattern(
        "Slack webhook",
        "https://hooks.slack.com/services/‹T0AB12CD3/B0EF45GH6/planted0hook›",
        r"(?<=hooks\.slack\.com/)(services|workflows)/[\w/-]{8,}",
        rf"\1/{MARK}",
    ),
    _pattern(
        "GitHub token",
        "cloned with ‹ghp_16C7e42F292c6912E7710c838347Ae178B4a›",
        r"(?<![\w-])(?:gh[pousr]_|github_pat_)\w{20,}",
    ),
    _pattern("PagerDuty key", "PagerDuty refused ‹u+R7planted0key9Qx2w›", r"(?<![\w+-])u\+[\w-]{18}(?![\w-])"),
    _pattern(
        "Binance user stream",
        f"wss://stream.binance.com:9443/ws/‹{'pqia91ma19a5s61' * 3}›",
        r"(?<=/ws/)[A-Z0-9]{40,}",
    ),
    _pattern(
        "user and password in a URL",
        "postgresql://‹veloz:opensesame42›@db:5432/veloz",
        r"(?<=://)[^\s/?#\"'<>]{1,512}@",
        f"{MARK}@",
    ),
)
"""Applied in this order, before a site's own."""

_learning = threading.Lock()
_known: frozenset[str] = frozenset()
_forms: tuple[str, ...] = ()
_SHORT = 200


def know(*secrets: str) -> None:
    """Hide these values, too, wherever this process redacts: whatever we hold may be echoed by others.

    A private key is known line by line. Values of fewer than six characters are ignored.
    """
    global _known, _forms
    lines = {line.strip() for secret in secrets for line in secret.splitlines() if "-----" not in line}
    with _learning:
        if not lines <= _known:
            _known |= lines
            _forms = tuple(Redactor(_known).forms)


def redact(text: str) -> str:
    """`text` with every secret that can be told by its looks, or is known, replaced by a mark. Idempotent."""
    return _remembered(text, len(_forms)) if len(text) <= _SHORT else _redacted(text)


@functools.lru_cache(maxsize=4_096)
def _remembered(text: str, _how_many_forms: int) -> str:
    # Labels are the same in alert after alert. With more forms to look for, nothing of before is remembered.
    return _redacted(text)


def _redacted(text: str) -> str:
    for form in _forms:
        text = text.replace(form, MARK)
    for _, _, regex, replacement in (*PATTERNS, *site_patterns()):
        text = regex.sub(replacement, text)
    return text


def without_keys(text: str) -> str:
    """`text` without whole private keys, which are seen by their first and last lines only; fast."""
    return PATTERNS[0].regex.sub(MARK, text) if "PRIVATE KEY-----" in text else text


def clipped(text: str, limit: int) -> str:
    """`text` without secrets in at most `limit` characters. A secret is never cut so that its half is left."""
    return bound(redact(text[: limit + _LONGEST_SECRET]), limit)


@functools.cache
def site_patterns() -> tuple[Pattern, ...]:
    """The patterns of the site's file; those that cannot be used are left out, `pattern_problems` names them."""
    return _read_site_patterns()[0]


def pattern_problems() -> list[str]:
    """What is wrong with the site's file, one sentence each; empty when there is none or all is well."""
    return _read_site_patterns()[1]


def _read_site_patterns() -> tuple[tuple[Pattern, ...], list[str]]:
    path = os.environ.get(SITE_PATTERNS)
    if not path:
        return (), []
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return (), [f"{path}: {type(error).__name__}: cannot be read as YAML; no pattern of the site is used"]
    if not isinstance(given, dict):
        return (), [f"{path}: expected `name: regular expression` on each line; no pattern of the site is used"]
    patterns, problems = [], []
    for name, regex in given.items():
        try:
            compiled = re.compile(str(regex))
        except (re.error, OverflowError) as error:
            problems.append(f"{path}: {name}: not a regular expression: {error}; it is not used")
            continue
        if compiled.search("") or compiled.search(MARK):
            problems.append(f"{path}: {name}: matches nothing at all, or the mark {MARK}; it is not used")
        else:
            patterns.append(Pattern(str(name), "", compiled))
    return tuple(patterns), problems


def redact_value(value: object) -> object:
    """A JSON-like value with its texts redacted, and whatever a telling name like `password` holds hidden.

    Containers come back as dict and list. Raises TypeError for what JSON does not know.
    """
    return Redactor().value(value)


class Redactor:
    """Redacts the exact values of known secrets too, also as JSON and URLs write them.

    Values of fewer than six characters are ignored: they would blacken ordinary words.
    """

    def __init__(self, extra_secrets: Iterable[str] = ()) -> None:
        forms = {
            form
            for secret in extra_secrets
            for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))
            if len(secret) >= _MIN_SECRET and form not in MARK
        }
        self.forms = sorted(forms, key=lambda form: (-len(form), form))

    def text(self, text: str) -> str:
        """`text` without the known secrets and without what looks like one."""
        for secret in self.forms:
            text = text.replace(secret, MARK)
        return redact(text)

    def value(self, value: object, _depth: int = 0) -> object:
        """As `redact_value`."""
        if _depth > _MAX_DEPTH:
            return "[nested too deep]"
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {
                self.text(str(key)): MARK
                if item not in (None, True, False) and _SENSITIVE_NAME.search(str(key))
                else self.value(item, _depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(item, _depth + 1) for item in value]
        raise TypeError(f"not JSON: {type(value).__name__}")
