"""Train, measure and keep a run, from its configuration to its report."""

import json
import time
from pathlib import Path

import numpy as np
from torch import nn

from trainer.config import Config
from trainer.data.batches import Batches
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.prepare import prepare_data
from trainer.evaluation.neighbours import check_size
from trainer.options import changes
from trainer.parallel.world import World, join_world
from trainer.training.assembly import assemble, batch_plan, check_followed_plan
from trainer.training.by_size import by_size, settled
from trainer.training.checkpoint import last_to_go_on_from, load, newest, save
from trainer.training.choose import Choice, choose
from trainer.training.fit import fit, go_on, measure, protocol
from trainer.training.layout import check_sharding, follow_plan
from trainer.training.progress import Progress
from trainer.training.runs import (
    METRICS,
    describe_run,
    drop_later_records,
    evaluation_report,
    owned,
    refuse_finished_run,
    run_folder,
    write_text,
)
from trainer.training.stopping import Course, Stopwatch
from trainer.training.words import choice_words, closing_words, opening_words, size_words


def train(config: Config) -> Path | None:
    """Train, measure on the held-out part, and leave a run folder; its path on rank 0."""
    with join_world(config.device, config.backend) as world:
        started = time.perf_counter()
        config = follow_plan(config, world.size)
        dataset = _prepared(config, world)
        run = world.on_first(lambda: run_folder(config))
        with owned(run, world):
            return _train_in(run, config, dataset, world, started)


def _train_in(run: Path, config: Config, dataset: Dataset, world: World, started: float) -> Path | None:
    """The training in a run folder that is this one's alone."""
    last = world.on_first(lambda: last_to_go_on_from(run))
    prepared = time.perf_counter()
    config, choice = _settle(config, dataset, world)
    chosen = time.perf_counter()
    watch = Stopwatch()
    parts = assemble(config, dataset, world)
    source = Batches(dataset, batch_plan(config), parts.user_inputs, parts.item_inputs)
    world.on_first(lambda: describe_run(run, config, dataset, parts))
    steps, start = settled(config.run.epochs) * source.steps_per_epoch, 0
    if last is not None:
        checkpoint, start = last
        go_on(checkpoint, start, config, parts)
    world.on_first(lambda: drop_later_records(run, start))
    with Progress(run, steps, world.is_first, config.run.tensorboard) as progress:
        progress.say(opening_words(dataset, parts, source.plan, world, run))
        if start:
            progress.say(f"Going on after step {start:,} of {steps:,}.")
        course = fit(config, dataset, parts, source, world, progress, run, watch, start)
        seconds = {"prepare": prepared - started, "choose": chosen - prepared, "train": watch.seconds}
        if course.validations:
            seconds |= {"validate": watch.pauses, "to_99_percent_of_best": course.seconds_to(0.99)}
        measuring = time.perf_counter()
        step = keep_weights(run, course, parts.model, world)
        evaluation = measure(parts, dataset, world, protocol(config))
        seconds["evaluate"] = time.perf_counter() - measuring
        if evaluation is not None:
            report = evaluation_report(run, step, evaluation) | course.report()
            report |= (choice.report() if choice else {}) | {"seconds": seconds}
            write_text(run / METRICS, json.dumps(report, indent=2) + "\n")
            progress.say(closing_words(dataset, evaluation, seconds, course))
    return run if world.is_first else None


def _prepared(config: Config, world: World) -> Dataset:
    """The data set, once it is known that the training can begin and end: preparing may take long."""
    check_sharding(config, world.device.type)
    world.on_first(lambda: refuse_finished_run(config))
    dataset = open_dataset(world.on_each_host(lambda: prepare_data(config.data)))
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


def keep_weights(run: Path, course: Course, model: nn.Module, world: World) -> int:
    """Leave the best weights, or the last where there is no patience, in the run and in the model.

    Returns: the step that they are of.
    """
    if not course.patience:
        save(run, course.steps, model, world)
        return course.steps
    checkpoint, step = newest(run)
    if step != course.validations[-1].step:
        load(checkpoint, model)
    return step
