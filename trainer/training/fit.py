"""The loop: every step, what is recorded of it, and the measuring on the way."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.config import Config
from trainer.data.batches import Batch, Batches, batches
from trainer.data.dataset import Dataset
from trainer.errors import diverged
from trainer.evaluation.evaluate import Evaluation, Protocol, evaluate
from trainer.model import losses
from trainer.parallel.optimizer_state import create_states, optimizer_state, set_step
from trainer.parallel.shard import schedule_factor, set_learning_rates
from trainer.parallel.world import World
from trainer.training.assembly import Parts
from trainer.training.by_size import settled
from trainer.training.checkpoint import load, prune, save, save_alone
from trainer.training.progress import Progress, resident_mebibytes
from trainer.training.stopping import Course, Stopwatch


def fit(
    config: Config,
    dataset: Dataset,
    parts: Parts,
    source: Batches,
    world: World,
    progress: Progress,
    run: Path | None = None,
    watch: Stopwatch | None = None,
    start: int = 0,
) -> Course:
    """The loop: every step, and what is due after some of them; returns how the validation figure went.

    Args:
        start: steps that are done already.
        run: folder that the best weights go to where `run.patience` is above 0; None: they are not kept.
        watch: of training seconds; by default it starts now.
    Raises: DivergedError, on every rank, at the first record whose loss is no number.
    """
    course, watch = new_course(config, source.steps_per_epoch), watch or Stopwatch()
    log_every = config.run.log_every or course.epoch_steps
    evaluate_every = settled(config.run.evaluate_every) * course.epoch_steps
    loss_of, meter = make_loss(config), Meter(world, watch)
    every_batch = batches(source, course.steps, world.rank, world.size, world.device, start)
    for step, batch in enumerate(every_batch, start=start + 1):
        set_learning_rates(parts.optimizer, rate_factor(config, step, course.steps))
        meter.add(step, train_step(parts.model, parts.optimizer, batch, loss_of, world), batch)
        progress.advance()
        if step % log_every == 0:
            log(progress, config, course, meter)
        if evaluate_every and (step % evaluate_every == 0 or step == course.steps):
            with watch.paused():
                figures = validate(config, dataset, parts, world)
                better = course.add(step, watch.seconds, figures[course.metric])
                log_validation(progress, course, figures)
                if better and course.patience and run:
                    save_alone(run, step, parts.model, world)
        if run and config.run.save_every and step % config.run.save_every == 0 and step < course.steps:
            with watch.paused():
                save_to_go_on(run, step, config, parts, world)
        if course.patience_is_over:
            break
    if meter.rows:
        log(progress, config, course, meter)
    return course


def save_to_go_on(run: Path, step: int, config: Config, parts: Parts, world: World) -> None:
    """Write a checkpoint with all that the training needs, and remove older ones once it is whole."""
    states = optimizer_state(parts.model, parts.optimizer, config.optimizer.name)
    save(run, step, parts.model, world, states)
    world.on_first(lambda: prune(run, config.run.keep_last))


def go_on(checkpoint: Path, step: int, config: Config, parts: Parts) -> None:
    """Fill model and optimizers as they were after `step` steps, whatever plan they had then.

    Raises: CheckpointError if the checkpoint is of another model, or of states that this plan cannot hold.
    """
    create_states(parts.optimizer)
    load(checkpoint, parts.model, optimizer_state(parts.model, parts.optimizer, config.optimizer.name))
    set_step(parts.optimizer, step)


def new_course(config: Config, epoch_steps: int) -> Course:
    """The course of a training that is to begin."""
    metric, steps = f"ndcg@{config.evaluation.k[0]}", settled(config.run.epochs) * epoch_steps
    return Course(metric, settled(config.run.patience), steps, epoch_steps)


def train_step(
    model: nn.Module,
    optimizer: CombinedOptimizer,
    batch: Batch,
    loss_of: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor],
    world: World,
) -> torch.Tensor:
    """One update; returns the sum of this rank's weighted row losses."""
    optimizer.zero_grad()
    query, candidates = model(batch.queries, batch.candidates)
    if batch.candidate_counts:
        candidates = world.gather_rows(candidates, batch.candidate_counts)
    loss = (loss_of(query, candidates, batch) * batch.weights).sum()
    # TorchRec divides pooled gradients by the world size, as DDP does with dense ones: undone here, so that
    # a step is the same at any world size.
    (loss * (world.size / batch.rows)).backward()
    optimizer.step()
    return loss.detach()


