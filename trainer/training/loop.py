"""The loop: every step, what is recorded of it, and the measuring on the way."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.batching.batch import Batch
from trainer.batching.prefetch import in_advance
from trainer.batching.sampler import Batches, batches
from trainer.config.schema import Config
from trainer.config.size_defaults import settled
from trainer.dataset.dataset import Dataset
from trainer.distributed.precision import forward_in, products_in
from trainer.distributed.preemption import Pause
from trainer.distributed.world import World
from trainer.evaluation.evaluator import Evaluation, Protocol, evaluate
from trainer.model import losses
from trainer.runs.checkpoint_policy import Keeper
from trainer.runs.checkpoint_store import Saved
from trainer.runs.validation_history import Course, Progressed, Stopwatch
from trainer.sharding.input_dist import exchanged_ahead
from trainer.sharding.shard import (
    clip_gradients,
    schedule_factor,
    set_learning_rates,
    update,
    zero_gradients,
)
from trainer.training.components import Parts
from trainer.training.meters import Meter, check_finite, log, log_validation
from trainer.training.progress import Progress


def fit(
    config: Config,
    dataset: Dataset,
    parts: Parts,
    source: Batches,
    world: World,
    progress: Progress,
    run: Path | None = None,
    saved: Saved | None = None,
) -> tuple[Course, Stopwatch]:
    """The loop: every step, and what is due after some of them; how its validation figure went, and its time.

    Args:
        run: folder for checkpoints, in which signals leave one too; None: nothing is kept.
        saved: what the model and its optimizers were filled from, if the training goes on.
    Raises:
        DivergedError, on every rank, if loss or weights are no numbers when they are recorded or kept.
        SaveError, on every rank, if a checkpoint cannot be written and the training is not to go on so.
    """
    start, progressed = (saved.step, saved.progressed) if saved else (0, Progressed())
    course, watch = new_course(config, source.steps_per_epoch, progressed), Stopwatch(progressed.seconds)
    log_every = config.run.log_every or course.epoch_steps
    evaluate_every = settled(config.run.evaluate_every) * course.epoch_steps
    loss_of, meter = make_loss(config, world), Meter(world, watch)
    made = batches(source, course.steps, world.rank, world.size, start)
    with (
        Pause(world, active=run is not None) as pause,
        Keeper(run, config, parts, world) as keeper,
        closing(in_advance(made, config.batches.ahead, world.device)) as every_batch,
    ):
        if config.sharding.exchange_ahead:
            every_batch = exchanged_ahead(every_batch, parts.towers, world.device)
        for step, batch in enumerate(every_batch, start=start + 1):
            set_learning_rates(parts.optimizer, rate_factor(config, step, course.steps))
            clip, precision = config.optimizer.clip_gradients, config.model.precision
            loss = train_step(parts.model, parts.optimizer, batch, loss_of, world, clip, precision)
            meter.add(step, loss, batch)
            progress.advance()
            if step % log_every == 0:
                check_finite(meter, course, parts.model, world)
                log(progress, course, meter, table_rate(config, step, course.steps))
            if evaluate_every and (step % evaluate_every == 0 or step == course.steps):
                with watch.paused():
                    figures = validate(config, dataset, parts, world)
                    course.add(step, watch.seconds, figures[course.metric])
                    log_validation(progress, course, figures)
            if pause.agreed():
                course.paused_at = step
            if keeper.is_due(course, step):
                with watch.paused():
                    check_finite(meter, course, parts.model, world, weights=True)
                    if hindrance := keeper.keep(course, step, watch.seconds):
                        progress.say(hindrance)
            if course.paused_at or course.patience_is_over:
                break
        if hindrance := keeper.finish():
            progress.say(hindrance)
    if meter.rows:
        check_finite(meter, course, parts.model, world)
        log(progress, course, meter, table_rate(config, meter.step, course.steps))
    return course, watch


def new_course(config: Config, epoch_steps: int, progressed: Progressed) -> Course:
    """The course of a training that begins, or goes on."""
    metric, steps = f"{config.run.metric}@{config.evaluation.k[0]}", settled(config.run.epochs) * epoch_steps
    return Course(metric, settled(config.run.patience), steps, epoch_steps, [*progressed.validations])


def train_step(
    model: nn.Module,
    optimizer: CombinedOptimizer,
    batch: Batch,
    loss_of: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor],
    world: World,
    largest_norm: float | None = None,
    precision: str = "float32",
) -> torch.Tensor:
    """One update; returns the sum of this rank's weighted row losses.

    Args:
        largest_norm: see `trainer.sharding.shard.clip_gradients`; None: gradients stay as they are.
        precision: see `trainer.distributed.precision`.
    """
    zero_gradients(optimizer)
    with products_in(precision):
        with forward_in(precision, world.device):
            query, candidates = model(batch.queries, batch.candidates, batch.query_part, batch.candidate_part)
            if batch.query_counts:
                query = world.gather_rows(query, batch.query_counts)
            if batch.candidate_counts:
                candidates = world.gather_rows(candidates, batch.candidate_counts)
            loss = (loss_of(query, candidates, batch) * batch.weights).sum()
        # TorchRec divides pooled gradients by the world size, as DDP does with dense ones: undone here, so
        # that a step is the same at any world size.
        (loss * (world.size / batch.rows)).backward()
    if largest_norm is not None:
        clip_gradients(model, largest_norm)
    update(optimizer)
    return loss.detach()


def make_loss(config: Config, world: World) -> Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]:
    """Loss of each row from query vectors, candidate vectors and the batch; this rank's summand of it."""
    if config.loss.name == "mse":
        return lambda query, candidates, batch: losses.mean_squared_error(
            query, _own(candidates, batch), _values(batch)
        )
    if config.loss.name == "bce":
        threshold = config.loss.positive_value
        return lambda query, candidates, batch: losses.binary_cross_entropy(
            query, _own(candidates, batch), (_values(batch) >= threshold).float()
        )
    if config.loss.name == "bpr":
        return lambda query, candidates, batch: losses.bayesian_personalised_ranking(
            query, candidates, batch.positives, batch.known, batch.log_q
        )
    return lambda query, candidates, batch: losses.multi_positive_softmax(
        query,
        candidates,
        batch.positives,
        batch.known,
        batch.log_q,
        batch.positive_counts,
        world.stacked if batch.query_counts else None,
    )


