"""SSH to one host at a time, directly or through a jump host: bounded reads on a shared connection, changes on
connections of their own.

Paramiko's exceptions become ours here and nowhere else. When connecting fails (`TransientError`,
`PermanentError`, `HostKeyError`) nothing was sent. A connection lost later is a `TransientError` for a
read, which is harmless, and an `OutcomeUnknownError` for a change.
"""

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import paramiko
from prefect.blocks.core import Block
from pydantic import Field, PrivateAttr, SecretStr

from blocks.ssh_keys import CHANGED, LOGIN, Agent, check_host_key, known_keys, private_key, shown, signature_types
from responder.domain import shell
from responder.domain.commands import ChangeState, CommandResult, Fence, decode
from responder.domain.errors import (
    HostKeyError,
    IncidentResponseError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from responder.domain.profile import JumpHost
from responder.domain.redaction import clipped

_WINDOW = 2 * 1024 * 1024
"""Bytes a host may send ahead of us: no round trips inside a usual answer, and a bound on what piles up."""

_TICK_S = 0.02
"""How long a quiet stdout is waited for before stderr and the exit status are looked at; data wakes at once."""

_GRACE_S = 0.5
"""How long the output may be quiet after the exit status while something else holds the pipe open."""

_SESSION_REFUSED_S = 2.0
"""How long to ask again when the server still counts the last command (sshd_config(5), MaxSessions)."""

_SAID_CHARACTERS = 120
"""How much is repeated of what a host said instead of an answer."""

_PROHIBITED, _UNKNOWN_CHANNEL = 1, 3
"""Why a channel was not opened: administratively prohibited, unknown channel type (RFC 4254, 5.1)."""

# Cheapest first where both sides have it: the key exchange is most of what a connection costs.
_KEX = ("curve25519-sha256@libssh.org",)
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")

_LOST = (paramiko.SSHException, EOFError, OSError)

# Transport threads log tracebacks of what we raise anyway, and without a handler Python prints them. Only our
# transports log here; add a handler to look.
_TRANSPORT_LOG = logging.getLogger("paramiko.transport.incident")
_TRANSPORT_LOG.addHandler(logging.NullHandler())
_TRANSPORT_LOG.propagate = False


class _PromptSocket(socket.socket):
    """Acknowledges at once where the kernel can (tcp(7), TCP_QUICKACK).

    Under Nagle's algorithm sshd keeps its answer to a connection's first request until we have acknowledged
    what it sent before, and by default that takes us 40 ms: twice as long as all the rest.
    """

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):  # closed meanwhile: the next recv says so
                self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


class _Forwarded:
    """A channel as a transport's socket: closing it after all else was lost is no error, as with a socket."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def close(self) -> None:
        with contextlib.suppress(*_LOST):
            self._channel.close()


class _SharedJump:
    """The connection to the jump host, shared by all that go through it, and made anew when it has died.

    It ends when nobody holds this any more: neither the credentials nor a connection through it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: Future[paramiko.Transport] | None = None

    @property
    def is_up(self) -> bool:
        """Whether the connection stands."""
        made = self._made
        return bool(made and made.done() and not made.exception() and made.result().is_active())

    def transport(self, make: Callable[[], paramiko.Transport], wait_s: float) -> paramiko.Transport:
        """The connection that stands, else what `make` makes: once, however many ask at the same time.

        Raises what `make` raised, TimeoutError when somebody else's call of it takes longer than `wait_s`.
        """
        with self._lock:
            made = self._made
            if mine := made is None or (made.done() and not self.is_up):
                made = self._made = Future()
        if mine:
            try:
                made.set_result(make())
            except BaseException as error:
                made.set_exception(error)
                raise
        return made.result(max(0.0, wait_s))

    def __del__(self) -> None:
        if self._made and self.is_up:
            # Its thread then ends by itself. Closing would wait for it, here in the middle of anything.
            with contextlib.suppress(OSError):
                self._made.result().sock.shutdown(socket.SHUT_RDWR)


