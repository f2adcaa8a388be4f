"""Stakeholders by Prefect's notification blocks: a real mail server, a real webhook."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from responder.domain.errors import OutcomeUnknownError, PermanentError, TransientError
from responder.lab.stakeholders import Mailbox, Webhook

TEXT = "INCIDENT: gateway <b>down</b>\nSeverity: P1\n\nNext update in: 15 minutes"


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as server:
        yield server


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        yield server


def saved_mail(mailbox: Mailbox) -> str:
    from blocks.notification import Notification

    name = f"mail-{uuid4().hex[:8]}"
    Notification(url=mailbox.url).save(name)
    return f"incident-notification/{name}"


def saved_hook(webhook: Webhook, timeout: float = 5) -> str:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    name = f"hook-{uuid4().hex[:8]}"
    CustomWebhookNotificationBlock(
        name="sales",
        url=f"{webhook.url}/hook/{{{{token}}}}",
        json_data={"title": "{{subject}}", "text": "{{body}}"},
        secrets={"token": "s3cret-address"},
        timeout=timeout,
    ).save(name)
    return f"custom-webhook/{name}"


def tell(reference: str) -> None:
    from blocks.notification import load_notification, notify

    notify(load_notification(reference), "INCIDENT: gateway down", TEXT, key="3f9a12cd")


def test_a_mail_arrives_as_plain_text_from_whoever_the_site_says(installation, mailbox):
    tell(saved_mail(mailbox))
    [mail] = mailbox.mails
    parts = {
        part.get_content_type(): part.get_payload(decode=True).decode()
        for part in mail.walk()
        if not part.is_multipart()
    }
    assert mail.get_all("Message-ID") == ["<3f9a12cd@127.0.0.1>"]
    assert "sales@example.com" in mail["To"]
    assert "incidents@example.com" in mail["From"]
    assert "INCIDENT: gateway down" in mail["Subject"]
    assert "<b>" not in parts.get("text/html", "")
    assert any("Severity: P1" in text for text in parts.values())


def test_a_mail_that_is_refused_is_tried_again(installation, mailbox):
    mailbox.refuses = True
    with pytest.raises(TransientError, match="could not notify"):
        tell(saved_mail(mailbox))


def test_a_webhook_gets_subject_and_text(installation, webhook):
    tell(saved_hook(webhook))
    [request] = webhook.requests
    assert request.path == "/hook/s3cret-address"
    assert request.headers["Idempotency-Key"] == '"3f9a12cd"'
    assert request.json == {"title": "INCIDENT: gateway down", "text": TEXT}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("500", TransientError),
        ("429", TransientError),
        ("404", PermanentError),
        ("refuse", OutcomeUnknownError),
        ("timeout", OutcomeUnknownError),
    ],
)
def test_what_goes_wrong_is_one_of_ours_and_never_names_the_secret_address(installation, webhook, kind, error):
    reference = saved_hook(webhook, timeout=0.3)
    webhook.fail(kind)
    with pytest.raises(error) as caught:
        tell(reference)
    assert "s3cret" not in str(caught.value)
    webhook.stop()
    with pytest.raises(TransientError, match="ConnectError"):
        tell(reference)


def test_a_block_that_is_not_saved_or_cannot_notify_is_named(installation):
    from prefect.blocks.system import Secret

    with pytest.raises(PermanentError, match="no block is saved as 'custom-webhook/never-saved'"):
        tell("custom-webhook/never-saved")
    name = f"secret-{uuid4().hex[:8]}"
    Secret(value="x").save(name)
    with pytest.raises(PermanentError, match="cannot notify anybody"):
        tell(f"secret/{name}")


def test_the_keeper_sends_a_notice_to_each_stakeholder_and_one_that_fails_holds_up_no_other(
    installation, mailbox, webhook, tmp_path
):
    from factories import open_incident, profile

    from responder.domain.base import now
    from responder.keeper.access import Access
    from responder.keeper.outbox import send
    from responder.store import Store

    mail, hook = saved_mail(mailbox), saved_hook(webhook)
    webhook.fail("500", times=None)
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    row = open_incident(store, profile(mode="live", stakeholders=[mail, hook]), run_id="run-1")
    for block in (hook, mail):
        body = {"block": block, "subject": "INCIDENT: gateway down", "text": TEXT}
        store.enqueue(row.id, channel=f"stakeholders/{block}", kind="notify", body=body)
    access = Access()
    for message in store.due_messages(now()):
        send(store, access, message)
    assert [message.state for message in store.messages(row.id)] == ["waiting", "sent"]
    assert len(mailbox.mails) == 1
    store.close()
