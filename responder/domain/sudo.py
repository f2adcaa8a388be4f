"""Reading the listing of `sudo -n -l`: what may run as root without a password. Nothing is run to find out."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

_OPTION_OR_TAG = re.compile(r"\s*(?:[A-Z_]+=\S+\s+|([A-Z_]+):\s*)")


class Rule(NamedTuple):
    """One command of the listing. `free`: it may run as root and no password is asked."""

    command: str
    free: bool


Allowed = tuple[Rule, ...]


def listed_commands(listing: str) -> Allowed:
    """The commands of the listing in its order, also those that are forbidden or ask for a password.

    Continuation lines belong to the entry before them; a tag holds until another one of its kind.
    Source: sudoers(5), "Tag_Spec" and "Runas_Spec"; sudo(8), `-l`.
    """
    return tuple(rule for entry in _entries(listing) for rule in _rules(entry))


def may_run(allowed: Allowed, argv: Sequence[str], *, exact: bool = True) -> bool:
    """Whether `argv` is allowed: the last rule that matches decides, as sudo does it.

    With `exact` False its arguments may be completed later (`journalctl` …).
    """
    matching = [rule.free for rule in allowed if argv and _matches(rule, argv, exact)]
    return bool(matching) and matching[-1]


def _entries(listing: str) -> list[str]:
    entries: list[str] = []
    inside = False
    for line in listing.splitlines():
        text = line.strip()
        if text.startswith("(") and line[0].isspace():
            entries.append(text)
            inside = True
        elif inside and line[:1].isspace():
            entries[-1] += f" {text}"
        else:
            inside = False
    return entries


def _rules(entry: str) -> Iterator[Rule]:
    runas, _, commands = entry[1:].partition(")")
    users = [user.strip() for user in runas.partition(":")[0].split(",")]
    as_root = "!root" not in users and not {"root", "ALL", "#0"}.isdisjoint(users)
    free = False
    for part in re.split(r"(?<!\\),", commands):
        while found := _OPTION_OR_TAG.match(part):
            free = {"NOPASSWD": True, "PASSWD": False}.get(found[1], free)
            part = part[found.end() :]
        command = part.strip()
        if command:
            yield Rule(command.lstrip("! "), as_root and free and not command.startswith("!"))


def _matches(rule: Rule, argv: Sequence[str], exact: bool) -> bool:
    """Where it cannot be told, a rule that forbids matches and one that allows does not."""
    program, _, arguments = rule.command.partition(" ")
    if program == "ALL":
        return True
    directory, _, name = program.rpartition("/")
    wanted_directory, _, wanted = argv[0].rpartition("/")
    if not name:
        return not rule.free
    if not fnmatchcase(wanted, _pattern(name)):
        return False
    if rule.free and wanted_directory and wanted_directory != directory:
        return False
    if not arguments or not exact:
        return True
    if arguments.startswith("^"):  # a regular expression of another dialect
        return not rule.free
    return fnmatchcase(" ".join(argv[1:]), "" if arguments == '""' else _pattern(arguments))


def _pattern(text: str) -> str:
    """The wildcard pattern without sudo's backslashes: what stands behind one means itself."""
    return re.sub(r"\\(.)", lambda found: f"[{found[1]}]" if found[1] in "*?[" else found[1], text)
