"""Ranks that are killed at any moment: the launcher starts them again, and the training ends as ever.

SHARDTOWER_KILLS=20 tries so many moments with 4 ranks, every other one inside a save; by default it is one,
inside a save, with 2 ranks.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests import worlds
from trainer.training.checkpoint import entries, newest, read_entry

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = int(os.environ.get("SHARDTOWER_KILLS", "1"))
RANKS = 4 if MOMENTS > 1 else 2
TRAINING = (
    "--device cpu --data.name synthetic --data.cache cache --run.choose false --run.tensorboard false",
    "--model.dim 16 --model.hidden 8 --batches.size 64 --optimizer.name adam",
    "--run.epochs 5 --run.save_every 4",
)
STEPS, SAVES = 80, 19
"""Of a training: 1,000 users in steps of 64, five times; a checkpoint after each fourth step but the last."""


def start(folder: Path, run: str) -> subprocess.Popen[str]:
    """A training whose ranks are started again when one dies."""
    launch = f"{ROOT}/launch/ranks.py --standalone --nproc_per_node={RANKS} --max-restarts 3 -m trainer train"
    return subprocess.Popen(
        [sys.executable, *f"{launch} {' '.join(TRAINING)} --run.dir {run}".split()],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(training: subprocess.Popen[str]) -> str:
    """What a training wrote until it ended well."""
    try:
        output, _ = training.communicate(timeout=180)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
    assert training.returncode == 0, output[-3000:]
    return output


def kill_a_rank(training: subprocess.Popen[str], run: Path, moment: int) -> None:
    """Kill one rank at a random moment: inside a save where `moment` is even, and otherwise between two."""
    generator, inside = random.Random(moment), moment % 2 == 0
    awaited = f"step-{4 * generator.randint(1, SAVES):09d}" + (".partial" if inside else "")
    while not (run / "checkpoints" / awaited).exists():
        assert training.poll() is None, "the training ended before its rank was killed"
        time.sleep(0.0002)
    time.sleep(generator.uniform(0, 0.02 if inside else 0.1))
    ranks = sorted(psutil.Process(training.pid).children(), key=lambda rank: rank.pid)
    assert len(ranks) == RANKS
    ranks[generator.randrange(RANKS)].kill()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that nothing disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    assert "Going on" not in end(start(folder, "run"))
    return folder / "run"


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_training_with_a_killed_rank_ends_as_one_that_was_left_alone(moment, alone, tmp_path):
    run = tmp_path / "run"
    (tmp_path / "cache").symlink_to(alone.parent / "cache")
    training = start(tmp_path, "run")
    kill_a_rank(training, run, moment)
    output = end(training)
    assert output.count("Run: run") == 2
    assert worlds.figures(run) == worlds.figures(alone)
    one, other = newest(alone), newest(run)
    assert one.step == other.step == STEPS
    assert entries(one.folder) == entries(other.folder)
    for key in entries(one.folder):
        assert torch.equal(read_entry(one.folder, key), read_entry(other.folder, key)), key
    assert not list((run / "checkpoints").glob("*.partial"))
