import re
import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from responder.domain.escaping import CUT, bound, clean, markdown, markdown_code, single_line, slack

PIECES = [
    *(
        "*",
        "**",
        "_",
        "`",
        "```",
        "~~~",
        "~~",
        "[a](http://x)",
        "![a](x)",
        "<b>",
        "</p>",
        "<!--",
        "&amp;",
        "&#60;",
    ),
    *(
        "# ",
        "- ",
        "+ ",
        "1. ",
        "1) ",
        "---",
        "===",
        "> ",
        "|",
        "| a | b |",
        "\n",
        "\n\n",
        "\t",
        "    ",
        "\\",
        "$x$",
    ),
    *("<!channel>", "<@U123>", "@here", "https://evil.example", "www.evil.example", "a@evil.example", "[x]: /y"),
    *(
        "\x1b[31m",
        "\x1b]0;title\x07",
        "\x1b]8;;http://x\x1b\\",
        "\x9b1m",
        "\x00",
        "\u202e",
        "\u200b",
        "\ud800",
        "word",
    ),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)
RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def leaves(tokens: list[Token]) -> list[Token]:
    return [leaf for token in tokens for leaf in ([token, *leaves(token.children)] if token.children else [token])]


@given(TEXTS)
@example("1. a")
@example("=")
@example("a | b")
@example("[x]: /y 'title'")
def test_hostile_text_is_only_text_in_markdown(text: str) -> None:
    tokens = leaves(RENDERER.parse(markdown(text)))
    assert {token.type for token in tokens} <= {"paragraph_open", "paragraph_close", "inline", "text"}
    shown = "".join(token.content for token in tokens if token.type == "text")
    assert shown == single_line(text)


@given(TEXTS)
def test_hostile_text_stays_in_its_cell_of_a_markdown_table(text: str) -> None:
    tokens = leaves(RENDERER.parse(f"| when | what |\n|---|---|\n| {markdown(text)} | end |\n"))
    types = [token.type for token in tokens]
    assert types.count("td_open") == 2
    assert not {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "code_inline"} & {
        *types
    }
    cells = [token for token, before in zip(tokens[1:], tokens, strict=False) if before.type == "td_open"]
    assert cells[1].content == "end"
    shown = "".join(child.content for child in cells[0].children or [])
    assert shown == single_line(text)


@given(TEXTS)
def test_hostile_text_cannot_leave_its_code_block(text: str) -> None:
    tokens = RENDERER.parse(f"before\n\n{markdown_code(text, 'text')}\n\nafter")
    assert [token.type for token in tokens] == [
        *("paragraph_open", "inline", "paragraph_close"),
        "fence",
        *("paragraph_open", "inline", "paragraph_close"),
    ]
    assert tokens[3].content.rstrip("\n") == clean(text).rstrip("\n")


@given(TEXTS)
def test_slack_sees_no_mention_link_or_channel_call(text: str) -> None:
    escaped = slack(text)
    assert "<" not in escaped
    assert ">" not in escaped
    assert not re.search("&(?!(?:amp|lt|gt);)", escaped)
    assert escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == clean(text)


def test_a_slack_mention_is_shown_as_it_was_written() -> None:
    assert slack("<!channel> & <@U1>") == "&lt;!channel&gt; &amp; &lt;@U1&gt;"


@given(TEXTS)
def test_cleaned_text_holds_nothing_invisible_and_can_be_encoded(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert not [
        c for c in cleaned if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" and c < "\uffff"
    ]
    assert clean(cleaned) == cleaned


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"], exclude_characters="ㅤᅟᅠﾠ"), max_size=40))
def test_visible_text_is_not_changed(text: str) -> None:
    assert clean(text) == text


def test_colours_titles_and_links_of_a_terminal_are_removed() -> None:
    text = "\x1b[1;31mred\x1b[0m \x1b]0;owned\x07title \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x1b(Bset"
    assert clean(text) == "red title link set"


def test_an_unfinished_terminal_sequence_hides_nothing_after_it() -> None:
    assert "disk full" in clean("\x1b]0;title\nERROR disk full")


def test_one_line_stays_one_line() -> None:
    assert single_line(" a\r\nb\u2028c\x0bd\x85e\t f ") == "a b c d e f"


def test_code_with_backticks_gets_a_longer_fence() -> None:
    assert markdown_code("a\n````\nb") == "`````\na\n````\nb\n`````"


def test_a_language_of_code_is_one_word() -> None:
    with pytest.raises(ValueError, match="language"):
        markdown_code("x", "sh\n```")


@given(st.text(), st.integers(min_value=len(CUT), max_value=50))
def test_bounded_text_keeps_to_its_limit_and_shows_the_cut(text: str, limit: int) -> None:
    bounded = bound(text, limit)
    assert len(bounded) <= limit
    assert bounded == text or (bounded.endswith(CUT) and text.startswith(bounded.removesuffix(CUT)))


def test_a_limit_without_room_for_the_mark_is_an_error() -> None:
    with pytest.raises(ValueError, match="no room"):
        bound("text", 2)


@pytest.mark.parametrize("piece", ["\x1b[", "\x1b]", "\x1b]a\n", "`", "www.", "1", "["])
def test_hostile_text_takes_linear_time(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    began = time.process_time()
    markdown(text)
    markdown_code(text)
    assert time.process_time() - began < 3
