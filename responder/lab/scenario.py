"""Scenarios: files that say what breaks, who notices, and what a right response is.

Times are real seconds of the drill, counted from its begin.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from responder.domain.base import Frozen
from responder.domain.documents import load_document
from responder.domain.errors import ProfileError
from responder.domain.incident import Kind, Outcome, Severity
from responder.domain.strategies import StrategyName
from responder.lab.faults import AnyFault

DIRECTORY = Path(__file__).parent / "scenarios"

Verb = Literal[
    "start",
    "stop",
    "restart",
    "reload",
    "reload-or-restart",
    "reset-failed",
    "rollback",
    "scale",
    "config",
    "failover",
]
"""What a host counts: a verb of systemctl, or a change of release, replicas, configuration or primary."""


class ScenarioAlert(Frozen):
    """An alert of the monitoring system. The lab adds the labels service, instance, job and severity."""

    at_s: float = Field(0, ge=0, description="When it fires.")
    name: str = Field(min_length=1, description="The alert's name.")
    severity: str = Field("critical", description="Its severity label, as monitoring understands it.")
    host: int = Field(0, ge=0, description="Number of the host that its instance label names.")
    summary: str = Field("", description="Its summary; if empty, made of its name and the host's.")
    labels: dict[str, str] = Field(default_factory=dict, description="Further labels; they win.")
    resolves_at_s: float | None = Field(None, description="When it stops firing; never if empty.")

    @model_validator(mode="after")
    def _resolves_after_it_fires(self) -> "ScenarioAlert":
        if self.resolves_at_s is not None and self.resolves_at_s <= self.at_s:
            raise ValueError("resolves_at_s must be later than at_s")
        return self


class Declaration(Frozen):
    """A person declares the incident."""

    summary: str = Field(min_length=1, description="What the person writes.")
    severity: Severity | None = Field(None, description="What the person set, if anything.")
    kind: Kind = Field(Kind.AVAILABILITY, description="What kind of incident the person calls it.")


class Trigger(Frozen):
    """How the incident begins: by alerts, or by a person."""

    alerts: tuple[ScenarioAlert, ...] = Field((), description="The first one to fire begins the incident.")
    declare: Declaration | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Trigger":
        if bool(self.alerts) == bool(self.declare):
            raise ValueError("give either alerts or declare")
        return self


class Person(Frozen):
    """What a person does when the incident asks for a decision."""

    at: Literal["approval"] = Field("approval", description="What the person is asked for.")
    decision: Literal["approve", "decline", "silent"] = Field(description="The answer; silent never answers.")
    by: str = Field("Ann", min_length=1, description="The person's name.")
    strategy: StrategyName | None = Field(
        None, description="Only where this strategy is asked about; any if empty."
    )


class Expectation(Frozen):
    """What a right response ends with."""

    severity: Severity | None = Field(None, description="Empty if none is right.")
    cause: str | None = Field(None, description="Id of the hypothesis, empty if there is no cause to find.")
    strategies: tuple[StrategyName, ...] = Field((), description="Strategies that may be tried.")
    outcome: Outcome = Field(description="How the run must end.")


class Never(Frozen):
    """What must not happen."""

    actions: tuple[Verb, ...] = Field((), description="Verbs that no host may count.")
    more_actions_than: int | None = Field(None, ge=0, description="Actions on any one host.")
    more_pages_than: int | None = Field(None, ge=0, description="Times that people are notified by us.")


class Scenario(Frozen):
    """One scenario file."""

    schema_version: Literal[1] = Field(description="Version of the file's format.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Its name in results.")
    summary: str = Field(min_length=1, description="One sentence: what happens and what is right.")
    hosts: int = Field(1, ge=1, le=50, description="Number of hosts.")
    restart_policy: Literal["on-failure", "always"] | None = Field(
        None, description="The units' Restart=; a dead unit stays dead if empty."
    )
    trigger: Trigger
    faults: tuple[AnyFault, ...] = Field((), description="What breaks; nothing if empty.")
    profile: dict[str, Any] = Field(
        default_factory=dict, description="What is another in the lab's profile, key by key, like a lower limit."
    )
    people: tuple[Person, ...] = Field((), description="Who decides what; the first one whom it is for answers.")
    expect: Expectation
    never: Never = Never()

    @model_validator(mode="after")
    def _hosts_exist(self) -> "Scenario":
        named = [fault.host for fault in self.faults] + [alert.host for alert in self.trigger.alerts]
        if wrong := sorted({n for n in named if isinstance(n, int) and not 0 <= n < self.hosts}):
            raise ValueError(f"no host {wrong[0]}: with hosts: {self.hosts} they are 0 to {self.hosts - 1}")
        return self


def load_scenario(name_or_path: str | Path) -> Scenario:
    """The scenario of this name, or of this file. Raises `ProfileError`: no such, or what is wrong in it."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = DIRECTORY / f"{name_or_path}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(scenario_names())
        raise ProfileError(
            f"{name_or_path}: no scenario to read ({error}); there are: {known}", page="docs/scenarios.md"
        ) from error
    return load_document(text, Scenario, source=str(path), page="docs/scenarios.md#the-file")


def scenario_names() -> list[str]:
    """Names of the scenarios that come with the lab."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))
