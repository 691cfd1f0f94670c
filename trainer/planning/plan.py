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

PARTITIONED = "row_partitioned"
"""Sharding of a table whose rows are cut into several tables."""
WORDS = {int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Shard:
    """A rectangle of a table on one rank.

    Attributes:
        rank: that holds it.
        row_offset, column_offset: of its first value in the table.
        rows, columns: its size.
        weight_bytes: of its values.
        optimizer_bytes: of the optimizer's state, and of a dense kernel's gradient.
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
    """One table and where it lies.

    Attributes:
        name: of the table.
        tower: `query`, `candidate`, or a closed form's.
        rows, dim: its size.
        dtype: of its values, as `fp32`.
        sharding: `row_partitioned` where rows are cut into several table-wise tables, else TorchRec's name.
        kernel: `fused`, `dense` or `fused_uvm_caching`.
        pooling_factor: ids in a bag, on average.
        lookups: ids that one step looks up over all ranks.
        shards: in the order of rows, then columns; a data-parallel table has one whole one a rank.
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
    """What one rank holds and does in a step; times are the planner's estimates.

    Attributes:
        bytes: of its shards with their optimizer state, and of ids and vectors on their way.
        capacity_bytes: of its memory that the tables may take.
        lookups: ids looked up.
        bytes_sent, bytes_received: between it and other ranks.
        compute_ms, communication_ms: estimated time of lookups and updates, and of moving ids and vectors.
        host_bytes: of tables and optimizer state that live in a GPU's host, behind a cache.
        host_capacity_bytes: of the host's memory that such tables may take for this rank; 0 on CPU, where
            `capacity_bytes` is the host's.
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
    """Which rank holds which part of which table, and what that costs.

    Attributes:
        world_size, local_world_size: ranks in all and on each host.
        hardware: name of the device of every rank.
        imbalance: largest over mean `bytes` of the ranks.
        estimated_step_ms: the planner's estimate of the slowest rank's step, tables alone.
        idle_ranks: that hold no shard.
    """

    world_size: int
    local_world_size: int
    hardware: str
    tables: tuple[Table, ...]
    ranks: tuple[RankLoad, ...]
    imbalance: float
    estimated_step_ms: float
    idle_ranks: tuple[int, ...]


def block_of_each_rank(tables: Iterable[Table], tower: str, by_id: Collection[str], world_size: int) -> int:
    """Rows of a tower's tables that each rank has, rank after rank; 0 where they are laid out in another way.

    Args: by_id: tables with a row for each user, or item. Those are to be cut; any other is to be a copy.
    """
    blocks = set()
    for table in (table for table in tables if table.tower == tower):
        if table.name not in by_id:
            blocks |= set() if table.sharding == "data_parallel" else {0}
            continue
        in_order = [shard.rank for shard in table.shards] == list(range(world_size))
        blocks.add(table.shards[0].rows if table.sharding == PARTITIONED and in_order else 0)
    return blocks.pop() if len(blocks) == 1 and world_size > 1 else 0


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON holds it."""
    return asdict(plan)


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON, whole: beside, then in its place.

    Raises: ConfigError if the file cannot be written.
    """
    try:
        write_text(path, json.dumps(as_dict(plan), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}). Name another file") from error


def open_plan(path: Path) -> Plan:
    """The plan in a file that `save_plan` wrote, or in a run folder's.

    Raises: ConfigError if it cannot be read, or is no plan.
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
            f"python -m trainer plan --save {path.name}"
        ) from None
    _check_kinds(plan, path)
    _check_numbers_agree(plan, path)
    return plan


def _table(entry: dict[str, Any]) -> Table:
    return Table(**entry | {"shards": tuple(Shard(**shard) for shard in entry["shards"])})


def _check_kinds(value: Any, path: Path) -> None:
    """Refuse texts where numbers are meant, and the like: what would fail late and without its place."""
    kinds = get_type_hints(type(value))
    for field in fields(value):
        given = getattr(value, field.name)
        if isinstance(given, tuple):
            for entry in given:
                if is_dataclass(entry):
                    _check_kinds(entry, path)
                elif not isinstance(entry, int) or isinstance(entry, bool):
                    raise ConfigError(
                        f"{path}: {field.name} holds {entry!r}, expected a whole number. Make it anew"
                    )
            continue
        kind = kinds[field.name]
        wanted = (int, float) if kind is float else kind
        endless = isinstance(given, float) and not math.isfinite(given)
        if not isinstance(given, wanted) or isinstance(given, bool) or endless:
            raise ConfigError(f"{path}: {field.name} is {given!r}, expected {WORDS[kind]}. Make it anew")
        if kind is int and given < 0:
            raise ConfigError(f"{path}: {field.name} is {given}, expected a number from 0 up. Make it anew")


def _check_numbers_agree(plan: Plan, path: Path) -> None:
    """Refuse what would divide by zero, or count a table or a rank twice or not at all."""
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
