"""From towers and plan to a sharded model with its optimizers and its initial values."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ModuleSharder, ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from trainer.distributed.quantized_comm import codecs
from trainer.errors import ConfigError
from trainer.sharding.local_lookup import LocalLookupSharder
from trainer.sharding.model_state import table_name
from trainer.sharding.optimizers import EPSILON, FUSED, _groups, _keyed, dense_optimizer
from trainer.sharding.private_api import (
    DefaultDataParallelWrapper,
    apply_optimizer_in_backward,
    forget_groups_of_another_world,
    in_backward_optimizer_filter,
)


def shard(
    towers: nn.Module,
    plan: ShardingPlan,
    *,
    device: torch.device,
    optimizer: str,
    learning_rates: dict[str, float],
    dense_learning_rate: float,
    weight_decay: float,
    communication: str = "float32",
    betas: Sequence[float] = (0.9, 0.999),
    lookup: str = "auto",
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Lay the towers over the ranks as planned, each table with its optimizer.

    Args:
        towers: module with tables on the meta device.
        plan: see `trainer.planning.plan_check`.
        device: of this rank.
        optimizer: of the tables: a name out of `trainer.planning.kernel_support.KERNELS`.
        learning_rates: peak learning rate of every table, by name.
        dense_learning_rate: peak learning rate of all other parameters, which are trained with Adam.
        weight_decay: L2 penalty on all rows of the tables; 0 with fused kernels.
        communication: type in which ranks exchange pooled vectors and their gradients, see
            `trainer.distributed.quantized_comm`.
        betas: of the tables' Adam.
        lookup: `auto`, or `torchrec` for TorchRec's own lookups everywhere.
    Returns: the sharded model, its tables without values, and one optimizer for everything.
    Raises: ConfigError for a weight decay that the kernel would ignore.
    """
    forget_groups_of_another_world()
    fused = _fused_tables(plan)
    if fused and weight_decay > 0:
        # FBGEMM takes the setting and, on CPU, drops it without a word; its Adam on CUDA decays otherwise.
        dense = "--optimizer.name adam" if optimizer == "adam_fused" else "--sharding.kind data_parallel"
        raise ConfigError(
            f"--optimizer.weight_decay {weight_decay}: a fused {optimizer.removesuffix('_fused')} has none. "
            f"Leave it at 0, or use {dense}"
        )
    settings = {"weight_decay": weight_decay} | ({} if optimizer == "sgd" else {"eps": EPSILON})
    for key, parameter in towers.named_parameters():
        if table_name(key) and key.split(".")[-2] in fused:
            options = settings | {"lr": learning_rates[str(table_name(key))]}
            options |= dict(zip(("beta1", "beta2"), betas, strict=True)) if optimizer == "adam_fused" else {}
            apply_optimizer_in_backward(FUSED[optimizer], [parameter], options)
    sharder = LocalLookupSharder(direct=lookup == "auto", qcomm_codecs_registry=codecs(communication))
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
        optimizers.append(_keyed(tables, rates, dense_optimizer(optimizer, device), options))
    if others:
        rates = dict.fromkeys(others, dense_learning_rate)
        optimizers.append(_keyed(others, rates, dense_optimizer("adam", device), {}))
    combined = CombinedOptimizer(optimizers)
    for group in _groups(combined):
        group["peak_lr"] = group["lr"]
    return model, combined


def _fused_tables(plan: ShardingPlan) -> set[str]:
    modules = cast(list[EmbeddingModuleShardingPlan], list(plan.plan.values()))
    return {name for module in modules for name, table in module.items() if table.compute_kernel != "dense"}
