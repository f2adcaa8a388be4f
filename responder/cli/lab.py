"""The lab of `incident up --lab`, and the Unix socket in the data folder over which `incident lab` reaches it."""

import json
import os
import shutil
import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from responder.cli.drill import lab_profile, trigger_parameters
from responder.domain.base import now
from responder.domain.errors import PermanentError
from responder.domain.incident import NO_RUN
from responder.domain.profile import Profile
from responder.lab.alertmanager import Alertmanager
from responder.lab.host import LabError
from responder.lab.lab import Lab, RaisedAlert
from responder.lab.scenario import Scenario, load_scenario
from responder.running import find_running
from responder.store import open_store

FOLDER, SOCKET = "lab", "control"
ANSWER_S = 120.0


class ServedLab:
    """A healthy lab whose service is saved, to be broken and healed from other processes."""

    def __init__(self, home: Path, *, hosts: int, alerts_url: str, token: str) -> None:
        self._alertmanager = Alertmanager(f"{alerts_url}/alerts/alertmanager", token)
        self._folder = home / FOLDER
        healthy = load_scenario("nothing-wrong").model_copy(update={"hosts": hosts})
        # The same names at every start in this folder: the service is saved anew, not left behind.
        seed = zlib.crc32(str(home).encode())
        self._lab = Lab(healthy, run_dir=self._folder / "hosts", seed=seed)
        self._one_at_a_time = threading.Lock()
        self._broken_by = ""
        self.state = "healthy"

    @property
    def service(self) -> str:
        """Its name in the list of services."""
        return self._lab.service

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)  # of an earlier one, which may have been killed
        try:
            self._lab.start()
        except (LabError, OSError) as error:
            raise PermanentError(f"the lab could not be started: {error}") from error
        try:
            self._save_service({})
            self._alertmanager.start(lambda: self._lab.raised)
            self._serve()
        except BaseException:
            self._lab.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._alertmanager.stop()
        self._server.shutdown()
        self._server.server_close()
        self._lab.stop()

    def break_by(self, scenario: Scenario) -> dict[str, Any]:
        """Begin a scenario: its faults, and the incident that its alert opens by the HTTP door, or a person.

        What an earlier one left is healed before. Raises `PermanentError` for a scenario that needs another lab.
        """
        from blocks.run_history import run_url
        from responder.cli.runs import start_run

        hosts = len(self._lab.hosts)
        if scenario.hosts > hosts:
            raise PermanentError(
                f"{scenario.name} needs {scenario.hosts} hosts and the lab has {hosts}; "
                f"start it with `incident up --lab --hosts {scenario.hosts}`"
            )
        if scenario.restart_policy:
            raise PermanentError(
                f"{scenario.name} needs units that systemd restarts, which are made at the lab's start; "
                f"see it with `incident drill {scenario.name} --ui`"
            )
        if self._broken_by:
            self.heal()
        profile = self._save_service(scenario.profile)
        raised = len(self._lab.raised)
        self._lab.begin(scenario)
        self._broken_by, self.state = scenario.name, f"broken by {scenario.name} at {now():%H:%M:%S} UTC"
        if scenario.trigger.declare:
            run_id = start_run(trigger_parameters(self._lab, profile))
        else:
            run_id = self._run_of(self._lab.wait_for_alert(count=raised + 1))
        return {
            "scenario": scenario.name,
            "service": self.service,
            "run_id": run_id,
            "run_url": run_url(run_id),
        }

    def _run_of(self, raised: RaisedAlert) -> str:
        """The run of the incident that the alert opened or joined."""
        with closing(open_store()) as store:
            deadline = time.monotonic() + ANSWER_S / 2
            while time.monotonic() < deadline:
                for receipt in store.receipts():
                    if receipt.fingerprint == raised.fingerprint and receipt.incident_id:
                        run_id = store.incident(receipt.incident_id).run_id
                        if receipt.received_at >= raised.starts_at and not run_id.startswith(NO_RUN):
                            return run_id
                time.sleep(0.1)
        raise PermanentError("its alert opened no run; `incident alerts` says what became of it")

    def heal(self) -> dict[str, Any]:
        """End every fault and every alert."""
        self._lab.heal()
        self._broken_by, self.state = "", "healthy"
        return {"service": self.service, "state": self.state}

    def _save_service(self, changes: Mapping[str, Any]) -> Profile:
        from blocks.service import save_service

        profile, secrets = lab_profile(self._lab.facts(), changes)
        save_service(profile, secrets)
        return profile

    def _serve(self) -> None:
        lab = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                answer: dict[str, Any]
                try:
                    with lab._one_at_a_time:
                        answer = {"result": lab._answer(json.loads(self.rfile.readline()))}
                except Exception as error:  # noqa: BLE001 - whoever asked gets to see whatever went wrong here
                    answer = {"error": f"{error}" or type(error).__name__}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            block_on_close = False  # the end of `incident up` waits for no alert

        # Bound by way of a descriptor: the path of a socket may have 107 bytes, a folder as many as it likes.
        folder = os.open(self._folder, os.O_PATH)
        try:
            self._server = Server(f"/proc/self/fd/{folder}/{SOCKET}", Handler)
        finally:
            os.close(folder)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "break", "scenario": scenario}:
                return self.break_by(Scenario.model_validate(scenario))
            case {"do": "heal"}:
                return self.heal()
        raise PermanentError(f"the lab cannot {request.get('do')!r}; stop `incident up` and start it again")


def ask_lab(home: Path, **request: Any) -> dict[str, Any]:
    """Have the lab of the `incident up` in this folder do something; returns its answer.

    Raises `PermanentError`: there is none, or its own words.
    """
    none = f"no lab runs in {home}; start one with `incident up --lab`"
    if find_running(home) is None:
        raise PermanentError(none)
    try:
        folder = os.open(home / FOLDER, os.O_PATH)
    except FileNotFoundError as error:
        raise PermanentError(none) from error
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = connection.makefile("rb").readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise PermanentError(none) from error
    except OSError as error:
        raise PermanentError(
            f"the lab in {home} did not answer: {error}; `incident up` shows its state"
        ) from error
    finally:
        os.close(folder)
    answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended before it answered"}
    if "error" in answer:
        raise PermanentError(f"the lab: {answer['error']}")
    result: dict[str, Any] = answer["result"]
    return result
