"""Scale: the document's answer to a lack of capacity."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from responder.domain.commands import CommandResult
from responder.domain.evidence import Dossier, Verdict
from responder.domain.fields import Argument, Command
from responder.domain.notes import Notes
from responder.domain.readings import Reading, Snapshot
from responder.domain.strategies.base import Strategy, Target

DEPLOYMENT = "deployment"
_KEYS = ("replicas", "ready", "version")


class Scale(Strategy):
    """Run more replicas of a Kubernetes deployment. Ready replicas count afterwards, not what kubectl says.

    The command is `kubectl` and what must always stand behind it (`--kubeconfig`, `--context`).
    """

    name: ClassVar[str] = "scale"
    command: Command = Field(("kubectl",), description="kubectl, with the arguments that every call needs.")
    host: str | None = Field(None, description="The host that has kubectl; the first one if empty.")
    deployment: Argument = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="Name of the deployment.")
    namespace: Argument = Field("default", pattern=r"^[a-z0-9][a-z0-9-]*$", description="Its namespace.")
    replicas: int = Field(ge=1, le=1_000, description="How many replicas to run.")
    most: int = Field(
        ge=1, le=1_000, description="Never more than these: 1 where each replica would trade by itself."
    )

    def targets(self, ill: Sequence[str], hosts: Sequence[str]) -> tuple[Target, ...]:  # noqa: ARG002
        """The deployment."""
        return (Target(name=self.deployment, host=self.host or hosts[0]),)

    def reads_on(self, host: str, hosts: Sequence[str]) -> bool:
        """Only where its command runs."""
        return host == (self.host or hosts[0])

    def reads(self) -> dict[str, Command]:
        """The status command, and the deployment itself."""
        return super().reads() | {
            DEPLOYMENT: (*self.command, "get", "deployment", self.deployment, "-n", self.namespace, "-o", "json")
        }

    def note(self, notes: Notes, read: str, result: CommandResult) -> None:
        """`scale.replicas` (asked for), `scale.ready` and `scale.version` (the object's resourceVersion)."""
        if read != DEPLOYMENT:
            super().note(notes, read, result)
            return
        problem = ""
        found: dict[str, Any] = {}
        if result.exit_status != 0:
            problem = (result.stderr.strip() or f"kubectl ended with {result.exit_status}")[:200]
        else:
            try:
                found = _deployment(json.loads(result.stdout))
            except (ValueError, TypeError, KeyError, AttributeError):
                problem = "kubectl did not answer with a deployment"
        for key in _KEYS:
            if problem:
                notes.missed(f"scale.{key}", result.command, problem)
            else:
                notes.saw(f"scale.{key}", result.command, found[key])

    def problem(self, seen: Dossier, target: Target) -> str | None:
        """The deployment must be there and have fewer replicas than wanted, and the limit must allow them."""
        now = seen.on(target.host, "scale.replicas")
        if now is None or now.unknown is not None:
            return f"the deployment {target.name} cannot be read: {now.unknown if now else 'nobody looked'}"
        if self.replicas > self.most:
            return f"{self.replicas} replicas are more than the limit of {self.most}"
        if now.value >= self.replicas:
            return f"{target.name} has {now.value} replicas already"
        return super().problem(seen, target)

    def action(self, seen: Dossier, target: Target) -> Command:
        """Scale, unless somebody else has changed the deployment since it was read."""
        return self._scaled(self.replicas, f"--resource-version={seen.value(target.host, 'scale.version')}")

    def described(self, seen: Dossier, target: Target) -> Command:  # noqa: ARG002
        """Without the version of the deployment, which its controller raises all the time."""
        return self._scaled(self.replicas)

    @property
    def can_undo(self) -> bool:
        """Whether there is an inverse."""
        return True

    def undo(self, before: Snapshot) -> Command | None:
        """The number of replicas from before."""
        count = before.facts.get("scale.replicas")
        return self._scaled(count, f"--current-replicas={self.replicas}") if isinstance(count, int) else None

    def _scaled(self, replicas: int, *condition: str) -> Command:
        what = ("scale", "deployment", self.deployment, "-n", self.namespace)
        return (*self.command, *what, f"--replicas={replicas}", *condition)

    def postcondition(self, before: Snapshot, after: Dossier, target: Target) -> tuple[Reading, ...]:
        """As many replicas are ready as were asked for."""
        ready = after.on(target.host, "scale.ready")
        verdict: Verdict = "unknown"
        if ready is not None and ready.unknown is None:
            verdict = "healthy" if ready.value >= self.replicas else "unhealthy"
        reason = (
            "nobody looked" if ready is None else ready.unknown or f"{ready.value} of {self.replicas} are ready"
        )
        reading = Reading(host=target.host, check="replicas", verdict=verdict, reason=reason)
        return (reading, *super().postcondition(before, after, target))


def _deployment(document: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a deployment's JSON; without `readyReplicas` none is ready: zeros are left out."""
    current = document["status"].get("observedGeneration") == document["metadata"].get("generation")
    return {
        "replicas": int(document["spec"]["replicas"]),
        # Until the controller has seen the change, its count is of the state before.
        "ready": int(document["status"].get("readyReplicas", 0)) if current else 0,
        "version": str(document["metadata"]["resourceVersion"]),
    }
