"""Faults as data: what a scenario file can do to a host, each by its name and with its parameters.

A fault is a model whose `do` is its name in the file; `apply` does it to one host.
"""

from typing import Annotated, Literal

from pydantic import Field

from responder.domain.base import Frozen
from responder.lab.host import LabHost


class Fault(Frozen):
    """When and where; the rest is the fault's own."""

    at_s: float = Field(0, ge=0, description="Seconds after the scenario's begin.")
    host: int | Literal["all"] = Field(0, description="Number of the host, from 0, or all.")

    def apply(self, host: LabHost) -> None:
        """Do it. Raises `LabError` when the host could not."""
        raise NotImplementedError


class Crash(Fault):
    """The gateway dies of a segmentation fault; the unit fails."""

    do: Literal["crash"]

    def apply(self, host: LabHost) -> None:
        host.ask("kill", signal_name="SIGSEGV")


class Stop(Fault):
    """A person stops the unit."""

    do: Literal["stop"]

    def apply(self, host: LabHost) -> None:
        host.ask("stop")


class CrashAfterRestart(Fault):
    """The gateway dies some time after every start by systemctl that returned 0."""

    do: Literal["crash_after_restart"]
    after_s: float = Field(1, ge=0, description="Seconds from the start to the crash.")

    def apply(self, host: LabHost) -> None:
        host.ask("crash_after_restart", after_s=self.after_s)


class EngineDead(Fault):
    """The engine is killed; the gateway goes on answering /health with 200."""

    do: Literal["engine_dead"]

    def apply(self, host: LabHost) -> None:
        host.ask("engine_dead")


class Hang(Fault):
    """The gateway is frozen: connections are accepted, nothing is answered, its processes show state T."""

    do: Literal["hang"]

    def apply(self, host: LabHost) -> None:
        host.ask("freeze")


class BrokenRelease(Fault):
    """A deployment switches to a release that dies at its start: a missing module, or a missing engine."""

    do: Literal["broken_release"]
    kind: Literal["import_error", "engine_not_found"] = Field(
        "import_error", description="What the release lacks."
    )

    def apply(self, host: LabHost) -> None:
        host.ask("release_broken", kind=self.kind)


class OutOfMemory(Fault):
    """The kernel kills the gateway for memory and says so."""

    do: Literal["oom"]

    def apply(self, host: LabHost) -> None:
        host.ask("oom")


class GatewayFault(Fault):
    """What the gateway does to itself; a restart cures it only `until_restart`."""

    until_restart: bool = Field(False, description="Whether a restart ends it.")

    def faults(self) -> dict[str, object]:
        """The keys for the gateway's file of faults."""
        raise NotImplementedError

    def apply(self, host: LabHost) -> None:
        host.ask("gateway", faults=self.faults(), until_restart=self.until_restart)


class Metrics(GatewayFault):
    """/metrics closes the connection without a reply, answers a web page or garbage, or stands still."""

    do: Literal["metrics_no_reply", "metrics_html", "metrics_garbage", "metrics_frozen"]

    def faults(self) -> dict[str, object]:
        return {"metrics": self.do.removeprefix("metrics_")}


class RateLimited(GatewayFault):
    """Every request is answered 429 with Retry-After."""

    do: Literal["rate_limited"]
    retry_after_s: int = Field(2, ge=1, description="Seconds in Retry-After.")

    def faults(self) -> dict[str, object]:
        return {"rate_limited": self.retry_after_s}


class Health500(GatewayFault):
    """/health and /api/health answer 500."""

    do: Literal["health_500"]

    def faults(self) -> dict[str, object]:
        return {"health_status": 500}


class Slow(GatewayFault):
    """Every answer but that of /metrics takes longer."""

    do: Literal["slow"]
    ms: int = Field(gt=0, description="Milliseconds added to an answer.")

    def faults(self) -> dict[str, object]:
        return {"delay_ms": self.ms}


class Errors(GatewayFault):
    """A share of all requests is answered 500."""

    do: Literal["errors"]
    share: float = Field(gt=0, le=1, description="Failed of all requests, above 0 to 1.")

    def faults(self) -> dict[str, object]:
        return {"error_share": self.share}


class DiskFull(Fault):
    """df shows this much in use; at 100 % the gateway cannot write its audit log."""

    do: Literal["disk_full"]
    percent: int = Field(100, ge=0, le=100, description="Percent in use.")

    def apply(self, host: LabHost) -> None:
        host.ask("disk", percent=self.percent)


class EndlessOutput(Fault):
    """One of the host's commands prints for ever."""

    do: Literal["endless_output"]
    command: str = Field("journalctl", description="Name of the command.")

    def apply(self, host: LabHost) -> None:
        host.ask("endless", command=self.command)


class HostUnreachable(Fault):
    """SSH connections are refused, open ones are cut."""

    do: Literal["host_unreachable"]

    def apply(self, host: LabHost) -> None:
        host.ask("ssh", mode="refuse")


class HostHangs(Fault):
    """SSH connections are accepted and then nothing comes, from the start or after the banner."""

    do: Literal["host_hangs"]
    after: Literal["connect", "banner"] = Field("connect", description="From when on nothing comes.")

    def apply(self, host: LabHost) -> None:
        host.ask("ssh", mode="silent" if self.after == "connect" else "stall")


class HostCut(Fault):
    """The connection is cut when a command that matches arrives, or when it has run."""

    do: Literal["host_cut"]
    match: str = Field(".", description="Regular expression over the command's text.")
    when: Literal["before", "after"] = Field("before", description="Before or after the command has run.")

    def apply(self, host: LabHost) -> None:
        host.ask("cut", match=self.match, when=self.when)


class HostKeyChanged(Fault):
    """The SSH server shows another host key from now on."""

    do: Literal["host_key_changed"]

    def apply(self, host: LabHost) -> None:
        host.ask("change_host_key")


class NoSudo(Fault):
    """sudo refuses everything."""

    do: Literal["no_sudo"]

    def apply(self, host: LabHost) -> None:
        host.ask("sudo", refused=True)


class SomebodyLogsIn(Fault):
    """A person's terminal appears in `who`, begun now or, with an idle time, that long ago and idle since."""

    do: Literal["login"]
    user: str = Field("alex", description="Who.")
    origin: str = Field("10.4.0.9", description="From where.")
    idle_s: float = Field(0, ge=0, description="Seconds idle; 0: at work now.")

    def apply(self, host: LabHost) -> None:
        host.ask("login", user=self.user, origin=self.origin, idle_s=self.idle_s)


class Deployment(Fault):
    """A process with these words for its command line appears in ps."""

    do: Literal["deploy"]
    args: str = Field("ansible-playbook deploy.yml", description="Its command line.")

    def apply(self, host: LabHost) -> None:
        host.ask("process", args=self.args)


class Heal(Fault):
    """Every fault ends and the gateway is started afresh."""

    do: Literal["heal"]

    def apply(self, host: LabHost) -> None:
        host.ask("heal")
        host.wait_for_gateway()


AnyFault = Annotated[
    Crash
    | Stop
    | CrashAfterRestart
    | EngineDead
    | Hang
    | BrokenRelease
    | OutOfMemory
    | Metrics
    | RateLimited
    | Health500
    | Slow
    | Errors
    | DiskFull
    | EndlessOutput
    | HostUnreachable
    | HostHangs
    | HostCut
    | HostKeyChanged
    | NoSudo
    | SomebodyLogsIn
    | Deployment
    | Heal,
    Field(discriminator="do"),
]
