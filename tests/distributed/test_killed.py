"""Ranks that are killed at any moment: the launcher starts them again, and the training ends as ever.

SHARDTOWER_KILLS=20 tries so many moments with 4 ranks, every other one inside a save; by default it is one,
inside a save, with 2 ranks.
"""

import os
import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests import worlds
from tests.distributed.launches import RANKS as LAUNCHER
from tests.distributed.launches import end, start
from trainer.runs.checkpoint import entries, read_entry
from trainer.runs.checkpoint_store import newest

pytestmark = pytest.mark.distributed

MOMENTS = int(os.environ.get("SHARDTOWER_KILLS", "1"))
RANKS = 4 if MOMENTS > 1 else 2
TRAINING = (
    "--data.name synthetic --run.choose false --run.tensorboard false --model.dim 16 --model.hidden 8 "
    "--batches.size 64 --optimizer.name adam --run.epochs 5 --run.save_every 4 --run.dir run"
)
STEPS, SAVES = 80, 19
"""Of a training: 1,000 users in steps of 64, five times; a checkpoint after each fourth step but the last."""


def begin(folder: Path) -> subprocess.Popen[str]:
    """A training whose ranks are started again when one dies."""
    return start(folder, TRAINING, launcher=(*LAUNCHER, "--max-restarts=3"), ranks=RANKS)


def finish(training: subprocess.Popen[str]) -> str:
    """What a training printed until it ended well."""
    output, errors = end(training, seconds=180)
    assert training.returncode == 0, errors[-3000:]
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
    assert "Going on" not in finish(begin(folder))
    return folder / "run"


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_training_with_a_killed_rank_ends_as_one_that_was_left_alone(moment, alone, tmp_path):
    run = tmp_path / "run"
    (tmp_path / "cache").symlink_to(alone.parent / "cache")
    training = begin(tmp_path)
    kill_a_rank(training, run, moment)
    output = finish(training)
    assert output.count("Run: run") == 2
    assert worlds.figures(run) == worlds.figures(alone)
    one, other = newest(alone), newest(run)
    assert one.step == other.step == STEPS
    assert entries(one.folder) == entries(other.folder)
    for key in entries(one.folder):
        assert torch.equal(read_entry(one.folder, key), read_entry(other.folder, key)), key
    assert not list((run / "checkpoints").glob("*.partial"))
