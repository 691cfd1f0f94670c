"""A training from its configuration to its report: data, components, loop, checkpoint, evaluation."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainer.atomic_write import write_text
from trainer.batching.tower_inputs import id_collisions
from trainer.config.effects import check_decided_effects
from trainer.config.parser import changes
from trainer.config.resolved import ResolvedConfig
from trainer.config.resume import tell_launcher
from trainer.config.schema import Config
from trainer.config.size_defaults import with_history, with_size_defaults
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.distributed.agreement import check_is_shared
from trainer.distributed.determinism import deterministic
from trainer.distributed.precision import check_precision
from trainer.distributed.world import World, join_world
from trainer.evaluation.baselines import check_baselines
from trainer.evaluation.evaluator import gathered_vectors
from trainer.fitting.components import TrainingComponents, assemble, check_followed_plan, make_batches
from trainer.fitting.loop import evaluate_model, fit, protocol
from trainer.fitting.score_memory import check_scores_fit
from trainer.formatting import with_names
from trainer.object_storage.copies import open_place
from trainer.object_storage.working_copy import working_copy_of
from trainer.planning.constraints import check_sharding
from trainer.planning.layout import follow_plan
from trainer.reporting.progress import MOST_PROJECTED, Progress
from trainer.reporting.trackers import check_trackers
from trainer.runs.checkpoint_policy import save_outcome
from trainer.runs.checkpoint_store import METRICS, folder_of, newest_resumable
from trainer.runs.resume import check_resumable, resumable, resume, withdrawn_if_refused
from trainer.runs.run_folder import (
    WARM_START,
    check_same_data,
    describe_run,
    drop_later_records,
    evaluation_report,
    locked,
    refuse_finished_run,
    run_folder,
    warm_start_report,
    write_config,
)
from trainer.runs.training_facts import Settings, measure_ranks, trials_report, write_ranks, write_settings
from trainer.runs.uploads import RunUploads, run_exists, uploaded
from trainer.runs.validation_history import ValidationHistory
from trainer.shares.prepare import prepare_shares
from trainer.shares.run_shares import gather_vocabulary, shares_in_training
from trainer.storage.id_hashes import collisions_report
from trainer.training.hosts import agree_on_data, agree_on_start
from trainer.training.messages import (
    choice_text,
    closing_text,
    opening_text,
    paused_text,
    size_text,
    values_text,
    warm_start_text,
)
from trainer.tuning.trials import forget_trials
from trainer.tuning.tuning import choose
from trainer.warm_start.origin import open_origin, prepare_with_retained
from trainer.warm_start.take_over import WarmStart, take_over


def train(config: Config) -> Path | None:
    """Train, evaluate on the held-out split, and leave a run folder.

    Returns:
        The run folder on rank 0; None on other ranks, and if the training was paused.
    """
    with (
        deterministic(config.deterministic and config.device != "cpu"),
        join_world(config.device, config.backend, config.timeout) as world,
    ):
        started = time.perf_counter()
        agree_on_start(config, world)
        asked, config = config, follow_plan(config, world.size)
        dataset = _prepare(config, world)
        existed = config.run.dir is not None and run_exists(config.run.dir)
        run = _run_folder(config, world)
        if world.local_rank == 0:
            tell_launcher(run)
        with uploaded(run, world) as uploads, locked(run, world), resumable(run):
            return _train_in(run, asked, config, dataset, world, started, existed, uploads)


def _run_folder(config: Config, world: World) -> Path:
    """Return the run folder: the one that all hosts share, or this host's copy of one in an object store."""
    run = world.on_first(lambda: run_folder(config))
    return run if working_copy_of(config.run.dir) is None else Path(config.run.dir or "")


