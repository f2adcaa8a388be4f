"""What a command on a host answered, and what became of a detached change: results without I/O."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator


def decode(data: bytes) -> str:
    """Output as text: UTF-8 with replacement characters, without NULs (PostgreSQL refuses those)."""
    return data.decode("utf-8", errors="replace").replace("\0", "")


class CommandResult(BaseModel):
    """One command on one host, as far as it was seen.

    `exit_status` None means unknown: killed, cut short, not reported, or still running when we stopped
    waiting. It is never to be read as success or failure. `truncated` output lacks its end, and `stdout`
    then closes with a line that says so.
    """

    model_config = ConfigDict(frozen=True)

    command: str
    exit_status: int | None
    stdout: str
    stderr: str
    truncated: bool
    timed_out: bool
    took_s: float

    @field_validator("exit_status")
    @classmethod
    def _outside_a_byte_is_unknown(cls, status: int | None) -> int | None:
        # SSH libraries say -1, and servers 2**32 - 1, where no status is known.
        return status if status is not None and 0 <= status <= 255 else None


class Fence(BaseModel):
    """Who got the attempt's directory: `won` us, now; `exists` somebody, before; `error` nobody by this call."""

    model_config = ConfigDict(frozen=True)

    outcome: Literal["won", "exists", "error"]
    detail: str = ""


class ChangeState(BaseModel):
    """What a host knows of an attempt.

    `absent` no fence; `barred` fenced so that it can never start; `running`; `ended` with its
    `exit_status`; `vanished` fenced, but without status or living process (rebooted, killed, or never
    reached its start): look at the service, never act. `output` is the tail of stdout and stderr.
    """

    model_config = ConfigDict(frozen=True)

    state: Literal["absent", "barred", "running", "ended", "vanished"]
    exit_status: int | None = None
    output: str = ""
    truncated: bool = False
