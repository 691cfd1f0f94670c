"""Plans with a known right picture, made by hand."""

from collections.abc import Sequence

from trainer.planning.plan import Plan, RankLoad, Shard, Table

GB = 10**9


def shard(rank: int, rows: int, columns: int, row: int = 0, column: int = 0, state: int = 0) -> Shard:
    """Of 4-byte values, with `state` bytes of optimizer state a row."""
    return Shard(rank, row, column, rows, columns, rows * columns * 4, rows * state)


def whole(name: str, rows: int, dim: int, rank: int, state: int = 0) -> Table:
    """All on one rank."""
    return table(name, rows, dim, "table_wise", [shard(rank, rows, dim, state=state)])


def by_rows(name: str, rows: int, dim: int, ranks: Sequence[int], state: int = 0) -> Table:
    """In equal blocks of rows, the last one smaller."""
    size = -(-rows // len(ranks))
    starts = [(rank, place * size) for place, rank in enumerate(ranks) if place * size < rows]
    cuts = [shard(rank, min(size, rows - row), dim, row=row, state=state) for rank, row in starts]
    return table(name, rows, dim, "row_wise", cuts)


def by_columns(name: str, rows: int, dim: int, ranks: Sequence[int], state: int = 0) -> Table:
    """In equal blocks of columns."""
    size = dim // len(ranks)
    cuts = [shard(rank, rows, size, column=place * size, state=state) for place, rank in enumerate(ranks)]
    return table(name, rows, dim, "column_wise", cuts)


def copied(name: str, rows: int, dim: int, world_size: int, state: int = 0) -> Table:
    """Whole on every rank."""
    shards = [shard(rank, rows, dim, state=state) for rank in range(world_size)]
    return table(name, rows, dim, "data_parallel", shards, "dense")


def table(
    name: str, rows: int, dim: int, sharding: str, shards: Sequence[Shard], kernel: str = "fused"
) -> Table:
    return Table(name, "query", rows, dim, "fp32", sharding, kernel, 1.0, 1000, tuple(shards))


def plan_of(
    tables: Sequence[Table],
    world_size: int,
    capacity: int = 68 * GB,
    moving: int = 0,
    hardware: str = "a100-80g",
) -> Plan:
    """Loads added up from the shards, with `moving` bytes of ids and vectors on every rank."""
    held = [moving] * world_size
    for each in tables:
        for part in each.shards:
            held[part.rank] += part.weight_bytes + part.optimizer_bytes
    busy = {part.rank for each in tables for part in each.shards}
    return Plan(
        world_size=world_size,
        local_world_size=min(world_size, 8),
        hardware=hardware,
        tables=tuple(tables),
        ranks=tuple(
            RankLoad(rank, size, capacity, 1000, 2000, 3000, 0.5, 1.5) for rank, size in enumerate(held)
        ),
        imbalance=max(held) * world_size / max(sum(held), 1),
        estimated_step_ms=2.0,
        idle_ranks=tuple(rank for rank in range(world_size) if rank not in busy),
    )