def _train_in(
    run: Path,
    asked: Config,
    followed: Config,
    dataset: Dataset,
    world: World,
    started: float,
    existed: bool,
    uploads: RunUploads | None,
) -> Path | None:
    """Train in a locked run folder, from its last checkpoint if it holds one."""
    with withdrawn_if_refused(run, active=world.is_first, existed=existed):
        if uploads is None:
            check_is_shared(world, run)
        saved = world.on_first(lambda: newest_resumable(run))
        if saved is not None:
            saved = replace(saved, folder=folder_of(run, saved.step))  # as this host names it
            world.on_first(lambda: check_same_data(run, dataset), long=True)
        else:  # before anything is chosen, which may take long and be interrupted
            world.on_first(lambda: write_config(run, asked))
        prepared = time.perf_counter()
        config, settings = _resolve(followed, dataset, world, run)
        chosen = time.perf_counter()

        components = assemble(config, dataset, world, filled=saved is None)
        batches = make_batches(config, dataset, components, world)
        check_scores_fit(batches, world)
        warm_start = None
        if saved is not None:
            world.on_first(lambda: check_resumable(run, saved, config, batches.steps_per_epoch))
            resume(saved, config.optimizer.name, components.model, components.optimizer)
        elif config.run.origin is not None:
            warm_start = _start_warm(run, open_place(config.run.origin), config, dataset, components, world)
        if dataset.shares is not None:
            gather_vocabulary(run, dataset, dataset.shares, world)
        world.on_first(
            lambda: describe_run(run, config, dataset, components.plan, components.tower_pairs), long=True
        )
        if world.is_first:
            if saved is None:  # a training that is resumed was given what an earlier process decided
                write_settings(run, settings)
            forget_trials(run)
    if uploads:
        uploads.publish()

    steps, start = config.run.epochs * batches.steps_per_epoch, saved.step if saved else 0
    world.on_first(lambda: drop_later_records(run, start))
    with Progress(run, steps, world.is_first, config.run.tensorboard, start) as progress:
        progress.track(config)
        progress.say(opening_text(dataset, components, batches.plan, world, run))
        if said := values_text(dataset, config.data.min_value, config.loss.name):
            progress.say(said)
        if warm_start:
            progress.say(warm_start_text(warm_start, dataset.item_name))
        if start:
            progress.say(f"Going on after step {start:,} of {steps:,}.")
        origin_steps = warm_start.steps if warm_start else 0
        history, watch = fit(
            config, dataset, components, batches, world, progress, run, saved, origin_steps, uploads=uploads
        )
        if history.paused_at is not None:
            progress.say(paused_text(run, history))
            return None
        seconds = {"prepare": prepared - started, "choose": chosen - prepared, "train": watch.seconds}
        if history.validations:
            seconds |= {"validate": watch.pauses, "to_99_percent_of_best": history.seconds_to(0.99)}
        step = save_outcome(
            run,
            config.run,
            model=components.model,
            optimizer=components.optimizer,
            optimizer_name=config.optimizer.name,
            world=world,
            history=history,
            seconds=watch.seconds,
            uploads=uploads,
        )
        if uploads:
            seconds["upload"] = sum(uploads.seconds)
        _measure(run, step, config, dataset, components, world, progress, history, seconds)
        if config.run.tensorboard:
            _project_items(progress, components, dataset, config, world)
    if uploads:
        uploads.publish()
        uploads.complete(on_all_hosts=False)
    return run if world.is_first else None


