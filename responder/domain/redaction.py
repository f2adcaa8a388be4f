"""Secrets taken out of everything that is kept, logged or sent.

Rather too much than too little: a hidden word costs a look at the host, a leaked token costs a rotation.
"""

import json
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

MARK = "[redacted]"

_MIN_SECRET = 6
_MAX_DEPTH = 64


class Pattern(NamedTuple):
    """What a secret looks like. `replacement` keeps what tells a reader which secret it was."""

    name: str
    regex: re.Pattern[str]
    replacement: str = MARK


_SENSITIVE = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|token|api[-_ ]?key|access[-_]?key|private[-_]?key|routing[-_]?key"
    r"|integration[-_]?key|listen[-_]?key|signature|credential)"
)
_SENSITIVE_NAME = re.compile(_SENSITIVE, re.IGNORECASE | re.ASCII)


def _pattern(name: str, regex: str, replacement: str = MARK) -> Pattern:
    return Pattern(name, re.compile(regex, re.IGNORECASE | re.ASCII), replacement)


# Every repetition is bounded, or consumes what it has scanned: the whole takes time linear in the text.
PATTERNS = (
    _pattern(
        "private key (PEM, RFC 7468)",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:[A-Z0-9+/=\s\\:,]|-(?!-))*"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----)?",
    ),
    _pattern(
        "header that carries credentials",
        r"(?<![\w-])((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]{0,20}api-?key)"
        r"(\\{0,3}[\"']?\s{0,4}[:=]\s{0,4}\\{0,3}[\"']?)[^\s\"'\\][^\r\n\"'\\]*",
        rf"\1\2{MARK}",
    ),
    _pattern(
        "named value",
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
        "option of a command line", rf"(?<=-)({_SENSITIVE}[\w-]{{0,40}})(\s{{1,4}})[^\s-]\S*", rf"\1\2{MARK}"
    ),
    _pattern("bearer token (RFC 6750)", r"\b(bearer)(\s{1,4})[A-Z0-9._~+/-][A-Z0-9._~+/=-]{5,}", rf"\1\2{MARK}"),
    _pattern(
        "basic credentials (RFC 7617)",
        r"\b(basic)(\s{1,4})(?=[A-Z]{0,400}[0-9=+/])[A-Z0-9+/]{6,}={0,2}",
        rf"\1\2{MARK}",
    ),
    _pattern("JSON web token (RFC 7519)", r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{2,}(?:\.[\w-]*)?"),
    _pattern("AWS access key id", r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"),
    _pattern("Slack token", r"(?<![\w-])x(?:ox[a-z]|app)-[\w-]{10,}"),
    _pattern("Slack webhook", r"(?<=hooks\.slack\.com/)(services|workflows)/[\w/-]{8,}", rf"\1/{MARK}"),
    _pattern("GitHub token", r"(?<![\w-])(?:gh[pousr]_|github_pat_)\w{20,}"),
    _pattern("Binance user stream", r"(?<=/ws/)[A-Z0-9]{40,}"),
    _pattern("user and password in a URL", r"(?<=://)[^\s/?#\"'<>]{1,512}@", f"{MARK}@"),
)
"""Applied in this order."""


def redact(text: str) -> str:
    """`text` with every secret that can be told by its looks replaced by a mark. Idempotent."""
    for _, regex, replacement in PATTERNS:
        text = regex.sub(replacement, text)
    return text


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
        self._secrets = sorted(forms, key=lambda form: (-len(form), form))

    def text(self, text: str) -> str:
        """`text` without the known secrets and without what looks like one."""
        for secret in self._secrets:
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
