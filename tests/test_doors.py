"""The lock on Prefect's server: its password on every route and socket, and the tokens that a page must carry."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import prefect_api
import pytest
from lab_runs import wait_for
from processes import processes_of

from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.installation import Installation, server_password, server_password_file
from responder.running import Running, claim

OPEN = {("get", "/health"), ("get", "/ready")}
"""What Prefect answers without a password: whether it is well. (Its page, too, which holds nothing but itself.)"""
CHANGES = {"post", "put", "patch", "delete"}
NOBODY = str(uuid4())


@pytest.fixture(scope="module")
def routes(installation: Installation) -> list[tuple[str, str]]:
    """Each method and path of Prefect's API, as it describes itself."""
    with prefect_api.client() as client:
        paths = client.get("/openapi.json").raise_for_status().json()["paths"]
    found = [(method, path) for path, ways in paths.items() for method in ways]
    assert len(found) > 150
    return found


def path_of(template: str) -> str:
    return re.sub(r"\{[^}]*\}", NOBODY, template)


# --- the server's password -----------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["", "incident:wrong", "admin:pass", "incident:"], ids=repr)
def test_without_the_password_every_route_of_prefects_api_is_shut(installation, routes, password):
    with prefect_api.client() as knows:
        csrf = prefect_api.csrf_headers(knows)  # a browser of somebody else's may have one: it opens nothing
    with prefect_api.client(password=password) as stranger:
        codes = {
            (method, path): stranger.request(method.upper(), path_of(path), headers=csrf).status_code
            for method, path in routes
        }
    assert {route for route, code in codes.items() if code != 401} == OPEN


def test_with_the_password_a_change_still_needs_the_token_of_a_page_of_prefects(installation, routes):
    """Else any page that a browser shows could post to Prefect once its user has logged in."""
    changes = [(method, path) for method, path in routes if method in CHANGES]
    with prefect_api.client() as knows:
        bare = {knows.request(method.upper(), path_of(path)).status_code for method, path in changes}
        forged = {"Prefect-Csrf-Client": NOBODY, "Prefect-Csrf-Token": "x" * 64}
        wrong = knows.post("/flows/filter", json={}, headers=forged)
        right = knows.post("/flows/filter", json={}, headers=prefect_api.csrf_headers(knows))
    assert bare == {403}
    assert (wrong.status_code, right.status_code) == (403, 200)


def test_the_page_says_that_it_asks_for_a_password(installation):
    with prefect_api.client(installation.ui_url, password="") as browser:
        settings = browser.get("/ui-settings").json()
    assert (settings["auth"], settings["csrf_enabled"]) == ("BASIC", True)


def test_sockets_are_shut_too(installation):
    from fastapi.routing import APIWebSocketRoute
    from prefect.server.api.server import API_ROUTERS
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    paths = [
        route.path for router in API_ROUTERS for route in router.routes if isinstance(route, APIWebSocketRoute)
    ]
    assert "/events/in" in paths
    base = installation.api_url.replace("http:", "ws:")

    def opened(path: str, protocols: list[Any], first: dict[str, str]) -> bool:
        try:
            with connect(base + path_of(path), subprotocols=protocols, proxy=None, open_timeout=60) as wire:
                wire.send(json.dumps(first))
                return json.loads(wire.recv(timeout=60))["type"] == "auth_success"
        except (ConnectionClosed, InvalidStatus):
            return False

    for path in paths:
        for protocols in (["prefect"], None):
            for first in ({"type": "auth", "token": "incident:wrong"}, {"type": "auth"}, {"type": "event"}):
                assert not opened(path, protocols, first), (path, protocols, first)
    right = {"type": "auth", "token": server_password(installation.home)}
    assert opened("/events/in", ["prefect"], right)


def test_events_are_taken_from_who_knows_the_password(installation):
    name = f"incident.test.{uuid4().hex[:8]}"
    emitted = installation.run("prefect", "event", "emit", name, "--resource-id", "incident.test")
    assert "Successfully emitted" in emitted

    def kept() -> list[Any]:
        return prefect_api.post("/events/filter", {"filter": {"event": {"name": [name]}}}).json()["events"]

    assert [event["event"] for event in wait_for(kept, 60, named="the event")] == [name]


def test_the_password_lies_where_only_its_owner_reads_it_and_is_made_once(tmp_path):
    script = (
        "import sys; from pathlib import Path; from responder.installation import server_password; "
        "print(server_password(Path(sys.argv[1])))"
    )

    def another_process(_: int) -> str:
        command = [sys.executable, "-c", script, str(tmp_path / "home")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor(4) as several:
        passwords = set(several.map(another_process, range(4)))
    home = tmp_path / "home"
    assert passwords == {server_password(home)}
    assert server_password_file(home).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in home.iterdir()] == [server_password_file(home).name], "no draft is left"
    assert len(server_password(home)) > 50
    assert server_password(tmp_path / "other") != server_password(home)


