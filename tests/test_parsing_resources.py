import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.domain.parsing.resources import Filesystem, Memory, parse_df, parse_df_inodes, parse_free

FREE = """\
               total        used        free      shared  buff/cache   available
Mem:      1000000000   600000000   100000000     1000000   300000000   250000000
Swap:              0           0           0
"""
DF = """\
Filesystem           1-blocks        Used   Available Capacity Mounted on
udev               4100000000           0  4100000000       0% /dev
tmpfs               800000000      900000   799100000       1% /run
/dev/vda1         20000000000 17000000000  2000000000      90% /
overlay           20000000000  1000000000 19000000000       5% /var/lib/docker/x/merged
/dev/loop1           67000000    67000000           0     100% /snap/core20/1
//nas/my share     1000000000   500000000   500000000      50% /mnt/old backups
efivarfs               200000      100000      100000      50% /sys/firmware/efi/efivars
"""
INODES = """\
Filesystem            Inodes  IUsed   IFree IUse% Mounted on
/dev/vda1            1000000 990000   10000   99% /
/dev/vdb                   0      0       0     - /data
tmpfs                  50000     10   49990    1% /tmp
"""


def test_memory_counts_what_a_new_process_can_have() -> None:
    assert parse_free(FREE).value == Memory(
        total=10**9, used=600_000_000, available=250_000_000, used_percent=75.0
    )


def test_memory_without_the_available_column_is_unknown() -> None:
    old = "             total       used       free     shared    buffers     cached\nMem: 1000 900 100 0 10 20\n"
    parsed = parse_free(old)
    assert parsed.value is None
    assert "available" in (parsed.problem or "")


@pytest.mark.parametrize("figures", ["0 0 0 0 0 0", "100 50 1 1 1 500", "100 200 1 1 1 50"])
def test_memory_that_contradicts_itself_is_unknown(figures: str) -> None:
    parsed = parse_free(FREE.split("\n")[0] + f"\nMem: {figures}\n")
    assert parsed.value is None
    assert "contradict" in (parsed.problem or "")


def test_real_file_systems_are_listed_with_their_spaces() -> None:
    parsed = parse_df(DF)
    assert parsed.problem is None
    assert [(row.source, row.mount) for row in parsed.value or ()] == [
        ("/dev/vda1", "/"),
        ("overlay", "/var/lib/docker/x/merged"),
        ("//nas/my share", "/mnt/old backups"),
    ]


def test_used_percent_leaves_out_what_root_keeps_for_itself() -> None:
    (root, *_) = parse_df(DF).value or ()
    percent = 100 * 17 / 19
    assert root == Filesystem(
        source="/dev/vda1", mount="/", total=20_000_000_000, used=17_000_000_000, used_percent=percent
    )


def test_blocks_of_a_kibibyte_become_bytes() -> None:
    (row,) = (
        parse_df("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 100 50 50 50% /\n").value or ()
    )
    assert (row.total, row.used, row.used_percent) == (102400, 51200, 50.0)


def test_a_disk_that_only_root_can_write_to_is_full() -> None:
    text = "Filesystem 1-blocks Used Available Capacity Mounted on\n/dev/a 100 98 -3 103% /\n"
    (row,) = parse_df(text).value or ()
    assert row.used_percent == 100.0


def test_inodes_are_read_where_a_file_system_counts_them() -> None:
    (row,) = parse_df_inodes(INODES).value or ()
    assert (row.mount, row.total, row.used, row.used_percent) == ("/", 1_000_000, 990_000, 99.0)


def test_inodes_are_not_taken_for_bytes() -> None:
    assert parse_df(INODES).value is None
    assert parse_df_inodes(DF).value is None


def test_only_pseudo_file_systems_is_unknown() -> None:
    text = "Filesystem 1-blocks Used Available Capacity Mounted on\ntmpfs 1 0 1 0% /tmp\n"
    assert parse_df(text).problem == "no real file system is listed"


def test_a_line_that_says_nothing_is_told() -> None:
    parsed = parse_df(DF + "df: /mnt: Stale file handle\n")
    assert len(parsed.value or ()) == 3
    assert "Stale file handle" in (parsed.problem or "")


@pytest.mark.parametrize("command", ["free", "df"])
def test_this_machine_is_read(command: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"no {command} on this machine")
    options = {"free": [("-b",)], "df": [("-P", "-B1"), ("-P",), ("-Pi",)]}[command]
    for option in options:
        text = subprocess.run([command, *option], capture_output=True, text=True, check=False).stdout
        parse = {"free": parse_free, "df": parse_df_inodes if option == ("-Pi",) else parse_df}[command]
        parsed = parse(text)
        if parsed.value is None:
            assert parsed.problem == "no real file system is listed"
        else:
            values = parsed.value if isinstance(parsed.value, tuple) else (parsed.value,)
            assert all(0 <= value.used_percent <= 100 for value in values)


@given(st.text(alphabet="Memtotlusdavi: 0123-%/blocks\n", max_size=200))
def test_whatever_is_printed_never_reads_as_an_empty_host(text: str) -> None:
    header = DF.split("\n")[0]
    for parsed in (parse_free(text), parse_df(text), parse_df(f"{header}\n{text}"), parse_df_inodes(text)):
        assert parsed.value or parsed.problem


def test_ten_megabytes_on_one_line_are_no_work() -> None:
    assert parse_df(DF + "1 " * 5_000_000).problem
    assert parse_free("Mem: " + "1 " * 5_000_000).problem
