"""Every request that our blocks send is one that the vendors' own API descriptions allow."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from jsonschema.exceptions import ValidationError
from openapi_schema_validator import OAS30Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from blocks.github import GitHub
from blocks.pagerduty import PagerDuty
from blocks.slack import Slack
from blocks.statuspage import Statuspage
from responder.domain.base import now
from responder.domain.errors import IncidentResponseError, PermanentError
from responder.lab.github import GitHubStandIn
from responder.lab.http import Answer, Request, StandIn
from responder.lab.pagerduty import PagerDutyStandIn
from responder.lab.slack import SlackStandIn
from responder.lab.statuspage import StatuspageStandIn

SPECS = Path(__file__).parent.parent / "../shared/specs"

OPERATIONS = {
    "pagerduty-events": {"POST /enqueue"},
    "pagerduty-rest": {
        "GET /incidents",
        "GET /incidents/{id}",
        "PUT /incidents/{id}",
        "POST /incidents/{id}/snooze",
        "GET /incidents/{id}/notes",
        "POST /incidents/{id}/notes",
        "GET /incidents/{id}/log_entries",
        "POST /incidents/{id}/responder_requests",
        "GET /services/{id}",
        "GET /oncalls",
    },
    "slack": {
        "GET /auth.test",
        "GET /chat.getPermalink",
        "POST /chat.postMessage",
        "POST /conversations.archive",
        "POST /conversations.create",
        "POST /conversations.invite",
        "GET /conversations.history",
        "GET /conversations.list",
        "POST /conversations.setTopic",
    },
    "statuspage": {
        "GET /pages/{page_id}/components",
        "GET /pages/{page_id}/incidents",
        "POST /pages/{page_id}/incidents",
        "PATCH /pages/{page_id}/incidents/{incident_id}",
    },
    "github": {
        "GET /repos/{owner}/{repo}/issues",
        "POST /repos/{owner}/{repo}/issues",
        "GET /repos/{owner}/{repo}/issues/{issue_number}/comments",
        "POST /repos/{owner}/{repo}/issues/{issue_number}/comments",
        "GET /search/issues",
    },
}
"""What we use. A call that is new in a block must be sent by `sent` below and named here."""


class Contract:
    """One API description, and whether a request is allowed by it."""

    def __init__(self, name: str) -> None:
        self.document = json.loads((SPECS / f"{name}.json").read_text())
        resource: Resource[Any] = Resource(contents=self.document, specification=DRAFT4)
        self.registry = Registry().with_resource("urn:contract", resource)

    def check(self, method: str, path: str, request: Request) -> str:
        """The operation's name. Raises ValidationError or AssertionError where it does not fit."""
        template = next((known for known in self.document["paths"] if _matches(known, path)), None)
        assert template, f"no such path: {path}"
        item = self.document["paths"][template]
        if "Slack" in self.document["info"]["title"]:
            request = _without_metadata(request)
        # Slack takes POST for every method, and its SDK sends nothing else; a form then stands for the query.
        verb = method.lower() if method.lower() in item else "get"
        assert verb in item, f"no {method} for {path}"
        assert verb == method.lower() or "Slack" in self.document["info"]["title"], f"no {method} for {path}"
        pointer = f"#/paths/{template.replace('/', '~1')}/{verb}"
        self._check_parameters(item[verb], request)
        if "requestBody" in item[verb]:
            body = self._resolved(item[verb]["requestBody"])
            assert request.json is not None or not body.get("required"), "no body"
            schema = f"{self._pointer(pointer + '/requestBody')}/content/application~1json/schema"
            self.validate(schema, request.json)
        else:
            assert request.json is None, "a body where none is known"
        return f"{verb.upper()} {template}"

    def validate(self, pointer: str, instance: object) -> None:
        OAS30Validator({"$ref": f"urn:contract{pointer}"}, registry=self.registry).validate(instance)

    def _check_parameters(self, operation: dict[str, Any], request: Request) -> None:
        known = [self._resolved(parameter) for parameter in operation.get("parameters", [])]
        query = {parameter["name"]: parameter for parameter in known if parameter["in"] == "query"}
        assert set(request.params) <= set(query), "unknown query parameter"
        for parameter in known:
            name, place = parameter["name"], parameter["in"]
            if place == "header":
                assert not parameter.get("required") or name in request.headers, f"no header {name}"
            if place != "query":
                continue
            assert not parameter.get("required") or name in request.params, f"no parameter {name}"
            if name in request.params:
                schema = self._resolved(parameter["schema"])
                _validate_text(schema, request.params[name], self.registry)

    def _pointer(self, pointer: str) -> str:
        """The pointer, followed through the reference that it may lead to."""
        return str(self._at(pointer).get("$ref", pointer))

    def _resolved(self, found: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in found:
            found = self._at(found["$ref"])
        return found

    def _at(self, pointer: str) -> Any:
        found = self.document
        for key in pointer.removeprefix("#/").split("/"):
            key = key.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
        return found


def _without_metadata(request: Request) -> Request:
    """Slack's description is of 2021; messages have had metadata since 2022, checked here by its reference.

    Source: docs.slack.dev, "Using message metadata" and "conversations.history".
    """
    params, body = dict(request.params), request.json
    assert params.pop("include_all_metadata", ["true"]) == ["true"]
    if isinstance(body, dict) and "metadata" in body:
        body = dict(body)
        metadata = body.pop("metadata")
        assert re.fullmatch(r"[a-z_]+", metadata["event_type"])
        assert all(isinstance(value, str | int | bool) for value in metadata["event_payload"].values())
    return dataclasses.replace(request, params=params, json=body)


def _matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path) is not None


