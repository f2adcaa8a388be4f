"""A whole incident: triage, diagnosis, mitigation and verification by the plan, resolution, post-mortem.

The order of things, and nothing else. What is decided stands in `responder.domain`, what was decided in the
store: a run that is taken up again skips every phase whose outcome the store already has.
"""

from contextlib import ExitStack
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from blocks.run_history import final_state
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
    finish,
    hand_over,
    verified_ending,
)
from tasks.hold import begin_anew, stand_by
from tasks.opening import keep_lease, leave, open_incident
from tasks.publish import show_progress
from tasks.results import needs_checking, what_next
from tasks.retrying import outlast


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
    run_id, tags = str(flow_run.id), flow_run.tags
    opened = await outlast(
        lambda: open_incident(run_id, summary, service, kind, alerts or [], severity, mode, tags)
    )
    if opened.run_id != run_id:
        return final_state(attached(opened))
    if opened.status == "closed":
        return final_state(opened.ending)
    with ExitStack() as held:
        ref = await outlast(lambda: held.enter_context(keep_lease(opened)))
        held.enter_context(show_progress(ref))
        open_case(ref).emit("opened", kind=opened.kind, mode=opened.mode, summary=opened.summary)
        try:
            ending = await ending_for(ref)
            await run_phase(ref, Phase.POST_INCIDENT, PostIncidentOutcome, lambda: draft_postmortem(ref, ending))
            return final_state(await outlast(lambda: finish(ref, ending)))
        except StaleEpochError:
            leave()


async def ending_for(ref: IncidentRef) -> Ending:
    """How it ends, with people told of it: by the phases, or with a person where something breaks.

    What is only away, Prefect's server or the store, is waited for.
    """
    try:
        ending = await outlast(lambda: respond(ref))
    except StaleEpochError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever breaks here, a person must be told
        ending = Ending(outcome=Outcome.ESCALATED, reason=f"the automation failed: {error}")
    return await outlast(lambda: end_of(ref, ending))


async def respond(ref: IncidentRef) -> Ending:
    """Phases 1 to 4: until the service is confirmed, somebody else has it, or a person must."""
    while True:
        triage = await run_phase(ref, Phase.TRIAGE, TriageOutcome, lambda: detect_and_triage(ref))
        if triage.ending:
            return triage.ending
        await run_phase(ref, Phase.DIAGNOSE, DiagnosisOutcome, lambda: diagnose_incident(ref))
        ending = await follow_plan(ref)
        if ending:
            return ending


async def follow_plan(ref: IncidentRef) -> Ending | None:
    """Phases 3 and 4, step by step; None: all is looked at anew, by a person's wish or because of a new alert."""
    confirmation: ResolveOutcome | None = None
    while True:
        following = what_next(open_case(ref), confirmation)
        match following.do:
            case "ask" if following.step:
                await ask_to_act(ref, following.step)
            case "act" | "wait" if following.steps:
                await try_steps(ref, following)
            case "confirm":
                name = ":".join([Phase.RESOLVE, *(step.id for step in following.steps)])
                found = await run_phase(ref, name, ResolveOutcome, lambda: resolve(ref))
                if found.state != "not_restored":
                    return await ask_to_close(ref, verified_ending(ref, found))
                confirmation = None if following.step else found
            case "begin_anew":
                begin_anew(open_case(ref))
                return None
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
