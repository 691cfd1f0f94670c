"""Memory that tables may take on a rank, and the error that says what does not fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from torchrec.distributed.planner.types import ShardingOption, Storage

from trainer.errors import ConfigError
from trainer.formatting import format_bytes, format_count
from trainer.planning.hardware import GIGA, Cluster, Hardware

CACHED = "fused_uvm_caching"
"""TorchRec's kernel for tables in host memory behind a cache on the device."""
RESERVED = 0.15
"""Share of a memory that is left to dense layers, activations and libraries."""
MemoryOf: TypeAlias = Callable[[Storage, str], int]
"""Bytes of one of a rank's memories, from a shard's storage and the device."""


class TooLargeError(ConfigError):
    """No placement holds the tables.

    Attributes:
        total: Least bytes that all shards take together.
        available: Bytes that tables may take on a rank.
        largest: Name of the table with the largest shard, and bytes of that shard.
    """

    def __init__(self, message: str, total: int, available: int, largest: tuple[str, int]) -> None:
        super().__init__(message)
        self.total, self.available, self.largest = total, available, largest

    def __reduce__(self) -> tuple[type["TooLargeError"], tuple[str, int, int, tuple[str, int]]]:
        """Pickle all arguments: exceptions are recreated from the message alone by default."""
        return type(self), (str(self), self.total, self.available, self.largest)


def capacity(hardware: Hardware, local_world_size: int) -> int:
    """Return the bytes that tables may take on one rank."""
    memory = hardware.memory / (local_world_size if hardware.device == "cpu" else 1)
    return int((1 - RESERVED) * memory * GIGA)


def host_capacity(hardware: Hardware) -> int:
    """Return the bytes per rank for tables behind a cache in a GPU's host.

    On CPU it is 0: `capacity` is host memory there.
    """
    return 0 if hardware.device == "cpu" else int((1 - RESERVED) * hardware.host_memory * GIGA)


def on_device(storage: Storage, device: str) -> int:
    """Return the bytes of a shard in a device's own memory."""
    return int(storage.ddr if device == "cpu" else storage.hbm)


def in_host(storage: Storage, device: str) -> int:
    """Return the bytes of a shard in the host of a GPU; 0 on CPU."""
    return 0 if device == "cpu" else int(storage.ddr)


def too_large(options: Sequence[ShardingOption], cluster: Cluster) -> TooLargeError:
    """Make the error that compares the least that the tables need with what a rank has.

    Args:
        options: All sharding options of all tables, with their storage.
        cluster: Ranks on which the tables do not fit.
    """
    hardware, world_size, device = cluster.hardware, cluster.world_size, cluster.device
    own, host = capacity(hardware, cluster.local_world_size), host_capacity(hardware)
    within_host, beyond_host = _by_host_memory(options, device, host)
    smallest = _smallest_options(within_host, device)
    total, largest = _needs(smallest, on_device, device)
    behind, largest_behind = _needs(smallest, in_host, device)
    needed, ranks = max(total // world_size, largest[1]), format_count(world_size, "rank")
    if needed <= own and behind > world_size * host:
        return TooLargeError(
            f"the tables do not fit on {ranks} of {hardware.name}: behind caches they take "
            f"{format_bytes(behind)} of the hosts' memory, of which a rank has {format_bytes(host)}",
            behind,
            own + host,  # some tables may do without a cache
            largest_behind,
        )
    why = "" if needed > own else "; pieces of that size leave gaps"
    for name, size in beyond_host.items():
        why += f"; behind a cache {name} takes {format_bytes(size)} of a host, of which a rank has "
        why += format_bytes(host)
    return TooLargeError(
        f"the tables do not fit on {ranks} of {hardware.name}: a rank needs {format_bytes(needed)} at the "
        f"least, and has {format_bytes(own)} for tables (all are {format_bytes(total)}; the largest "
        f"piece, of {largest[0]}, is {format_bytes(largest[1])}{why})",
        total,
        own,
        largest,
    )


def _by_host_memory(
    options: Sequence[ShardingOption], device: str, host: int
) -> tuple[list[ShardingOption], dict[str, int]]:
    """Return the options that fit in a host, and the smallest possible largest shard of each other table."""
    within, beyond = [], dict[str, int]()
    for option in options:
        size = max(_shard_bytes(option, in_host, device))
        if option.compute_kernel == CACHED and size > host:
            beyond[option.name] = min(size, beyond.get(option.name, size))
        else:
            within.append(option)
    return within, beyond


def _smallest_options(options: Sequence[ShardingOption], device: str) -> dict[str, ShardingOption]:
    """Return the option of each table whose largest shard is the smallest."""
    smallest: dict[str, ShardingOption] = {}
    for option in options:
        size = max(_shard_bytes(option, on_device, device))
        best = smallest.get(option.name)
        if best is None or size < max(_shard_bytes(best, on_device, device)):
            smallest[option.name] = option
    return smallest


def _shard_bytes(option: ShardingOption, memory_of: MemoryOf, device: str) -> list[int]:
    return [memory_of(shard.storage, device) for shard in option.shards if shard.storage is not None]


def _needs(
    options: Mapping[str, ShardingOption], memory_of: MemoryOf, device: str
) -> tuple[int, tuple[str, int]]:
    """Return the bytes of all shards, and the name and bytes of the largest."""
    sizes = {name: _shard_bytes(option, memory_of, device) for name, option in options.items()}
    largest = max(((name, max(each)) for name, each in sizes.items()), key=lambda entry: entry[1])
    return sum(map(sum, sizes.values())), largest
