"""What ranks of one host give each other through memory that they share.

gloo sends what ranks exchange through the loopback interface, about 1 GB a second and rank, and takes their
cores for it: for the gradients of tables that every rank has, longer than all lookups of a step.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FOLDER = Path("/dev/shm")
MOST_RANKS = 8
"""Every rank reads what all have written; among more ranks than that gloo's ring moves less."""
MOST_BYTES = 2**28
"""Of a host's memory that is taken at a time, which no plan counts."""


class SharedPlaces:
    """Two places for float32 values of every rank: what is in one is read while the other is written."""

    def __init__(self, memory: torch.Tensor, group: Any) -> None:
        """Args: memory: (2, ranks, size), shared by all ranks of `group`."""
        self._memory, self._group, self._rank = memory, group, dist.get_rank(group)
        self._written, self._calls = torch.zeros(1), 0

    def exchange(self, values: torch.Tensor) -> torch.Tensor:
        """What every rank gives, (ranks, `size`): its values first, to be read before this rank's next call.

        Args: values: up to `size`, of any shape. Every rank calls alike.
        """
        place = self._memory[self._calls % 2]
        self._calls += 1
        place[self._rank, : values.numel()].view(values.shape).copy_(values)
        # Whoever comes to the next call has read this one. A peer that is gone is an error here, and no wait.
        dist.all_reduce(self._written, group=self._group)
        return place


def shared_places(size: int, group: Any) -> SharedPlaces | None:
    """Places for `size` values of each rank of a group, made on every rank alike.

    None where they share no memory or not enough of it, or where it would take more than `MOST_BYTES`.
    """
    ranks = dist.get_world_size(group)
    size_bytes = 2 * ranks * size * 4
    if ranks > MOST_RANKS or size_bytes > MOST_BYTES:
        return None
    memory, names = None, [_made(size_bytes) if dist.get_rank(group) == 0 else None]
    dist.broadcast_object_list(names, group=group, group_src=0)
    name = names[0]
    if name is not None and Path(name).exists():
        memory = torch.from_file(name, shared=True, size=2 * ranks * size).view(2, ranks, size)
    opened = torch.tensor(float(memory is not None))
    dist.all_reduce(opened, dist.ReduceOp.MIN, group=group)
    if name is not None and dist.get_rank(group) == 0:
        Path(name).unlink()  # memory lives as long as somebody maps it
    return SharedPlaces(memory, group) if memory is not None and opened else None


class GrowingPlaces:
    """Places for as many values as are asked for; to be asked on every rank alike."""

    def __init__(self) -> None:
        self._size, self._has_room = 0, True
        self._places: SharedPlaces | None = None

    def of(self, size: int) -> SharedPlaces | None:
        """Places for `size` values of each rank, or None once there was no room for them."""
        if self._has_room and size > self._size:
            self._size = size + size // 2
            self._places = shared_places(self._size, None)
            self._has_room = self._places is not None
        return self._places if self._has_room else None


def _made(size: int) -> str | None:
    """A new file of so many bytes in memory; None where there is no room."""
    try:
        handle, name = tempfile.mkstemp(prefix="shardtower-", dir=FOLDER)
    except OSError:
        return None
    try:
        # What a file has no room for would end the process when it is written to.
        os.posix_fallocate(handle, 0, size)
    except (OSError, AttributeError):
        Path(name).unlink()
        return None
    finally:
        os.close(handle)
    return name
