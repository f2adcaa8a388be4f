"""One call of a stand-in command, and how its arguments are parsed."""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from responder.lab.machine import Machine


class UsageError(Exception):
    """Wrong arguments; the text is what the command says about them."""


class Parser(ArgumentParser):
    """An argument parser that neither prints nor exits."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


@dataclass
class Call:
    """One call of a command: where it runs, as whom, and where its output goes.

    `root` is empty for the login user, the action's name for a command that root's own script runs as a part
    of an action, like `rollback`, and 1 for any other of root's.
    """

    machine: "Machine"
    root: str
    out_bytes: Callable[[bytes], None]
    err_bytes: Callable[[bytes], None]
    run_instead: Callable[[list[str]], None]

    def out(self, text: str) -> None:
        self.out_bytes(text.encode("utf-8", "surrogateescape") + b"\n")

    def err(self, text: str) -> None:
        self.err_bytes(text.encode("utf-8", "surrogateescape") + b"\n")
