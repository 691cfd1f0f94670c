"""Checks that a plan from a file suits the tables, the optimizer and the ranks of a training."""

from collections.abc import Callable, Mapping

from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import ShardingKind, sharding_kind
from trainer.formatting import format_count
from trainer.model.row_partitions import partition_sizes
from trainer.model.tower import DATA_TYPES
from trainer.planning.capacity import CACHED
from trainer.planning.hardware import Cluster
from trainer.planning.kernel_support import check_dtype, compute_kernel
from trainer.planning.plan import Plan, Table


def partitions_of(plan: Plan) -> dict[str, int]:
    """Return the number of partitions of each row-partitioned table."""
    return {
        table.name: len(table.shards) for table in plan.tables if sharding_kind(table.sharding).partitioned
    }


def check_world_size(plan: Plan, place: str, world_size: int) -> None:
    """Refuse a plan for another world size.

    Args:
        plan: The plan.
        place: File that it is from.
        world_size: Ranks that there are.

    Raises:
        ConfigError: The world sizes differ; the message names both.
    """
    if plan.world_size != world_size:
        raise ConfigError(
            f"{place}: a plan for {format_count(plan.world_size, 'rank')}, and there are {world_size}. Start "
            f"{plan.world_size}, or plan anew with --world-size {world_size}"
        )


def check_plan(
    plan: Plan,
    sizes: Mapping[str, tuple[int, int]],
    *,
    place: str,
    optimizer: str,
    cluster: Cluster,
    dtype: str = "float32",
) -> None:
    """Refuse a plan that does not suit these tables and ranks.

    Args:
        plan: The plan.
        sizes: Rows and width of each table of the model, partitions joined.
        place: File that the plan is from.
        optimizer: Optimizer of the tables.
        cluster: Ranks that there are, and their device.
        dtype: Type of the tables' values.

    Raises:
        ConfigError: The plan differs; the message names the first difference.
    """
    check_world_size(plan, place, cluster.world_size)
    planned = {table.name: table for table in plan.tables}
    for name, (rows, dim) in sizes.items():
        if name not in planned:
            raise ConfigError(f"{place}: has no table {name}, which the model has. Plan anew")
        table = planned.pop(name)
        for what, ours, theirs in (("rows", rows, table.rows), ("dim", dim, table.dim)):
            if ours != theirs:
                raise ConfigError(
                    f"{place}: {name} has {what} {theirs:,}, the model's has {ours:,}. Plan anew"
                )
        _check_type_and_kernel(table, place, optimizer, cluster.device, dtype)
        _check_shards(table, place, cluster)
    if planned:
        raise ConfigError(f"{place}: has a table {next(iter(planned))}, which the model has not. Plan anew")


def _check_type_and_kernel(table: Table, place: str, optimizer: str, device: str, dtype: str) -> None:
    """Refuse a table of another type, or with another kernel than would train it."""
    name, stored = table.name, DATA_TYPES[dtype].value.lower()
    if table.dtype != stored:
        raise ConfigError(
            f"{place}: {name} is of {table.dtype}, the model's of {stored}. Plan anew, or give the "
            "--model.table_dtype that it was planned with"
        )
    try:
        kernel = compute_kernel(optimizer, table.sharding, device)
        check_dtype(dtype, optimizer, table.sharding, device)
    except ConfigError as error:
        raise ConfigError(f"{place}: {name} is {table.sharding}: {error}") from None
    if table.kernel != kernel and not (table.kernel == CACHED and device == "cuda" and kernel == "fused"):
        raise ConfigError(
            f"{place}: {name} has kernel {table.kernel}; {optimizer} on {device} under {table.sharding} has "
            f"{kernel}. Plan anew, or give the --optimizer.name that it was planned with"
        )


def _check_shards(table: Table, place: str, cluster: Cluster) -> None:
    """Refuse shards that are not the table, or that TorchRec would take for other ones."""
    name, world_size = table.name, cluster.world_size
    for shard in table.shards:
        if shard.rank >= world_size:
            raise ConfigError(
                f"{place}: {name} lies on rank {shard.rank}, and ranks go to {world_size - 1}. Plan anew"
            )
    kind = sharding_kind(table.sharding)
    if not COVERS[kind.cut](table, world_size):
        raise ConfigError(f"{place}: the shards of {name} leave gaps in it or overlap. Plan anew")
    if needed := NEEDS[kind.cut](table, kind, cluster):
        raise ConfigError(f"{place}: {name} is {kind.name}, which needs {needed}. Plan anew")


def _row_blocks_cover(table: Table, world_size: int) -> bool:
    """Return whether the shards are blocks of whole rows, one after another."""
    end = 0
    for shard in table.shards:
        if (shard.row_offset, shard.column_offset, shard.columns) != (end, 0, table.dim):
            return False
        end += shard.rows
    return end == table.rows


def _column_blocks_cover(table: Table, world_size: int) -> bool:
    """Return whether the shards are blocks of whole columns, one after another."""
    end = 0
    for shard in table.shards:
        if (shard.row_offset, shard.column_offset, shard.rows) != (0, end, table.rows):
            return False
        end += shard.columns
    return end == table.dim


def _copies_cover(table: Table, world_size: int) -> bool:
    """Return whether every rank has a shard that is the whole table."""
    whole = {(0, 0, table.rows, table.dim)}
    shards = {(each.row_offset, each.column_offset, each.rows, each.columns) for each in table.shards}
    return [shard.rank for shard in table.shards] == list(range(world_size)) and shards == whole


COVERS: dict[str, Callable[[Table, int], bool]] = {
    "whole": _column_blocks_cover,
    "columns": _column_blocks_cover,
    "rows": _row_blocks_cover,
    "copies": _copies_cover,
}
"""Whether a table's shards leave no gap and do not overlap, by cut."""


def _whole_needs(table: Table, kind: ShardingKind, cluster: Cluster) -> str | None:
    return None if len(table.shards) == 1 else "one shard"


def _columns_need(table: Table, kind: ShardingKind, cluster: Cluster) -> str | None:
    usable = all(shard.columns % 4 == 0 and shard.columns for shard in table.shards)
    return None if usable else "widths that are multiples of 4"


def _rows_need(table: Table, kind: ShardingKind, cluster: Cluster) -> str | None:
    """Return the blocks of rows by which an id's shard is found, if the table's are others."""
    ranks, rows = [shard.rank for shard in table.shards], [shard.rows for shard in table.shards]
    if kind.shards == "any":
        equal = rows == partition_sizes(table.rows, len(rows))
        return None if equal else "equal blocks of rows, the last one smaller"
    on_every_rank = kind.shards == "one_per_rank"
    count = cluster.world_size if on_every_rank else cluster.local_world_size
    first, block = ranks[0] // count * count, -(-table.rows // count)
    equal_blocks = [min(block, max(table.rows - block * number, 0)) for number in range(count)]
    if ranks == list(range(first, first + count)) and rows == equal_blocks:
        return None
    where = "every rank" if on_every_rank else f"the {count} ranks of one host"
    return f"equal blocks of rows on {where}, in their order"


def _copies_need(table: Table, kind: ShardingKind, cluster: Cluster) -> str | None:
    return None


NEEDS: dict[str, Callable[[Table, ShardingKind, Cluster], str | None]] = {
    "whole": _whole_needs,
    "columns": _columns_need,
    "rows": _rows_need,
    "copies": _copies_need,
}
"""What TorchRec assumes about shards and a table's shards lack, by cut; None if nothing.

Where it is wrong, TorchRec would look up other rows, or none.
"""
