"""Initial values of sharded tables, which do not depend on the plan."""

import zlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from trainer.sharding.model_state import full_shape, local_shards, table_name, whole_state

INITIAL_BLOCK_ROWS, INITIAL_BLOCK_VALUES = 65_536, 2**26


def fill_tables(model: nn.Module, values: Callable[[str, slice], torch.Tensor]) -> None:
    """Fill every shard on this rank with the initial values of its rows and columns.

    Args:
        model: Sharded or plain.
        values: From a table and a slice of rows to their values, (len(rows), dim) float32; called for one
            block of the table at a time, see `initial_blocks`.
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
    """Yield the rows of a table in blocks, the same under any plan; the last may exceed the table.

    A block has at most `INITIAL_BLOCK_ROWS` rows and 256 MiB of float32, and a multiple of 16 rows: torch
    draws normal values in groups of 16, so a row's values do not depend on how many rows follow.
    """
    length = min(INITIAL_BLOCK_ROWS, max(INITIAL_BLOCK_VALUES // dim // 16, 1) * 16)
    for start in range(0, rows, length):
        yield slice(start, start + min(length, -(-(rows - start) // 16) * 16))


def normal_block(seed: int, table: str, rows: slice, dim: int, std: float) -> torch.Tensor:
    """Return normal values (len(rows), dim) float32, a pure function of seed, table and first row."""
    # torch's CPU generator uses only the lower 32 bits of a seed: everything is hashed into them.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{table}/{rows.start}".encode()))
    return torch.empty(rows.stop - rows.start, dim).normal_(0, std, generator=generator)


def _local_shards(
    model: nn.Module,
) -> Iterator[tuple[str, torch.Tensor, tuple[int, int], tuple[int, int]]]:
    """Yield key, local weights, first row and column, and table shape of every shard on this rank."""
    for key, value in whole_state(model).items():
        if table_name(key) is None:
            continue
        rows, columns = full_shape(value)
        for weights, row, column in local_shards(value):
            yield key, weights, (row, column), (rows, columns)
