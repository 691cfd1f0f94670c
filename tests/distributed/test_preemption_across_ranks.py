"""A signal that one rank alone receives: all ranks stop after the same step, and resume from there."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, configured, small_dataset, source_of
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit
from trainer.runs.checkpoint_store import newest_resumable

pytestmark = pytest.mark.distributed

SIGNALLED = 3


class Signalled(Losses):
    """Sends this process a signal after `SIGNALLED` steps."""

    def advance(self) -> None:
        self.losses.append(0.0)
        if len(self.losses) == SIGNALLED:
            signal.raise_signal(signal.SIGTERM)


def train(world: World, config: Any, folder: Path, run: Path, receiver: int) -> int | None:
    """Train; rank `receiver` alone is sent a signal."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    progress: Any = Signalled() if world.rank == receiver else Losses()
    history, _ = fit(config, dataset, parts, source_of(config, dataset, parts), world, progress, run)
    return history.paused_at


@pytest.mark.parametrize(("size", "receiver"), [(2, 0), (3, 2)])
def test_all_ranks_pause_after_the_same_step(size, receiver, tmp_path):
    folder = small_dataset(tmp_path)
    config = configured("--run.log_every 100")
    paused = run_on_ranks(size, train, config, folder, tmp_path / "run", receiver)
    # The others are told beside the next step.
    assert paused == [SIGNALLED + 1] * size
    saved = newest_resumable(tmp_path / "run")
    assert saved is not None
    assert saved.step == SIGNALLED + 1
    assert json.loads((saved.folder / "state.json").read_text())["resumable"]
