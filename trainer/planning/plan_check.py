"""A plan, made here or read from a file, in TorchRec's terms; and whether it is one for these tables."""

from collections.abc import Sequence

from trainer.errors import ConfigError
from trainer.formatting import counted
from trainer.model.row_partitions import partition_sizes
from trainer.model.towers import DATA_TYPES
from trainer.planning.capacity import CACHED
from trainer.planning.kernel_support import SHARDINGS, check_dtype, compute_kernel
from trainer.planning.plan import PARTITIONED, Plan, Table


def partitions_of(plan: Plan) -> dict[str, int]:
    """How many tables each row-partitioned table is cut into."""
    return {table.name: len(table.shards) for table in plan.tables if table.sharding == PARTITIONED}


def check_world_size(plan: Plan, place: str, world_size: int) -> None:
    """Refuse a plan for another world size.

    Raises: ConfigError naming both.
    """
    if plan.world_size != world_size:
        raise ConfigError(
            f"{place}: a plan for {counted(plan.world_size, 'rank')}, and there are {world_size}. Start "
            f"{plan.world_size}, or plan anew with --world-size {world_size}"
        )


def check_plan(
    plan: Plan,
    place: str,
    tables: Sequence[tuple[str, int, int]],
    optimizer: str,
    device: str,
    world_size: int,
    local_world_size: int,
    table_dtype: str = "float32",
) -> None:
    """Refuse a plan that is not one for these tables, this world and this device.

    Args:
        place: file that the plan is from.
        tables: name, rows and width of each of the model's, partitions put together.
        local_world_size: ranks of each host here.
        table_dtype: of all tables' values.
    Raises: ConfigError naming the first difference.
    """
    check_world_size(plan, place, world_size)
    planned = {table.name: table for table in plan.tables}
    for name, rows, dim in tables:
        if name not in planned:
            raise ConfigError(f"{place}: has no table {name}, which the model has. Plan anew")
        table = planned.pop(name)
        for what, ours, theirs in (("rows", rows, table.rows), ("dim", dim, table.dim)):
            if ours != theirs:
                raise ConfigError(
                    f"{place}: {name} has {what} {theirs:,}, the model's has {ours:,}. Plan anew"
                )
        _check_table(table, place, optimizer, device, world_size, table_dtype)
        _check_cut(table, place, world_size, local_world_size)
    if planned:
        raise ConfigError(f"{place}: has a table {next(iter(planned))}, which the model has not. Plan anew")


def _check_table(
    table: Table, place: str, optimizer: str, device: str, world_size: int, table_dtype: str
) -> None:
    name, dtype = table.name, DATA_TYPES[table_dtype].value.lower()
    if table.dtype != dtype:
        raise ConfigError(
            f"{place}: {name} is of {table.dtype}, the model's of {dtype}. Plan anew, or give the "
            "--model.table_dtype that it was planned with"
        )
    if table.sharding not in (*SHARDINGS, PARTITIONED):
        known = ", ".join((*SHARDINGS, PARTITIONED))
        raise ConfigError(f"{place}: {name} is {table.sharding}; known are {known}. Plan anew")
    sharding = "table_wise" if table.sharding == PARTITIONED else table.sharding
    try:
        kernel = compute_kernel(optimizer, sharding, device)
        check_dtype(table_dtype, optimizer, sharding, device)
    except ConfigError as error:
        raise ConfigError(f"{place}: {name} is {table.sharding}: {error}") from None
    if table.kernel != kernel and not (table.kernel == CACHED and device == "cuda" and kernel == "fused"):
        raise ConfigError(
            f"{place}: {name} has kernel {table.kernel}; {optimizer} on {device} under {table.sharding} has "
            f"{kernel}. Plan anew, or give the --optimizer.name that it was planned with"
        )
    for shard in table.shards:
        if shard.rank >= world_size:
            raise ConfigError(
                f"{place}: {name} lies on rank {shard.rank}, and ranks go to {world_size - 1}. Plan anew"
            )
    if not _covers(table, world_size):
        raise ConfigError(f"{place}: the shards of {name} leave gaps in it or overlap. Plan anew")


def _covers(table: Table, world_size: int) -> bool:
    """Whether the shards, by rows or by columns, are the table."""
    whole = (0, 0, table.rows, table.dim)
    rectangles = [
        (shard.row_offset, shard.column_offset, shard.rows, shard.columns) for shard in table.shards
    ]
    if table.sharding == "data_parallel":
        ranks = [shard.rank for shard in table.shards]
        return ranks == list(range(world_size)) and set(rectangles) == {whole}
    by_rows = table.sharding in ("row_wise", "table_row_wise", PARTITIONED)
    cut, end = (0, table.rows) if by_rows else (1, table.dim)
    place = 0
    for rectangle in rectangles:
        other = 1 - cut
        if rectangle[cut] != place or rectangle[other] != 0 or rectangle[2 + other] != whole[2 + other]:
            return False
        place += rectangle[2 + cut]
    return place == end


def _check_cut(table: Table, place: str, world_size: int, local_world_size: int) -> None:
    """Refuse shards cut otherwise than TorchRec takes for granted: it would look up other rows, or none."""
    ranks, rows = [shard.rank for shard in table.shards], [shard.rows for shard in table.shards]
    needed = None
    if table.sharding == "table_wise" and len(ranks) > 1:
        needed = "one shard"
    elif table.sharding in ("column_wise", "table_column_wise"):
        if any(shard.columns % 4 or not shard.columns for shard in table.shards):
            needed = "widths that are multiples of 4"
    elif table.sharding == PARTITIONED:
        if rows != partition_sizes(table.rows, len(rows)):
            needed = "equal blocks of rows, the last one smaller"
    elif table.sharding in ("row_wise", "table_row_wise"):
        count = world_size if table.sharding == "row_wise" else local_world_size
        first, block = ranks[0] // count * count, -(-table.rows // count)
        equal = [min(block, max(table.rows - block * number, 0)) for number in range(count)]
        if ranks != list(range(first, first + count)) or rows != equal:
            where = "every rank" if table.sharding == "row_wise" else f"the {count} ranks of one host"
            needed = f"equal blocks of rows on {where}, in their order"
    if needed:
        raise ConfigError(f"{place}: {table.name} is {table.sharding}, which needs {needed}. Plan anew")
