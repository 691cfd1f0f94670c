"""A sharded model's weights by table, partitions joined: what checkpoints hold.

A checkpoint therefore does not depend on partitions: it opens in a model with other ones, or with none.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from trainer.model.row_partitions import MARK, partition_number, whole_table
from trainer.sharding.private_api import (
    Shard,
    ShardedTensor,
    ShardedTensorMetadata,
    ShardMetadata,
    sharded_tensor,
)


def table_name(key: str) -> str | None:
    """Return the table of a key (`user` of `query.embeddings.embedding_bags.user:0.weight`), or None."""
    parts = key.split(".")
    return whole_table(parts[-2]) if "embedding_bags" in parts else None


def whole_key(key: str) -> str:
    """Return the key of the whole table if `key` is a partition's, and otherwise `key`."""
    parts = key.split(".")
    return ".".join([*parts[:-2], whole_table(parts[-2]), parts[-1]]) if table_name(key) else key


def whole_state(model: nn.Module) -> dict[str, Any]:
    """Return the model's state with one entry per table, which shares memory with the model.

    Args:
        model: Sharded (call this on every rank), or plain and without partitions.
    """
    state: dict[str, Any] = {}
    partitions: dict[str, dict[int, ShardedTensor]] = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if table_name(key) is not None and MARK in parts[-2]:
            partitions.setdefault(whole_key(key), {})[partition_number(parts[-2])] = value
            state[whole_key(key)] = None  # keeps the order of tables
        else:
            state[key] = value
    return state | {key: _joined([own[number] for number in sorted(own)]) for key, own in partitions.items()}


def local_shards(value: torch.Tensor | ShardedTensor) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Yield this rank's shards of an entry of a state, each with its first row and its first column.

    A plain tensor counts as one shard.
    """
    if not isinstance(value, ShardedTensor):
        yield value, 0, 0
        return
    for shard in value.local_shards():
        row, column = shard.metadata.shard_offsets
        yield shard.tensor, row, column


def full_shape(value: torch.Tensor | ShardedTensor) -> torch.Size:
    """Return the shape of an entry of a state over all ranks."""
    return value.metadata().size if isinstance(value, ShardedTensor) else value.shape


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a state in CPU memory, which training does not change."""
    return {key: _copy(value) for key, value in state.items()}


def _copy(value: Any) -> Any:
    if not isinstance(value, ShardedTensor):
        return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
    whole = value.metadata()
    local = [Shard(_copy(shard.tensor), _on_cpu(shard.metadata)) for shard in value.local_shards()]
    metadata = replace(whole, shards_metadata=[_on_cpu(shard) for shard in whole.shards_metadata])
    return sharded_tensor(local, metadata)


def _on_cpu(shard: ShardMetadata) -> ShardMetadata:
    """Return the same shard of the same rank, but in CPU memory."""
    assert shard.placement is not None
    place = f"rank:{shard.placement.rank()}/cpu"
    return ShardMetadata(list(shard.shard_offsets), list(shard.shard_sizes), place)


def _joined(partitions: list[ShardedTensor]) -> ShardedTensor:
    """Return one tensor of the rows of all partitions; nothing is copied."""
    local, everywhere, first_row = [], [], 0
    for partition in partitions:
        everywhere += [_moved_down(shard, first_row) for shard in partition.metadata().shards_metadata]
        for shard in partition.local_shards():
            local.append(Shard(shard.tensor, _moved_down(shard.metadata, first_row)))
        first_row += partition.metadata().size[0]
    metadata = ShardedTensorMetadata(
        shards_metadata=everywhere,
        size=torch.Size([first_row, partitions[0].metadata().size[1]]),
        tensor_properties=partitions[0].metadata().tensor_properties,
    )
    return sharded_tensor(local, metadata)


def _moved_down(shard: ShardMetadata, rows: int) -> ShardMetadata:
    row, column = shard.shard_offsets
    return ShardMetadata([row + rows, column], list(shard.shard_sizes), shard.placement)
