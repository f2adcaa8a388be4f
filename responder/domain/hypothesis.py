"""Hypotheses: possible causes, read from data, judged by evidence for, against and missing.

Source: the document's phase 2, "Form hypothesis". The shipped catalogue is `responder/hypotheses/`.
"""

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import Literal

from pydantic import Field, model_validator

from responder.domain.base import Frozen
from responder.domain.documents import load_document
from responder.domain.evidence import Condition, Dossier, Finding, Truth, all_of, any_of
from responder.domain.predicates import PREDICATES
from responder.domain.strategies import WAIT, StrategyName


class Hypothesis(Frozen):
    """One row of the catalogue."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]{2,49}$", description="Name that scenarios and records use.")
    part: str = Field(description="The part of the system that it is about.")
    cause: str = Field(description="The likely cause, one sentence for people.")
    requires: tuple[Condition, ...] = Field(min_length=1, description="All must hold for it to be supported.")
    supports: tuple[Condition, ...] = Field((), description="Further signals that make it more likely.")
    refutes: tuple[Condition, ...] = Field((), description="Any of these rules it out.")
    outranks: tuple[str, ...] = Field((), description="Less specific hypotheses that it goes before.")
    explains: tuple[str, ...] = Field((), description="Checks whose silence it explains, like `metrics`.")
    strategy: StrategyName = Field(description="What to do about it.")
    why: str = Field(description="Why this strategy.")
    verify_after: str = Field("", description="What must be seen afterwards.")
    danger: str = Field("", description="What the strategy may break.")
    capture: bool = Field(False, description="Save the process' state before ending it.")
    prevention: str = Field(description="Text of the prevention ticket.")
    monitoring: str = Field(description="Text of the monitoring ticket.")
    documentation: str = Field(description="Text of the documentation ticket.")


class Catalogue(Frozen):
    """The hypotheses in the order in which they are checked: a later one counts after the earlier ones."""

    schema_version: Literal[1] = Field(description="Version of the file's format.")
    hypotheses: tuple[Hypothesis, ...] = Field(min_length=1, description="The order counts.")

    @model_validator(mode="after")
    def _consistent(self) -> "Catalogue":
        ids = [hypothesis.id for hypothesis in self.hypotheses]
        if len(set(ids)) != len(ids):
            raise ValueError("two hypotheses have the same id")
        for hypothesis in self.hypotheses:
            for other in hypothesis.outranks:
                if other not in ids:
                    raise ValueError(f"{hypothesis.id} outranks {other!r}, which does not exist")
            for condition in (*hypothesis.requires, *hypothesis.supports, *hypothesis.refutes):
                if condition.predicate and condition.predicate not in PREDICATES:
                    raise ValueError(f"{hypothesis.id}: no predicate is called {condition.predicate!r}")
        try:
            TopologicalSorter({each.id: each.outranks for each in self.hypotheses}).prepare()
        except CycleError as error:
            raise ValueError(f"these outrank each other in a circle: {', '.join(error.args[1])}") from None
        return self

    def get(self, hypothesis_id: str) -> Hypothesis:
        """The hypothesis of that id. Raises KeyError."""
        return {hypothesis.id: hypothesis for hypothesis in self.hypotheses}[hypothesis_id]


def read_catalogue(text: str, *, source: str) -> Catalogue:
    """The catalogue in `text`. Raises `ProfileError` with line and nearest key for each mistake."""
    return load_document(text, Catalogue, source=source, page="docs/catalogue.md#the-file")


class Judgement(Frozen):
    """What the evidence says of one hypothesis, on which hosts."""

    hypothesis: Hypothesis
    standing: Literal["supported", "refuted", "open"]
    hosts: tuple[str, ...] = Field(description="Where it is supported; none unless it is.")
    supporting: tuple[Finding, ...]
    refuting: tuple[Finding, ...]
    missing: tuple[Finding, ...]

    @property
    def signals(self) -> int:
        """How many findings speak for it."""
        return len(self.supporting)


def judge(hypothesis: Hypothesis, dossier: Dossier, *, service: str) -> Judgement:
    """Weigh one hypothesis against the evidence.

    Every host is judged by its own evidence together with what was seen of the whole service, so that
    a cause is never put together from the symptoms of two hosts.
    """
    whole = dossier.for_host(service)
    hosts = [host for host in dossier.hosts if host != service] or [service]
    views = {host: whole if host == service else whole.plus(dossier.for_host(host).evidence) for host in hosts}
    standings = {host: _standing(hypothesis, view) for host, view in views.items()}
    supported = tuple(host for host, standing in standings.items() if standing == "supported")
    standing = next((s for s in ("supported", "open", "refuted") if s in standings.values()), "open")
    shown = [view for host, view in views.items() if standings[host] == standing]

    findings = [_check(c, view) for view in shown for c in (*hypothesis.requires, *hypothesis.supports)]
    against = [_check(condition, view) for view in shown for condition in hypothesis.refutes]
    return Judgement(
        hypothesis=hypothesis,
        standing=standing,
        hosts=supported,
        supporting=_unique(f for f in findings if f.truth is Truth.TRUE),
        refuting=_unique(
            [f for f in findings if f.truth is Truth.FALSE] + [f for f in against if f.truth is Truth.TRUE]
        ),
        missing=_unique(f for f in [*findings, *against] if f.truth is Truth.UNKNOWN),
    )


def rank(catalogue: Catalogue, dossier: Dossier, *, service: str) -> tuple[Judgement, ...]:
    """All hypotheses, the likeliest first.

    Supported before open before refuted. Among the supported, those that only say "wait" come last: a
    known defect of the monitoring must not hide an outage; then one that another outranks goes behind
    it. Otherwise the catalogue's order holds.
    """
    judged = [judge(hypothesis, dossier, service=service) for hypothesis in catalogue.hypotheses]
    order = {"supported": 0, "open": 1, "refuted": 2}

    def place(judgement: Judgement) -> tuple[int, bool]:
        return (order[judgement.standing], judgement.hypothesis.strategy == WAIT)

    return tuple(
        judgement
        for (standing, _), group in groupby(sorted(judged, key=place), key=place)
        for judgement in (_by_outranking(group) if standing == 0 else group)
    )


def _by_outranking(judgements: Iterable[Judgement]) -> Iterator[Judgement]:
    left = list(judgements)
    while left:
        outranked = {other for j in left for other in j.hypothesis.outranks}
        first = next(j for j in left if j.hypothesis.id not in outranked)  # no circles: the catalogue refuses them
        left.remove(first)
        yield first


def _check(condition: Condition, view: Dossier) -> Finding:
    return condition.check(view, PREDICATES)


def _standing(hypothesis: Hypothesis, view: Dossier) -> Literal["supported", "refuted", "open"]:
    required = all_of(_check(condition, view) for condition in hypothesis.requires)
    refuted = any_of(_check(condition, view) for condition in hypothesis.refutes)
    if required is Truth.FALSE or refuted is Truth.TRUE:
        return "refuted"
    return "supported" if required is Truth.TRUE and refuted is Truth.FALSE else "open"


def _unique(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(dict.fromkeys(findings))
