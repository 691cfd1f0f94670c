"""Bytes that a step moves between ranks, by the collective of each table's kind of sharding.

Counted as the collectives move them, forward and backward, in 64-bit ids, 32-bit lengths and 32-bit values
(pooled vectors perhaps in 16 bits). What a rank sends to itself costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trainer.facts.sharding_kinds import sharding_kind

ID_BYTES, LENGTH_BYTES, VALUE_BYTES = 8, 4, 4
ShardSize: TypeAlias = tuple[int, int, int]
"""Rank, rows and columns of a shard."""


@dataclass
class Traffic:
    """Bytes that each rank sends and receives in a step: (world size,) float64 each."""

    sent: np.ndarray
    received: np.ndarray

    @classmethod
    def none(cls, world_size: int) -> "Traffic":
        """Return the traffic of no tables."""
        return cls(np.zeros(world_size), np.zeros(world_size))

    def exchange(self, rank: int, request: float, response: float) -> None:
        """Add `request` bytes from every other rank to `rank`, and `response` bytes back to each of them."""
        others = len(self.sent) - 1
        self.sent += request
        self.received += response
        self.sent[rank] += others * response - request
        self.received[rank] += others * request - response

    def ring(self, ranks: Sequence[int], size: float, passes: int) -> None:
        """Add ring passes over `size` bytes, in each of which a rank passes on all but its own share."""
        moved = passes * size * (len(ranks) - 1) / len(ranks)
        self.sent[list(ranks)] += moved
        self.received[list(ranks)] += moved


@dataclass(frozen=True)
class Lookups:
    """What one rank looks up in a table in a step.

    Attributes:
        bags: Bags.
        pooling_factor: Mean ids per bag.
        value_bytes: Bytes of a value in exchanged pooled vectors and their gradients.
    """

    bags: float
    pooling_factor: float
    value_bytes: int = VALUE_BYTES

    def request(self, shards: int = 1) -> float:
        """Return the bytes of lengths and ids sent to one of `shards` shards among which ids are divided."""
        return self.bags * (LENGTH_BYTES + ID_BYTES * self.pooling_factor / shards)

    def vectors(self, columns: int) -> float:
        """Return the bytes of the pooled vectors, or of their gradients, `columns` wide."""
        return self.bags * columns * self.value_bytes


def add_table(
    traffic: Traffic, sharding: str, shards: Sequence[ShardSize], lookups: Lookups, local_world_size: int
) -> None:
    """Add the traffic of one table.

    Args:
        traffic: Totals to add to.
        sharding: Kind of sharding.
        shards: Rank, rows and columns of each shard; a copy is a shard of the table's size.
        lookups: What one rank looks up in a step.
        local_world_size: Ranks per host.

    Raises:
        ConfigError: There is no such kind.
    """
    COLLECTIVES[sharding_kind(sharding).collective](traffic, shards, lookups, local_world_size)


def _all_to_all(
    traffic: Traffic, shards: Sequence[ShardSize], lookups: Lookups, local_world_size: int
) -> None:
    """Send every bag's ids to every shard, and its columns of the pooled vectors back."""
    for rank, _, columns in shards:
        vectors = lookups.vectors(columns)
        traffic.exchange(rank, lookups.request() + vectors, vectors)  # gradients go with the next ids


def _reduce_scatter(
    traffic: Traffic, shards: Sequence[ShardSize], lookups: Lookups, local_world_size: int
) -> None:
    """Send ids to the shard that has their rows, and sum the shards' partial results for each rank."""
    for rank, _, _ in shards:
        traffic.exchange(rank, lookups.request(len(shards)), 0.0)
    world_size, ranks = len(traffic.sent), [rank for rank, _, _ in shards]
    vectors = lookups.vectors(shards[0][2])
    traffic.ring(ranks, world_size * vectors, passes=2)  # sums forward, gradients backward
    if len(ranks) < world_size:  # ranks of one host sum, then each serves its peers on the other hosts
        hosts = world_size // local_world_size
        others = np.setdiff1d(np.arange(world_size), ranks)
        for side in (traffic.sent, traffic.received):
            side[ranks] += (hosts - 1) * vectors
            side[others] += vectors


def _all_reduce(
    traffic: Traffic, shards: Sequence[ShardSize], lookups: Lookups, local_world_size: int
) -> None:
    """Sum the gradients of all rows over all ranks, in 32 bits."""
    _, rows, columns = shards[0]
    traffic.ring(range(len(traffic.sent)), rows * columns * VALUE_BYTES, passes=2)


COLLECTIVES: dict[str, Callable[[Traffic, Sequence[ShardSize], Lookups, int], None]] = {
    "all_to_all": _all_to_all,
    "reduce_scatter": _reduce_scatter,
    "all_reduce": _all_reduce,
}


def add_gathered(traffic: Traffic, size: float) -> None:
    """Add vectors of `size` bytes in all that every rank gathers, and whose gradients are summed."""
    ranks = range(len(traffic.sent))
    traffic.ring(ranks, size, passes=1)
    traffic.ring(ranks, size, passes=2)
