"""Tables whose rows are cut into several tables, so that more ranks can hold them on every backend.

A partition is a table of consecutive rows. An id has an entry in one partition's bag and none in the others',
so the partitions' pooled vectors add up to the whole table's.
"""

from collections.abc import Mapping

import torch
from torchrec import KeyedJaggedTensor

MARK = ":"
"""Between a table's name and the number of its partition; no table's own name holds it."""


def partition_sizes(rows: int, parts: int) -> list[int]:
    """Rows of each partition: equal ones but for the last, and as many as have a row."""
    block = -(-rows // parts)
    return [min(block, rows - start) for start in range(0, rows, block)]


def part_names(table: str, rows: int, parts: int) -> dict[str, int]:
    """Names and rows of a table's partitions."""
    return {f"{table}{MARK}{number}": size for number, size in enumerate(partition_sizes(rows, parts))}


def whole_table(name: str) -> str:
    """The table that a partition is of; of any other table the table itself."""
    return name.partition(MARK)[0]


def part_number(name: str) -> int:
    """The number of a partition; 0 for a table that is whole."""
    return int(name.partition(MARK)[2] or 0)


def within_part(
    inputs: KeyedJaggedTensor, blocks: Mapping[str, tuple[int, int]], part: int
) -> KeyedJaggedTensor:
    """Features that ask for one partition alone of all cut tables, its ids from 0; others as they are.

    Args:
        inputs, blocks: as there.
        part: number of the partition.
    """
    keys, values, places = [], [], inputs.offset_per_key()
    for number, key in enumerate(inputs.keys()):
        ids = inputs.values()[places[number] : places[number + 1]]
        keys.append(f"{key}{MARK}{part}" if key in blocks else key)
        values.append(ids - part * blocks[key][1] if key in blocks else ids)
    return KeyedJaggedTensor(
        keys=keys,
        values=values[0] if len(values) == 1 else torch.cat(values),
        lengths=inputs.lengths(),
        stride=inputs.stride(),
        length_per_key=inputs.length_per_key(),
    )


def split_by_rows(inputs: KeyedJaggedTensor, blocks: Mapping[str, tuple[int, int]]) -> KeyedJaggedTensor:
    """Features of cut tables as one feature a partition, each with ids from 0; others as they are.

    Args:
        inputs: stride B.
        blocks: number of partitions and rows of the first one, by feature.
    Returns: stride B; a feature's partitions stand in its place, in order.
    """
    keys, lengths, values = [], [], []
    for key in inputs.keys():  # noqa: SIM118 - no mapping
        bags = inputs[key]
        if key not in blocks:
            keys.append(key)
            lengths.append(bags.lengths())
            values.append(bags.values())
            continue
        parts, block = blocks[key]
        keys += [f"{key}{MARK}{number}" for number in range(parts)]
        in_parts, ids, *_ = torch.ops.fbgemm.block_bucketize_sparse_features(
            bags.lengths(),
            bags.values(),
            bucketize_pos=False,
            sequence=False,
            block_sizes=bags.values().new_full((1,), block),
            my_size=parts,
        )
        lengths.append(in_parts)
        values.append(ids)
    return KeyedJaggedTensor(
        keys=keys, values=torch.cat(values), lengths=torch.cat(lengths), stride=inputs.stride()
    )
