"""Trainings under a launcher, in processes of their own."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN, RANKS = ("-m", "torch.distributed.run"), (str(ROOT / "launch" / "ranks.py"),)
STANDALONE = ("--standalone",)


def start(
    folder: Path,
    options: str | Sequence[str],
    program: str = "-m trainer",
    launcher: Sequence[str] = TORCHRUN,
    ranks: int = 2,
    meeting: Sequence[str] = STANDALONE,
    before: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """A training that works in `folder`, in a process group of its own.

    Args:
        options: of the training, with spaces between them or in a list.
        program: what each rank runs.
        launcher: `TORCHRUN`, or `RANKS` with options of its own.
        meeting: options of the launcher that say where the ranks meet.
        before: words of the command that stand before the launcher.
    """
    launch = [*before, sys.executable, *launcher, *meeting, f"--nproc_per_node={ranks}", *program.split()]
    options = options.split() if isinstance(options, str) else options
    return subprocess.Popen(
        [*launch, "train", "--device", "cpu", "--data.cache", "cache", *options],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def environment() -> dict[str, str]:
    """What processes of a launch find in their environment."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def static_meeting() -> tuple[str, ...]:
    """Options of torchrun for a static rendezvous at a free port, which it calls "none"."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return "--nnodes=1", "--rdzv-backend=static", f"--master-port={free.getsockname()[1]}"


def end(training: subprocess.Popen[str], seconds: float = 60) -> tuple[str, str]:
    """What a training wrote until it ended by itself; one that does not end is an error and is killed."""
    try:
        return training.communicate(timeout=seconds)
    finally:
        kill_all(training)


def kill_all(training: subprocess.Popen[str]) -> None:
    """Kill what is left of a training; torchrun gives each rank a process group of its own."""
    if training.poll() is None:
        launcher = psutil.Process(training.pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        training.communicate()


def process_of(training: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The process of a rank."""
    children = psutil.Process(training.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(rank))
