"""Processor, threads, memory and GPUs."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from trainer.distributed import host_limits
from trainer.doctor.findings import Facts, Verdict
from trainer.doctor.software import look_imports, look_packages, set_up
from trainer.formatting import format_bytes, format_count
from trainer.installation import CPU_BUILD, CUDA_BUILD

RANK_BYTES = 6 * 10**8
"""Memory of a rank before it holds a table, most of it the libraries."""
DRIVER = Path("/proc/driver/nvidia/version")


def look_cpu() -> Facts:
    """Return the instruction sets that FBGEMM chooses its kernels by."""
    flags: set[str] = set()
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
        if name.strip() == "model name":
            model = value.strip()
    return {
        "machine": platform.machine(),
        "model": model,
        "avx2": {"avx2", "fma"} <= flags,
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags,
    }


def judge_cpu(facts: Facts) -> Verdict:
    """Judge the instruction sets."""
    name = facts["model"] or facts["machine"]
    if facts["machine"] != "x86_64":
        return Verdict("ok", f"{name}: FBGEMM's kernels for {facts['machine']}")
    if not facts["avx2"]:
        return Verdict(
            "error",
            f"{name} has no AVX2 and FMA, which FBGEMM needs on x86_64",
            "Use another machine; in a virtual one, pass the host's processor on (QEMU: -cpu host)",
        )
    return Verdict("ok", f"{name}: AVX2, {'and' if facts['avx512'] else 'no'} AVX-512")


def look_threads() -> Facts:
    """Return cores, the limit on their time, and the threads that a rank would start."""
    return {
        "cores": host_limits.cores(),
        "cores_of_machine": os.cpu_count(),
        "quota": host_limits.cpu_quota(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def judge_threads(facts: Facts) -> Verdict:
    """Judge whether the threads of a rank have cores to run on."""
    cores, quota, given = facts["cores"], facts["quota"], facts["omp_num_threads"]
    most = cores if quota is None else max(int(quota), 1)
    text = format_count(cores, "core")
    text += f" of {facts['cores_of_machine']}" if facts["cores_of_machine"] not in (None, cores) else ""
    command = (f"export OMP_NUM_THREADS={most}",)
    advice = f"Share {format_count(most, 'core')} among the ranks of this host; with one rank"
    if given is not None and not (given.split(",")[0].isdecimal() and int(given.split(",")[0]) > 0):
        return Verdict("warning", f"{text}; OMP_NUM_THREADS is '{given}', expected a number", advice, command)
    threads = int(given.split(",")[0]) if given else None
    if quota is not None and quota < cores and (threads is None or threads > most):
        words = (
            f"{text}, of which the cgroup allows the time of {quota:g}: threads beyond that wait for others"
        )
        return Verdict("warning", words, advice, command)
    if threads is not None and threads > cores:
        return Verdict("warning", f"{text}, and OMP_NUM_THREADS is {threads}", advice, command)
    if threads is None:
        return Verdict("ok", f"{text}; OMP_NUM_THREADS is not set: launch/ranks.py gives each rank its share")
    return Verdict("ok", f"{text}; OMP_NUM_THREADS is {threads}, for each rank")


def look_memory() -> Facts:
    """Return memory of the machine, its limit for this process, and what is free."""
    found = host_limits.memory()
    return {
        "host": found.host,
        "limit": found.limit if found.is_limited else None,
        "usable": found.usable,
        "available": host_limits.available_memory(),
    }


def judge_memory(facts: Facts) -> Verdict:
    """Judge whether ranks fit."""
    usable, available = facts["usable"], facts["available"]
    text = f"{format_bytes(usable)}, {format_bytes(available)} of it free"
    if facts["limit"] is not None:
        text += f"; the machine has {format_bytes(facts['host'])}, the cgroup allows less"
    ranks = available // RANK_BYTES
    need = f"a rank takes {format_bytes(RANK_BYTES)} before any table"
    if ranks < 1:
        return Verdict("error", f"{text}: {need}", "End other programs, or raise the limit of the container")
    if ranks < 4:
        advice = f"Start at most {format_count(ranks, 'rank')}, or raise the limit of the container"
        return Verdict("warning", f"{text}: {need}", advice)
    if facts["limit"] is not None:
        return Verdict("note", f"{text}. Plans keep within that")
    return Verdict("ok", text)


def look_gpus() -> Facts:
    """Return the driver, what torch makes of it, and the build of FBGEMM."""
    torch, packages = look_imports()["torch"], look_packages()
    driver = DRIVER.read_text().splitlines()[0].strip() if DRIVER.is_file() else None
    return {
        "driver": driver,
        "nvidia_smi": _nvidia_smi(),
        "torch": torch,
        "cuda_fbgemm": packages[CUDA_BUILD] is not None or packages[CPU_BUILD] is None,
    }


def _nvidia_smi() -> list[str] | None:
    """Return the GPUs that the driver lists; None where it does not answer."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None


