"""Shell text for remote hosts, and the parsers of what it answers. Pure functions; `blocks/ssh.py` carries it.

Reads are ended on the host at their deadline. A change is fenced and detached: plain `mkdir` of the
attempt's own directory decides, atomically and across reboots, who may start it; then it runs in a session
of its own, so that losing the connection cannot kill it half-way.

Files in an attempt's directory: `mark` (boot id, PID and start time of the process that runs the change),
`output`, `status` (written when the change has ended) or `barred`.

The scripts are constants and get everything as arguments, so that quoting is `shlex.join` and nothing else.
POSIX sh (dash, busybox ash), Linux's /proc, coreutils or busybox.
"""

import math
import re
import shlex
from collections.abc import Sequence

from responder.domain.commands import ChangeState, Fence
from responder.domain.errors import OutcomeUnknownError

ROOT = ".incident"
"""Where attempts are fenced, below the login user's home: unlike /tmp it survives a reboot."""

ENDED = (124, 137)
"""What `timeout` answers for a command that it has ended by SIGTERM or SIGKILL."""

_ALIKE = ("env", "LC_ALL=C", "TZ=UTC0")
_ATTEMPT_ID = re.compile(r"[a-z0-9-]{1,64}")
_UNSENDABLE = re.compile("[\0\ud800-\udfff]")

# Redirections that may fail stand on regular built-ins only: on a special one (`:`, `exec`) POSIX sh exits.
_MARK = r"""
mark() {  # names one process for good: PIDs come again, after a reboot or without one
  read -r boot </proc/sys/kernel/random/boot_id && read -r stat <"/proc/$1/stat" || return
  set -- "$1" ${stat##*) }
  case $2 in Z | X) return 1 ;; esac
  printf '%s %s %s\n' "$boot" "$1" "${21}"
}
"""

_PRELUDE = r"""
set -f
before=$(umask)
umask 077
say() { printf 'incident-answer: %s\n' "$*"; }
answer() { say "$@"; exit 0; }
case $1 in
/*) root=$1 ;;
*) case ${HOME:-} in /*) root=$HOME/$1 ;; *) answer error HOME is not an absolute path ;; esac ;;
esac
dir=$root/$2
"""

# Only a directory that is there means "exists"; a full, read-only or forbidden place, a file or a link do not.
# $reason is unquoted so that it becomes one line.
_FENCE = r"""
reason=$(LC_ALL=C mkdir -p -- "$root" 2>&1) || answer error $reason
reason=$(LC_ALL=C mkdir -- "$dir" 2>&1) || {
  [ -d "$dir" ] && [ ! -L "$dir" ] && answer exists
  answer error $reason
}
"""

# What could be missing is looked for before the fence. The fence is on the disk before the change runs: a
# power cut must not undo the one and keep the other. The runner says "started" once its mark and output are
# there, and holds nothing of ours from then on; when it cannot, it has not run the change.
_START = (
    _MARK
    + _PRELUDE
    + r"""
command -v setsid >/dev/null || answer error setsid is missing on this host
reason=$(mark $$ 2>&1) || answer error $reason
"""
    + _FENCE
    + r"""
sync "$dir" "$root" 2>/dev/null
run=$3
shift 3
started=$(setsid sh -c "$run" incident "$dir" "$before" "$@" 2>&1 &)
[ "$started" = started ] && answer won
answer error not started: $started
"""
)

# The change gets the login's umask back: what it installs must be readable by the service.
_RUN = (
    _MARK
    + r"""
dir=$1 before=$2
shift 2
mark $$ >"$dir/mark.tmp" && mv "$dir/mark.tmp" "$dir/mark" || exit
exec 3>&1 </dev/null >"$dir/output" 2>&1
echo started >&3
exec 3>&-
umask "$before"
"$@"
echo $? >"$dir/status.tmp" && mv "$dir/status.tmp" "$dir/status"
"""
)

_BAR = _PRELUDE + _FENCE + r"""printf '' 2>/dev/null >"$dir/barred"; answer won"""

