"""What a lab host's commands answer: systemctl, journalctl, sudo, ps, free, df, who, uptime and so on.

Each runs in the host's supervisor for a small client on the host's PATH (`tool.py`), takes its arguments and
two writers, and gives the exit status. Forms, words and exit statuses follow systemd 252, sudo 1.9,
procps 4 and coreutils 9; an option that is not played is refused, never ignored.
"""

import os
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime

from responder.lab.call import Call, Parser, UsageError
from responder.lab.curl import curl
from responder.lab.failover import failover
from responder.lab.journal import parse_moment
from responder.lab.kubectl import kubectl
from responder.lab.units import descendants, stat_fields

MIB = 1024**2
MEMORY = {"total": 8192 * MIB, "used": 2355 * MIB, "free": 3890 * MIB, "shared": 12 * MIB, "cache": 1947 * MIB}
DISK_BYTES, DISK_INODES = 41_943_040_000, 2_621_440
UNIT_VERBS = ("start", "stop", "restart", "reload", "reload-or-restart", "reset-failed")


def systemctl(call: Call, argv: list[str]) -> int:
    parser = Parser()
    parser.add_argument("-p", "--property", action="append", default=[])
    parser.add_argument("--value", action="store_true")
    parser.add_argument("--timestamp", default="pretty", choices=("pretty", "unix", "utc"))
    for option in ("--no-pager", "--no-ask-password", "-q", "--quiet", "-l", "--full", "--plain", "--no-legend"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("-n", "--lines", type=int, default=10)
    parser.add_argument("verb")
    parser.add_argument("units", nargs="*")
    options = parser.parse_intermixed_args(argv)
    unit = call.machine.unit
    names = [name if "." in name else f"{name}.service" for name in options.units]
    if options.verb == "is-system-running" and not names:
        call.out("degraded" if unit.state.active == "failed" else "running")
        return int(unit.state.active == "failed")
    if len(names) != 1:
        raise UsageError("Too few arguments." if not names else "one unit at a time on this host.")
    [name] = names
    known, state = name == unit.name, unit.state
    active = state.active if known else "inactive"
    if options.verb == "show":
        wanted = {p for ps in options.property for p in ps.split(",")}
        missing = (("Id", name), ("LoadState", "not-found"), ("ActiveState", "inactive"), ("SubState", "dead"))
        for key, value in unit.show(options.timestamp == "unix") if known else missing:
            if not wanted or key in wanted:
                call.out(value if options.value else f"{key}={value}")
        return 0
    if options.verb in ("is-active", "is-failed"):
        call.out(active)
        return (0 if active == "active" else 3) if options.verb == "is-active" else int(active != "failed")
    if options.verb == "status":
        return status(call, name, options.lines)
    if options.verb not in UNIT_VERBS:
        raise UsageError(f"Unknown command verb {options.verb}.")
    if not call.root:
        call.err(f"Failed to {options.verb} {name}: Interactive authentication required.")
        return 1
    if not known:
        call.err(f"Failed to {options.verb} {name}: Unit {name} not found.")
        return 5
    returned = unit.act(options.verb, part_of=call.root.removeprefix("1"))
    if returned and options.verb == "reload":
        call.err(f"{name} is not active, cannot reload.")
    elif returned:
        call.err(f"Job for {name} failed because the control process exited with error code.")
        call.err(f'See "systemctl status {name}" and "journalctl -xeu {name}" for details.')
    return returned


def status(call: Call, name: str, lines: int) -> int:
    """`systemctl status`: 0 active, 3 not active, 4 no such unit."""
    unit = call.machine.unit
    if name != unit.name:
        call.err(f"Unit {name} could not be found.")
        return 4
    shown = dict(unit.show())
    active, result = shown["ActiveState"], shown["Result"]
    words = f"{active} ({shown['SubState']})" if result == "success" else f"{active} (Result: {result})"
    since = shown["StateChangeTimestamp"]
    ago = int(time.time() - unit.state.change)
    call.out(f"{'●' if active == 'active' else '×' if active == 'failed' else '○'} {name}")
    call.out(f"     Loaded: loaded ({shown['FragmentPath']}; enabled; preset: enabled)")
    call.out(f"     Active: {words} since {since}; {ago}s ago" if since else f"     Active: {words}")
    if unit.state.main_pid:
        call.out(f"   Main PID: {unit.state.main_pid} (python)")
    call.out("")
    for entry in call.machine.journal.select({name}, False, 0, time.time(), lines):
        call.out(entry.show(call.machine.name, "short"))
    return 0 if active in ("active", "reloading") else 3


def journalctl(call: Call, argv: list[str]) -> int:
    parser = Parser()
    parser.add_argument("-u", "--unit", action="append", default=[])
    parser.add_argument("-k", "--dmesg", action="store_true")
    parser.add_argument("-n", "--lines", type=int)
    parser.add_argument("-S", "--since")
    parser.add_argument("-U", "--until")
    formats = ("short", "short-iso", "short-unix", "cat")
    parser.add_argument("-o", "--output", default="short", choices=formats)
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-r", "--reverse", action="store_true")
    for option in ("--no-pager", "--utc", "--no-hostname", "-a", "--all", "-b", "--boot"):
        parser.add_argument(option, action="store_true")
    options = parser.parse_args(argv)
    units = {name if "." in name else f"{name}.service" for name in options.unit}
    try:
        since = parse_moment(options.since) if options.since else 0.0
        until = parse_moment(options.until) if options.until else time.time()
    except ValueError as error:
        raise UsageError(f"Failed to parse timestamp: {options.since or options.until}") from error
    entries = call.machine.journal.select(units, options.dmesg, since, until, options.lines)
    if not entries and not options.quiet:
        call.out("-- No entries --")
    for entry in reversed(entries) if options.reverse else entries:
        call.out(entry.show(call.machine.name, options.output))
    return 0


def sudo(call: Call, argv: list[str]) -> int:
    """Runs what the host's rules allow as root, without a password; -l lists them."""
    parser = Parser()
    for option in ("-n", "--non-interactive", "-l", "--list"):
        parser.add_argument(option, action="store_true")
    split = next((i for i, word in enumerate(argv) if not word.startswith("-")), len(argv))
    options, command = parser.parse_args([word for word in argv[:split] if word != "--"]), argv[split:]
    machine = call.machine
    listing = options.l or options.list
    refused = machine.sudo_refused or not (command or listing)
    if refused or (command and not machine.may_sudo(command)):
        # With -n and no terminal sudo says this for whatever is not granted.
        call.err("sudo: a password is required")
        return 1
    if command and not os.access(machine.host_path(command[0]), os.X_OK):
        call.err(f"sudo: {command[0]}: command not found")
        return 1
    if command and listing:
        call.out(shlex.join([machine.public_path(command[0]), *command[1:]]))
    elif listing:
        call.out(f"Matching Defaults entries for {machine.user} on {machine.name}:")
        call.out("    !requiretty, env_reset, mail_badpass, use_pty\n")
        call.out(f"User {machine.user} may run the following commands on {machine.name}:")
        for rule in machine.sudo_rules():
            call.out(f"    (root) NOPASSWD: {rule}")
    else:
        call.run_instead([machine.host_path(command[0]), *command[1:]])
    return 0


def hostname(call: Call, argv: list[str]) -> int:  # noqa: ARG001
    call.out(call.machine.name)
    return 0


def probe(call: Call, argv: list[str]) -> int:
    return curl(argv, call.machine.address, call.out_bytes, call.err_bytes)


def ps(call: Call, argv: list[str]) -> int:
    """`ps -eo COLUMNS`, `-axo`, `-o ... -p PID`, and `aux`, of this host's processes alone."""
    parser = Parser()
    for option in ("-e", "-A", "-a", "-x", "-w"):
        parser.add_argument(option, action="count")
    parser.add_argument("-o", "--format", action="append")
    parser.add_argument("-p", "--pid", action="append")
    parser.add_argument("bsd", nargs="?", choices=("aux", "auxww", "ax"))
    options = parser.parse_args(argv)
    given = options.format or (["user,pid,pcpu,pmem,rss,stat,etimes,args"] if options.bsd else ["pid,args"])
    columns = [name for names in given for name in names.split(",")]
    if unknown := [name for name in columns if name.rstrip("=") not in COLUMNS]:
        call.err(f'error: unknown user-defined format specifier "{unknown[0]}"')
        return 1
    rows = [[COLUMNS[name.rstrip("=")] for name in columns]] if not all(c.endswith("=") for c in columns) else []
    wanted = {int(pid) for pids in options.pid or () for pid in pids.split(",")}
    found, busy = 0, call.machine.unit.state.main_pid if call.machine.overloaded() else 0
    for pid in descendants(os.getpid()):
        if wanted and pid not in wanted:
            continue
        try:
            values = process_values(pid, call.machine.user)
        except OSError:
            continue  # it ended while we looked
        found += 1
        if pid == busy:
            values["pcpu"] = "97.3"
        rows.append([values[name.rstrip("=")] for name in columns])
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(columns) - 1)]
    for row in rows:
        cells = [
            cell.ljust(width) if name.rstrip("=") in ("stat", "state", "user") else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=False)
        ]
        call.out(" ".join([*cells, row[-1]]))
    return 0 if found or not wanted else 1


