"""The host's SSH server: public keys, exec only, every command a real process of a real /bin/sh.

Like OpenSSH without a terminal: a command whose connection is gone is not killed, it finds its standard
input ended and its output closed (SIGPIPE); a command that ended while somebody still holds its output has
its exit status sent at once and its channel kept open.
"""

import io
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Literal

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko.common import MSG_CHANNEL_SUCCESS, cMSG_CHANNEL_REQUEST

from responder.lab.units import Processes

BANNER = "SSH-2.0-OpenSSH_9.2p1"
CHUNK = 65536

Mode = Literal["up", "refuse", "silent", "stall"]


def new_key() -> str:
    """A fresh ed25519 private key in OpenSSH's PEM form."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def load_key(pem: str) -> paramiko.Ed25519Key:
    return paramiko.Ed25519Key(file_obj=io.StringIO(pem))


def reserve(address: str, port: int) -> socket.socket:
    """A bound socket that does not listen: the port stays ours and refuses connections meanwhile.

    Port 0 picks a free one. Whoever listens on it must set SO_REUSEPORT as well. Raises OSError if taken.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((address, port))
    return sock


@dataclass
class Command:
    """One command that arrived over SSH."""

    command: str
    at: float = field(default_factory=time.time)
    state: Literal["received", "running", "ended", "dropped"] = "received"
    exit_status: int | None = None


@dataclass
class Hold:
    """Commands that match wait: before they run, or with all they answer after they ran."""

    match: re.Pattern[str]
    when: Literal["before", "after"]
    seconds: float | None
    most: int | None = None
    held: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    run: bool = True

    def wait(self) -> None:
        self.over.wait(self.seconds)

    def takes(self, text: str) -> bool:
        """Whether this command is held, too. Counts it."""
        taken = not self.over.is_set() and self.held != self.most and bool(self.match.search(text))
        self.held += taken
        return taken


