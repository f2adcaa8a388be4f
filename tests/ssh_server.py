"""An SSH server for tests: paramiko's server side, running commands in a real /bin/sh, with faults on order."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST


@dataclass(frozen=True)
class Faults:
    """What the server does wrong; nothing by default."""

    silent: bool = False  # accepts TCP and never speaks
    stall_after_banner: bool = False
    refuse_auth: bool = False
    refuse_exec: bool = False
    forced: str = ""  # runs this, whatever it is sent (sshd_config(5), ForceCommand)
    stall_exec: bool = False  # runs the command, never answers the request
    cut_after_exec: bool = False  # runs the command, then drops the connection without a word
    cut_after_bytes: int | None = None
    no_exit_status: bool = False
    max_sessions: int | None = None
    hold_session_s: float = 0.0  # how long a closed session still counts
    forward: int | None = None  # a number: refuse to forward for that reason (RFC 4254, 5.1)
    stall_forward: bool = False  # never answers a request to forward


class SSHServer:
    """Listens on a free loopback port from `with` to its end; `home` is every command's HOME and directory."""

    def __init__(
        self,
        home: Path,
        client_key: paramiko.PKey,
        *,
        host_keys: list[paramiko.PKey] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.home = home
        self.client_key = client_key
        self.host_keys = host_keys or [paramiko.ECDSAKey.generate()]
        self.faults = faults or Faults()
        self.connections = 0
        self.commands: list[str] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.forwarded: list[tuple[str, int]] = []
        self.users: list[str] = []
        self.closing = threading.Event()
        self._transports: list[paramiko.Transport] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address, self.port = self._listener.getsockname()

    @property
    def connected(self) -> int:
        """How many connections stand."""
        return sum(transport.is_active() for transport in self._transports)

    def cut(self) -> None:
        """Drop every connection at once, as a machine does that loses its power; goes on listening."""
        cut, self._transports = self._transports, []  # who connects anew meanwhile is not cut
        for transport in cut:
            transport.sock.shutdown(socket.SHUT_RDWR)

    @property
    def known_hosts(self) -> str:
        """The lines a client needs."""
        return "".join(
            f"[{self.address}]:{self.port} {key.get_name()} {key.get_base64()}\n" for key in self.host_keys
        )

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._listener.close()
        for transport in self._transports:
            transport.close()
        for sock in self._sockets:
            sock.close()
        for child in self.children:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            self._sockets.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.faults.silent:
                continue
            if self.faults.stall_after_banner:
                sock.sendall(b"SSH-2.0-stalled\r\n")
                continue
            transport = paramiko.Transport(sock)
            transport.set_log_channel("paramiko.transport.test_server")
            for key in self.host_keys:
                transport.add_server_key(key)
            self._transports.append(transport)
            session = _Session(self, transport)
            transport._channel_handler_table = {
                **transport._channel_handler_table,
                MSG_CHANNEL_REQUEST: session.handle_request,
            }
            transport.start_server(threading.Event(), session)
            threading.Thread(target=session.forward, daemon=True).start()


class _Session(paramiko.ServerInterface):
    def __init__(self, server: SSHServer, transport: paramiko.Transport) -> None:
        self._server = server
        self._transport = transport
        self._open = 0
        self._answering: threading.Thread | None = None
        self._forwards: dict[int, socket.socket] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._server.users.append(username)
        good = key == self._server.client_key and not self._server.faults.refuse_auth
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        limit = self._server.faults.max_sessions
        if limit is not None and self._open >= limit:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        self._open += 1
        return paramiko.OPEN_SUCCEEDED

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        faults = self._server.faults
        self._server.forwarded.append(destination)
        if faults.stall_forward:
            self._server.closing.wait(5)
        if faults.forward is not None:
            return faults.forward
        try:
            self._forwards[chanid] = socket.create_connection(destination, 5)
        except OSError:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        return paramiko.OPEN_SUCCEEDED

    def forward(self) -> None:
        """Join each channel that is opened for forwarding with its socket, until the connection ends."""
        accepted = []  # paramiko itself keeps channels by weak references only
        while self._transport.is_active():
            channel = self._transport.accept(0.2)
            accepted.append(channel)
            sock = self._forwards.pop(channel.get_id(), None) if channel else None
            if channel and sock:
                threading.Thread(target=_copy, args=(channel, sock), daemon=True).start()
                threading.Thread(target=_copy, args=(sock, channel), daemon=True).start()

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        faults = self._server.faults
        self._server.commands.append(command.decode())
        if faults.refuse_exec:
            return False
        child = subprocess.Popen(
            ["/bin/sh", "-c", faults.forced or command],
            cwd=self._server.home,
            env={"PATH": os.environ["PATH"], "HOME": str(self._server.home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._server.children.append(child)
        if faults.cut_after_exec:
            child.wait()
            self._transport.sock.shutdown(socket.SHUT_RDWR)
        if faults.stall_exec:
            child.wait()
            self._server.closing.wait(5)
        self._answering = threading.Thread(target=self._answer, args=(channel, child), daemon=True)
        return True

    def handle_request(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        """Paramiko's handler, then the answer: a command's end must not overtake the reply to its request."""
        channel._handle_request(message)
        if self._answering:
            self._answering.start()
            self._answering = None

    def _answer(self, channel: paramiko.Channel, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout
        assert child.stderr
        pumps = [
            threading.Thread(target=self._pump, args=pair, daemon=True)
            for pair in ((child.stdout, channel.sendall), (child.stderr, channel.sendall_stderr))
        ]
        for pump in pumps:
            pump.start()
        status = child.wait()
        # The client may have gone at any moment, as it may for sshd.
        with contextlib.suppress(OSError, EOFError):
            if not self._server.faults.no_exit_status and status >= 0:
                channel.send_exit_status(status)
            for pump in pumps:
                pump.join()
            channel.close()
        threading.Timer(self._server.faults.hold_session_s, self._session_closed).start()

    def _session_closed(self) -> None:
        self._open -= 1

    def _pump(self, source: IO[bytes], send: Callable[[bytes], None]) -> None:
        limit = self._server.faults.cut_after_bytes
        sent = 0
        # Closing the pipe makes the command's next write fail, as it does under sshd.
        with source, contextlib.suppress(OSError, EOFError):
            while data := os.read(source.fileno(), 65536):
                send(data)
                sent += len(data)
                if limit is not None and sent >= limit:
                    self._transport.sock.shutdown(socket.SHUT_RDWR)


def _copy(source: paramiko.Channel | socket.socket, target: paramiko.Channel | socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError, EOFError):
            end.close()
