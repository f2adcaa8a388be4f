"""Rollback: the document's answer to a bad deployment."""

from typing import ClassVar

from pydantic import Field

from responder.domain.commands import CommandResult
from responder.domain.evidence import Dossier
from responder.domain.fields import Command
from responder.domain.notes import Notes
from responder.domain.readings import Reading, Snapshot
from responder.domain.strategies.base import Strategy, Target
from responder.domain.strategies.restart import restarted

SCRIPT = "script"


class Rollback(Strategy):
    """Go back to the release before, by a script of the service's own.

    A script that is missing, prints its usage or waits for a "yes" that nobody says changes nothing and may
    return 0 all the same: only another release that is running afterwards counts.
    """

    name: ClassVar[str] = "rollback"
    script: str | None = Field(None, description="Path of the script, which must be there before it is tried.")
    back: Command | None = Field(
        None, description="Argument list that brings a release back, `{release}` being the one before."
    )

    def reads(self) -> dict[str, Command]:
        """The status command, and whether the script is there."""
        script: dict[str, Command] = {SCRIPT: ("test", "-x", self.script)} if self.script else {}
        return super().reads() | script

    def note(self, notes: Notes, read: str, result: CommandResult) -> None:
        """`rollback.script`: whether it is there and may be run."""
        if read != SCRIPT:
            super().note(notes, read, result)
        elif result.exit_status in (0, 1):
            notes.saw("rollback.script", result.command, result.exit_status == 0)
        else:
            notes.missed("rollback.script", result.command, f"test ended with {result.exit_status}")

    def problem(self, seen: Dossier, target: Target) -> str | None:
        """The script must be there, and the release that runs must be known: else nothing could be verified."""
        if self.script and not seen.value(target.host, "rollback.script"):
            return f"{self.script} is not there, or may not be run, on {target.host}"
        if seen.value(target.host, "changes.release") is None:
            return f"it cannot be told which release runs on {target.host} (`unit.release_link` in the profile)"
        return super().problem(seen, target)

    @property
    def can_undo(self) -> bool:
        """Whether there is an inverse."""
        return self.back is not None

    def undo(self, before: Snapshot) -> Command | None:
        """Back to the release from before."""
        if self.back is None or before.release is None:
            return None
        return tuple(part.replace("{release}", release_name(before.release)) for part in self.back)

    def postcondition(self, before: Snapshot, after: Dossier, target: Target) -> tuple[Reading, ...]:
        """Another release than before, run by another process."""
        release = after.value(target.host, "changes.release")
        if release is None:
            reading = Reading(host=target.host, check="release", verdict="unknown", reason="no release was seen")
        elif release == before.release:
            reason = f"{release_name(release)} is the release from before"
            reading = Reading(host=target.host, check="release", verdict="unhealthy", reason=reason)
        else:
            reason = f"{release_name(release)} replaced {release_name(before.release or 'an unknown release')}"
            reading = Reading(host=target.host, check="release", verdict="healthy", reason=reason)
        mine = (reading, restarted(before, after, target.host))
        return (*mine, *super().postcondition(before, after, target))


def release_name(release: str) -> str:
    """The last part of what a release link says: `'current' -> 'releases/1.4.1'` is 1.4.1."""
    return release.rstrip("'\"/ ").rpartition("/")[2]
