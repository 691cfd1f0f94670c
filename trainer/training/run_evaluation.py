"""`evaluate`: a finished run measured under any protocol, at any world size, perhaps against another run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.config.resolved import ResolvedConfig
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.distributed.world import World, join_world
from trainer.errors import ConfigError
from trainer.evaluation.bootstrap import paired_bootstrap
from trainer.evaluation.evaluator import Evaluation, Protocol
from trainer.runs.checkpoint import load
from trainer.runs.checkpoint_store import finished_step, newest
from trainer.runs.run_folder import check_same_data, evaluation_report, run_config
from trainer.runs.warm_start import prepare_with_kept
from trainer.training.components import assemble
from trainer.training.loop import measure, protocol
from trainer.training.messages import comparison_words, evaluation_words


def measure_run(
    run: Path,
    split: str | None = None,
    seen: str | None = None,
    ks: Sequence[int] | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    *,
    baselines: Sequence[str] | None = None,
    beyond: bool = False,
    compare: Path | None = None,
    as_json: bool = False,
) -> str | None:
    """Evaluation of a run's newest checkpoint as text or JSON; None on ranks other than the first.

    Args:
        run: run folder.
        split, seen, ks, device, baselines: as in the configuration; by default the run's own.
        beyond: measures beyond accuracy too.
        compare: folder of another run, measured by the same protocol on the same data.
        as_json: one JSON object instead of a table.
    Raises: CheckpointError for a folder that is no run; DataError if its data have gone or the part is empty;
        CheckpointError if they have changed; ConfigError if the other run's data or split differ.
    """
    config = run_config(run)
    given: dict[str, Any] = {
        "split": split,
        "seen": seen,
        "k": None if ks is None else list(ks),
        "baselines": None if baselines is None else list(baselines),
    }
    changed = {name: value for name, value in given.items() if value is not None}
    config = replace(config, evaluation=replace(config.evaluation, **changed), device=device or config.device)
    other = run_config(compare) if compare else None
    how = replace(protocol(config), beyond=beyond, per_user=other is not None, option_prefix="--")
    with join_world(config.device, config.backend, config.timeout) as world:
        opened = _open(run, config, world)
        against = _open(compare, other, world) if compare and other else None
        if against:
            world.on_first(lambda: _check_same(opened, against, how.split))
        evaluation = _measured(opened, world, how)
        second = _measured(against, world, replace(how, baselines=(), beyond=False)) if against else None
    if evaluation is None:
        return None
    report, words = (
        evaluation_report(run, opened.step, evaluation),
        evaluation_words(opened.dataset, evaluation, how.option_prefix),
    )
    if against and second:
        differences = paired_bootstrap(evaluation.per_user, second.per_user, seed=config.run.seed)
        metrics = {name: asdict(each) for name, each in differences.items()}
        report["compare"] = {"run": str(against.run), "step": against.step, **metrics}
        words += "\n" + comparison_words(evaluation, differences, against.run)
    return json.dumps(report) if as_json else words


@dataclass(frozen=True)
class _Opened:
    """A run whose data are the same as in its training."""

    run: Path
    config: ResolvedConfig
    checkpoint: Path
    step: int
    dataset: Dataset


def _open(run: Path, config: ResolvedConfig, world: World) -> _Opened:
    saved = newest(run, finished_step(run))
    dataset = open_dataset(world.on_each_host(lambda: prepare_with_kept(config, run), long=True))
    world.on_first(lambda: check_same_data(run, dataset))
    return _Opened(run, config, saved.folder, saved.step, dataset)


def _measured(opened: _Opened, world: World, how: Protocol) -> Evaluation | None:
    parts = assemble(opened.config, opened.dataset, world, filled=False)
    load(opened.checkpoint, parts.model)
    return measure(parts, opened.dataset, world, how)


def _check_same(opened: _Opened, other: _Opened, split: str) -> None:
    """Refuse runs of which users could not be paired: other ids, or others seen or held out."""
    one, two = opened.dataset, other.dataset
    same = one.user_ids.equals(two.user_ids) and one.item_ids.equals(two.item_ids)
    for each in (Dataset.seen, Dataset.held_out):
        first, second = each(one, split), each(two, split)
        same = same and np.array_equal(first.offsets, second.offsets)
        same = same and np.array_equal(first.values, second.values)
    if not same:
        raise ConfigError(
            f"--compare {other.run}: its data or its {split} part differ from those of {opened.run}, "
            "expected the same, so that users can be paired. Name a run on the same data and split"
        )
