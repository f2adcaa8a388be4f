"""Who is asked to join an incident, and who next when they refuse or stay silent.

Source: the document's phase 1, "Page additional responders if P1/P2", and its "Emergency Contacts" with the
columns Primary and Backup.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from responder.domain.base import Frozen, UtcDatetime
from responder.domain.profile import BY_PAGERDUTY, BY_SLACK, Contact, Profile

REFUSALS = frozenset({"declined", "user_cancelled"})


class Asked(Frozen):
    """One call for people: by which name of the profile, since when, and why PagerDuty would not make it."""

    name: str
    at: UtcDatetime
    refused: str = ""


class Answers(Frozen):
    """What PagerDuty knows of those who were asked. `states` are those of the people behind each name."""

    acknowledged: bool = False
    states: Mapping[str, tuple[str, ...]] = {}

    def refused(self, name: str) -> bool:
        """Whether everybody behind the name said no."""
        said = self.states.get(name, ())
        return bool(said) and all(state in REFUSALS for state in said)

    @property
    def somebody(self) -> bool:
        """Whether anybody has taken it: then silence of the others wakes nobody more."""
        return self.acknowledged or any("joined" in said for said in self.states.values())


class Call(Frozen):
    """Ask the backup of `name`: by a name at PagerDuty or in a Slack channel; neither where only people can."""

    name: str
    backup: str
    why: str
    pagerduty: str | None = None
    slack: str | None = None

    @property
    def decision(self) -> str:
        """Like `asks the backup of db-oncall: slack:#db-oncall`."""
        does = "asks" if self.pagerduty or self.slack else "cannot reach"
        return f"{does} the backup of {self.name}: {self.backup}"


def contact_of(profile: Profile, name: str) -> Contact | None:
    """The contact whose primary is the policy or user of that name."""
    return next((contact for contact in profile.contacts if contact.primary == f"{BY_PAGERDUTY}{name}"), None)


def backup_of(profile: Profile, name: str) -> str | None:
    """How the backup is reached: the contact's own, else Slack's backup channel; None where there is neither."""
    contact = contact_of(profile, name)
    channel = profile.slack.backup_channel if profile.slack else None
    return (contact.backup if contact else None) or (f"{BY_SLACK}{channel}" if channel else None)


def next_calls(
    profile: Profile, asked: Sequence[Asked], answers: Answers, *, at: datetime, made: Collection[str] = ()
) -> tuple[Call, ...]:
    """The backups to ask now; `made` are the names whose backup has been asked already.

    A refusal counts at once. Silence counts once the profile's clock has run out and nobody at all has
    acknowledged or joined. A backup that was asked itself is asked no second time.
    """
    silence = timedelta(seconds=profile.clock.silence_s)
    known = {one.name for one in asked}
    calls = []
    for name in dict.fromkeys(one.name for one in asked):
        if name in made or (backup := backup_of(profile, name)) is None:
            continue
        last = [one for one in asked if one.name == name][-1]
        if last.refused:
            why = f"PagerDuty does not ask {name}: {last.refused}"
        elif answers.refused(name):
            why = f"{name} declined to join"
        elif not answers.somebody and at - last.at >= silence:
            why = f"nobody has joined or acknowledged {silence.total_seconds():g} s after {name} was asked"
        else:
            continue
        called = backup.removeprefix(BY_PAGERDUTY) if backup.startswith(BY_PAGERDUTY) else None
        if called is None or called not in known:
            calls.append(
                Call(name=name, backup=backup, why=why, pagerduty=called, slack=_channel(profile, backup))
            )
    return tuple(calls)


def _channel(profile: Profile, backup: str) -> str | None:
    """The channel to post to: the backup's, or for one that only people can reach the backup channel."""
    if backup.startswith(BY_PAGERDUTY) or profile.slack is None:
        return None
    return backup.removeprefix(BY_SLACK) if backup.startswith(BY_SLACK) else profile.slack.backup_channel
