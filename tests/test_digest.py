"""Late messages as one: what goes together, and that nothing of it is lost or too much."""

from datetime import timedelta

import pytest
from factories import NOON

from responder.domain.digest import digest, together
from responder.domain.messages import next_to_send, tagged, tags_in
from responder.domain.notices import NOTE_LIMIT, SLACK_BLOCKS, slack_blocks


def post(text: str, channel: str | None = None, **more) -> tuple[str, dict]:
    return "post", {"text": text} | ({"channel": channel} if channel else {}) | more


def test_only_the_same_kind_for_the_same_destination_goes_together():
    assert together([post("a"), post("b"), post("c", "#other"), post("d")]) == 2
    assert together([post("a"), ("archive", {}), post("b")]) == 1
    for kind in ("page", "escalate", "open", "resolve", "create_channel", "ticket"):
        assert together([(kind, {"text": "a"}), (kind, {"text": "a"})]) == 1


def test_a_digest_is_never_more_than_its_channel_takes():
    many = [post(f"{n}", blocks=slack_blocks("head\n\none\n\ntwo")) for n in range(40)]
    count = together(many)
    body = digest("post", [(NOON, body) for _, body in many[:count]])
    assert SLACK_BLOCKS - 4 <= len(body["blocks"]) <= SLACK_BLOCKS
    notes = [("note", {"text": "x" * 150})] * 40
    count = together(notes)
    assert 5 < count < 40
    whole = digest("note", [(NOON, body) for _, body in notes[:count]])["text"]
    assert len(whole) <= NOTE_LIMIT
    assert whole.count("x" * 150) == count
    assert together([("note", {"text": "x" * 5_000}), ("note", {"text": "y"})]) == 1, "a long one goes alone"


def test_a_single_message_stays_as_it_is():
    body = {"text": "a", "blocks": [{"type": "divider"}]}
    assert digest("post", [(NOON, body)]) is body


def test_a_notice_by_mail_says_in_its_subject_how_many_there_are_and_the_last():
    held = [(NOON + timedelta(minutes=n), {"block": "b", "subject": f"s{n}", "text": f"t{n}"}) for n in range(2)]
    body = digest("notify", held)
    assert (body["block"], body["subject"]) == ("b", "2 messages that could not be told before: s1")
    assert body["text"].endswith("2026-03-04 12:00:00 UTC:\nt0\n\n2026-03-04 12:01:00 UTC:\nt1")


@pytest.mark.parametrize(
    ("kinds", "first"),
    [
        (["note", "escalate"], (0, 1)),
        (["note", "note", "page", "page"], (0, 2)),
        (["escalate", "page"], (0,)),
        (["find", "open", "page"], (0,)),
        (["note", "resolve", "escalate"], (0,)),
        (["assign", "escalate"], (0,)),
        (["create_channel", "post", "escalate"], (0, 2)),
        (["note"], (0,)),
    ],
)
def test_a_page_overtakes_only_what_cannot_change_whom_it_reaches(kinds, first):
    assert next_to_send(kinds) == first


def test_tags_are_found_at_the_end_alone():
    text = tagged("restart [deadbeef] holds", ["0000aaaa", "0000bbbb"])
    assert tags_in([text, "a person's note [x]", f"{text}\n"]) == {"0000aaaa", "0000bbbb"}
