"""The process that is a lab host: `python -m responder.lab.machine SPEC`, started by `responder.lab.host`.

It runs the SSH server, supervises the gateway, and answers the stand-in commands (`run/tools`) and the lab
(`run/control`). It is the subreaper of all it starts, and ends with everything it started when its standard
input is closed or SIGTERM comes: nothing outlives the lab, however the lab ended.
"""

import ctypes
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from responder.lab import standins
from responder.lab.call import Call
from responder.lab.gateway import ready_replicas
from responder.lab.journal import Journal
from responder.lab.shared import Shared
from responder.lab.sshd import Mode, Sshd, load_key, new_key, reserve
from responder.lab.units import Processes, Unit, descendants, stat_fields

PR_SET_CHILD_SUBREAPER = 36
HERE = Path(__file__).parent
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
VERSIONS = ("1.3.9", "1.4.0", "1.4.1", "1.4.2")
DEPLOYED_S_AGO = 3 * 86400
JUST_NOW_S = 180
"""How long before its fault a change was made that people would call recent."""

ROLLBACK = """\
#!/bin/sh
# usage: rollback.sh [VERSION]: switch `current` to VERSION, else to the newest release before it; restart.
# Exit 0: switched and restart accepted, which does not mean healthy. 3: nothing to go back to. 5: refused.
[ -n "$LAB_ROOT" ] || { echo "rollback.sh: must be root" >&2; exit 2; }
export LAB_ROOT=rollback
cd "$(dirname "$0")/.." || exit 2
now=$(basename "$(readlink current)")
before=$(ls releases | sort -V | sed "/^$now\\$/,\\$d" | tail -n 1)
new=${1:-$before}
[ -n "$new" ] && [ -d "releases/$new" ] || { echo "no release before $now" >&2; exit 3; }
ln -sfn "releases/$new" current.new && mv -T current.new current
UNITCTL reset-failed UNIT
UNITCTL restart UNIT || exit 5
echo "current is $new, was $now"
"""
BROKEN_ROLLBACKS = {
    "usage": """\
#!/bin/sh
echo "usage: rollback.sh --release VERSION --environment NAME"
""",
    "asks": """\
#!/bin/sh
printf 'Roll back the running release? Type yes: '
read answer
[ "$answer" = yes ] || { echo; echo "Aborted."; exit STATUS; }
exec "$0.real" "$@"
""",
}
FAILOVER = """\
#!/bin/sh
# usage: failover.sh COMPONENT ACTION; whatever it does not know prints this and returns 0.
case "$*" in
"postgres promote") printf 'Promote the standby? Type yes: '
  read answer || exit 1
  [ "$answer" = yes ] || { echo "Aborted."; exit 0; } ;;
esac
exec TOOL "$@"
"""
CONFIG = """\
# Read at the start and on reload.
EXECUTION_MODE=sim_engine
MARKET_SOURCE=sim
WORKERS=4
ORDER_TIMEOUT_MS=500
"""


@dataclass(frozen=True)
class Spec:
    """What a host is to be, as JSON on the command line."""

    directory: str
    name: str
    address: str
    gateway_port: int
    user: str
    client_key: str  # base64 of the public key
    unit: str
    service: str
    metrics_prefix: str
    shared: str  # path of the file of what all hosts share
    restart_policy: str = "no"


@dataclass
class Login:
    """An interactive login, as `who -u` shows it. Times are seconds since the epoch."""

    user: str
    origin: str
    line: str
    at: float
    active_at: float
    pid: int


