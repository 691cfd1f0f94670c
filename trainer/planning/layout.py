"""From a configuration and a workload to the plan of all tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.batching.tower_inputs import CONTEXT, USER, context_table
from trainer.config.resolved import ResolvedConfig, ResolvedModelConfig
from trainer.config.schema import Config, ModelConfig
from trainer.config.size_defaults import history_is_open
from trainer.facts.histories import history_spec
from trainer.model.builder import HISTORY, item_table
from trainer.planning.constraints import partition_counts, table_constraint, with_table_names
from trainer.planning.hardware import Cluster
from trainer.planning.plan import Plan, open_plan, rows_per_rank
from trainer.planning.plan_check import check_plan, check_world_size
from trainer.planning.planner import StepExchange, make_plan
from trainer.planning.workload import Workload, make_all_towers

VECTOR_VALUE_BYTES = 4


def lay_out(config: ResolvedConfig, workload: Workload, cluster: Cluster) -> Plan:
    """Return the plan of all tables: what `train` follows and what `plan` shows.

    Args:
        config: Configuration of the training.
        workload: Rows of every table, and what a step looks up.
        cluster: Hardware and ranks.

    Raises:
        TooLargeError: The tables do not fit.
        ConfigError: The tables cannot be sharded as asked, or the plan file is for other tables.
    """
    rows, optimizer, dtype = _rows(config.model, workload), config.optimizer.name, config.model.table_dtype
    if config.sharding.plan is not None:
        plan, widths = open_plan(Path(config.sharding.plan)), _widths(config, workload)
        sizes = {name: (count, widths[name]) for name, count in rows.items()}
        place = config.sharding.plan
        check_plan(plan, sizes, place=place, optimizer=optimizer, dtype=dtype, cluster=cluster)
        return plan
    sharding = with_table_names(config.sharding, rows, workload.item_name)
    partitions = partition_counts(sharding, rows, cluster.world_size)
    towers = make_all_towers(config, workload, partitions)
    constraints = {
        name: table_constraint(name, sharding, workload, optimizer=optimizer, dtype=dtype, cluster=cluster)
        for name in rows
    }
    vector_bytes = towers.learned.exchanged_dim * VECTOR_VALUE_BYTES
    exchange = StepExchange(
        gathered_bytes=workload.gathered * vector_bytes,
        candidate_bytes=min(workload.candidates, workload.closed_items) * vector_bytes,
        communication=sharding.communication,
        by_id=tables_by_id(config.model, workload.item_name, lookup=sharding.lookup, device=cluster.device),
    )
    return make_plan(towers, constraints, optimizer=optimizer, cluster=cluster, exchange=exchange)


def tables_by_id(model: ModelConfig, item_name: str, *, lookup: str, device: str) -> dict[str, Sequence[str]]:
    """Return the tables with one row per user or item, by tower, where an id alone tells the rank to ask.

    A history asks all ranks, and so do the reserved row of hidden items and ids with two rows by hashing. On
    GPUs, and with `--sharding.lookup torchrec`, all lookups go through TorchRec's exchange.
    """
    if device != "cpu" or lookup == "torchrec" or model.hashed_rows:
        return {}
    users = [] if history_spec(model.history).bag else [USER]
    of_items = [item_name, f"{item_name}_bias", context_table(item_name)]
    items = [] if model.item_id_dropout else of_items
    return {"query": users, "candidate": items}


def blocks_of_ranks(
    model: ModelConfig, plan: Plan, item_name: str, *, lookup: str, device: str
) -> tuple[int, int]:
    """Return the users and the items in each rank's block; 0 where ranks do not hold one block each.

    Args:
        model: Model section of the configuration.
        plan: Plan of the tables.
        item_name: What the data set calls its items.
        lookup: As `sharding.lookup`.
        device: `cpu` or `cuda`.
    """
    by_id = tables_by_id(model, item_name, lookup=lookup, device=device)
    users, items = (
        rows_per_rank(plan.tables, tower, by_id.get(tower, ()), plan.world_size)
        for tower in ("query", "candidate")
    )
    return users, items


def _rows(model: ResolvedModelConfig, workload: Workload) -> Mapping[str, int]:
    """Return the rows of each table, those of the closed form included."""
    items = workload.closed_items
    closed = {HISTORY: items, item_table(workload.item_name): items} if model.low_rank else {}
    return {**workload.user_tables, **workload.item_tables, **closed}


def table_values(config: ResolvedConfig, workload: Workload) -> dict[str, int]:
    """Return the number of values of each table: its rows times its width."""
    widths = _widths(config, workload)
    return {name: rows * widths[name] for name, rows in _rows(config.model, workload).items()}


def _widths(config: ResolvedConfig, workload: Workload) -> dict[str, int]:
    """Return the width of each table."""
    towers = make_all_towers(config, workload, {})
    pairs = [towers.learned, *([towers.closed] if towers.closed else [])]
    return {
        name: width
        for pair in pairs
        for name, width in {**pair.query.widths, **pair.candidate.widths}.items()
    }


def follow_plan(config: Config, world_size: int) -> Config:
    """Return the configuration with the kinds of sharding and the closed form's width of its plan file.

    Raises:
        ConfigError: The file is no plan, or one for another world size.
    """
    sharding = config.sharding
    if sharding.plan is None:
        return config
    plan = open_plan(Path(sharding.plan))
    check_world_size(plan, sharding.plan, world_size)
    widths = {table.name: table.dim for table in plan.tables}
    low_rank = widths.get(HISTORY, 0) if config.model.low_rank is None else config.model.low_rank
    model = replace(config.model, low_rank=low_rank)
    if history_is_open(config):
        ordered = any(table.name.endswith(CONTEXT) for table in plan.tables)
        model = replace(model, history="recency" if ordered else "none")
    return replace(
        config,
        model=model,
        sharding=replace(sharding, tables={table.name: table.sharding for table in plan.tables}),
    )
