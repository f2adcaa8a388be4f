"""Text from outside made harmless for where it is shown: it is read as text there, and nothing else.

Bound first, then escape: a cut through an escape would undo it.
"""

import re

CUT = "… [cut]"

# ECMA-48: control sequences (colours, cursor), operating-system commands (titles, links), short escapes.
# One without its end is not removed as a whole: it could hide the lines after it.
_TERMINAL = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    "|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c\n]{0,4096}(?:\x07|\x1b\\\\|\x9c)"
    "|\x1b[ -/]{0,8}[0-Z\\\\^-~]"
)
_LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Controls; characters without width; those that turn the direction of writing; tags.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>&|#!~@$]|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
# What makes a line a list item, a rule or a heading's underline when it stands first.
_MARKDOWN_START = re.compile(r"^(\d{0,9})([-+=.)])")
_BACKTICKS = re.compile("`+")


def clean(text: str) -> str:
    """`text` as a person sees it: without terminal sequences, controls and invisible characters.

    Keeps line feeds and tabs; other line breaks become line feeds, halves of characters a replacement mark.
    """
    text = _LINE_BREAKS.sub("\n", _TERMINAL.sub("", text))
    return _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", text))


def single_line(text: str) -> str:
    """`text` cleaned, on one line, with single spaces."""
    return " ".join(clean(text).split())


def bound(text: str, limit: int, marker: str = CUT) -> str:
    """`text` in at most `limit` characters; what was cut is marked. Raises ValueError below the mark's length."""
    if limit < len(marker):
        raise ValueError(f"a limit of {limit} leaves no room for {marker!r}")
    return text if len(text) <= limit else text[: limit - len(marker)] + marker


def markdown(text: str) -> str:
    """`text` on one line for the middle of Markdown (CommonMark and GitHub's tables): no markup, link or HTML."""
    escaped = _MARKDOWN.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), single_line(text))
    return _MARKDOWN_START.sub(r"\1\\\2", escaped)


def markdown_code(text: str, language: str = "") -> str:
    """`text` cleaned, as a fenced code block that nothing in it can close.

    Raises ValueError for a language that is more than one word.
    """
    if language and not re.fullmatch(r"[A-Za-z0-9_+-]{1,30}", language):
        raise ValueError(f"not a language: {language!r}")
    text = clean(text).removesuffix("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def slack(text: str) -> str:
    """`text` cleaned for Slack's mrkdwn: no mention, no channel call, no disguised link.

    Source: api.slack.com/reference/surfaces/formatting, "Escaping text".
    """
    return re.sub("[&<>]", lambda found: _HTML[found[0]], clean(text))


def html(text: str) -> str:
    """`text` cleaned for HTML: no element, no entity of its own."""
    return slack(text)  # the same three signs
