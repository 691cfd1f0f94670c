"""Trainings under a launcher, in processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN, RANKS = ("-m", "torch.distributed.run"), (str(ROOT / "launch" / "ranks.py"),)


def start(
    folder: Path,
    options: str,
    program: str = "-m trainer",
    launcher: Sequence[str] = TORCHRUN,
    ranks: int = 2,
) -> subprocess.Popen[str]:
    """A training that works in `folder`, in a process group of its own.

    Args:
        options: of the training.
        program: what each rank runs.
        launcher: `TORCHRUN`, or `RANKS` with options of its own.
    """
    launch = [sys.executable, *launcher, "--standalone", f"--nproc_per_node={ranks}", *program.split()]
    return subprocess.Popen(
        [*launch, "train", "--device", "cpu", "--data.cache", "cache", *options.split()],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(training: subprocess.Popen[str], seconds: float = 60) -> tuple[str, str]:
    """What a training wrote until it ended by itself; one that does not end is an error and is killed."""
    try:
        return training.communicate(timeout=seconds)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
