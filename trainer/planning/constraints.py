"""What a configuration asks of each table's layout."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config, ShardingConfig
from trainer.errors import ConfigError
from trainer.model.builder import HISTORY, item_table
from trainer.model.row_partitions import partition_sizes
from trainer.planning.kernel_support import KERNELS, SHARDINGS, check_dtype
from trainer.planning.plan import PARTITIONED
from trainer.planning.workload import Workload


@dataclass(frozen=True)
class TableConstraint:
    """How a table may be laid out, and how often a step looks it up.

    Attributes:
        shardings: TorchRec's names of the permitted kinds.
        bags: that a step looks up over all ranks.
        pooling_factor: ids in a bag, on average.
        ranks: of its shards, in turn; empty: the planner's choice.
        cached: whether it may live in host memory behind a cache on the device.
    """

    shardings: tuple[str, ...]
    bags: float
    pooling_factor: float = 1.0
    ranks: tuple[int, ...] = ()
    cached: bool = False


def _with_table_names(sharding: ShardingConfig, tables: list[str], item_name: str) -> ShardingConfig:
    """The section with `item` and `item_bias` by their tables' names.

    Raises: ConfigError for a table that is not there.
    """
    # Whether there is a closed form may be chosen only later.
    known = [*tables, HISTORY, item_table(item_name)]
    renamed: dict[str, Any] = {}
    for key in ("tables", "partitions", "ranks"):
        renamed[key] = {}
        for name, value in getattr(sharding, key).items():
            own = name.replace("item", item_name, 1) if name in ("item", "item_bias") else name
            if own not in known:
                raise ConfigError(
                    f"--sharding.{key}.{name}: no such table; this model has {', '.join(tables)}"
                )
            renamed[key][own] = value
    return replace(sharding, **renamed)


def _partitions(sharding: ShardingConfig, rows: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Parts of each row-partitioned table, as many as have rows."""
    found = {}
    for name, count in rows.items():
        if sharding.tables.get(name, sharding.kind) == PARTITIONED:
            found[name] = len(partition_sizes(count, sharding.partitions.get(name, world_size)))
        elif name in sharding.partitions:
            raise ConfigError(
                f"--sharding.partitions.{name}: {name} is not row_partitioned. "
                f"Add --sharding.tables.{name} row_partitioned"
            )
    return found


def _constraint(
    config: ResolvedConfig, sharding: ShardingConfig, sizes: Workload, name: str, device: str, world_size: int
) -> TableConstraint:
    kind = sharding.tables.get(name, sharding.kind)
    ranks = tuple(sharding.ranks.get(name, ()))
    if kind == PARTITIONED and not ranks:
        ranks = tuple(
            range(world_size)
        )  # those of users and of items in the same order, see `blocks_of_ranks`
    if ranks and kind not in ("table_wise", "column_wise", PARTITIONED):
        raise ConfigError(
            f"--sharding.ranks.{name}: a table that is {kind} has no ranks of its own. Use table_wise, "
            "column_wise or row_partitioned"
        )
    if ranks and max(ranks) >= world_size:
        raise ConfigError(f"--sharding.ranks.{name} {max(ranks)}: ranks go from 0 to {world_size - 1}")
    if sharding.uvm_caching and device == "cpu":
        raise ConfigError("--sharding.uvm_caching true: caches need a GPU. Use --device cuda")
    bags = 0 if name in (HISTORY, item_table(sizes.item_name)) else sizes.candidates
    return TableConstraint(
        shardings=_permitted(kind, config, device),
        bags=sizes.rows if name in sizes.user_tables else bags,
        pooling_factor=sizes.pooling.get(name, 1.0),
        ranks=ranks,
        cached=sharding.uvm_caching and KERNELS[config.optimizer.name].get(device) == "fused",
    )


def check_sharding(config: Config, device: str) -> None:
    """Refuse kinds of sharding that optimizer, type or device do not have, before anything is prepared.

    Raises: ConfigError naming those that they have.
    """
    sharding = config.sharding
    for kind in (sharding.kind, *sharding.tables.values()) if sharding.plan is None else ():
        _permitted(kind, config, device)


def _permitted(kind: str, config: Config, device: str) -> tuple[str, ...]:
    """TorchRec's kinds of sharding behind a word of the configuration.

    Raises: ConfigError for one that optimizer, type of the tables or device do not have.
    """
    optimizer, dtype = config.optimizer.name, config.model.table_dtype
    if optimizer == "auto":  # which is this one wherever Adam cannot be
        optimizer = "rowwise_adagrad"
    if kind != "auto":
        kind = "table_wise" if kind == PARTITIONED else kind
        check_dtype(dtype, optimizer, kind, device)
        return (kind,)
    check_dtype(dtype, optimizer, "table_wise", device)  # where that is not, nothing is
    # One state a row and shard: cut by columns, row-wise Adagrad would be another optimizer.
    other = ("column_wise", "table_column_wise") if optimizer == "rowwise_adagrad" else ()
    return tuple(name for name in SHARDINGS if name not in other and _runs(dtype, optimizer, name, device))


def _runs(dtype: str, optimizer: str, sharding: str, device: str) -> bool:
    try:
        check_dtype(dtype, optimizer, sharding, device)
    except ConfigError:
        return False
    return True
