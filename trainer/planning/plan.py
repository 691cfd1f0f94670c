"""A sharding plan as plain data: tables with their shards, and what each rank holds, looks up and moves."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from trainer.atomic_write import write_text
from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import SHARDING_KINDS, sharding_kind
from trainer.formatting import format_command

TYPE_NAMES = {int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Shard:
    """A rectangle of a table on one rank.

    Attributes:
        rank: Rank that holds it.
        row_offset: Its first row in the table.
        column_offset: Its first column in the table.
        rows: Number of rows.
        columns: Number of columns.
        weight_bytes: Bytes of its values.
        optimizer_bytes: Bytes of the optimizer's state, and of a dense kernel's gradient.
    """

    rank: int
    row_offset: int
    column_offset: int
    rows: int
    columns: int
    weight_bytes: int
    optimizer_bytes: int


@dataclass(frozen=True)
class Table:
    """One table and its shards.

    Attributes:
        name: Name of the table.
        tower: `query`, `candidate`, or a tower of the closed form.
        rows: Number of rows.
        dim: Width of a row.
        dtype: Type of its values, such as `fp32`.
        sharding: Kind of sharding, see `trainer.facts.sharding_kinds`.
        kernel: `fused`, `dense` or `fused_uvm_caching`.
        pooling_factor: Mean ids per bag.
        lookups: Ids that a step looks up over all ranks.
        shards: Shards in the order of rows, then columns; of a copied table one of its size per rank.
    """

    name: str
    tower: str
    rows: int
    dim: int
    dtype: str
    sharding: str
    kernel: str
    pooling_factor: float
    lookups: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class RankLoad:
    """What one rank holds and does in a step; times are TorchRec's estimates.

    Attributes:
        rank: The rank.
        bytes: Bytes of its shards, of their optimizer state, and of ids and vectors in transit.
        capacity_bytes: Bytes of its memory that tables may take.
        lookups: Ids looked up.
        bytes_sent: Bytes sent to other ranks.
        bytes_received: Bytes received from other ranks.
        compute_ms: Milliseconds of lookups and updates.
        communication_ms: Milliseconds of moving ids and vectors.
        host_bytes: Bytes of tables and optimizer state in a GPU's host, behind a cache.
        host_capacity_bytes: Bytes of host memory that such tables may take for this rank; 0 on CPU, where
            `capacity_bytes` is host memory.
    """

    rank: int
    bytes: int
    capacity_bytes: int
    lookups: int
    bytes_sent: int
    bytes_received: int
    compute_ms: float
    communication_ms: float
    host_bytes: int = 0
    host_capacity_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """Which rank holds which shard of which table, and what that costs.

    Attributes:
        world_size: Ranks in all.
        local_world_size: Ranks per host.
        hardware: Name of the device of every rank.
        tables: All tables.
        ranks: Load of each rank, in order.
        imbalance: Largest over mean `bytes` of the ranks.
        estimated_step_ms: TorchRec's estimate of the slowest rank's step, tables alone.
        idle_ranks: Ranks that hold no shard.
    """

    world_size: int
    local_world_size: int
    hardware: str
    tables: tuple[Table, ...]
    ranks: tuple[RankLoad, ...]
    imbalance: float
    estimated_step_ms: float
    idle_ranks: tuple[int, ...]

    @property
    def fullest_bytes(self) -> int:
        """Bytes on the fullest rank."""
        return max((load.bytes for load in self.ranks), default=0)


def rows_per_rank(tables: Iterable[Table], tower: str, by_id: Collection[str], world_size: int) -> int:
    """Return the rows of a tower's tables in each rank's block; 0 if they are sharded in another way.

    Args:
        tables: Tables of the plan.
        tower: `query` or `candidate`.
        by_id: Tables with one row per user or item. They must be partitioned into one block per rank, in the
            order of ranks; the tower's other tables must be copies.
        world_size: Ranks in all.
    """
    blocks = set()
    for table in (table for table in tables if table.tower == tower):
        kind = sharding_kind(table.sharding)
        if table.name not in by_id:
            blocks |= set() if kind.cut == "copies" else {0}
            continue
        in_order = [shard.rank for shard in table.shards] == list(range(world_size))
        blocks.add(table.shards[0].rows if kind.partitioned and in_order else 0)
    return blocks.pop() if len(blocks) == 1 and world_size > 1 else 0


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON holds it."""
    return asdict(plan)


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON, atomically.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        write_text(path, json.dumps(as_dict(plan), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}). Name another file") from error


def open_plan(path: Path) -> Plan:
    """Read a plan from a file that `save_plan` wrote, such as that of a run folder.

    Raises:
        ConfigError: The file cannot be read, or is no plan.
    """
    try:
        content = json.loads(path.read_text())
        tables = tuple(_table(entry) for entry in content.pop("tables"))
        ranks = tuple(RankLoad(**entry) for entry in content.pop("ranks"))
        idle = tuple(content.pop("idle_ranks"))
        plan = Plan(tables=tables, ranks=ranks, idle_ranks=idle, **content)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Name a file that `plan --save` wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: no sharding plan ({str(error) or type(error).__name__}). Make one: "
            f"{format_command('plan', '--save', path.name)}"
        ) from None
    _check_types(plan, path)
    _check_kinds(plan, path)
    _check_numbers_agree(plan, path)
    return plan


def _table(entry: dict[str, Any]) -> Table:
    return Table(**entry | {"shards": tuple(Shard(**shard) for shard in entry["shards"])})


def _check_types(value: Any, path: Path) -> None:
    """Refuse text in place of a number and the like, which would fail later without naming the file."""
    types = get_type_hints(type(value))
    for field in fields(value):
        given = getattr(value, field.name)
        if isinstance(given, tuple):
            for entry in given:
                if is_dataclass(entry):
                    _check_types(entry, path)
                elif not isinstance(entry, int) or isinstance(entry, bool):
                    raise ConfigError(
                        f"{path}: {field.name} holds {entry!r}, expected a whole number. Make it anew"
                    )
            continue
        expected = types[field.name]
        accepted = (int, float) if expected is float else expected
        infinite = isinstance(given, float) and not math.isfinite(given)
        if not isinstance(given, accepted) or isinstance(given, bool) or infinite:
            name = TYPE_NAMES[expected]
            raise ConfigError(f"{path}: {field.name} is {given!r}, expected {name}. Make it anew")
        if expected is int and given < 0:
            raise ConfigError(f"{path}: {field.name} is {given}, expected a number from 0 up. Make it anew")


def _check_kinds(plan: Plan, path: Path) -> None:
    for table in plan.tables:
        if table.sharding not in SHARDING_KINDS:
            known = ", ".join(SHARDING_KINDS)
            raise ConfigError(f"{path}: {table.name} is {table.sharding}; known are {known}. Plan anew")


def _check_numbers_agree(plan: Plan, path: Path) -> None:
    """Refuse a world size of 0, and tables or ranks that are there twice or not at all."""
    ranks = [load.rank for load in plan.ranks]
    names = [table.name for table in plan.tables]
    twice = [name for name, count in Counter(names).items() if count > 1]
    world_size, local = plan.world_size, plan.local_world_size
    if world_size < 1:
        fault = f"world_size is {world_size}, expected a whole number from 1 up"
    elif local < 1 or world_size % local:
        fault = f"local_world_size is {local}, expected a divisor of world_size, {world_size}"
    elif ranks != list(range(world_size)):
        fault = f"ranks has not one entry for each of {world_size}, in order"
    elif twice:
        fault = f"table {twice[0]} is there twice"
    else:
        return
    raise ConfigError(f"{path}: {fault}. Make it anew")
