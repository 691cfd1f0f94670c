"""One optimizer for everything that a training changes: made, scheduled, stepped."""

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
    """Tell fused kernels of Adam how many steps they have made, before the next one.

    They correct their means by a count of their own, which evaluations raise too and a checkpoint does not
    hold.
    """
    for tables in fused_tables(optimizer):
        if tables.optimizer == EmbOptimType.ADAM and not step_is(tables, step):
            set_step_of_tables(tables, step)


def set_learning_rates(optimizer: CombinedOptimizer, factor: float) -> None:
    """Set every learning rate to `factor` times its peak.

    A fused optimizer updates during the backward pass and hands its rate to the kernel in `zero_grad` and
    `step` alone: call this before `optimizer.zero_grad()` for the rate to hold in that very step.
    """
    for group in _groups(optimizer):
        group["lr"] = group["peak_lr"] * factor


def zero_gradients(optimizer: CombinedOptimizer) -> None:
    """Begin a step: no gradients yet, and fused kernels know their learning rates."""
    for _, keyed in optimizer.optimizers:
        if not isinstance(keyed, KeyedOptimizerWrapper):
            keyed.zero_grad()
            continue
        for parameter in cast(dict[str, nn.Parameter], keyed.params).values():
            parameter.grad = None  # to ask for it first, as torch does, would cut it out of its table's


def update(optimizer: CombinedOptimizer) -> None:
    """End a step: dense optimizers update their parameters, as fused kernels have done already."""
    for _, keyed in optimizer.optimizers:
        if isinstance(keyed, KeyedOptimizerWrapper):
            step_without_wrapper(keyed)


def clip_gradients(model: nn.Module, largest_norm: float) -> None:
    """Scale the gradients of dense layers down to a common L2 norm of at most `largest_norm`.

    Those of tables stay as they are: a fused kernel has used them before all of them are known.
    """
    dense = [
        value for key, value in model.named_parameters() if not table_name(key) and value.grad is not None
    ]
    nn.utils.clip_grad_norm_(dense, largest_norm)


def schedule_factor(step: int, steps: int, schedule: str, warmup: float) -> float:
    """Multiple of the peak learning rate at a step.

    Args:
        step: 0 for the first.
        steps: of the whole training.
        schedule: `constant`, `linear` or `cosine`; the latter two reach zero after the last step.
        warmup: share of all steps in which the factor rises linearly.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - rising) / max(steps - rising, 1)
    return 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def _groups(optimizer: CombinedOptimizer) -> list[dict[str, Any]]:
    return cast(
        list[dict[str, Any]], optimizer.param_groups
    )  # declared read-only, but the optimizers read them


def _keyed(
    parameters: dict[str, nn.Parameter],
    learning_rates: dict[str, float],
    optimizer: Callable[..., torch.optim.Optimizer],
    options: dict[str, Any],
) -> KeyedOptimizer:
    by_rate: dict[float, list[nn.Parameter]] = {}
    for key, value in parameters.items():
        by_rate.setdefault(learning_rates[key], []).append(value)
    groups = [{"params": values, "lr": rate} for rate, values in by_rate.items()]
    return KeyedOptimizerWrapper(parameters, lambda _: optimizer(groups, **options))
