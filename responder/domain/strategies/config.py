"""Config change: the document's answer to a misconfiguration. The last good file is put back."""

from typing import ClassVar

from pydantic import Field

from responder.domain.commands import CommandResult
from responder.domain.evidence import Dossier, Verdict
from responder.domain.fields import Argument, Command
from responder.domain.notes import Notes
from responder.domain.readings import Reading, Snapshot
from responder.domain.strategies.base import Strategy, Target

GOOD = "good"
# The bad file is kept: it is evidence, and what an undo brings back.
_PUT_BACK = 'cp -p -- "$1" "$1.bad" && cp -p -- "$2" "$1" && shift 2 && exec "$@"'
_UNDO = 'cp -p -- "$1.bad" "$1" && shift 1 && exec "$@"'


class Config(Strategy):
    """Put the last good copy of the configuration back, and let the service read it.

    The command is what makes the service read its file anew, like `systemctl reload-or-restart`.
    """

    name: ClassVar[str] = "config"
    file: Argument = Field(description="Path of the configuration, which the login user may write.")
    good: Argument = Field(description="The last good copy of it.")

    def reads(self) -> dict[str, Command]:
        """The status command, and whether file and copy are the same."""
        return super().reads() | {GOOD: ("cmp", "-s", "--", self.file, self.good)}

    def note(self, notes: Notes, read: str, result: CommandResult) -> None:
        """`config.is_good`: whether the file is the same as the last good copy."""
        if read != GOOD:
            super().note(notes, read, result)
        elif result.exit_status in (0, 1):
            notes.saw("config.is_good", result.command, result.exit_status == 0)
        else:
            notes.missed("config.is_good", result.command, "the file or its good copy cannot be read")

    def problem(self, seen: Dossier, target: Target) -> str | None:
        """There must be a good copy, and it must differ."""
        same = seen.on(target.host, "config.is_good")
        if same is None or same.unknown is not None:
            return f"{self.file} cannot be compared with {self.good} on {target.host}"
        if same.value:
            return f"{self.file} on {target.host} is the good one already"
        return super().problem(seen, target)

    def action(self, seen: Dossier, target: Target) -> Command:  # noqa: ARG002
        """Keep the bad file, copy the good one over it, reload."""
        return ("sh", "-c", _PUT_BACK, "config", self.file, self.good, *self.command)

    @property
    def can_undo(self) -> bool:
        """Whether there is an inverse."""
        return True

    def undo(self, before: Snapshot) -> Command | None:
        """The file from before."""
        known = before.facts.get("config.is_good") is False
        return ("sh", "-c", _UNDO, "config", self.file, *self.command) if known else None

    def postcondition(self, before: Snapshot, after: Dossier, target: Target) -> tuple[Reading, ...]:
        """The file is the good one."""
        same = after.value(target.host, "config.is_good")
        verdict: Verdict = "unknown" if same is None else "healthy" if same else "unhealthy"
        words = {"healthy": "the good one", "unhealthy": "not the good one", "unknown": "not to be compared"}
        reading = Reading(
            host=target.host, check="configuration", verdict=verdict, reason=f"{self.file} is {words[verdict]}"
        )
        return (reading, *super().postcondition(before, after, target))