def _validate_text(schema: dict[str, Any], values: list[str], registry: Any) -> None:
    """Check a parameter that travelled as text against its schema."""
    kind = schema.get("type")
    value: object = values if kind == "array" and len(values) > 1 else values[0]
    if kind == "array" and isinstance(value, str):
        value = value.split(",")
    elif kind == "integer":
        value = int(values[0])
    elif kind == "number":
        value = float(values[0])
    elif kind == "boolean":
        value = {"true": True, "1": True, "false": False, "0": False}[values[0]]
    OAS30Validator(schema, registry=registry).validate(value)


@pytest.fixture(scope="module")
def sent() -> Iterator[dict[str, list[tuple[str, str, Request]]]]:
    """Method, path below the API's base, and request, of every call that the blocks know."""
    if not SPECS.is_dir():
        pytest.skip("no API descriptions in ../shared/specs")
    with (
        PagerDutyStandIn(appear_s=0) as pagerduty,
        SlackStandIn() as slack,
        StatuspageStandIn() as statuspage,
        GitHubStandIn() as github,
    ):
        _use_pagerduty(PagerDuty(**pagerduty.settings()), pagerduty)
        _use_slack(Slack(**slack.settings()))
        _use_statuspage(Statuspage(**statuspage.settings()))
        _use_github(GitHub(**github.settings()))
        requests = [("pagerduty-rest", "", r) for r in pagerduty.requests if not r.path.startswith("/v2/")]
        requests += [("pagerduty-events", "/v2", r) for r in pagerduty.requests if r.path.startswith("/v2/")]
        requests += [("slack", "/api", r) for r in slack.requests]
        requests += [("statuspage", "/v1", r) for r in statuspage.requests]
        requests += [("github", "", r) for r in github.requests]
        calls: dict[str, list[tuple[str, str, Request]]] = {name: [] for name in OPERATIONS}
        for name, base, request in requests:
            calls[name].append((request.method, request.path.removeprefix(base), request))
        yield calls


