"""From answers to evidence: what could not be read is unknown with a reason, never zero; all bounded and clean."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from factories import NOON
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.domain import observations as o
from responder.domain.commands import CommandResult
from responder.domain.evidence import Evidence
from responder.domain.notes import EXCERPT_CHARACTERS, Notes
from responder.domain.parsing.http import HttpReply, Reading, parse_curl, read_json
from responder.domain.parsing.metrics import Measure, ServiceRates, parse_metrics
from responder.domain.profile import Unit
from responder.domain.redaction import redact

UNIT = Unit(name="veloz", process_pattern="veloz", deployment_processes=("ansible-playbook",))
SECRET = "xoxb-1234567890-abcdefghij"


def result(stdout: str = "", status: int | None = 0, **more: Any) -> CommandResult:
    fields = {"stderr": "", "truncated": False, "timed_out": False, "took_s": 0.1} | more
    return CommandResult(command="look", exit_status=status, stdout=stdout, **fields)


def noted(note: Callable[..., None], *args: Any) -> dict[str, Evidence]:
    """The evidence that one note makes, by key."""
    notes = Notes("gw-1", NOON)
    note(notes, *args)
    return {item.key: item for item in notes.evidence}


SHOW = """\
Id=veloz.service
LoadState=loaded
ActiveState=failed
SubState=failed
Result=signal
MainPID=0
NRestarts=2
ExecMainCode=2
ExecMainStatus=11
"""
PS = """\
  4121     1 Ss    1.5 20480     600 python veloz_gateway.py
  4130  4121 S     0.5 10240     600 veloz_engine --stdio
  5000     1 Ss    0.0  1024      30 ansible-playbook deploy.yml
"""
FREE = """\
               total        used        free      shared  buff/cache   available