COLUMNS = {
    "pid": "PID",
    "ppid": "PPID",
    "stat": "STAT",
    "state": "S",
    "pcpu": "%CPU",
    "pmem": "%MEM",
    "rss": "RSS",
    "etimes": "ELAPSED",
    "user": "USER",
    "args": "COMMAND",
}


def process_values(pid: int, user: str) -> dict[str, str]:
    """One process as ps shows it. The supervisor is the host's PID 1. Raises OSError once it is gone."""
    fields = stat_fields(pid)
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").split(b"\0")
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks
    cpu_s = (int(fields[11]) + int(fields[12])) / ticks
    rss = int(fields[21]) * page
    leads_session = "s" if fields[3] == str(pid) else ""
    return {
        "pid": str(pid),
        "ppid": "1" if fields[1] == str(os.getpid()) else fields[1],
        "stat": fields[0] + leads_session,
        "state": fields[0],
        "pcpu": f"{100 * cpu_s / max(age_s, 0.01):.1f}",
        "pmem": f"{100 * rss / MEMORY['total']:.1f}",
        "rss": str(rss // 1024),
        "etimes": str(int(age_s)),
        "user": user,
        "args": b" ".join(words).decode(errors="replace").replace("\n", " "),
    }


def human(size: float) -> str:
    """A size as `free -h` and `df -h` round it."""
    units = ["", "K", "M", "G", "T"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f}{units[0]}" if size < 10 and units[0] else f"{size:.0f}{units[0]}"


def free(call: Call, argv: list[str]) -> int:
    parser = Parser()
    units = {"b": 1, "k": 1024, "m": MIB, "g": 1024**3}
    for option in (*units, "h", "w"):
        parser.add_argument(f"-{option}", action="store_true")
    options = vars(parser.parse_args(argv))
    divisor = next((size for letter, size in units.items() if options[letter]), 1024)
    total, used, unused = MEMORY["total"], MEMORY["used"], MEMORY["free"]
    row = (total, used, unused, MEMORY["shared"], MEMORY["cache"], total - used - MEMORY["shared"])
    names = ("total", "used", "free", "shared", "buff/cache", "available")
    call.out(" " * 7 + "".join(f"{name:>13}" for name in names))
    for title, sizes in (("Mem:", row), ("Swap:", (0, 0, 0))):
        cells = (human(size) + "i" * (size >= 1024) if options["h"] else str(size // divisor) for size in sizes)
        call.out(f"{title:7}" + "".join(f"{cell:>13}" for cell in cells))
    return 0


def df(call: Call, argv: list[str]) -> int:
    parser = Parser()
    for option in ("-P", "-i", "-h", "-k"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("-B")
    parser.add_argument("paths", nargs="*")
    options = parser.parse_args(argv)
    size = int(options.B) if (options.B or "1024").isdigit() and options.B else 1024
    disk = DISK_INODES if options.i else DISK_BYTES // size
    small = 204_800 if options.i else 839_909_376 // size
    percent = 8 if options.i else call.machine.disk_percent
    show = (lambda value: human(value * size)) if options.h else str
    heads = ("Inodes", "IUsed", "IFree", "IUse%") if options.i else None
    heads = heads or ("Size" if options.h else f"{size}-blocks", "Used", "Available", "Capacity")
    call.out("{:14} {:>14} {:>14} {:>14} {:>8} Mounted on".format("Filesystem", *heads))
    rows = (("/dev/vda1", disk, percent, "/"), ("tmpfs", small, 1, "/run"))
    for source, total, used_percent, mount in rows[:1] if options.paths else rows:
        used = total * used_percent // 100
        cells = (show(total), show(used), show(total - used), f"{used_percent}%")
        call.out("{:14} {:>14} {:>14} {:>14} {:>8} {}".format(source, *cells, mount))
    return 0


def who(call: Call, argv: list[str]) -> int:
    """`who -u`: the interactive logins; commands over SSH have no terminal and do not count."""
    parser = Parser()
    for option in ("-u", "-H"):
        parser.add_argument(option, action="store_true")
    options = parser.parse_args(argv)
    if options.H:
        call.out("NAME     LINE         TIME             IDLE          PID COMMENT")
    for login in call.machine.logins:
        began = f"{datetime.fromtimestamp(login.at, UTC):%Y-%m-%d %H:%M}"
        idle = int(time.time() - login.active_at) // 60
        words = "." if not idle else "old" if idle >= 1440 else f"{idle // 60:02}:{idle % 60:02}"
        tail = f"   {words:5} {login.pid:>11} ({login.origin})" if options.u else f" ({login.origin})"
        call.out(f"{login.user:8} {login.line:12} {began}{tail}")
    return 0


def uptime(call: Call, argv: list[str]) -> int:
    if argv:
        raise UsageError("options are not played")
    load = (9.37, 6.02, 2.81) if call.machine.overloaded() else (0.21, 0.25, 0.22)
    loads = ", ".join(f"{value:.2f}" for value in load)
    users = f"{len(call.machine.logins)} users"
    call.out(f" {datetime.now(UTC):%H:%M:%S} up 12 days,  3:08,  {users},  load average: {loads}")
    return 0


COMMANDS: dict[str, Callable[[Call, list[str]], int]] = {
    "systemctl": systemctl,
    "journalctl": journalctl,
    "sudo": sudo,
    "curl": probe,
    "ps": ps,
    "free": free,
    "df": df,
    "who": who,
    "hostname": hostname,
    "uptime": uptime,
    "kubectl": kubectl,
}
SCRIPTS: dict[str, Callable[[Call, list[str]], int]] = {"failover.sh": failover}
"""What the service's own scripts have done by the supervisor; they are not on the PATH."""


def run(name: str, call: Call, argv: list[str]) -> int:
    """Run a stand-in; wrong arguments are answered as the command itself would, with status 1."""
    try:
        return (COMMANDS | SCRIPTS)[name](call, argv)
    except UsageError as error:
        call.err(f"{name}: {error}")
        return 1
