"""The training loop: every step, and what is due after some: records, validation, checkpoints."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from trainer.batching.prefetch import in_advance
from trainer.batching.sampler import Batches, batches
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import LossConfig
from trainer.dataset.dataset import Dataset
from trainer.distributed.determinism import all_algorithms
from trainer.distributed.preemption import Preemption
from trainer.distributed.world import World
from trainer.evaluation.evaluator import Evaluation, Protocol, evaluate
from trainer.evaluation.rating_errors import RatingTarget
from trainer.facts.losses import loss_spec
from trainer.fitting.components import TrainingComponents
from trainer.fitting.meters import Meter, check_finite, log, log_validation
from trainer.fitting.step import make_loss, rate_factor, table_rate, train_step
from trainer.reporting.progress import Progress
from trainer.runs.checkpoint_policy import CheckpointPolicy
from trainer.runs.checkpoint_store import SavedCheckpoint
from trainer.runs.validation_history import SavedProgress, Stopwatch, ValidationHistory
from trainer.sharding.input_dist import exchanged_ahead
from trainer.sharding.optimizers import set_fused_step, set_learning_rates
from trainer.shares.evaluation import evaluate_shares


def fit(
    config: ResolvedConfig,
    dataset: Dataset,
    components: TrainingComponents,
    source: Batches,
    world: World,
    progress: Progress,
    run: Path | None = None,
    saved: SavedCheckpoint | None = None,
    origin_steps: int = 0,
    stoppable: bool = False,
) -> tuple[ValidationHistory, Stopwatch]:
    """Train to the last step, or until patience is over or a signal ends the training.

    Args:
        config: Configuration of the training.
        dataset: The data set, for validation.
        components: The model; on every rank alike.
        source: Batches of all steps.
        world: All ranks.
        progress: Where records go.
        run: Folder for checkpoints, including one when a signal ends the training; None: none are saved.
        saved: Checkpoint that model and optimizers were restored from, if the training is resumed.
        origin_steps: Optimizer steps that a new training took over from an earlier run.
        stoppable: Whether a signal ends the training, on all ranks after the same step, without a folder too.

    Returns:
        The validation figures, and the time.

    Raises:
        DivergedError: Loss or weights are NaN or infinite when they are recorded or saved; on every rank.
        SaveError: A checkpoint cannot be written, and the training is to stop then; on every rank.
    """
    start = saved.step if saved else 0
    earlier = saved.progress if saved else SavedProgress(origin_steps=origin_steps)
    history, watch = new_history(config, source.steps_per_epoch, earlier), Stopwatch(earlier.seconds)
    log_every = config.run.log_every or history.epoch_steps
    evaluate_every = config.run.evaluate_every * history.epoch_steps
    loss_of, meter = make_loss(config.loss, world), Meter(world, watch)
    # A training that crashed after its patience was over has no steps left.
    last = start if history.patience_is_over else history.steps
    generated = batches(source, last, world.rank, world.size, start)
    with (
        Preemption(world, active=stoppable or run is not None) as preemption,
        CheckpointPolicy(
            run,
            config.run,
            model=components.model,
            optimizer=components.optimizer,
            optimizer_name=config.optimizer.name,
            world=world,
        ) as checkpoints,
        closing(in_advance(generated, config.batches.ahead, world.device)) as step_batches,
    ):
        if config.sharding.exchange_ahead:
            step_batches = exchanged_ahead(step_batches, components.towers, world.device)
        for step, batch in enumerate(step_batches, start=start + 1):
            set_learning_rates(components.optimizer, rate_factor(config.optimizer, step, history.steps))
            set_fused_step(components.optimizer, history.origin_steps + step - 1)
            clip, precision = config.optimizer.clip_gradients, config.model.precision
            loss = train_step(components.model, components.optimizer, batch, loss_of, world, clip, precision)
            meter.add(step, loss, batch)
            progress.advance()
            if step % log_every == 0:
                check_finite(meter, history, components.model, world)
                log(progress, history, meter, table_rate(config.optimizer, step, history.steps))
            if evaluate_every and (step % evaluate_every == 0 or step == history.steps):
                with watch.paused():
                    figures = validate(config, dataset, components, world)
                    history.add(step, watch.seconds, figures[history.metric])
                    log_validation(progress, history, figures)
            if preemption.stop_requested():
                history.paused_at = step
            if checkpoints.is_due(history, step):
                with watch.paused():
                    check_finite(meter, history, components.model, world, weights=True)
                    if failure := checkpoints.save(history, step, watch.seconds):
                        progress.say(failure)
            if history.paused_at or history.patience_is_over:
                break
        if failure := checkpoints.finish():
            progress.say(failure)
    if meter.rows:
        check_finite(meter, history, components.model, world)
        log(progress, history, meter, table_rate(config.optimizer, meter.step, history.steps))
    return history, watch


def new_history(config: ResolvedConfig, epoch_steps: int, earlier: SavedProgress) -> ValidationHistory:
    """Return the validation history of a training that begins or is resumed."""
    return ValidationHistory(
        metric=f"{config.run.metric}@{config.evaluation.k[0]}",
        patience=config.run.patience,
        steps=config.run.epochs * epoch_steps,
        epoch_steps=epoch_steps,
        validations=[*earlier.validations],
        origin_steps=earlier.origin_steps,
    )


def protocol(
    config: ResolvedConfig, split: str | None = None, baselines: Sequence[str] | None = None
) -> Protocol:
    """Return the configured protocol, optionally for another split or with other baselines."""
    settings = config.evaluation
    return Protocol(
        split or settings.split,
        settings.seen,
        settings.k,
        settings.chunk,
        settings.sharded,
        config.run.seed,
        settings.baselines if baselines is None else baselines,
        target=_rating_target(config.loss),
    )


def _rating_target(loss: LossConfig) -> RatingTarget | None:
    spec = loss_spec(loss.name)
    if not spec.needs_values:
        return None
    return RatingTarget(loss.positive_value if spec.binary_values else None)


def evaluate_model(
    components: TrainingComponents, dataset: Dataset, world: World, how: Protocol
) -> Evaluation | None:
    """Evaluate a model; on every rank alike, with a result on rank 0."""
    with all_algorithms():
        if dataset.shares is not None and world.size > 1:
            return evaluate_shares(components.tower_pairs, dataset, dataset.shares, world, how)
        return evaluate(components.tower_pairs, dataset, world, how)


def validate(
    config: ResolvedConfig, dataset: Dataset, components: TrainingComponents, world: World
) -> dict[str, float]:
    """Return the model's figures on the validation split, on every rank, so that all decide alike."""
    # Seen items are masked, whatever the final evaluation does: with them ranked too, the best weights would
    # be those that have learned least of the training split.
    masked = replace(protocol(config, "validation", baselines=()), seen="mask", target=None)
    evaluation = evaluate_model(components, dataset, world, masked)
    return world.on_first(lambda: evaluation.rankers["model"] if evaluation else {})
