"""The host's service manager: all its processes, and one unit kept as systemd keeps a `Type=simple` service.

States, results and words follow systemd.service(5), systemctl(1) and the log lines of systemd 252.
"""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from responder.lab.journal import Journal

START_LIMIT_BURST = 5
START_LIMIT_INTERVAL_S = 10.0
STOP_TIMEOUT_S = 5.0
CLEAN_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE}
RESULTS = {os.CLD_EXITED: "exit-code", os.CLD_KILLED: "signal", os.CLD_DUMPED: "core-dump"}
EXIT_WORDS = {os.CLD_EXITED: "exited", os.CLD_KILLED: "killed", os.CLD_DUMPED: "dumped"}

OnExit = Callable[[int, int, int], None]


class Processes:
    """Starts and reaps every process of the host.

    The supervisor is the subreaper of all it starts, so what detaches itself comes back here as it would to
    PID 1: a host's processes are the supervisor's descendants, no more and no less.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[int, tuple[subprocess.Popen[bytes], OnExit | None]] = {}
        threading.Thread(target=self._reap, daemon=True).start()

    def start(self, argv: Sequence[str], on_exit: OnExit | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own. `on_exit` gets PID, CLD_ code, status or signal."""
        with self.lock:
            process = subprocess.Popen(argv, start_new_session=True, **options)
            self.known[process.pid] = (process, on_exit)
        return process

    def _reap(self) -> None:
        while True:
            try:
                # Looked at first, reaped after: Popen has to reap its own child.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                time.sleep(0.02)
                continue
            assert ended is not None
            with self.lock:
                process, on_exit = self.known.pop(ended.si_pid, (None, None))
                if process is not None:
                    process.wait()
                else:
                    try:
                        os.waitpid(ended.si_pid, 0)
                    except ChildProcessError:
                        continue  # a program that could not be executed: Popen has reaped it already
            if on_exit is not None:
                on_exit(ended.si_pid, ended.si_code, ended.si_status)


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name: state, ppid, ... Raises OSError once it is gone."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def descendants(ancestor: int) -> list[int]:
    """Every process below this one, parents before children; zombies are left out."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            state, parent = stat_fields(int(entry))[:2]
        except OSError:
            continue  # it ended between the listing and the look
        if state != "Z":
            children.setdefault(int(parent), []).append(int(entry))
    found = list(children.get(ancestor, []))
    for pid in found:
        found += children.get(pid, [])
    return found


def kill_group(pid: int, number: int) -> None:
    """Signal a process group; that it has gone already is no error."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


@dataclass
class State:
    """What `systemctl show` tells. Times are seconds since the epoch, 0 for never."""

    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    main_pid: int = 0
    restarts: int = 0
    exec_code: int = 0
    exec_status: int = 0
    exec_pid: int = 0
    exec_start: float = 0
    exec_exit: float = 0
    active_enter: float = 0
    active_exit: float = 0
    inactive_enter: float = 0
    inactive_exit: float = 0
    change: float = 0


