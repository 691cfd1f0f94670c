"""Python and the packages: which are there, whether they belong together and whether they can be imported."""

import os
import platform
import shlex
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import trainer
from trainer.doctor.findings import Facts, Verdict
from trainer.doctor.processes import Trial
from trainer.installation import CPU_BUILD, CUDA_BUILD, OLDEST, PAIRS

IMPORT_SECONDS = 120
"""How long one library may take to be imported; on a network file system it may be a minute."""
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
NAMES = ("torch", "torchrec", CPU_BUILD, CUDA_BUILD, *OLDEST)
STAMP = ".venv/shardtower.stamp"
SET_UP = "Set up the pinned packages anew"


def pip(*words: str) -> str:
    """Return a command of the pip that belongs to this Python."""
    return shlex.join([sys.executable, "-m", "pip", *words])


def set_up(build: str = "") -> tuple[str, ...]:
    """Return the commands that set up the pinned packages; none where this is no checkout.

    Args:
        build: `cpu` or `cuda`; empty: as the machine has it.
    """
    root = Path(trainer.__file__).parents[1]
    if not (root / "launch/setup.sh").is_file():
        return ()
    below = os.path.relpath(root)
    folder = "" if below == "." else f"{shlex.quote(below)}/"
    # A finished set-up leaves a stamp, and does nothing again as long as it says so.
    again = Path(sys.prefix).resolve() == (root / ".venv").resolve() and (root / STAMP).is_file()
    before = f"SHARDTOWER_BUILD={build} " if build else ""
    return (
        *([f"truncate -s 0 {folder}{STAMP}"] if again else []),
        f"{before}bash {folder}launch/setup.sh",
        f"source {folder}.venv/bin/activate",
    )


