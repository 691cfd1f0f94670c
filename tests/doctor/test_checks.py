"""Verdicts on facts: for every check the facts of a healthy machine, and of one with each fault."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trainer.config.resume import RUNS
from trainer.dataset.prepare import cache_folder
from trainer.distributed import shared_memory
from trainer.doctor import storage
from trainer.doctor.checks import CHECKS
from trainer.doctor.findings import SEVERITIES, Finding, as_text

GB = 10**9
TORCH_CPU = {
    "cuda": None,
    "available": False,
    "gpus": [],
    "gpu_bytes": [],
    "capabilities": [],
    "built_for": [],
}
TORCH_CPU |= {"gloo": True, "nccl": False}
TORCH_CUDA = TORCH_CPU | {"cuda": "12.8", "nccl": True}
TORCH_GPU = TORCH_CUDA | {
    "available": True,
    "gpus": ["NVIDIA H100 80GB HBM3"],
    "gpu_bytes": [85 * GB],
    "capabilities": ["9.0"],
    "built_for": ["sm_80", "sm_90", "compute_90"],
}
LIBRARY = {"state": "imported", "version": "1", "error": None, "shadow": None}
LIBRARIES = dict.fromkeys(
    ("numpy", "torch", "fbgemm_gpu", "torchrec", "trainer.sharding.private_api"), LIBRARY
)
FAILING = {"state": "fails", "error": "ImportError: undefined symbol"}
MISSING = {"state": "missing", "error": "ModuleNotFoundError: No module named 'torch'"}
DISK = {
    "folder": "runs",
    "purpose": "runs",
    "option": "name another folder with --run.dir",
    "nearest": "/mnt",
}
DISK |= {"total": 100 * GB, "free": 50 * GB, "free_files": 1000, "writable": True}
ANSWER = {"wrong": [], "milliseconds": 2.5, "megabytes": 1.05, "shared_memory": True}

HEALTHY: dict[str, dict[str, Any]] = {
    "python": {
        "version": "3.12.4",
        "implementation": "CPython",
        "bits": 64,
        "executable": "/venv/bin/python",
        "machine": "x86_64",
        "system": "Linux",
    },
    "packages": {
        "torch": "2.14.1",
        "torchrec": "1.9.2",
        "fbgemm-gpu-cpu": "1.9.0",
        "fbgemm-gpu": None,
        "numpy": "2.4.6",
        "pandas": "3.0.1",
        "pyarrow": "26.0.0",
    },
    "imports": {"libraries": LIBRARIES, "torch": TORCH_CPU, "crashed": None, "fault": None},
    "cpu": {"machine": "x86_64", "model": "AMD EPYC", "avx2": True, "avx512": False},
    "gpus": {"driver": None, "nvidia_smi": None, "torch": TORCH_CPU, "cuda_fbgemm": False},
    "backends": {"torch": TORCH_CPU},
    "threads": {"cores": 8, "cores_of_machine": 8, "quota": None, "omp_num_threads": "2"},
    "memory": {"host": 64 * GB, "limit": None, "usable": 64 * GB, "available": 50 * GB},
    "shared_memory": {"folder": "/dev/shm", "total": 32 * GB, "free": 32 * GB, "writable": True},
    "disk_runs": DISK,
    "host_name": {"name": "box-7", "resolves": True, "localhost_resolves": True, "loopback": True},
    "clock": {"now": 1_790_000_000, "package": 1_789_000_000},
    "open_files": {"soft": 65_536, "hard": 65_536},
    "processes": {"soft": None, "hard": None},
    "locked_memory": {"soft": None, "hard": None},
    "core_dumps": {"soft": 0, "hard": None},
    "terminal": {"stdout": "UTF-8", "files": "utf-8", "locale": "en_GB"},
    "kernels": {
        "importable": True,
        "all": 35,
        "expected": 1,
        "tried": {"cpu,a,b": None},
        "not_started": None,
    },
    "ranks_gloo": {
        "backend": "gloo",
        "there": True,
        "ranks": 2,
        "answers": [ANSWER] * 2,
        "faults": [None] * 2,
    },
}
HEALTHY |= {"builds": HEALTHY["packages"]}
JUDGES = {check.id: check.judge for check in CHECKS}


def judged(check: str, **changed: Any) -> Finding:
    """The finding of a check on a healthy machine's facts, some of them changed."""
    verdict = JUDGES[check](HEALTHY[check] | changed)
    return Finding(check, verdict.severity, verdict.text, verdict.advice, verdict.commands, {})


@pytest.mark.parametrize("check", HEALTHY)
def test_nothing_is_wrong_with_a_healthy_machine(check: str) -> None:
    assert judged(check).severity == "ok"