class Transport(paramiko.Transport):
    """A server transport that tells when the request to run a command has been answered.

    A quick command would otherwise close its channel before the client has been told that it began.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.local_version = BANNER
        self.answered: dict[int, threading.Event] = {}

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)  # type: ignore[misc]
        raw = data.asbytes()
        if raw[0] == MSG_CHANNEL_SUCCESS and (event := self.answered.pop(int.from_bytes(raw[1:5], "big"), None)):
            event.set()


class Session(paramiko.ServerInterface):
    """What one connection may do."""

    def __init__(self, sshd: "Sshd", transport: Transport) -> None:
        self.sshd, self.transport = sshd, transport

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == self.sshd.user and key.get_base64() == self.sshd.client_key
        return paramiko.common.AUTH_SUCCESSFUL if known else paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        if kind == "session":
            return paramiko.common.OPEN_SUCCEEDED
        return paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        answered = self.transport.answered[channel.remote_chanid] = threading.Event()
        args = (channel, command.partition(b"\0")[0].decode("utf-8", "surrogateescape"), answered)
        threading.Thread(target=self.sshd.run, args=args, daemon=True).start()
        return True


class Sshd:
    """The server, its faults, and the record of the commands that came."""

    def __init__(
        self,
        address: str,
        *,
        user: str,
        client_key: str,
        processes: Processes,
        home: Path,
        environment: dict[str, str],
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """`after_each` is called when a command has ended, before its client is told."""
        self.after_each = after_each
        self.user, self.client_key = user, client_key
        self.processes, self.home, self.environment = processes, home, environment
        self.host_key = load_key(new_key())
        self.presented_key = self.host_key
        self.mode: Mode = "up"
        self.cut: tuple[re.Pattern[str], str] | None = None
        self.holds: list[Hold] = []
        self.commands: list[Command] = []
        self.changed = threading.Condition()
        self._open: set[Transport | socket.socket] = set()
        self._reserved = reserve(address, 0)
        self.address, self.port = self._reserved.getsockname()
        self._listener: socket.socket | None = None
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)
        self.set_mode("up")

    def set_mode(self, mode: Mode) -> None:
        """up; refuse connections; take them and stay silent; or stall after the banner. Cuts what is open."""
        self.mode = mode
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listener = None
        for connection in self._open.copy():
            connection.close()
        self._open.clear()
        if mode != "refuse":
            self._listener = reserve(self.address, self.port)
            self._listener.listen(128)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def hold(
        self, match: str, when: Literal["before", "after"], seconds: float | None, most: int | None = None
    ) -> int:
        """Hold the (`most` first) commands that match, for so long or until released. Gives the hold's number."""
        self.holds.append(Hold(re.compile(match), when, seconds, most))
        return len(self.holds) - 1

    def release(self, number: int, run: bool = True) -> None:
        """End a hold. Without `run`, what was held before it ran never runs: the request was lost."""
        self.holds[number].run = run
        self.holds[number].over.set()

    def wait_for(self, match: str, timeout_s: float, state: str = "received") -> Command:
        """The first command that matches and is at least in this state. Raises TimeoutError."""
        order = ("received", "running", "ended")

        def found() -> Command | None:
            for seen in self.commands:
                if re.search(match, seen.command) and seen.state in order[order.index(state) :]:
                    return seen
            return None

        with self.changed:
            if seen := self.changed.wait_for(found, timeout_s):
                return seen
        raise TimeoutError(f"no command matching {match!r} was {state} within {timeout_s} s")

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while listener is self._listener:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # the listener was shut down: another mode
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self.mode in ("silent", "stall"):
            self._open.add(connection)
            if self.mode == "stall":
                connection.sendall(f"{BANNER}\r\n".encode())
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = Transport(connection)
        self._open.add(transport)
        transport.add_server_key(self.presented_key)
        try:
            transport.start_server(server=Session(self, transport))
        except (paramiko.SSHException, EOFError, OSError):
            transport.close()  # the client went away, or wants what we do not speak
        # A channel is served from its exec request on, and closed by paramiko when nobody refers to it.
        channels: list[paramiko.Channel] = []
        while transport.is_active():
            if channel := transport.accept(1):
                channels = [*(c for c in channels if not c.closed), channel]
        self._open.discard(transport)

    def run(self, channel: paramiko.Channel, text: str, answered: threading.Event) -> None:
        """One command from its request to the end of its channel."""
        command = Command(text)
        with self.changed:
            holds = [hold for hold in self.holds if hold.takes(text)]
        self._mark(command, "received")
        for hold in (hold for hold in holds if hold.when == "before"):
            hold.wait()
            if not hold.run:
                self._mark(command, "dropped")
                return channel.close()
        cut = self.cut[1] if self.cut and self.cut[0].search(text) else None
        if cut == "before":
            self._mark(command, "dropped")
            return channel.get_transport().close()
        after = [hold for hold in holds if hold.when == "after"]
        gate = threading.Event()
        if not cut and not after:
            gate.set()
        try:
            how, pumps = self._execute(command, channel, answered, gate)
        except OSError as error:
            answered.wait(1)
            channel.sendall_stderr(f"/bin/sh: {error.strerror}\n".encode())
            channel.send_exit_status(126)
            return channel.close()
        if cut:
            return channel.get_transport().close()
        for hold in after:
            hold.wait()
        gate.set()
        for pump in pumps:
            pump.join(0.1)
        try:
            _send_exit(channel, *how)
            for pump in pumps:
                pump.join()
            channel.close()
        except (OSError, EOFError, paramiko.SSHException):
            channel.close()  # nobody is there any more to be told

    def _execute(
        self, command: Command, channel: paramiko.Channel, answered: threading.Event, gate: threading.Event
    ) -> tuple[tuple[int, int], list[threading.Thread]]:
        """Run the command to its end: its CLD_ code and status, and the threads that copy its output.

        Raises OSError when the shell cannot be started (a command of more than 128 KiB).
        """
        ended: Queue[tuple[int, int]] = Queue()

        def on_exit(pid: int, code: int, status: int) -> None:  # noqa: ARG001
            self.after_each()
            command.exit_status = status if code == os.CLD_EXITED else None
            self._mark(command, "ended")
            ended.put((code, status))

        self._mark(command, "running")
        process = self.processes.start(
            ["/bin/sh", "-c", command.command.encode("utf-8", "surrogateescape")],  # type: ignore[list-item]
            on_exit,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.home,
            env=self.environment,
        )
        answered.wait(1)
        output, errors = (process.stdout, channel.sendall, gate), (process.stderr, channel.sendall_stderr, gate)
        pumps = [threading.Thread(target=_pump, args=args, daemon=True) for args in (output, errors)]
        for thread in (*pumps, threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True)):
            thread.start()
        return ended.get(), pumps

    def _mark(self, command: Command, state: Literal["received", "running", "ended", "dropped"]) -> None:
        with self.changed:
            command.state = state
            if state == "received":
                self.commands.append(command)
            self.changed.notify_all()


def _pump(source: io.BufferedReader, send, gate: threading.Event) -> None:  # type: ignore[no-untyped-def]
    """Copy a process's output as fast as the client takes it; with the gate shut, keep it until it opens."""
    kept: list[bytes] = []
    with source:
        try:
            while chunk := os.read(source.fileno(), CHUNK):
                kept.append(chunk)
                if gate.is_set():
                    send(b"".join(kept))
                    kept.clear()
            gate.wait()
            send(b"".join(kept))
        except (OSError, EOFError):
            return  # the client is gone; closing our end is what the process gets to know of it


def _feed(channel: paramiko.Channel, target: io.BufferedWriter) -> None:
    """Copy the client's input to a process until either has enough."""
    try:
        with target:
            while data := channel.recv(CHUNK):
                target.write(data)
                target.flush()
    except OSError:
        return  # the process has closed its input


def _send_exit(channel: paramiko.Channel, code: int, status: int) -> None:
    """Tell the client how a command ended (RFC 4254, section 6.10: exit-status or exit-signal)."""
    if code == os.CLD_EXITED:
        channel.send_exit_status(status)
        return
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exit-signal")
    message.add_boolean(False)
    message.add_string(signal.Signals(status).name.removeprefix("SIG"))
    message.add_boolean(code == os.CLD_DUMPED)
    message.add_string("")
    message.add_string("")
    channel.get_transport()._send_user_message(message)  # type: ignore[attr-defined]
