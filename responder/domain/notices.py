"""Notices, pages and notes: the plain texts that people are told; and how every template is filled.

Source: the document's "Communication Templates". Values are data: a template prints only what one of the
filters below has cleaned, bounded and escaped; anything else stops the rendering. Values are never read as
templates, and the templates run in a sandbox. A site may word them anew (`responder.domain.site_templates`).
"""

import functools
import logging
import math
import os
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from jinja2 import BaseLoader, FileSystemLoader, PackageLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.escaping import bound, clean, html, markdown, markdown_code, single_line, slack
from responder.domain.incident import Severity
from responder.domain.profile import Runbook
from responder.domain.redaction import redact

NOT_KNOWN = "not yet known"
VALUE_LIMIT = 500
CELL_LIMIT = 300
EXCERPT_LIMIT = 800
ESCALATION_LIMIT = 1_000
NOTE_LIMIT = 2_000
STATUSPAGE_LIMIT = 25_000
SLACK_SECTION_LIMIT, SLACK_BLOCKS = 3_000, 50
LINE_WIDTH = 60
_READ_LIMIT = 5_000  # characters of a value that are looked at: far more than any text shows
_COPIED_LIMIT = 300
_WRONG_LIMIT = 200


class Shown(str):
    """Text that has passed a filter; templates print nothing else."""


def plain(value: object, limit: int = VALUE_LIMIT) -> Shown:
    """One line of plain text without secrets, at most `limit` characters; nothing given is not yet known."""
    text = single_line(redact(clean("" if value is None else str(value)[:_READ_LIMIT])))
    return Shown(bound(text, limit) or NOT_KNOWN)


def inline(value: object, limit: int = VALUE_LIMIT) -> Shown:
    """The same, for a place inside Markdown."""
    return Shown(markdown(plain(value, limit)))


def issue(value: object, limit: int = VALUE_LIMIT) -> Shown:
    """The same for GitHub, which takes names after `@` and numbers after `#` for people and tickets."""
    # GitHub looks for them after Markdown has taken the escapes away: a word joiner keeps them apart.
    return Shown(re.sub(r"\\([@#])(?=\w)", lambda sign: f"&#{ord(sign[1])};&#8288;", inline(value, limit)))


def code(value: object, limit: int = EXCERPT_LIMIT) -> Shown:
    """A fenced block of Markdown that nothing inside can close."""
    return Shown(markdown_code(bound(redact(clean(str(value)[:_READ_LIMIT])), limit)))


def minute(at: datetime) -> Shown:
    """`YYYY-MM-DD HH:MM UTC`."""
    return Shown(f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC")


def day(at: date) -> Shown:
    """`YYYY-MM-DD`."""
    return Shown(f"{at:%Y-%m-%d}")


def duration(span: timedelta) -> Shown:
    """`X hours Y minutes`, a minute begun counting as one: never shorter than it was."""
    hours, minutes = divmod(max(0, math.ceil(span.total_seconds() / 60)), 60)
    return Shown(f"{_count(hours, 'hour')} {_count(minutes, 'minute')}")


def cadence(minutes: int) -> str:
    """Until the next update, in words: `15 minutes`, `2 hours`."""
    hours, rest = divmod(minutes, 60)
    return _count(hours, "hour") if hours and not rest else _count(minutes, "minute")


def table(rows: Sequence[Sequence[object]], header: Sequence[str], budget: int = 30_000) -> Shown:
    """A Markdown table of at most `budget` bytes of rows; those beyond are counted instead of printed.

    A cell that has passed no filter yet passes `inline`.
    """
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join('-' * (len(name) + 2) for name in header)}|"]
    printed = _within(budget, (f"| {' | '.join(_inlined(cell, CELL_LIMIT) for cell in row)} |" for row in rows))
    if left_out := len(rows) - len(printed):
        printed.append(f"| … {left_out} more, not shown here |{' |' * (len(header) - 1)}")
    return Shown("\n".join(lines + printed))


def bullets(items: Sequence[object], budget: int = 6_000) -> Shown:
    """A Markdown list of at most `budget` bytes, cut like a table. One line, one item."""
    printed = _within(budget, (f"- {_inlined(item, VALUE_LIMIT)}" for item in items))
    if left_out := len(items) - len(printed):
        printed.append(f"- … {left_out} more, not shown here")
    return Shown("\n".join(printed))


def _inlined(value: object, limit: int) -> Shown:
    return value if isinstance(value, Shown) else inline(value, limit)


def _within(budget: int, lines: Iterable[str]) -> list[str]:
    printed: list[str] = []
    for line in lines:
        budget -= len(line.encode()) + 1
        if budget < 0:
            break
        printed.append(line)
    return printed


def _checked(value: Any) -> Any:
    if not isinstance(value, Shown | int):
        raise TypeError(f"a value reaches a text without having passed a filter: {value!r:.80}")
    return value


