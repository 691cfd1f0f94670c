"""Limits of control groups: in made-up trees of both versions, and in a real group where one can be made."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trainer.distributed.host_limits import Memory, available_memory, cores, cpu_quota, memory

GB = 10**9
KERNEL_LIMIT = "9223372036854771712"
"""What version 1 shows where no limit is set."""
ROOT = Path(__file__).resolve().parents[2]


def machine(folder: Path, group: str, mounts: list[tuple[str, str, str, str]], files: dict[str, str]) -> Path:
    """Return /proc of a made-up machine with 64 GB.

    Args:
        folder: An empty folder.
        group: Content of /proc/self/cgroup.
        mounts: Root, place below the folder, type and options of each mounted hierarchy.
        files: Content of files below the folder.
    """
    lines = [
        f"{number} 25 0:26 {root} {folder / place} rw,nosuid shared:9 - {kind} {kind} {options}"
        for number, (root, place, kind, options) in enumerate(mounts)
    ]
    files = files | {
        "proc/self/cgroup": group,
        "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "\n".join(lines),
        "proc/meminfo": "MemTotal:       62500000 kB\nMemFree: 1 kB\nMemAvailable:   31250000 kB\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder / "proc"


def test_of_a_group_and_all_above_it_the_smallest_limit_counts(tmp_path: Path) -> None:
    proc = machine(
        tmp_path,
        "0::/slurm/job 7/step\n",
        [("/", "cg", "cgroup2", "rw")],
        {
            "cg/slurm/memory.max": "16000000000\n",
            "cg/slurm/job 7/memory.max": "8000000000\n",
            "cg/slurm/job 7/step/memory.max": "max\n",
            "cg/slurm/cpu.max": "400000 100000\n",
            "cg/slurm/job 7/cpu.max": "150000 100000\n",
            "cg/slurm/job 7/step/cpu.max": "max 100000\n",
        },
    )
    found = memory(proc)
    assert found == Memory(host=64 * GB, limit=8 * GB)
    assert (found.usable, found.is_limited) == (8 * GB, True)
    assert cpu_quota(proc) == 1.5
    assert available_memory(proc) == 32 * GB


def test_a_container_that_sees_its_own_group_alone_finds_its_limit_there(tmp_path: Path) -> None:
    files = {"cg/memory.max": "4000000000\n", "cg/cpu.max": "50000 100000\n"}
    # With a namespace of its own the group is /; without one it is the name that the host has for it.
    for number, (group, root) in enumerate((("/", "/"), ("/docker/4a", "/docker/4a"), ("/../4a", "/"))):
        proc = machine(tmp_path / str(number), f"0::{group}\n", [(root, "cg", "cgroup2", "rw")], files)
        assert memory(proc).limit == 4 * GB
        assert cpu_quota(proc) == 0.5


def test_version_1_has_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    proc = machine(
        tmp_path,
        "9:name=systemd:/\n5:cpu,cpuacct:/jobs\n4:memory:/jobs/a\n0::/\n",
        [
            ("/", "cg/cpu", "cgroup", "rw,cpu,cpuacct"),
            ("/", "cg/memory", "cgroup", "rw,memory"),
            ("/", "cg/unified", "cgroup2", "rw"),
        ],
        {
            "cg/memory/memory.limit_in_bytes": KERNEL_LIMIT,
            "cg/memory/jobs/memory.limit_in_bytes": "2000000000",
            "cg/memory/jobs/a/memory.limit_in_bytes": "6000000000",
            "cg/cpu/jobs/cpu.cfs_quota_us": "200000",
            "cg/cpu/jobs/cpu.cfs_period_us": "100000",
            "cg/cpu/cpu.cfs_quota_us": "-1",
            "cg/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert memory(proc).usable == 2 * GB
    assert cpu_quota(proc) == 2.0


def test_free_is_what_the_fullest_group_leaves_with_files_that_were_not_used_lately(tmp_path: Path) -> None:
    files = {
        "cg/memory.max": "9000000000\n",
        "cg/memory.current": "8000000000\n",
        "cg/memory.stat": "anon 6000000000\ninactive_file 500000000\nactive_file 1500000000\n",
        "cg/job/memory.max": "7000000000\n",
        "cg/job/memory.current": "2000000000\n",
    }
    proc = machine(tmp_path, "0::/job\n", [("/", "cg", "cgroup2", "rw")], files)
    assert available_memory(proc) == 9 * GB - 8 * GB + GB // 2


def test_without_a_limit_the_memory_is_the_machines(tmp_path: Path) -> None:
    hierarchy = [("/", "cg", "cgroup", "rw,memory")]
    unlimited = machine(tmp_path / "a", "4:memory:/\n", hierarchy, {"cg/memory.limit_in_bytes": KERNEL_LIMIT})
    bare = machine(tmp_path / "b", "", [], {})
    for proc in (unlimited, bare):
        assert memory(proc).usable == 64 * GB
        assert not memory(proc).is_limited
        assert cpu_quota(proc) is None


def test_memory_of_this_machine_is_what_psutil_says() -> None:
    assert memory().host == psutil.virtual_memory().total
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.1)
    assert cores() == len(psutil.Process().cpu_affinity())


@pytest.fixture
def group_of_2_gb() -> Iterator[Path]:
    """A real group with a limit of 2 GB, in either version."""
    for parent, file in (
        ("memory", "memory.limit_in_bytes"),
        ("", "memory.max"),
    ):
        folder = Path("/sys/fs/cgroup") / parent / f"shardtower-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / file).write_text("2000000000")
            yield folder
            return
        except OSError:
            continue
        finally:
            folder.rmdir()
    pytest.skip("this machine lets no control group be made")


def test_a_process_in_a_real_group_plans_with_its_limit(group_of_2_gb: Path) -> None:
    code = (
        "from trainer.distributed.host_limits import memory; from trainer.planning.hardware import this_cpu;"
        "print(memory().limit, this_cpu().memory, this_cpu().source)"
    )
    enter = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", enter, "sh", str(group_of_2_gb), sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    limit, planned, source = done.stdout.split(" ", 2)
    page = os.sysconf("SC_PAGE_SIZE")
    assert int(limit) == 2 * GB // page * page, done.stderr
    assert float(planned) * GB == int(limit)
    assert "2 GB (limit of its cgroup)" in source