# Life is looked at before the status: in the other order a change that ends in between would have vanished.
# A fence without a mark may be a start in progress, so it gets a second.
_POLL = (
    _MARK
    + _PRELUDE
    + r"""
[ -e "$root" ] && [ ! -x "$root" ] && answer error "$root" may not be entered
[ -e "$dir" ] || [ -L "$dir" ] || answer absent
[ -d "$dir" ] && [ ! -L "$dir" ] || answer error "$dir" is not a directory
[ -e "$dir/barred" ] || [ -e "$dir/mark" ] || sleep 1
state=vanished
if [ -e "$dir/barred" ]; then answer barred; fi
if read -r boot pid start && [ "$(mark "$pid" 2>/dev/null)" = "$boot $pid $start" ]; then
  state=running
fi 2>/dev/null <"$dir/mark"
if [ -e "$dir/status" ]; then read -r code <"$dir/status"; state="ended $code"; fi
size=0
[ -e "$dir/output" ] && size=$(wc -c <"$dir/output")
if [ "$size" -gt "$3" ]; then say $state cut; else say $state whole; fi
[ -e "$dir/output" ] && tail -c "$3" "$dir/output"
exit 0
"""
)

_FENCE_LINE = re.compile(r"^incident-answer: (won|exists|error)(?: (.*))?\n", re.MULTILINE)
_STATE_LINE = re.compile(
    r"^incident-answer: (?:(absent|barred)|(running|vanished|ended (\d{1,3})) (whole|cut)|error (.*))\n",
    re.MULTILINE,
)


def quote(argv: Sequence[str]) -> str:
    """The argument list as one line of POSIX shell that runs exactly it.

    Raises ValueError for an empty list, and for a NUL or a lone surrogate, which no argument can carry.
    """
    if not argv or any(_UNSENDABLE.search(argument) for argument in argv):
        raise ValueError(f"not an argument list that a program could get: {list(argv)!r}")
    return shlex.join(argv)


def bounded_read(command: Sequence[str] | str, deadline_s: float, mark: str) -> str:
    """Shell text that runs a read and ends it on the host after `deadline_s` (seconds, rounded up).

    The whole process group gets SIGTERM, a second later SIGKILL (coreutils manual, "timeout invocation").
    A string is shell text (pipes and all), a list is one program with its arguments. It answers in English
    and in UTC, whatever the login's language and time zone: so it is the same on every host. Its output
    begins behind `mark`, see `begun`.

    Raises ValueError for an unusable command or a deadline that is not positive.
    """
    if isinstance(command, str):
        program = ["sh", "-c", f"{_begin(mark)}\n{command}"]
    else:
        quote(command)
        program = ["sh", "-c", f'{_begin(mark)}; exec "$@"', "sh", *command]
    return quote([*_ALIKE, *_ended(program, deadline_s)]) + " </dev/null"


def bounded_reads(commands: Sequence[Sequence[str]], deadline_s: float, mark: str) -> str:
    """Shell text that runs reads one after the other, each ended as by `bounded_read`; for `parse_reads`.

    After each, `mark` ends its part of both streams, on stdout with the status.

    Raises ValueError as `bounded_read` does.
    """
    told = f"s=$?; printf '\\n{mark} %s\\n' $s; printf '\\n{mark}\\n' >&2"
    steps = [f"{quote(_ended(command, deadline_s))}; {told}" for command in commands]
    return quote([*_ALIKE, "sh", "-c", "\n".join([_begin(mark), *steps])]) + " </dev/null"


def _begin(mark: str) -> str:
    return f"echo {mark}; echo {mark} >&2"


def begun(output: bytes, mark: str) -> bytes | None:
    """What a read has printed on one of its streams, None when it never began.

    `mark` is a word that no output holds. What a login prints stands before it, and a host that runs something
    else than it is sent (no shell, a forced command) does not know it: nothing that such a host answers, an
    exit status of 0 or 1 included, says anything about what was asked.
    """
    _, found, printed = output.partition(f"{mark}\n".encode())
    return printed if found else None


