"""A training step: forward, loss, backward, optimizers."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.batching.batch import Batch
from trainer.config.resolved import ResolvedOptimizerConfig
from trainer.config.schema import LossConfig, OptimizerConfig
from trainer.distributed.precision import autocast, matmul_precision
from trainer.distributed.world import World
from trainer.facts.losses import loss_spec
from trainer.model.losses import loss_function
from trainer.sharding.optimizers import clip_gradients, schedule_factor, update, zero_gradients

RowLosses: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]
"""From query vectors, candidate vectors and the batch to one loss a row."""


def train_step(
    model: nn.Module,
    optimizer: CombinedOptimizer,
    batch: Batch,
    loss_of: RowLosses,
    world: World,
    largest_norm: float | None = None,
    precision: str = "float32",
) -> torch.Tensor:
    """Update the model once; nothing in it makes the CPU wait for a GPU.

    Args:
        model: Sharded towers.
        optimizer: Of all parameters of the model.
        batch: This rank's, on its device.
        loss_of: See `make_loss`.
        world: All ranks.
        largest_norm: Largest norm of the dense gradients, see `trainer.sharding.optimizers.clip_gradients`;
            None: no limit.
        precision: Of matrix products, see `trainer.distributed.precision`.

    Returns:
        Sum of this rank's weighted row losses, a tensor on its device.
    """
    zero_gradients(optimizer)
    with matmul_precision(precision):
        with autocast(precision, world.device):
            gather = partial(world.gather_rows, counts=batch.candidate_counts)
            query, candidates = model(
                batch.queries,
                batch.candidates,
                batch.query_partition,
                batch.candidate_partition,
                batch.query_values,
                batch.candidate_values,
                batch.slots,
                gather if batch.slots is not None and batch.candidate_counts else None,
            )
            if batch.query_counts:
                query = world.gather_rows(query, batch.query_counts)
            if batch.candidate_counts and batch.slots is None:
                candidates = world.gather_rows(candidates, batch.candidate_counts)
            loss = (loss_of(query, candidates, batch) * batch.weights).sum()
        # TorchRec divides the gradients of pooled vectors by the world size, as DDP does those of dense
        # layers. The factor undoes that, so that a step is the same at any world size.
        (loss * (world.size / batch.rows)).backward()
    if largest_norm is not None:
        clip_gradients(model, largest_norm)
    update(optimizer)
    return loss.detach()


def make_loss(config: LossConfig, world: World) -> RowLosses:
    """Return the configured loss as a function of a step's vectors and batch.

    The losses of rows whose candidates are split over ranks are this rank's summands. A ranking loss takes
    weights of positives and explicit negatives as keywords where a batch has them, see
    `trainer.model.losses.multi_positive_softmax`; a pointwise one is weighted by its rows.
    """
    spec, function = loss_spec(config.name), loss_function(config.name)

    def pointwise(query: torch.Tensor, candidates: torch.Tensor, batch: Batch) -> torch.Tensor:
        # Where candidates are gathered, the positives say which is whose.
        own = candidates.index_select(0, batch.positives[1]) if batch.candidate_counts else candidates
        assert batch.values is not None, "batches of pointwise losses have values"
        values = (batch.values >= config.positive_value).float() if spec.binary_values else batch.values
        return function(query, own, values)

    def ranking(query: torch.Tensor, candidates: torch.Tensor, batch: Batch) -> torch.Tensor:
        # The rows of all ranks are here: then every other rank has a share of their candidates.
        split = {"all_gather": world.all_gather} if batch.query_counts else {}
        weighed = {"weights_P": batch.positive_weights} if batch.positive_weights is not None else {}
        if batch.negatives is not None:
            weighed |= {"negatives_2M": batch.negatives, "negative_weights_M": batch.negative_weights}
        pairs = batch.positives, batch.seen
        return function(query, candidates, *pairs, batch.log_q, batch.positive_counts, **split, **weighed)

    return pointwise if spec.pointwise else ranking


def rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the multiple of the peak learning rates in a step, counted from 1."""
    return schedule_factor(step - 1, steps, config.schedule, config.warmup)


def table_rate(config: ResolvedOptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate of the tables in a step, counted from 1."""
    return config.learning_rate * rate_factor(config, step, steps)
