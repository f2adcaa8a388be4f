"""What `sudo -n -l` lists: a yes only where an entry without a password covers the command as root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.sudo import listed_commands, may_run

RESTART = ("systemctl", "restart", "veloz")
HEAD = """\
Matching Defaults entries for ops on gw-1:
    env_reset, mail_badpass,
    secure_path=/usr/local/sbin\\:/usr/local/bin\\:/usr/sbin\\:/usr/bin\\:/sbin\\:/bin, use_pty

User ops may run the following commands on gw-1:
"""


def allowed(*entries: str, argv: tuple[str, ...] = RESTART, exact: bool = True) -> bool:
    """Whether a host that lists these entries lets `argv` run."""
    return may_run(listed_commands(HEAD + "".join(f"    {entry}\n" for entry in entries)), argv, exact=exact)


@pytest.mark.parametrize(
    "entry",
    [
        "(root) NOPASSWD: /usr/bin/systemctl restart veloz",
        "(ALL) NOPASSWD: ALL",
        "(ALL : ALL) NOPASSWD: ALL",
        "(#0) NOPASSWD: /usr/bin/systemctl restart veloz",
        "(postgres, root) NOPASSWD: /usr/bin/systemctl restart veloz",
        "(root) NOPASSWD: /usr/bin/systemctl",
        "(root) NOPASSWD: /usr/bin/systemctl restart *",
        "(root) NOPASSWD: /usr/bin/systemctl * veloz",
        "(root) NOPASSWD: /usr/bin/systemctl re?tart [uvw]eloz",
        "(root) NOPASSWD: /usr/bin/system* restart veloz",
        "(root) NOPASSWD: /usr/bin/systemctl stop veloz, /usr/bin/systemctl restart veloz",
        "(root) NOPASSWD: /usr/bin/systemctl stop veloz,\n        /usr/bin/systemctl restart veloz",
        "(root) NOPASSWD: /usr/bin/systemctl stop veloz, /usr/bin/systemctl restart\n        veloz",
        "(root) NOEXEC: SETENV: NOPASSWD: /usr/bin/systemctl restart veloz",
        "(root) TIMEOUT=1m CWD=/ NOPASSWD: /usr/bin/systemctl restart veloz",
        "(root) NOPASSWD: /usr/bin/id, NOEXEC: /usr/bin/systemctl restart veloz",
        "(root) /usr/bin/id, NOPASSWD: /usr/bin/systemctl restart veloz",
    ],
)
def test_an_entry_without_a_password_allows_the_restart(entry: str) -> None:
    assert allowed(entry)


@pytest.mark.parametrize(
    "entry",
    [
        "(root) /usr/bin/systemctl restart veloz",
        "(ALL : ALL) ALL",
        "(root) PASSWD: ALL",
        "(root) NOPASSWD: /usr/bin/id, PASSWD: /usr/bin/systemctl restart veloz",
        "(root) NOPASSWD: /usr/bin/id\n    (root) /usr/bin/systemctl restart veloz",
        "(root) NOPASSWD: /usr/bin/systemctl restart veloz-ui",
        "(root) NOPASSWD: /usr/bin/systemctl restart",
        '(root) NOPASSWD: /usr/bin/systemctl ""',
        "(root) NOPASSWD: /usr/bin/systemctl status *",
        "(root) NOPASSWD: /usr/bin/systemctl restart \\*",
        "(root) NOPASSWD: /usr/bin/journalctl",
        "(root) NOPASSWD: /usr/bin/",
        "(root) NOPASSWD: sha256:00ff00 /usr/bin/systemctl restart veloz",
        "(root) NOPASSWD: /usr/bin/systemctl ^restart .*$",
        "(postgres) NOPASSWD: /usr/bin/systemctl restart veloz",
        "(ALL, !root) NOPASSWD: ALL",
        "( : adm) NOPASSWD: ALL",
        "(root) NOPASSWD: ALL, !/usr/bin/systemctl",
        "(root) NOPASSWD: ALL, !/bin/systemctl restart *",
        "(root) NOPASSWD: ALL, !/usr/bin/",
        "(root) NOPASSWD: ALL, ! /usr/bin/systemctl ^re",
        "(ALL) NOPASSWD: ALL\n    (root) PASSWD: /usr/bin/systemctl *",
    ],
)
def test_what_does_not_cover_the_restart_without_a_password_does_not_allow_it(entry: str) -> None:
    assert not allowed(entry)


def test_the_last_entry_that_matches_decides() -> None:
    free, asks = "(root) NOPASSWD: /usr/bin/systemctl *", "(root) PASSWD: /usr/bin/systemctl restart *"
    assert allowed(asks, free)
    assert not allowed(free, asks)


def test_escaped_commas_colons_and_stars_belong_to_the_arguments() -> None:
    entry = "(root) NOPASSWD: /usr/bin/run a\\,b \\*\\: c\\=d"
    assert allowed(entry, argv=("run", "a,b", "*:", "c=d"))
    assert not allowed(entry, argv=("run", "a,b", "xx:", "c=d"))


def test_a_full_path_is_allowed_only_where_it_is_listed() -> None:
    entry = "(root) NOPASSWD: /usr/bin/systemctl restart veloz"
    assert allowed(entry, argv=("/usr/bin/systemctl", "restart", "veloz"))
    assert not allowed(entry, argv=("/opt/evil/systemctl", "restart", "veloz"))


def test_a_command_that_is_completed_later_needs_its_program_only() -> None:
    entry = "(root) NOPASSWD: /usr/bin/journalctl -u veloz *"
    assert allowed(entry, argv=("journalctl",), exact=False)
    assert not allowed(entry, argv=("journalctl",))
    assert not allowed(entry, argv=("systemctl",), exact=False)


@pytest.mark.parametrize("listing", ["", HEAD, "sudo: a password is required\n", "(root) NOPASSWD: ALL\n"])
def test_no_entries_allow_nothing(listing: str) -> None:
    assert not may_run(listed_commands(listing), RESTART)


def test_an_empty_command_is_not_allowed() -> None:
    assert not allowed("(ALL) NOPASSWD: ALL", argv=())


words = st.text(st.sampled_from("abz/ *?[]!\\:,=^-\"' \n\t()"), max_size=20)
tags = st.sampled_from(["", "PASSWD: ", "NOEXEC: ", "SETENV: ", "TIMEOUT=1h "])
runas = st.sampled_from(["(root) ", "(ALL) ", "(ALL : ALL) ", "(postgres) "])
commands = st.one_of(words, st.sampled_from(["ALL", "/usr/bin/systemctl restart veloz", "/usr/bin/systemctl *"]))
entries = st.lists(st.builds("    {}{}{}".format, runas, tags, commands), max_size=5).map("\n".join)


@given(entries)
def test_nothing_is_allowed_where_no_entry_says_nopasswd(listing: str) -> None:
    assert not may_run(listed_commands(HEAD + listing), RESTART)
    assert not may_run(listed_commands(HEAD + listing), RESTART, exact=False)


@given(st.text())
def test_any_text_is_read_without_an_error(listing: str) -> None:
    may_run(listed_commands(listing), RESTART)


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=1, max_size=4))
def test_a_plain_entry_allows_its_own_command_and_nothing_longer(argv: list[str]) -> None:
    entry = f"(root) NOPASSWD: /usr/bin/{' '.join(argv)} end"
    assert allowed(entry, argv=(*argv, "end"))
    assert not allowed(entry, argv=(*argv, "end", "more"))
    assert not allowed(entry, argv=tuple(argv))
