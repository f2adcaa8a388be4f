"""The HTTP door under a real uvicorn: nobody in without a personal token, a clear answer to whatever is sent."""

import contextlib
import json
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from factories import open_incident, profile
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from sqlalchemy import event

from responder.domain.approval import Answer, Decision, Question
from responder.domain.incident import WAITING_TO_APPROVE, Approvers
from responder.installation import free_port
from responder.receiver import access, bounds
from responder.receiver.alerts import SECRETS
from responder.receiver.app import create_app
from responder.receiver.server import listen, serve, server_of
from responder.store import Store
from responder.store.tables import IncidentRow

OPEN = {"/healthz", "/readyz"}
SIGNED = {"/alerts/pagerduty"}
"""Let in by a signature over the body; see `test_alert_door`."""
WRONG = "incident_" + "x" * 43


@dataclass
class Door:
    """The door to a store of its own, and a person with a token."""

    store: Store
    url: str
    token: str
    application: Any

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **more: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"} | more.pop("headers", {})
        if body is not None:
            more["json"] = body
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as client:
            return client.request(method, path, headers=headers, **more)

    def incident(self) -> IncidentRow:
        row = open_incident(
            self.store,
            profile(name=f"shop-{len(self.store.incidents())}"),
            run_id=f"run-{len(self.store.incidents())}",
            summary="orders fail",
        )
        self.store.begin_run(row.id, holder="run", lease_s=600)
        return self.store.incident(row.id)

    def asked(self, row: IncidentRow, approvers: Approvers = Approvers.NAMED, **changes: Any) -> Question:
        """Ask before a restart, as the incident's run does."""
        facts: dict[str, Any] = {
            "incident_id": row.id,
            "round": 0,
            "step_id": "restart@gw-1",
            "cause": "process-dead",
            "strategy": "restart",
            "target": "gw-1",
            "host": "gw-1",
            "command": ("sudo", "systemctl", "restart", "shop-gateway"),
            "profile": "0123456789ab",
            "why": "The process is dead.",
            "approvers": approvers,
            "radius": ("Acts on gw-1.", "It cannot be taken back."),
        }
        question = Question.model_validate(facts | changes)
        self.store.ask(row.id, row.epoch, question)
        self.store.begin_step(row.id, row.epoch, WAITING_TO_APPROVE, deadline_s=600)
        return question

    def sends(self, token: str) -> int:
        """Send a group without alerts; returns the status."""
        posted = {"version": "4", "groupKey": "none", "alerts": []}
        return self.ask("POST", "/alerts/alertmanager", posted, token=token).status_code

    def said(self, row: IncidentRow) -> list[tuple[str, str, str]]:
        return [(made.who, made.what, made.why) for made in self.store.decisions(row.id)]


@contextmanager
def served(store: Store) -> Iterator[tuple[str, Any]]:
    """The application behind a port, as `incident receive` serves it."""
    server = server_of(store)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", server.config.app
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    url = f"sqlite:///{tmp_path_factory.mktemp('door')}/incidents.db"
    with pytest.MonkeyPatch.context() as patch, closing(Store(url)) as store:
        patch.setenv(SECRETS, "a-secret")
        store.migrate()
        with served(store) as (url, application):
            yield Door(store, url, store.add_token("robin")[1], application)


@pytest.fixture
def door(opened: Door) -> Door:
    opened.application.state.gate = access.Gate()
    return opened


def routes(door: Door) -> list[tuple[str, str]]:
    """Each method and path that the application knows, whatever it documents."""
    found = [
        (method, route.path) for route in iter_route_contexts(door.application.routes) for method in route.methods
    ]
    assert len(found) > 10
    return sorted(found)


def path_of(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "0123456789ab", template)


# --- the lock ------------------------------------------------------------------------------------------


