"""What could cause this? Rank the hypotheses and make the plan."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from blocks.service import load_profile, load_ssh
from responder.domain import reports
from responder.domain.base import now
from responder.domain.evidence import Dossier
from responder.domain.hypothesis import Judgement, rank
from responder.domain.incident import DiagnosisOutcome, Kind
from responder.domain.plan import make_plan
from tasks.case import Case, ranking, shipped_catalogue
from tasks.look import look_everywhere


@task(task_run_name="form hypotheses for {case.profile.name}", cache_policy=NO_CACHE)
def hypothesise(case: Case) -> DiagnosisOutcome:
    """Rank the hypotheses by the evidence and keep the plan (document, phase 2, steps 2 and 3)."""
    ranked = ranking(case)
    plan = make_plan(
        ranked,
        service=case.profile.name,
        hosts=[host.name for host in case.profile.hosts],
        strategies=case.profile.strategies,
        kind=Kind(case.row.kind),
    )
    case.store.keep_record(case.id, case.ref.epoch, "plan", plan.model_dump(mode="json"))
    if case.row.diagnosed_at is None:
        case.store.update_incident(case.id, case.ref.epoch, diagnosed_at=now())
    return _outcome(ranked, case.store.dossier(case.id))


def _outcome(ranked: tuple[Judgement, ...], dossier: Dossier) -> DiagnosisOutcome:
    supported = [judgement for judgement in ranked if judgement.standing == "supported"]
    changes = [
        f"release of {e.host} switched at {e.value}" for e in dossier.of("changes.release_switched_at") if e.value
    ]
    if supported:
        first = supported[0]
        progress = f"{first.hypothesis.cause} ({', '.join(first.hosts)}; {first.signals} signals)"
    else:
        progress = "no hypothesis is supported by the evidence"
    return DiagnosisOutcome(
        leading=supported[0].hypothesis.id if supported else None,
        part=supported[0].hypothesis.part if supported else None,
        supported=tuple(judgement.hypothesis.id for judgement in supported),
        progress="; ".join([progress, *changes[:3]]),
    )


@task(task_run_name="look at {service} and rank the hypotheses", cache_policy=NO_CACHE)
def show_diagnosis(service: str) -> DiagnosisOutcome:
    """The same for a service without an incident, shown as artifacts of the run."""
    profile = load_profile(service)
    found = look_everywhere(profile, load_ssh(service), "diagnosis", now())
    dossier = Dossier(evidence=tuple(e.model_copy(update={"id": f"e{n}"}) for n, e in enumerate(found, start=1)))
    ranked = rank(shipped_catalogue(), dossier, service=service)
    create_markdown_artifact(reports.hypotheses(ranked), key="hypotheses")
    create_markdown_artifact(reports.evidence_table(dossier), key="evidence")
    return _outcome(ranked, dossier)
