"""A lab host as the lab sees it: started, asked, broken, held and stopped from here."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

from responder.lab.machine import Spec

State = Literal["received", "running", "ended"]


class LabError(Exception):
    """A lab host did not start, or could not do what was asked of it."""


class Hold:
    """Commands being held back. `release` lets them go on; leaving the `with` block does so too."""

    def __init__(self, host: "LabHost", number: int) -> None:
        self.host, self.number = host, number

    def release(self, *, run: bool = True) -> None:
        """End the hold. `run=False`: what was held before it ran is lost on the way and never runs."""
        self.host.ask("release", number=self.number, run=run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class LabHost:
    """One host: an SSH server, a supervised gateway and what belongs to them, in a process of their own.

    `start` and `ready` are apart so that several hosts can start at once.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.name, self.address, self.directory = spec.name, spec.address, Path(spec.directory)
        self.port = 0
        self.host_key = ""
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Begin to start; does not wait."""
        self.directory.mkdir(parents=True, mode=0o700)
        package_root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
        with (self.directory / "host.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "responder.lab.machine", json.dumps(asdict(self.spec))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                # Ctrl-C in the terminal ends the lab, and the lab ends its hosts.
                start_new_session=True,
            )
        return self

    def ready(self) -> Self:
        """Wait until SSH and the gateway answer. Raises LabError with the host's own words."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f"{self.name} did not start: {(self.directory / 'host.log').read_text()[-2000:]}")
        hello = json.loads(line)
        self.port, self.host_key, self.pid = hello["port"], hello["key"], hello["pid"]
        self.wait_for_gateway()
        return self

    def wait_for_gateway(self, timeout_s: float = 10) -> None:
        """Wait until the gateway accepts connections. Raises LabError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.address, self.spec.gateway_port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise LabError(f"{self.name}: the gateway accepts no connection after {timeout_s} s")

    @property
    def known_hosts(self) -> str:
        """This host's line for known_hosts, with the key it had when it started."""
        return f"[{self.address}]:{self.port} {self.host_key}"

    def ask(self, do: str, **args: Any) -> Any:
        """Have the host do one of `Machine.do_...`. Raises LabError with what went wrong there."""
        run = os.open(self.directory / "run", os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(f"/proc/self/fd/{run}/control")
                connection.sendall(json.dumps({"do": do, "args": args}).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").readline())
        finally:
            os.close(run)
        if "error" in answer:
            raise LabError(f"{self.name}: {do}: {answer['error']}")
        return answer["result"]

    def hold(
        self,
        match: str | re.Pattern[str],
        when: Literal["before", "after"] = "before",
        seconds: float | None = None,
        *,
        most: int | None = None,
    ) -> Hold:
        """Hold back SSH commands whose text matches, `before` they run or with their answer `after` they ran.

        Until released, or for so many seconds; only the `most` first, or all. What is held before it runs,
        runs when released even if the client has gone meanwhile: a late arrival.
        """
        pattern = match if isinstance(match, str) else match.pattern
        return Hold(self, self.ask("hold", match=pattern, when=when, seconds=seconds, most=most))

    def wait_for(self, match: str, timeout_s: float = 10, state: State = "received") -> Mapping[str, Any]:
        """The first SSH command that matches and has come so far: command, at, state, exit_status.

        Raises TimeoutError.
        """
        seen = self.ask("wait_for", match=match, timeout_s=timeout_s, state=state)
        if seen is None:
            raise TimeoutError(f"{self.name}: no command matching {match!r} was {state} in {timeout_s} s")
        return dict(seen)

    def commands(self) -> list[Mapping[str, Any]]:
        """Every command that came over SSH, in order: command, at, state, exit_status."""
        return list(self.ask("commands"))

    def state(self) -> Mapping[str, Any]:
        """What the service manager holds of the unit (see `units.State`)."""
        return dict(self.ask("state"))

    def stop(self) -> None:
        """End the host and every process it ever started."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process = None

    def __enter__(self) -> Self:
        return self.start().ready()

    def __exit__(self, *_: object) -> None:
        self.stop()
