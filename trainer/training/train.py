"""Train, measure and keep a run, from its configuration to its report."""

import json
import time
from pathlib import Path

import numpy as np

from trainer.config import Config
from trainer.continuing import tell_launcher
from trainer.data.dataset import Dataset, open_dataset
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.neighbours import check_size
from trainer.options import changes
from trainer.parallel.precision import check_precision
from trainer.parallel.world import World, join_world
from trainer.training.assembly import Parts, assemble, check_followed_plan, make_batches
from trainer.training.by_size import by_size, settled
from trainer.training.choose import Choice, choose
from trainer.training.fit import fit, measure, protocol
from trainer.training.grown import Growth, open_origin, prepare_with_kept, take_over
from trainer.training.layout import check_sharding, follow_plan
from trainer.training.progress import Progress
from trainer.training.published import METRICS, last_to_go_on_from
from trainer.training.runs import (
    GROWTH,
    check_same_data,
    describe_run,
    drop_later_records,
    evaluation_report,
    growth_report,
    owned,
    refuse_finished_run,
    run_folder,
    write_text,
)
from trainer.training.saving import go_on, keep_outcome
from trainer.training.words import (
    choice_words,
    closing_words,
    growth_words,
    opening_words,
    paused_words,
    size_words,
)


def train(config: Config) -> Path | None:
    """Train, measure on the held-out part, and leave a run folder; its path on rank 0.

    Returns: None where the training has been paused, and on the other ranks.
    """
    with join_world(config.device, config.backend, config.timeout) as world:
        started = time.perf_counter()
        config = follow_plan(config, world.size)
        dataset = _prepared(config, world)
        run = world.on_first(lambda: run_folder(config))
        if world.local_rank == 0:
            tell_launcher(run)
        with owned(run, world):
            return _train_in(run, config, dataset, world, started)


def _train_in(run: Path, config: Config, dataset: Dataset, world: World, started: float) -> Path | None:
    """The training in a run folder that is this one's alone."""
    saved = world.on_first(lambda: last_to_go_on_from(run))
    if saved is not None:
        world.on_first(lambda: check_same_data(run, dataset))
    prepared = time.perf_counter()
    config, choice = _settle(config, dataset, world)
    chosen = time.perf_counter()
    parts = assemble(config, dataset, world, filled=saved is None)
    growth = _begin_as_before(run, config, dataset, parts, world) if saved is None else None
    source = make_batches(config, dataset, parts)
    world.on_first(lambda: describe_run(run, config, dataset, parts))
    steps, start = settled(config.run.epochs) * source.steps_per_epoch, saved.step if saved else 0
    if saved:
        go_on(saved, config, parts)
    world.on_first(lambda: drop_later_records(run, start))
    with Progress(run, steps, world.is_first, config.run.tensorboard, start) as progress:
        progress.say(opening_words(dataset, parts, source.plan, world, run))
        if growth:
            progress.say(growth_words(growth, dataset.item_name))
        if start:
            progress.say(f"Going on after step {start:,} of {steps:,}.")
        course, watch = fit(config, dataset, parts, source, world, progress, run, saved)
        if course.paused_at is not None:
            progress.say(paused_words(run, course))
            return None
        seconds = {"prepare": prepared - started, "choose": chosen - prepared, "train": watch.seconds}
        if course.validations:
            seconds |= {"validate": watch.pauses, "to_99_percent_of_best": course.seconds_to(0.99)}
        step = keep_outcome(run, config, parts, world, course, watch.seconds)
        evaluation, seconds["evaluate"] = _measured(config, dataset, parts, world)
        if evaluation is not None:
            report = evaluation_report(run, step, evaluation) | course.report()
            report |= (choice.report() if choice else {}) | growth_report(run) | {"seconds": seconds}
            write_text(run / METRICS, json.dumps(report, indent=2) + "\n")
            progress.say(closing_words(dataset, evaluation, seconds, course))
    return run if world.is_first else None


def _measured(
    config: Config, dataset: Dataset, parts: Parts, world: World
) -> tuple[Evaluation | None, float]:
    """The evaluation, on rank 0, and its seconds."""
    started = time.perf_counter()
    return measure(parts, dataset, world, protocol(config)), time.perf_counter() - started


def _prepared(config: Config, world: World) -> Dataset:
    """The data set, once it is known that the training can begin and end: preparing may take long."""
    check_sharding(config, world.device.type)
    check_precision(config.model.precision, world.device.type)
    world.on_first(lambda: refuse_finished_run(config))
    run = Path(config.run.dir) if config.run.dir else None
    dataset = open_dataset(world.on_each_host(lambda: prepare_with_kept(config, run)))
    for name in config.evaluation.baselines:
        check_size(name, dataset.item_count)
    check_followed_plan(config, dataset, world)
    return dataset


def _settle(config: Config, dataset: Dataset, world: World) -> tuple[Config, Choice | None]:
    """The configuration without gaps, and what was tried to fill them; says so on rank 0."""
    users = int(np.count_nonzero(dataset.known("train").lengths()))
    sized = by_size(config, users, dataset.item_count, len(dataset.train))
    if world.is_first:
        print(size_words(changes(config, sized)), flush=True)
    config, choice = choose(sized, dataset, world)
    if world.is_first and choice:
        print(choice_words(changes(sized, config), choice), flush=True)
    return config, choice


def _begin_as_before(
    run: Path, config: Config, dataset: Dataset, parts: Parts, world: World
) -> Growth | None:
    """Give the model what the run in `run.origin` knows, where one is named, before the first step."""
    if config.run.origin is None:
        return None
    growth = take_over(open_origin(Path(config.run.origin), config, world), config, dataset, parts)
    world.on_first(lambda: write_text(run / GROWTH, json.dumps(growth.report(), indent=2) + "\n"))
    return growth
