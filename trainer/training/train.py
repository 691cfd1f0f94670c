"""Train, measure and keep a run: the assembly and the loop."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.config import Config
from trainer.data.batches import Batch, Batches, batches
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.prepare import prepare_data
from trainer.errors import diverged
from trainer.evaluation.evaluate import Evaluation, Protocol, evaluate
from trainer.evaluation.neighbours import check_size
from trainer.model import losses
from trainer.parallel.plan import compute_kernel
from trainer.parallel.shard import schedule_factor, set_learning_rates
from trainer.parallel.world import World, join_world
from trainer.training.assembly import Parts, assemble, batch_plan
from trainer.training.checkpoint import save
from trainer.training.progress import Progress, resident_mebibytes
from trainer.training.runs import (
    METRICS,
    describe_run,
    evaluation_report,
    new_run_folder,
    refuse_used_folder,
    write_text,
)
from trainer.training.words import closing_words, opening_words


def train(config: Config) -> Path | None:
    """Train to the last epoch, measure on the held-out part, and leave a run folder; its path on rank 0."""
    with join_world(config.device, config.backend) as world:
        started = time.perf_counter()
        # Refused before data are prepared, which may take long.
        compute_kernel(config.optimizer.name, config.sharding.kind, world.device.type)
        world.on_first(lambda: refuse_used_folder(config))
        dataset = open_dataset(world.on_each_host(lambda: prepare_data(config.data)))
        for name in config.evaluation.baselines:
            check_size(name, dataset.item_count)  # before the training, not after it
        prepared = time.perf_counter()
        run = world.on_first(lambda: new_run_folder(config))
        training = time.perf_counter()
        parts = assemble(config, dataset, world)
        source = Batches(dataset, batch_plan(config), parts.user_inputs, parts.item_inputs)
        world.on_first(lambda: describe_run(run, config, dataset, parts))
        steps = config.run.epochs * source.steps_per_epoch
        with Progress(run, steps, world.is_first, config.run.tensorboard) as progress:
            progress.say(opening_words(dataset, parts, source.plan, world, run))
            fit(config, dataset, parts, source, world, progress)
            trained = time.perf_counter()
            save(run, steps, parts.model, world)
            evaluation = measure(parts, dataset, world, protocol(config))
            seconds = {
                "prepare": prepared - started,
                "train": trained - training,
                "evaluate": time.perf_counter() - trained,
            }
            if evaluation is not None:
                report = evaluation_report(run, steps, evaluation) | {"seconds": seconds}
                write_text(run / METRICS, json.dumps(report, indent=2) + "\n")
                progress.say(closing_words(dataset, evaluation, seconds))
        return run if world.is_first else None


def fit(
    config: Config, dataset: Dataset, parts: Parts, source: Batches, world: World, progress: Progress
) -> None:
    """The loop: every step, and what is due after some of them.

    Raises: DivergedError, on every rank, at the first record whose loss is no number.
    """
    epoch_steps = source.steps_per_epoch
    steps = config.run.epochs * epoch_steps
    log_every = config.run.log_every or epoch_steps
    loss_of = make_loss(config)
    total, rows, interactions, since = torch.zeros((), device=world.device), 0, 0, time.perf_counter()
    every_batch = batches(source, steps, world.rank, world.size, world.device)
    for step, batch in enumerate(every_batch, start=1):
        factor = schedule_factor(step - 1, steps, config.optimizer.schedule, config.optimizer.warmup)
        set_learning_rates(parts.optimizer, factor)
        total += train_step(parts.model, parts.optimizer, batch, loss_of, world)
        rows += batch.rows
        interactions += batch.interactions
        progress.advance()
        if step % log_every == 0 or step == steps:
            loss, seconds = float(world.sum(total)) / rows, time.perf_counter() - since
            if not math.isfinite(loss):
                raise diverged(f"step {step}", f"the loss is {loss}")
            log(progress, config, step, epoch_steps, loss, factor, interactions / seconds)
            total, rows, interactions, since = torch.zeros_like(total), 0, 0, time.perf_counter()
        if config.run.evaluate_every and step % (config.run.evaluate_every * epoch_steps) == 0:
            paused = time.perf_counter()
            evaluation = measure(parts, dataset, world, protocol(config, "validation", baselines=()))
            if evaluation is not None:
                figures = {f"validation/{name}": value for name, value in evaluation.rankers["model"].items()}
                progress.record(step, _figures("validation", evaluation.rankers["model"]), **figures)
            since += time.perf_counter() - paused


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


def log(
    progress: Progress, config: Config, step: int, epoch_steps: int, loss: float, factor: float, speed: float
) -> None:
    """Record the mean loss since the last record."""
    rate, memory = config.optimizer.learning_rate * factor, resident_mebibytes()
    epoch = step / epoch_steps
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


def _figures(name: str, figures: dict[str, float]) -> str:
    return name + "  " + "  ".join(f"{metric} {value:.4f}" for metric, value in figures.items())