Mem:      8000000000  2000000000  4000000000    10000000  2000000000  6000000000
Swap:              0           0           0
"""
DF = """\
Filesystem     1-blocks  Used Available Capacity Mounted on
/dev/vda1          1000   910        90      91% /
/dev/vdb1          1000   100       900      10% /var
"""
INODES = """\
Filesystem Inodes IUsed IFree IUse% Mounted on
/dev/vda1    1000   910    90   91% /
"""
JOURNAL = """\
1772360551.000001 gw-1 veloz[4121]: [AUDIT] Gateway listening
1772360552.000001 gw-1 veloz[4121]: error: cannot connect to 10.0.0.1
1772360553.000001 gw-1 systemd[1]: veloz.service: A process of this unit has been killed by the OOM killer.
"""
OOM = "1772360553.0 gw-1 kernel: Out of memory: Killed process 4121 (veloz_engine) total-vm:5kB, anon-rss:4kB\n"
SINCE = NOON - timedelta(hours=1)
WHO = f"alex     pts/0        {NOON:%Y-%m-%d} 11:58   .           4242 (10.4.0.9)\n"

READERS: dict[str, tuple[Callable[..., None], str, tuple[Any, ...]]] = {
    "unit": (o.note_unit, SHOW, ()),
    "status": (o.note_status, "● veloz.service\n   Active: active (running)\n", ()),
    "processes": (o.note_processes, PS, (UNIT, 4121)),
    "memory": (o.note_memory, FREE, ()),
    "disk": (o.note_disk, DF, ()),
    "inodes": (o.note_inodes, INODES, ()),
    "journal": (o.note_journal, JOURNAL, ()),
    "kernel": (o.note_kernel, OOM, ()),
    "logins": (o.note_logins, WHO, (SINCE, NOON, timedelta(0))),
    "release": (o.note_release, "1772360551 'current' -> 'releases/1.4.2'\n", ()),
}


@pytest.mark.parametrize("name", READERS)
def test_a_sound_answer_is_read(name: str) -> None:
    note, text, more = READERS[name]
    assert [item for item in noted(note, result(text), *more).values() if item.unknown is None]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"timed_out": True, "status": None}, "no answer within its deadline"),
        ({"status": None}, "exit status is unknown"),
        ({"status": 127, "stdout": "", "stderr": "sh: look: not found\nmore"}, "127: sh: look: not found"),
        ({"status": 255, "stdout": ""}, "255: without a word"),
    ],
)
def test_a_command_that_failed_shows_nothing_but_why(name: str, broken: dict[str, Any], words: str) -> None:
    note, text, more = READERS[name]
    found = noted(note, result(**({"stdout": text} | broken)), *more)
    if name in ("memory", "disk", "inodes") and broken.get("stdout") is None:
        return  # df and free may end badly for one odd mount and still tell of the others
    assert found
    assert all(item.unknown for item in found.values())
    assert any(words in str(item.unknown) for item in found.values())


@pytest.mark.parametrize("name", READERS)
def test_the_same_is_observed_whether_it_could_be_read_or_not(name: str) -> None:
    note, text, more = READERS[name]
    lost = set(noted(note, result("", None), *more))
    assert set(noted(note, result(text), *more)) == lost, "a key that is missing would look like never asked"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40)
@given(text=st.text(), status=st.one_of(st.none(), st.integers(-1, 256)))
def test_any_answer_becomes_evidence_without_an_error(name: str, text: str, status: int | None) -> None:
    note, _, more = READERS[name]
    for item in noted(note, result(text, status), *more).values():
        assert (item.value is None) == (item.unknown is not None)


@pytest.mark.parametrize("name", sorted(set(READERS) - {"status", "logins"}))
def test_an_empty_answer_is_not_read_as_zero(name: str) -> None:
    note, _, more = READERS[name]
    if name in ("journal", "kernel"):
        # journalctl says so when it has nothing: that is an answer.
        assert noted(note, result("-- No entries --\n"))[
            "journal.errors" if name == "journal" else "kernel.oom_kills"
        ]
    else:
        assert all(item.unknown for item in noted(note, result(""), *more).values())


def test_a_failed_unit_is_told_whole() -> None:
    found = {key: item.value for key, item in noted(o.note_unit, result(SHOW)).items()}
    assert found["unit.active_state"] == "failed"
    assert found["unit.result"] == "signal"
    assert (found["unit.n_restarts"], found["unit.exec_main_status"]) == (2, 11)


def test_a_unit_that_does_not_exist_is_unknown_and_never_inactive() -> None:
    found = noted(o.note_unit, result("LoadState=not-found\nActiveState=inactive\nSubState=dead\n"))
    assert {item.value for item in found.values()} == {None}
    assert "no such unit" in str(found["unit.active_state"].unknown)


def test_status_three_is_an_answer_and_one_is_none() -> None:
    assert noted(o.note_status, result("× veloz.service", 3))["unit.status"].value == "× veloz.service"
    assert noted(o.note_status, result("", 1))["unit.status"].unknown


def test_processes_of_the_unit_are_told_from_a_deployment() -> None:
    found = {key: item.value for key, item in noted(o.note_processes, result(PS), UNIT, 4121).items()}
    assert (found["processes.count"], found["deployments.running"]) == (2, 1)
    assert (found["process.state"], found["process.rss_bytes"]) == ("S", 20480 * 1024)


def test_without_a_main_process_its_state_is_unknown() -> None:
    found = noted(o.note_processes, result(PS), UNIT, None)
    assert found["process.state"].unknown
    assert found["deployments.running"].value == 1


def test_the_fullest_disk_counts_even_where_df_stumbled() -> None:
    assert noted(o.note_disk, result(DF, 1, stderr="df: /mnt: Stale file handle"))["disk.used_percent"].value == 91


@pytest.mark.parametrize("note", [o.note_journal, o.note_kernel])
def test_a_journal_that_the_login_may_not_read_is_unknown_and_not_empty(note: Callable[..., None]) -> None:
    hint = "Hint: You are currently not seeing messages from other users and the system.\n"
    found = noted(note, result("-- No entries --\n", stderr=hint))
    assert all("may not read" in str(item.unknown) for item in found.values())


def test_the_journal_tells_errors_and_kills() -> None:
    found = {key: item.value for key, item in noted(o.note_journal, result(JOURNAL)).items()}
    assert found["journal.oom_kills"] == 1
    assert found["journal.errors"] >= 1
    assert len(found["journal.lines"]) == 3
    assert noted(o.note_kernel, result(OOM))["kernel.oom_kills"].value == 1


@pytest.mark.parametrize(
    ("clock", "idle", "active"),
    [("11:58", ".", 1), ("11:30", "old", 1), ("09:00", "00:10", 1), ("09:00", "02:00", 0), ("09:00", "old", 0)],
)
def test_a_login_counts_when_begun_or_used_since_the_first_alert(clock: str, idle: str, active: int) -> None:
    text = f"alex     pts/0        {NOON:%Y-%m-%d} {clock} {idle:>5}        4242 (10.4.0.9)\n"
    assert noted(o.note_logins, result(text), SINCE, NOON, timedelta(0))["logins.active"].value == active


def test_nobody_logged_in_is_an_answer() -> None:
    assert noted(o.note_logins, result(""), SINCE, NOON, timedelta(0))["logins.active"].value == 0


# Endpoints and metrics


def curl(status: int = 200, body: str = "{}", kind: str = "application/json", exit_status: int = 0) -> HttpReply:
    head = f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\n\r\n"
    return parse_curl(exit_status, f"{head}{body}\n0.012345" if exit_status == 0 else "", "")


@pytest.mark.parametrize(
    ("reply", "failure", "verdict"),
    [
        (curl(body='{"ok": true}'), "none", "healthy"),
        (curl(body='{"ok": false}'), "unhealthy", "unhealthy"),
        (curl(body='{"status": "odd"}'), "shape", None),
        (curl(body="<html>Sign in</html>", kind="text/html"), "shape", None),
        (curl(body="not JSON"), "shape", None),
        (curl(429), "rate_limited", None),
        (curl(500), "server_error", "unhealthy"),
        (curl(503), "server_error", "unhealthy"),
        (curl(404), "client_error", None),
        (curl(302), "shape", None),
        (curl(exit_status=7), "refused", "unhealthy"),
        (curl(exit_status=28), "timeout", None),
        (curl(exit_status=52), "empty_reply", None),
        (curl(exit_status=6), "dns", None),
        (curl(exit_status=127), None, None),
    ],
)
def test_an_answer_of_an_endpoint_is_one_word_and_a_verdict(
    reply: HttpReply, failure: str | None, verdict: str | None
) -> None:
    found = noted(o.note_endpoint, "health", "http://x/health", reply, read_json(reply, {"ok": True}))
    assert found["health.failure"].value == failure
    assert found["health.verdict"].value == verdict
    assert bool(found["health.verdict"].unknown) == (verdict is None)


def test_orders_are_counted_only_where_they_are_told() -> None:
    def orders(reply: HttpReply) -> Evidence:
        return noted(o.note_orders, "http://x", read_json(reply, {}, ("items",)), "items")["orders.items"]

    assert orders(curl(body='{"items": []}')).value == 0
    assert orders(curl(body='{"items": [1, 2]}')).value == 2
    assert orders(curl(body="{}")).unknown
    assert orders(curl(exit_status=7)).unknown


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (curl(body="a_total 1\n", kind="text/plain"), "none"),
        (curl(body="<html></html>", kind="text/html"), "shape"),
        (curl(body="", kind="text/plain"), "shape"),
        (curl(429), "rate_limited"),
        (curl(502), "server_error"),
        (curl(exit_status=52), "empty_reply"),
        (curl(exit_status=28), "timeout"),
        (curl(exit_status=127), None),
    ],
)
def test_a_scrape_says_what_failed(reply: HttpReply, failure: str | None) -> None:
    assert noted(o.note_scrape, "http://x", reply, parse_metrics(reply.body))["metrics.failure"].value == failure


def rates(share: float | None, p99: float | None) -> dict[str, Evidence]:
    def measure(value: float | None) -> Measure:
        return Measure(value=value) if value is not None else Measure(problem="no traffic")

    names = ("requests_per_s", "errors_per_s", "latency_p50_s", "latency_p90_s")
    measured = ServiceRates(
        **{name: measure(1.0) for name in names}, error_share=measure(share), latency_p99_s=measure(p99)
    )
    notes = Notes("gw-1", NOON)
    o.note_rates(notes, "http://x", measured, limits=(0.01, 1.0))
    return {item.key: item for item in notes.evidence}


@pytest.mark.parametrize(
    ("share", "p99", "verdict"),
    [
        (0.0, 0.1, "healthy"),
        (0.01, 1.0, "healthy"),
        (0.011, 0.1, "unhealthy"),
        (0.0, 1.1, "unhealthy"),
        (None, 1.1, "unhealthy"),
        (0.5, None, "unhealthy"),
        (None, 0.1, None),
        (0.0, None, None),
        (None, None, None),
    ],
)
def test_half_known_figures_are_never_healthy(share: float | None, p99: float | None, verdict: str | None) -> None:
    assert rates(share, p99)["metrics.verdict"].value == verdict


# Nothing leaks, nothing bloats


def every_note(text: str) -> list[Evidence]:
    """All that the notes make of one text, wherever it may appear."""
    answers = (result(text), result("", 1, stderr=text))
    readers = [(note, answer, more) for note, _, more in READERS.values() for answer in answers]
    found = [item for note, answer, more in readers for item in noted(note, answer, *more).values()]
    reply = HttpReply(status=200, content_type="application/json", body=text)
    found += noted(o.note_endpoint, "health", text, reply, read_json(reply, {"ok": True})).values()
    found += noted(o.note_scrape, text, reply, parse_metrics(text)).values()
    found += noted(o.note_orders, text, Reading(verdict="unknown", reason=text), "items").values()
    return found


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "one line\n" * 20_000,
        "".join(f"1772360551.{n:06} gw-1 veloz[1]: error: {'y' * 5_000}\n" for n in range(200)),
        f"1772360551 'current' -> '{'z' * 100_000}'",
        f"ActiveState={'a' * 100_000}\nLoadState=loaded\n",
    ],
)
def test_evidence_is_bounded_whatever_a_host_prints(text: str) -> None:
    for item in every_note(text):
        assert len(item.excerpt) <= EXCERPT_CHARACTERS
        assert len(item.how) <= 300
        assert len(str(item.unknown)) <= 300
        assert len(str(item.value)) <= 60_000


@pytest.mark.parametrize(
    "text",
    [
        f"token={SECRET}",
        f"1772360551.000001 gw-1 veloz[4121]: error: token={SECRET}",
        f"1772360551 'current' -> 'releases/{SECRET}'",
        f"  4121     1 Ss    1.5 20480     600 veloz --token {SECRET}",
        f"  5000     1 Ss    1.5 20480     600 ansible-playbook --password {SECRET}",
        f'{{"ok": true, "token": "{SECRET}"}}',
        f"ActiveState={SECRET}\nLoadState=loaded\n",
        f"# {SECRET}\na_total 1",
        f"● veloz.service {SECRET}",
    ],
)
def test_a_secret_that_a_host_prints_is_not_in_the_evidence(text: str) -> None:
    found = every_note(text)
    assert found
    assert not [item for item in found if SECRET in item.model_dump_json()]
    assert SECRET not in redact(text)


@given(st.text(st.characters(exclude_categories=[])), st.text())
def test_notes_take_any_text(text: str, why: str) -> None:
    notes = Notes("gw-1", NOON)
    notes.saw("key", text, text, text)
    notes.missed("key", text, why, text)
    assert [item.id for item in notes.numbered()] == ["e1", "e2"]
    assert all(item.model_dump_json() for item in notes.numbered())
