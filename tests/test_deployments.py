"""The deployments, as a user meets them: deployed from the repository, shown as forms, run by any worker."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import prefect_api
import pytest

from responder.domain.incident import Alert
from responder.installation import Installation
from tests.lab_runs import broken_lab

ROOT = Path(__file__).parent.parent
FORMS = {
    "incident/incident": {"summary", "service", "kind", "alerts", "severity", "mode"},
    "diagnose/diagnose": {"service"},
    "verify/verify": {"service"},
    "post_incident/post_incident": {"incident_id"},
    "publish/publish": {"incident_id", "by", "message"},
    "stop/stop": {"by", "why"},
    "lift/lift": {"by", "why"},
    "take_over/take_over": {"incident_id", "by", "why"},
    "give_back/give_back": {"incident_id", "by", "why"},
}


def prefect(installation: Installation, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=cwd,
        env=installation.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def deployment(name: str) -> dict[str, Any]:
    with prefect_api.client() as client:
        return dict(client.get(f"/deployments/name/{name}").raise_for_status().json())


def test_deploying_all_works_from_the_repository_and_again(installation):
    for _ in range(2):
        done = prefect(installation, "deploy", "--all", "--no-prompt")
        assert done.returncode == 0, done.stdout + done.stderr
    # Incidents still run: the pool and the command that starts the engine are as before.
    assert deployment("incident/incident")["work_pool_name"] == "incident"
    assert deployment("incident/incident")["job_variables"] == {"command": "python -m prefect.engine"}


@pytest.mark.parametrize("name", FORMS)
def test_a_deployment_tells_what_it_does_and_has_a_usable_form(installation, name):
    found = deployment(name)
    schema = found["parameter_openapi_schema"]
    assert len(found["description"]) > 30
    assert "incident" in found["tags"]
    assert found["enforce_parameter_schema"] is True
    assert found["pull_steps"] in (None, []), "code comes with the installed package"
    assert set(schema["properties"]) == FORMS[name]
    assert unexplained(schema) == []


def unexplained(schema: dict[str, Any]) -> list[str]:
    """The fields of a form that would send a person to the manual: no title, no words, nothing to go by."""
    definitions = schema.get("definitions", {})
    enums = [f'"#/definitions/{name}"' for name, found in definitions.items() if "enum" in found]
    models = {"": schema, **{name: found for name, found in definitions.items() if "properties" in found}}
    assert all(found.get("description") for found in definitions.values())
    return [
        f"{model}.{name} has no {what}"
        for model, found in models.items()
        for name, field in found["properties"].items()
        for what, there in {
            "title": field.get("title"),
            "description": field.get("description"),
            "examples or choices": field.get("examples") or any(enum in json.dumps(field) for enum in enums),
        }.items()
        if not there
    ]


def test_the_examples_of_the_forms_are_accepted_as_they_stand(installation):
    for name in FORMS:
        found = deployment(name)
        examples = {
            parameter: field["examples"][0]
            for parameter, field in found["parameter_openapi_schema"]["properties"].items()
            if "examples" in field
        }
        jsonschema.validate(examples, found["parameter_openapi_schema"])
    fields = deployment("incident/incident")["parameter_openapi_schema"]["definitions"]["Alert"]["properties"]
    assert Alert.model_validate({name: field["examples"][0] for name, field in fields.items()}).name


def test_the_incidents_form_asks_for_a_summary_only_and_offers_what_there_is_to_choose(installation):
    schema = deployment("incident/incident")["parameter_openapi_schema"]
    assert schema["required"] == ["summary"]

    def choices(name: str) -> list[str]:
        field = json.dumps(schema["properties"][name])
        [kind] = [d for d in schema["definitions"] if f'"#/definitions/{d}"' in field]
        return list(schema["definitions"][kind]["enum"])

    assert choices("kind") == ["availability", "security", "risk"]
    assert choices("severity") == ["P1", "P2", "P3", "P4"]
    assert choices("mode") == ["dry-run", "shadow", "live"]
    assert schema["properties"]["kind"]["default"] == "availability"
    alert = schema["definitions"]["Alert"]
    assert alert["required"] == ["name"]
    assert all(field.get("description") for field in alert["properties"].values())


@pytest.mark.parametrize("name", ["diagnose/diagnose", "verify/verify", "post_incident/post_incident"])
def test_a_small_deployment_asks_for_its_one_name(installation, name):
    assert deployment(name)["parameter_openapi_schema"]["required"] == list(FORMS[name])


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("incident/incident", {}, "summary"),
        ("incident/incident", {"summary": "x"}, "summary|too short"),
        ("incident/incident", {"summary": "x" * 301}, "summary|too long"),
        ("incident/incident", {"summary": "gateway down", "severity": "P9"}, "P9"),
        ("incident/incident", {"summary": "gateway down", "mode": "reckless"}, "reckless"),
        ("incident/incident", {"summary": "gateway down", "kind": "weather"}, "weather"),
        ("incident/incident", {"summary": "gateway down", "alerts": [{}]}, "name"),
        ("diagnose/diagnose", {}, "service"),
        ("verify/verify", {"service": 7}, "service|7"),
        ("post_incident/post_incident", {"incident": "abc"}, "incident"),
        ("publish/publish", {"incident_id": "abc"}, "by"),
        ("publish/publish", {"incident_id": "abc", "by": "x"}, "by|too short"),
    ],
)
def test_bad_parameters_are_refused_by_name(installation, name, parameters, named):
    path = f"/deployments/{deployment(name)['id']}/create_flow_run"
    answer = prefect_api.post(path, {"parameters": parameters})
    assert 400 <= answer.status_code < 500
    assert any(word in answer.text for word in named.split("|")), answer.text


@pytest.fixture
def elsewhere(installation, tmp_path: Path) -> Iterator[str]:
    """A pool with a worker of its own, started in an empty directory, and `diagnose` deployed to it."""
    pool = f"elsewhere-{uuid4().hex[:6]}"
    assert prefect(installation, "work-pool", "create", pool, "--type", "process").returncode == 0
    text = (ROOT / "prefect.yaml").read_text()
    copy = tmp_path / "prefect.yaml"
    copy.write_text(
        text.replace("name: incident\n    #", f"name: {pool}\n    #").replace(
            "- name: diagnose", f"- name: {pool}"
        )
    )
    done = prefect(
        installation, "deploy", "--prefect-file", str(copy), "--name", pool, "--no-prompt", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    copy.unlink()
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool],
        cwd=tmp_path,
        env=installation.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell that starts us in the background leaves SIGINT ignored, and the worker stops by SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    yield f"diagnose/{pool}"
    worker.terminate()
    worker.wait(60)


def test_a_worker_started_in_another_directory_runs_a_deployment(installation, elsewhere, tmp_path):
    assert deployment(elsewhere)["work_pool_name"] == elsewhere.split("/")[1]
    with broken_lab("engine-dead", tmp_path) as lab:
        done = prefect(
            installation,
            "deployment",
            "run",
            elsewhere,
            "--param",
            f"service={lab.service}",
            "--watch",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert lab.actions() == []
    of_it = {"flow_runs": {"deployment_id": {"any_": [deployment(elsewhere)["id"]]}}}
    found = prefect_api.post("/flow_runs/filter", of_it).json()
    assert [(run["name"], run["state"]["type"]) for run in found] == [(f"diagnose {lab.service}", "COMPLETED")]
