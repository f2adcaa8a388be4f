"""Keys: the ones we log in with, from text or from an agent, and the host keys that we trust."""

import base64
import hmac
import io
import os
import re
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache

import paramiko
from paramiko.agent import AgentSSH
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from responder.domain.errors import HostKeyError, PermanentError, TransientError

LOGIN = "docs/how-to.md#login-and-key"
"""Where the documentation helps with what is wrong with a key of ours."""

_AGENT_FAILURE = 5  # SSH_AGENT_FAILURE, draft-miller-ssh-agent


class Agent(AgentSSH):
    """The keys of the agent that SSH_AUTH_SOCK names. Use as a context manager, by one thread at a time.

    It is given `timeout_s` (seconds) for each answer; an agent may ask a person to confirm.

    Raises PermanentError when there is none or it holds no key, TransientError when it does not answer.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        path = os.environ.get("SSH_AUTH_SOCK")
        if not path:
            raise PermanentError(
                "no SSH agent: SSH_AUTH_SOCK is not set for this process. Start `incident up`, or the worker, "
                "where `ssh-add -l` shows the key",
                page=LOGIN,
            )
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(max(0.001, timeout_s))
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise PermanentError(
                f"no SSH agent answers at SSH_AUTH_SOCK ({path}): {error.strerror or error}. Start it, or start "
                "this process anew with the right SSH_AUTH_SOCK",
                page=LOGIN,
            ) from error
        try:
            self._connect(sock)  # type: ignore[attr-defined]
            if not self.get_keys():
                raise PermanentError(
                    f"the SSH agent at {path} holds no key, or is locked; `ssh-add -l` shows what it has"
                )
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()  # type: ignore[attr-defined]

    def _send_message(self, msg: paramiko.Message) -> tuple[int, paramiko.Message]:
        try:
            kind, answer = super()._send_message(msg)  # type: ignore[misc]
        except (paramiko.SSHException, OSError, struct.error) as error:
            raise TransientError(f"the SSH agent did not answer: {error or 'it hung up'}") from error
        if kind == _AGENT_FAILURE:
            raise PermanentError(
                "the SSH agent refuses to use its key: it is locked, or its owner did not confirm",
                page=LOGIN,
            )
        return kind, answer


@lru_cache(maxsize=16)
def private_key(text: str, passphrase: str | None) -> paramiko.PKey:
    """The key in a PEM text as pasted; cached, for checking an RSA key takes longer than connecting."""
    lines = "\n".join(line.strip() for line in text.strip().splitlines()) + "\n"
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(lines), passphrase)
        except paramiko.PasswordRequiredException as error:
            raise PermanentError("the SSH private key is encrypted: give its passphrase", page=LOGIN) from error
        except (paramiko.SSHException, ValueError, LookupError, struct.error):
            continue  # most likely of another type
    raise PermanentError(
        "the SSH private key cannot be read: paste the whole file, from '-----BEGIN' to '-----END ...-----' "
        "(Ed25519, ECDSA or RSA), and check the passphrase",
        page=LOGIN,
    )


def known_keys(
    known_hosts: str, name: str, address: str, port: int
) -> tuple[list[paramiko.PKey], list[paramiko.PKey]]:
    """Keys trusted for the first form of the host's name that is listed, and keys revoked for any (sshd(8))."""
    forms = [
        form.lower()
        for host in (address, name)
        for form in ((f"[{host}]:{port}", host) if port != 22 else (host,))
    ]
    lines = [line.split() for line in known_hosts.splitlines() if line.strip() and line.split()[0][0] != "#"]
    revoked = [
        key
        for marker, *line in lines
        if marker == "@revoked" and line and any(_lists(line[0], form) for form in forms)
        for key in _keys_of(line)
    ]
    for form in forms:
        listed = [line for line in lines if line[0][0] != "@" and _lists(line[0], form)]
        if listed:
            return [key for line in listed for key in _keys_of(line)], revoked
    return [], revoked


def _lists(patterns: str, host: str) -> bool:
    """Whether a known_hosts name field lists a host: hashed, or patterns with `*`, `?` and `!`."""
    if patterns.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in patterns[3:].split("|"))
        except ValueError:
            return False
        return hmac.compare_digest(hmac.digest(salt, host.encode(), "sha1"), digest)
    listed = False
    for pattern in patterns.lower().split(","):
        glob = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(glob, host):
            if pattern.startswith("!"):
                return False
            listed = True
    return listed


def _keys_of(line: list[str]) -> list[paramiko.PKey]:
    """The line's key; none for a type that paramiko does not know."""
    try:
        entry = HostKeyEntry.from_line(" ".join(line[:3]))
    except (InvalidHostKey, paramiko.SSHException, ValueError, LookupError, struct.error) as error:
        raise PermanentError(
            f"known_hosts: the key of {line[0]} cannot be read; paste its line again", page=HostKeyError.page
        ) from error
    return [] if entry is None or entry.key is None else [entry.key]


def signature_types(keys: list[paramiko.PKey]) -> set[str]:
    # An RSA key is "ssh-rsa", its signatures are not any more (RFC 8332).
    return {
        kind
        for key in keys
        for kind in (("rsa-sha2-512", "rsa-sha2-256") if key.get_name() == "ssh-rsa" else (key.get_name(),))
    }


CHANGED = (
    "Either the host was set up anew or something stands in between: ask whoever runs it, and only then "
    "replace its line in the known_hosts of the SSH credentials"
)


def check_host_key(
    offered: paramiko.PKey, known: list[paramiko.PKey], revoked: list[paramiko.PKey], where: str
) -> None:
    if offered in revoked:
        raise HostKeyError(f"{where}: its host key {shown([offered])} is revoked. {CHANGED}")
    if not known:
        raise HostKeyError(
            f"{where}: its host key is not known: {shown([offered])}. Compare that with "
            "`ssh-keygen -lf /etc/ssh/ssh_host_<type>_key.pub` on the host itself, then add the line that "
            "`ssh-keyscan` prints to the known_hosts of the SSH credentials"
        )
    if offered not in known:
        raise HostKeyError(
            f"{where}: its host key has changed: it offers {shown([offered])}, known is {shown(known)}. {CHANGED}"
        )


def shown(keys: Sequence[paramiko.PKey]) -> str:
    return ", ".join(f"{key.get_name()} {key.fingerprint}" for key in keys)
