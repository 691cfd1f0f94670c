"""Exchange between the ranks of one host through memory that they share.

gloo sends values through the loopback interface, about 1 GB a second and rank, and occupies the ranks' cores
meanwhile: for the gradients of replicated tables, that takes longer than all lookups of a step.

Neither the memory nor the sockets have a name in a file system, so that a rank may be killed at any moment
and nothing is left behind.
"""

import hashlib
import mmap
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist

FOLDER = "/dev/shm"
MOST_RANKS = 8
"""Every rank reads what all ranks have written; among more ranks than that gloo's ring moves less."""
MOST_BYTES = 2**28
"""Memory that all buffers of a process may take together. No plan counts it, so that it has to be small."""
TOKEN_BYTES = 16


class SharedBuffers:
    """Two buffers for float32 values of every rank: one is read while the other is written."""

    def __init__(self, memory: torch.Tensor, rank: int, peers: dict[int, socket.socket]) -> None:
        """Wrap memory that every rank has mapped.

        Args:
            memory: (2, ranks, size), shared by all ranks.
            rank: This process's rank.
            peers: A connection with every other rank.
        """
        self._memory, self._rank, self._peers = memory, rank, peers
        self._calls = 0
        _IN_USE.add(self)

    @property
    def size(self) -> int:
        """Number of values of a rank."""
        return self._memory.shape[2]

    @property
    def bytes(self) -> int:
        """Memory in use, for the values of all ranks."""
        return self._memory.nbytes

    def exchange(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of every rank, (ranks, `size`), to be read before this rank's next call.

        Args:
            values: Up to `size` values; they come first in their rank's row. Of the same shape on every rank.

        Raises:
            torch.distributed.DistNetworkError: if another rank has ended, or is silent for longer than a
                collective may wait.
        """
        buffer = self._memory[self._calls % 2]
        self._calls += 1
        buffer[self._rank, : values.numel()].view(values.shape).copy_(values)
        self._wait_for_all()
        return buffer

    def _wait_for_all(self) -> None:
        """Wait until every rank is in this call: it no longer reads what its call before returned."""
        for rank, peer in self._peers.items():
            _send(peer, rank, b".")
        for rank, peer in self._peers.items():
            _receive(peer, rank, 1)


_IN_USE: WeakSet[SharedBuffers] = WeakSet()


def make_shared_buffers(size: int, group: Any) -> SharedBuffers | None:
    """Make buffers for `size` values of each rank; called by every rank alike.

    Args:
        size: Number of float32 values of a rank.
        group: Process group; None: the default one.

    Returns:
        The buffers; None if the ranks have no memory in common, there is too little of it, or the buffers
        that the first rank has in use would take more than `MOST_BYTES` together with these.

    Raises:
        torch.distributed.DistNetworkError: if another rank is silent for longer than a collective may wait.
    """
    if size > _most_values(group):
        return None
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    size_bytes, own_namespaces = 2 * ranks * size * 4, _namespaces()
    handle = _create(size_bytes) if rank == 0 and own_namespaces is not None else None
    token = secrets.token_bytes(TOKEN_BYTES)
    offer: list[Any] = [None]
    if handle is not None:
        os.pwrite(handle, token, 0)
        offer = [(f"/proc/{os.getpid()}/fd/{handle}", token, own_namespaces)]
    try:
        dist.broadcast_object_list(offer, group=group, group_src=0)
        if offer[0] is None:
            return None
        path, token, namespaces = offer[0]
        mapped = _map(path, size_bytes, token) if namespaces == own_namespaces else None
        if not _all(mapped is not None, group):
            return None
    finally:
        if handle is not None:
            os.close(handle)  # the memory lives as long as a process maps it
    assert mapped is not None
    memory = torch.frombuffer(mapped, dtype=torch.float32).view(2, ranks, size)
    return SharedBuffers(memory, rank, _connect(token, rank, ranks, group))


class GrowingBuffers:
    """Buffers for as many values as have been asked for; used by every rank alike."""

    def __init__(self) -> None:
        self._buffers: SharedBuffers | None = None
        self._has_room = True

    def of(self, size: int) -> SharedBuffers | None:
        """Return buffers for `size` values of each rank; None for too many, and once there was no room."""
        most = _most_values(None)
        if size > most:
            return None
        if self._has_room and size > (self._buffers.size if self._buffers else 0):
            self._buffers = None  # what is released no longer counts
            grown = min(size + size // 2, most)
            self._buffers = make_shared_buffers(grown, None) or make_shared_buffers(size, None)
            self._has_room = self._buffers is not None
        return self._buffers


def _most_values(group: Any) -> int:
    """Return the most values per rank that fit a process without other buffers."""
    ranks = dist.get_world_size(group)
    return MOST_BYTES // (2 * ranks * 4) if ranks <= MOST_RANKS else 0


def _create(size: int) -> int | None:
    """Return a handle of a new file in memory; None if there is no room."""
    if size + sum(each.bytes for each in _IN_USE) > MOST_BYTES:
        return None
    try:
        # A file without a name. Unlike memfd_create's, it keeps within the limit of the folder's file system.
        handle = os.open(FOLDER, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError):
        return None
    try:
        # Writing to a file that there is no room for would end the process.
        os.posix_fallocate(handle, 0, size)
    except OSError:
        os.close(handle)
        return None
    return handle


def _namespaces() -> tuple[str, ...] | None:
    """Return the host and namespaces that ranks must share to use this memory; None if unknown."""
    try:
        host = Path("/proc/sys/kernel/random/boot_id").read_text()
        return host, os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self/ns/net")
    except OSError:
        return None


def _map(path: str, size: int, token: bytes) -> mmap.mmap | None:
    """Map the memory that a path leads to; None if it cannot be opened, or does not begin with the token."""
    try:
        with open(path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError):
        return None
    return mapped if mapped[:TOKEN_BYTES] == token else None


def _all(is_so: bool, group: Any) -> bool:
    least = torch.tensor(float(is_so))
    dist.all_reduce(least, dist.ReduceOp.MIN, group=group)
    return bool(least)


def _connect(token: bytes, rank: int, ranks: int, group: Any) -> dict[int, socket.socket]:
    """Connect with every other rank: a byte each way takes a tenth of a collective's time."""
    seconds, peers = _timeout(group).total_seconds(), {}
    with socket.socket(socket.AF_UNIX) as own:
        own.settimeout(seconds)
        own.bind(_address(token, rank))
        own.listen(ranks)
        dist.barrier(group)
        for other in range(rank):
            peers[other] = peer = socket.socket(socket.AF_UNIX)
            peer.settimeout(seconds)
            with _peer_errors(other):
                peer.connect(_address(token, other))
            _send(peer, other, token + bytes([rank]))
        while missing := {*range(rank + 1, ranks)} - peers.keys():
            with _peer_errors(min(missing)):
                peer, _ = own.accept()
            peer.settimeout(seconds)
            greeting = _receive(peer, min(missing), TOKEN_BYTES + 1)
            if greeting[:-1] == token:
                peers[greeting[-1]] = peer
    return peers


def _address(token: bytes, rank: int) -> str:
    """Return an abstract address; all users of the host may see it, so that it does not tell the token."""
    return f"\0shardtower-{hashlib.sha256(token).hexdigest()}-{rank}"


def _send(peer: socket.socket, rank: int, message: bytes) -> None:
    with _peer_errors(rank):
        peer.sendall(message)


def _receive(peer: socket.socket, rank: int, count: int) -> bytes:
    """Return exactly `count` bytes."""
    received = b""
    with _peer_errors(rank):
        while len(received) < count:
            more = peer.recv(count - len(received))
            if not more:
                raise ConnectionError("has closed its connection")
            received += more
    return received


@contextmanager
def _peer_errors(rank: int) -> Iterator[None]:
    """Turn errors of the connection with a rank into the one that collectives raise, naming the rank."""
    try:
        yield
    except OSError as error:
        raise dist.DistNetworkError(f"[shared memory] rank {rank}: {error}") from error


def _timeout(group: Any) -> timedelta:
    """Return how long a collective of the group may wait."""
    whole: Any = dist.group.WORLD if group is None else group
    return whole._get_backend(torch.device("cpu")).options._timeout