class SSHConnection:
    """An authenticated connection to one host, for reads; a context manager. Made by `SSHCredentials.connect`."""

    def __init__(
        self, transport: paramiko.Transport, where: str, output_cap_bytes: int, jump: _SharedJump | None = None
    ) -> None:
        self._transport = transport
        self._where = where
        self._output_cap_bytes = output_cap_bytes
        self._jump = jump

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and whatever still reads over it."""
        self._transport.close()

    def read(
        self, command: Sequence[str] | str, *, deadline_s: float = 10.0, cap_bytes: int | None = None
    ) -> CommandResult:
        """Run a command that changes nothing; it is ended at `deadline_s` (seconds) here and on the host.

        A string is shell text, a list one program with its arguments. Past `cap_bytes` (both streams
        together, default the block's) reading stops and the result is marked. Without an end in time the
        result has `timed_out` and no exit status. A command whose child keeps the output open has ended
        once its status is here and the output is quiet.

        Raises TransientError when the connection is lost, no command is accepted or none begins in time,
        PermanentError when the host runs something else than it is sent, ValueError for an unusable command or
        deadline.
        """
        shown = command if isinstance(command, str) else shell.quote(command)
        mark = secrets.token_hex(16)
        try:
            return self._run(shell.bounded_read(command, deadline_s, mark), shown, deadline_s, cap_bytes, mark)
        except OutcomeUnknownError as error:
            raise TransientError(str(error)) from error

    def read_all(self, commands: Sequence[Sequence[str]], *, deadline_s: float = 10.0) -> list[CommandResult]:
        """As `read` for each of `commands`, one after the other in one session: starting one costs the host most.

        `deadline_s` (seconds) is for each. They share the block's output cap: what does not fit is read again,
        by itself. `took_s` is that of all together. Raises as `read`.
        """
        shown = [shell.quote(command) for command in commands]
        mark = secrets.token_hex(16)
        try:
            script = shell.bounded_reads(commands, deadline_s, mark)
            answer = self._run(script, "; ".join(shown), deadline_s * len(commands) + 1, mark=mark)
        except OutcomeUnknownError as error:
            raise TransientError(str(error)) from error
        seen = shell.parse_reads(answer.stdout, answer.stderr, mark)
        if answer.truncated:
            seen = seen[:-1]  # where it was cut, perhaps in the middle of a status
        results = [
            CommandResult(
                command=command,
                exit_status=None if status in shell.ENDED else status,
                stdout=stdout,
                stderr=stderr,
                truncated=False,
                timed_out=status in shell.ENDED,
                took_s=answer.took_s,
            )
            for command, (status, stdout, stderr) in zip(shown, seen, strict=False)
        ]
        unseen = commands[len(results) :]
        if not answer.timed_out:
            return results + [self.read(command, deadline_s=deadline_s) for command in unseen]
        lost = answer.model_copy(update={"stdout": "", "stderr": ""})
        return results + [lost.model_copy(update={"command": shell.quote(command)}) for command in unseen]

    def _run(
        self, script: str, shown: str, deadline_s: float, cap_bytes: int | None = None, mark: str = ""
    ) -> CommandResult:
        """Run shell text. TransientError: it was not sent. OutcomeUnknownError: it was, and then all was lost.

        With a `mark` it is a read that begins with it: raises as `read` when that does not come.
        """
        started = time.monotonic()
        deadline = started + deadline_s
        cap = self._output_cap_bytes if cap_bytes is None else cap_bytes
        room = cap + (2 * len(f"{mark}\n") if mark else 0)
        out, err = bytearray(), bytearray()
        status: int | None = None
        request = script.encode()
        channel = self._open_session(deadline)
        try:
            with self._closed_at(deadline):
                channel.exec_command(request)
            if _drain(channel, out, err, room, deadline):
                status = self._exit_status(channel, deadline)
        except TimeoutError:
            status = None  # the result says timed_out
        except _LOST as error:
            raise OutcomeUnknownError(f"{self._where}: {self._lost} during `{shown}`") from error
        finally:
            with contextlib.suppress(*_LOST):
                channel.close()
        took_s = time.monotonic() - started
        # The host's own timer began after ours: a status that comes now may be the timer's.
        timed_out = took_s >= deadline_s
        truncated = len(out) + len(err) > room
        printed, complained = bytes(out), bytes(err)
        began = not mark or shell.begun(printed, mark) is not None
        if mark and began:
            printed, complained = (shell.begun(stream, mark) or b"" for stream in (printed, complained))
        answer = CommandResult(
            command=shown,
            exit_status=None if timed_out else status,
            stdout=decode(printed[:cap]) + (f"\n[output cut at {cap} bytes]\n" if truncated else ""),
            stderr=decode(complained[: max(0, cap - len(printed))]),
            truncated=truncated,
            timed_out=timed_out,
            took_s=took_s,
        )
        if not began:
            raise self._not_begun(answer, deadline_s)
        return answer

    def _not_begun(self, answer: CommandResult, deadline_s: float) -> IncidentResponseError:
        """What to say of a read that never began: the host was silent, or answered something of its own."""
        said = answer.stdout or answer.stderr
        what = f"it answered {clipped(said, _SAID_CHARACTERS)!r}" if said else "it said nothing"
        if answer.timed_out:
            return TransientError(
                f"{self._where} accepts the login and did not begin `{answer.command}` within {deadline_s:g} s: "
                f"{what}. Check that it is not overloaded, and that no login script or forced command hangs"
            )
        status = "no exit status" if answer.exit_status is None else f"exit status {answer.exit_status}"
        return PermanentError(
            f"{self._where} does not run what it is sent: {what} with {status} to `{answer.command}`. Check that "
            "the user has a shell there, and no forced command (ForceCommand; `command=` in authorized_keys)",
            page=LOGIN,
        )

    def _open_session(self, deadline: float) -> paramiko.Channel:
        """A session for one command; asks again for a moment where the last one still counts."""
        give_up = min(deadline, time.monotonic() + _SESSION_REFUSED_S)
        pause_s = 0.005
        while True:
            try:
                return self._transport.open_session(_WINDOW, timeout=max(0.0, deadline - time.monotonic()))
            except paramiko.ChannelException as error:
                if time.monotonic() + pause_s > give_up:
                    raise TransientError(
                        f"{self._where} refuses another session on this connection; nothing was sent"
                    ) from error
                time.sleep(pause_s)
                pause_s *= 2
            except _LOST as error:
                what = "it does not answer any more" if self._transport.is_active() else self._lost
                raise TransientError(f"{self._where}: {what}; nothing was sent") from error

    @property
    def _lost(self) -> str:
        hop = "its jump host" if self._jump and not self._jump.is_up else "it"
        return f"the connection to {hop} was lost"

    @contextlib.contextmanager
    def _closed_at(self, deadline: float) -> Iterator[None]:
        """Close the connection when the body is not done at the deadline, which then raises TimeoutError.

        Paramiko waits for the answer to an exec request for ever (`Channel.exec_command` has no time-out).
        """
        watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), self._transport.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except _LOST:
            if time.monotonic() < deadline:
                raise
            raise TimeoutError from None
        finally:
            watchdog.cancel()

    def _exit_status(self, channel: paramiko.Channel, deadline: float) -> int | None:
        """The status once the output has ended; TimeoutError, or EOFError when the connection was lost instead."""
        if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        if channel.exit_status < 0 or (channel.closed and not channel.eof_received):
            # A dying transport closes its channels first and says so itself a moment later.
            self._transport.join(0.1)
            if not self._transport.is_active():
                raise EOFError
        return channel.exit_status


class SSHCredentials(Block):
    """Who we are on the hosts, how they are reached, and which host keys we trust.

    No password, nothing from ~/.ssh; an unknown or changed host key is refused, always and at every hop.
    """

    _block_type_name = "SSH credentials"
    _block_type_slug = "ssh-credentials"

    user: str = Field(description="Login name on the hosts.")
    private_key: SecretStr | None = Field(
        default=None, description="The private key's text, beginning with '-----BEGIN'; Ed25519, ECDSA or RSA."
    )
    passphrase: SecretStr | None = Field(default=None, description="The private key's passphrase, if it has one.")
    agent: bool = Field(
        default=False, description="Instead of a private key: the keys of the agent that SSH_AUTH_SOCK names."
    )
    jump: JumpHost | None = Field(default=None, description="The host through which all others are reached.")
    known_hosts: str = Field(
        description="Host keys to trust, as lines of OpenSSH's known_hosts (hashed names and [host]:port too). "
        "`ssh-keyscan HOST` prints them; compare the fingerprints before you paste."
    )
    connect_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds for the whole of connecting: TCP, key exchange and login, of the jump host too.",
    )
    keepalive_s: int = Field(
        default=5, ge=0, description="Seconds of silence after which a keepalive is sent; 0 for none."
    )
    output_cap_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        description="Bytes of output kept of one command; the rest is cut and marked.",
    )

    _jump: _SharedJump = PrivateAttr(default_factory=_SharedJump)

    def connect(self, name: str, address: str, port: int = 22) -> SSHConnection:
        """Connect and log in within `connect_timeout_s`; `name` is what messages call the host.

        A host key is looked up under the address, then under the name.

        Raises HostKeyError for an unknown, changed or revoked host key, PermanentError for a key or an agent
        that cannot be used or is not accepted and for a jump host that does not forward, TransientError when
        a host cannot be reached, answers something else than SSH, or is too slow. Each names its hop.
        """
        deadline = time.monotonic() + self.connect_timeout_s
        where = f"{name} ({address}:{port})"
        if self.jump is None:
            transport = self._establish(where, name, address, port, self.user, deadline)
            return SSHConnection(transport, where, self.output_cap_bytes)
        through = self._reach_jump(deadline)
        where = f"{name} ({address}:{port}, through {_jump_name(self.jump)})"
        transport = self._establish(where, name, address, port, self.user, deadline, through)
        return SSHConnection(transport, where, self.output_cap_bytes, self._jump)

    def reach_jump_host(self) -> None:
        """Connect to the jump host, unless there is none or it is connected. Raises what `connect` raises."""
        if self.jump:
            self._reach_jump(time.monotonic() + self.connect_timeout_s)

    def start_change(
        self,
        name: str,
        address: str,
        port: int,
        attempt_id: str,
        argv: Sequence[str],
        *,
        deadline_s: float = 15.0,
        root: str = shell.ROOT,
    ) -> Fence:
        """Fence the attempt and, only when we win, start `argv` detached, over a connection of its own.

        `deadline_s` (seconds) bounds waiting for the answer after connecting; it never ends the change.

        Raises what `connect` raises when nothing was sent, OutcomeUnknownError when the answer was lost
        (`poll_change` tells), ValueError for a bad attempt id, root or argument list.
        """
        script = shell.fence_and_start(attempt_id, argv, root=root)
        return self._fence(name, address, port, script, f"start {attempt_id}", deadline_s)

    def bar_change(
        self,
        name: str,
        address: str,
        port: int,
        attempt_id: str,
        *,
        deadline_s: float = 15.0,
        root: str = shell.ROOT,
    ) -> Fence:
        """Fence the attempt and start nothing: after `won` it never ran and never will.

        Raises as `start_change`; asking again after an OutcomeUnknownError is harmless.
        """
        script = shell.bar(attempt_id, root=root)
        return self._fence(name, address, port, script, f"bar {attempt_id}", deadline_s)

    def poll_change(
        self,
        name: str,
        address: str,
        port: int,
        attempt_id: str,
        *,
        deadline_s: float = 15.0,
        root: str = shell.ROOT,
        tail_bytes: int = 64 * 1024,
    ) -> ChangeState:
        """What became of the attempt, with the last `tail_bytes` of its output, over a connection of its own.

        Raises what `connect` and `SSHConnection.read` raise (asking changes nothing), OutcomeUnknownError when
        the host answers but cannot say.
        """
        script = shell.poll(attempt_id, root=root, tail_bytes=tail_bytes)
        with self.connect(name, address, port) as connection:
            # Twice the tail: what a login prints around the answer must not cost the answer.
            answer = connection.read(script, deadline_s=deadline_s, cap_bytes=2 * tail_bytes + 4096)
        if answer.exit_status is None:
            raise TransientError(f"{name} ({address}:{port}): no whole answer about {attempt_id}; ask again")
        with _told_by(f"{name} ({address}:{port})"):
            return shell.parse_change(answer.stdout)

    def _fence(self, name: str, address: str, port: int, script: str, shown: str, deadline_s: float) -> Fence:
        with self.connect(name, address, port) as connection:
            answer = connection._run(script, shown, deadline_s)
        where = f"{name} ({address}:{port})"
        # Without a status even a plausible answer may have been cut short.
        if answer.exit_status is None:
            how = f"not answered within {deadline_s:g} s" if answer.timed_out else "its answer is not whole"
            raise OutcomeUnknownError(f"{where}: `{shown}` was sent and {how}; poll the attempt before acting")
        with _told_by(where):
            return shell.parse_fence(answer.stdout)

    def _reach_jump(self, deadline: float) -> paramiko.Transport:
        assert self.jump
        where, address, port = _jump_name(self.jump), self.jump.address, self.jump.port
        user = self.jump.user or self.user
        try:
            return self._jump.transport(
                lambda: self._establish(where, address, address, port, user, deadline), deadline - time.monotonic()
            )
        except TimeoutError as error:
            raise TransientError(f"{where} was not connected within {self.connect_timeout_s:g} s") from error

    def _establish(
        self,
        where: str,
        name: str,
        address: str,
        port: int,
        user: str,
        deadline: float,
        through: paramiko.Transport | None = None,
    ) -> paramiko.Transport:
        """A connection that is logged in, directly or through a jump host's; its host key has been checked."""
        known, revoked = known_keys(self.known_hosts, name, address, port)
        with self._keys(deadline) as keys:
            if through:
                sock: Any = _Forwarded(self._forward(through, where, address, port, deadline))
            else:
                sock = self._dial(where, address, port, deadline)
            transport = paramiko.Transport(sock)
            try:
                self._exchange_keys(transport, where, known, deadline)
                check_host_key(transport.get_remote_server_key(), known, revoked, where)
                self._log_in(transport, where, user, keys, deadline)
            except BaseException:
                transport.close()
                sock.close()
                raise
        transport.set_keepalive(self.keepalive_s)
        return transport

    @contextlib.contextmanager
    def _keys(self, deadline: float) -> Iterator[Sequence[paramiko.PKey]]:
        """The keys to log in with; an agent's can be used until the end."""
        if self.agent == (self.private_key is not None):
            raise PermanentError(
                "the SSH credentials need either a private key or `agent`, and not both", page=LOGIN
            )
        if self.private_key is not None:
            passphrase = self.passphrase and self.passphrase.get_secret_value()
            yield [private_key(self.private_key.get_secret_value(), passphrase)]
        else:
            with Agent(deadline - time.monotonic()) as agent:
                yield agent.get_keys()

    def _forward(
        self, through: paramiko.Transport, where: str, address: str, port: int, deadline: float
    ) -> paramiko.Channel:
        """A channel that the jump host connects to the host (RFC 4254, 7.2)."""
        assert self.jump
        jump = _jump_name(self.jump)
        try:
            return through.open_channel(
                "direct-tcpip",
                (address, port),
                ("127.0.0.1", 0),
                window_size=_WINDOW,
                timeout=max(0.0, deadline - time.monotonic()),
            )
        except paramiko.ChannelException as error:
            if error.code in (_PROHIBITED, _UNKNOWN_CHANNEL):
                raise PermanentError(
                    f"{jump} does not forward to {address}:{port}: {error.text}. Check AllowTcpForwarding and "
                    "PermitOpen in its sshd_config"
                ) from error
            raise TransientError(
                f"{where} cannot be reached from the jump host: {error.text}. Check that it is up, that address "
                "and port are right as seen from there, and that a firewall lets the jump host in"
            ) from error
        except _LOST as error:
            if not through.is_active():
                raise TransientError(f"{jump} closed the connection; nothing was sent to {where}") from error
            raise TransientError(
                f"{where} was not connected by the jump host within {self.connect_timeout_s:g} s"
            ) from error

    def _dial(self, where: str, address: str, port: int, deadline: float) -> socket.socket:
        try:
            plain = socket.create_connection((address, port), max(0.001, deadline - time.monotonic()))
        except OSError as error:
            raise TransientError(
                f"{where} cannot be reached: {error.strerror or error}. Check that it is up, that address and "
                "port are right, and that a firewall lets this machine in"
            ) from error
        sock = _PromptSocket(fileno=plain.detach())
        # Requests are small and each waits for its answer: Nagle's algorithm would only delay them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.keepalive_s and hasattr(socket, "TCP_USER_TIMEOUT"):
            # Three keepalives without an acknowledgement and the connection is lost (tcp(7)).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000 * self.keepalive_s)
        return sock

    def _exchange_keys(
        self, transport: paramiko.Transport, where: str, known: list[paramiko.PKey], deadline: float
    ) -> None:
        transport.set_log_channel(_TRANSPORT_LOG.name)
        transport.banner_timeout = transport.handshake_timeout = max(0.001, deadline - time.monotonic())
        options = transport.get_security_options()
        options.kex = _preferring(_KEX, options.kex)
        options.ciphers = _preferring(_CIPHERS, options.ciphers)
        if known:
            # Asked for a type that we do not know, an honest host would look like a changed one.
            options.key_types = [kind for kind in options.key_types if kind in signature_types(known)]
        done = threading.Event()
        transport.start_client(done)
        # By the clock: paramiko's own timers end at about the same moment, and then it is set too.
        in_time = done.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() < deadline
        if in_time and transport.is_active():
            return
        error = transport.get_exception() if in_time else None
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            if known and "host key" in str(error):
                raise HostKeyError(
                    f"{where}: it no longer has a host key of a known type; known: {shown(known)}. {CHANGED}"
                ) from error
            raise PermanentError(f"{where}: no algorithm in common: {error}") from error
        if transport.remote_version:
            why = f"ended the key exchange: {error or 'closed'}" if in_time else "did not finish the key exchange"
        else:
            why = "closed the connection without" if in_time else "accepted the connection and did not send"
            why += f" an SSH banner ({error})" if error else " an SSH banner"
        raise TransientError(
            f"{where} {why} (within {self.connect_timeout_s:g} s). Check that SSH listens on this port and is "
            "not overloaded"
        ) from error

    def _log_in(
        self, transport: paramiko.Transport, where: str, user: str, keys: Sequence[paramiko.PKey], deadline: float
    ) -> None:
        """Log in with the first of `keys` that is accepted."""
        for tried, key in enumerate(keys, start=1):
            done = threading.Event()
            try:
                transport.auth_publickey(user, key, done)
            except paramiko.SSHException as error:
                raise TransientError(f"{where} closed the connection before the login") from error
            if not done.wait(max(0.0, deadline - time.monotonic())):
                slow = ", or the SSH agent waits for its owner" if self.agent else ""
                raise TransientError(f"{where} did not answer the login within {self.connect_timeout_s:g} s{slow}")
            if transport.is_authenticated():
                return
            refusal = transport.get_exception()
            if isinstance(refusal, IncidentResponseError):  # the agent's, raised where it was asked to sign
                raise type(refusal)(f"{where}: {refusal}", page=refusal.page) from refusal
            refused = transport.is_active() or isinstance(refusal, paramiko.AuthenticationException)
            if not refused and tried == 1:
                raise TransientError(f"{where} closed the connection during the login") from refusal
            if not transport.is_active() or tried == len(keys):
                break
        why = f" ({refusal})" if refusal else ""
        agents = " Too many keys in the agent end a login as well (MaxAuthTries)." if tried < len(keys) else ""
        raise PermanentError(
            f"{where} does not accept {shown(keys[:tried])} alone for user {user}{why}. Check the user and "
            f"that the public key is in its authorized_keys.{agents}",
            page=LOGIN,
        ) from refusal


def _drain(channel: paramiko.Channel, out: bytearray, err: bytearray, cap: int, deadline: float) -> bool:
    """Read both streams until their end (True) or past `cap` bytes (False); TimeoutError at the deadline."""
    last_news = time.monotonic()
    status_seen = False
    while len(out) + len(err) <= cap:
        now = time.monotonic()
        if now >= deadline:
            raise TimeoutError
        news = False
        if channel.recv_stderr_ready():
            err += channel.recv_stderr(_WINDOW)
            news = True
        try:
            # With news on stderr more of it may follow: stdout is then only looked at.
            channel.settimeout(0.0 if news else min(_TICK_S, deadline - now))
            chunk = channel.recv(_WINDOW)
        except TimeoutError:
            if not news and status_seen and now - last_news > _GRACE_S:
                return True
        else:
            if not chunk:
                err += channel.recv_stderr(_WINDOW)  # all of it is here: both streams end together
                return len(out) + len(err) <= cap
            out += chunk
            news = True
        if news or (not status_seen and channel.exit_status_ready()):
            last_news = now
        status_seen = channel.exit_status_ready()
    return False


@contextlib.contextmanager
def _told_by(where: str) -> Iterator[None]:
    """Say which host it was whose answer cannot be read."""
    try:
        yield
    except OutcomeUnknownError as error:
        raise OutcomeUnknownError(f"{where}: {error}") from error


def _jump_name(jump: JumpHost) -> str:
    return f"jump host {jump.address}:{jump.port}"


def _preferring(first: tuple[str, ...], available: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*(one for one in first if one in available), *available]))
