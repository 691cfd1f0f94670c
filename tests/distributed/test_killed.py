"""Ranks that are killed at any moment: torchrun starts them again, and the training ends as ever."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[2]
RANKS = 3
TRAINING = (
    "--device cpu --data.name synthetic --data.cache cache --run.choose false --model.dim 16",
    "--batches.size 32",
    "--run.epochs 12 --run.save_every 4 --run.tensorboard false --optimizer.name adam --run.log_every 16",
)


def start(folder: Path, run: str) -> subprocess.Popen:
    """A training under torchrun, which starts its ranks again when one dies."""
    launch = (
        f"-m torch.distributed.run --standalone --nproc_per_node={RANKS} --max-restarts 6 -m trainer train"
    )
    return subprocess.Popen(
        [sys.executable, *f"{launch} {' '.join(TRAINING)} --run.dir {run}".split()],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(training: subprocess.Popen) -> str:
    try:
        output, _ = training.communicate(timeout=180)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
    assert training.returncode == 0, output[-3000:]
    return output


def kill_a_rank(training: subprocess.Popen, after: str, checkpoints: Path, generator: random.Random) -> None:
    """Wait for a checkpoint (`whole`) or for one that is being written (`partial`), then kill one rank."""
    before, deadline = set(checkpoints.glob("step-*")), time.monotonic() + 60
    while time.monotonic() < deadline and training.poll() is None:
        new = set(checkpoints.glob("step-*")) - before
        if any(folder.suffix == (".partial" if after == "partial" else "") for folder in new):
            break
        time.sleep(0.0005)
    time.sleep(generator.random() * 0.01)
    ranks = [child for child in psutil.Process(training.pid).children() if "trainer" in child.cmdline()]
    generator.choice(ranks).send_signal(signal.SIGKILL)


@pytest.mark.parametrize("moments", [("whole", "partial"), ("partial", "whole")])
def test_a_training_whose_ranks_are_killed_ends_as_one_that_was_left_alone(moments, tmp_path):
    alone = end(start(tmp_path, "alone"))
    assert "Going on" not in alone
    killed = start(tmp_path, "killed")
    generator = random.Random(str(moments))
    for moment in moments:
        kill_a_rank(killed, moment, tmp_path / "killed" / "checkpoints", generator)
    assert end(killed).count("Going on after step") >= 1
    one, other = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("alone", "killed"))
    assert other["model"] == one["model"]
    assert other["step"] == one["step"]
