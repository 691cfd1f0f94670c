"""`evaluate`: a finished run measured under any protocol, at any world size."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.data.dataset import Dataset, open_dataset, open_vocabulary
from trainer.data.prepare import prepare_data
from trainer.errors import CheckpointError
from trainer.parallel.world import join_world
from trainer.training.assembly import assemble
from trainer.training.checkpoint import load, newest
from trainer.training.runs import evaluation_report, run_config
from trainer.training.train import measure, protocol
from trainer.training.words import evaluation_words


def measure_run(
    run: Path,
    split: str | None = None,
    seen: str | None = None,
    ks: Sequence[int] | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    as_json: bool = False,
) -> str | None:
    """Evaluation of a run's newest checkpoint as text or JSON; None on ranks other than the first.

    Args:
        run: run folder.
        split, seen, ks, device: as in the configuration; by default the run's own.
        as_json: one JSON object instead of a table.
    Raises: CheckpointError for a folder that is no run; DataError if its data have gone or the part is empty;
        CheckpointError if they have changed.
    """
    config = run_config(run)
    checkpoint, step = newest(run)
    given: dict[str, Any] = {"split": split, "seen": seen, "k": list(ks) if ks else None}
    changed = {name: value for name, value in given.items() if value is not None}
    config = replace(config, evaluation=replace(config.evaluation, **changed), device=device or config.device)
    with join_world(config.device, config.backend) as world:
        dataset = open_dataset(world.on_each_host(lambda: prepare_data(config.data)))
        world.on_first(lambda: _check_data(run, dataset))
        parts = assemble(config, dataset, world)
        load(checkpoint, parts.model)
        evaluation = measure(parts, dataset, world, protocol(config))
    if evaluation is None:
        return None
    if as_json:
        return json.dumps(evaluation_report(run, step, evaluation))
    return evaluation_words(dataset, evaluation)


def _check_data(run: Path, dataset: Dataset) -> None:
    """Refuse data whose rows mean others than in the training, or of which more was known then."""
    then, now = open_vocabulary(run), dataset.known("test")
    same = (
        then.user_ids.equals(dataset.user_ids)
        and then.item_ids.equals(dataset.item_ids)
        and np.array_equal(then.known.offsets, now.offsets)
        and np.array_equal(then.known.values, now.values)
    )
    if not same:
        raise CheckpointError(f"{run}: its data have changed since the training. Train anew")