def _measure(
    run: Path,
    step: int,
    config: ResolvedConfig,
    dataset: Dataset,
    components: TrainingComponents,
    world: World,
    progress: Progress,
    history: ValidationHistory,
    seconds: dict[str, float],
) -> None:
    """Evaluate the outcome and write the report of the training; on every rank alike."""
    began = time.perf_counter()
    evaluation, ranks = None, measure_ranks(world)
    if measured := dataset.report["split"] != "none":
        evaluation = evaluate_model(components, dataset, world, protocol(config))
    seconds |= {"evaluate": time.perf_counter() - began}
    if not world.is_first:
        return
    assert evaluation or not measured
    unmeasured = {"run": with_names(str(run)), "step": step, "split": "none"}
    report = evaluation_report(run, step, evaluation) if evaluation else unmeasured
    report |= history.report()
    report |= collisions_report(
        id_collisions(components.user_inputs, components.item_inputs, dataset.item_name)
    )
    report |= trials_report(run) | warm_start_report(run) | {"seconds": seconds}
    if ranks:
        write_ranks(run, ranks)
    write_text(run / METRICS, json.dumps(report, indent=2) + "\n")
    if evaluation:
        progress.outcome(step, evaluation.split, evaluation.rankers["model"], config)
    progress.say(closing_text(dataset, evaluation, seconds, history))
    progress.finish()


def _project_items(
    progress: Progress,
    components: TrainingComponents,
    dataset: Dataset,
    config: ResolvedConfig,
    world: World,
) -> None:
    """Leave the vectors of the first items for TensorBoard's projector; on every rank alike."""
    count, anyone = min(dataset.item_count, MOST_PROJECTED), np.zeros(1, np.int64)
    gathered = gathered_vectors(components.tower_pairs, anyone, count, world, protocol(config), dataset)
    if gathered is not None:
        titles = None if dataset.titles is None else dataset.titles[:count]
        progress.project(dataset.item_ids[:count], titles, gathered[1].numpy())


def _prepare(config: Config, world: World) -> Dataset:
    """Prepare the data set, which may take long, after checking that the training can begin and end."""
    optimizer, dtype = config.optimizer.name, config.model.table_dtype
    check_sharding(config.sharding, optimizer, dtype, world.device.type)
    check_precision(config.model.precision, world.device.type)
    world.on_first(lambda: check_trackers(config.run.trackers))
    world.on_first(lambda: refuse_finished_run(config))
    run = Path(config.run.dir) if config.run.dir else None
    if config.data.share == "users":
        dataset = open_dataset(prepare_shares(config.data, world, shares_in_training(run, world)))
    else:
        dataset = open_dataset(world.on_each_host(lambda: prepare_with_retained(config, run), long=True))
    agree_on_data(dataset, world)
    check_baselines(config.evaluation.baselines, dataset)
    check_followed_plan(config, dataset, world)
    return dataset


def _resolve(config: Config, dataset: Dataset, world: World, run: Path) -> tuple[ResolvedConfig, Settings]:
    """Fill the gaps of a configuration, by the size of the data and by tuning; rank 0 prints how."""
    users = int(np.count_nonzero(dataset.counts_by_user("train")))
    size = users, dataset.item_count, dataset.interaction_count("train")
    sized = with_size_defaults(config, *size)
    check_decided_effects(config, sized)
    if world.is_first:
        print(size_text(changes(with_history(config), sized)), flush=True)
    resolved, choice = choose(config, dataset, world, run)
    if world.is_first and choice:
        if resolved.model.history != sized.model.history:
            asked = with_history(config, resolved.model.history)
            sized = with_size_defaults(asked, *size)
            print(size_text(changes(asked, sized), resolved.model.history), flush=True)
        print(choice_text(changes(sized, resolved), choice, resolved.model.history), flush=True)
    given, by_size, decided = changes(Config(), config), changes(config, sized), changes(sized, resolved)
    if choice:
        return resolved, Settings(given, by_size, decided, chosen=choice.report())
    return resolved, Settings(given, by_size, fixed=decided)


def _start_warm(
    run: Path,
    origin: Path,
    config: ResolvedConfig,
    dataset: Dataset,
    components: TrainingComponents,
    world: World,
) -> WarmStart:
    """Take over what the run in `origin` learned, before the first step."""
    opened = open_origin(origin, config, world)
    warm_start = take_over(opened, config, dataset, components.model, components.optimizer)
    world.on_first(lambda: write_text(run / WARM_START, json.dumps(warm_start.report(), indent=2) + "\n"))
    return warm_start
