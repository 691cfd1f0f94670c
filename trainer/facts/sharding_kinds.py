"""Facts about each kind of sharding; every module that treats kinds differently reads them here."""

from dataclasses import dataclass
from typing import Literal

from trainer.errors import ConfigError


@dataclass(frozen=True)
class ShardingKind:
    """One way of laying a table over ranks.

    Attributes:
        name: Value of `--sharding.kind`.
        torchrec_name: TorchRec's name of the sharding type that it runs by.
        devices: Devices that have it.
        kernels: Kernels that can train such a table: `fused` in the backward pass, `dense` after it.
        cut: What a shard is: the whole table, a block of its rows or of its columns, or a copy.
        shards: Number of shards: one, one per rank, one per rank of a single host, or any.
        collective: Collective that moves its pooled vectors, or the gradients of its copies, between ranks.
        partitioned: Whether TorchRec knows each shard as a table of its own.
        pinnable: Whether `--sharding.ranks` can name the ranks of its shards.
        advised_on: Devices on which `plan` tries it as an alternative.
    """

    name: str
    torchrec_name: str
    devices: tuple[Literal["cpu", "cuda"], ...]
    kernels: tuple[Literal["fused", "dense"], ...]
    cut: Literal["whole", "rows", "columns", "copies"]
    shards: Literal["one", "one_per_rank", "one_per_host_rank", "any"]
    collective: Literal["all_to_all", "reduce_scatter", "all_reduce"]
    partitioned: bool = False
    pinnable: bool = False
    advised_on: tuple[Literal["cpu", "cuda"], ...] = ()


BOTH: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")

SHARDING_KINDS = {
    kind.name: kind
    for kind in (
        ShardingKind(
            name="table_wise",
            torchrec_name="table_wise",
            devices=BOTH,
            kernels=("fused", "dense"),
            cut="whole",
            shards="one",
            collective="all_to_all",
            pinnable=True,
        ),
        ShardingKind(
            name="column_wise",
            torchrec_name="column_wise",
            devices=BOTH,
            kernels=("fused",),
            cut="columns",
            shards="any",
            collective="all_to_all",
            pinnable=True,
            advised_on=BOTH,
        ),
        ShardingKind(
            name="table_column_wise",
            torchrec_name="table_column_wise",
            devices=BOTH,
            kernels=("fused",),
            cut="columns",
            shards="any",
            collective="all_to_all",
        ),
        ShardingKind(
            name="row_partitioned",
            torchrec_name="table_wise",
            devices=BOTH,
            kernels=("fused", "dense"),
            cut="rows",
            shards="any",
            collective="all_to_all",
            partitioned=True,
            pinnable=True,
            advised_on=("cpu",),  # a GPU has row_wise
        ),
        ShardingKind(
            name="row_wise",
            torchrec_name="row_wise",
            devices=("cuda",),
            kernels=("fused",),
            cut="rows",
            shards="one_per_rank",
            collective="reduce_scatter",
            advised_on=("cuda",),
        ),
        ShardingKind(
            name="table_row_wise",
            torchrec_name="table_row_wise",
            devices=("cuda",),
            kernels=("fused",),
            cut="rows",
            shards="one_per_host_rank",
            collective="reduce_scatter",
            advised_on=("cuda",),
        ),
        ShardingKind(
            name="data_parallel",
            torchrec_name="data_parallel",
            devices=BOTH,
            kernels=("dense",),
            cut="copies",
            shards="one_per_rank",
            collective="all_reduce",
            advised_on=BOTH,
        ),
    )
}
"""By name. Of kinds with equal estimates, the planner's choice (`auto`) is the first one here."""


def sharding_kind(name: str) -> ShardingKind:
    """Return the facts about a kind of sharding.

    Raises:
        ConfigError: There is no such kind.
    """
    if name not in SHARDING_KINDS:
        raise ConfigError(
            f"{name}: no such kind of sharding. Use one of {', '.join(SHARDING_KINDS)}, or auto"
        )
    return SHARDING_KINDS[name]