def _use_pagerduty(block: PagerDuty, stand_in: PagerDutyStandIn) -> None:
    links = {"the run": "http://127.0.0.1:4200/runs/1"}
    block.trigger("key", "gateway down", source="gw-1", severity="error", details={"unit": "veloz"}, links=links)
    block.trigger("key", "gateway down", source="gw-1")
    incident = block.find("key")
    assert incident is not None
    block.get(incident.id)
    block.acknowledge(incident.id, 300)
    block.snooze(incident.id, 1)
    block.note(incident.id, "looked at")
    block.page(incident.id, "please join", [block.escalation_policy_id], [stand_in.on_call_id])
    assert {asked.state for asked in block.get(incident.id).requested} == {"pending"}
    block.assign(incident.id, stand_in.on_call_id)
    block.escalate(incident.id)
    assert block.reassigned(incident.id, since=now() - timedelta(minutes=1))
    block.notes(incident.id)
    block.resolve(incident.id, "restarted")
    block.resolve(incident.id, "restarted")
    stand_in.fail("403", path="/snooze")
    block.trigger("key", "again", source="gw-1")
    second = block.find("key")
    assert second is not None
    with pytest.raises(IncidentResponseError):
        block.acknowledge(second.id, 300)
    stand_in.policies.add("PDB")
    assert block.check(["PDB"]) == []


def _use_slack(block: Slack) -> None:
    channel = block.create_channel("incident-20261123-gateway-down", "P1", incident_id="INC-7")
    block.create_channel(channel.name, "P1", incident_id="INC-8")
    ts = block.post(channel.id, "hello", blocks=[{"type": "section", "text": {"type": "mrkdwn", "text": "hello"}}])
    block.post(channel.id, "plain", tags=["3f9a12cd"])
    assert block.arrived(channel.id, since=now() - timedelta(minutes=1)) == {"3f9a12cd"}
    block.permalink(channel.id, ts)
    block.find_channel(channel.name)
    block.set_topic(channel.id, "P2")
    block.invite(channel.id, ["U1", "U2"])
    block.archive(channel.id)
    assert block.check() == []


def _use_statuspage(block: Statuspage) -> None:
    down = dict.fromkeys(block.component_ids, "major_outage")
    block.create(
        "INC-7", "Gateway down", status="investigating", text="We look.", impact="critical", components=down
    )
    found = block.find("INC-7")
    assert found is not None
    block.update(found, status="monitoring", text="It is watched.", components={})
    block.update(found, status="resolved", text="It is over.", components=dict.fromkeys(down, "operational"))
    assert block.check() == []


def _use_github(block: GitHub) -> None:
    assert block.find("<!-- mark -->") is None
    block.create("shop: watch it", "Watch it. <!-- mark -->", labels=["incident"], assignees=["lab-oncall"])
    found = block.find("<!-- mark -->")
    assert found is not None
    block.comment(found.number, "Seen again.")
    assert block.comments(found.number, since=now() - timedelta(minutes=1)) == ["Seen again."]
    assert block.check() == []


@pytest.mark.parametrize(
    ("kind", "use"),
    [(PagerDuty, _use_pagerduty), (Slack, _use_slack), (Statuspage, _use_statuspage), (GitHub, _use_github)],
)
def test_every_call_that_a_block_offers_is_sent_here(kind, use):
    source = inspect.getsource(use)
    calls = [
        name for name, found in inspect.getmembers(kind, inspect.isfunction) if found.__module__ == kind.__module__
    ]
    assert [name for name in calls if name[0] != "_" and f"block.{name}(" not in source] == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_request_is_allowed_and_every_operation_we_name_is_sent(name, sent):
    contract = Contract(name)
    assert {contract.check(*call) for call in sent[name]} == OPERATIONS[name]


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_checker_really_looks_into_every_body(name, sent):
    contract = Contract(name)
    with_body = [call for call in sent[name] if call[2].json is not None]
    for method, path, request in with_body:
        wrong = Request(request.at, request.method, request.path, {}, request.headers, 42)
        with pytest.raises(ValidationError):
            contract.check(method, path, wrong)
    assert with_body