def _environment(loader: BaseLoader) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=loader,
        undefined=StrictUndefined,
        finalize=_checked,
        trim_blocks=True,
        lstrip_blocks=True,
        # The texts are not HTML; each format has its own filter, and `finalize` refuses whatever had none.
        autoescape=False,
    )
    filters = (plain, inline, issue, code, minute, day, duration, table, bullets)
    environment.filters.update({function.__name__: function for function in filters})
    return environment


SITE_TEMPLATES = "INCIDENT_TEMPLATES"
"""Environment variable: a folder with a site's own templates, by the names of the shipped ones."""

_SHIPPED = _environment(PackageLoader("responder.domain", "templates"))
_site_environment = functools.cache(lambda folder: _environment(FileSystemLoader(folder)))
_checking: ContextVar[str] = ContextVar("_checking", default="")


def shipped_templates() -> list[str]:
    """The names of all templates, each of which a site may replace."""
    return _SHIPPED.list_templates()


@contextmanager
def checking(folder: str) -> Iterator[None]:
    """Within the block a site's templates in `folder` are used, and what is wrong with them is raised."""
    token = _checking.set(folder)
    try:
        yield
    finally:
        _checking.reset(token)


def render(template: str, **values: object) -> str:
    """The site's template, or else the package's, filled with `values`, without an end of line at its end.

    Whatever is wrong with a site's own is logged, and the package's is used: its wording must not keep people
    from being told. Raises TypeError when a value reaches the text without having passed a filter.
    """
    folder = _checking.get() or os.environ.get(SITE_TEMPLATES, "")
    if folder and Path(folder, template).is_file():
        try:
            return str(_site_environment(folder).get_template(template).render(**values)).strip("\n")
        except Exception:
            if _checking.get():
                raise
            logging.getLogger(__name__).exception("%s in %s cannot be used; ours is", template, folder)
    return _SHIPPED.get_template(template).render(**values).strip("\n")


class InitialNotice(Frozen):
    """The document's "Initial Notification". An impact of None is not yet known."""

    description: str
    severity: Severity
    at: UtcDatetime
    impact: str | None
    component: str
    next_update: str


class StatusUpdate(Frozen):
    """The document's "Status Update"."""

    description: str
    at: UtcDatetime
    status: Literal["Investigating", "Identified", "Mitigating", "Resolved"]
    update: str
    impact: str | None
    eta: str | None
    next_update: str
    verifying: bool = False
    """Something was done and is being checked. The document's template has no word for it, status pages have."""


class ResolutionNotice(Frozen):
    """The document's "Resolution Notification". Its last sentence follows the severity."""

    description: str
    at: UtcDatetime
    duration: timedelta
    summary: str
    impact: str | None
    root_cause: str | None
    severity: Severity

    @property
    def postmortem(self) -> str:
        """When the post-mortem is shared, or that there is none (document, phase 5)."""
        if self.severity is Severity.P4:
            return "No post-mortem will be held for this severity."
        within = "1 week" if self.severity is Severity.P3 else "48 hours"
        return f"Post-mortem will be shared within {within}."


Notice = InitialNotice | StatusUpdate | ResolutionNotice

_NOTICES: dict[type, str] = {
    InitialNotice: "initial_notice.txt.j2",
    StatusUpdate: "status_update.txt.j2",
    ResolutionNotice: "resolution_notice.txt.j2",
}


def render_notice(notice: Notice) -> str:
    """The notice as plain text, line by line as the document has it."""
    return render(_NOTICES[type(notice)], notice=notice)


# Slack knows no escape for its marks. Where one could open emphasis, code or a quotation, a sign that looks
# alike takes its place; `_` inside a word opens nothing there, so that names keep theirs.
_SLACK_MARKS = re.compile(r"[*~`]|(?<![^\W_])_|^>")
_LOOKALIKES = {"*": "∗", "~": "∼", "`": "ˋ", "_": "＿", ">": "›"}


def for_slack(text: str, *, exact: Collection[str] = ()) -> str:
    """`text` for Slack's `mrkdwn`, shown as it is: no mention, emphasis or code comes from a value.

    A line that is one of `exact` keeps every character, for people copy it: an address becomes a link,
    anything else a code block. Source: Slack, "Formatting text for app surfaces".
    """
    return "\n".join(_exact_line(line) if line in exact else _slack_line(line) for line in text.split("\n"))


def slack_blocks(text: str, *, exact: Collection[str] = ()) -> list[dict[str, Any]]:
    """`text` as Block Kit: the first line in bold, then a section for each paragraph, escaped as `for_slack` does.

    Source: Slack, "Reference: Layout blocks" (50 blocks, 3,000 characters of a section's text).
    """
    head, _, rest = text.partition("\n")
    paragraphs = [paragraph for paragraph in rest.split("\n\n") if paragraph.strip()]
    shown = [f"*{_section_text(head.strip(), exact)}*", *(_section_text(part, exact) for part in paragraphs)]
    return [{"type": "section", "text": {"type": "mrkdwn", "text": part}} for part in shown[:SLACK_BLOCKS]]


