"""What every step of one incident works with, opened once for each phase."""

import functools
import threading
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from blocks.events import Event, emit
from blocks.service import load_profile, load_ssh
from blocks.ssh import SSHCredentials
from responder.domain.errors import PermanentError
from responder.domain.evidence import Dossier, Evidence
from responder.domain.hypothesis import Catalogue, Judgement, rank, read_catalogue
from responder.domain.incident import IncidentRef, Phase
from responder.domain.profile import Host, Profile, tightened
from responder.store import Store, incident_folder, open_store
from responder.store.tables import IncidentRow


@dataclass(frozen=True)
class Case:
    """One incident as a phase sees it: the store, this run's own epoch, the profile and the way to hosts.

    What lies in Prefect is loaded when it is first asked for: most steps between the phases need none of it.
    """

    ref: IncidentRef
    store: Store
    deciding: threading.Lock = field(default_factory=threading.Lock, compare=False)
    """Held from a look at a budget until the intent that uses it up: a wave's steps share the case."""

    @functools.cached_property
    def profile(self) -> Profile:
        """The profile of the opening, tightened by edits until now."""
        kept = self.store.profile_of(self.id)
        return tightened(kept, load_profile(kept.name))

    @functools.cached_property
    def ssh(self) -> SSHCredentials:
        """The way to the hosts."""
        return load_ssh(self.profile.name)

    @property
    def id(self) -> str:
        """The incident's id."""
        return self.ref.incident_id

    @property
    def row(self) -> IncidentRow:
        """The incident as the store has it now."""
        return self.store.incident(self.id)

    @property
    def folder(self) -> Path:
        """The incident's files."""
        return incident_folder(self.id)

    def step(self, name: str, deadline_s: float) -> None:
        """Say what is being done and until when it should have ended: the page's lease hangs on it."""
        self.store.begin_step(self.id, self.ref.epoch, name, deadline_s=deadline_s)

    def keep(self, phase: str, evidence: list[Evidence]) -> Dossier:
        """Keep new evidence in the store and return all of it."""
        self.store.add_evidence(self.id, self.ref.epoch, phase, evidence)
        return self.store.dossier(self.id)

    def emit(self, event: Event, *, key: str = "", **payload: str | None) -> None:
        """Emit the incident's event for automations."""
        emit(event, incident_id=self.id, service=self.row.service, key=key, **payload)

    def host(self, name: str) -> Host:
        """The profile's host of that name. Raises `PermanentError`."""
        for host in self.profile.hosts:
            if host.name == name:
                return host
        raise PermanentError(f"the profile of {self.profile.name} knows no host {name!r}")


def open_case(ref: IncidentRef) -> Case:
    """Open an incident for a phase."""
    return Case(ref=ref, store=open_store())


def first_alert(case: Case) -> datetime:
    """When the first alert began, or the incident was opened."""
    starts = [alert.starts_at for alert in case.store.alerts(case.id) if alert.starts_at]
    return min([*starts, case.row.opened_at])


def ranking(case: Case) -> tuple[Judgement, ...]:
    """The hypotheses judged by the evidence of triage and diagnosis."""
    dossier = case.store.dossier(case.id, phases=(Phase.TRIAGE, Phase.DIAGNOSE))
    return rank(shipped_catalogue(), dossier, service=case.profile.name)


@functools.cache
def shipped_catalogue() -> Catalogue:
    """The catalogue of hypotheses that comes with the software."""
    path = files("responder") / "hypotheses" / "catalogue.yaml"
    return read_catalogue(path.read_text(), source="catalogue.yaml")
