"""What a process may use of its host: memory and processor time, as containers and Slurm limit them.

A container sees all of its host's memory in /proc/meminfo. Its limit, beyond which the kernel kills a
process, stands in the files of its control group (cgroup): `memory.max` in version 2,
`memory.limit_in_bytes` in version 1. Every group above it has a limit of its own, and the smallest counts.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MEMORY_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
"""Files of a group with its limit and with what its processes have, by version."""


@dataclass(frozen=True)
class Memory:
    """Memory in bytes.

    Attributes:
        host: Memory of the machine.
        limit: Smallest limit of the process's control groups; None: there is none.
    """

    host: int
    limit: int | None

    @property
    def usable(self) -> int:
        """The smaller of the machine's and the limit."""
        return self.host if self.limit is None else min(self.host, self.limit)

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit below the machine's memory."""
        return self.usable < self.host


def memory(proc: Path = PROC) -> Memory:
    """Return the memory of the machine and the limit of this process.

    Args:
        proc: The folder of the kernel's files on processes.
    """
    limits = [
        limit
        for group, version in _groups("memory", proc)
        if (limit := _number(group / MEMORY_FILES[version][0])) is not None
    ]
    return Memory(_meminfo("MemTotal", proc), min(limits, default=None))


def available_memory(proc: Path = PROC) -> int:
    """Return the bytes that this process can still take: of the machine without swapping, and of its groups.

    Args:
        proc: The folder of the kernel's files on processes.
    """
    free = [_meminfo("MemAvailable", proc)]
    for group, version in _groups("memory", proc):
        limit, used = (_number(group / name) for name in MEMORY_FILES[version])
        if limit is not None and used is not None:
            # Pages of files that were not used lately count as used, and are given up first.
            found = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
            free.append(limit - used + (int(found[1]) if found else 0))
    return max(min(free), 0)


def cpu_quota(proc: Path = PROC) -> float | None:
    """Return how many cores' time the process may take, such as 1.5; None: as many as it sees.

    Args:
        proc: The folder of the kernel's files on processes.
    """
    quotas = []
    for group, version in _groups("cpu", proc):
        if version == 2:
            quota, period = [*_text(group / "cpu.max").split(), "", ""][:2]
        else:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # "max" and "-1" set no limit
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cores() -> int:
    """Return the cores on which this process may run."""
    return len(os.sched_getaffinity(0))


def _groups(controller: str, proc: Path) -> Iterator[tuple[Path, int]]:
    """Yield the folders of the process's groups that a controller has, up to the root, with their version."""
    mounts = list(_mounts(proc))
    for line in _text(proc / "self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        version = 1 if names else 2
        if version == 1 and controller not in names.split(","):
            continue
        for root, place, kind, options in mounts:
            if kind == "cgroup2" if version == 2 else (kind == "cgroup" and controller in options):
                yield from ((folder, version) for folder in _upwards(path, root, place))
                break


def _upwards(path: str, root: str, place: Path) -> list[Path]:
    """Return the folders of a group and its parents.

    Args:
        path: Group of the process, in the whole hierarchy.
        root: Group that is mounted; a container often sees its own alone.
        place: Where it is mounted.
    """
    inside = os.path.relpath(path, root)
    steps = [] if inside.startswith("..") or inside == "." else inside.split("/")
    return [place.joinpath(*steps[:count]) for count in range(len(steps), -1, -1)]


def _mounts(proc: Path) -> Iterator[tuple[str, Path, str, list[str]]]:
    """Yield root, place, type and options of each file system of control groups."""
    for line in _text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) > 4 and len(kinds) > 2 and kinds[0] in ("cgroup", "cgroup2"):
            yield _plain(fields[3]), Path(_plain(fields[4])), kinds[0], kinds[2].split(",")


def _plain(text: str) -> str:
    r"""Return a path in which the kernel has written a space as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _meminfo(name: str, proc: Path) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", _text(proc / "meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None  # "max" sets no limit


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