def look_python() -> Facts:
    """Return version, kind and place of this Python."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "executable": sys.executable,
        "machine": platform.machine(),
        "system": platform.system(),
    }


def judge_python(facts: Facts) -> Verdict:
    """Judge the interpreter and the system that it runs on."""
    found = tuple(int(part) for part in facts["version"].split(".")[:2])
    text = f"{facts['implementation']} {facts['version']} for {facts['machine']}, {facts['executable']}"
    advice = "Make the environment with another interpreter; PYTHON names it"
    if facts["system"] != "Linux":
        return Verdict("error", f"{facts['system']}: FBGEMM has wheels for Linux only", "Use a container")
    if found < OLDEST_PYTHON or facts["implementation"] != "CPython" or facts["bits"] != 64:
        return Verdict("error", f"{text}; needed is CPython 3.11 or newer, 64 bits", advice, set_up())
    if found > NEWEST_PYTHON:
        return Verdict("note", f"{text}; nothing newer than 3.14 was tried")
    return Verdict("ok", text)


def look_packages() -> Facts:
    """Return the installed versions by distribution; None: not installed."""
    found: Facts = {}
    for name in NAMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def judge_packages(facts: Facts) -> Verdict:
    """Judge whether torch, torchrec and FBGEMM are there, and belong together."""
    torch, torchrec = facts["torch"], facts["torchrec"]
    text = ", ".join(f"{name} {facts[name]}" for name in NAMES[:4] if facts[name]) or "nothing"
    if not torch and not torchrec:
        return Verdict(
            "warning",
            "neither torch nor torchrec is installed: exports can be opened, but nothing can be trained",
            "To train, set up the pinned packages, in a checkout with launch/setup.sh",
            set_up(),
        )
    missing = [name for name in ("torch", "torchrec") if not facts[name]]
    missing += [] if facts[CPU_BUILD] or facts[CUDA_BUILD] else [f"{CPU_BUILD} (or {CUDA_BUILD})"]
    paired = PAIRS.get(minor(torch or ""))
    if missing:
        words = f"not installed: {', '.join(missing)}; installed: {text}"
        return Verdict("error", words, "Install what is missing", matching(facts, paired))
    if paired is None:
        sets = ", ".join(f"{one} with {other}" for one, other in PAIRS.items())
        return Verdict(
            "warning",
            f"{text}: this torch was not tried. Known to work are {sets} of torchrec and FBGEMM",
            "If training does not start, set up the pinned packages",
            set_up(),
        )
    others = [name for name in NAMES[1:4] if facts[name] and minor(facts[name]) != paired]
    if others:
        found = ", ".join(f"{name} {facts[name]}" for name in others)
        words = f"torch {torch} needs {paired} of torchrec and FBGEMM; installed: {found}"
        return Verdict("error", words, "Install those that belong to it", matching(facts, paired))
    old = [name for name, least in OLDEST.items() if too_old(facts[name], least)]
    if old:
        words = ", ".join(f"{name} {facts[name] or 'is missing'}" for name in old)
        wanted = [f"{name}>={OLDEST[name]}" for name in old]
        return Verdict("error", f"{words}: too old", "Install newer ones", (pip("install", *wanted),))
    return Verdict("ok", f"{text}: versions that belong together")


def judge_builds(facts: Facts) -> Verdict:
    """Judge which builds of FBGEMM are there: both install the same files, and the later one wins."""
    cpu, cuda, torch = facts[CPU_BUILD], facts[CUDA_BUILD], facts["torch"] or ""
    paired = PAIRS.get(minor(torch))
    if cpu and cuda:
        return Verdict(
            "error",
            f"{CUDA_BUILD} {cuda} (CUDA) and {CPU_BUILD} {cpu} are installed over each other, as pip does "
            "when it installs torchrec with its dependencies",
            "Take both away, and install the one that suits torch",
            (pip("uninstall", "-y", CUDA_BUILD, CPU_BUILD), *matching(facts, paired)),
        )
    if cuda and torch.endswith("+cpu"):
        return Verdict(
            "error",
            f"{CUDA_BUILD} {cuda} needs CUDA, and torch {torch} has none",
            "Install the CPU build of FBGEMM in its place",
            (pip("uninstall", "-y", CUDA_BUILD), *matching(facts, paired)),
        )
    if not cpu and not cuda:
        return Verdict("note", "no build of FBGEMM is installed")
    name, build = (CUDA_BUILD, "CUDA") if cuda else (CPU_BUILD, "CPU")
    return Verdict("ok", f"one build of FBGEMM, for {build}: {name} {facts[name]}")


def matching(facts: Facts, paired: str | None) -> tuple[str, ...]:
    """Return the command that installs torchrec and FBGEMM as they belong to the installed torch."""
    if not facts["torch"] or paired is None:
        return set_up()
    on_cuda = facts[CUDA_BUILD] and not facts[CPU_BUILD] and not facts["torch"].endswith("+cpu")
    wanted = [f"torchrec=={paired}.*", f"{CUDA_BUILD if on_cuda else CPU_BUILD}=={paired}.*"]
    # Without dependencies: torchrec asks for the CUDA build on every machine.
    return (pip("install", "--no-deps", *wanted),)


def minor(number: str) -> str:
    """Return the minor version: `2.13` of `2.13.0+cpu`."""
    return ".".join(number.split(".")[:2])


def too_old(number: str | None, least: int) -> bool:
    """Return whether a version is missing or its major number is below `least`."""
    return number is None or int(number.split(".")[0]) < least


@cache
def look_imports() -> Facts:
    """Return what a process finds that imports the libraries one after another; see `probe`."""
    found: Facts = {"libraries": {}, "torch": None, "crashed": None, "fault": None}
    importing = None
    with Trial("trainer.doctor.probe") as trial:
        for line in trial.lines(IMPORT_SECONDS):
            importing = line.get("importing")
            if "name" in line:
                found["libraries"][line.pop("name")] = line
            elif "torch" in line:
                found["torch"] = line["torch"]
        if fault := trial.fault():
            found |= {"crashed": importing, "fault": fault}
    return found


def judge_imports(facts: Facts) -> Verdict:
    """Judge whether the libraries can be imported."""
    libraries = facts["libraries"]
    if facts["fault"]:
        words = f"importing {facts['crashed'] or 'a library'} ended the process: {facts['fault']}"
        return Verdict("error", words, f"{SET_UP}; the build does not suit this machine", set_up())
    failing = {name: about for name, about in libraries.items() if about["state"] != "imported"}
    if not failing:
        return Verdict(
            "ok", f"{', '.join(list(libraries)[:-1])} can be imported, with all that is used of them"
        )
    missing = {name for name, about in failing.items() if about["state"] == "missing"}
    if {"torch", "torchrec"} <= missing and not missing & set(OLDEST):
        return Verdict("warning", f"cannot be imported, as not installed: {', '.join(sorted(missing))}")
    name, about = next(iter(failing.items()))
    others = ", ".join(list(failing)[1:]).replace("trainer.sharding.private_api", "sharding")
    words = f"{name} cannot be imported: {about['error']}"
    words += f". Nor can {others}, for this or another cause" if others else ""
    if about["shadow"]:
        advice = f"{about['shadow']} hides the installed {name}: move it away, or take it from PYTHONPATH"
        return Verdict("error", words, advice)
    return Verdict("error", words, SET_UP, set_up())
