"""Opening an incident: which service it is, how much may happen, and the lease of the run."""

import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.exc import SQLAlchemyError

from blocks.service import load_profile, saved_profiles
from responder.domain.errors import PermanentError, StaleEpochError
from responder.domain.incident import Alert, IncidentRef, Kind, Mode, Severity, clean_alert, lowest_mode
from responder.domain.notices import plain
from responder.domain.profile import Profile
from responder.store import open_store
from responder.store.alerts import FOR
from responder.store.tables import IncidentRow


@task(task_run_name="open the incident", cache_policy=NO_CACHE)
def open_incident(
    run_id: str,
    summary: str,
    service: str | None,
    kind: Kind,
    alerts: Sequence[Alert],
    severity: Severity | None,
    mode: Mode | None,
    tags: Sequence[str] = (),
) -> IncidentRow:
    """The incident of this run, opened or found again after a crash.

    `tags` of the run name the incident that it was made for, if alerts opened it. The row of another run means
    that it is attached to that one. Raises `PermanentError` when no profile, or more than one, fits.
    """
    profile = _profile_for(service, alerts)
    named = [rule.kind for alert in alerts if (rule := profile.rule_for(alert))]
    return open_store().open_incident(
        run_id=run_id,
        profile=profile,
        summary=str(plain(summary, 300)),
        kind=next((k for k in (Kind.SECURITY, Kind.RISK) if k in (kind, *named)), kind),
        mode=lowest_mode(profile.mode, mode or Mode.LIVE),
        alerts=[Alert.model_validate(clean_alert(alert.model_dump(mode="json"))) for alert in alerts],
        severity=severity,
        declared=not alerts,
        dispatched=next((tag.removeprefix(FOR) for tag in tags if tag.startswith(FOR)), None),
    )


def _profile_for(service: str | None, alerts: Sequence[Alert]) -> Profile:
    if service:
        return load_profile(service)
    fitting = [profile for profile in saved_profiles() if any(map(profile.selects, alerts))]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(profile.name for profile in fitting)
    raise PermanentError(
        f"the alerts' labels select more than one service ({names}); name one, or narrow `alerts.match`"
        if fitting
        else "no service is named and the alerts' labels select none; name one (`incident service list`)"
    )


@contextmanager
def keep_lease(ref_of: IncidentRow) -> Iterator[IncidentRef]:
    """Hold the run's lease while the block runs; a thread renews it. The epoch rises: an older run ends."""
    store = open_store()
    clock = Profile.model_validate(ref_of.profile).clock
    holder = f"{socket.gethostname()}:{os.getpid()}"
    epoch = store.begin_run(ref_of.id, holder=holder, lease_s=clock.run_lease_s)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(clock.run_lease_s / 4):
            try:
                store.renew_run(ref_of.id, epoch, lease_s=clock.run_lease_s)
            except StaleEpochError:
                if not done.is_set():
                    leave()
            except SQLAlchemyError as error:
                # The lease may lapse meanwhile; then another run takes over and this one leaves.
                logging.getLogger(__name__).warning("The run's lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="run-lease", daemon=True)
    thread.start()
    try:
        yield IncidentRef(incident_id=ref_of.id, epoch=epoch, mode=Mode(ref_of.mode))
    finally:
        done.set()
        thread.join()


def leave() -> NoReturn:
    """End this process at once and in silence: another run has taken the incident up.

    Raising would let Prefect write a final state over the run that both processes share.
    """
    os._exit(0)
