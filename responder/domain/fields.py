"""Kinds of text that a profile is made of, each refused at the door when it cannot be meant."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field


def _plain_argument(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("an argument is not empty and holds no control characters")
    return text


def _http_url(url: str) -> str:
    if "@" in urlsplit(url).netloc:
        raise ValueError("a URL in a profile carries no user name or password; name a secret instead")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("not an http:// or https:// URL")
    if not url.isprintable() or " " in url:
        raise ValueError("a URL holds neither spaces nor control characters")
    return url


def _secret_name(name: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9_]{2,63}", name):
        raise ValueError(
            "this is the NAME of a secret in capitals, like VELOZ_SSH_KEY; the secret itself is given to "
            "`incident service add`"
        )
    return name


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


Argument = Annotated[str, AfterValidator(_plain_argument)]
Command = Annotated[tuple[Argument, ...], Field(min_length=1)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
SecretName = Annotated[str, AfterValidator(_secret_name)]
Pattern = Annotated[str, AfterValidator(_regex)]