def test_every_check_has_the_facts_of_a_healthy_machine_here_and_a_name_of_its_own() -> None:
    alike = {"disk_cache": "disk_runs", "disk_tmp": "disk_runs", "ranks_nccl": "ranks_gloo"}
    assert {alike.get(check.id, check.id) for check in CHECKS} == set(HEALTHY)
    assert len(JUDGES) == len(CHECKS)


BROKEN_RECORD = {"libraries": LIBRARIES | {"torchrec": LIBRARY | FAILING}}
SHADOWED = {
    "libraries": LIBRARIES | {"torchrec": LIBRARY | FAILING | {"shadow": "/home/x/torchrec/__init__.py"}}
}
NO_TORCH = {"libraries": LIBRARIES | {"torch": LIBRARY | MISSING, "torchrec": LIBRARY | MISSING}}
NO_NUMPY = {"libraries": NO_TORCH["libraries"] | {"numpy": LIBRARY | MISSING}}
GPU_MACHINE = {"driver": "NVRM version 580", "nvidia_smi": ["GPU 0: NVIDIA H100"]}


@pytest.mark.parametrize(
    ("check", "changed", "severity", "words"),
    [
        ("python", {"version": "3.10.2"}, "error", "needed is CPython 3.11 or newer"),
        ("python", {"version": "3.15.0"}, "note", "nothing newer than 3.14 was tried"),
        ("python", {"system": "Darwin"}, "error", "Linux only"),
        ("packages", {"torch": None, "torchrec": None}, "warning", "nothing can be trained"),
        ("packages", {"torchrec": None}, "error", "not installed: torchrec"),
        ("packages", {"fbgemm-gpu-cpu": None}, "error", "not installed: fbgemm-gpu-cpu (or fbgemm-gpu)"),
        (
            "packages",
            {"torchrec": "1.8.0"},
            "error",
            "torch 2.14.1 needs 1.9 of torchrec and FBGEMM; installed",
        ),
        ("packages", {"torch": "2.99.0"}, "warning", "this torch was not tried"),
        ("packages", {"numpy": "1.26.4"}, "error", "numpy 1.26.4: too old"),
        ("builds", {"fbgemm-gpu": "1.9.0"}, "error", "are installed over each other"),
        (
            "builds",
            {"fbgemm-gpu": "1.9.0", "fbgemm-gpu-cpu": None, "torch": "2.14.1+cpu"},
            "error",
            "needs CUDA, and torch 2.14.1+cpu has none",
        ),
        ("imports", BROKEN_RECORD, "error", "torchrec cannot be imported: ImportError: undefined symbol"),
        ("imports", SHADOWED, "error", "torchrec cannot be imported"),
        ("imports", NO_TORCH, "warning", "as not installed: torch, torchrec"),
        ("imports", NO_NUMPY, "error", "numpy cannot be imported"),
        (
            "imports",
            {"crashed": "fbgemm_gpu", "fault": "killed by signal 4 (SIGILL)"},
            "error",
            "importing fbgemm_gpu ended the process: killed by signal 4 (SIGILL)",
        ),
        ("cpu", {"avx2": False}, "error", "no AVX2"),
        ("gpus", GPU_MACHINE, "warning", "torch is a CPU build"),
        ("gpus", {"torch": TORCH_CUDA}, "note", "none, though torch is a CUDA build"),
        ("gpus", GPU_MACHINE | {"torch": TORCH_CUDA}, "warning", "finds no GPU though there is a driver"),
        ("gpus", GPU_MACHINE | {"torch": TORCH_GPU, "cuda_fbgemm": True}, "ok", "H100 80GB HBM3 with 85 GB"),
        ("gpus", GPU_MACHINE | {"torch": TORCH_GPU}, "error", "FBGEMM is the CPU build"),
        (
            "gpus",
            {"torch": TORCH_GPU | {"capabilities": ["7.0"]}, "cuda_fbgemm": True},
            "error",
            "no kernels for devices of capability 7.0",
        ),
        ("gpus", {"torch": None}, "note", "could not be asked"),
        ("backends", {"torch": TORCH_CPU | {"gloo": False}}, "error", "no gloo"),
        ("backends", {"torch": TORCH_GPU | {"nccl": False}}, "warning", "gloo alone"),
        ("threads", {"omp_num_threads": "many"}, "warning", "OMP_NUM_THREADS is 'many', expected a number"),
        ("threads", {"omp_num_threads": "16"}, "warning", "8 cores, and OMP_NUM_THREADS is 16"),
        ("threads", {"omp_num_threads": None, "quota": 1.5}, "warning", "the cgroup allows the time of 1.5"),
        (
            "memory",
            {"limit": 8 * GB, "usable": 8 * GB, "available": 7 * GB},
            "note",
            "the cgroup allows less",
        ),
        ("memory", {"available": GB}, "warning", "1 GB of it free: a rank takes 600 MB"),
        ("memory", {"available": GB // 2}, "error", "500 MB of it free"),
        ("shared_memory", {"total": 64 * 2**20, "free": 64 * 2**20}, "warning", "67.1 MB free of 67.1 MB"),
        ("shared_memory", {"total": None, "free": None}, "warning", "missing"),
        ("disk_runs", {"free": GB}, "warning", "1 GB free of 100 GB: a run may not fit"),
        ("disk_runs", {"free": 10**6}, "error", "1 MB free of 100 GB"),
        ("disk_runs", {"writable": False}, "error", "/mnt may not be written to"),
        ("disk_runs", {"free_files": 0}, "error", "no file more"),
        ("host_name", {"resolves": False}, "warning", "box-7, the name of this host, has no address"),
        ("host_name", {"loopback": False}, "error", "nothing reaches 127.0.0.1"),
        ("host_name", {"localhost_resolves": False}, "error", "localhost has no address"),
        ("clock", {"now": 0}, "warning", "1970-01-01 00:00 UTC, before this package was written"),
        ("clock", {"now": 1_789_000_000 + 21 * 365 * 86400}, "warning", "more than 20 years after"),
        ("open_files", {"soft": 1024}, "note", "1,024 files"),
        ("open_files", {"soft": 256, "hard": 256}, "warning", "256 files"),
        ("processes", {"soft": 100, "hard": 100}, "warning", "100 processes"),
        ("locked_memory", {"soft": 65_536}, "note", "65.5 kB may be locked"),
        ("core_dumps", {"soft": None}, "note", "as large as its memory"),
        ("terminal", {"stdout": "ascii"}, "note", "output is ascii"),
        ("kernels", {"importable": False}, "note", "not tried"),
        ("kernels", {"not_started": "ValueError: no"}, "error", "nothing could be tried: ValueError: no"),
        ("kernels", {"expected": 2}, "warning", "only 1 could be tried"),
        (
            "kernels",
            {"tried": {"cpu,table_wise,sgd": "killed by signal 11 (SIGSEGV)", "cpu,table_wise,adam": None}},
            "error",
            "1 do not. cpu table_wise sgd: killed by signal 11 (SIGSEGV)",
        ),
        ("ranks_gloo", {"there": None}, "note", "not tried"),
        ("ranks_gloo", {"faults": [None, "no answer within 90 s"]}, "error", "rank 1: no answer within 90 s"),
        (
            "ranks_gloo",
            {"answers": [ANSWER, ANSWER | {"wrong": ["all_reduce"]}]},
            "error",
            "2 ranks exchanged wrong values by all_reduce",
        ),
    ],
)
def test_a_fault_has_its_severity_and_words_and_what_to_do(
    check: str, changed: dict[str, Any], severity: str, words: str
) -> None:
    found = judged(check, **changed)
    assert found.severity == severity
    assert words in found.text
    if severity == "error":
        assert found.advice


def test_text_keeps_to_80_columns_and_ends_with_counts() -> None:
    found = [judged("host_name", resolves=False), judged("builds", **{"fbgemm-gpu": "1.9.0"}), judged("cpu")]
    lines = as_text(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:2] for line in lines if line.startswith(SEVERITIES)] == [
        ["warning", "host_name"],
        ["error", "builds"],
        ["ok", "cpu"],
    ]
    assert lines[-1] == "1 ok, 0 notes, 1 warning, 1 error"


def test_a_command_that_is_broken_into_lines_is_one_command_to_a_shell() -> None:
    words = [f"--option-{number}=value" for number in range(9)]
    found = Finding("cpu", "note", "slow", "Run", (" ".join(["printf '%s '", *words]),), {})
    command = as_text([found]).split("Run:\n")[1].split("\n\n")[0]
    assert command.count("\\\n") >= 2
    assert subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout.split() == words


@pytest.mark.parametrize("check", HEALTHY)
def test_programs_that_advice_names_are_there(check: str) -> None:
    facts = {"host_name": {"resolves": False}, "builds": {"fbgemm-gpu": "1.9.0"}, "disk_runs": {"free": 1}}
    for command in judged(check, **facts.get(check, {})).commands:
        program = re.sub(r"^(\w+=\S+ |sudo )*", "", command).split()[0]
        assert shutil.which(program), command


def test_folders_and_sizes_are_those_that_training_uses() -> None:
    assert storage.runs().folder == RUNS
    assert storage.cache_folder() == cache_folder(None)
    assert storage.BUFFERS == shared_memory.MOST_BYTES
    assert Path(shared_memory.FOLDER) == storage.SHARED_MEMORY
