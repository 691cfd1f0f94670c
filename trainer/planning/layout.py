"""From a configuration and the sizes of the data to towers without values and the plan of their tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.batching.tower_inputs import USER
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.model.builder import HISTORY, item_table
from trainer.planning.constraints import _constraint, _partitions, _with_table_names
from trainer.planning.hardware import Hardware
from trainer.planning.plan import Plan, block_of_each_rank, open_plan
from trainer.planning.plan_check import check_plan, check_world_size
from trainer.planning.planner import make_plan
from trainer.planning.workload import Workload, make_all_towers


def lay_out(
    config: ResolvedConfig, sizes: Workload, hardware: Hardware, world_size: int, local_world_size: int
) -> Plan:
    """The plan of all tables: what `train` follows, and what `plan` shows.

    Raises: ConfigError for a sharding that cannot be; its kind TooLargeError if the tables do not fit.
    """
    rows = _rows_by_table(config, sizes)
    optimizer, device = config.optimizer.name, hardware.device
    if config.sharding.plan is not None:
        given = open_plan(Path(config.sharding.plan))
        widths = _widths(config, sizes)
        tables = [(name, count, widths[name]) for name, count in rows.items()]
        place, dtype = config.sharding.plan, config.model.table_dtype
        check_plan(given, place, tables, optimizer, device, world_size, local_world_size, dtype)
        return given
    sharding = _with_table_names(config.sharding, list(rows), sizes.item_name)
    partitions = _partitions(sharding, rows, world_size)
    towers = make_all_towers(config, sizes, partitions)
    wishes = {name: _constraint(config, sharding, sizes, name, device, world_size) for name in rows}
    vector = towers.learned.output_dim * 4
    return make_plan(
        towers,
        wishes,
        optimizer,
        hardware,
        world_size,
        local_world_size,
        sizes.gathered * vector,
        min(sizes.candidates, sizes.closed_items) * vector,
        sharding.communication,
        tables_by_id(config, sizes.item_name, device),
    )


def tables_by_id(config: ResolvedConfig, item_name: str, device: str) -> dict[str, Sequence[str]]:
    """Tables with a row for each user, or item, of the towers whose ids tell which rank has the rows.

    Those of a history, and the reserved row of items that are hidden, are asked for by all ranks. On GPUs,
    and with `--sharding.lookup torchrec`, rows are looked up by way of TorchRec's exchange alone.
    """
    if device != "cpu" or config.sharding.lookup == "torchrec":
        return {}
    users = [] if config.model.history else [USER]
    items = [] if config.model.item_id_dropout else [item_name, f"{item_name}_bias"]
    return {"query": users, "candidate": items}


def blocks_of_ranks(config: ResolvedConfig, plan: Plan, item_name: str, device: str) -> tuple[int, int]:
    """Users and items of each rank, where it takes the batches' rows that it has; 0 where it does not."""
    by_id = tables_by_id(config, item_name, device)
    users, items = (
        block_of_each_rank(plan.tables, tower, by_id.get(tower, ()), plan.world_size)
        for tower in ("query", "candidate")
    )
    return users, items


def _rows_by_table(config: ResolvedConfig, sizes: Workload) -> dict[str, int]:
    rank, items = config.model.low_rank, sizes.closed_items
    closed = {HISTORY: items, item_table(sizes.item_name): items} if rank else {}
    return {**sizes.user_tables, **sizes.item_tables, **closed}


def table_values(config: ResolvedConfig, sizes: Workload) -> dict[str, int]:
    """Numbers in each table: rows by width."""
    widths = _widths(config, sizes)
    return {name: rows * widths[name] for name, rows in _rows_by_table(config, sizes).items()}


def _widths(config: ResolvedConfig, sizes: Workload) -> dict[str, int]:
    towers = make_all_towers(config, sizes, {})
    sides = [towers.learned, *([towers.closed] if towers.closed else [])]
    return {
        name: width
        for side in sides
        for name, width in {**side.query.widths, **side.candidate.widths}.items()
    }


def follow_plan(config: Config, world_size: int) -> Config:
    """The configuration with what its plan file decides: kinds of sharding, and the closed form's width.

    Raises: ConfigError if the file is no plan, or one for another world size.
    """
    sharding = config.sharding
    if sharding.plan is None:
        return config
    plan = open_plan(Path(sharding.plan))
    check_world_size(plan, sharding.plan, world_size)
    widths = {table.name: table.dim for table in plan.tables}
    low_rank = widths.get(HISTORY, 0) if config.model.low_rank is None else config.model.low_rank
    return replace(
        config,
        model=replace(config.model, low_rank=low_rank),
        sharding=replace(sharding, tables={table.name: table.sharding for table in plan.tables}),
    )
