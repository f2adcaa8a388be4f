"""Stand-ins for how stakeholders are reached: a mail server and a webhook. Both keep what they get."""

import email
import socketserver
import threading
from email.message import Message
from typing import Self

from responder.lab.http import Answer, Request, StandIn


class Mailbox:
    """An SMTP server on loopback (RFC 5321, as far as a client needs it).

    `refuses` whom mail is for, or takes the next `cuts` mails and hangs up without saying so.
    """

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.refuses = False
        self.cuts = 0
        self._server = _Server(self)

    def __enter__(self) -> Self:
        serve = {"poll_interval": 0.02}
        threading.Thread(target=self._server.serve_forever, kwargs=serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """As Apprise takes it."""
        port = self._server.server_address[1]
        return f"mailto://127.0.0.1:{port}?from=incidents@example.com&to=sales@example.com&mode=insecure"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.mailbox = mailbox


class _Smtp(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One client's whole conversation."""
        mailbox = self.server.mailbox
        self._say("220 mail.example.com")
        while line := self.rfile.readline():
            match line.split()[0].upper():
                case b"DATA":
                    self._say("354 go on")
                    lines = []
                    while (text := self.rfile.readline()) not in (b".\r\n", b""):
                        lines.append(text)
                    mailbox.mails.append(email.message_from_bytes(b"".join(lines)))
                    if mailbox.cuts:
                        mailbox.cuts -= 1
                        return
                    self._say("250 taken")
                case b"RCPT" if mailbox.refuses:
                    self._say("550 nobody here by that name")
                case b"QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 fine")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Webhook(StandIn):
    """Takes every request; `refusal` is what a fault answers. What it took is in `taken`."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Request] = []

    def handle(self, request: Request) -> Answer:
        """Take it."""
        self.taken.append(request)
        return Answer(200, {})

    def refusal(self, status: int) -> Answer:
        """Only a status."""
        return Answer(status, {})
