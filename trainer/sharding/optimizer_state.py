"""The optimizers' state by table, whichever kernel has it: what a resumed training needs.

A fused kernel and a dense optimizer hold the same values under different names and in different shapes. Here
each has one name, is sharded as its table is and shares memory with the optimizer, so a checkpoint of one
opens in the other. The closed form's tables are not trained and are left out.
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
    unsupported,
)

PREFIX, UNTRAINED = "optimizer.", "closed."
NAMES = {
    "adam": {"exp_avg": "first", "exp_avg_sq": "second"},
    "adam_fused": {"momentum1": "first", "exp_avg_sq": "second"},
    "adagrad": {"sum": "sum", "momentum1": "sum"},
    "rowwise_adagrad": {"sum": "sum_of_row", "momentum1": "sum_of_row"},
    "sgd": {},
}
"""Names of a table's states in checkpoints, by optimizer and by the name in torch or in a fused kernel."""
NOT_SAVED = ("step",)
"""States that a checkpoint's description has instead."""


def optimizer_state(model: nn.Module, optimizer: CombinedOptimizer, name: str) -> dict[str, Any]:
    """Return the states of all trained tables and of the dense layers, by key; call this on every rank.

    Args:
        model: Sharded model.
        optimizer: Its optimizer.
        name: Name of the tables' optimizer.
    """
    states = optimizer.state_dict()["state"]
    found = {
        f"{PREFIX}{key}.{kind}": value
        for key, state in states.items()
        if table_name(key) is None
        for kind, value in state.items()
    }
    tables = _states_by_table(states, name)
    for key, weights in whole_state(model).items():
        for kind, tensors in tables.get(key, {}).items():
            if isinstance(weights, ShardedTensor):
                entry, suffix = _sharded_like(weights, tensors)
                found[f"{PREFIX}{key}.{kind}{suffix}"] = entry
            else:
                found[f"{PREFIX}{key}.{kind}"] = tensors[0]
    return found


def create_states(optimizer: CombinedOptimizer) -> None:
    """Create the states of dense optimizers, which torch does at the first step; nothing else changes."""
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
    """Set the step count of all optimizers, dense and fused."""
    set_fused_step(optimizer, step)
    for _, keyed in optimizer.optimizers:
        if isinstance(keyed, KeyedOptimizerWrapper):
            for state in keyed.state.values():
                if isinstance(state.get("step"), torch.Tensor):
                    state["step"].fill_(step)


def _states_by_table(states: Mapping[str, Any], name: str) -> dict[str, dict[str, list[torch.Tensor]]]:
    """Return this rank's tensors by whole table and name in checkpoints, in the order of its shards."""
    found: dict[str, dict[str, list[torch.Tensor]]] = {}
    for key in sorted(states, key=lambda key: (whole_key(key), partition_number(key.split(".")[-2]))):
        if table_name(key) is None or key.startswith(UNTRAINED):
            continue
        for kind, value in states[key].items():
            state = kind.rpartition(".")[2]
            if state in NOT_SAVED:
                continue
            if state not in NAMES[name]:  # dropped in silence, it would begin anew where a training resumes
                raise unsupported(f"{name} has a state {state} of {key}, which no checkpoint has a name for")
            tensors = found.setdefault(whole_key(key), {}).setdefault(NAMES[name][state], [])
            tensors += _local(value)
    return found


def _local(value: torch.Tensor | ShardedTensor) -> Iterator[torch.Tensor]:
    if isinstance(value, ShardedTensor):
        yield from (shard.tensor for shard in value.local_shards())
    else:
        yield value


def _sharded_like(weights: ShardedTensor, tensors: list[torch.Tensor]) -> tuple[ShardedTensor, str]:
    """Return a state sharded as the weights are, and the suffix of its name if that depends on the sharding.

    Each shard by columns has its own value per row: such a state has as many columns as there are shards.
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
    # The states of float16 tables are float32 too.
    properties = replace(weights.metadata().tensor_properties, dtype=torch.float32)
    metadata = ShardedTensorMetadata(shards_metadata=shards, size=size, tensor_properties=properties)
    return sharded_tensor(local, metadata)
