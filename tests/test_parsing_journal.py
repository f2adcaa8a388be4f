import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.parsing.journal import (
    JournalLine,
    find_oom_kills,
    group_errors,
    normalised,
    parse_journal,
)

START = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def entries(*messages: str, ident: str = "veloz") -> list[JournalLine]:
    return [
        JournalLine(at=START + timedelta(seconds=number), ident=ident, pid=7, message=message)
        for number, message in enumerate(messages)
    ]


def test_entries_are_read_with_their_further_lines() -> None:
    parsed = parse_journal(
        "-- Boot 0123456789abcdef --\n"
        "1700000000.123456 gw-1 veloz[4121]: Traceback (most recent call last):\n"
        '                                      File "gateway.py", line 3\n'
        "                                    AttributeError: 'X' object has no attribute 'y'\n"
        "1700000001.000000 gw-1 kernel: Out of memory\n"
        "1700000002.000000 gw-1 (systemd)[77]: pam: opened\n"
        "1700000003.000000 gw-1 My App[5]:\n"
    )
    assert parsed.problem is None
    trace, kernel, pam, silent = parsed.value or ()
    assert trace.at == START + timedelta(microseconds=123456)
    assert trace.message.split("\n") == [
        "Traceback (most recent call last):",
        '  File "gateway.py", line 3',
        "AttributeError: 'X' object has no attribute 'y'",
    ]
    assert (trace.ident, trace.pid) == ("veloz", 4121)
    assert (kernel.ident, kernel.pid, kernel.message) == ("kernel", None, "Out of memory")
    assert (pam.ident, silent.ident, silent.message) == ("(systemd)", "My App", "")


def test_a_journal_without_entries_is_empty() -> None:
    parsed = parse_journal("-- No entries --\n")
    assert (parsed.value, parsed.problem) == ((), None)


def test_no_output_is_not_an_empty_journal() -> None:
    assert parse_journal("").value is None


@pytest.mark.parametrize(
    "text",
    [
        "No journal files were opened due to insufficient permissions.\n",
        "Nov 23 13:21:00 gw-1 veloz[1]: another format\n",
        "  indented before any entry\n",
        "99999999999.000000 gw-1 veloz[1]: eleven digits\n",
    ],
)
def test_what_is_no_journal_is_unknown(text: str) -> None:
    parsed = parse_journal(text)
    assert parsed.value is None
    assert parsed.problem


def test_only_the_newest_lines_of_a_long_journal_are_kept() -> None:
    text = "".join(f"17000{n:05}.000000 h veloz[1]: message {n}\n" for n in range(30_000))
    parsed = parse_journal(text)
    assert 19_990 < len(parsed.value or ()) <= 20_000
    assert (parsed.value or ())[-1].message == "message 29999"
    assert "newest" in (parsed.problem or "")


def test_like_errors_are_one_pattern_the_most_frequent_first() -> None:
    lines = entries(
        "ERROR: could not extend file base/16384/16455",
        "order 5 failed for 'BTCUSDT' at 10.4.0.9:8080",
        "ERROR: could not extend file base/16384/99",
        "all is well",
        "ERROR: could not extend file base/1/2",
    )
    first, second = group_errors(lines)
    assert (first.pattern, first.count) == ("ERROR: could not extend file base/<n>/<n>", 3)
    assert (first.first_at, first.last_at) == (lines[0].at, lines[4].at)
    assert first.example == lines[0].message
    assert second.pattern == "order <n> failed for <text> at <ip>"


def test_refused_logins_are_not_counted_as_errors_of_the_service() -> None:
    patterns = group_errors(
        entries(
            "2026-03-01 10:22:31 [AUDIT] Auth failed: path=/api/account, ip=203.0.113.8, error=invalid_api_key",
            "2026-03-01 10:22:32 [AUDIT] Auth failed: path=/api/account, ip=203.0.113.9, error=invalid_api_key",
            "BrokenPipeError: [Errno 32] Broken pipe",
        )
    )
    assert [(found.audit, found.count) for found in patterns] == [(False, 1), (True, 2)]
    assert "<ip>" in patterns[1].pattern


def test_a_traceback_is_named_by_its_exception() -> None:
    (found,) = group_errors(entries("Traceback (most recent call last):\n  File 'x'\nKeyError: 17\n"))
    assert found.pattern == "KeyError: <n>"


def test_no_more_patterns_than_asked_for() -> None:
    words = [f"{chr(97 + n // 26)}{chr(97 + n % 26)} failed" for n in range(100)]
    assert len(group_errors(entries(*words))) == 20
    assert len(group_errors(entries(*words), limit=3)) == 3


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("id 123e4567-e89b-12d3-a456-426614174000 lost", "id <uuid> lost"),
        ("at 0x7ffdeadbeef and deadbeef01", "at <hex> and <hex>"),
        ("peer fe80::fc:ff:fe00:1 gone after 12.5 s", "peer <ip> gone after <n> s"),
        ("said \"no 12\" to 'me', didn't it", "said <text> to <text>, didn't it"),
    ],
)
def test_what_differs_between_like_lines_gets_a_placeholder(text: str, pattern: str) -> None:
    assert normalised(text) == pattern


def test_kills_for_memory_are_found_where_kernel_and_systemd_tell_them() -> None:
    kernel = entries(
        "Out of memory: Killed process 4121 (veloz_engine) total-vm:5120044kB, anon-rss:4011020kB",
        "Memory cgroup out of memory: Killed process 99 (python3) total-vm:1kB",
        "oom_reaper: reaped process 4121 (veloz_engine)",
        ident="kernel",
    )
    systemd = entries(
        "veloz.service: A process of this unit has been killed by the OOM killer.",
        "veloz.service: Failed with result 'oom-kill'.",
        "veloz.service: Failed with result 'exit-code'.",
        ident="systemd",
    )
    kills = find_oom_kills([*kernel, *systemd])
    assert [(kill.said_by, kill.pid, kill.name) for kill in kills] == [
        ("kernel", 4121, "veloz_engine"),
        ("kernel", 99, "python3"),
        ("systemd", None, "veloz.service"),
        ("systemd", None, "veloz.service"),
    ]
    assert kills[0].at == START


def test_a_service_cannot_claim_to_have_been_killed_for_memory() -> None:
    assert find_oom_kills(entries("Out of memory: Killed process 1 (init)")) == ()


@given(st.text(alphabet="17000. gw[]:()-'\"\n error\x00\u2028", max_size=300))
def test_whatever_is_printed_gives_a_value_or_a_problem(text: str) -> None:
    parsed = parse_journal(f"1700000000.000000 h i: {text}")
    assert parsed.value is not None or parsed.problem
    for found in group_errors(parsed.value or ()):
        assert found.count > 0


@pytest.mark.parametrize(
    "piece", ["x", " ", "1700000000.0 ", "'", '"', "a:", "1.", "f", "error\n", "1700000000.1 h i: error '\n"]
)
def test_hostile_output_takes_linear_time(piece: str) -> None:
    text = "1700000000.000000 h i: " + piece * (2_000_000 // len(piece))
    began = time.process_time()
    group_errors(parse_journal(text).value or ())
    assert time.process_time() - began < 5