def _own(candidates: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The candidate of each row."""
    return candidates.index_select(0, batch.positives[1]) if batch.candidate_counts else candidates


def _values(batch: Batch) -> torch.Tensor:
    assert batch.values is not None, "batches of losses on values have them"
    return batch.values


def protocol(config: Config, split: str | None = None, baselines: Sequence[str] | None = None) -> Protocol:
    """The configured protocol, perhaps for another part or beside other baselines."""
    settings = config.evaluation
    return Protocol(
        split or settings.split,
        settings.seen,
        settings.k,
        settings.chunk,
        settings.sharded,
        config.run.seed,
        settings.baselines if baselines is None else baselines,
    )


def measure(parts: Parts, dataset: Dataset, world: World, how: Protocol) -> Evaluation | None:
    """Evaluation of a model; on rank 0."""
    return evaluate(parts.served, dataset, world, how)


def validate(config: Config, dataset: Dataset, parts: Parts, world: World) -> dict[str, float]:
    """The model's figures on the validation part, on every rank, so that all decide alike."""
    evaluation = measure(parts, dataset, world, protocol(config, "validation", baselines=()))
    return world.on_first(lambda: evaluation.rankers["model"] if evaluation else {})


def rate_factor(config: Config, step: int, steps: int) -> float:
    """Multiple of the peak learning rates in a step, 1 being the first."""
    return schedule_factor(step - 1, steps, config.optimizer.schedule, config.optimizer.warmup)


def table_rate(config: Config, step: int, steps: int) -> float:
    """Learning rate of the tables in a step."""
    return settled(config.optimizer.learning_rate) * rate_factor(config, step, steps)