class Machine:
    """One host. The methods named `do_...` are what the lab can ask of it; their results are JSON."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.name, self.address, self.user = spec.name, spec.address, spec.user
        self.directory = Path(spec.directory)
        self.home = self.directory / "home"
        self.app = self.directory / "opt" / spec.service
        self.config = self.app / "etc" / "gateway.env"
        self.shared = Shared(spec.shared)
        self.changing = threading.RLock()
        self.seen: dict[str, object] = {}
        self.disk_percent = 38
        self.sudo_refused = False
        self.orders = random.randint(2, 6)
        self.logins: list[Login] = []
        self.played: list[int] = []
        self.endless: set[str] = set()
        self.gateway_faults: dict[str, Any] = {}
        self.until_restart: set[str] = set()
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{self.directory / 'bin'}:{SYSTEM_PATH}",
            "USER": self.user,
            "LOGNAME": self.user,
            "SHELL": "/bin/sh",
            "TZ": "UTC",
            "LANG": "C.UTF-8",
        }
        self._lay_out()
        self.journal = Journal(self.directory / "journal.log", self.name)
        self.processes = Processes()
        # Kept bound, so that a stopped gateway's port refuses connections and stays ours.
        self._gateway_port = reserve(self.address, spec.gateway_port)
        self.unit = Unit(
            f"{spec.unit}.service",
            self._gateway_command,
            self.app / "current",
            environment={"PATH": SYSTEM_PATH, "TZ": "UTC"},
            processes=self.processes,
            journal=self.journal,
            restart=spec.restart_policy,
            before_acting=self.count_changes,
        )
        self.sshd = Sshd(
            self.address,
            user=self.user,
            client_key=spec.client_key,
            processes=self.processes,
            home=self.home,
            environment=self.environment,
            after_each=partial(self.count_changes, writing=True),
        )
        self._serve("tools", self._serve_tool)
        self._serve("control", self._serve_control)
        self.unit.start()

    # What the stand-ins need to know

    def sudo_rules(self) -> list[str]:
        """Commands that the login user may run as root, as sudoers lists them."""
        verbs = [f"/usr/bin/systemctl {verb} {self.spec.unit}" for verb in standins.UNIT_VERBS]
        scripts = [str(self.app / "scripts" / f"{name}.sh") for name in ("rollback", "failover")]
        return [
            *(f"{verb}, {verb}.service" for verb in verbs),
            f"/usr/bin/journalctl -u {self.spec.unit} *, /usr/bin/journalctl -u {self.spec.unit}.service *",
            *(f"{script}, {script} *" for script in scripts),
        ]

    def may_sudo(self, command: list[str]) -> bool:
        """Whether a rule allows this command, argument by argument; a `*` at the end allows any more."""
        wanted = [self.public_path(command[0]), *command[1:]]
        for rule in ", ".join(self.sudo_rules()).split(", "):
            allowed = shlex.split(rule)
            if wanted == allowed or (allowed[-1] == "*" and wanted[: len(allowed) - 1] == allowed[:-1]):
                return True
        return False

    def public_path(self, command: str) -> str:
        """The path under which sudo knows a command; relative paths start at the login directory."""
        if command in standins.COMMANDS:
            return f"/usr/bin/{command}"
        if "/" in command:
            path = Path(os.path.normpath(self.home / command))
            return str(path.parent.resolve() / path.name)
        return command

    def host_path(self, command: str) -> str:
        """The program that plays a command."""
        name = command.removeprefix("/usr/bin/")
        if name in standins.COMMANDS:
            return str(self.directory / "bin" / name)
        return self.public_path(command)

    def overloaded(self) -> bool:
        """Whether the gateway has more to do than the replicas can."""
        fault = self.gateway_faults.get("overload")
        if not fault:
            return False
        needs: int = fault["needs"]
        return ready_replicas(self.shared.read()["deployment"], time.time()) < needs

    # What is counted

    def count_changes(self, writing: bool = False) -> None:
        """Count what somebody has changed since the last look: the release or the configuration, by any command.

        `writing`: a command may be at it right now, so that an empty file is not what it will be.
        """
        with self.changing:
            for verb, (path, now) in self._changeable().items():
                before = self.seen.get(verb)
                if now != before and (now or not writing):
                    self.seen[verb] = now
                    at = path.lstat().st_ctime if os.path.lexists(path) else time.time()
                    detail = f"{before} -> {now}" if verb == "rollback" else ""
                    self.unit.count(verb, at=at, detail=detail)

    def _changeable(self) -> dict[str, tuple[Path, object]]:
        """Where what can be changed by hand lies, and what is there, by the verb that a change is counted as."""
        link = self.app / "current"
        return {
            "rollback": (link, os.readlink(link) if link.is_symlink() else None),
            "config": (self.config, self.config.read_bytes() if self.config.exists() else None),
        }

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """What is changed within is the lab's own doing and not counted."""
        with self.changing:
            if self.seen:
                self.count_changes()
            yield
            self.seen = {verb: now for verb, (_, now) in self._changeable().items()}

    # What the lab asks

    def do_hello(self) -> dict[str, object]:
        key = self.sshd.host_key
        return {"port": self.sshd.port, "key": f"{key.get_name()} {key.get_base64()}", "pid": os.getpid()}

    def do_actions(self) -> list[dict[str, object]]:
        self.count_changes()
        return self.unit.actions

    def do_commands(self) -> list[dict[str, object]]:
        return [asdict(command) for command in self.sshd.commands]

    def do_wait_for(self, match: str, timeout_s: float, state: str) -> dict[str, object] | None:
        try:
            return asdict(self.sshd.wait_for(match, timeout_s, state))
        except TimeoutError:
            return None

    def do_hold(self, match: str, when: str, seconds: float | None, most: int | None) -> int:
        return self.sshd.hold(match, cast(Any, when), seconds, most)

    def do_release(self, number: int, run: bool) -> None:
        self.sshd.release(number, run)

    def do_kill(self, signal_name: str) -> int:
        return self.unit.kill(signal.Signals[signal_name])

    def do_stop(self) -> None:
        """Somebody stops the unit by hand: not one of the actions that are counted."""
        self.journal.write(self.unit.name, "systemd", 1, f"{self.unit.name}: Stop requested by hand.")
        self.unit.stop()

    def do_state(self) -> dict[str, object]:
        return asdict(self.unit.state)

    def do_crash_after_restart(self, after_s: float | None) -> None:
        self.unit.crash_after_s = after_s

    def do_engine_dead(self) -> None:
        for pid in descendants(self.unit.state.main_pid):
            os.kill(pid, signal.SIGKILL)

    def do_freeze(self) -> None:
        if pid := self.unit.state.main_pid:
            os.killpg(pid, signal.SIGSTOP)

    def do_oom(self) -> None:
        pid = self.unit.state.main_pid
        if not pid:
            return
        kib = int(stat_fields(pid)[21]) * (os.sysconf("SC_PAGE_SIZE") // 1024)
        sizes = f"total-vm:{kib * 4}kB, anon-rss:{kib}kB, file-rss:0kB, shmem-rss:0kB, UID:998"
        program = f"{self.spec.service}_engine"
        self.journal.kernel(f"{program} invoked oom-killer: gfp_mask=0x140cca, order=0, oom_score_adj=0")
        self.journal.kernel(f"Out of memory: Killed process {pid} ({program}) {sizes} oom_score_adj:0")
        self.unit.oom_killed = True
        self.unit.kill(signal.SIGKILL)

    def do_gateway_heals(self, faults: list[str]) -> None:
        """End some of the gateway's own faults, without a restart."""
        for name in faults:
            self.gateway_faults.pop(name, None)
        self._write_faults()

    def do_gateway(self, faults: dict[str, Any], until_restart: bool) -> None:
        """Add faults that the gateway reads for itself (see `gateway.py`)."""
        self.gateway_faults |= faults
        self.until_restart = self.until_restart | set(faults) if until_restart else self.until_restart
        self._write_faults()

    def do_release_broken(self, kind: str) -> None:
        """A deployment switches `current` to a release that cannot start, and restarts the unit."""
        version = "1.4.3"
        with self._ours():
            release = self._write_release(version)
            self._switch(version)
        if kind == "import_error":
            program = release / f"{self.spec.service}_gateway.py"
            lines = program.read_text().split("\nimport argparse\n", 1)
            program.write_text("\nimport argparse\nimport rbac\n".join(lines))
        else:
            (release / f"{self.spec.service}_engine").unlink()
        self.journal.write(self.unit.name, "deploy", os.getpid(), f"release {version} is now current")
        self.unit.restart()

    def do_release_bad(self, **broken: object) -> None:
        """The release that runs is bad, however often it is started, and was deployed a moment ago."""
        release = (self.app / "current").resolve()
        (release / "BROKEN").write_text(json.dumps(broken))
        with self._ours():
            self._switch(release.name, JUST_NOW_S)
        message = f"release {release.name} is now current"
        self.journal.write(self.unit.name, "deploy", os.getpid(), message, JUST_NOW_S)
        self.unit.restart()

    def do_rollback_broken(self, how: str, status: int) -> None:
        script = self.app / "scripts" / "rollback.sh"
        if how == "missing":
            script.unlink()
        elif how == "no_older":
            for release in (self.app / "releases").iterdir():
                if release.name != Path(os.readlink(self.app / "current")).name:
                    shutil.rmtree(release)
        else:
            if how == "asks":
                shutil.copy(script, f"{script}.real")
            self._script(script, BROKEN_ROLLBACKS[how].replace("STATUS", str(status)))

    def do_config_bad(self, how: str) -> None:
        """Somebody edited the configuration a moment ago, and the gateway has read it."""
        workers = "four" if how == "exit" else "0"
        with self._ours():
            self.config.write_text(CONFIG.replace("WORKERS=4", f"WORKERS={workers}"))
            at = time.time() - JUST_NOW_S
            os.utime(self.config, (at, at))
        self.unit.restart()

    def do_shared(self, part: str, changes: dict[str, Any]) -> None:
        """Change what all hosts share (see `shared.py`)."""
        self.shared.change(lambda state: state[part].update(changes))

    def do_shared_heals(self) -> None:
        self.shared.heal()

    def do_say(self, lines: list[str], ident: str = "", unit: str = "") -> None:
        """Lines of the gateway's, or of another unit's, in the journal."""
        for line in lines:
            self.journal.write(unit or self.unit.name, ident or self.spec.unit, self.unit.state.main_pid, line)

    def do_disk(self, percent: int) -> None:
        self.disk_percent = percent
        if percent >= 100:
            words = f"Failed to write audit log entry: [Errno 28] {os.strerror(28)}"
            self.do_say([f"[AUDIT] {words}"])
            self.do_gateway({"down": words}, until_restart=False)
        else:
            self.do_gateway_heals(["down"])

    def do_endless(self, command: str) -> None:
        self.endless.add(command)

    def do_ssh(self, mode: str) -> None:
        self.sshd.set_mode(cast(Mode, mode))

    def do_cut(self, match: str | None, when: str = "before") -> None:
        self.sshd.cut = (re.compile(match), when) if match else None

    def do_change_host_key(self) -> None:
        self.sshd.presented_key = load_key(new_key())
        self.sshd.set_mode(self.sshd.mode)

    def do_sudo(self, refused: bool) -> None:
        self.sudo_refused = refused

    def do_login(self, user: str, origin: str, idle_s: float) -> None:
        now, pid = time.time(), os.getpid()
        line = f"pts/{len(self.logins)}"
        self.logins.append(Login(user, origin, line, now - idle_s, now - idle_s, pid))

    def do_process(self, args: str) -> int:
        """Start a process that does nothing but show these words in ps."""
        code = "import time; time.sleep(86400)"
        process = self.processes.start(
            [args, "-ISE", "-c", code], executable=sys.executable, env=self.environment, cwd=self.home
        )
        self.played.append(process.pid)
        return process.pid

    def do_heal(self) -> None:
        """End every fault and start the gateway afresh, with orders again."""
        self.unit.crash_after_s = None
        self.gateway_faults.clear()
        self._write_faults()
        self.disk_percent, self.sudo_refused = 38, False
        self.logins.clear()
        self.endless.clear()
        self.sshd.cut = None
        for hold in self.sshd.holds:
            hold.over.set()
        self.sshd.presented_key = self.sshd.host_key
        if self.sshd.mode != "up":
            self.sshd.set_mode("up")
        for pid in self.played:
            if pid in descendants(os.getpid()):
                os.kill(pid, signal.SIGKILL)
        self.shared.heal()
        self._lay_out_service()
        self.orders = random.randint(2, 6)
        self.unit.reset_failed()
        self.unit.restart()

    def shut_down(self) -> None:
        """Kill all that was started here, whoever its parent is by now, and all that it starts meanwhile."""
        while pids := descendants(os.getpid()):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.005)

    # The inside

    def _lay_out(self) -> None:
        for name in ("home", "bin", "run", f"opt/{self.spec.service}/scripts", f"opt/{self.spec.service}/etc"):
            (self.directory / name).mkdir(parents=True)
        (self.home / "opt").symlink_to("../opt")
        for name in standins.COMMANDS:
            command = shlex.join([sys.executable, "-ISE", str(HERE / "tool.py")])
            self._script(self.directory / "bin" / name, f'#!/bin/sh\nexec {command} "$0" "$@"\n')
        if shutil.which("setsid", path=SYSTEM_PATH) is None:
            code = "import os, sys; os.getpid() == os.getsid(0) and os.fork() and os._exit(0); os.setsid()"
            command = shlex.join([sys.executable, "-ISE", "-c", f"{code}; os.execvp(sys.argv[1], sys.argv[1:])"])
            self._script(self.directory / "bin" / "setsid", f'#!/bin/sh\nexec {command} "$@"\n')
        self._lay_out_service()
        self._write_faults()

    def _lay_out_service(self) -> None:
        """Scripts, releases and configuration as they should be."""
        control = shlex.quote(str(self.directory / "bin" / "systemctl"))
        tool = shlex.join([sys.executable, "-ISE", str(HERE / "tool.py"), str(self.directory / "bin/failover.sh")])
        for name, text in (("rollback", ROLLBACK), ("failover", FAILOVER)):
            text = text.replace("UNITCTL", control).replace("UNIT", self.spec.unit).replace("TOOL", tool)
            self._script(self.app / "scripts" / f"{name}.sh", text)
        with self._ours():
            for version in VERSIONS:
                (self._write_release(version) / "BROKEN").unlink(missing_ok=True)
            self._switch(VERSIONS[-1], DEPLOYED_S_AGO)
            at = time.time() - DEPLOYED_S_AGO
            for path in (self.config, self.config.with_suffix(".env.good")):
                path.write_text(CONFIG)
                os.utime(path, (at, at))

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def _write_release(self, version: str) -> Path:
        release = self.app / "releases" / version
        release.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / "gateway.py", release / f"{self.spec.service}_gateway.py")
        shutil.copyfile(HERE / "engine.py", release / f"{self.spec.service}_engine")
        return release

    def _switch(self, version: str, ago_s: float = 0) -> None:
        link, new = self.app / "current", self.app / "current.new"
        new.unlink(missing_ok=True)
        new.symlink_to(f"releases/{version}")
        at = time.time() - ago_s
        os.utime(new, (at, at), follow_symlinks=False)
        new.replace(link)

    def _write_faults(self) -> None:
        new = self.directory / "run" / "faults.new"
        new.write_text(json.dumps(self.gateway_faults))
        new.replace(self.directory / "run" / "faults.json")

    def _gateway_command(self) -> list[str]:
        for name in self.until_restart:
            self.gateway_faults.pop(name, None)
        self.until_restart.clear()
        self._write_faults()
        # Orders live in memory: whoever restarts the gateway loses them.
        orders, self.orders = self.orders, 0
        current, service = self.app / "current", self.spec.service
        options = {
            "--bind": self.address,
            "--port": self.spec.gateway_port,
            "--engine": current / f"{service}_engine",
            "--prefix": self.spec.metrics_prefix,
            "--faults": self.directory / "run" / "faults.json",
            "--config": self.config,
            "--shared": self.shared.path,
            "--orders": orders,
        }
        words = [str(word) for option in options.items() for word in option]
        return [sys.executable, "-ISE", str(current / f"{service}_gateway.py"), *words]

    def _serve(self, name: str, serve: Callable[[socket.socket], None]) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    serve(self.request)
                except (ConnectionError, EOFError):
                    return  # the command was killed, or its reader has had enough

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 128

        # Bound by way of a descriptor: the path of a socket may have 107 bytes, a directory as many as it likes.
        run = os.open(self.directory / "run", os.O_PATH)
        server = Server(f"/proc/self/fd/{run}/{name}", Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _serve_tool(self, connection: socket.socket) -> None:
        def frame(kind: int) -> Callable[[bytes], None]:
            def send(data: bytes) -> None:
                connection.sendall(bytes([kind]) + len(data).to_bytes(4, "big") + data)

            return send

        request = _receive(connection, int.from_bytes(_receive(connection, 4), "big"))
        root, name, *argv = request.decode("utf-8", "surrogateescape").split("\0")
        while name in self.endless:
            frame(1)(b"the same line for ever\n" * 1000)
        instead: list[str] = []
        call = Call(self, root, frame(1), frame(2), instead.extend)
        status = standins.run(name, call, argv)
        if instead:
            frame(4)("\0".join(instead).encode("utf-8", "surrogateescape"))
        else:
            frame(3)(str(status).encode())

    def _serve_control(self, connection: socket.socket) -> None:
        for line in connection.makefile("rb"):
            request = json.loads(line)
            answer: dict[str, object]
            try:
                answer = {"result": getattr(self, f"do_{request['do']}")(**request["args"])}
            except Exception as error:  # noqa: BLE001 - the lab gets to see whatever went wrong here
                answer = {"error": f"{type(error).__name__}: {error}"}
            connection.sendall(json.dumps(answer).encode() + b"\n")


def _receive(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the lab, which then ends us
    machine = Machine(spec)
    try:
        sys.stdout.write(json.dumps(machine.do_hello()) + "\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
    finally:
        machine.shut_down()
        os._exit(0)


if __name__ == "__main__":
    main()
