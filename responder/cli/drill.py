"""Drills: a scenario breaks the lab, an incident repairs it, and both are compared with what is right."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from responder.cli.live import Live
from responder.cli.output import people
from responder.domain.approval import Answer, Decision
from responder.domain.plan import UNDO
from responder.domain.profile import Profile, read_profile
from responder.installation import Installation
from responder.lab.lab import Lab, LabFacts
from responder.lab.pagerduty import Page
from responder.lab.scenario import Person, Scenario
from responder.store import Store, data_folder, open_store

ANSWER_S = 0.5


@contextmanager
def run_drills(scenarios: Sequence[Scenario], *, seed: int | None) -> Iterator[dict[str, Any]]:
    """Run the scenarios one after the other on a server, worker and keeper of their own; yields the scores.

    The server is up until the block ends.
    """
    folder = data_folder() / "drills" / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    people.print(f"starting a Prefect server, a worker and a keeper in {folder} …")
    with Installation(folder) as installation:
        people.print(f"ready, Prefect's UI is at {installation.ui_url}")
        rows = [run_drill(scenario, installation, seed=seed) for scenario in scenarios]
        yield {"ok": all(row["ok"] for row in rows), "scenarios": rows}


def lab_profile(
    facts: LabFacts, changes: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Profile, dict[str, str]]:
    """The profile of the lab's service, filled with what the lab drew and with `changes`, and its secrets."""
    template = (files("responder") / "services" / "lab.yaml").read_text()
    text = Environment(undefined=StrictUndefined, autoescape=False).from_string(template).render(lab=facts)  # noqa: S701
    secrets = {
        "LAB_SSH_KEY": facts.private_key,
        "LAB_PAGERDUTY_TOKEN": facts.pagerduty["api_token"],
        "LAB_PAGERDUTY_ROUTING_KEY": facts.pagerduty["routing_key"],
        "LAB_SLACK_TOKEN": facts.slack["token"],
        "LAB_GITHUB_TOKEN": facts.github["token"],
        "LAB_STATUSPAGE_TOKEN": facts.statuspage["api_token"],
    }
    whole = yaml.safe_dump(_merged(yaml.safe_load(text), changes)) if changes else text
    return read_profile(whole, source="lab.yaml"), secrets


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the keys of `over`, level by level."""
    deeper = {
        key: _merged(under[key], value)
        for key, value in over.items()
        if isinstance(value, Mapping) and isinstance(under.get(key), Mapping)
    }
    return {**under, **over, **deeper}


@contextmanager
def answering(scenario: Scenario, store: Store, run_id: str) -> Iterator[None]:
    """The scenario's people answer the forms of the run while the block runs; who is silent never does."""
    over = threading.Event()
    thread = threading.Thread(target=_answer, args=(scenario.people, store, run_id, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _answer(crowd: Sequence[Person], store: Store, run_id: str, over: threading.Event) -> None:
    from responder.cli.records import asked_about

    while not over.wait(ANSWER_S):
        row = store.incident_of_run(run_id)
        asked = asked_about(store, row) if row else None
        person = next((p for p in crowd if asked and p.strategy in (None, asked.question.strategy)), None)
        if row and asked and person and person.decision != "silent":
            said = Answer(decision=Decision(person.decision), by=person.by, why="the scenario says so")
            store.answer(row.id, asked.question.digest, said)


def run_drill(scenario: Scenario, installation: Installation, *, seed: int | None) -> dict[str, Any]:
    """Run one scenario on a running installation; returns its score."""
    from blocks.service import save_service
    from responder.cli.runs import follow, start_run, wait_until_final, wait_until_told

    people.print(f"\n[bold]{scenario.name}[/bold]: {scenario.summary}")
    run_dir = installation.home / "labs" / scenario.name
    store = open_store()
    live = Live(people)
    try:
        with _lab_of_its_own(scenario, run_dir, seed, taken={row.service for row in store.incidents()}) as lab:
            profile, secrets = lab_profile(lab.facts(), scenario.profile)
            save_service(profile, secrets)
            lab.begin()
            run_id = start_run(trigger_parameters(lab, profile))
            with answering(scenario, store, run_id):
                followed = follow(store, run_id, live, answered=bool(scenario.people))
            if followed.incident:
                wait_until_told(store, followed.incident.id, live)
            state = wait_until_final(run_id)
            return _score(scenario, lab, store, run_id, followed.url, state)
    finally:
        live.close()
        store.close()


def _lab_of_its_own(scenario: Scenario, run_dir: Path, seed: int | None, *, taken: set[str]) -> Lab:
    """A lab whose service has had no incident: an open one would take the new one in."""
    for number in itertools.count():
        lab = Lab(scenario, run_dir=run_dir, seed=None if seed is None else seed + number)
        if lab.service not in taken:
            return lab
    raise AssertionError("count() never ends")


def trigger_parameters(lab: Lab, profile: Profile, *, alerts: int = 1) -> dict[str, Any]:
    """The parameters of the run that the lab's scenario begins: declared, or by its alert.

    `alerts` is how many the lab has raised by then.
    """
    declaration = lab.scenario.trigger.declare
    if declaration:
        parameters = {"summary": declaration.summary, "service": profile.name, "kind": declaration.kind.value}
        return parameters | ({"severity": declaration.severity.value} if declaration.severity else {})
    raised = lab.wait_for_alert(count=alerts)
    return {"summary": raised.alert.summary or raised.name, "alerts": [raised.alert.model_dump(mode="json")]}


def _score(scenario: Scenario, lab: Lab, store: Store, run_id: str, url: str, state: str) -> dict[str, Any]:
    row = store.incident_of_run(run_id)
    if row is None:
        problem = f"no incident was opened, the run is {state}"
        return {"name": scenario.name, "ok": False, "problems": [problem], "run_url": url}
    expect, never = scenario.expect, scenario.never
    attempts = store.attempts(row.id)
    diagnosis = next((p.outcome for p in store.phases(row.id) if p.name == "diagnose" and p.outcome), None)
    cause = diagnosis["leading"] if diagnosis else None
    strategies = sorted({a.strategy for a in attempts if a.acted_at and not a.strategy.startswith(UNDO)})
    wrong = _wrong_actions(scenario, lab)
    pages = _pages_of_ours(lab)
    needless = len(pages) if never.more_pages_than is not None and len(pages) > never.more_pages_than else 0
    began = min([alert.starts_at for alert in lab.raised] or [row.opened_at])
    problems = [
        f"{what} is {got!r}, expected {wanted!r}"
        for what, got, wanted in (
            ("severity", row.severity, expect.severity.value if expect.severity else row.severity),
            ("cause", cause, expect.cause),
            ("outcome", row.outcome, expect.outcome.value),
        )
        if got != wanted
    ]
    problems += [f"{name} was tried" for name in strategies if name not in expect.strategies]
    problems += wrong
    problems += [f"{needless} needless pages"] if needless else []
    problems += [f"the lab itself failed: {error}" for error in lab.errors]
    return {
        "name": scenario.name,
        "ok": not problems,
        "problems": problems,
        "severity": row.severity,
        "cause": cause,
        "strategies": strategies,
        "outcome": row.outcome,
        "seconds": {
            "acknowledge": _seconds(began, row.acknowledged_at),
            "diagnose": _seconds(began, row.diagnosed_at),
            "mitigate": _seconds(began, row.mitigated_at),
            "resolve": _seconds(began, row.resolved_at),
        },
        "wrong_actions": wrong,
        "needless_pages": needless,
        "incident": row.id,
        "run_url": url,
    }


def _pages_of_ours(lab: Lab) -> list[Page]:
    """Every time that somebody was notified, but for the alerts' own pages, which came before us."""
    alerts = {raised.incident_key for raised in lab.raised}
    theirs = {incident.id for incident in lab.pagerduty.incidents if incident.incident_key in alerts}
    return [page for page in lab.pagerduty.pages if not (page.why == "triggered" and page.incident_id in theirs)]


def _wrong_actions(scenario: Scenario, lab: Lab) -> list[str]:
    """What the hosts counted that must not have happened. The hosts count, not the one who acted."""
    never, actions = scenario.never, lab.actions()
    wrong = [f"{a.verb} {a.unit} on {a.host}" for a in actions if a.verb in never.actions]
    for host in {action.host for action in actions}:
        count = sum(action.host == host for action in actions)
        if never.more_actions_than is not None and count > never.more_actions_than:
            wrong.append(f"{count} actions on {host}")
    return wrong


def _seconds(began: datetime, at: datetime | None) -> float | None:
    return round((at - began).total_seconds(), 1) if at else None
