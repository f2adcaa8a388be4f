"""Stakeholders by Prefect's notification blocks: a real mail server, a real webhook."""

import email
import socketserver
import threading
from collections.abc import Iterator
from email.message import Message
from uuid import uuid4

import pytest

from responder.domain.errors import OutcomeUnknownError, PermanentError, TransientError
from responder.lab.http import Answer, Request, StandIn

TEXT = "INCIDENT: gateway <b>down</b>\nSeverity: P1\n\nNext update in: 15 minutes"


class Mailbox(socketserver.ThreadingTCPServer):
    """An SMTP server that keeps what it gets (RFC 5321, as far as a client needs it)."""

    daemon_threads = allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.mails: list[Message] = []
        self.refuses = False

    @property
    def url(self) -> str:
        port = self.server_address[1]
        return f"mailto://127.0.0.1:{port}?from=incidents@example.com&to=sales@example.com&mode=insecure"


class _Smtp(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._say("220 mail.example.com")
        while line := self.rfile.readline():
            match line.split()[0].upper():
                case b"DATA":
                    self._say("354 go on")
                    lines = []
                    while (text := self.rfile.readline()) not in (b".\r\n", b""):
                        lines.append(text)
                    self.server.mails.append(email.message_from_bytes(b"".join(lines)))
                    self._say("250 taken")
                case b"RCPT" if self.server.refuses:
                    self._say("550 nobody here by that name")
                case b"QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 fine")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Webhook(StandIn):
    """Takes every request; `refusal` is what a fault answers."""

    def handle(self, request: Request) -> Answer:
        return Answer(200, {})

    def refusal(self, status: int) -> Answer:
        return Answer(status, {})


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


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

    notify(load_notification(reference), "INCIDENT: gateway down", TEXT)


def test_a_mail_arrives_as_plain_text_from_whoever_the_site_says(installation, mailbox):
    tell(saved_mail(mailbox))
    [mail] = mailbox.mails
    parts = {
        part.get_content_type(): part.get_payload(decode=True).decode()
        for part in mail.walk()
        if not part.is_multipart()
    }
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
    from factories import profile

    from responder.domain.base import now
    from responder.domain.incident import Kind, Mode
    from responder.keeper.access import Access
    from responder.keeper.outbox import send
    from responder.store import Store

    mail, hook = saved_mail(mailbox), saved_hook(webhook)
    webhook.fail("500", times=None)
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    row = store.open_incident(
        run_id="run-1",
        profile=profile(mode="live", stakeholders=[mail, hook]),
        summary="gateway down",
        kind=Kind.AVAILABILITY,
        mode=Mode.LIVE,
        alerts=[],
        severity=None,
        declared=True,
    )
    for block in (hook, mail):
        body = {"block": block, "subject": "INCIDENT: gateway down", "text": TEXT}
        store.enqueue(row.id, channel=f"stakeholders/{block}", kind="notify", body=body)
    access = Access()
    for message in store.due_messages(now()):
        send(store, access, message)
    assert [message.state for message in store.messages(row.id)] == ["waiting", "sent"]
    assert len(mailbox.mails) == 1
    store.close()
