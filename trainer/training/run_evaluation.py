"""Evaluation of a trained run under any protocol, at any world size, optionally against another run."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import EvaluationConfig
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.distributed.world import World, join_world
from trainer.errors import ConfigError, DataError
from trainer.evaluation.bootstrap import paired_bootstrap
from trainer.evaluation.evaluator import Evaluation, Protocol
from trainer.fitting.components import assemble
from trainer.fitting.loop import evaluate_model, protocol
from trainer.reporting.evaluation_text import comparison_text, evaluation_text
from trainer.runs.checkpoint import load
from trainer.runs.checkpoint_store import finished_step, newest
from trainer.runs.run_folder import check_same_data, evaluation_report, run_config
from trainer.shares.prepare import prepare_shares
from trainer.shares.run_shares import shares_of_run
from trainer.warm_start.origin import prepare_with_retained


def evaluate(
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
    options: Sequence[str] = (),
) -> str | None:
    """Evaluate a run's newest checkpoint.

    Args:
        run: Run folder.
        split: `test` or `validation`; here and below, the run's own setting by default.
        seen: `mask` or `keep`.
        ks: Lengths of ranked lists.
        device: Device of every rank.
        baselines: Baselines to evaluate next to the model.
        beyond: Whether to add metrics beyond accuracy.
        compare: Folder of another run, evaluated by the same protocol on the same data.
        as_json: Whether to return one JSON object instead of tables.
        options: Further options, as on the command line, such as `--data.interactions FILE` for data that
            have moved; see `trainer.config.resume.EVALUATED_WITH`.

    Returns:
        Text or JSON; None on ranks other than the first.

    Raises:
        CheckpointError: A folder is not a run folder, or its data have changed.
        DataError: The data are gone, or the split is empty.
        ConfigError: The other run's data or split differ.
    """
    config = run_config(run, options)
    given: dict[str, Any] = {
        "split": split,
        "seen": seen,
        "k": None if ks is None else list(ks),
        "baselines": None if baselines is None else list(baselines),
    }
    changed = {name: value for name, value in given.items() if value is not None}
    config = replace(config, evaluation=replace(config.evaluation, **changed), device=device or config.device)
    other = run_config(compare, options) if compare else None
    for folder, its in ((run, config), (compare, other)):
        if folder and its:
            _check_measurable(folder, its)
    how = replace(protocol(config), beyond=beyond, per_user=other is not None, option_prefix="--")
    with join_world(config.device, config.backend, config.timeout) as world:
        opened = _open(run, config, world)
        against = _open(compare, other, world) if compare and other else None
        if against:
            world.on_first(lambda: _check_same(opened, against, how.split))
        evaluation = _evaluate(opened, world, how)
        second = _evaluate(against, world, replace(how, baselines=(), beyond=False)) if against else None
    if evaluation is None:
        return None
    report, text = (
        evaluation_report(run, opened.step, evaluation),
        evaluation_text(opened.dataset, evaluation, how.option_prefix),
    )
    if against and second:
        differences = paired_bootstrap(evaluation.per_user, second.per_user, seed=config.run.seed)
        metrics = {name: asdict(each) for name, each in differences.items()}
        report["compare"] = {"run": str(against.run), "step": against.step, **metrics}
        text += "\n" + comparison_text(evaluation, differences, against.run)
    return json.dumps(report) if as_json else text


def evaluate_by_user(
    run: Path, evaluation: EvaluationConfig | None = None, options: Sequence[str] = ()
) -> tuple[Dataset, Evaluation]:
    """Evaluate a run's newest checkpoint in this process, with all that is known of every user.

    Args:
        run: Run folder.
        evaluation: Protocol; None: the run's own.
        options: As those of `evaluate`.

    Returns:
        Its data, and an evaluation with metrics by user and beyond accuracy.

    Raises:
        CheckpointError, ConfigError, DataError: As `evaluate`.
    """
    config = run_config(run, options)
    config = replace(config, evaluation=evaluation or config.evaluation, device="auto", backend="auto")
    _check_measurable(run, config)
    how = replace(protocol(config), beyond=True, per_user=True, option_prefix="--")
    with join_world(config.device, config.backend, config.timeout) as world:
        opened = _open(run, config, world)
        found = _evaluate(opened, world, how)
    if found is None:
        raise ConfigError(f"{run}: is evaluated in one process. Start this command without torchrun")
    return opened.dataset, found


def _check_measurable(run: Path, config: ResolvedConfig) -> None:
    """Refuse a run without a test split, and a protocol by which its test split cannot be found.

    Raises:
        ConfigError: The run holds nothing out, or repeats are to be found and are masked.
    """
    if config.data.split == "none":
        raise ConfigError(
            f"{run}: has no test part, as it was trained on every interaction (--data.split none). Evaluate "
            "the run that its settings were measured with, or train one with --data.split random or temporal"
        )
    if config.data.repeats == "keep" and config.evaluation.seen == "mask":
        raise ConfigError(
            f"--seen mask: the test part of {run} holds what users had before (--data.repeats keep), which "
            "cannot be found while it is masked. Use --seen keep"
        )


@dataclass(frozen=True)
class _Opened:
    """A run and its data, which are the same as in its training."""

    run: Path
    config: ResolvedConfig
    checkpoint: Path
    step: int
    dataset: Dataset


def _open(run: Path, config: ResolvedConfig, world: World) -> _Opened:
    saved = newest(run, finished_step(run))
    if config.data.share == "users":
        dataset = open_dataset(prepare_shares(config.data, world, shares_of_run(run)))
    else:
        dataset = open_dataset(world.on_each_host(lambda: _prepared(run, config), long=True))
    world.on_first(lambda: check_same_data(run, dataset), long=True)
    return _Opened(run, config, saved.folder, saved.step, dataset)


def _prepared(run: Path, config: ResolvedConfig) -> Path:
    """Return the folder of a run's prepared data.

    Raises:
        DataError: They cannot be prepared; only the fault is repeated, as the remedies of a preparation are
            options that no evaluation takes.
    """
    try:
        return prepare_with_retained(config, run)
    except DataError as error:
        fault = re.split(r"\. (?=[A-Z])", str(error), maxsplit=1)[0]
        where = "--data.interactions FILE and the like" if config.data.name == "files" else "--data.root DIR"
        raise DataError(
            f"{run}: its data cannot be prepared as for its training ({fault}). Bring them back as they "
            f"were, or say where they are: {where}"
        ) from error


def _evaluate(opened: _Opened, world: World, how: Protocol) -> Evaluation | None:
    components = assemble(opened.config, opened.dataset, world, filled=False)
    load(opened.checkpoint, components.model)
    return evaluate_model(components, opened.dataset, world, how)


def same_users(one: Dataset, two: Dataset, split: str) -> bool:
    """Return whether users can be paired: ids, seen items and held-out items are the same."""
    same = one.user_ids.equals(two.user_ids) and one.item_ids.equals(two.item_ids)
    for each in (Dataset.seen, Dataset.held_out):
        first, second = each(one, split), each(two, split)
        same = same and np.array_equal(first.offsets, second.offsets)
        same = same and np.array_equal(first.values, second.values)
    return same


def _check_same(opened: _Opened, other: _Opened, split: str) -> None:
    """Refuse runs whose users cannot be paired."""
    if not same_users(opened.dataset, other.dataset, split):
        raise ConfigError(
            f"--compare {other.run}: its data or its {split} part differ from those of {opened.run}, "
            "expected the same, so that users can be paired. Name a run on the same data and split"
        )
