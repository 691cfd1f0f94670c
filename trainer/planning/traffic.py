"""Bytes that a step moves between ranks, by the way a table is sharded.

Counted as the collectives move them, forward and backward, in 64-bit ids, 32-bit lengths and 32-bit values
(pooled vectors perhaps in 16 bits); what a rank sends to itself costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ID_BYTES, LENGTH_BYTES, VALUE_BYTES = 8, 4, 4


@dataclass
class Traffic:
    """Bytes that each rank sends and receives in a step: (world size,) float64 each."""

    sent: np.ndarray
    received: np.ndarray

    @classmethod
    def none(cls, world_size: int) -> "Traffic":
        """Before anything is counted."""
        return cls(np.zeros(world_size), np.zeros(world_size))

    def exchange(self, rank: int, there: float, back: float) -> None:
        """Every other rank sends so many bytes to `rank`, which sends so many back to each of them."""
        others = len(self.sent) - 1
        self.sent += there
        self.received += back
        self.sent[rank] += others * back - there
        self.received[rank] += others * there - back

    def ring(self, ranks: Sequence[int], size: float, passes: int) -> None:
        """Each of the ranks passes all but one part of `size` bytes on, and takes as much, in each pass."""
        moved = passes * size * (len(ranks) - 1) / len(ranks)
        self.sent[list(ranks)] += moved
        self.received[list(ranks)] += moved


def add_table(
    traffic: Traffic,
    sharding: str,
    shards: Sequence[tuple[int, int, int]],
    bags: float,
    pooling_factor: float,
    local_world_size: int,
    value_bytes: int = VALUE_BYTES,
) -> None:
    """Count the traffic of one table in.

    Args:
        sharding: TorchRec's name.
        shards: (rank, rows, columns) of each; of a data-parallel table those of the whole.
        bags: that one rank asks for in a step.
        pooling_factor: ids in a bag.
        value_bytes: of a value in the pooled vectors and gradients that are exchanged; copies are summed up
            in 32 bits in any case.
    """
    everyone = range(len(traffic.sent))
    if sharding == "data_parallel":
        traffic.ring(everyone, shards[0][1] * shards[0][2] * VALUE_BYTES, passes=2)
        return
    by_rows = sharding in ("row_wise", "table_row_wise")
    asked = bags * (LENGTH_BYTES + ID_BYTES * pooling_factor / (len(shards) if by_rows else 1))
    for rank, _, columns in shards:
        vectors = 0.0 if by_rows else bags * columns * value_bytes
        traffic.exchange(rank, asked + vectors, vectors)
    if by_rows:
        size = bags * shards[0][2] * value_bytes
        _add_partial_sums(traffic, [rank for rank, _, _ in shards], size, local_world_size)


def _add_partial_sums(traffic: Traffic, ranks: list[int], vectors: float, local_world_size: int) -> None:
    """Count in what ranks that each know a part of every sum, `vectors` bytes a rank, move there and back."""
    world_size = len(traffic.sent)
    traffic.ring(ranks, world_size * vectors, passes=2)
    if len(ranks) < world_size:  # one host's ranks meet, then serve every rank of other hosts
        hosts = world_size // local_world_size
        others = np.setdiff1d(np.arange(world_size), ranks)
        for side in (traffic.sent, traffic.received):
            side[ranks] += (hosts - 1) * vectors
            side[others] += vectors


def add_gathered(traffic: Traffic, size: float) -> None:
    """Count in vectors of `size` bytes in all: gathered on every rank, and their gradients summed up."""
    everyone = range(len(traffic.sent))
    traffic.ring(everyone, size, passes=1)
    traffic.ring(everyone, size, passes=2)
