"""The shell text for remote hosts, run in real shells."""

import os
import re
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.domain import shell
from responder.domain.commands import ChangeState, CommandResult, Fence, decode
from responder.domain.errors import OutcomeUnknownError

SHELLS = [
    [path, *rest, "-c"] for name, *rest in (["sh"], ["bash"], ["busybox", "sh"]) if (path := shutil.which(name))
]

# No NUL: an argument cannot carry one. No lone surrogates: they have no UTF-8.
arguments = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


@pytest.fixture(params=SHELLS, ids=lambda argv: Path(argv[0]).name)
def login(request, tmp_path):
    """Run text as a login shell of that kind would, in a home of its own; its output."""

    def run(text: str, **env: str) -> str:
        done = subprocess.run(
            [*request.param, text],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
        return decode(done.stdout)

    return run


def start(login, attempt: str, *argv: str, **env: str) -> Fence:
    return shell.parse_fence(login(shell.fence_and_start(attempt, argv), **env))


def look(login, attempt: str, **options: int) -> ChangeState:
    return shell.parse_change(login(shell.poll(attempt, **options)))


def ended(login, attempt: str, **options: int) -> ChangeState:
    eventually(lambda: look(login, attempt, **options).state != "running")
    return look(login, attempt, **options)


def directory(tmp_path: Path, attempt: str) -> Path:
    return tmp_path / ".incident" / attempt


@given(
    st.lists(st.tuples(st.integers(0, 123), st.text(max_size=40), st.text(max_size=40)), max_size=4),
    st.text(max_size=30),
)
def test_several_reads_are_told_apart_whatever_they_say(reads, rest):
    told = "".join(f"{out}\nMARK {status}\n" for status, out, _ in reads) + rest
    complained = "".join(f"{err}\nMARK\n" for _, _, err in reads) + rest
    assert shell.parse_reads(told, complained, "MARK") == reads
    if reads:  # without the line feed after the last status that may be half of one
        assert shell.parse_reads(told.removesuffix(rest)[:-1], complained, "MARK") == reads[:-1]


@settings(max_examples=60)
@given(st.lists(arguments, max_size=5))
def test_any_argument_list_arrives_unchanged(argv):
    text = shell.quote(["printf", "%s\\0", "first", *argv])
    output = subprocess.run(["/bin/sh", "-c", text], capture_output=True, check=True).stdout
    assert output.decode().split("\0")[:-1] == ["first", *argv]


@settings(max_examples=30)
@given(st.lists(arguments, max_size=5))
def test_any_argument_list_arrives_unchanged_through_a_bounded_read(argv):
    text = shell.bounded_read(["printf", "%s\\0", "first", *argv], 5, "MARK")
    output = subprocess.run(["/bin/sh", "-c", text], capture_output=True, check=True).stdout
    printed = shell.begun(output, "MARK")
    assert printed is not None
    assert printed.decode().split("\0")[:-1] == ["first", *argv]


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_what_stands_before_the_mark_is_no_output_and_without_it_nothing_began(before, after):
    assert shell.begun(before + b"MARK\n" + after, "MARK") == after
    assert shell.begun(before, "MARK") is None


@pytest.mark.parametrize("argv", [[], ["a\0b"], ["a", "\udc80"]])
def test_what_no_program_could_get_is_refused(argv):
    with pytest.raises(ValueError, match="argument"):
        shell.quote(argv)


def test_a_read_is_ended_on_the_host_with_all_that_it_started(tmp_path):
    began = time.monotonic()
    text = shell.bounded_read("trap '' TERM; sleep 30 & echo $!; wait; sleep 30", 1, "MARK")
    output = subprocess.run(["/bin/sh", "-c", text], capture_output=True, check=False).stdout
    assert time.monotonic() - began < 10
    child = int(output.split()[-1])
    eventually(lambda: not alive(child))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not come true in ten seconds"
        time.sleep(0.02)


def test_a_read_gets_no_input_and_keeps_its_status(login):
    assert login(shell.bounded_read("cat; exit 7", 5, "MARK") + "; echo $?") == "MARK\n7\n"


def test_a_read_answers_in_english_and_utc_whatever_the_login_speaks(login):
    text = shell.bounded_read(["date", "-d", "@0", "+%A %H:%M %Z"], 5, "MARK")
    assert (
        login(f"export LANG=de_DE.UTF-8 LC_ALL=de_DE.UTF-8 TZ=Asia/Tokyo; {text}") == "MARK\nThursday 00:00 UTC\n"
    )


@pytest.mark.parametrize("deadline_s", [0, -1, float("nan")])
def test_a_read_needs_a_deadline(deadline_s):
    with pytest.raises(ValueError, match="deadline"):
        shell.bounded_read("true", deadline_s, "MARK")


def test_a_change_runs_once_and_tells_status_and_output(login):
    assert look(login, "a-1").state == "absent"
    assert start(login, "a-1", "sh", "-c", "echo out; echo err >&2; exit 3") == Fence(outcome="won")
    assert start(login, "a-1", "sh", "-c", "echo twice") == Fence(outcome="exists")
    assert ended(login, "a-1") == ChangeState(state="ended", exit_status=3, output="out\nerr\n")


def test_a_change_runs_in_a_session_of_its_own_without_input_and_with_the_logins_umask(login):
    probe = 'umask; cat; set -- $(cat /proc/$PPID/stat); [ "$6" = "$1" ] && echo leader'
    text = shell.fence_and_start("a-1", ["sh", "-c", probe])
    assert shell.parse_fence(login("umask 027; " + text)).outcome == "won"
    assert ended(login, "a-1").output.split() == ["0027", "leader"]


def test_the_answer_does_not_wait_for_the_change(login):
    began = time.monotonic()
    assert start(login, "a-1", "sleep", "2").outcome == "won"
    assert time.monotonic() - began < 1.5
    assert look(login, "a-1").state == "running"


def test_attempts_are_readable_by_their_owner_only(login, tmp_path):
    start(login, "a-1", "true")
    ended(login, "a-1")
    assert stat.S_IMODE(directory(tmp_path, "a-1").stat().st_mode) == 0o700


def test_the_change_gets_its_arguments_whole(login):
    argv = ["printf", "[%s]", "$HOME", "a b", "'", "*", "", "-n", "`id`", "é\n"]
    start(login, "a-1", *argv)
    assert ended(login, "a-1").output == "".join(f"[{argument}]" for argument in argv[2:])


def test_a_program_that_is_not_there_ends_with_127(login):
    start(login, "a-1", "no-such-program")
    assert ended(login, "a-1").exit_status == 127


def test_one_of_many_at_once_wins(login, tmp_path):
    text = shell.fence_and_start("a-1", ["sh", "-c", f"echo ran >>{tmp_path}/ran"])
    answers: list[Fence] = []
    threads = [threading.Thread(target=lambda: answers.append(shell.parse_fence(login(text)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.outcome for answer in answers) == ["exists"] * 7 + ["won"]
    assert ended(login, "a-1").exit_status == 0
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_barred_attempt_never_starts(login):
    assert shell.parse_fence(login(shell.bar("a-1"))) == Fence(outcome="won")
    assert start(login, "a-1", "sh", "-c", "echo ran >ran").outcome == "exists"
    assert look(login, "a-1") == ChangeState(state="barred")


def test_a_started_attempt_cannot_be_barred(login):
    start(login, "a-1", "true")
    assert shell.parse_fence(login(shell.bar("a-1"))) == Fence(outcome="exists")
    assert ended(login, "a-1").state == "ended"


@pytest.mark.parametrize("script", [shell.bar("a-1"), shell.fence_and_start("a-1", ["touch", "ran"])])
class TestOnlyADirectoryThatIsThereMeansExists:
    def test_a_file_in_its_place_is_an_error(self, login, tmp_path, script):
        (tmp_path / ".incident").mkdir()
        directory(tmp_path, "a-1").write_text("")
        self.refuses(login, tmp_path, script, "exists")

    def test_a_link_in_its_place_is_an_error(self, login, tmp_path, script):
        (tmp_path / ".incident").mkdir()
        directory(tmp_path, "a-1").symlink_to(tmp_path)
        self.refuses(login, tmp_path, script, "exists")

    def test_a_dangling_link_in_its_place_is_an_error(self, login, tmp_path, script):
        (tmp_path / ".incident").mkdir()
        directory(tmp_path, "a-1").symlink_to(tmp_path / "nowhere")
        self.refuses(login, tmp_path, script, "exists")

    def test_a_file_in_the_roots_place_is_an_error(self, login, tmp_path, script):
        (tmp_path / ".incident").write_text("")
        self.refuses(login, tmp_path, script, ".incident")

    def test_no_home_is_an_error(self, login, tmp_path, script):
        self.refuses(login, tmp_path, script, "HOME", HOME="")

    def test_a_place_that_takes_no_directory_is_an_error(self, login, tmp_path, script):
        self.refuses(login, tmp_path, script, "/proc", HOME="/proc")

    def refuses(self, login, tmp_path, script, why, **env):
        answer = shell.parse_fence(login(script, **env))
        assert answer.outcome == "error"
        assert why in answer.detail
        time.sleep(0.05)
        assert not (tmp_path / "ran").exists()


def test_without_setsid_nothing_is_fenced(login, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "mkdir", "sync", "mv", "touch"):
        (tools / tool).symlink_to(shutil.which(tool))
    answer = start(login, "a-1", "touch", "ran", PATH=str(tools))
    if answer.outcome == "won":
        pytest.skip("this shell has setsid built in")
    assert answer == Fence(outcome="error", detail="setsid is missing on this host")
    assert not (tmp_path / ".incident").exists()


def test_a_fence_that_cannot_be_written_into_starts_nothing(login, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    # A disk with room for a directory and none for a file: here `mv` of the mark fails.
    (tools / "mv").write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    (tools / "mv").chmod(0o755)
    answer = start(login, "a-1", "touch", "ran", PATH=f"{tools}:{os.environ['PATH']}")
    if answer.outcome == "won":
        pytest.skip("this shell has mv built in")
    assert answer == Fence(outcome="error", detail="not started: no space left")
    assert not (tmp_path / "ran").exists()
    assert look(login, "a-1").state == "vanished"


def test_the_change_survives_a_reader_that_has_gone(tmp_path):
    started = subprocess.Popen(
        ["/bin/sh", "-c", shell.fence_and_start("a-1", ["sh", "-c", "sleep 0.2; echo done"])],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    started.stdout.close()
    started.wait(10)
    eventually((directory(tmp_path, "a-1") / "status").exists)
    assert (directory(tmp_path, "a-1") / "output").read_text() == "done\n"


def test_the_change_survives_the_end_of_the_session_that_started_it(tmp_path):
    session = subprocess.Popen(
        ["/bin/sh", "-c", shell.fence_and_start("a-1", ["sh", "-c", "sleep 0.3; echo done"]) + "; sleep 30"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert session.stdout.readline() == b"incident-answer: won\n"
    with session:
        os.killpg(session.pid, signal.SIGHUP)
        os.killpg(session.pid, signal.SIGKILL)
    eventually((directory(tmp_path, "a-1") / "status").exists)
    assert (directory(tmp_path, "a-1") / "output").read_text() == "done\n"


def test_a_shell_killed_right_after_its_mkdir_leaves_a_vanished_attempt(login, tmp_path):
    directory(tmp_path, "a-1").mkdir(parents=True)
    assert look(login, "a-1") == ChangeState(state="vanished")
    assert start(login, "a-1", "touch", "ran").outcome == "exists"


def test_a_killed_change_has_vanished_with_the_output_so_far(login, tmp_path):
    start(login, "a-1", "sh", "-c", "echo half; exec sleep 30")
    eventually(lambda: look(login, "a-1").output != "")
    os.killpg(int((directory(tmp_path, "a-1") / "mark").read_text().split()[1]), signal.SIGKILL)
    assert ended(login, "a-1") == ChangeState(state="vanished", output="half\n")


@pytest.mark.parametrize("field", [0, 2])
def test_another_boot_or_another_process_of_that_number_is_not_the_change(login, tmp_path, field):
    start(login, "a-1", "sleep", "1")
    mark = directory(tmp_path, "a-1") / "mark"
    words = mark.read_text().split()
    words[field] = "1" + words[field]
    mark.write_text(" ".join(words) + "\n")
    assert look(login, "a-1").state == "vanished"


def test_a_long_output_is_told_by_its_tail(login):
    start(login, "a-1", "sh", "-c", "printf 0123456789")
    assert ended(login, "a-1", tail_bytes=4) == ChangeState(
        state="ended", exit_status=0, output="6789", truncated=True
    )


def test_output_that_looks_like_an_answer_is_output(login):
    start(login, "a-1", "printf", "incident-answer: absent\n")
    assert ended(login, "a-1") == ChangeState(state="ended", exit_status=0, output="incident-answer: absent\n")


def test_the_root_may_be_moved(login, tmp_path):
    root = str(tmp_path / "var" / "it's here")
    assert shell.parse_fence(login(shell.fence_and_start("a-1", ["true"], root=root), HOME="")).outcome == "won"
    assert (Path(root) / "a-1").is_dir()
    assert shell.parse_fence(login(shell.bar("a-1", root=root))).outcome == "exists"


def test_a_poll_that_cannot_look_says_so(login, tmp_path):
    (tmp_path / ".incident").mkdir()
    directory(tmp_path, "a-1").write_text("")
    with pytest.raises(OutcomeUnknownError, match="not a directory"):
        look(login, "a-1")


@pytest.mark.parametrize("attempt", ["", "A", "a/b", "..", "a b", "a\n", "a" * 65, "ä"])
def test_an_attempt_id_that_is_no_safe_name_is_refused(attempt):
    for build in (shell.bar, shell.poll, lambda attempt: shell.fence_and_start(attempt, ["true"])):
        with pytest.raises(ValueError, match="attempt id"):
            build(attempt)


@pytest.mark.parametrize("root", ["", "~/x", "a\nb", "a\0b"])
def test_a_root_that_is_no_path_is_refused(root):
    with pytest.raises(ValueError, match="root"):
        shell.bar("a-1", root=root)


@pytest.mark.parametrize("noise", ["", "*** authorised use only ***\n", "\x1b[0mhello\r\n"])
def test_what_a_login_prints_does_not_hide_the_answer(noise):
    assert shell.parse_fence(f"{noise}incident-answer: won\n").outcome == "won"
    assert shell.parse_change(f"{noise}incident-answer: ended 5 whole\nx").exit_status == 5


@pytest.mark.parametrize(
    "output",
    [
        "",
        "incident-answer: won",
        "incident-answer: maybe\n",
        "echo incident-answer: won\n",
        "incident-answer: won\nincident-answer: exists\n",
        "This account is currently not available.\n",
    ],
)
def test_anything_but_one_whole_answer_is_unknown(output):
    with pytest.raises(OutcomeUnknownError):
        shell.parse_fence(output)


@given(st.text())
def test_garbage_is_never_an_answer(output):
    for parse in (shell.parse_fence, shell.parse_change):
        if not re.search(r"^incident-answer: ", output, re.MULTILINE):
            with pytest.raises(OutcomeUnknownError):
                parse(output)


@pytest.mark.parametrize("status", [-1, 256, 2**32 - 1, None])
def test_a_status_outside_a_byte_is_unknown(status):
    result = CommandResult(
        command="true", exit_status=status, stdout="", stderr="", truncated=False, timed_out=False, took_s=0
    )
    assert result.exit_status is None


def test_bytes_become_text_without_nuls():
    assert decode(b"a\0b\xff\xc3\xa9") == "ab\ufffdé"
