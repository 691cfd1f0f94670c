"""The loop: every step, what is recorded of it, and the measuring on the way."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from trainer.batching.prefetch import in_advance
from trainer.batching.sampler import Batches, batches
from trainer.config.resolved import ResolvedConfig
from trainer.dataset.dataset import Dataset
from trainer.distributed.preemption import Preemption
from trainer.distributed.world import World
from trainer.evaluation.evaluator import Evaluation, Protocol, evaluate
from trainer.runs.checkpoint_policy import CheckpointPolicy
from trainer.runs.checkpoint_store import SavedCheckpoint
from trainer.runs.validation_history import SavedProgress, Stopwatch, ValidationHistory
from trainer.sharding.input_dist import exchanged_ahead
from trainer.sharding.optimizers import (
    set_learning_rates,
)
from trainer.training.components import TrainingComponents
from trainer.training.meters import Meter, check_finite, log, log_validation
from trainer.training.progress import Progress
from trainer.training.step import make_loss, rate_factor, table_rate, train_step


def fit(
    config: ResolvedConfig,
    dataset: Dataset,
    parts: TrainingComponents,
    source: Batches,
    world: World,
    progress: Progress,
    run: Path | None = None,
    saved: SavedCheckpoint | None = None,
    origin_steps: int = 0,
) -> tuple[ValidationHistory, Stopwatch]:
    """The loop: every step, and what is due after some of them; how its validation figure went, and its time.

    Args:
        run: folder for checkpoints, in which signals leave one too; None: nothing is kept.
        saved: what the model and its optimizers were filled from, if the training goes on.
        origin_steps: steps of the optimizers that were taken over from an earlier run, if nothing is saved.
    Raises:
        DivergedError, on every rank, if loss or weights are no numbers when they are recorded or kept.
        SaveError, on every rank, if a checkpoint cannot be written and the training is not to go on so.
    """
    start, progressed = (
        (saved.step, saved.progressed) if saved else (0, SavedProgress(origin_steps=origin_steps))
    )
    history, watch = new_history(config, source.steps_per_epoch, progressed), Stopwatch(progressed.seconds)
    log_every = config.run.log_every or history.epoch_steps
    evaluate_every = config.run.evaluate_every * history.epoch_steps
    loss_of, meter = make_loss(config.loss, world), Meter(world, watch)
    # Of a training that was cut short after its patience was over, no step is left.
    last = start if history.patience_is_over else history.steps
    made = batches(source, last, world.rank, world.size, start)
    with (
        Preemption(world, active=run is not None) as pause,
        CheckpointPolicy(run, config, parts.model, parts.optimizer, world) as policy,
        closing(in_advance(made, config.batches.ahead, world.device)) as every_batch,
    ):
        if config.sharding.exchange_ahead:
            every_batch = exchanged_ahead(every_batch, parts.towers, world.device)
        for step, batch in enumerate(every_batch, start=start + 1):
            set_learning_rates(parts.optimizer, rate_factor(config.optimizer, step, history.steps))
            clip, precision = config.optimizer.clip_gradients, config.model.precision
            loss = train_step(parts.model, parts.optimizer, batch, loss_of, world, clip, precision)
            meter.add(step, loss, batch)
            progress.advance()
            if step % log_every == 0:
                check_finite(meter, history, parts.model, world)
                log(progress, history, meter, table_rate(config.optimizer, step, history.steps))
            if evaluate_every and (step % evaluate_every == 0 or step == history.steps):
                with watch.paused():
                    figures = validate(config, dataset, parts, world)
                    history.add(step, watch.seconds, figures[history.metric])
                    log_validation(progress, history, figures)
            if pause.stop_requested():
                history.paused_at = step
            if policy.is_due(history, step):
                with watch.paused():
                    check_finite(meter, history, parts.model, world, weights=True)
                    if hindrance := policy.keep(history, step, watch.seconds):
                        progress.say(hindrance)
            if history.paused_at or history.patience_is_over:
                break
        if hindrance := policy.finish():
            progress.say(hindrance)
    if meter.rows:
        check_finite(meter, history, parts.model, world)
        log(progress, history, meter, table_rate(config.optimizer, meter.step, history.steps))
    return history, watch


def new_history(config: ResolvedConfig, epoch_steps: int, progressed: SavedProgress) -> ValidationHistory:
    """The course of a training that begins, or goes on."""
    metric, steps = f"{config.run.metric}@{config.evaluation.k[0]}", config.run.epochs * epoch_steps
    return ValidationHistory(
        metric,
        config.run.patience,
        steps,
        epoch_steps,
        [*progressed.validations],
        origin_steps=progressed.origin_steps,
    )


def protocol(
    config: ResolvedConfig, split: str | None = None, baselines: Sequence[str] | None = None
) -> Protocol:
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


def measure(parts: TrainingComponents, dataset: Dataset, world: World, how: Protocol) -> Evaluation | None:
    """Evaluation of a model; on rank 0."""
    return evaluate(parts.tower_pairs, dataset, world, how)


def validate(
    config: ResolvedConfig, dataset: Dataset, parts: TrainingComponents, world: World
) -> dict[str, float]:
    """The model's figures on the validation part, on every rank, so that all decide alike."""
    # Seen items are masked, whatever the final evaluation does: with them ranked too, the best weights would
    # be those that have learned least of the training split.
    masked = replace(protocol(config, "validation", baselines=()), seen="mask")
    evaluation = measure(parts, dataset, world, masked)
    return world.on_first(lambda: evaluation.rankers["model"] if evaluation else {})
