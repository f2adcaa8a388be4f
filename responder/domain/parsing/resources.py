"""`free` and `df`: memory and disks of a host."""

import re

from responder.domain.base import Frozen
from responder.domain.parsing.parsed import Parsed, collected, cut_at, lines_of, shown

_MAX_LINES = 5000
_MAX_DIGITS = 20

_BLOCKS = re.compile(r"\S+ +(\d{1,8}|1K)-blocks ", re.ASCII)
_INODES = re.compile(r"\S+ +Inodes ", re.ASCII)
# Found by its figures, because both the source before and the mount point after them may hold spaces.
_FIGURES = re.compile(r"(?<=\s)(\d{1,20}) +(\d{1,20}) +(-|-?\d{1,20}) +(\d{1,3}%|-) +(?=/)", re.ASCII)

_PSEUDO_SOURCES = {"tmpfs", "devtmpfs", "udev", "none", "squashfs", "ramfs", "shm", "efivarfs", "proc", "sysfs"}
_PSEUDO_SOURCES |= {"cgroup", "cgroup2", "devpts", "securityfs", "debugfs", "tracefs", "configfs", "fusectl"}
_PSEUDO_SOURCES |= {"mqueue", "hugetlbfs", "pstore", "bpf", "binfmt_misc", "autofs"}
_PSEUDO_MOUNTS = ("/proc", "/sys", "/dev", "/run", "/snap")


class Memory(Frozen):
    """Main memory in bytes. `used_percent` counts what is not available to a new process."""

    total: int
    used: int
    available: int
    used_percent: float


class Filesystem(Frozen):
    """One mounted file system, in bytes or in inodes. `used_percent` is of what an ordinary user may use."""

    source: str
    mount: str
    total: int
    used: int
    used_percent: float


def parse_free(text: str) -> Parsed[Memory]:
    """Main memory as `free -b` printed it. Unknown without an `available` column (procps before 3.3.10)."""
    columns: list[str] = []
    for line in lines_of(text, _MAX_LINES):
        words = line[:500].split()
        if "total" in words:
            columns = words
        elif words and words[0] == "Mem:" and columns:
            figures = {name: _number(word) for name, word in zip(columns, words[1:], strict=False)}
            total, used, available = (figures.get(name) for name in ("total", "used", "available"))
            if total is None or used is None or available is None:
                return Parsed(problem=f"total, used and available expected: {shown(line)}")
            if total == 0 or used > total or available > total:
                return Parsed(problem=f"memory figures contradict each other: {shown(line)}")
            percent = 100 * (1 - available / total)
            return Parsed(value=Memory(total=total, used=used, available=available, used_percent=percent))
    return Parsed(problem=f"no memory figures: {shown(text)}")


def parse_df(text: str) -> Parsed[tuple[Filesystem, ...]]:
    """The real file systems in bytes, from `df -P` or `df -P -B1` (any block size, read from the header)."""
    header = next(lines_of(text, 1), "")
    match = _BLOCKS.match(header[:200])
    if match is None:
        return Parsed(problem=f"no header of `df -P`: {shown(text)}")
    return _filesystems(text, 1024 if match[1] == "1K" else int(match[1]))


def parse_df_inodes(text: str) -> Parsed[tuple[Filesystem, ...]]:
    """The real file systems in inodes, from `df -Pi`. Those that count none (btrfs) are left out."""
    if _INODES.match(next(lines_of(text, 1), "")[:200]) is None:
        return Parsed(problem=f"no header of `df -Pi`: {shown(text)}")
    return _filesystems(text, 1)


def _filesystems(text: str, unit: int) -> Parsed[tuple[Filesystem, ...]]:
    rows: list[Filesystem] = []
    refused: list[str] = []
    for line in list(lines_of(text, _MAX_LINES))[1:]:
        match = _FIGURES.search(line)
        if match is None:
            if line.strip():
                refused.append(line)
            continue
        source, mount = line[: match.start()].strip(), line[match.end() :]
        total, used, free = int(match[1]), int(match[2]), _number(match[3].lstrip("-"))
        if _is_pseudo(source, mount) or total == 0:
            continue
        # Blocks reserved for root make the available ones negative when an ordinary user can write no more.
        usable = used + (0 if match[3].startswith("-") else free or 0)
        if used > total or usable == 0:
            refused.append(line)
            continue
        percent = 100 * used / usable
        row = Filesystem(source=source, mount=mount, total=total * unit, used=used * unit, used_percent=percent)
        rows.append(row)
    if not rows and not refused:
        return Parsed(problem="no real file system is listed")
    return collected(rows, refused, "file systems", cut=cut_at(text, _MAX_LINES))


def _is_pseudo(source: str, mount: str) -> bool:
    """In memory, or an image that is always full. An overlay is a container's own disk: real."""
    return (
        source in _PSEUDO_SOURCES
        or source.startswith("/dev/loop")
        or any(mount == path or mount.startswith(f"{path}/") for path in _PSEUDO_MOUNTS)
    )


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS else None