def _section_text(text: str, exact: Collection[str]) -> str:
    """Escaping may lengthen a text; one that grows beyond the limit is cut before, so that no escape is."""
    escaped = for_slack(text, exact=exact)
    most = SLACK_SECTION_LIMIT - len("**")
    return escaped if len(escaped) <= most else for_slack(bound(text, most // len("&amp;")))


def for_statuspage(text: str) -> str:
    """`text` for a post on a status page, which shows HTML: read as text there, and never too long for it.

    Source: Statuspage, "Create an incident".
    """
    return html(bound(text, STATUSPAGE_LIMIT // len("&amp;")))


def _slack_line(line: str) -> str:
    return slack(_SLACK_MARKS.sub(lambda mark: _LOOKALIKES[mark[0]], line))


def _exact_line(line: str) -> str:
    if re.fullmatch(r"https?://[^\s|<>]+", line):
        return f"<{slack(line)}>"
    return _slack_line(line) if "```" in line or not line else f"```\n{slack(line)}\n```"


class Escalation(Frozen):
    """What a person who is woken must know, on a telephone."""

    severity: Severity
    service: str
    what_is_wrong: str
    tried: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """What was not done, each with the reason."""
    next_command: str | None = None
    link: str
    runbooks: tuple[Runbook, ...] = ()

    @property
    def exact(self) -> tuple[str, ...]:
        """The lines that people copy or follow: command and addresses."""
        return tuple(filter(None, map(copied, (self.next_command, self.link, *(b.url for b in self.runbooks)))))


def render_escalation(page: Escalation) -> str:
    """The page as plain text: at most 1,000 characters in lines of about 60, the most important first.

    The next command stands alone on its line, whole or not at all: one that is cut or cleaned would be
    another command. What does not fit is left out from the end, and the text says so.
    """
    command, link = copied(page.next_command), copied(page.link)
    lines = _wrapped(f"{page.severity.value} {plain(page.service, 60)}: a person is needed")
    lines += _wrapped(plain(page.what_is_wrong, _WRONG_LIMIT))
    if command:
        lines += ["", "Next command:", command]
    elif page.next_command:
        lines += ["", "Next command: cannot be shown whole here, see the link"]
    lines += ["", link or "Link: see the incident's run"]

    tail = [*_section("Tried:", page.tried or ("nothing",)), *_section("Refused:", page.refused)]
    books = [line for book in page.runbooks if (url := copied(book.url)) for line in (plain(book.title, 50), url)]
    tail += ["", *books] if books else []
    return _fitting(lines, tail, ESCALATION_LIMIT)


def pagerduty_note(what: str, *, at: datetime, details: Sequence[str] = (), link: str | None = None) -> str:
    """A note on a page: when (UTC), what, details line by line, and the link; at most 2,000 characters.

    Source: the document's phase 1, "Note alert time and details".
    """
    head = [f"{minute(at)}: {plain(what)}", *([copied(link)] if link and copied(link) else [])]
    return _fitting(head, [f"- {plain(detail)}" for detail in details], NOTE_LIMIT)


def decisions_note(decided: Sequence[tuple[datetime, str]]) -> tuple[str, int]:
    """A note on a page of what was decided, in order, and how many of the decisions it holds: the rest needs more.

    At least one is held. Source: the document's "Capture decisions and rationale".
    """
    text, held = f"Decided on {day(decided[0][0])} (UTC):", 0
    for at, words in decided:
        line = f"- {at.astimezone(UTC):%H:%M:%S} {plain(words)}"
        if held and len(text) + 1 + len(line) > NOTE_LIMIT:
            break
        text, held = f"{text}\n{line}", held + 1
    return text, held


def copied(text: str | None) -> str:
    """`text` if a person can copy it from one line as it is, else nothing."""
    whole = text and len(text) <= _COPIED_LIMIT and text == redact(clean(text)).strip() and text.isprintable()
    return text if text and whole else ""


def _section(title: str, items: Sequence[str]) -> list[str]:
    return ["", title, *(line for item in items for line in _wrapped(f"- {plain(item, 200)}"))] if items else []


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)


def _fitting(head: list[str], tail: list[str], limit: int) -> str:
    more = "… and more: see the incident's run"
    text = "\n".join(head)
    for index, line in enumerate(tail):
        rest = len(more) + 1 if index < len(tail) - 1 else 0
        if len(text) + 1 + len(line) + rest > limit:
            return f"{text}\n{more}"
        text = f"{text}\n{line}"
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