def test_every_route_but_the_two_for_health_asks_for_a_token_or_a_signature(door: Door) -> None:
    _, revoked = door.store.add_token("kim")
    door.store.revoke_token(door.store.tokens()[-1].id)
    for method, template in routes(door):
        headers = {
            "none": {},
            "empty": {"Authorization": ""},
            "unknown": {"Authorization": f"Bearer {WRONG}"},
            "revoked": {"Authorization": f"Bearer {revoked}"},
            "no bearer": {"Authorization": f"Basic {door.token}"},
            "in the URL": {},
        }
        for name, sent in headers.items():
            door.application.state.gate = access.Gate()
            with httpx.Client(base_url=door.url, trust_env=False, timeout=60) as client:
                query = {"access_token": door.token, "token": door.token} if name == "in the URL" else None
                got = client.request(method, path_of(template), headers=sent, params=query, json={"why": "so"})
            if template in SIGNED:
                assert got.status_code == 401, (name, method, template)
                continue
            if template in OPEN:
                assert got.status_code == 200, (method, template)
                continue
            assert (got.status_code, got.headers.get("WWW-Authenticate")) == (401, "Bearer"), (
                name,
                method,
                template,
            )
            assert set(got.json()) == {"error", "see"}
    assert door.store.flips() == [], "and nothing was done"


def test_a_revoked_token_is_worthless_at_once_though_it_was_right_before(door: Door) -> None:
    row, token = door.store.add_token("kim")
    assert door.ask("GET", "/stop", token=token).status_code == 200
    door.store.revoke_token(row.id)
    assert door.ask("GET", "/stop", token=token).status_code == 401
    assert door.ask("GET", "/stop").status_code == 200, "another one's is not"


def test_of_a_rotated_token_only_the_new_one_holds(door: Door) -> None:
    row, old = door.store.add_token("kim")
    renewed, new = door.store.rotate_token(row.id)
    assert (renewed.person, renewed.id != row.id) == ("kim", True)
    assert [door.ask("GET", "/stop", token=token).status_code for token in (old, new)] == [401, 200]


def test_a_token_is_nowhere_in_the_store_and_what_lies_there_opens_nothing(door: Door) -> None:
    row, token = door.store.add_token("kim")
    with closing(sqlite3.connect(door.store.engine.url.database or "")) as database:
        dumped = "\n".join(database.iterdump())
    assert token not in dumped
    assert token.removeprefix("incident_") not in dumped
    assert row.digest in dumped
    for stolen in (row.digest, f"incident_{row.digest}", "incident_", row.digest.upper()):
        assert door.ask("GET", "/stop", token=stolen).status_code == 401


