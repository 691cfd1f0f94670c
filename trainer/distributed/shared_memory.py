"""What ranks of one host give each other through memory that they share.

gloo sends what ranks exchange through the loopback interface, about 1 GB a second and rank, and takes their
cores for it: for the gradients of tables that every rank has, longer than all lookups of a step.
"""

import os
import socket
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FOLDER = Path("/dev/shm")
MOST_RANKS = 8
"""Every rank reads what all have written; among more ranks than that gloo's ring moves less."""
MOST_BYTES = 2**28
"""Of a host's memory that is taken at a time, which no plan counts."""


class SharedBuffers:
    """Two places for float32 values of every rank: what is in one is read while the other is written."""

    def __init__(self, memory: torch.Tensor, rank: int, peers: Sequence[socket.socket]) -> None:
        """Args: memory: (2, ranks, size), shared by all ranks.  peers: connections with the others."""
        self._memory, self._rank, self._peers = memory, rank, peers
        self._calls = 0

    def exchange(self, values: torch.Tensor) -> torch.Tensor:
        """What every rank gives, (ranks, `size`): its values first, to be read before this rank's next call.

        Args: values: up to `size`, of any shape. Every rank calls alike.
        Raises: torch.distributed.DistNetworkError if another rank is gone, or silent for as long as a
            collective may be.
        """
        place = self._memory[self._calls % 2]
        self._calls += 1
        place[self._rank, : values.numel()].view(values.shape).copy_(values)
        self._meet()
        return place

    def _meet(self) -> None:
        """Wait until all ranks are here: whoever comes to the next call has read what this one gave."""
        try:
            for peer in self._peers:
                peer.send(b".")
            if all(peer.recv(1) for peer in self._peers):
                return
        except OSError as error:
            raise dist.DistNetworkError(f"[shared memory] another rank: {error}") from error
        raise dist.DistNetworkError("[shared memory] another rank has closed its connection")


def make_shared_buffers(size: int, group: Any) -> SharedBuffers | None:
    """Places for `size` values of each rank of a group, made on every rank alike.

    None where they share no memory or not enough of it, or where it would take more than `MOST_BYTES`.
    """
    if size > _most_values(group):
        return None
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    size_bytes = 2 * ranks * size * 4
    names = [_made(size_bytes) if rank == 0 else None]
    dist.broadcast_object_list(names, group=group, group_src=0)
    name, found = names[0], None
    if name is not None and _all(Path(name).exists(), group):
        memory = torch.from_file(name, shared=True, size=2 * ranks * size).view(2, ranks, size)
        found = SharedBuffers(memory, rank, _connected(name, rank, ranks, group))
    if name is not None and rank == 0:
        Path(name).unlink()  # memory lives as long as somebody maps it
    return found


class GrowingBuffers:
    """Places for as many values as are asked for; to be asked on every rank alike."""

    def __init__(self) -> None:
        self._size, self._has_room = 0, True
        self._places: SharedBuffers | None = None

    def of(self, size: int) -> SharedBuffers | None:
        """Places for `size` values of each rank; None for too many, and once there was no room."""
        most = _most_values(None)
        if size > most:
            return None
        if self._has_room and size > self._size:
            self._size = min(size + size // 2, most)
            self._places = make_shared_buffers(self._size, None)
            self._has_room = self._places is not None
        return self._places if self._has_room else None


def _most_values(group: Any) -> int:
    """Of each rank, for which there may be places."""
    ranks = dist.get_world_size(group)
    return MOST_BYTES // (2 * ranks * 4) if ranks <= MOST_RANKS else 0


def _all(is_so: bool, group: Any) -> bool:
    least = torch.tensor(float(is_so))
    dist.all_reduce(least, dist.ReduceOp.MIN, group=group)
    return bool(least)


def _connected(name: str, rank: int, ranks: int, group: Any) -> list[socket.socket]:
    """A connection with every other rank: a byte each way takes a tenth of a collective's time."""
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(f"{name}.{rank}")
        own.listen(ranks)
        dist.barrier(group)
        peers = []
        for other in range(rank):
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(f"{name}.{other}")
            peers.append(peer)
        peers += [own.accept()[0] for _ in range(rank + 1, ranks)]
    Path(f"{name}.{rank}").unlink()
    for peer in peers:
        peer.settimeout(_timeout(group).total_seconds())
    return peers


def _timeout(group: Any) -> timedelta:
    """How long a collective of the group may wait."""
    whole: Any = dist.group.WORLD if group is None else group
    return whole._get_backend(torch.device("cpu")).options._timeout


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