class Unlocked(BaseHTTPRequestHandler):
    """A server that asks nobody for anything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        """Not on the tests' output."""


@pytest.fixture
def unlocked() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Unlocked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_server_that_answers_without_its_password_is_not_used(installation, unlocked, tmp_path, monkeypatch):
    monkeypatch.delenv("INCIDENT_STORE_URL")
    for name in list(installation.environment):  # what the new one adopts is gone after the test
        monkeypatch.setenv(name, installation.environment[name])
    home = tmp_path / "home"
    with (
        pytest.raises(PermanentError, match=r"answers 200 .* without its password"),
        Installation(home, port=unlocked),
    ):
        pass
    assert processes_of(home) == []


def test_on_whatever_address_it_listens_its_own_processes_find_it_and_it_is_locked(tmp_path):
    for host, reached in (
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "[::1]"),
    ):
        open_to = Installation(tmp_path, host=host, port=4280, receiver_port=4281)
        assert (open_to.api_url, open_to.receiver_url) == (f"http://{reached}:4280/api", f"http://{reached}:4281")
        assert open_to.environment["PREFECT_SERVER_API_AUTH_STRING"] == server_password(tmp_path)
        assert open_to.environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"


# --- who finds the password ----------------------------------------------------------------------------


def test_commands_in_other_terminals_find_the_password_by_the_data_folder(installation, monkeypatch):
    from responder.cli.app import _found

    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:of-another-server")
    with claim(installation.home) as announce:
        facts = {"pid": 1, "started_at": now(), "api_url": installation.api_url, "ui_url": installation.ui_url}
        announce(Running(**facts, ready=True))
        found = _found()
    assert found
    assert "incident" in found.run("prefect", "work-pool", "ls")


def test_of_a_given_server_the_environment_has_the_password(installation, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:theirs")
    given = Installation(tmp_path / "home", api_url="https://prefect.example.com/api")
    assert given.environment["PREFECT_API_AUTH_STRING"] == "admin:theirs"
    assert "PREFECT_SERVER_API_AUTH_STRING" not in given.environment
    assert not Path(tmp_path / "home").exists()


# --- personal tokens at the command line ---------------------------------------------------------------


def test_a_token_is_shown_once_on_standard_output_and_nowhere_else(installation):
    from commands import incident

    added = incident("token", "add", "robin")
    token = added.out.strip()
    assert re.fullmatch(r"incident_[\w-]{43}", token)
    assert token not in added.err
    assert "robin" in added.err
    listed = incident("token", "list", "--json")
    [row] = [row for row in listed.document if row["person"] == "robin"]
    assert set(row) == {"id", "person", "may", "created_at", "revoked_at"}
    assert token not in listed.out + incident("token", "list").out
    rotated = incident("token", "rotate", str(row["id"]), "--json").document
    assert rotated["token"] != token
    revoked = incident("token", "revoke", str(rotated["id"]), "--json").document
    assert revoked["revoked_at"]
    assert "token" not in revoked
    late = incident("token", "rotate", str(row["id"]))
    assert (late.status, "was revoked; `incident token add` makes one" in late.err) == (1, True)
    unknown = incident("token", "revoke", "999999")
    assert (unknown.status, "there is no token 999999; `incident token list` shows them" in unknown.err) == (
        1,
        True,
    )
    nobody = incident("token", "add", "\x1b[2J")
    assert (nobody.status, nobody.out) == (1, "")


def test_who_takes_over_and_gives_back_is_named_by_their_token(installation, store, monkeypatch):
    from commands import incident
    from factories import open_incident, profile

    from responder.domain.incident import Mode

    row = open_incident(store, profile(name=f"doors-{uuid4().hex[:8]}"), summary="orders fail", mode=Mode.DRY_RUN)
    monkeypatch.setenv("INCIDENT_USER", "typed")
    monkeypatch.setenv("INCIDENT_TOKEN", store.add_token("kim")[1])
    taken = incident("take-over", row.id[:8], "--why", "mine", "--json")
    assert taken.document == {"incident": row.id, "status": "open", "taken_by": "kim"}
    monkeypatch.setenv("INCIDENT_TOKEN", "incident_wrong")
    refused = incident("give-back", row.id)
    assert (refused.status, "unknown or revoked" in refused.err) == (1, True)
    monkeypatch.delenv("INCIDENT_TOKEN")
    assert incident("give-back", row.id, "--json").document["taken_by"] is None
    said = [(made.who, made.what, made.why) for made in store.decisions(row.id)]
    assert said == [("kim", "takes over", "mine"), ("typed", "gives it back", "no reason given")]
    store.close_incident(row.id, who="test", why="done")
