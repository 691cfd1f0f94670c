"""From towers and plan to a sharded model with its optimizers and its initial values."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec import optim
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ModuleSharder, ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from trainer.distributed.quantized_comm import codecs
from trainer.errors import ConfigError
from trainer.sharding.local_lookup import DirectSharder
from trainer.sharding.model_state import table_name, whole_state

INITIAL_BLOCK_ROWS, INITIAL_BLOCK_VALUES = 65_536, 2**26
EPSILON = 1e-8
_FUSED = {
    "rowwise_adagrad": optim.RowWiseAdagrad,
    "adagrad": optim.Adagrad,
    "sgd": optim.SGD,
    "adam": optim.Adam,
}
_DENSE = {
    "rowwise_adagrad": optim.RowWiseAdagrad,
    "adagrad": partial(torch.optim.Adagrad, fused=True),
    "sgd": torch.optim.SGD,
    "adam": partial(torch.optim.Adam, fused=True),  # one pass over weights, gradients and both moments
}


def shard(
    towers: nn.Module,
    plan: ShardingPlan,
    device: torch.device,
    optimizer: str,
    learning_rates: dict[str, float],
    dense_learning_rate: float,
    weight_decay: float,
    communication: str = "float32",
    betas: Sequence[float] = (0.9, 0.999),
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Lay the towers over the ranks as planned, each table with its optimizer.

    Args:
        towers: module with tables on the meta device.
        plan: see `trainer.planning.plan_check`.
        device: of this rank.
        optimizer: of the tables: `rowwise_adagrad`, `adagrad`, `sgd` or `adam`.
        learning_rates: peak learning rate of every table, by name.
        dense_learning_rate: peak learning rate of all other parameters, which are trained with Adam.
        weight_decay: L2 penalty on all rows of the tables; 0 with fused kernels.
        communication: type in which ranks exchange pooled vectors and their gradients, see
            `trainer.distributed.quantized_comm`.
        betas: of the tables' Adam.
    Returns: the sharded model, its tables without values, and one optimizer for everything.
    Raises: ConfigError for a weight decay that the kernel would ignore.
    """
    fused = _fused_tables(plan)
    if fused and weight_decay > 0:
        # FBGEMM takes the setting and, on CPU, drops it without a word; its Adam on CUDA decays otherwise.
        raise ConfigError(
            f"--optimizer.weight_decay {weight_decay}: a fused {optimizer} has none. Leave it at 0, or use "
            "--sharding.kind data_parallel"
        )
    settings = {"weight_decay": weight_decay} | ({} if optimizer == "sgd" else {"eps": EPSILON})
    for key, parameter in towers.named_parameters():
        if table_name(key) and key.split(".")[-2] in fused:
            options = settings | {"lr": learning_rates[str(table_name(key))]}
            options |= dict(zip(("beta1", "beta2"), betas, strict=True)) if optimizer == "adam" else {}
            apply_optimizer_in_backward(_FUSED[optimizer], [parameter], options)
    sharder = DirectSharder(qcomm_codecs_registry=codecs(communication))
    sharders = cast(list[ModuleSharder[nn.Module]], [sharder])
    # By default the gradients are laid out anew after the first step, and then add up in another order: a
    # training that goes on would not do to the last bit what an unbroken one does.
    wrapper = DefaultDataParallelWrapper(static_graph=False, find_unused_parameters=True)
    model = DistributedModelParallel(
        towers, device=device, plan=plan, sharders=sharders, data_parallel_wrapper=wrapper
    )
    optimizers: list[KeyedOptimizer | tuple[str, KeyedOptimizer]] = [model.fused_optimizer]
    trainable = dict(in_backward_optimizer_filter(model.named_parameters()))
    tables = {key: value for key, value in trainable.items() if table_name(key) and value.numel()}
    rates = {key: learning_rates[str(table_name(key))] for key in tables}
    others = {key: value for key, value in trainable.items() if not table_name(key) and value.requires_grad}
    if tables:
        options = settings | ({"betas": tuple(betas)} if optimizer == "adam" else {})
        optimizers.append(_keyed(tables, rates, _DENSE[optimizer], options))
    if others:
        optimizers.append(_keyed(others, dict.fromkeys(others, dense_learning_rate), _DENSE["adam"], {}))
    combined = CombinedOptimizer(optimizers)
    for group in _groups(combined):
        group["peak_lr"] = group["lr"]
    return model, combined


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
    """End a step: dense optimizers update their parameters; fused kernels have done so.

    TorchRec's wrappers, which have nothing to add, would take as long as the lookups of a small step.
    """
    for _, keyed in optimizer.optimizers:
        if isinstance(keyed, KeyedOptimizerWrapper):
            keyed._optimizer.step()


