"""The optimizers of tables and dense layers: how they are made, scheduled and stepped."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torchrec import optim
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from trainer.sharding.model_state import table_name
from trainer.sharding.private_api import (
    EmbOptimType,
    fused_tables,
    set_step_of_tables,
    step_is,
    step_without_wrapper,
)

EPSILON = 1e-8


FUSED: Mapping[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": optim.RowWiseAdagrad,
    "adagrad": optim.Adagrad,
    "sgd": optim.SGD,
    "adam_fused": optim.Adam,
}
"""Optimizers that a fused kernel runs in the backward pass, by name."""
DENSE: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "rowwise_adagrad": optim.RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}
"""Optimizers of a dense kernel's tables, by name."""
ONE_PASS = ("adagrad", "adam")
"""Those whose `fused=True` takes one pass over weights, gradients and states."""


def dense_optimizer(name: str, device: torch.device) -> Callable[..., torch.optim.Optimizer]:
    """Return the maker of a dense kernel's optimizer, which updates in one pass where the device can."""
    kind: Callable[..., torch.optim.Optimizer] = DENSE[name]
    return partial(kind, fused=True) if name in ONE_PASS and _updates_in_one_pass(kind, device) else kind


def _updates_in_one_pass(kind: Callable[..., torch.optim.Optimizer], device: torch.device) -> bool:
    """Tell whether torch has the fused form of an optimizer; before 2.13 it has Adagrad's on CPU alone."""
    weight = nn.Parameter(torch.zeros(1, device=device))
    weight.grad = torch.zeros_like(weight)
    try:
        kind([weight], fused=True).step()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def set_fused_step(optimizer: CombinedOptimizer, step: int) -> None:
    """Set the step count of fused Adam kernels; call it before each step.

    They correct the bias of their means by a counter of their own, which evaluations increase as well and
    checkpoints do not hold.

    Args:
        optimizer: From `trainer.sharding.shard`.
        step: Number of steps made so far.
    """
    for tables in fused_tables(optimizer):
        if tables.optimizer == EmbOptimType.ADAM and not step_is(tables, step):
            set_step_of_tables(tables, step)


def set_learning_rates(optimizer: CombinedOptimizer, factor: float) -> None:
    """Set every learning rate to `factor` times its peak.

    A fused optimizer updates tables in the backward pass and passes its rate to the kernel in `zero_grad` and
    `step` only: call this before `zero_gradients` for the rate to apply in the same step.
    """
    for group in parameter_groups(optimizer):
        group["lr"] = group["peak_lr"] * factor


def zero_gradients(optimizer: CombinedOptimizer) -> None:
    """Begin a step: clear gradients, and pass learning rates to fused kernels."""
    for _, keyed in optimizer.optimizers:
        if not isinstance(keyed, KeyedOptimizerWrapper):
            keyed.zero_grad()
            continue
        for parameter in cast(dict[str, nn.Parameter], keyed.params).values():
            parameter.grad = None  # reading it, as torch does first, would slice it out of its table's


def update(optimizer: CombinedOptimizer) -> None:
    """End a step: update what dense optimizers train; fused kernels have updated their tables already."""
    for _, keyed in optimizer.optimizers:
        if isinstance(keyed, KeyedOptimizerWrapper):
            step_without_wrapper(keyed)


def clip_gradients(model: nn.Module, largest_norm: float) -> None:
    """Scale the gradients of dense layers down to a common L2 norm of at most `largest_norm`.

    Those of tables are left alone: a fused kernel uses them before all of them are known.

    Args:
        model: Sharded model after the backward pass.
        largest_norm: L2 norm over all dense layers.
    """
    dense = [
        value for key, value in model.named_parameters() if not table_name(key) and value.grad is not None
    ]
    nn.utils.clip_grad_norm_(dense, largest_norm)


def schedule_factor(step: int, steps: int, schedule: str, warmup: float) -> float:
    """Return the factor of the peak learning rate in a step.

    Args:
        step: Number of the step, from 0.
        steps: Number of steps of the whole training.
        schedule: `constant`, `linear` or `cosine`; the latter two reach zero after the last step.
        warmup: Share of all steps in which the factor rises linearly.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - rising) / max(steps - rising, 1)
    return 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(optimizer: CombinedOptimizer) -> list[dict[str, Any]]:
    """Return the parameter groups of all optimizers, to be read and changed."""
    # TorchRec declares them read-only, but its optimizers read what is changed.
    return cast(list[dict[str, Any]], optimizer.param_groups)


def keyed_optimizer(
    parameters: dict[str, nn.Parameter],
    learning_rates: dict[str, float],
    optimizer: Callable[..., torch.optim.Optimizer],
    options: dict[str, Any],
) -> KeyedOptimizer:
    """Make one optimizer of parameters with learning rates of their own.

    Args:
        parameters: Parameters by key.
        learning_rates: Peak learning rate by the same keys.
        optimizer: Makes it from parameter groups and options.
        options: Further arguments of `optimizer`.
    """
    by_rate: dict[float, list[nn.Parameter]] = {}
    for key, value in parameters.items():
        by_rate.setdefault(learning_rates[key], []).append(value)
    groups = [{"params": values, "lr": rate} for rate, values in by_rate.items()]
    return KeyedOptimizerWrapper(parameters, lambda _: optimizer(groups, **options))
