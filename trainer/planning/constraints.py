"""Constraints on each table's sharding, from the `sharding` section of a configuration."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.config.schema import ShardingConfig
from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import SHARDING_KINDS, sharding_kind
from trainer.model.builder import HISTORY, item_table, table_of_alias
from trainer.model.row_partitions import partition_sizes
from trainer.planning.hardware import Cluster
from trainer.planning.kernel_support import OPTIMIZERS, check_dtype
from trainer.planning.workload import Workload


@dataclass(frozen=True)
class TableConstraint:
    """How a table may be sharded, and how often a step looks it up.

    Attributes:
        kinds: Permitted kinds of sharding.
        bags: Bags that a step looks up over all ranks.
        pooling_factor: Mean ids per bag.
        ranks: Ranks of its shards, in turn; empty: the planner's choice.
        cached: Whether it may live in host memory behind a cache on the device.
    """

    kinds: tuple[str, ...]
    bags: float
    pooling_factor: float = 1.0
    ranks: tuple[int, ...] = ()
    cached: bool = False

    def kind_of(self, torchrec_name: str) -> str:
        """Return the permitted kind that TorchRec's sharding type stands for."""
        return next(kind for kind in self.kinds if sharding_kind(kind).torchrec_name == torchrec_name)


def check_sharding(sharding: ShardingConfig, optimizer: str, dtype: str, device: str) -> None:
    """Refuse kinds of sharding that the optimizer, the tables' type or the device does not have.

    Args:
        sharding: Section of the configuration; a plan file is checked elsewhere.
        optimizer: Optimizer of the tables, or `auto`.
        dtype: Type of the tables' values.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: A combination does not exist; the message names those that do.
    """
    # `auto` becomes Adam only if that suits; row-wise Adagrad suits wherever any other optimizer does.
    optimizer = "rowwise_adagrad" if optimizer == "auto" else optimizer
    for kind in (sharding.kind, *sharding.tables.values()) if sharding.plan is None else ():
        permitted_kinds(kind, optimizer, dtype, device)


def with_table_names(sharding: ShardingConfig, tables: Collection[str], item_name: str) -> ShardingConfig:
    """Return the section with `item` and `item_bias` replaced by the names of their tables.

    Args:
        sharding: Section of the configuration.
        tables: Names of the model's tables.
        item_name: What the data set calls its items.

    Raises:
        ConfigError: An option names a table that the model does not have.
    """
    # Training may decide later whether there is a closed form.
    known = [*tables, HISTORY, item_table(item_name)]
    renamed: dict[str, Any] = {}
    for key in ("tables", "partitions", "ranks"):
        renamed[key] = {}
        for name, value in getattr(sharding, key).items():
            own = table_of_alias(name, item_name)
            if own not in known:
                raise ConfigError(
                    f"--sharding.{key}.{name}: no such table; this model has {', '.join(tables)}"
                )
            renamed[key][own] = value
    return replace(sharding, **renamed)


def partition_counts(sharding: ShardingConfig, rows: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Return the number of partitions of each partitioned table: at most one per row.

    Args:
        sharding: Section of the configuration, with the names of tables.
        rows: Rows by table.
        world_size: Ranks in all; the default number of partitions.

    Raises:
        ConfigError: `--sharding.partitions` names a table that is not partitioned.
    """
    counts = {}
    for name, count in rows.items():
        kind = sharding.tables.get(name, sharding.kind)
        if kind != "auto" and sharding_kind(kind).partitioned:
            counts[name] = len(partition_sizes(count, sharding.partitions.get(name, world_size)))
        elif name in sharding.partitions:
            raise ConfigError(
                f"--sharding.partitions.{name}: {name} is not row_partitioned. "
                f"Add --sharding.tables.{name} row_partitioned"
            )
    return counts


def table_constraint(
    name: str, sharding: ShardingConfig, workload: Workload, *, optimizer: str, dtype: str, cluster: Cluster
) -> TableConstraint:
    """Return the constraint on one table.

    Args:
        name: Name of the table.
        sharding: Section of the configuration, with the names of tables.
        workload: What a step looks up.
        optimizer: Optimizer of the tables.
        dtype: Type of the tables' values.
        cluster: Hardware and ranks.

    Raises:
        ConfigError: The table cannot be sharded as the section asks.
    """
    kind = sharding.tables.get(name, sharding.kind)
    ranks = _pinned_ranks(name, kind, sharding.ranks.get(name, ()), cluster.world_size)
    if sharding.uvm_caching and cluster.device == "cpu":
        raise ConfigError("--sharding.uvm_caching true: caches need a GPU. Use --device cuda")
    if name in workload.user_tables:
        bags = workload.rows
    else:  # no step looks up the closed form
        bags = 0 if name in (HISTORY, item_table(workload.item_name)) else workload.candidates
    return TableConstraint(
        kinds=permitted_kinds(kind, optimizer, dtype, cluster.device),
        bags=bags,
        pooling_factor=workload.pooling.get(name, 1.0),
        ranks=ranks,
        cached=sharding.uvm_caching and cluster.device in OPTIMIZERS[optimizer].fused_on,
    )


def _pinned_ranks(name: str, kind: str, ranks: Sequence[int], world_size: int) -> tuple[int, ...]:
    """Return the ranks of a table's shards; empty if the planner chooses them."""
    if kind != "auto" and sharding_kind(kind).partitioned and not ranks:
        # In the same order for users and items, see `trainer.planning.layout.blocks_of_ranks`.
        return tuple(range(world_size))
    pinnable = [known.name for known in SHARDING_KINDS.values() if known.pinnable]
    if ranks and kind not in pinnable:
        raise ConfigError(
            f"--sharding.ranks.{name}: a table that is {kind} has no ranks of its own. Use "
            f"{', '.join(pinnable[:-1])} or {pinnable[-1]}"
        )
    if ranks and max(ranks) >= world_size:
        raise ConfigError(f"--sharding.ranks.{name} {max(ranks)}: ranks go from 0 to {world_size - 1}")
    return tuple(ranks)


def permitted_kinds(kind: str, optimizer: str, dtype: str, device: str) -> tuple[str, ...]:
    """Return the kind itself, or for `auto` TorchRec's kinds that suit optimizer, type and device.

    Raises:
        ConfigError: Optimizer, type or device does not have the kind, or any kind at all.
    """
    if kind != "auto":
        check_dtype(dtype, optimizer, kind, device)
        return (kind,)
    check_dtype(dtype, optimizer, "table_wise", device)  # if this does not exist, nothing does
    # Row-wise Adagrad has one state value per row and shard: cut by columns, it is another optimizer.
    unsuited = ("columns",) if optimizer == "rowwise_adagrad" else ()
    return tuple(
        known.name
        for known in SHARDING_KINDS.values()
        if known.name == known.torchrec_name
        and known.cut not in unsuited
        and _exists(dtype, optimizer, known.name, device)
    )


def _exists(dtype: str, optimizer: str, kind: str, device: str) -> bool:
    try:
        check_dtype(dtype, optimizer, kind, device)
    except ConfigError:
        return False
    return True
