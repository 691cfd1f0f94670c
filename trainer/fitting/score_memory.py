"""Memory of a step's scores, which no sharding plan counts: rows by candidates, whatever the tables are."""

import torch

from trainer.batching.batch import Batch
from trainer.batching.sampler import Batches
from trainer.distributed.host_limits import available_memory
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.formatting import format_bytes

SCORE_BYTES = 4
"""Scores are float32; the loss writes its gradient in their place."""


def check_scores_fit(batches: Batches, world: World) -> None:
    """Refuse steps whose scores alone are more than a rank's free memory; on every rank alike.

    The system would end a process that takes them, without a word of why.

    Raises:
        ConfigError: They do not fit; raised on every rank.
    """

    def check() -> None:
        rows, candidates = scored(batches.make(0, world.rank, world.size))
        needed, free = rows * candidates * SCORE_BYTES, free_memory(world)
        if needed > free:
            size = batches.plan.size
            fits = 1 << max((size * free // (2 * needed)).bit_length() - 1, 0)  # half is left to the rest
            raise ConfigError(
                f"--batches.size {size}: scores of {rows:,} rows x {candidates:,} candidates take "
                f"{format_bytes(needed)}, and rank {world.rank} has {format_bytes(free)} of memory left. "
                f"Take fewer rows: --batches.size {fits}"
            )

    world.on_each(check)


def scored(batch: Batch) -> tuple[int, int]:
    """Return how many rows a rank scores, and for how many candidates each; no candidates if pointwise."""
    candidates = batch.candidates.stride() if batch.query_counts else sum(batch.candidate_counts)
    return len(batch.positive_counts), candidates


def free_memory(world: World) -> int:
    """Return the bytes that a rank can still take: its share of the host's, or its GPU's."""
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0]
    return available_memory() // world.local_size
