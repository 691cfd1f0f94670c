"""Initial values of sharded tables, which depend on the table alone and not on the plan."""

import zlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from trainer.sharding.model_state import table_name, whole_state
from trainer.sharding.private_api import ShardedTensor

INITIAL_BLOCK_ROWS, INITIAL_BLOCK_VALUES = 65_536, 2**26


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
