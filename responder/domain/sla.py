"""Minutes out of SLA: from the first sign that the service was not healthy until it was confirmed restored."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from responder.domain.evidence import Dossier
from responder.domain.incident import Alert, Outcome

MONTH = timedelta(days=30)
UNHARMED = frozenset({Outcome.FALSE_ALARM, Outcome.NO_FAULT})


def first_sign(alerts: Iterable[Alert], dossier: Dossier) -> datetime | None:
    """When the first alert began to fire, or the first check was seen unhealthy. None: there is no such sign.

    A check is unhealthy as the profile says, `metrics` by its section `sla`; what could not be read is no sign.
    """
    seen = [e.at for e in dossier.evidence if e.key.endswith(".verdict") and e.value == "unhealthy"]
    return min([*seen, *(alert.starts_at for alert in alerts if alert.starts_at)], default=None)


def sla_impact(
    first: datetime | None, restored: datetime | None, *, outcome: Outcome | None, availability_percent: float
) -> str | None:
    """Minutes out of SLA and their share of what the promised availability leaves in 30 days. None: not known.

    `restored`: when all required checks were confirmed healthy. A false alarm costs nothing.
    """
    if outcome in UNHARMED:
        return "none: no check was seen out of SLA"
    if first is None or restored is None or restored < first:
        return None
    out, budget = restored - first, MONTH * (100 - availability_percent) / 100
    share = f"{out / budget:.0%} of the {_minutes(budget)}" if budget else "and none of them"
    return (
        f"out of SLA for {_minutes(out)} minutes ({_moment(first)} to {_moment(restored)} UTC): {share} that "
        f"{availability_percent:g} % availability leaves in {MONTH.days} days"
    )


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.1f}"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
