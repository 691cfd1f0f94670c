"""The process group: who takes part, on which device, and the few collectives that the code uses."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer.errors import ConfigError, LostRanksError, UserError
from trainer.parallel.memory import keep_freed_memory
from trainer.parallel.shared_memory import GrowingPlaces, SharedPlaces

Result = TypeVar("Result")
WORK_SECONDS = 24 * 3600
"""How long ranks wait for work that one does alone, such as preparing data."""


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        rank, size: number of this process and of all processes.
        local_rank, local_size: the same among the processes of this host.
        device: where this rank's tables and batches live.
        objects: group of all processes that may wait long, for work that one of them does alone; None: the
            default group.
        places: memory that all of them share; None: they exchange through the process group alone.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    objects: Any = None
    places: GrowingPlaces | None = None

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that prints and writes."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> slice:
        """The contiguous part of `count` rows that belongs to `rank` (this one by default)."""
        rank = self.rank if rank is None else rank
        return slice(count * rank // self.size, count * (rank + 1) // self.size)

    def shares(self, count: int) -> list[int]:
        """Lengths of every rank's part of `count` rows."""
        parts = [self.share(count, rank) for rank in range(self.size)]
        return [part.stop - part.start for part in parts]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of `value` over all ranks, on every rank."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def smallest(self, value: torch.Tensor) -> torch.Tensor:
        """Least of `value` over all ranks, on every rank."""
        least = value.clone()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return least

    def gather_rows(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Rows of all ranks, one rank's after another's, on every rank; differentiable.

        Args:
            rows: (counts[rank], D) float32.
            counts: rows of every rank.
        Returns: (sum(counts), D). Its gradient is summed over ranks.
        """
        if self.size == 1:
            return rows
        places = self._places(rows, sum(counts) * rows.shape[1])
        return _GatherRows.apply(rows, tuple(counts), self.rank, places)

    def stacked(self, values: torch.Tensor) -> torch.Tensor:
        """Values of every rank, (size, ...), on every rank; not differentiable.

        They are to be used before the next exchange but one, which may write over them.

        Args: values: (...), of one shape on every rank.
        """
        places = self._places(values, values.numel())
        if places is not None:
            return places.exchange(values)[:, : values.numel()].view(self.size, *values.shape)
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def _places(self, values: torch.Tensor, size: int) -> SharedPlaces | None:
        """Memory that all ranks share, with room for `size` values of each; None: there is none."""
        if self.places is None or values.dtype != torch.float32:
            return None
        return self.places.of(size)

    def gather_to_first(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor | None:
        """Rows of all ranks, one rank's after another's, on rank 0; None elsewhere.

        Args:
            rows: (counts[rank], ...).
            counts: rows of every rank.
        """
        if self.size == 1:
            return rows
        padded = _padded(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in counts] if self.is_first else None
        dist.gather(padded, parts, dst=0)
        if parts is None:
            return None
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def on_each_host(self, work: Callable[[], Result]) -> Result:
        """Result of `work`, which one process of each host does while its neighbours wait.

        Raises: UserError on every rank, with the words of the first rank where `work` raised one.
        """
        return self._together(work if self.local_rank == 0 else None, self.rank - self.local_rank)

    def on_each(self, work: Callable[[], Result]) -> Result:
        """This rank's result of `work`, which all ranks do; errors as in `on_each_host`."""
        return self._together(work, self.rank)

    def new_group(self) -> Any:
        """A gloo group of all ranks, for collectives of another thread; made on every rank alike."""
        return dist.new_group(backend="gloo")

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Result of `work`, which rank 0 does while the others wait; errors as in `on_each_host`."""
        return self._together(work if self.is_first else None, 0)

    def _together(self, work: Callable[[], Any] | None, source: int) -> Any:
        result, failure = None, None
        if work is not None:
            try:
                result = work()
            except UserError as error:
                failure = error
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, (result, failure), group=self.objects)
        for _, error in outcomes:
            if error is not None:
                raise error
        return outcomes[source][0]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, counts: tuple[int, ...], rank: int, places: SharedPlaces | None
    ) -> torch.Tensor:
        ctx.counts, ctx.rank, ctx.places = counts, rank, places
        if places is not None:
            of_ranks, width = places.exchange(rows), rows.shape[1]
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
        if ctx.places is not None:
            width = gradient.shape[1]
            mine = ctx.places.exchange(gradient)[:, first * width : (first + count) * width]
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
    """Device of a rank.

    Args:
        device: `cpu`, `cuda`, or `auto`, which takes CUDA where every local rank has a GPU of its own.
    Raises: ConfigError if `cuda` is asked for and there are fewer GPUs than local ranks.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and gpus < local_size:
        remedy = f"Start {gpus} ranks here, or use --device cpu" if gpus else "Use --device cpu"
        raise ConfigError(f"--device cuda: {local_size} ranks on this host but {gpus} CUDA devices. {remedy}")
    if device == "cuda" or (device == "auto" and gpus >= local_size):
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def _meeting_place(rank: int, size: int, local_size: int, timeout: timedelta) -> dist.Store:
    """Where ranks find each other's addresses.

    Raises: ConfigError if the first host is not reached in time.
    """
    place = "env://"
    if size == local_size:
        # torchrun and gloo go by the host's own name, which need not resolve; ranks of one host need none.
        place = f"tcp://localhost:{os.environ.get('MASTER_PORT')}"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if "WORLD_SIZE" not in os.environ:
        return dist.HashStore()
    try:
        store, _, _ = next(dist.rendezvous(place, rank, size, timeout=timeout))
    except dist.DistError as error:
        raise ConfigError(
            f"MASTER_ADDR {os.environ.get('MASTER_ADDR')}: rank {rank} cannot meet the others there "
            f"({str(error).splitlines()[0].rstrip('.')}). Name an address of the first host that all reach: "
            "torchrun's --local-addr there, or --master-addr where the rendezvous is static"
        ) from error
    # torchrun starts ranks again beside the store that holds the addresses of the dead ones. Hosts count
    # their restarts each for itself, so that several of them need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"start-{restarts}", store) if size == local_size else store


def _lost(error: RuntimeError) -> str | None:
    """What a collective says of a peer that is gone or silent; None: it is another error."""
    if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
        return None
    return str(error).partition("] ")[2].partition(". ")[0][:120] or type(error).__name__


@contextmanager
def join_world(device: str = "auto", backend: str = "auto", timeout_seconds: float = 1800) -> Iterator[World]:
    """Join the process group that torchrun describes in the environment, or be a world of one.

    Args:
        device: see `choose_device`.
        backend: `gloo`, `nccl`, or `auto` for the device's own.
        timeout_seconds: how long a collective may wait for its peers.
    Raises:
        ConfigError if device and backend do not go together.
        LostRanksError if another rank is gone, or silent for longer than the timeout.
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
    timeout = timedelta(seconds=timeout_seconds)
    # Objects travel over gloo even where tensors travel over NCCL.
    tensors = "nccl" if place.type == "cuda" and backend != "gloo" else "gloo"
    dist.init_process_group(
        f"cpu:gloo,cuda:{tensors}" if place.type == "cuda" else "gloo",
        store=_meeting_place(rank, size, local_size, timeout),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    try:
        objects = dist.new_group(backend="gloo", timeout=timedelta(seconds=WORK_SECONDS))
        places = GrowingPlaces() if place.type == "cpu" and size > 1 else None
        yield World(rank, size, local_rank, local_size, place, objects, places)
    except RuntimeError as error:
        if reason := _lost(error):
            raise LostRanksError(f"rank {rank} has lost the others ({reason})") from error
        raise
    finally:
        dist.destroy_process_group()
