"""The commands of the documentation are run as they stand, against a lab, and print what the pages say they print.

A block that cannot be run says so, with the reason, in a comment that readers do not see: `<!-- not run: … -->`.
One that ends with another exit status than 0 says `<!-- exits N -->`. What a reader does by hand is done here,
too: the profile gets a host of the lab for the reader's own.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_pages import PAGES, README, ROOT, Block, blocks, blocks_of
from processes import wait_until_gone

from responder.installation import RECEIVER_PORT, UP_PORT, free_port
from responder.lab.lab import Lab
from responder.lab.scenario import load_scenario
from tests.lab_runs import PATIENCE_S, wait_for

SHELL = ("bash", "console")
TUTORIAL = ROOT / "docs/tutorial.md"
# First the one that starts what stays: the others' commands find it, and need no server of their own.
RUN = [TUTORIAL, README, *(page for page in PAGES if page not in (TUTORIAL, README))]
MARK = re.compile(r"not run: .{10,}|exits \d+")
INCIDENT = re.compile(r"^incident +([0-9a-f]{12})$", re.MULTILINE)
# What changes nothing is run for the first page that says it.
LOOKS = ("incident service check", 'incident declare "shop seems down" --service shop --mode dry-run')
# What the lab draws anew, and the pages show as it once was.
DRAWN = {
    "willow-trade": r"[a-z]+-[a-z]+",
    "garnet-b1": r"[a-z]+-[a-c]\d+",
    "shop.service": r"[a-z]+(?:-[a-z]+)?",
    "as ops": r"as [a-z]+",
}
TOKEN = re.compile("|".join([*map(re.escape, DRAWN), r"\b[0-9a-f]{12}\b", r"\d+", "…", r"\s+"]))


class Reader:
    """Somebody who follows the pages: a folder to work in, a terminal, and a host of their own."""

    def __init__(self, folder: Path, own: Lab) -> None:
        self.folder = folder
        self._own = own.facts()
        self._stays: list[subprocess.Popen[bytes]] = []
        self._looked: set[str] = set()
        self._newest = "none yet"
        self._ports: dict[int, int] = {}
        outside = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT", "INCIDENT"))}
        programs = Path(sys.executable).parent
        self._environment = outside | {"PATH": f"{programs}:{outside['PATH']}", "COLUMNS": "200"}
        (folder / ".venv").symlink_to(programs.parent)
        (folder / "docs").symlink_to(ROOT / "docs")
        for name, text in {
            "ops_key": self._own.private_key,
            "slack_token": f"{self._own.slack['token']}\n",
            "known_hosts": self._own.known_hosts,
        }.items():
            (folder / name).write_text(text)
        self.copy_example()

    def copy_example(self) -> None:
        """Have a profile of one's own."""
        self._type("cp docs/example-profile.yaml shop.yaml")
        self.change_profile(with_slack=True)

    def change_profile(self, *, with_slack: bool) -> None:
        """What the pages say is to be changed in the copied example, and quicker clocks."""
        file, own = self.folder / "shop.yaml", self._own
        profile = yaml.safe_load(file.read_text())
        host = own.hosts[0]
        profile["hosts"] = [{"name": "shop-1", "address": host.address, "port": host.port}]
        profile["ssh"]["user"] = own.user
        profile["unit"]["name"] = own.unit
        profile["endpoints"]["health"] = {"url": f"{own.gateway_url}/health", "expect": {"ok": True}}
        profile["strategies"]["restart"]["command"][-1] = own.unit
        profile["drill"] = True
        slack = profile.pop("slack")
        if with_slack:
            profile["slack"] = slack | {"base_url": own.slack["base_url"], "backup_channel": "#lab-oncall"}
        file.write_text(yaml.safe_dump(profile, sort_keys=False))

    def follow(self, block: Block) -> str:
        """Type a block's commands; returns what they print. Raises AssertionError for another exit status."""
        expected = int(block.mark.removeprefix("exits ")) if block.mark else 0
        said = ""
        for command in block.commands:
            command = re.sub(r"\bID\b", self._newest, command)
            for shown, own in self._ports.items():
                command = command.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{own}")
            if "incident up" in command:
                said += self._start(command)
                continue
            bare = command.strip().removeprefix(".venv/bin/")
            if bare in self._looked:
                continue  # two pages say it
            if bare.startswith(LOOKS):
                self._looked.add(bare)
            status, printed = self._type(command)
            assert status == expected, f"{block.page}: `{command}` exits {status}:\n{printed}"
            if command.startswith("cp docs/example-profile.yaml"):
                self.change_profile(with_slack=block.page != TUTORIAL.name)
            self._newest = (INCIDENT.findall(printed) or [self._newest])[-1]
            said += printed
        return said

    def _type(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout

    def _start(self, command: str) -> str:
        """In another terminal, where it stays."""
        self._ports = {UP_PORT: free_port(), RECEIVER_PORT: free_port()}
        options = f"--port {self._ports[UP_PORT]} --receiver-port {self._ports[RECEIVER_PORT]}"
        screen = self.folder / "up.txt"
        with screen.open("wb") as out:
            started = subprocess.Popen(
                ["bash", "-c", f"exec {command} {options}"],
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._stays.append(started)

        def ready() -> bool:
            assert started.poll() is None, screen.read_text()
            return "ready;" in screen.read_text()

        wait_for(ready, named=command)
        return screen.read_text()

    def leave(self) -> None:
        """Ctrl-C in each terminal."""
        for started in self._stays:
            started.send_signal(signal.SIGTERM)
            started.wait(60)
        wait_until_gone(self.folder / ".incident", 60)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: Any) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    with Lab(load_scenario("nothing-wrong"), run_dir=folder / "own-host") as own:
        reader = Reader(folder, own)
        try:
            yield reader
        finally:
            reader.leave()


def pattern(shown: str) -> str:
    """What a shown line matches: any number for a number, any id for an id, and what the lab draws."""

    def generic(token: str) -> str:
        if token in DRAWN:
            return DRAWN[token]
        if token == "…":
            return ".*"
        if token.isspace():
            return r"\s+"
        return r"\d+" if token.isdigit() else "[0-9a-f]{12}"

    parts = [re.escape(between) for between in TOKEN.split(shown)]
    tokens = [generic(token) for token in TOKEN.findall(shown)]
    return "".join(part + token for part, token in zip(parts, [*tokens, ""], strict=True))


def test_every_block_of_commands_is_run_or_says_why_not() -> None:
    marks = {(block.page, block.text): block.mark for block in blocks(*SHELL)}
    assert len(marks) > 15
    assert [where for where, mark in marks.items() if mark and not MARK.fullmatch(mark)] == []
    assert sum(not mark.startswith("not run") for mark in marks.values()) > len(marks) / 2


@pytest.mark.parametrize(
    "page", [page for page in RUN if any(b.language in SHELL for b in blocks_of(page))], ids=lambda page: page.name
)
def test_the_commands_of_a_page_work_and_print_what_it_shows(reader: Reader, page: Path) -> None:
    reader.copy_example()
    for block in blocks_of(page):
        if block.language not in SHELL or block.mark.startswith("not run"):
            continue
        said = reader.follow(block)
        at = 0
        for line in block.text.splitlines():
            if block.language == "console" and line.strip() and not line.startswith("$ "):
                found = re.compile(pattern(line)).search(said, at)
                assert found, (
                    f"{page.name} shows {line!r}, which is not in what it printed (from there on):\n{said[at:]}"
                )
                at = found.end()


def test_a_line_that_is_shown_is_compared_but_for_what_changes() -> None:
    shown = "20:18:02  opened aba3d199952b: …Down on garnet-b1 (p99 0.02 s)"
    assert re.fullmatch(pattern(shown), "09:00:59 opened 0123456789ab: VelozDown on onyx-c12 (p99 1.5 s)")
    assert not re.fullmatch(pattern(shown), "09:00:59 closed 0123456789ab: VelozDown on onyx-c12 (p99 1.5 s)")