def parse_reads(stdout: str, stderr: str, mark: str) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each read of `bounded_reads` that was seen to its end."""
    said, complained = stdout.split(f"\n{mark} "), stderr.split(f"\n{mark}\n")
    reads: list[tuple[int, str, str]] = []
    output = said[0]
    for part, errors in zip(said[1:], complained, strict=False):
        status, line_feed, following = part.partition("\n")
        if not line_feed or not status.isdecimal():
            break
        reads.append((int(status), output, errors))
        output = following
    return reads


def _ended(program: Sequence[str], deadline_s: float) -> list[str]:
    if not deadline_s > 0:
        raise ValueError(f"a deadline is a positive number of seconds, not {deadline_s}")
    quote(program)
    return ["timeout", "-k", "1", str(math.ceil(deadline_s)), *program]


def fence_and_start(attempt_id: str, argv: Sequence[str], *, root: str = ROOT) -> str:
    """Shell text that takes the attempt's fence and, only when it wins, starts `argv` detached.

    Answers for `parse_fence`. `error` means that nothing was started by this call. Text that was sent and
    not answered may have started the change: `poll` tells.

    Raises ValueError for a bad attempt id, root or argument list.
    """
    quote(argv)
    return _script(_START, root, attempt_id, _RUN, *argv)


def bar(attempt_id: str, *, root: str = ROOT) -> str:
    """Shell text that takes the attempt's fence and starts nothing: after `won` it never ran and never will.

    Answers for `parse_fence`. Raises ValueError for a bad attempt id or root.
    """
    return _script(_BAR, root, attempt_id)


def poll(attempt_id: str, *, root: str = ROOT, tail_bytes: int = 64 * 1024) -> str:
    """Shell text that says what became of an attempt, with the last `tail_bytes` of its output.

    Answers for `parse_change`. Changes nothing. Raises ValueError for a bad attempt id, root or size.
    """
    if tail_bytes < 1:
        raise ValueError(f"tail_bytes is at least 1, not {tail_bytes}")
    return _script(_POLL, root, attempt_id, str(tail_bytes))


def parse_fence(output: str) -> Fence:
    """The answer of `fence_and_start` or `bar`; lines that a login prints around it are skipped.

    Raises OutcomeUnknownError when there is not exactly one whole answer.
    """
    answers = _FENCE_LINE.findall(output)
    if len(answers) != 1:
        raise OutcomeUnknownError(f"no answer from the fence, poll the attempt before acting: {_shown(output)}")
    outcome, detail = answers[0]
    return Fence(outcome=outcome, detail=detail)


def parse_change(output: str) -> ChangeState:
    """The answer of `poll`; what follows the first answer line is the change's own output.

    Raises OutcomeUnknownError when there is no answer or the host could not look.
    """
    found = _STATE_LINE.search(output)
    if found is None:
        raise OutcomeUnknownError(f"the host did not say what became of the attempt: {_shown(output)}")
    bare, told, status, extent, error = found.groups()
    if error is not None:
        raise OutcomeUnknownError(f"the host could not say what became of the attempt: {error}")
    return ChangeState.model_validate(
        {
            "state": bare or told.split()[0],
            "exit_status": status,
            "output": "" if bare else output[found.end() :],
            "truncated": extent == "cut",
        }
    )


def _script(text: str, root: str, attempt_id: str, *arguments: str) -> str:
    if not _ATTEMPT_ID.fullmatch(attempt_id):
        raise ValueError(f"an attempt id is 1 to 64 of a-z, 0-9 and '-', not {attempt_id!r}")
    if not root or not root.isprintable() or root.startswith("~"):
        raise ValueError(f"the root is a path, absolute or below the home directory, not {root!r}")
    # A login shell of another kind (zsh, fish) sees one simple command only.
    return "exec " + quote(["sh", "-c", text, "incident", root, attempt_id, *arguments])


def _shown(output: str) -> str:
    return repr(output[-200:]) if output else "nothing came back"
