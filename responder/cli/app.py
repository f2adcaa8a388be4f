"""The commands. Each imports what it needs when it runs: Prefect takes its settings when it is imported."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from responder.cli.output import (
    people,
    print_fields,
    print_incident,
    print_json,
    print_json_line,
    print_line,
    print_table,
    results,
    see,
)
from responder.cli.signals import until_asked_to_end, wait_until_asked_to_end
from responder.domain.errors import PermanentError, TransientError
from responder.domain.incident import Kind, Mode, Outcome, Severity
from responder.installation import (
    LOOPBACK,
    MOST_RUNS,
    RECEIVER_PORT,
    UP_PORT,
    Installation,
    adopt,
    server_password,
)
from responder.running import find_running
from responder.store import Store, data_folder, open_store
from responder.store.tables import TokenRow

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Run incidents on Prefect."
)
service_app = typer.Typer(no_args_is_help=True, help="The services that are looked after.")
app.add_typer(service_app, name="service")
token_app = typer.Typer(no_args_is_help=True, help="Personal tokens, by which people prove who they are.")
app.add_typer(token_app, name="token")
lab_app = typer.Typer(no_args_is_help=True, help="The lab of `incident up --lab`.")
app.add_typer(lab_app, name="lab")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print a JSON document a line, as things happen.")]
ScenarioName = Annotated[str, typer.Argument(help="Name of a scenario, or a scenario file.")]
IncidentId = Annotated[str, typer.Argument(help="Id of the incident, or the beginning of one.")]
TokenId = Annotated[int, typer.Argument(min=1, max=2**31 - 1, help="Id of the token, of `incident token list`.")]

UNSAFE_ADDRESS = (
    "note: passwords and tokens are sent in clear to this address: let nothing reach it but a proxy that speaks "
    "TLS; see docs/how-to.md#let-others-in"
)


def me() -> str:
    """Who is at the keyboard, for the record."""
    return os.environ.get("INCIDENT_USER") or getpass.getuser()


def who(store: Store) -> tuple[str, bool]:
    """Who is at the keyboard, and whether a personal token in INCIDENT_TOKEN proves it.

    Raises `PermanentError` for a token that is unknown or revoked.
    """
    token = os.environ.get("INCIDENT_TOKEN")
    if not token:
        return me(), False
    person = store.person_of(token)
    if person is None:
        raise PermanentError("the token in INCIDENT_TOKEN is unknown or revoked; `incident token add` makes one")
    return person, True


def _found(*, workers: bool = True) -> Installation | None:
    """The server that there is: that of `PREFECT_API_URL`, else that of `incident up` in the data folder."""
    home = data_folder()
    if given := os.environ.get("PREFECT_API_URL"):
        return Installation(home, api_url=given, workers=workers)
    if up := find_running(home):
        return Installation(home, api_url=up.api_url, password=server_password(home), workers=workers)
    return None


@contextmanager
def _installation(*, workers: bool = True) -> Iterator[Installation]:
    """The server that there is, else one of our own for as long as the command runs."""
    with _found(workers=workers) or Installation(data_folder(), workers=workers) as running:
        import httpx
        from prefect.exceptions import PrefectException

        try:
            yield running
        except (httpx.HTTPError, PrefectException) as error:
            raise TransientError(f"Prefect at {running.api_url} does not answer: {error}") from error


@contextmanager
def _store() -> Iterator[Store]:
    store = open_store()
    try:
        yield store
    finally:
        store.close()


@app.command()
def declare(
    summary: Annotated[str, typer.Argument(help="What is wrong, in your own words.")],
    service: Annotated[str, typer.Option(help="Name of the service.")],
    severity: Annotated[Severity | None, typer.Option(help="At least this severity.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="At most this mode.")] = None,
    kind: Annotated[Kind, typer.Option(help="What kind of incident it is.")] = Kind.AVAILABILITY,
    as_json: Json = False,
) -> None:
    """Run an incident, and return when it has ended or only a person's step is left."""
    if not 3 <= len(summary) <= 300:
        raise typer.BadParameter("the summary has 3 to 300 characters")
    with _installation():
        from blocks.service import load_profile
        from responder.cli.live import Live
        from responder.cli.runs import follow, start_run, wait_until_final, wait_until_told

        load_profile(service)  # an unknown service is an error here and now, not a failed run
        parameters = {"summary": summary, "service": service, "kind": kind, "severity": severity, "mode": mode}
        run_id = start_run({name: value for name, value in parameters.items() if value is not None})
        live = Live(people)
        try:
            with _store() as store:
                followed = follow(store, run_id, live)
                if followed.incident:
                    wait_until_told(store, followed.incident.id, live)
        finally:
            live.close()
        if not followed.waiting_for:
            wait_until_final(run_id)
    print_json(followed.document()) if as_json else print_fields(followed.document())
    raise typer.Exit(0 if followed.succeeded else 1)