def clip_gradients(model: nn.Module, largest_norm: float) -> None:
    """Scale the gradients of dense layers down to a common L2 norm of at most `largest_norm`.

    Those of tables stay as they are: a fused kernel has used them before all of them are known.
    """
    dense = [
        value for key, value in model.named_parameters() if not table_name(key) and value.grad is not None
    ]
    nn.utils.clip_grad_norm_(dense, largest_norm)


def fill_tables(model: nn.Module, values: Callable[[str, slice], torch.Tensor]) -> None:
    """Give every shard on this rank its initial values, which depend on the table alone and not on the plan.

    Args:
        model: sharded or plain.
        values: (table, rows) -> (len(rows), dim) float32; asked for one block of the table at a time, see
            `initial_blocks`.
    """
    with torch.no_grad():
        for key, weights, (row_offset, column_offset), shape in _local_shards(model):
            last = row_offset + weights.shape[0]
            columns = slice(column_offset, column_offset + weights.shape[1])
            for block in initial_blocks(*shape):
                rows = slice(max(block.start, row_offset), min(block.stop, last))
                if rows.start < rows.stop:
                    given = values(str(table_name(key)), block)[
                        rows.start - block.start : rows.stop - block.start, columns
                    ]
                    weights[rows.start - row_offset : rows.stop - row_offset] = given.to(weights.device)


def initial_blocks(rows: int, dim: int) -> Iterator[slice]:
    """Rows of a table in blocks, the same under any plan; the last may end somewhat behind the table.

    A block has at most `INITIAL_BLOCK_ROWS` rows and 256 MiB of float32, and a multiple of 16 rows: torch
    draws normal values by 16, so that those of a row do not depend on how many follow.
    """
    length = min(INITIAL_BLOCK_ROWS, max(INITIAL_BLOCK_VALUES // dim // 16, 1) * 16)
    for start in range(0, rows, length):
        yield slice(start, start + min(length, -(-(rows - start) // 16) * 16))


def normal_block(seed: int, table: str, rows: slice, dim: int, std: float) -> torch.Tensor:
    """Normal values, a pure function of seed, table and first row: (len(rows), dim) float32."""
    # Of a seed, torch's generator on CPU takes the lower 32 bits: everything has to be hashed into them.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{table}/{rows.start}".encode()))
    return torch.empty(rows.stop - rows.start, dim).normal_(0, std, generator=generator)


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


def _fused_tables(plan: ShardingPlan) -> set[str]:
    modules = cast(list[EmbeddingModuleShardingPlan], list(plan.plan.values()))
    return {name for module in modules for name, table in module.items() if table.compute_kernel != "dense"}


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


def _local_shards(
    model: nn.Module,
) -> Iterator[tuple[str, torch.Tensor, tuple[int, int], tuple[int, int]]]:
    """Key, local weights, first row and column, and shape of the table, of every shard on this rank."""
    for key, value in whole_state(model).items():
        if table_name(key) is None:
            continue
        if isinstance(value, ShardedTensor):
            size = value.metadata().size
            for part in value.local_shards():
                row, column = part.metadata.shard_offsets
                yield key, part.tensor, (row, column), (size[0], size[1])
        else:
            yield key, value, (0, 0), (value.shape[0], value.shape[1])
