"""The process group: who takes part, on which device, and the few collectives that the code uses."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer.distributed.lost_ranks import lost_ranks_error, set_up_nccl
from trainer.distributed.malloc import keep_freed_memory
from trainer.distributed.shared_memory import GrowingBuffers, SharedBuffers
from trainer.errors import ConfigError, UserError

try:
    from torch.distributed import set_timeout  # from torch 2.14 on, which warns of the private name
except ImportError:
    from torch.distributed.distributed_c10d import _set_pg_timeout as set_timeout

Result = TypeVar("Result")
TIMEOUT = timedelta(minutes=30)
LONG_WORK = timedelta(hours=24)
"""How long ranks wait for one rank to finish long work, such as preparing data."""


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        rank: Number of this process.
        size: Number of all processes.
        local_rank: Number of this process among those of its host.
        local_size: Number of processes of this host.
        device: Where this rank's tables and batches live.
        timeout: How long a collective waits for its peers.
        objects: Process group in which Python objects travel; None: the default group.
        long_work: The same with a timeout of `LONG_WORK`.
        buffers: Memory that all ranks share; None: they exchange through the process group alone.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    timeout: timedelta = TIMEOUT
    objects: Any = None
    long_work: Any = None
    buffers: GrowingBuffers | None = None

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that prints and writes."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> slice:
        """Return the contiguous share of `count` rows that belongs to `rank` (this one by default)."""
        rank = self.rank if rank is None else rank
        return slice(count * rank // self.size, count * (rank + 1) // self.size)

    def shares(self, count: int) -> list[int]:
        """Return the length of every rank's share of `count` rows."""
        shares = [self.share(count, rank) for rank in range(self.size)]
        return [share.stop - share.start for share in shares]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of `value` over all ranks, on every rank."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def smallest(self, value: torch.Tensor) -> torch.Tensor:
        """Return the least `value` of all ranks, on every rank."""
        least = value.clone()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return least

    def gather_rows(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Return the rows of all ranks, one rank's after another's, on every rank; differentiable.

        Args:
            rows: (counts[rank], D) float32.
            counts: Number of rows of every rank.

        Returns:
            (sum(counts), D). Its gradient is summed over ranks.
        """
        if self.size == 1:
            return rows
        buffers = self._buffers_for(rows, sum(counts) * rows.shape[1])
        return _GatherRows.apply(rows, tuple(counts), self.rank, buffers)

    def all_gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of every rank, (size, ...), on every rank; not differentiable.

        Args:
            values: (...), of one shape on every rank.
        """
        buffers = self._buffers_for(values, values.numel())
        if buffers is not None:
            # Copied, as the next exchange may write over the buffer.
            return buffers.exchange(values)[:, : values.numel()].clone().view(self.size, *values.shape)
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def _buffers_for(self, values: torch.Tensor, size: int) -> SharedBuffers | None:
        """Return memory that all ranks share, with room for `size` values of each; None if there is none."""
        if self.buffers is None or values.dtype != torch.float32:
            return None
        return self.buffers.of(size)

    def gather_to_first(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor | None:
        """Return the rows of all ranks, one rank's after another's, on rank 0; None elsewhere.

        Args:
            rows: (counts[rank], ...).
            counts: Number of rows of every rank.
        """
        if self.size == 1:
            return rows
        padded = _padded(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in counts] if self.is_first else None
        dist.gather(padded, parts, dst=0)
        if parts is None:
            return None
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def on_each_host(self, work: Callable[[], Result], *, long: bool = False) -> Result:
        """Return the result of `work`, which one process of each host does while its neighbours wait.

        Args:
            work: What is to be done.
            long: Wait up to `LONG_WORK` for it, rather than as long as for a collective. A rank that falls
                silent meanwhile is noticed as late.

        Raises:
            UserError: on every rank, with the message of the first rank where `work` raised one.
        """
        return self._together(work if self.local_rank == 0 else None, self.rank - self.local_rank, long)

    def on_first(self, work: Callable[[], Result], *, long: bool = False) -> Result:
        """Return the result of `work`, which rank 0 does while the others wait; see `on_each_host`."""
        return self._together(work if self.is_first else None, 0, long)

    def on_each(self, work: Callable[[], Result]) -> Result:
        """Return this rank's result of `work`, which all ranks do; errors as in `on_each_host`."""
        return self._together(work, self.rank)

    def new_group(self) -> Any:
        """Make a gloo group of all ranks for collectives that overlap others; call this on every rank."""
        return dist.new_group(backend="gloo", timeout=self.timeout)

    def _together(self, work: Callable[[], Any] | None, source: int, long: bool = False) -> Any:
        result, failure = None, None
        if work is not None:
            try:
                result = work()
            except UserError as error:
                failure = error
        outcomes: list[Any] = [None] * self.size
        group = self.long_work if long else self.objects
        dist.all_gather_object(outcomes, (result, failure), group=group)
        for _, error in outcomes:
            if error is not None:
                raise error
        return outcomes[source][0]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, counts: tuple[int, ...], rank: int, buffers: SharedBuffers | None
    ) -> torch.Tensor:
        ctx.counts, ctx.rank, ctx.buffers = counts, rank, buffers
        if buffers is not None:
            of_ranks, width = buffers.exchange(rows), rows.shape[1]
            return torch.cat(
                [
                    part[: count * width].view(count, width)
                    for part, count in zip(of_ranks, counts, strict=True)
                ]
            )
        padded = _padded(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = gradients
        first, count = sum(ctx.counts[: ctx.rank]), ctx.counts[ctx.rank]
        if ctx.buffers is not None:
            width = gradient.shape[1]
            mine = ctx.buffers.exchange(gradient)[:, first * width : (first + count) * width]
            return mine.sum(0).view(count, width), None, None, None
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[first : first + count], None, None, None


def _padded(rows: torch.Tensor, length: int) -> torch.Tensor:
    if len(rows) == length:
        return rows.contiguous()
    padded = rows.new_zeros(length, *rows.shape[1:])
    padded[: len(rows)] = rows
    return padded


def choose_device(device: str, local_rank: int, local_size: int) -> torch.device:
    """Return the device of a rank.

    Args:
        device: `cpu`, `cuda`, or `auto`, which takes CUDA where every local rank has a GPU of its own.
        local_rank: Number of the rank among those of its host.
        local_size: Number of ranks of the host.

    Raises:
        ConfigError: if `cuda` is asked for and there are fewer GPUs than local ranks.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and gpus < local_size:
        remedy = f"Start {gpus} ranks here, or use --device cpu" if gpus else "Use --device cpu"
        raise ConfigError(f"--device cuda: {local_size} ranks on this host but {gpus} CUDA devices. {remedy}")
    if device == "cuda" or (device == "auto" and gpus >= local_size):
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def _store(rank: int, size: int, local_size: int, timeout: timedelta) -> dist.Store:
    """Return the store in which ranks find each other's addresses.

    Raises:
        ConfigError: The first host has a name that this one does not know.
    """
    place = "env://"
    if size == local_size:
        # torchrun and gloo use the host's own name, which need not resolve; ranks of one host need no name.
        place = f"tcp://localhost:{os.environ.get('MASTER_PORT')}"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if "WORLD_SIZE" not in os.environ:
        return dist.HashStore()
    try:
        store, _, _ = next(dist.rendezvous(place, rank, size, timeout=timeout))
    except dist.DistError as error:
        if size == local_size or _resolves(os.environ["MASTER_ADDR"]):
            raise
        raise ConfigError(
            f"MASTER_ADDR {os.environ['MASTER_ADDR']}: rank {rank} finds no such host. Name an address "
            "that all hosts reach: torchrun's --local-addr on the first host, or --master-addr everywhere"
        ) from error
    # torchrun starts ranks again beside the store that holds the addresses of the dead ones. Hosts count
    # their restarts each for itself, so that several of them need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"start-{restarts}", store) if size == local_size else store


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


@contextmanager
def join_world(device: str = "auto", backend: str = "auto", timeout_seconds: float = 1800) -> Iterator[World]:
    """Join the process group that torchrun describes in the environment, or be a world of one.

    Args:
        device: See `choose_device`.
        backend: `gloo`, `nccl`, or `auto` for the device's own.
        timeout_seconds: How long a collective may wait for its peers.

    Raises:
        ConfigError: if device and backend do not go together.
        LostRanksError: if another rank has ended, or is silent for longer than the timeout.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    place = choose_device(device, local_rank, local_size)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    elif backend == "nccl":
        raise ConfigError("--backend nccl: the device is cpu, which NCCL does not serve. Use --backend gloo")
    else:
        keep_freed_memory()
    try:
        world = World(rank, size, local_rank, local_size, place, timedelta(seconds=timeout_seconds))
        yield _joined(world, backend)
    except BaseException as error:
        # Other ranks may never answer what this one has begun, and releasing a group waits for that.
        if size == 1 and dist.is_initialized():
            dist.destroy_process_group()
        if lost := lost_ranks_error(rank, error):
            raise lost from error
        raise
    dist.destroy_process_group()


def _joined(world: World, backend: str) -> World:
    """Make the process groups of a world, together with all other ranks."""
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        set_up_nccl()
    dist.init_process_group(
        f"cpu:gloo,cuda:{'gloo' if backend == 'gloo' else 'nccl'}" if on_gpu else "gloo",
        store=_store(world.rank, world.size, world.local_size, world.timeout),
        rank=world.rank,
        world_size=world.size,
        timeout=world.timeout,
    )
    # Objects travel over gloo even where tensors travel over NCCL.
    objects, long_work = world.new_group(), world.new_group()
    # Ranks connect within the usual timeout, and only then may wait longer.
    set_timeout(LONG_WORK, long_work)
    buffers = None if on_gpu or world.size == 1 else GrowingBuffers()
    return replace(world, objects=objects, long_work=long_work, buffers=buffers)