@app.command(name="list")
def list_incidents(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that are open.")] = False,
    as_json: Json = False,
) -> None:
    """List the last 50 incidents, or all that are open, the newest first."""
    columns = ("id", "severity", "service", "status", "outcome", "opened_at", "summary")
    with _store() as store:
        found = store.open_incidents() if open_only else store.incidents()
    rows = [{name: getattr(row, name) for name in columns} for row in found]
    for row in rows:
        row["opened_at"] = row["opened_at"].isoformat(timespec="seconds")
    print_json(rows) if as_json else print_table(rows, columns)


@app.command()
def alerts(
    incident: Annotated[str, typer.Option(help="Only this incident's, by its id or the beginning of it.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List the alerts that came in, where each went and why; the newest first."""
    found = _found()
    if found:
        adopt(found.environment)
    from responder.cli.alerts import receipt_documents, receipt_row

    with _store() as store:
        rows = receipt_documents(store, incident, limit)
    columns = ("received_at", "times", "alert", "went", "incident", "why")
    print_json(rows) if as_json else print_table(list(map(receipt_row, rows)), columns)


@app.command()
def stats(as_json: Json = False) -> None:
    """How long incidents took from their alert: until acknowledged, first acted on, and verified."""
    from responder.cli.alerts import statistics_document

    with _store() as store:
        document = statistics_document(store)
    if as_json:
        print_json(document)
        return
    columns = ("id", "service", "severity", "acknowledged", "first_action", "verified", "closed")
    print_table([*document["incidents"], {"id": "median, s"} | document["medians_s"]], columns)


@app.command()
def show(incident: IncidentId, as_json: Json = False) -> None:
    """Show one incident: state, severity, attempts, decisions."""
    found = _found()
    if found:
        adopt(found.environment)
    from responder.cli.records import incident_document

    with _store() as store:
        document = incident_document(store, incident)
    if not found:
        document["run_url"] = None  # no server is up that would show it
    if as_json:
        print_json(document)
        return
    print_incident(document)
    for title in ("phases", "attempts", "questions", "decisions", "messages"):
        rows = document[title]
        if rows:
            results.print(f"\n{title}")
            print_table(rows, tuple(rows[0]))
    for draft in [row for row in document["messages"] if row["state"] == "draft"]:
        print_line(f"\ndraft {draft['number']}, published by `incident publish`:\n{draft['text']}")
    if any(row["who"].startswith("guardrail") for row in document["decisions"]):
        print_line("\nSee docs/how-it-works.md#guardrails")


@app.command()
def timeline(incident: IncidentId, as_json: Json = False) -> None:
    """Print what happened, in UTC."""
    from responder.store.entries import store_entries

    with _store() as store:
        entries = sorted(store_entries(store, store.incident(incident).id), key=lambda e: (e.at, e.id))
    rows = [{"at": f"{e.at:%Y-%m-%d %H:%M:%S}", "source": e.source, "what": e.text} for e in entries]
    print_json(rows) if as_json else print_table(rows, ("at", "source", "what"))


@app.command()
def watch(
    incident: Annotated[
        str | None,
        typer.Argument(help="Id, or its beginning; the newest open one, or the next to open, if empty."),
    ] = None,
    as_json: JsonLines = False,
) -> None:
    """Follow an incident's timeline until its run has ended. Exit status as of `declare`."""
    from responder.cli.live import watch as follow

    with _store() as store:
        document = follow(store, incident, as_json=as_json)
    print_json_line({"event": "end", **document}) if as_json else print_fields(document)
    raise typer.Exit(0 if document["outcome"] and Outcome(document["outcome"]).succeeded else 1)


@app.command()
def postmortem(incident: IncidentId, as_json: Json = False) -> None:
    """Print the draft of the post-mortem (Markdown)."""
    with _store() as store:
        row = store.incident(incident)
        record = store.record(row.id, "post-mortem")
    if record is None:
        raise PermanentError(f"incident {row.id} has no post-mortem yet; it is drafted when its run ends")
    print_json({"incident": row.id, **record}) if as_json else results.print(record["markdown"], markup=False)


@app.command()
def close(
    incident: IncidentId,
    why: Annotated[str, typer.Option(help="Why it can be closed, for the record.")] = "closed by hand",
    as_json: Json = False,
) -> None:
    """Close an incident: answers the form of a paused run, or closes what stayed open."""
    with _installation(), _store() as store:
        from responder.cli.records import close_by_hand

        document = close_by_hand(store, incident, who=me(), why=why)
    print_json(document) if as_json else print_incident(document)


@app.command()
def approve(
    incident: IncidentId,
    decline: Annotated[bool, typer.Option("--decline", help="Say no.")] = False,
    strategy: Annotated[str, typer.Option(help="Another strategy instead, like restart.")] = "",
    why: Annotated[str, typer.Option(help="What speaks for it, for the record.")] = "",
    as_json: Json = False,
) -> None:
    """Approve, decline or replace the step that an incident's run asks about.

    Where a named person is needed, your personal token is taken from INCIDENT_TOKEN.
    """
    with _installation(), _store() as store:
        from responder.cli.records import decide_by_hand, incident_document
        from responder.domain.approval import Answer, Decision

        decision = Decision.ANOTHER if strategy else Decision.DECLINE if decline else Decision.APPROVE
        row, (by, proven) = store.incident(incident), who(store)
        answer = Answer(decision=decision, by=by, why=why[:1_000], strategy=strategy, proven=proven)
        decide_by_hand(store, row, answer)
        document = incident_document(store, row.id)
    print_json(document) if as_json else print_incident(document)


@app.command("take-over")
def take_over(
    incident: IncidentId,
    why: Annotated[str, typer.Option(help="Why, for the record.")] = "no reason given",
    as_json: Json = False,
) -> None:
    """Take an incident over: nothing is changed on its behalf any more, it only looks and tells.

    With your personal token in INCIDENT_TOKEN it is recorded that it was you.
    """
    with _store() as store:
        row = store.incident(incident)
        row = store.take_over(row.id, who=who(store)[0], why=why)
    document = {"incident": row.id, "status": row.status, "taken_by": row.taken_by}
    print_json(document) if as_json else print_fields(document)


@app.command("give-back")
def give_back(
    incident: IncidentId,
    why: Annotated[str, typer.Option(help="Why, for the record.")] = "no reason given",
    as_json: Json = False,
) -> None:
    """Give an incident back: the automation looks afresh, and goes on with what is left of its plan."""
    with _store() as store:
        row = store.incident(incident)
        row = store.give_back(row.id, who=who(store)[0], why=why)
    document = {"incident": row.id, "status": row.status, "taken_by": row.taken_by}
    print_json(document) if as_json else print_fields(document)


@app.command()
def publish(
    incident: IncidentId,
    message: Annotated[
        int | None,
        typer.Option(min=1, help="Number of the draft, as `incident show` has it; the newest if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish a text for customers that waits as a draft. Older drafts are left out."""
    with _installation(), _store() as store:
        from responder.cli.people import publish_by_hand

        document = publish_by_hand(store, incident, who=me(), number=message)
    print_json(document) if as_json else print_fields(document)
    raise typer.Exit(0 if document["state"] == "sent" else 1)


@app.command()
def handoff(
    incident: IncidentId,
    person: Annotated[str, typer.Argument(help="Who takes the command; a name of `pagerduty.users` is assigned.")],
    question: Annotated[list[str] | None, typer.Option(help="An open question for them; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Hand the command of an incident to a person: brief them, announce it, assign the page."""
    with _installation(), _store() as store:
        from responder.cli.people import hand_over_command

        document = hand_over_command(store, incident, who=me(), to=person, questions=question or [])
    if as_json:
        print_json(document)
    else:
        print_line(document["briefing"])
        people.print(document["left_to_do"] or "the briefing is told, and the page assigned")


@app.command()
def assign(
    incident: IncidentId,
    person: Annotated[str, typer.Argument(help="Who gets it; a name of `pagerduty.users` is asked to join.")],
    role: Annotated[str, typer.Argument(help="The role, like `scribe` or `communications`.")],
    as_json: Json = False,
) -> None:
    """Give a responder a role in an incident; `incident handoff` is for the command."""
    with _installation(), _store() as store:
        from responder.cli.people import give_role

        document = give_role(store, incident, who=me(), person=person, role=role)
    print_json(document) if as_json else print_table(document["decisions"], ("at", "who", "what", "why"))


@app.command()
def update(
    incident: IncidentId,
    what: Annotated[str, typer.Argument(help="What was learned or done, in your own words.")],
    eta: Annotated[str | None, typer.Option(help="When it should be over, if you know: `16:30 UTC`.")] = None,
    as_json: Json = False,
) -> None:
    """Send a status update of your own to everybody who gets notices. Texts for customers may stay drafts."""
    with _installation(), _store() as store:
        from responder.cli.people import say_update

        document = say_update(store, incident, who=me(), text=what, eta=eta)
    print_json(document) if as_json else print_table(document["messages"], ("channel", "kind", "state", "error"))


@app.command()
def note(
    incident: IncidentId,
    what: Annotated[str, typer.Argument(help="What you decided or did by hand.")],
    why: Annotated[str, typer.Option(help="Why, for the timeline and the post-mortem.")] = "no reason given",
    as_json: Json = False,
) -> None:
    """Put a person's decision on record: timeline, post-mortem, and a note on the page."""
    with _store() as store:
        row = store.incident(incident)
        store.decide(row.id, who=me(), what=what, why=why)
        rows = [{"who": made.who, "what": made.what, "why": made.why} for made in store.decisions(row.id)]
    print_json(rows[-1]) if as_json else print_table(rows, ("who", "what", "why"))


@app.command()
def stop(
    why: Annotated[str, typer.Argument(help="Why, for everybody who is refused.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="Let it act again.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say whether everything is stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Stop everything: nothing is changed anywhere until it is lifted. In force at once."""
    with _store() as store:
        if not status:
            store.stop(stopped=not lift, who=me(), why=why or ("lifted" if lift else "no reason given"))
        document = {"stopped": store.stopped() is not None, "by": store.stopped()}
    print_json(document) if as_json else print_fields(document)


@service_app.command("add")
def add_service(
    file: Annotated[Path, typer.Argument(help="The profile (YAML).", exists=True, dir_okay=False)],
    secret: Annotated[
        list[str] | None, typer.Option(help="NAME=@FILE for a secret in a file; else environment or prompt.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a profile, take its secrets, and save both as Prefect blocks."""
    from responder.cli.services import gather_secrets, read_profile_file

    profile = read_profile_file(file)
    secrets = gather_secrets(profile, secret or [])
    with _installation(workers=False):
        from blocks.service import save_service

        save_service(profile, secrets)
    document = {"service": profile.name, "mode": profile.mode, "hosts": len(profile.hosts), "saved": True}
    print_json(document) if as_json else print_fields(document)


@service_app.command("list")
def list_services(as_json: Json = False) -> None:
    """List the saved services."""
    with _installation(workers=False):
        from blocks.service import saved_profiles

        profiles = saved_profiles()
    rows = [
        {"name": p.name, "mode": p.mode.value, "hosts": len(p.hosts), "description": p.description}
        for p in profiles
    ]
    print_json(rows) if as_json else print_table(rows, ("name", "mode", "hosts", "description"))


@service_app.command("show")
def show_service(name: str, as_json: Json = False) -> None:
    """Show a saved profile. Secrets are names in it, never values."""
    import yaml

    with _installation(workers=False):
        from blocks.service import load_profile

        document = load_profile(name).model_dump(mode="json")
    if as_json:
        print_json(document)
    else:
        results.print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), markup=False)


@service_app.command("check")
def check_service(name: str, as_json: Json = False) -> None:
    """Check hosts, keys, commands, rights, endpoints and credentials of a service, changing nothing."""
    with _installation(workers=False), _store() as store:
        from responder.cli.services import check

        findings = check(name, store)
    if as_json:
        print_json({"service": name, "ok": all(f["ok"] for f in findings), "checks": findings})
    else:
        for finding in findings:
            print_line(f"{'ok  ' if finding['ok'] else 'FAIL'}  {finding['what']}: {finding['detail']}")
            for line in see(finding["see"]):
                print_line(f"      {line}")
    raise typer.Exit(0 if all(f["ok"] for f in findings) else 1)


@token_app.command("add")
def add_token(
    person: Annotated[str, typer.Argument(help="Whom it belongs to, by the name that the record shows.")],
    sender: Annotated[
        bool, typer.Option("--sender", help="It is a monitoring system's: it may send alerts, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a personal token and print it. It is shown this once: only its hash is kept."""
    with _store() as store:
        row, text = store.add_token(person, sends_alerts=sender)
    _print_token(row, text, as_json=as_json)


@token_app.command("list")
def list_tokens(as_json: Json = False) -> None:
    """List personal tokens, the revoked ones too, without their text."""
    with _store() as store:
        rows = [_token(row) for row in store.tokens()]
    print_json(rows) if as_json else print_table(rows, ("id", "person", "may", "created_at", "revoked_at"))


@token_app.command("revoke")
def revoke_token(token: TokenId, as_json: Json = False) -> None:
    """Make a personal token worthless, at once."""
    with _store() as store:
        document = _token(store.revoke_token(token))
    print_json(document) if as_json else print_fields(document)


@token_app.command("rotate")
def rotate_token(token: TokenId, as_json: Json = False) -> None:
    """Make a new token for the same person, print it, and make the old one worthless."""
    with _store() as store:
        row, text = store.rotate_token(token)
    _print_token(row, text, as_json=as_json)


def _token(row: TokenRow) -> dict[str, object]:
    moments = {"created_at": row.created_at, "revoked_at": row.revoked_at}
    told = {name: at.isoformat(timespec="seconds") if at else None for name, at in moments.items()}
    return {"id": row.id, "person": row.person, "may": "send alerts" if row.sends_alerts else "act", **told}


def _print_token(row: TokenRow, text: str, *, as_json: bool) -> None:
    document = _token(row) | {"token": text}
    if as_json:
        print_json(document)
    else:
        people.print(
            f"token {row.id} of {row.person}; keep it like a password, it is not shown again", markup=False
        )
        print_line(text)


@app.command()
def receive(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = RECEIVER_PORT,
    as_json: JsonLines = False,
) -> None:
    """Open the HTTP door alone until Ctrl-C: what `incident up` opens, for another process or machine."""
    import logging

    from responder.receiver.server import serve

    if host != LOOPBACK:
        people.print(UNSAFE_ADDRESS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    url = f"http://{host}:{port}"

    def listening() -> None:
        print_json_line({"event": "ready", "receiver_url": url}) if as_json else print_line(f"listening at {url}")

    with until_asked_to_end():
        serve(host, port, listening=listening)


@app.command()
def up(
    lab: Annotated[bool, typer.Option("--lab", help="Start the lab, too: a healthy service to break.")] = False,
    hosts: Annotated[int, typer.Option(min=1, max=50, help="Hosts of the lab.")] = 1,
    host: Annotated[str, typer.Option(help="Address that server and HTTP door listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the server.")] = UP_PORT,
    receiver_port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the HTTP door.")] = RECEIVER_PORT,
    most_runs: Annotated[
        int, typer.Option(min=1, max=500, help="Incidents worked on at once; a P1 that waits pages a person.")
    ] = MOST_RUNS,
    as_json: JsonLines = False,
) -> None:
    """Run Prefect's server, a worker, the keeper and the HTTP door here until Ctrl-C; other commands find them."""
    if hosts != 1 and not lab:
        raise typer.BadParameter("--hosts is for the lab: say --lab, too")
    from responder.cli.up import run_up

    if host != LOOPBACK:
        people.print(UNSAFE_ADDRESS)
    run_up(
        host=host,
        port=port,
        receiver_port=receiver_port,
        most_runs=most_runs,
        hosts=hosts if lab else None,
        as_json=as_json,
    )


@lab_app.command("break")
def break_lab(scenario: ScenarioName, as_json: Json = False) -> None:
    """Break the running lab as a scenario says, and let its alert begin an incident."""
    from responder.cli.lab import ask_lab
    from responder.lab.scenario import load_scenario

    document = ask_lab(data_folder(), do="break", scenario=load_scenario(scenario).model_dump(mode="json"))
    print_json(document) if as_json else print_fields(document)
    with _store() as store:
        others = [row for row in store.open_incidents() if row.run_id != document["run_id"]]
    taken_in = next((row.id for row in others if row.service == document["service"]), None)
    people.print(
        f"incident {taken_in} of this service is open and takes the alert in; `incident close {taken_in}` ends it"
        if taken_in
        else "`incident watch` follows it"
    )


@lab_app.command("heal")
def heal_lab(as_json: Json = False) -> None:
    """End every fault and every alert of the running lab."""
    from responder.cli.lab import ask_lab

    document = ask_lab(data_folder(), do="heal")
    print_json(document) if as_json else print_fields(document)


@app.command()
def drill(
    scenario: Annotated[str | None, typer.Argument(help="Name of a scenario, or a scenario file.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All scenarios that come with the software.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Only list the scenarios.")] = False,
    seed: Annotated[int | None, typer.Option(help="Draw the lab's names as in an earlier drill.")] = None,
    ui: Annotated[
        bool, typer.Option("--ui", help="Leave the server up until Ctrl-C, to look at the run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Break the embedded lab and let an incident run repair it, scored against what is right."""
    from responder.lab.scenario import load_scenario, scenario_names

    if listed:
        rows = [{"name": name, "summary": load_scenario(name).summary} for name in scenario_names()]
        print_json(rows) if as_json else print_table(rows, ("name", "summary"))
        return
    if every == (scenario is not None):
        raise typer.BadParameter("name a scenario, or say --all (`incident drill --list` shows them)")
    scenarios = [load_scenario(name) for name in (scenario_names() if every else [str(scenario)])]
    from responder.cli.drill import run_drills

    with run_drills(scenarios, seed=seed) as document:
        if as_json:
            print_json(document)
        else:
            for row in document["scenarios"]:
                words = "; ".join(row["problems"]) or f"{row['outcome']} ({row['cause'] or 'no cause'})"
                print_line(f"{'ok  ' if row['ok'] else 'FAIL'}  {row['name']}: {words}")
        if ui:
            for row in document["scenarios"]:
                people.print(f"{row['name']}: {row['run_url']}")
            people.print("the server is up until Ctrl-C")
            wait_until_asked_to_end()
    raise typer.Exit(0 if document["ok"] else 1)
