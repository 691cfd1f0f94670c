"""Row partitions: a table cut by rows into several, so that more ranks can hold it on every backend.

A partition is a table of consecutive rows. An id is in the bag of one partition and in no other's, so that
the pooled vectors of the partitions add up to that of the whole table.
"""

from collections.abc import Mapping

import torch
from torchrec import KeyedJaggedTensor

MARK = ":"
"""Separates a table's name from the number of a partition; no table's own name contains it."""


def partition_sizes(rows: int, count: int) -> list[int]:
    """Return the rows of each of at most `count` partitions: equal but for the last, and none empty."""
    block = -(-rows // count)
    return [min(block, rows - start) for start in range(0, rows, block)]


def partition_names(table: str, rows: int, count: int) -> dict[str, int]:
    """Return the rows of each of a table's partitions, by name."""
    return {f"{table}{MARK}{number}": size for number, size in enumerate(partition_sizes(rows, count))}


def whole_table(name: str) -> str:
    """Return the table to which a partition belongs; for a table that is not partitioned, itself."""
    return name.partition(MARK)[0]


def partition_number(name: str) -> int:
    """Return the number of a partition; 0 for a table that is not partitioned."""
    return int(name.partition(MARK)[2] or 0)


def within_partition(
    inputs: KeyedJaggedTensor, blocks: Mapping[str, tuple[int, int]], number: int
) -> KeyedJaggedTensor:
    """Return features that look up one partition of every partitioned table, with ids from 0.

    Args:
        inputs: Features; those of partitioned tables have ids of that partition alone.
        blocks: Number of partitions and rows of the first one, by partitioned feature.
        number: Number of the partition.

    Returns:
        Features of the same stride; those of other tables unchanged.
    """
    keys, values, offsets = [], [], inputs.offset_per_key()
    for place, key in enumerate(inputs.keys()):
        ids = inputs.values()[offsets[place] : offsets[place + 1]]
        keys.append(f"{key}{MARK}{number}" if key in blocks else key)
        values.append(ids - number * blocks[key][1] if key in blocks else ids)
    return KeyedJaggedTensor(
        keys=keys,
        values=values[0] if len(values) == 1 else torch.cat(values),
        lengths=inputs.lengths(),
        stride=inputs.stride(),
        length_per_key=inputs.length_per_key(),
    )


def split_by_rows(inputs: KeyedJaggedTensor, blocks: Mapping[str, tuple[int, int]]) -> KeyedJaggedTensor:
    """Split each feature of a partitioned table into one feature a partition, with ids from 0.

    Args:
        inputs: Features of any table.
        blocks: Number of partitions and rows of the first one, by partitioned feature.

    Returns:
        Features of the same stride; the partitions of a feature take its place, in order.
    """
    keys, lengths, values = [], [], []
    for key in inputs.keys():  # noqa: SIM118 - no mapping
        bags = inputs[key]
        if key not in blocks:
            keys.append(key)
            lengths.append(bags.lengths())
            values.append(bags.values())
            continue
        count, block = blocks[key]
        keys += [f"{key}{MARK}{number}" for number in range(count)]
        split_lengths, ids, *_ = torch.ops.fbgemm.block_bucketize_sparse_features(
            bags.lengths(),
            bags.values(),
            bucketize_pos=False,
            sequence=False,
            block_sizes=bags.values().new_full((1,), block),  # a copy from the CPU would be waited for
            my_size=count,
        )
        lengths.append(split_lengths)
        values.append(ids)
    return KeyedJaggedTensor(
        keys=keys, values=torch.cat(values), lengths=torch.cat(lengths), stride=inputs.stride()
    )
