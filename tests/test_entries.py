"""The store's timeline entries: in the words that people have for them, and at the time that they are about."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from responder.domain.attempt import AttemptState
from responder.domain.base import now
from responder.store import Store
from responder.store.entries import store_entries
from tests.factories import intend, open_incident, profile


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


def test_what_fresh_probes_say_of_an_attempt_stands_where_they_said_it(store: Store) -> None:
    row = open_incident(store, profile())
    epoch = store.begin_run(row.id, holder="here:1", lease_s=60)
    attempt = intend(store, row.id, epoch)
    begun = now()
    ended, checked = begun + timedelta(seconds=2), begun + timedelta(seconds=9)
    store.move_attempt(row.id, epoch, attempt.id, AttemptState.ACTED, acted_at=begun)
    store.move_attempt(row.id, epoch, attempt.id, AttemptState.ENDED, ended_at=ended, exit_status=1, reason="no")
    assert (ended, "ended: restart on gw-1: no") in _attempts(store, row.id)
    store.move_attempt(row.id, epoch, attempt.id, AttemptState.FAILED, checked_at=checked, reason="no; still dead")
    assert _attempts(store, row.id)[1:] == [
        (begun, "begun: restart on gw-1"),
        (ended, "ended with status 1: restart on gw-1"),
        (checked, "failed: restart on gw-1: no; still dead"),
    ]


def _attempts(store: Store, incident_id: str) -> list[tuple[datetime, str]]:
    return [(entry.at, entry.text) for entry in store_entries(store, incident_id) if entry.source == "attempt"]
