"""The dead man's switch is held only while every duty of the keeper is really done."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from responder.keeper.deadman import DEAD_MAN_URL, DeadMan, Duty
from responder.lab.stakeholders import Webhook


@pytest.fixture
def outside() -> Iterator[Webhook]:
    with Webhook() as server:
        yield server


def beats(switch: DeadMan, outside: Webhook, duty: Duty, seconds: float = 0.6) -> int:
    """How often the address is got while the duty is done again and again."""
    before, ends = len(outside.requests), time.monotonic() + seconds
    while time.monotonic() < ends:
        duty.do()
        switch.beat()
        time.sleep(0.01)
    return len(outside.requests) - before


def test_while_duties_are_done_the_address_is_got_regularly(outside):
    duty = Duty(lambda: None)
    switch = DeadMan(f"{outside.url}/ping/our-secret-key", [duty], every_s=0.1, lately_s=0.3)
    assert 3 <= beats(switch, outside, duty) <= 7
    assert {(request.method, request.path) for request in outside.requests} == {("GET", "/ping/our-secret-key")}


def test_a_duty_that_fails_stops_the_beat_until_it_is_done_again(outside):
    broken = [False]

    def do() -> None:
        if broken[0]:
            raise ValueError("the store is gone")

    duty = Duty(do)
    switch = DeadMan(f"{outside.url}/ping", [duty], every_s=0.05, lately_s=0.3)
    assert beats(switch, outside, duty, 0.3)
    broken[0] = True
    beats(switch, outside, duty, 0.4)
    assert beats(switch, outside, duty, 0.4) == 0
    broken[0] = False
    assert beats(switch, outside, duty, 0.4)


def test_a_duty_that_is_stuck_stops_the_beat(outside):
    free = threading.Event()

    def do() -> None:
        free.wait(30)

    stuck = Duty(do)
    switch = DeadMan(f"{outside.url}/ping", [stuck], every_s=0.05, lately_s=0.3)
    worker = threading.Thread(target=stuck.do)
    worker.start()
    time.sleep(0.4)
    idle = Duty(lambda: None)
    assert beats(switch, outside, idle, 0.4) == 0
    free.set()
    worker.join()
    assert beats(switch, outside, idle, 0.2)


@pytest.mark.parametrize("fault", ["500", "refuse", "gone", "no address"])
def test_an_address_that_does_not_answer_is_logged_without_naming_it_and_asked_again(outside, caplog, fault):
    duty = Duty(lambda: None)
    address = "no address/our-secret-key" if fault == "no address" else f"{outside.url}/our-secret-key"
    switch = DeadMan(address, [duty], every_s=0.05, lately_s=5)
    if fault == "gone":
        outside.stop()
    elif fault != "no address":
        outside.fail(fault, times=None)
    beats(switch, outside, duty, 0.3)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("responder")]
    assert len(said) > 1
    assert "could not be held" in said[0]
    assert "our-secret-key" not in " ".join(said)


def test_the_keeper_itself_holds_it_also_while_prefect_is_down(outside, tmp_path: Path):
    environment = os.environ | {
        "INCIDENT_HOME": str(tmp_path),
        DEAD_MAN_URL: f"{outside.url}/ping",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
    }
    environment.pop("INCIDENT_STORE_URL", None)
    keeper = subprocess.Popen([sys.executable, "-m", "responder.keeper"], env=environment, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: outside.requests)
        assert outside.requests[0].path == "/ping"
    finally:
        keeper.send_signal(signal.SIGTERM)
        _, said = keeper.communicate(timeout=30)
    assert keeper.returncode == 0
    assert str(outside.url) not in said.decode()


def test_a_keeper_that_is_told_to_end_ends_well_also_while_a_duty_is_stuck(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = os.environ | {
            "INCIDENT_HOME": str(tmp_path),
            DEAD_MAN_URL: f"http://127.0.0.1:{silent.getsockname()[1]}/ping",
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
        }
        environment.pop("INCIDENT_STORE_URL", None)
        keeper = subprocess.Popen([sys.executable, "-m", "responder.keeper"], env=environment)
        try:
            silent.settimeout(60)
            asking, _ = silent.accept()
        finally:
            keeper.send_signal(signal.SIGTERM)
            assert keeper.wait(15) == 0
        asking.close()


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)
