"""The store's timeline entries: every message is named by what it is to people."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from responder.store import Store
from responder.store.entries import store_entries
from tests.factories import open_incident, profile


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/incidents.db")
    opened.migrate()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("channel", "kind", "key", "words"),
    [
        ("pagerduty", "find", "find", "PagerDuty, find and acknowledge the alert's page"),
        ("pagerduty", "note", "note-diagnosis", "PagerDuty, note on the page"),
        ("slack", "post", "initial", "Slack, initial notice"),
        ("slack", "post", "update-mitigate-restart-gw-1", "Slack, status update"),
        ("slack-stakeholders", "post", "resolution", "Slack (stakeholders), resolution notice"),
        ("slack-backup", "post", "backup-escalate", "Slack (backup), tell the backup contact"),
        (
            "stakeholders/custom-webhook/ops",
            "notify",
            "initial",
            "Stakeholders (custom-webhook/ops), initial notice",
        ),
        ("statuspage", "publish", "update-diagnosis", "Statuspage, status update"),
        ("tickets", "ticket", "ticket-prevention", "Tickets, ticket for what is left to do"),
        ("slack", "post", None, "Slack, post"),
        ("fax", "new_kind", "other", "fax, new kind"),
    ],
)
def test_a_message_is_named_by_what_it_is_to_people(
    store: Store, channel: str, kind: str, key: str | None, words: str
) -> None:
    row = open_incident(store, profile())
    store.enqueue(row.id, channel=channel, kind=kind, body={}, key=key)
    texts = [entry.text for entry in store_entries(store, row.id) if entry.source == "message"]
    assert texts == [f"{words}: waiting"]
