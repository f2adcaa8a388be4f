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
    for_s: float | None = Field(
        None, gt=0, description="Seconds after which it ends by itself; what cannot end alone ends with all else."
    )

    def apply(self, host: LabHost) -> None:
        """Do it. Raises `LabError` when the host could not."""
        raise NotImplementedError

    def end(self, host: LabHost) -> None:
        """What ends it by itself. Raises `LabError` when the host could not."""
        host.ask("heal")


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

    def end(self, host: LabHost) -> None:
        host.ask("gateway_heals", faults=list(self.faults()))


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


class BadRelease(Fault):
    """The release that runs, deployed three minutes ago, is bad: only another release cures it."""

    do: Literal["bad_release"]
    how: Literal["exit", "unhealthy", "errors", "late"] = Field(
        "unhealthy", description="Exits at its start, answers 503, fails a share of requests, or dies later."
    )
    late_s: float = Field(3, gt=0, description="With late: seconds from each start to its end.")
    share: float = Field(0.3, gt=0, le=1, description="With errors: failed of the users' requests.")

    def apply(self, host: LabHost) -> None:
        host.ask("release_bad", how=self.how, late_s=self.late_s, share=self.share)


class RollbackBroken(Fault):
    """rollback.sh is missing, prints its usage, asks for a "yes", or finds no older release."""

    do: Literal["rollback_broken"]
    how: Literal["missing", "usage", "asks", "no_older"] = Field("missing", description="In which way.")
    status: Literal[0, 1] = Field(0, description="With asks: its exit status when nobody says yes.")

    def apply(self, host: LabHost) -> None:
        host.ask("rollback_broken", how=self.how, status=self.status)


class Overload(GatewayFault):
    """There is more traffic than the replicas can serve: latency, load and requests in flight rise."""

    do: Literal["overload"]
    needs: int = Field(3, ge=1, description="Ready replicas that cure it; at the beginning there are 2.")
    ms: int = Field(1200, gt=0, description="Milliseconds added to an answer until then.")

    def faults(self) -> dict[str, object]:
        return {"overload": {"needs": self.needs, "ms": self.ms}}


class SharedFault(Fault):
    """What happens to something that all hosts share; the host matters only for who writes to its journal."""

    def part(self) -> str:
        """deployment or database."""
        raise NotImplementedError

    def changes(self) -> dict[str, object]:
        """What becomes of it."""
        raise NotImplementedError

    def apply(self, host: LabHost) -> None:
        host.ask("shared", part=self.part(), changes=self.changes())

    def end(self, host: LabHost) -> None:
        host.ask("shared_heals")


class ReplicasNeverReady(SharedFault):
    """Replicas that are added are never ready."""

    do: Literal["replicas_never_ready"]

    def part(self) -> str:
        return "deployment"

    def changes(self) -> dict[str, object]:
        return {"never_ready": True}


class NoDeployment(SharedFault):
    """The deployment does not exist: kubectl says NotFound."""

    do: Literal["no_deployment"]

    def part(self) -> str:
        return "deployment"

    def changes(self) -> dict[str, object]:
        return {"exists": False}


class BadConfig(Fault):
    """The configuration was edited three minutes ago: no restart cures that, the last good copy does."""

    do: Literal["bad_config"]
    how: Literal["unhealthy", "exit"] = Field("unhealthy", description="Answers 503, or exits at its start.")

    def apply(self, host: LabHost) -> None:
        host.ask("config_bad", how=self.how)


class PrimaryLost(SharedFault):
    """The database's primary is lost; every gateway answers 503 until the standby is promoted."""

    do: Literal["primary_lost"]
    lag_s: float = Field(0.1, ge=0, description="Seconds that the standby lags behind.")
    quorum: bool = Field(True, description="Whether the others agree that the primary is lost.")
    fenced: bool = Field(True, description="Whether the old primary is kept from taking writes.")
    promotion_stays_in_recovery: bool = Field(False, description="A promotion returns 0 and does not take place.")

    def part(self) -> str:
        return "database"

    def changes(self) -> dict[str, object]:
        return {
            "lost": True,
            "in_recovery": True,
            "stays_in_recovery": self.promotion_stays_in_recovery,
            "lag_s": self.lag_s,
            "quorum": self.quorum,
            "fenced": self.fenced,
        }

    def apply(self, host: LabHost) -> None:
        super().apply(host)
        host.ask("say", lines=["[ERROR] database: server closed the connection unexpectedly"])


class MemoryLeak(GatewayFault):
    """The gateway really grows, and its latency with it; a restart cures it."""

    do: Literal["memory_leak"]
    mib: int = Field(240, gt=0, le=1024, description="MiB that it grows by.")
    ms: int = Field(800, gt=0, description="Milliseconds added to an answer in the end.")
    over_s: float = Field(2, gt=0, description="Seconds that it takes to grow.")
    until_restart: bool = Field(True, description="Whether a restart ends it.")

    def faults(self) -> dict[str, object]:
        return {"leak": {"mib": self.mib, "ms": self.ms, "over_s": self.over_s}}


class ExchangeOutage(GatewayFault):
    """The exchange is out of reach: no market data, some orders fail, the journal says so. The engine lives."""

    do: Literal["exchange_outage"]
    share: float = Field(0.1, ge=0, le=1, description="Failed of the users' requests.")

    def faults(self) -> dict[str, object]:
        return {"exchange": "lost", "api_error_share": self.share}

    def apply(self, host: LabHost) -> None:
        super().apply(host)
        lines = [
            "libs/market/src/binance_websocket.cpp:862: error: WebSocket read error; "
            "e.getDescription() = Connection reset by peer",
            'event: error data: {"type": "error", "message": "market_source_error"}',
        ]
        host.ask("say", lines=lines)


class Mystery(GatewayFault):
    """A share of the users' requests fails, and nothing says why; what is probed is well."""

    do: Literal["mystery"]
    share: float = Field(0.2, gt=0, le=1, description="Failed of the users' requests.")

    def faults(self) -> dict[str, object]:
        return {"api_error_share": self.share}


class Intruder(Fault):
    """Somebody tries keys and passwords, and gets in: the journal says so, and nothing is unhealthy."""

    do: Literal["intruder"]
    failures: int = Field(20, ge=1, le=500, description="Failed logins before the one that works.")
    origin: str = Field("203.0.113.8", description="From where.")

    def apply(self, host: LabHost) -> None:
        failed = f"[AUDIT] Auth failed: path=/api/account, ip={self.origin}, error=invalid_api_key"
        taken = [
            f'[AUDIT] {{"action": "login", "user": "admin", "auth_method": "password", "ip": "{self.origin}"}}',
            "[AUDIT] API key created: key_id=vk_00ff, user=admin, name=tmp",
        ]
        host.ask("say", lines=[failed] * self.failures + taken)
        tried = f"Failed password for invalid user admin from {self.origin} port 51022 ssh2"
        host.ask("say", lines=[tried] * self.failures, ident="sshd", unit="ssh.service")


class DiskFull(Fault):
    """df shows this much in use; at 100 % the gateway cannot write its audit log and answers 503."""

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
    | BadRelease
    | RollbackBroken
    | BadConfig
    | Overload
    | ReplicasNeverReady
    | NoDeployment
    | PrimaryLost
    | MemoryLeak
    | ExchangeOutage
    | Intruder
    | Mystery
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
