"""What tables may take of a rank's memory, and what is said where they do not fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from torchrec.distributed.planner.types import ShardingOption, Storage

from trainer.errors import ConfigError
from trainer.formatting import bytes_in_words, counted
from trainer.planning.hardware import GIGA, Hardware

CACHED = "fused_uvm_caching"
RESERVED = 0.15
"""Share of a memory that is left to dense layers, activations and libraries."""
Measure: TypeAlias = Callable[[Storage, str], int]
"""Bytes of one kind of memory on a device."""


class TooLargeError(ConfigError):
    """No placement holds the tables.

    Attributes:
        total: bytes of all shards at the least.
        available: bytes that tables may take on a rank.
        largest: name and bytes of the largest shard.
    """

    def __init__(self, message: str, total: int, available: int, largest: tuple[str, int]) -> None:
        super().__init__(message)
        self.total, self.available, self.largest = total, available, largest

    def __reduce__(self) -> tuple[type["TooLargeError"], tuple[str, int, int, tuple[str, int]]]:
        """For the way to other ranks, which would make it anew from the message alone."""
        return type(self), (str(self), self.total, self.available, self.largest)


def capacity(hardware: Hardware, local_world_size: int) -> int:
    """Bytes that tables may take on one rank."""
    memory = hardware.memory / (local_world_size if hardware.device == "cpu" else 1)
    return int((1 - RESERVED) * memory * GIGA)


def host_capacity(hardware: Hardware) -> int:
    """Bytes that tables behind a cache may take in a GPU's host; 0 on CPU, where `capacity` is the host's."""
    return 0 if hardware.device == "cpu" else int((1 - RESERVED) * hardware.host_memory * GIGA)


def on_device(storage: Storage, device: str) -> int:
    """Bytes of a device's own memory."""
    return int(storage.ddr if device == "cpu" else storage.hbm)


def in_host(storage: Storage, device: str) -> int:
    """Bytes in the host of a GPU; 0 on CPU."""
    return 0 if device == "cpu" else int(storage.ddr)


def too_large(
    options: Sequence[ShardingOption], hardware: Hardware, world_size: int, local_world_size: int
) -> TooLargeError:
    """What the least demanding option of each table would need, and what there is.

    Args: options: all that the planner had, with their sizes.
    """
    device, own, host = hardware.device, capacity(hardware, local_world_size), host_capacity(hardware)
    held, unheld = _by_host(options, device, host)
    smallest: dict[str, ShardingOption] = {}
    for option in held:
        before = smallest.get(option.name)
        if before is None or max(_sizes(option, on_device, device)) < max(_sizes(before, on_device, device)):
            smallest[option.name] = option
    total, largest = _needs(smallest, on_device, device)
    behind, largest_behind = _needs(smallest, in_host, device)
    needed, ranks = max(total // world_size, largest[1]), counted(world_size, "rank")
    if needed <= own and behind > world_size * host:
        return TooLargeError(
            f"the tables do not fit on {ranks} of {hardware.name}: behind caches they take "
            f"{bytes_in_words(behind)} of the hosts' memory, of which a rank has {bytes_in_words(host)}",
            behind,
            own + host,  # some may do without a cache
            largest_behind,
        )
    why = "" if needed > own else "; pieces of that size leave gaps"
    for name, size in unheld.items():
        why += f"; behind a cache {name} takes {bytes_in_words(size)} of a host, of which a rank has "
        why += bytes_in_words(host)
    return TooLargeError(
        f"the tables do not fit on {ranks} of {hardware.name}: a rank needs {bytes_in_words(needed)} at the "
        f"least, and has {bytes_in_words(own)} for tables (all are {bytes_in_words(total)}; the largest "
        f"piece, of {largest[0]}, is {bytes_in_words(largest[1])}{why})",
        total,
        own,
        largest,
    )


def _by_host(
    options: Sequence[ShardingOption], device: str, host: int
) -> tuple[list[ShardingOption], dict[str, int]]:
    """Options but those of which a shard is more than a host holds; the least of such a shard by table."""
    held, unheld = [], dict[str, int]()
    for option in options:
        size = max(_sizes(option, in_host, device))
        if option.compute_kernel == CACHED and size > host:
            unheld[option.name] = min(size, unheld.get(option.name, size))
        else:
            held.append(option)
    return held, unheld


def _sizes(option: ShardingOption, measure: Measure, device: str) -> list[int]:
    return [measure(shard.storage, device) for shard in option.shards if shard.storage is not None]


def _needs(
    options: Mapping[str, ShardingOption], measure: Measure, device: str
) -> tuple[int, tuple[str, int]]:
    """Bytes of all shards, and name and bytes of the largest."""
    sizes = {name: _sizes(option, measure, device) for name, option in options.items()}
    largest = max(((name, max(each)) for name, each in sizes.items()), key=lambda entry: entry[1])
    return sum(map(sum, sizes.values())), largest
