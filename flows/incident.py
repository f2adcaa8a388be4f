"""A whole incident: triage, diagnosis, mitigation and verification by the plan, resolution, post-mortem.

The order of things, and nothing else. What is decided stands in `responder.domain`, what was decided in the
store: a run that is taken up again skips every phase whose outcome the store already has.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from flows.detect_and_triage import detect_and_triage
from flows.diagnose import diagnose_incident
from flows.mitigate import mitigate
from flows.phases import incident_name, run_phase
from flows.post_incident import draft_postmortem
from flows.resolve import resolve
from flows.verify import verify_attempt
from responder.domain.errors import StaleEpochError
from responder.domain.incident import (
    SUMMARY_LIMIT,
    Alert,
    Attempts,
    Checks,
    DiagnosisOutcome,
    Ending,
    IncidentRef,
    Kind,
    Mode,
    Outcome,
    Phase,
    PostIncidentOutcome,
    ResolveOutcome,
    Severity,
    TriageOutcome,
)
from responder.domain.plan import NextStep
from tasks.approval import ask_to_act
from tasks.case import open_case
from tasks.closing import (
    ask_to_close,
    attached,
    end_of,
    ending_of,
    final_state,
    finish,
    hand_over,
    verified_ending,
)
from tasks.hold import stand_by
from tasks.opening import keep_lease, leave, open_incident
from tasks.publish import show_progress
from tasks.results import needs_checking, what_next


@flow(name="incident", flow_run_name=incident_name)
async def incident(
    summary: Annotated[str, Field(min_length=3, max_length=SUMMARY_LIMIT, examples=["Orders hang since 14:05"])],
    service: Annotated[str | None, Field(examples=["veloz"])] = None,
    kind: Kind = Kind.AVAILABILITY,
    alerts: Annotated[
        list[Alert] | None, Field(examples=[[{"name": "VelozGatewayDown", "labels": {"service": "veloz"}}]])
    ] = None,
    severity: Severity | None = None,
    mode: Mode | None = None,
) -> State[Any]:
    """Run an incident of a service from triage to post-mortem.

    Args:
        summary: What is wrong, in your own words, like `Orders hang since 14:05`.
        service: Choose `str` and name a saved service, like `veloz`; `incident service list` shows them.
            None: the alerts' labels select it.
        kind: Something does not work (availability), somebody may have broken in (security), or a limit of
            trading risk is breached (risk). Security and risk are for people: nothing is changed.
        alerts: The alerts that began it, each with at least its name. None: you begin it.
        severity: At least this: P1 critical, P2 high, P3 medium, P4 low. None: the profile's rules decide.
        mode: At most this: dry-run reads and changes nothing, shadow is a dry run to compare with what people
            do, live acts. None: what the profile allows.
    """
    opened = open_incident(str(flow_run.id), summary, service, kind, alerts or [], severity, mode)
    if opened.run_id != str(flow_run.id):
        return final_state(attached(opened))
    if opened.status == "closed":
        return final_state(ending_of(opened))
    with keep_lease(opened) as ref, show_progress(ref):
        try:
            ending = await respond(ref)
        except StaleEpochError:
            leave()
        except Exception as error:  # noqa: BLE001 - whatever breaks here, a person must be told
            ending = Ending(outcome=Outcome.ESCALATED, reason=f"the automation failed: {error}")
        ending = end_of(ref, ending)
        await run_phase(ref, Phase.POST_INCIDENT, PostIncidentOutcome, lambda: draft_postmortem(ref, ending))
        return final_state(finish(ref, ending))


async def respond(ref: IncidentRef) -> Ending:
    """Phases 1 to 4: until the service is confirmed, somebody else has it, or a person must."""
    triage = await run_phase(ref, Phase.TRIAGE, TriageOutcome, lambda: detect_and_triage(ref))
    if triage.ending:
        return triage.ending
    while True:
        await run_phase(ref, Phase.DIAGNOSE, DiagnosisOutcome, lambda: diagnose_incident(ref))
        ending = await follow_plan(ref)
        if ending:
            return ending


async def follow_plan(ref: IncidentRef) -> Ending | None:
    """Phases 3 and 4, step by step; None: a person has given the incident back, and all is looked at anew."""
    confirmation: ResolveOutcome | None = None
    while True:
        following = what_next(open_case(ref), confirmation)
        match following.do:
            case "ask" if following.step:
                await ask_to_act(ref, following.step)
            case "act" | "wait" if following.steps:
                await try_steps(ref, following)
            case "confirm":
                confirmation = await run_phase(ref, Phase.RESOLVE, ResolveOutcome, lambda: resolve(ref))
                if confirmation.state != "not_restored":
                    return await ask_to_close(ref, verified_ending(ref, confirmation))
            case "stand_back":
                return stand_by(open_case(ref), following.reason)
            case _:
                return hand_over(following)


async def try_steps(ref: IncidentRef, following: NextStep) -> None:
    """One wave of the plan, most often a single step: attempts, then their verification by fresh probes."""
    step_ids = [step.id for step in following.steps]
    if following.do == "act":
        name = ":".join(filter(None, (Phase.MITIGATE, step_ids[0], following.approval)))
        tried = await run_phase(ref, name, Attempts, lambda: mitigate(ref, step_ids))
        step_ids = [step_id for step_id, attempt in tried.outcomes.items() if needs_checking(attempt)]
    if step_ids:
        await run_phase(ref, f"{Phase.VERIFY}:{step_ids[0]}", Checks, lambda: verify_attempt(ref, step_ids))
