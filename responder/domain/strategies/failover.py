"""Failover: the document's answer to an infrastructure failure. A person decides it."""

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from responder.domain.evidence import Condition
from responder.domain.fields import Argument
from responder.domain.incident import Severity
from responder.domain.strategies.base import Strategy, Target


class Failover(Strategy):
    """Make the standby the primary, by a script of the service's own.

    Only with quorum, lag and fencing known (`requires`), only with what must be true of the new primary
    (`holds_when`): scripts print their usage, or leave the promotion unfinished, and return 0.
    """

    name: ClassVar[str] = "failover"
    severities: tuple[Severity, ...] = Field((), max_length=0, description="None: a person is always asked.")
    host: str | None = Field(None, description="The host that the script runs on; the first one if empty.")
    cluster: Argument = Field("database", description="What fails over, as people call it.")
    requires: tuple[Condition, ...] = Field(
        min_length=1, description="All must hold before, like quorum, lag and fencing; unknown means no."
    )
    holds_when: tuple[Condition, ...] = Field(
        min_length=1, description="All must hold afterwards: the new primary takes writes, the old one does not."
    )

    @model_validator(mode="after")
    def _can_be_known(self) -> Self:
        if self.status is None or not self.facts:
            raise ValueError("give `status` and `facts`: without them neither condition can ever be known")
        return self

    def targets(self, ill: Sequence[str], hosts: Sequence[str]) -> tuple[Target, ...]:  # noqa: ARG002
        """The cluster."""
        return (Target(name=self.cluster, host=self.host or hosts[0]),)

    def reads_on(self, host: str, hosts: Sequence[str]) -> bool:
        """Only where its command runs."""
        return host == (self.host or hosts[0])
