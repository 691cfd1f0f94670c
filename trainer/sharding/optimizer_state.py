"""The optimizers' states by table, whatever kernel keeps them: what a training needs to go on.

A fused kernel and a dense optimizer keep the same values under different names and shapes. Here they have one
name each, lie as their tables do and share their memory with the optimizer, so that a checkpoint of one opens
in the other. The tables of a closed form, which nothing trains, are left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from trainer.model.row_partitions import partition_number
from trainer.sharding.model_state import table_name, whole_key, whole_state
from trainer.sharding.optimizers import set_fused_step
from trainer.sharding.private_api import (
    Shard,
    ShardedTensor,
    ShardedTensorMetadata,
    ShardMetadata,
    sharded_tensor,
)

PREFIX, UNTRAINED = "optimizer.", "closed."
NAMES = {
    "adam": {"exp_avg": "first", "exp_avg_sq": "second"},
    "adam_fused": {"momentum1": "first", "momentum2": "second"},
    "adagrad": {"sum": "sum", "momentum1": "sum"},
    "rowwise_adagrad": {"sum": "sum_of_row", "momentum1": "sum_of_row"},
    "sgd": {},
}
"""Our names of a table's states, by optimizer and by torch's name or a fused kernel's."""


def optimizer_state(model: nn.Module, optimizer: CombinedOptimizer, name: str) -> dict[str, Any]:
    """States of all trained tables and of the dense layers, by name.

    Args:
        model, optimizer: from `trainer.sharding.shard`, on every rank alike.
        name: of the tables' optimizer.
    """
    kept = optimizer.state_dict()["state"]
    found = {
        f"{PREFIX}{key}.{kind}": value
        for key, state in kept.items()
        if table_name(key) is None
        for kind, value in state.items()
    }
    parts = _states_of_parts(kept, name)
    for key, weights in whole_state(model).items():
        for kind, tensors in parts.get(key, {}).items():
            if isinstance(weights, ShardedTensor):
                entry, cut = _like(weights, tensors)
                found[f"{PREFIX}{key}.{kind}{cut}"] = entry
            else:
                found[f"{PREFIX}{key}.{kind}"] = tensors[0]
    return found


def create_states(optimizer: CombinedOptimizer) -> None:
    """Give every dense optimizer its states, which torch makes at the first step; nothing else changes."""
    for _, keyed in optimizer.optimizers:
        if isinstance(keyed, KeyedOptimizerWrapper):
            groups: list[dict[str, Any]] = list(keyed.param_groups)  # type: ignore[arg-type]
            rates = [group["lr"] for group in groups]
            for group in groups:
                group["lr"] = 0.0
            keyed.init_state()
            keyed.zero_grad()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate


def set_step(optimizer: CombinedOptimizer, step: int) -> None:
    """Tell the optimizers, dense and fused, how many steps they have made."""
    set_fused_step(optimizer, step)
    for _, keyed in optimizer.optimizers:
        if isinstance(keyed, KeyedOptimizerWrapper):
            for state in keyed.state.values():
                if isinstance(state.get("step"), torch.Tensor):
                    state["step"].fill_(step)


def _states_of_parts(kept: Mapping[str, Any], name: str) -> dict[str, dict[str, list[torch.Tensor]]]:
    """This rank's tensors by whole table and our name, in the order of its shards."""
    found: dict[str, dict[str, list[torch.Tensor]]] = {}
    for key in sorted(kept, key=lambda key: (whole_key(key), partition_number(key.split(".")[-2]))):
        if table_name(key) is None or key.startswith(UNTRAINED):
            continue
        for kind, value in kept[key].items():
            own = NAMES[name].get(kind.rpartition(".")[2])
            if own is not None:
                tensors = found.setdefault(whole_key(key), {}).setdefault(own, [])
                tensors += _local(value)
    return found


def _local(value: torch.Tensor | ShardedTensor) -> Iterator[torch.Tensor]:
    if isinstance(value, ShardedTensor):
        yield from (shard.tensor for shard in value.local_shards())
    else:
        yield value


def _like(weights: ShardedTensor, tensors: list[torch.Tensor]) -> tuple[ShardedTensor, str]:
    """States that lie as the weights do; and what their name says of a table cut by columns.

    Of one value a row a shard by columns has its own: as many columns as there are such shards.
    """
    rows, columns = weights.metadata().size
    shards = weights.metadata().shards_metadata
    if tensors and tensors[0].dim() == 2 and tensors[0].shape[1] > 1:
        return _sharded([*shards], torch.Size([rows, columns]), weights, tensors), ""
    offsets = sorted({shard.shard_offsets[1] for shard in shards})
    by_row = [
        ShardMetadata(
            [shard.shard_offsets[0], offsets.index(shard.shard_offsets[1])],
            [shard.shard_sizes[0], 1],
            shard.placement,
        )
        for shard in shards
    ]
    cut = f"_of_{len(offsets)}_shards" if len(offsets) > 1 else ""
    return _sharded(by_row, torch.Size([rows, len(offsets)]), weights, tensors), cut


def _sharded(
    shards: list[ShardMetadata], size: torch.Size, weights: ShardedTensor, tensors: list[torch.Tensor]
) -> ShardedTensor:
    everywhere = weights.metadata().shards_metadata
    places = [everywhere.index(shard.metadata) for shard in weights.local_shards()]
    local = [
        Shard(tensor.view(shards[place].shard_sizes), shards[place])
        for place, tensor in zip(places, tensors, strict=True)
    ]
    # Of float16 tables, too, the states are float32.
    properties = replace(weights.metadata().tensor_properties, dtype=torch.float32)
    metadata = ShardedTensorMetadata(shards_metadata=shards, size=size, tensor_properties=properties)
    return sharded_tensor(local, metadata)
