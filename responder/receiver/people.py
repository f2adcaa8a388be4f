"""What people ask and say: incidents, questions and answers, taking over, giving back, stopping everything."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path
from pydantic import Field, model_validator

from responder.domain.approval import Answer, Decision, Question, still_needed
from responder.domain.base import Frozen, Text, UtcDatetime
from responder.domain.errors import NotFoundError, PermanentError
from responder.receiver.access import Kept, Person, person_of
from responder.store.tables import IncidentRow

router = APIRouter(dependencies=[Depends(person_of)])

IncidentId = Annotated[str, Path(alias="id", max_length=40, description="Id of the incident, or its beginning.")]
Why = Annotated[Text, Field(max_length=1_000, description="The reason, for the record.")]


class Incident(Frozen):
    """An open incident."""

    id: str
    service: str
    kind: str
    mode: str
    severity: str | None
    summary: str
    opened_at: UtcDatetime
    taken_by: str | None = Field(description="The person who has taken it over.")


class OpenQuestion(Frozen):
    """What is asked before a step that is not taken without people."""

    question: str = Field(description="Digest of all that is asked; the answer is bound to it.")
    cause: str = Field(description="Id of the hypothesis.")
    strategy: str
    target: str
    host: str = Field(description="Where the command would run.")
    command: tuple[str, ...]
    why: str
    blast_radius: tuple[str, ...] = Field(description="What it touches, a sentence each.")
    still_needed: str = Field(description="Who has still to say yes.")
    until: UtcDatetime = Field(description="Then it is declined: silence is no consent.")


class GivenAnswer(Frozen):
    """A person's answer; who it is, the token says."""

    question: str = Field(pattern="^[0-9a-f]{16}$", description="Digest of the question that is answered.")
    decision: Decision
    strategy: Text = Field("", max_length=50, description="For `another strategy`: which one of the profile.")
    why: Why = ""

    @model_validator(mode="after")
    def _names_another(self) -> Self:
        if bool(self.strategy) != (self.decision is Decision.ANOTHER):
            raise ValueError(f"a strategy is named with the decision `{Decision.ANOTHER}`, and only with it")
        return self


class Taken(Frozen):
    """How a question stands after an answer."""

    decided: Decision | None = Field(description="What was decided; null while more people are needed.")
    by: str = Field(description="Whose answer it was.")
    still_needed: str | None = Field(description="Who has still to say yes; null when it is decided.")


class Reason(Frozen):
    """Why somebody does it."""

    why: Why = "no reason given"


class Stop(Frozen):
    """Whether everything is stopped."""

    stopped: bool
    by: str | None = Field(description="Who stopped it, when and why.")


@router.get("/incidents")
def incidents(store: Kept) -> tuple[Incident, ...]:
    """The open incidents, the newest first."""
    return tuple(_incident(row) for row in store.open_incidents())


@router.get("/incidents/{id}/question")
def question(incident_id: IncidentId, store: Kept) -> OpenQuestion:
    """What the incident's run waits for people to answer. 404 when it asks nothing."""
    row = store.incident(incident_id)
    found = store.open_question(row.id)
    if found is None:
        raise NotFoundError(f"incident {row.id} asks nothing at the moment")
    asked, until = found
    return _shown(asked.question, still_needed(asked.question, asked.answers), until)


@router.post("/incidents/{id}/answer")
def answer(incident_id: IncidentId, given: GivenAnswer, person: Person, store: Kept) -> Taken:
    """Approve, decline, or name another strategy. 409 when it is decided already, or asked otherwise now."""
    row = store.incident(incident_id)
    if given.strategy and given.strategy not in (known := store.profile_of(row.id).strategies):
        raise PermanentError(
            f"the profile of {row.service} has no strategy {given.strategy!r}: {', '.join(known)}"
        )
    said = Answer(decision=given.decision, by=person, why=given.why, strategy=given.strategy, proven=True)
    asked = store.answer(row.id, given.question, said)
    decided = asked.decided
    return Taken(
        decided=decided.decision if decided else None,
        by=person,
        still_needed=None if decided else still_needed(asked.question, asked.answers),
    )


@router.post("/incidents/{id}/take-over")
def take_over(incident_id: IncidentId, reason: Reason, person: Person, store: Kept) -> Incident:
    """Take an incident over: nothing is changed for it any more. 409 when it is closed, or another has it."""
    return _incident(store.take_over(store.incident(incident_id).id, who=person, why=reason.why))


@router.post("/incidents/{id}/give-back")
def give_back(incident_id: IncidentId, reason: Reason, person: Person, store: Kept) -> Incident:
    """Give an incident back: it looks afresh and goes on. 409 when it has ended for another reason."""
    return _incident(store.give_back(store.incident(incident_id).id, who=person, why=reason.why))


@router.get("/stop")
def stopped(store: Kept) -> Stop:
    """Whether everything is stopped."""
    by = store.stopped()
    return Stop(stopped=by is not None, by=by)


@router.post("/stop")
def stop(reason: Reason, person: Person, store: Kept) -> Stop:
    """Stop everything: nothing is changed anywhere until it is lifted."""
    store.stop(stopped=True, who=person, why=reason.why)
    return stopped(store)


@router.delete("/stop")
def lift(reason: Reason, person: Person, store: Kept) -> Stop:
    """Let it act again."""
    store.stop(stopped=False, who=person, why=reason.why)
    return stopped(store)


def _incident(row: IncidentRow) -> Incident:
    return Incident.model_validate({name: getattr(row, name) for name in Incident.model_fields})


def _shown(asked: Question, needed: str, until: UtcDatetime) -> OpenQuestion:
    same = ("cause", "strategy", "target", "host", "command", "why")
    return OpenQuestion(
        **{name: getattr(asked, name) for name in same},
        question=asked.digest,
        blast_radius=asked.radius,
        still_needed=needed,
        until=until,
    )