def make_loss(config: Config) -> Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]:
    """Loss of each row from query vectors, candidate vectors and the batch."""
    if config.loss.name == "mse":
        return lambda query, candidates, batch: losses.mean_squared_error(query, candidates, _values(batch))
    if config.loss.name == "bce":
        threshold = config.loss.positive_value
        return lambda query, candidates, batch: losses.binary_cross_entropy(
            query, candidates, (_values(batch) >= threshold).float()
        )
    ranking = (
        losses.multi_positive_softmax
        if config.loss.name == "softmax"
        else losses.bayesian_personalised_ranking
    )
    return lambda query, candidates, batch: ranking(
        query, candidates, batch.positives, batch.known, batch.log_q
    )


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


class Meter:
    """Loss and speed of the steps since the last record.

    Attributes:
        step: the last step.
        rows, interactions: of those steps, over all ranks.
    """

    def __init__(self, world: World, watch: Stopwatch) -> None:
        """Start at zero."""
        self._world, self._watch, self.step = world, watch, 0
        self._reset()

    def add(self, step: int, loss: torch.Tensor, batch: Batch) -> None:
        """Count a step, with the sum of this rank's weighted row losses."""
        self._loss += loss
        self.step = step
        self.rows += batch.rows
        self.interactions += batch.interactions

    def read(self) -> tuple[float, float]:
        """Mean loss of a row over all ranks, and interactions per second of training; starts anew.

        Raises: DivergedError, on every rank, if the loss is no number.
        """
        loss = float(self._world.sum(self._loss)) / self.rows
        speed = self.interactions / (self._watch.seconds - self._since)
        if not math.isfinite(loss):
            raise diverged(f"step {self.step}", f"the loss is {loss}")
        self._reset()
        return loss, speed

    def _reset(self) -> None:
        self._loss = torch.zeros((), device=self._world.device)
        self.rows, self.interactions, self._since = 0, 0, self._watch.seconds


def rate_factor(config: Config, step: int, steps: int) -> float:
    """Multiple of the peak learning rates in a step, 1 being the first."""
    return schedule_factor(step - 1, steps, config.optimizer.schedule, config.optimizer.warmup)


def log(progress: Progress, config: Config, course: Course, meter: Meter) -> None:
    """Record the mean loss since the last record."""
    loss, speed = meter.read()
    step, epoch, memory = meter.step, course.epoch(meter.step), resident_mebibytes()
    rate = settled(config.optimizer.learning_rate) * rate_factor(config, step, course.steps)
    progress.record(
        step,
        f"epoch {epoch:g}  step {step}  loss {loss:.4f}  {speed:,.0f} examples/s  lr {rate:.2g}  "
        f"{memory:,.0f} MiB",
        epoch=epoch,
        loss=loss,
        examples_per_second=speed,
        learning_rate=rate,
        memory_mib=memory,
    )


def log_validation(progress: Progress, course: Course, figures: dict[str, float]) -> None:
    """Record figures of the last validation, and the seconds trained until then."""
    last = course.validations[-1]
    progress.record(
        last.step,
        "validation  " + "  ".join(f"{metric} {value:.4f}" for metric, value in figures.items()),
        epoch=course.epoch(last.step),
        training_seconds=last.seconds,
        **{f"validation/{metric}": value for metric, value in figures.items()},
    )