def judge_gpus(facts: Facts) -> Verdict:
    """Judge whether the GPUs that are there can be used."""
    torch, listed = facts["torch"], facts["nvidia_smi"]
    there = bool(listed) or facts["driver"] is not None
    if torch is None or "error" in torch:
        found = "an NVIDIA driver answers" if there else "no NVIDIA driver"
        why = f" ({torch['error']})" if torch else ""
        return Verdict("note", f"{found}; torch, which would use GPUs, could not be asked{why}")
    if not torch["cuda"]:
        if not there:
            return Verdict("ok", "none, and torch is a CPU build: training runs on the CPU")
        words = "an NVIDIA driver answers, but torch is a CPU build: training runs on the CPU"
        return Verdict("warning", words, "Set up the CUDA build", set_up("cuda"))
    if not torch["available"]:
        if not there:
            return Verdict("note", "none, though torch is a CUDA build: training runs on the CPU")
        return Verdict(
            "warning",
            f"torch, built for CUDA {torch['cuda']}, finds no GPU though there is a driver "
            f"({facts['driver'] or 'of unknown version'}): training runs on the CPU",
            "See that CUDA_VISIBLE_DEVICES is not empty and the driver new enough; a container needs its "
            "GPUs passed on (docker run --gpus all)",
            ("nvidia-smi",),
        )
    text = ", ".join(
        f"{name} with {format_bytes(size)}"
        for name, size in zip(torch["gpus"], torch["gpu_bytes"], strict=True)
    )
    if not facts["cuda_fbgemm"]:
        words = f"{text}; FBGEMM is the CPU build, so that no table can be trained there"
        return Verdict("error", words, "Set up the CUDA build, or train with --device cpu", set_up("cuda"))
    old = [each for each in torch["capabilities"] if not _has_kernels(each, torch["built_for"])]
    if old:
        words = f"{text}: this torch has no kernels for devices of capability {old[0]}"
        return Verdict("error", words, "Train with --device cpu, or set up another torch")
    return Verdict("ok", f"{text}; CUDA {torch['cuda']}")


def _has_kernels(capability: str, built_for: list[str]) -> bool:
    """Return whether one of the builds (`sm_90`) runs on a device: of its major version, and no newer."""
    major, number = capability.split(".")[0], capability.replace(".", "")
    numbers = [each.split("_")[1].rstrip("af") for each in built_for if each.startswith("sm_")]
    return any(each[:-1] == major and int(each) <= int(number) for each in numbers) or not numbers


def look_backends() -> Facts:
    """Return what torch says of its collectives."""
    return {"torch": look_imports()["torch"]}


def judge_backends(facts: Facts) -> Verdict:
    """Judge whether ranks can reach each other from where their tables are."""
    torch = facts["torch"]
    if torch is None or "error" in torch:
        return Verdict("note", "not known, as torch could not be asked")
    there = ", ".join(name for name in ("gloo", "nccl") if torch[name])
    if not torch["gloo"]:
        return Verdict(
            "error", f"torch has no gloo ({there or 'nothing'})", "Set up the pinned packages", set_up()
        )
    if torch["available"] and not torch["nccl"]:
        words = f"{there} alone: GPUs exchange through the CPU, which is slow"
        return Verdict("warning", words, "Set up the CUDA build", set_up("cuda"))
    return Verdict("ok", there)
