"""Train, measure and keep a run, from its configuration to its report."""

import json
import time
from pathlib import Path

import numpy as np

from trainer.atomic_write import write_text
from trainer.config.effects import check_decided_effects
from trainer.config.parser import changes
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.config.size_defaults import with_size_defaults
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.distributed.precision import check_precision
from trainer.distributed.world import World, join_world
from trainer.evaluation.baselines import check_item_limits
from trainer.evaluation.evaluator import Evaluation
from trainer.planning.constraints import check_sharding
from trainer.planning.layout import follow_plan
from trainer.runs.checkpoint_policy import keep_outcome
from trainer.runs.checkpoint_store import METRICS, last_to_go_on_from
from trainer.runs.resume import check_resumable, resume
from trainer.runs.run_folder import (
    GROWTH,
    check_same_data,
    describe_run,
    drop_later_records,
    evaluation_report,
    growth_report,
    owned,
    refuse_finished_run,
    run_folder,
)
from trainer.runs.warm_start import WarmStart, open_origin, prepare_with_kept, take_over
from trainer.training.components import TrainingComponents, assemble, check_followed_plan, make_batches
from trainer.training.loop import fit, measure, protocol
from trainer.training.messages import (
    choice_words,
    closing_words,
    growth_words,
    opening_words,
    paused_words,
    size_words,
)
from trainer.training.progress import Progress
from trainer.training.tuning import Choice, choose


def train(config: Config) -> Path | None:
    """Train, measure on the held-out part, and leave a run folder; its path on rank 0.

    Returns: None where the training has been paused, and on the other ranks.
    """
    with join_world(config.device, config.backend, config.timeout) as world:
        started = time.perf_counter()
        config = follow_plan(config, world.size)
        dataset = _prepared(config, world)
        run = world.on_first(lambda: run_folder(config))
        with owned(run, world):
            return _train_in(run, config, dataset, world, started)


def _train_in(run: Path, asked: Config, dataset: Dataset, world: World, started: float) -> Path | None:
    """The training in a run folder that is this one's alone."""
    saved = world.on_first(lambda: last_to_go_on_from(run))
    if saved is not None:
        world.on_first(lambda: check_same_data(run, dataset))
    prepared = time.perf_counter()
    config, choice = _resolve(asked, dataset, world)
    chosen = time.perf_counter()
    parts = assemble(config, dataset, world, filled=saved is None)
    growth = _begin_as_before(run, config, dataset, parts, world) if saved is None else None
    source = make_batches(config, dataset, parts)
    if saved is not None:
        world.on_first(lambda: check_resumable(run, saved, config, source.steps_per_epoch))
    world.on_first(lambda: describe_run(run, config, dataset, parts.plan, parts.tower_pairs))
    steps, start = config.run.epochs * source.steps_per_epoch, saved.step if saved else 0
    if saved:
        resume(saved, config.optimizer.name, parts.model, parts.optimizer)
    world.on_first(lambda: drop_later_records(run, start))
    with Progress(run, steps, world.is_first, config.run.tensorboard, start) as progress:
        progress.say(opening_words(dataset, parts, source.plan, world, run))
        if growth:
            progress.say(growth_words(growth, dataset.item_name))
        if start:
            progress.say(f"Going on after step {start:,} of {steps:,}.")
        history, watch = fit(
            config, dataset, parts, source, world, progress, run, saved, growth.steps if growth else 0
        )
        if history.paused_at is not None:
            progress.say(paused_words(run, history))
            return None
        seconds = {"prepare": prepared - started, "choose": chosen - prepared, "train": watch.seconds}
        if history.validations:
            seconds |= {"validate": watch.pauses, "to_99_percent_of_best": history.seconds_to(0.99)}
        step = keep_outcome(run, config, parts.model, parts.optimizer, world, history, watch.seconds)
        evaluation, seconds["evaluate"] = _measured(config, dataset, parts, world)
        if evaluation is not None:
            report = evaluation_report(run, step, evaluation) | history.report()
            report |= (choice.report() if choice else {}) | growth_report(run) | {"seconds": seconds}
            write_text(run / METRICS, json.dumps(report, indent=2) + "\n")
            progress.say(closing_words(dataset, evaluation, seconds, history))
    return run if world.is_first else None


def _measured(
    config: ResolvedConfig, dataset: Dataset, parts: TrainingComponents, world: World
) -> tuple[Evaluation | None, float]:
    """The evaluation, on rank 0, and its seconds."""
    started = time.perf_counter()
    return measure(parts, dataset, world, protocol(config)), time.perf_counter() - started


def _prepared(config: Config, world: World) -> Dataset:
    """The data set, once it is known that the training can begin and end: preparing may take long."""
    optimizer, dtype = config.optimizer.name, config.model.table_dtype
    check_sharding(config.sharding, optimizer, dtype, world.device.type)
    check_precision(config.model.precision, world.device.type)
    world.on_first(lambda: refuse_finished_run(config))
    run = Path(config.run.dir) if config.run.dir else None
    dataset = open_dataset(world.on_each_host(lambda: prepare_with_kept(config, run), long=True))
    check_item_limits(config.evaluation.baselines, dataset.evaluated_items)
    check_followed_plan(config, dataset, world)
    return dataset


def _resolve(config: Config, dataset: Dataset, world: World) -> tuple[ResolvedConfig, Choice | None]:
    """The configuration without gaps, and what was tried to fill them; says so on rank 0."""
    users = int(np.count_nonzero(dataset.train_by_user().lengths()))
    sized = with_size_defaults(config, users, dataset.item_count, len(dataset.train))
    check_decided_effects(config, sized)
    if world.is_first:
        print(size_words(changes(config, sized)), flush=True)
    resolved, choice = choose(sized, dataset, world)
    if world.is_first and choice:
        print(choice_words(changes(sized, resolved), choice), flush=True)
    return resolved, choice


def _begin_as_before(
    run: Path, config: ResolvedConfig, dataset: Dataset, parts: TrainingComponents, world: World
) -> WarmStart | None:
    """Give the model what the run in `run.origin` knows, where one is named, before the first step."""
    if config.run.origin is None:
        return None
    growth = take_over(
        open_origin(Path(config.run.origin), config, world), config, dataset, parts.model, parts.optimizer
    )
    world.on_first(lambda: write_text(run / GROWTH, json.dumps(growth.report(), indent=2) + "\n"))
    return growth