def test_digests_are_compared_in_a_time_that_tells_nothing(door: Door, monkeypatch: Any) -> None:
    from responder.store import people

    compared: list[str] = []
    real = people.hmac.compare_digest
    monkeypatch.setattr(people.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    valid = [row.digest for row in door.store.tokens() if not row.revoked_at]
    assert door.store.person_of(door.token) == "robin"
    assert compared == valid, "all are compared, also behind the one that fits"


def test_who_guesses_is_slowed_down_and_who_has_a_token_is_not(door: Door) -> None:
    assert door.ask("GET", "/stop").status_code == 200
    _, fresh = door.store.add_token("kim")
    codes = [door.ask("GET", "/stop", token=WRONG).status_code for _ in range(access.GUESSES + 5)]
    assert codes[: access.GUESSES] == [401] * access.GUESSES
    assert 429 in codes[access.GUESSES :]
    for _ in range(5):  # where the machine is so slow that guesses come back meanwhile
        refused = door.ask("GET", "/stop", token=WRONG)
        if refused.status_code == 429:
            break
    assert refused.headers["Retry-After"] == "2"
    assert door.ask("GET", "/stop").status_code == 200, "known before: let through"
    gate = access.Gate()
    for _ in range(access.GUESSES):
        gate.was_wrong("10.0.0.9", WRONG)
    assert not gate.lets_try("10.0.0.9", fresh)
    assert gate.lets_try("10.0.0.8", fresh), "another address has guesses of its own"
    gate.was_right(fresh, "kim")
    assert gate.lets_try("10.0.0.9", fresh)
    gate.was_wrong("10.0.0.9", fresh)
    assert not gate.lets_try("10.0.0.9", fresh), "one that was revoked meanwhile is a guess like others"


def test_who_sends_alerts_is_not_asked_for_again_within_a_second_and_then_is(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    door.application.state.gate = access.Gate(lambda: clock[0])
    row, token = door.store.add_token("prometheus", sends_alerts=True)
    looked: list[str] = []
    real = door.store.sender_of
    monkeypatch.setattr(door.store, "sender_of", lambda given: looked.append(given) or real(given))

    with ThreadPoolExecutor(5) as senders:
        assert list(senders.map(door.sends, [token] * 5)) == [202] * 5
    assert looked == [token]
    door.store.revoke_token(row.id)
    clock[0] += access.SENDER_KNOWN_S
    assert [door.sends(token) for _ in range(2)] == [401] * 2
    assert door.ask("GET", "/stop", token=token).status_code == 401, "nor does it open anything else"


def test_who_guesses_holds_up_nobody_who_sends_alerts(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = door.store.add_token("alertmanager", sends_alerts=True)
    asked, found, real = threading.Event(), threading.Event(), door.store.sender_of

    def slow_to_find_nobody(given: str) -> str | None:
        if given == WRONG:
            asked.set()
            found.wait(60)
        return real(given)

    monkeypatch.setattr(door.store, "sender_of", slow_to_find_nobody)
    with ThreadPoolExecutor(1) as guesser:
        guess = guesser.submit(door.sends, WRONG)
        assert asked.wait(60)
        assert door.sends(token) == 202
        assert not guess.done()
        found.set()
        assert guess.result() == 401


def test_an_answer_is_sent_at_once_and_not_kept_until_the_last_is_acknowledged() -> None:
    with (
        listen("127.0.0.1", 0) as door,
        socket.create_connection(door.getsockname()),
        door.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_nobody_is_let_in_to_wait_before_the_door_can_answer(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    port, let_in = free_port(), []

    def connects() -> bool:
        with socket.socket() as knocks:
            return knocks.connect_ex(("127.0.0.1", port)) == 0

    def opens() -> Store:
        let_in.append(connects())
        return Store(door.store.engine.url.render_as_string(hide_password=False))

    async def asked_before(app: Any) -> None:
        let_in.append(connects())

    def listening() -> None:
        let_in.append(connects())
        raise KeyboardInterrupt

    monkeypatch.setattr("responder.receiver.server.open_store", opens)
    monkeypatch.setattr("responder.receiver.server._warm_up", asked_before)
    with pytest.raises(KeyboardInterrupt):
        serve("127.0.0.1", port, listening=listening)
    assert let_in == [False, False, True]


def test_a_gate_remembers_no_more_addresses_than_it_may_and_gives_guesses_back() -> None:
    clock = [1_000.0]
    gate = access.Gate(lambda: clock[0])
    for number in range(access.ADDRESSES + 50):
        gate.was_wrong(f"10.0.{number}", WRONG)
    assert len(gate._left) == access.ADDRESSES
    for _ in range(access.GUESSES):
        gate.was_wrong("10.9.9.9", WRONG)
    assert not gate.lets_try("10.9.9.9", WRONG)
    clock[0] += 2
    assert gate.lets_try("10.9.9.9", WRONG)


# --- what people say -----------------------------------------------------------------------------------


def test_open_incidents_and_their_question_are_shown_as_they_are(door: Door) -> None:
    row = door.incident()
    assert door.ask("GET", "/incidents").json()[0]["id"] == row.id
    nothing = door.ask("GET", f"/incidents/{row.id}/question")
    assert (nothing.status_code, "asks nothing" in nothing.json()["error"]) == (404, True)
    question = door.asked(row)
    shown = door.ask("GET", f"/incidents/{row.id[:8]}/question").json()
    assert shown["question"] == question.digest
    assert shown["command"] == ["sudo", "systemctl", "restart", "shop-gateway"]
    assert shown["blast_radius"] == ["Acts on gw-1.", "It cannot be taken back."]
    assert "a named person must approve" in shown["still_needed"]
    assert shown["until"].endswith(("Z", "+00:00"))
    door.store.close_incident(row.id, who="test", why="done")
    assert row.id not in [found["id"] for found in door.ask("GET", "/incidents").json()]


def test_an_answer_carries_the_name_of_the_token_and_counts_as_proven(door: Door) -> None:
    row = door.incident()
    question = door.asked(row, Approvers.NAMED)
    said = {"question": question.digest, "decision": "approve", "why": "the disk is fine"}
    got = door.ask("POST", f"/incidents/{row.id}/answer", said)
    assert got.json() == {"decided": "approve", "by": "robin", "still_needed": None}
    [asked] = door.store.questions(row.id)
    assert asked.decided == Answer(decision=Decision.APPROVE, by="robin", why="the disk is fine", proven=True)
    assert door.said(row)[-1][0] == "robin"
    again = door.ask("POST", f"/incidents/{row.id}/answer", said)
    assert (again.status_code, "was decided by robin: approve" in again.json()["error"]) == (409, True)


def test_a_name_in_the_body_is_refused_the_token_says_who_it_is(door: Door) -> None:
    row = door.incident()
    question = door.asked(row)
    for forged in ({"by": "kim"}, {"proven": True}):
        said = {"question": question.digest, "decision": "approve"} | forged
        assert door.ask("POST", f"/incidents/{row.id}/answer", said).status_code == 422
    assert door.store.questions(row.id)[0].answers == ()


def test_two_persons_are_two_tokens_of_two_names(door: Door) -> None:
    row = door.incident()
    question = door.asked(row, Approvers.TWO)
    said = {"question": question.digest, "decision": "approve"}
    path = f"/incidents/{row.id}/answer"
    first = door.ask("POST", path, said).json()
    assert first["decided"] is None
    assert "so far: robin" in first["still_needed"]
    for same in ("robin", " Robin ", "ROBIN"):
        _, token = door.store.add_token(same)
        assert door.ask("POST", path, said, token=token).json()["decided"] is None
    _, kims = door.store.add_token("kim")
    assert door.ask("POST", path, said, token=kims).json()["decided"] == "approve"


def test_an_answer_to_what_is_asked_no_more_is_a_conflict(door: Door) -> None:
    row = door.incident()
    old = door.asked(row)
    new = door.asked(row, command=("sudo", "systemctl", "restart", "other"))
    got = door.ask("POST", f"/incidents/{row.id}/answer", {"question": old.digest, "decision": "approve"})
    assert (got.status_code, "what was to be done has changed" in got.json()["error"]) == (409, True)
    assert door.ask("GET", f"/incidents/{row.id}/question").json()["question"] == new.digest


def test_another_strategy_is_named_with_that_decision_and_only_with_it(door: Door) -> None:
    row = door.incident()
    question = door.asked(row)
    path = f"/incidents/{row.id}/answer"
    for wrong in (
        {"decision": "another strategy"},
        {"decision": "approve", "strategy": "restart"},
        {"decision": "another strategy", "strategy": "pray"},
        {"decision": "maybe"},
    ):
        got = door.ask("POST", path, {"question": question.digest} | wrong)
        assert got.status_code == 422, got.text
    said = {"question": question.digest, "decision": "another strategy", "strategy": "restart"}
    assert door.ask("POST", path, said).json()["decided"] == "another strategy"


def test_an_incident_is_taken_over_and_given_back_by_name(door: Door) -> None:
    row = door.incident()
    taken = door.ask("POST", f"/incidents/{row.id}/take-over", {"why": "I know this one"})
    assert (taken.status_code, taken.json()["taken_by"]) == (200, "robin")
    assert door.store.held_back(row.id) == "robin has taken the incident over"
    _, kims = door.store.add_token("kim")
    other = door.ask("POST", f"/incidents/{row.id}/take-over", {}, token=kims)
    assert (other.status_code, "was taken over by robin" in other.json()["error"]) == (409, True)
    given = door.ask("POST", f"/incidents/{row.id}/give-back", {"why": "done"})
    assert (given.status_code, given.json()["taken_by"]) == (200, None)
    assert door.said(row)[-2:] == [("robin", "takes over", "I know this one"), ("robin", "gives it back", "done")]
    door.store.close_incident(row.id, who="test", why="done")
    for way in ("take-over", "give-back"):
        assert door.ask("POST", f"/incidents/{row.id}/{way}", {}).status_code == 409


def test_everything_is_stopped_and_lifted_by_name(door: Door) -> None:
    assert door.ask("GET", "/stop").json() == {"stopped": False, "by": None}
    stopped = door.ask("POST", "/stop", {"why": "release"}).json()
    assert stopped["stopped"]
    assert re.fullmatch(r"robin at .* UTC: release", stopped["by"])
    assert door.store.stopped()
    assert door.ask("DELETE", "/stop", {"why": "it is out"}).json() == {"stopped": False, "by": None}
    assert [(flip.stopped, flip.who, flip.why) for flip in door.store.flips()[:2]] == [
        (False, "robin", "it is out"),
        (True, "robin", "release"),
    ]


def test_what_does_not_exist_is_said_so(door: Door) -> None:
    for method, path in (
        ("GET", "/incidents/ffffffffffff/question"),
        ("POST", "/incidents/ffffffffffff/take-over"),
        ("POST", "/incidents/ffffffffffff/give-back"),
    ):
        got = door.ask(method, path, {} if method == "POST" else None)
        assert got.status_code == 404
        assert "there is no incident 'ffffffffffff'" in got.json()["error"]
    assert door.ask("GET", "/nowhere").json() == {"error": "Not Found", "see": ""}
    wrong = door.ask("PUT", "/stop")
    assert (wrong.status_code, set(wrong.json())) == (405, {"error", "see"})


# --- bounds, and what goes wrong inside ----------------------------------------------------------------


def test_a_body_beyond_the_bound_is_refused_whatever_it_says_of_its_length(door: Door) -> None:
    many = b" " * (bounds.MOST_BYTES + 1)
    with httpx.Client(base_url=door.url, trust_env=False, timeout=60) as client:
        for content in (many, (many[at : at + 999] for at in range(0, len(many), 999))):
            got = client.post("/stop", content=content, headers={"Authorization": f"Bearer {door.token}"})
            assert (got.status_code, got.json()["error"]) == (413, "the body has more than 65536 bytes")
    fits = json.dumps({"why": "x"}).encode().ljust(bounds.MOST_BYTES)
    assert (
        door.ask("DELETE", "/stop", content=fits, headers={"Content-Type": "application/json"}).status_code == 200
    )


def test_a_body_that_never_comes_is_given_up(door: Door, monkeypatch: Any) -> None:
    monkeypatch.setattr(bounds, "LONGEST_S", 0.3)
    host, port = door.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")


def test_headers_beyond_the_bound_are_refused(door: Door) -> None:
    host, port = door.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as big:
        big.sendall(b"GET /stop HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 16 * 1024)
        assert big.recv(4096).startswith(b"HTTP/1.1 4")


def test_a_store_that_does_not_answer_is_a_503_and_nothing_of_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "incidents.db"
    with closing(Store(f"sqlite:///{file}")) as store:
        store.migrate()
        _, token = store.add_token("robin")

        @event.listens_for(store.engine, "checkout")
        def _impatient(connection: Any, *_: Any) -> None:
            connection.execute("PRAGMA busy_timeout=50")

        with served(store) as (url, application):
            door = Door(store, url, token, application)
            assert door.ask("GET", "/readyz").json() == {"ready": True, "keeper": False}
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                got = door.ask("POST", "/stop", {"why": "release"})
                assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
                assert "the store does not answer" in got.json()["error"]
                assert not re.search(r"sqlite|SELECT|BEGIN|locked|/", got.json()["error"])
                assert door.ask("GET", "/readyz").status_code == 200, "who only reads waits for no writer"
                assert door.ask("GET", "/healthz").json() == {"alive": True}
                other.execute("ROLLBACK")
            assert door.ask("POST", "/stop", {"why": "release"}).status_code < 300


def test_a_fault_of_ours_tells_nothing_of_the_inside(door: Door, monkeypatch: Any) -> None:
    def broken(_: Store) -> str:
        raise ValueError("secret of the inside")

    monkeypatch.setattr(Store, "stopped", broken)
    got = door.ask("GET", "/stop")
    assert (got.status_code, "inside" in got.text, set(got.json())) == (500, False, {"error", "see"})


BODY = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=12,
    ).map(lambda data: json.dumps(data).encode()),
    st.fixed_dictionaries(
        {"why": st.text(max_size=1_200)},
        optional={
            "question": st.text(max_size=20) | st.just("0" * 16),
            "decision": st.sampled_from([*Decision, "yes"]),
            "strategy": st.text(max_size=60),
        },
    ).map(lambda data: json.dumps(data).encode()),
    st.sampled_from([b"[" * 60_000, b"1" * 60_000, b'{"why":"\\ud800\\u0000"}', b"\xff\xfe{}", b'{"why":NaN}']),
)
HEADERS = st.dictionaries(
    st.from_regex(r"X-[A-Za-z]{1,10}|Content-Type|Accept|Authorization|Expect", fullmatch=True),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80)
    | st.sampled_from(
        ["application/json", "application/json; charset=utf-16", "text/plain", "multipart/form-data"]
    ),
    max_size=4,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), body=BODY, headers=HEADERS)
def test_whatever_is_sent_is_answered_and_never_a_fault_of_ours(
    door: Door, data: Any, body: Any, headers: Any
) -> None:
    method, template = data.draw(st.sampled_from(routes(door)))
    text = data.draw(st.text(max_size=60) | st.sampled_from(["%", "_", "..", "", "a" * 12]))
    path = template.replace("{id}", quote(text, safe="%" if text == "%" else ""))
    sent = [(b"authorization", f"Bearer {door.token}".encode())] if data.draw(st.booleans()) else []
    sent += [(name.encode(), value.strip().encode("latin-1")) for name, value in headers.items()]
    door.application.state.gate = access.Gate()
    with httpx.Client(base_url=door.url, trust_env=False, timeout=60) as client:
        got = client.request(method, path, content=body, headers=sent)
    assert got.status_code < 500, (got.status_code, got.text)
    assert got.status_code == 200 or not got.text or "error" in got.text or got.status_code == 400


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.binary(min_size=1, max_size=200), begun=st.sampled_from([b"", b"GET /stop HTTP/1.1\r\n", b"POST "])
)
def test_noise_is_refused_and_the_door_stays_open(door: Door, noise: bytes, begun: bytes) -> None:
    host, port = door.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(begun + noise)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while got := raw.recv(4096):
                answer += got
    assert re.match(rb"HTTP/1.1 4|$", answer), answer


# --- its description -----------------------------------------------------------------------------------


def test_its_description_is_true(door: Door) -> None:
    """Each answer fits the schema that the description promises for it, and each lock is in it."""
    described = door.ask("GET", "/openapi.json").json()
    documented = {(method.upper(), path) for path, ways in described["paths"].items() for method in ways}
    assert documented == set(routes(door)) - {("GET", "/openapi.json")}
    assert described["components"]["securitySchemes"]["personalToken"]["scheme"] == "bearer"
    for path, ways in described["paths"].items():
        for way in ways.values():
            lock = "pagerdutySignature" if path in SIGNED else "personalToken"
            assert way.get("security") == (None if path in OPEN else [{lock: []}]), path
    row = door.incident()
    digest = door.asked(row).digest
    said: list[tuple[str, str, Any, str | None]] = [
        ("GET", "/healthz", None, None),
        ("GET", "/readyz", None, None),
        ("GET", "/incidents", None, None),
        ("GET", "/incidents/{id}/question", None, None),
        ("GET", "/incidents/{id}/question", None, WRONG),
        ("POST", "/incidents/{id}/answer", {"question": "1" * 16, "decision": "approve"}, None),
        ("POST", "/incidents/{id}/answer", {"decision": "approve"}, None),
        ("POST", "/incidents/{id}/answer", {"question": digest, "decision": "decline"}, None),
        ("GET", "/incidents/{id}/question", None, None),
        ("POST", "/incidents/{id}/take-over", {"why": "mine"}, None),
        ("POST", "/incidents/{id}/give-back", {}, None),
        ("POST", "/stop", {}, None),
        ("GET", "/stop", None, None),
        ("DELETE", "/stop", {}, None),
        ("GET", "/receipts", None, None),
        ("POST", "/alerts/alertmanager", {"version": "4", "groupKey": "x", "alerts": []}, None),
        ("POST", "/alerts/alertmanager", {"version": "3"}, None),
    ]
    seen = set()
    for method, path, body, token in said:
        got = door.ask(method, path.replace("{id}", row.id), body, token=token)
        promised = described["paths"][path][method.lower()]["responses"][str(got.status_code)]
        schema = promised["content"]["application/json"]["schema"]
        OAS31Validator({**schema, "components": described["components"]}).validate(got.json())
        seen.add((method, path, got.status_code))
    assert {(method, path) for method, path, code in seen if code in (200, 202)} == (
        documented - {("POST", "/alerts/pagerduty"), ("GET", "/metrics")}  # see `test_alert_door`
    )
    assert {code for _, _, code in seen} == {200, 202, 401, 404, 409, 422}


def test_an_application_that_gets_a_new_route_is_covered_by_the_lock_test(tmp_path: Path) -> None:
    """The test of the lock looks at the routes themselves: one that is added without a lock is among them."""
    with closing(Store(f"sqlite:///{tmp_path}/incidents.db")) as store:
        application = create_app(store)
        application.get("/new")(lambda: {})
        assert ("GET", "/new") in routes(Door(store, "", "", application))
