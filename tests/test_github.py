from collections.abc import Iterator
from datetime import timedelta

import pytest
from pydantic import ValidationError

from blocks.github import GitHub
from responder.domain.base import now
from responder.domain.errors import OutcomeUnknownError, PermanentError, TransientError
from responder.lab.github import GitHubStandIn

MARK = "<!-- incident-responder finding shop/crash/prevention -->"


@pytest.fixture
def vendor() -> Iterator[GitHubStandIn]:
    with GitHubStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def block(vendor: GitHubStandIn) -> GitHub:
    return GitHub(**vendor.settings(), timeout_s=5)


def open_ticket(block: GitHub, mark: str = MARK) -> None:
    block.create("shop: prevent it", f"Prevent it.\n\n{mark}", labels=["incident"], assignees=["lab-oncall"])


def test_a_ticket_is_opened_with_labels_and_owner_and_found_by_its_mark(vendor, block):
    open_ticket(block)
    [issue] = vendor.issues
    assert (issue.title, issue.labels, issue.assignees) == ("shop: prevent it", ["incident"], ["lab-oncall"])
    found = block.find(MARK)
    assert (found.number, found.body, found.url) == (1, issue.body, "https://github.com/lab/tickets/issues/1")
    assert block.find(MARK.replace("crash", "hang")) is None


def test_a_ticket_that_was_closed_is_not_found(vendor, block):
    open_ticket(block)
    vendor.close(1)
    assert block.find(MARK) is None
    assert block.find(MARK, "Prevent it.", closed=True).number == 1
    assert block.find(MARK, "another incident", closed=True) is None
    for number in range(120):
        vendor.add_issue(f"something else {number}")
    assert block.find(MARK, closed=True).number == 1, "found by the search"


def test_a_new_ticket_is_found_before_the_search_knows_it_and_an_old_one_by_the_search(vendor, block):
    vendor.indexed = False
    open_ticket(block)
    assert block.find(MARK).number == 1
    vendor.indexed = True
    open_ticket(block, "<!-- incident-responder finding shop/hang/prevention -->")
    for number in range(120):
        vendor.add_issue(f"something else {number}")
    assert block.find("<!-- incident-responder finding shop/hang/prevention -->").number == 2


def test_words_that_are_alike_are_not_the_mark(vendor, block):
    vendor.add_issue("by hand", "finding: incident-responder, shop, crash and prevention")
    assert block.find(MARK) is None


def test_comments_since_a_moment_are_read_back(vendor, block):
    open_ticket(block)
    block.comment(1, "Seen again.")
    assert block.comments(1, since=now() - timedelta(seconds=5)) == ["Seen again."]
    assert block.comments(1, since=now() + timedelta(seconds=5)) == []


@pytest.mark.parametrize("kind", ["cut", "malformed"])
def test_what_was_opened_before_its_answer_was_lost_is_found_again(vendor, block, kind):
    vendor.fail(kind)
    with pytest.raises(OutcomeUnknownError):
        open_ticket(block)
    assert block.find(MARK).number == 1


@pytest.mark.parametrize("kind", ["timeout", "cut", "malformed", "500"])
def test_a_read_that_fails_is_transient(vendor, kind):
    block = GitHub(**vendor.settings(), timeout_s=0.2)
    open_ticket(block)
    vendor.fail(kind, times=None)
    with pytest.raises(TransientError):
        block.find(MARK)
    with pytest.raises(TransientError):
        block.comments(1, since=now())


@pytest.mark.parametrize(("kind", "wait"), [("429", 7.0), ("429-bare", None), ("500", None), ("409", None)])
def test_a_limit_and_an_outage_are_transient_with_the_wait_asked_for(vendor, block, kind, wait):
    vendor.retry_after_s = 7
    vendor.fail(kind)
    with pytest.raises(TransientError) as caught:
        open_ticket(block)
    assert caught.value.retry_after_s == wait
    assert vendor.issues == []


def test_a_refusal_is_permanent_and_carries_the_vendors_words_but_not_the_token(vendor, block):
    with pytest.raises(PermanentError, match="422 Validation Failed"):
        block.create("t", "x", labels=[], assignees=["nobody-here"])
    wrong = GitHub(**vendor.settings() | {"token": "t0ps3cret"})
    with pytest.raises(PermanentError, match="401 Bad credentials") as caught:
        wrong.find(MARK)
    assert "t0ps3cret" not in str(caught.value)


def test_check_names_what_is_wrong(vendor, block):
    assert block.check() == []
    assert "404" in GitHub(**vendor.settings() | {"repository": "lab/absent"}).check()[0]
    vendor.stop()
    assert "ConnectError" in block.check()[0]


def test_the_token_is_never_sent_in_clear_over_a_network():
    with pytest.raises(ValidationError, match="https"):
        GitHub(token="t", repository="lab/tickets", base_url="http://api.github.com")
