"""One update: forward, loss, backward, optimizers."""

from collections.abc import Callable

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.batching.batch import Batch
from trainer.config.resolved import ResolvedConfig
from trainer.distributed.precision import autocast, matmul_precision
from trainer.distributed.world import World
from trainer.model import losses
from trainer.sharding.optimizers import (
    clip_gradients,
    schedule_factor,
    update,
    zero_gradients,
)


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
    with matmul_precision(precision):
        with autocast(precision, world.device):
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


def make_loss(
    config: ResolvedConfig, world: World
) -> Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]:
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
            query, candidates, batch.positives, batch.seen, batch.log_q
        )
    return lambda query, candidates, batch: losses.multi_positive_softmax(
        query,
        candidates,
        batch.positives,
        batch.seen,
        batch.log_q,
        batch.positive_counts,
        world.all_gather if batch.query_counts else None,
    )


def _own(candidates: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The candidate of each row."""
    return candidates.index_select(0, batch.positives[1]) if batch.candidate_counts else candidates


def _values(batch: Batch) -> torch.Tensor:
    assert batch.values is not None, "batches of losses on values have them"
    return batch.values


def rate_factor(config: ResolvedConfig, step: int, steps: int) -> float:
    """Multiple of the peak learning rates in a step, 1 being the first."""
    return schedule_factor(step - 1, steps, config.optimizer.schedule, config.optimizer.warmup)


def table_rate(config: ResolvedConfig, step: int, steps: int) -> float:
    """Learning rate of the tables in a step."""
    return config.optimizer.learning_rate * rate_factor(config, step, steps)
