"""A sharded model's weights by table, those of row-partitioned tables put together: what checkpoints hold.

A checkpoint so knows nothing of partitions: it opens in a model that is cut otherwise, or not at all.
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
    """Whole table of a key (`query.embeddings.embedding_bags.user:0.weight`: `user`); None if of none."""
    parts = key.split(".")
    return whole_table(parts[-2]) if "embedding_bags" in parts else None


def whole_key(key: str) -> str:
    """The key of a whole table, of which `key` is a partition's; of anything else the key itself."""
    parts = key.split(".")
    return ".".join([*parts[:-2], whole_table(parts[-2]), parts[-1]]) if table_name(key) else key


def whole_state(model: nn.Module) -> dict[str, Any]:
    """The model's state, with one entry a table, which shares its memory with the model.

    Args: model: sharded, on every rank alike, or plain and without partitions.
    """
    state: dict[str, Any] = {}
    cut: dict[str, dict[int, ShardedTensor]] = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if table_name(key) is not None and MARK in parts[-2]:
            cut.setdefault(whole_key(key), {})[partition_number(parts[-2])] = value
            state[whole_key(key)] = None  # keeps the table's place
        else:
            state[key] = value
    return state | {
        key: _put_together([parts[number] for number in sorted(parts)]) for key, parts in cut.items()
    }


def local_shards(value: torch.Tensor | ShardedTensor) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Yield this rank's shards of an entry of a state, each with its first row and its first column.

    A plain tensor is its own only shard.
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
    """The same state in memory of its own on CPU, which training leaves as it is."""
    return {key: _copy(value) for key, value in state.items()}


def _copy(value: Any) -> Any:
    if not isinstance(value, ShardedTensor):
        return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
    whole = value.metadata()
    local = [Shard(_copy(shard.tensor), _on_cpu(shard.metadata)) for shard in value.local_shards()]
    metadata = replace(whole, shards_metadata=[_on_cpu(shard) for shard in whole.shards_metadata])
    return sharded_tensor(local, metadata)


def _on_cpu(shard: ShardMetadata) -> ShardMetadata:
    """Return the same place in the table, held by the same rank in its host's memory."""
    assert shard.placement is not None
    place = f"rank:{shard.placement.rank()}/cpu"
    return ShardMetadata(list(shard.shard_offsets), list(shard.shard_sizes), place)


def _put_together(parts: list[ShardedTensor]) -> ShardedTensor:
    """One tensor of the rows of all parts, one below the other, each where it lies."""
    local, everywhere, first_row = [], [], 0
    for part in parts:
        everywhere += [_below(shard, first_row) for shard in part.metadata().shards_metadata]
        local += [Shard(shard.tensor, _below(shard.metadata, first_row)) for shard in part.local_shards()]
        first_row += part.metadata().size[0]
    metadata = ShardedTensorMetadata(
        shards_metadata=everywhere,
        size=torch.Size([first_row, parts[0].metadata().size[1]]),
        tensor_properties=parts[0].metadata().tensor_properties,
    )
    return sharded_tensor(local, metadata)


def _below(shard: ShardMetadata, rows: int) -> ShardMetadata:
    row, column = shard.shard_offsets
    return ShardMetadata([row + rows, column], list(shard.shard_sizes), shard.placement)