def test_the_checker_refuses_a_wrong_status_an_unknown_parameter_and_a_missing_sender(sent):
    contract = Contract("pagerduty-rest")
    method, path, request = next(call for call in sent["pagerduty-rest"] if call[0] == "PUT")
    fixed = {"incident": {"type": "incident_reference", "status": "fixed"}}
    with pytest.raises(ValidationError):
        contract.check(method, path, Request(request.at, method, path, {}, request.headers, fixed))
    with pytest.raises(AssertionError, match="unknown query"):
        contract.check("GET", "/incidents", Request(request.at, "GET", path, {"key": ["x"]}, request.headers))
    anonymous = Request(request.at, method, path, {}, Message(), request.json)
    with pytest.raises(AssertionError, match="From"):
        contract.check(method, path, anonymous)


class Examples(StandIn):
    """Answers each request with the vendor's own example from the description."""

    def __init__(self, name: str, base: str) -> None:
        super().__init__()
        self.contract, self.base = Contract(name), base

    def handle(self, request: Request) -> Answer:
        path = request.path.removeprefix(self.base)
        verb, template = self.contract.check(request.method, path, request).split()
        answers = self.contract.document["paths"][template][verb.lower()]["responses"]
        status = min(status for status in answers if status.startswith("2"))
        content = self.contract._resolved(answers[status])["content"]["application/json"]
        if "example" in content:
            return Answer(int(status), content["example"])
        return Answer(int(status), self.contract._resolved(next(iter(content["examples"].values())))["value"])


def test_pagerdutys_own_example_answers_are_understood(sent):
    secrets = {"api_token": "t", "routing_key": "r", "from_email": "bot@example.com", "requester_id": "PBOT"}
    with Examples("pagerduty-rest", "") as rest, Examples("pagerduty-events", "/v2") as events:
        urls = {"api_url": rest.url, "events_url": events.url}
        block = PagerDuty(**secrets, **urls, service_id="PIJ90N7", escalation_policy_id="PT20YPA")
        block.trigger("key", "gateway down", source="gw-1")
        found = block.find("key")
        assert (found.id, found.number, found.status) == ("PT4KHLK", 1234, "resolved")
        read = block.get("PT4KHLK")
        assert [person.name for person in read.assigned_to] == ["Earline Greenholt"]
        assert [(one.target, one.name, one.state) for one in read.requested] == [
            ("PL7A2O4", "Lee Turner", "pending")
        ]
        assert block.acknowledge("PT4KHLK", 300).id == "PT4KHLK"
        block.page("PT4KHLK", "please join", ["PT20YPA"], ["PL7A2O4"])
        block.assign("PT4KHLK", "PXPGF42")
        block.escalate("PT4KHLK")
        assert not block.reassigned("PT4KHLK", since=now())
        assert block.notes("PT4KHLK")
        block.resolve("PT4KHLK", "restarted")
        name = "service PIJ90N7"
        assert block.check() == [
            f"routing_key is none of the integration keys of {name}",
            f"{name} pauses notifications for 300 s: a page of ours waits so long",
            f"{name} opens incidents with low urgency outside support hours: nobody is woken",
        ]


def test_slacks_own_example_answers_are_understood(sent):
    with Examples("slack", "/api") as slack:
        block = Slack(token="xoxb-1", base_url=f"{slack.url}/api/")
        channel = block.create_channel("endeavor", "P1", incident_id="INC-7")
        assert (channel.id, channel.name) == ("C0EAQDV4Z", "endeavor")
        assert float(block.post(channel.id, "hello")) > 0
        assert block.permalink(channel.id, "1.2").startswith("https://")
        assert block.find_channel("general").topic
        block.invite(channel.id, ["U1"])
        with pytest.raises(PermanentError, match="more than"):  # the example's next page is the example
            block.arrived(channel.id, since=now())
        block.archive(channel.id)
        assert block.check() == []


def test_githubs_own_example_answers_are_understood(sent):
    with Examples("github", "") as github:
        block = GitHub(token="t", repository="octocat/Hello-World", base_url=github.url)
        assert block.find("I'm having a problem with this.") is None, "the example is a pull request"
        block.create("Found a bug", "It is here.", labels=[], assignees=[])
        assert block.comments(1347, since=now()) == ["Me too"]
        block.comment(1347, "Me too")
        assert block.check() == []
