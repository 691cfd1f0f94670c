"""A small training that ends in the middle, and the rest of it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.distributed.small_training import Losses, source_of
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import assemble
from trainer.fitting.loop import evaluate_model, fit, protocol
from trainer.runs.checkpoint_store import newest
from trainer.runs.resume import resume
from trainer.sharding.model_state import whole_state

HALF = 4
"""Of 8 steps: 61 users in steps of 16, twice."""


def begin(world: World, config, folder: Path, run: Path) -> None:
    """Train until the step behind the checkpoint that half of the steps leave."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    batches, progress = source_of(config, dataset, parts), Stopping(HALF + 1)
    with suppress(EnoughError):
        fit(config, dataset, parts, batches, world, progress, run)


def end(world: World, config, folder: Path, run: Path | None) -> tuple[dict[str, Any], dict | None]:
    """Train from the checkpoint, or from the start, to the last step; local weights and metrics."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    saved = None
    if run is not None:
        saved = newest(run)
        resume(saved, config.optimizer.name, parts.model, parts.optimizer)
    progress: Any = Losses()
    fit(config, dataset, parts, source_of(config, dataset, parts), world, progress, saved=saved)
    evaluation = evaluate_model(parts, dataset, world, protocol(config, "test", baselines=()))
    weights = {
        key: [shard.tensor.clone() for shard in value.local_shards()]
        if hasattr(value, "local_shards")
        else [value.clone()]
        for key, value in whole_state(parts.model).items()
    }
    return weights, evaluation.rankers["model"] if evaluation else None


class EnoughError(Exception):
    """More than half of the steps are done."""


class Stopping(Losses):
    """Ends a training after so many records."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def record(self, step: int, text: str, **figures: float) -> None:
        if step == self.steps:
            raise EnoughError