class Unit:
    """A service of Type=simple: a start has succeeded as soon as the process exists, whatever comes of it."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        directory: Path,
        *,
        environment: dict[str, str],
        processes: Processes,
        journal: Journal,
        restart: str = "no",
        restart_s: float = 0.2,
        before_acting: Callable[[], None] = lambda: None,
    ) -> None:
        """`command` is asked at each start; `restart` is Restart= (no, on-failure, always).

        `before_acting` is called before each thing that systemctl does.
        """
        self.name = name
        self.command, self.directory, self.environment = command, directory, environment
        self.processes, self.journal = processes, journal
        self.restart_policy, self.restart_s = restart, restart_s
        self.before_acting = before_acting
        self.state = State()
        self.actions: list[dict[str, object]] = []
        self.crash_after_s: float | None = None
        self.oom_killed = False
        self._lifeline: int | None = None
        self._collector: threading.Thread | None = None
        self._starts: deque[float] = deque(maxlen=START_LIMIT_BURST)
        self._changed = threading.Condition(threading.RLock())
        self._job = threading.Lock()

    def act(self, verb: str, part_of: str = "") -> int:
        """What systemctl does on behalf of somebody on the host: 0 or 1, and counted.

        What is only `part_of` another action is not counted by itself: it completes that one.
        """
        with self._job:
            self.before_acting()
            at, pid = time.time(), self.state.main_pid
            returned: int = getattr(self, verb.replace("-", "_"))()
            with self._changed:
                whole = next((action for action in reversed(self.actions) if action["verb"] == part_of), None)
                if whole is None:
                    whole = self.count(verb, at=at, pid_before=pid)
                whole |= {"pid_after": self.state.main_pid, "returned": returned}
                if (
                    returned == 0
                    and verb in ("start", "restart", "reload-or-restart")
                    and self.crash_after_s is not None
                ):
                    self._later(self.crash_after_s, self._crash, self.state.main_pid)
        return returned

    def count(self, verb: str, **details: object) -> dict[str, object]:
        """Note that somebody has changed something."""
        pid = self.state.main_pid
        plain = {"verb": verb, "unit": self.name, "at": time.time(), "pid_before": pid, "pid_after": pid}
        self.actions.append(plain | {"returned": 0} | details)
        return self.actions[-1]

    def start(self) -> int:
        with self._changed:
            if self.state.active == "active":
                return 0
            self.state.restarts = 0
            return self._spawn()

    def stop(self) -> int:
        with self._changed:
            pid = self.state.main_pid
            if not pid:
                if self.state.active == "activating":
                    self._enter("inactive", "dead")
                return 0
            self._say(f"Stopping {self.name}...")
            self._enter("deactivating", "stop-sigterm")
            kill_group(pid, signal.SIGTERM)
            kill_group(pid, signal.SIGCONT)  # a frozen process hears of it too
            if not self._changed.wait_for(lambda: self.state.main_pid != pid, STOP_TIMEOUT_S):
                self.state.result = "timeout"
                self._log("State 'stop-sigterm' timed out. Killing.")
                kill_group(pid, signal.SIGKILL)
                self._changed.wait_for(lambda: self.state.main_pid != pid)
        return 0

    def restart(self) -> int:
        self.stop()
        return self.start()

    def reload(self) -> int:
        with self._changed:
            if self.state.active != "active":
                self._log("Unit cannot be reloaded because it is inactive.")
                return 1
            os.kill(self.state.main_pid, signal.SIGHUP)
            self._say(f"Reloaded {self.name}.")
        return 0

    def reload_or_restart(self) -> int:
        return self.reload() if self.state.active == "active" else self.restart()

    def reset_failed(self) -> int:
        with self._changed:
            self._starts.clear()
            self.state.restarts = 0
            self.state.result = "success"
            if self.state.active == "failed":
                self._enter("inactive", "dead")
        return 0

    def kill(self, number: int) -> int:
        """Signal the main process alone and wait until it is gone. Gives its PID, 0 if there was none."""
        with self._changed:
            if pid := self.state.main_pid:
                os.kill(pid, number)
                self._changed.wait_for(lambda: self.state.main_pid != pid, STOP_TIMEOUT_S)
            return pid

    def show(self, unix: bool = False) -> Iterator[tuple[str, str]]:
        """Property and value, in systemd's order; timestamps as `Mon 2026-11-23 13:21:00 UTC` or `@EPOCH`."""
        with self._changed:
            state = State(**vars(self.state))

        def moment(at: float) -> str:
            if not at:
                return ""
            return f"@{int(at)}" if unix else f"{datetime.fromtimestamp(at, UTC):%a %Y-%m-%d %H:%M:%S UTC}"

        yield "Type", "simple"
        yield "Restart", self.restart_policy
        yield "RestartUSec", f"{int(self.restart_s * 1000)}ms"
        yield "TimeoutStopUSec", f"{int(STOP_TIMEOUT_S)}s"
        yield "MainPID", str(state.main_pid)
        yield "Result", state.result
        yield "NRestarts", str(state.restarts)
        yield "ExecMainStartTimestamp", moment(state.exec_start)
        yield "ExecMainExitTimestamp", moment(state.exec_exit)
        yield "ExecMainPID", str(state.exec_pid)
        yield "ExecMainCode", str(state.exec_code)
        yield "ExecMainStatus", str(state.exec_status)
        yield "WorkingDirectory", str(self.directory)
        yield "Id", self.name
        yield "Names", self.name
        yield "Description", self.name.removesuffix(".service")
        yield "LoadState", "loaded"
        yield "ActiveState", state.active
        yield "SubState", state.sub
        yield "FragmentPath", f"/etc/systemd/system/{self.name}"
        yield "UnitFileState", "enabled"
        yield "StateChangeTimestamp", moment(state.change)
        yield "InactiveExitTimestamp", moment(state.inactive_exit)
        yield "ActiveEnterTimestamp", moment(state.active_enter)
        yield "ActiveExitTimestamp", moment(state.active_exit)
        yield "InactiveEnterTimestamp", moment(state.inactive_enter)

    def _spawn(self) -> int:
        now = time.monotonic()
        if len(self._starts) == START_LIMIT_BURST and now - self._starts[0] < START_LIMIT_INTERVAL_S:
            self._log("Start request repeated too quickly.")
            self._fail("start-limit-hit")
            return 1
        self._starts.append(now)
        reading, writing = os.pipe()
        if self._lifeline is not None:
            os.close(self._lifeline)
        # The process ends when this end closes: it cannot outlive a supervisor that was killed.
        self._lifeline = writing
        process = self.processes.start(
            self.command(),
            self._exited,
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=self.environment,
        )
        os.close(reading)
        self._collector = threading.Thread(target=self._collect, args=(process,), daemon=True)
        self._collector.start()
        self.state.main_pid = self.state.exec_pid = process.pid
        self.state.exec_start, self.state.exec_exit = time.time(), 0
        self.state.exec_code = self.state.exec_status = 0
        self.state.result = "success"
        self._enter("active", "running")
        self._say(f"Started {self.name}.")
        return 0

    def _collect(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self.journal.write(self.name, self.name.removesuffix(".service"), process.pid, text)

    def _exited(self, pid: int, code: int, status: int) -> None:
        with self._changed:
            stopping, state = self.state.active == "deactivating", self.state
            kill_group(pid, signal.SIGKILL)  # the rest of the control group goes with its main process
            if self._collector is not None:
                self._collector.join(0.5)  # its last words come before the news of its death
            state.main_pid, state.exec_exit = 0, time.time()
            state.exec_code, state.exec_status = code, status
            clean = status == 0 if code == os.CLD_EXITED else stopping and status in CLEAN_SIGNALS
            result = state.result if state.result == "timeout" else "success" if clean else RESULTS[code]
            if self.oom_killed:
                result, self.oom_killed = "oom-kill", False
                self._log("A process of this unit has been killed by the OOM killer.")
            if not clean:
                word = signal.Signals(status).name[3:] if code != os.CLD_EXITED else "FAILURE"
                self._log(f"Main process exited, code={EXIT_WORDS[code]}, status={status}/{word}")
            again = self.restart_policy == "always" or (
                self.restart_policy == "on-failure" and result != "success"
            )
            if result == "success":
                state.result = result
                self._enter("inactive", "dead")
                self._log("Deactivated successfully.")
                if stopping:
                    self._say(f"Stopped {self.name}.")
            else:
                self._fail(result)
            if again and not stopping:
                self._enter("activating", "auto-restart")
                self._later(self.restart_s, self._auto_restart)
            self._changed.notify_all()

    def _auto_restart(self) -> None:
        with self._changed:
            if self.state.sub != "auto-restart":
                return
            self.state.restarts += 1
            self._log(f"Scheduled restart job, restart counter is at {self.state.restarts}.")
            self._spawn()

    def _crash(self, pid: int) -> None:
        with self._changed:
            if self.state.main_pid == pid and self.crash_after_s is not None:
                os.kill(pid, signal.SIGSEGV)

    def _fail(self, result: str) -> None:
        self.state.result = result
        self._log(f"Failed with result '{result}'.")
        self._enter("failed", "failed")

    def _enter(self, active: str, sub: str) -> None:
        now, state = time.time(), self.state
        was_inactive, is_inactive = state.active in ("inactive", "failed"), active in ("inactive", "failed")
        if was_inactive and not is_inactive:
            state.inactive_exit = now
        if is_inactive and not was_inactive:
            state.inactive_enter = now
        if active == "active":
            state.active_enter = now
        elif state.active == "active":
            state.active_exit = now
        state.active, state.sub, state.change = active, sub, now

    def _say(self, message: str) -> None:
        self.journal.write(self.name, "systemd", 1, message)

    def _log(self, message: str) -> None:
        self._say(f"{self.name}: {message}")

    @staticmethod
    def _later(seconds: float, function: Callable[..., None], *args: object) -> None:
        timer = threading.Timer(seconds, function, args)
        timer.daemon = True
        timer.start()
