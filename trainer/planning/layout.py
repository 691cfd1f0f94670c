"""From a configuration and the sizes of the data to towers without values and the plan of their tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer.batching.tower_inputs import USER, USER_HISTORY, Inputs, table_rows
from trainer.config.schema import Config, ShardingConfig
from trainer.config.size_defaults import settled
from trainer.dataset.attributes import Ragged
from trainer.dataset.dataset import Dataset
from trainer.errors import ConfigError
from trainer.model.closed_form import HISTORY, item_table, make_closed_towers
from trainer.model.retriever import SideBySide
from trainer.model.row_partitions import partition_sizes
from trainer.model.towers import TwoTowers
from trainer.planning.hardware import Hardware
from trainer.planning.plan import PARTITIONED, Plan, block_of_each_rank, open_plan
from trainer.planning.plan_check import check_plan, check_world_size
from trainer.planning.planner import make_plan
from trainer.planning.torchrec_planner import SHARDINGS, Wish, check_dtype


@dataclass(frozen=True)
class Sizes:
    """How large the tables are and how often a step visits them.

    Attributes:
        user_tables, item_tables: rows of each feature's table of the learned towers.
        item_name: what the data set calls its items, and their table.
        closed_items: rows of the closed form's tables.
        rows: of a step over all ranks.
        candidates: that a step looks up over all ranks.
        gathered: vectors of rows, or candidates, of a step that every rank needs of all, whatever the plan.
        pooling: ids in a bag, on average, of the tables where it is not 1.
    """

    user_tables: Mapping[str, int]
    item_tables: Mapping[str, int]
    item_name: str
    closed_items: int
    rows: int
    candidates: int
    gathered: int
    pooling: Mapping[str, float]


def sizes_of(config: Config, dataset: Dataset, users: Inputs, items: Inputs) -> Sizes:
    """Sizes of a training on a data set.

    Args: users, items: features of the two towers.
    """
    rows = settled(config.batches.size)
    by_user = config.batches.rows == "user"
    positives = rows * (len(dataset.train) / max(dataset.user_count, 1) if by_user else 1)
    pooling = {
        name: float(column.lengths().mean())
        for name, column in (*users.items(), *items.items())
        if isinstance(column, Ragged)
    }
    if USER_HISTORY in pooling:
        pooling[USER_HISTORY] *= 1 - config.model.history_dropout
    candidates = candidates_of_step(config, dataset.item_count, positives)
    return Sizes(
        user_tables=table_rows(dataset, users),
        item_tables=table_rows(dataset, items),
        item_name=dataset.item_name,
        closed_items=dataset.item_count,
        rows=rows,
        candidates=candidates,
        gathered=gathered_count(config, rows, min(candidates, dataset.item_count)),
        pooling=pooling,
    )


def candidates_of_step(config: Config, items: int, positives: float) -> int:
    """About how many items a step looks up, whose rows have so many positives together."""
    if config.loss.name in ("mse", "bce"):
        return settled(config.batches.size)
    if config.loss.candidates == "catalogue":
        return items
    return min(items, round(positives) + (config.loss.samples or 0))


def rows_are_gathered(config: Config) -> bool:
    """Whether each rank scores its candidates for the rows of all ranks, and not its rows for all candidates.

    Of a step's rows there are mostly fewer, so that vectors and gradients of fewer have to be exchanged.
    """
    return config.loss.name == "softmax"


def gathered_count(config: Config, rows: int, candidates: int) -> int:
    """How many vectors, of a step's rows or of its candidates, every rank needs of all, whatever the plan."""
    if config.loss.name in ("mse", "bce"):
        return 0
    return rows if rows_are_gathered(config) else candidates


def make_towers(
    config: Config,
    user_tables: Mapping[str, int],
    item_tables: Mapping[str, int],
    item_name: str,
    partitions: Mapping[str, int] | None = None,
    table_dtype: str | None = None,
) -> TwoTowers:
    """Towers without values in their tables, whose rows are given by name.

    Args: table_dtype: None: as the configuration has it.
    """
    torch.manual_seed(config.run.seed)  # of the dense layers
    model = config.model
    return TwoTowers(
        dict(user_tables),
        dict(item_tables),
        dim=settled(model.dim),
        similarity=model.similarity,
        temperature=settled(model.temperature),
        learn_temperature=model.learn_temperature,
        item_bias=f"{item_name}_bias" if model.item_bias else None,
        hidden=model.hidden,
        combine=model.combine,
        partitions=dict(partitions or {}),
        table_dtype=table_dtype or model.table_dtype,
    )


def lay_out(config: Config, sizes: Sizes, hardware: Hardware, world_size: int, local_world_size: int) -> Plan:
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
    wishes = {name: _wish(config, sharding, sizes, name, device, world_size) for name in rows}
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


def tables_by_id(config: Config, item_name: str, device: str) -> dict[str, Sequence[str]]:
    """Tables with a row for each user, or item, of the towers whose ids tell which rank has the rows.

    Those of a history, and the reserved row of items that are hidden, are asked for by all ranks. On GPUs
    rows are looked up by way of TorchRec's exchange alone.
    """
    if device != "cpu":
        return {}
    users = [] if config.model.history else [USER]
    items = [] if config.model.item_id_dropout else [item_name, f"{item_name}_bias"]
    return {"query": users, "candidate": items}


def blocks_of_ranks(config: Config, plan: Plan, item_name: str, device: str) -> tuple[int, int]:
    """Users and items of each rank, where it takes the batches' rows that it has; 0 where it does not."""
    by_id = tables_by_id(config, item_name, device)
    users, items = (
        block_of_each_rank(plan.tables, tower, by_id.get(tower, ()), plan.world_size)
        for tower in ("query", "candidate")
    )
    return users, items


def make_all_towers(config: Config, sizes: Sizes, partitions: Mapping[str, int]) -> SideBySide:
    """Learned towers, and the closed form's beside them where there is one, on the meta device.

    Args: partitions: how many tables a row-partitioned table is cut into, by table.
    """
    rank = settled(config.model.low_rank)
    learned = make_towers(config, sizes.user_tables, sizes.item_tables, sizes.item_name, partitions)
    closed = None
    if rank:
        dtype = config.model.table_dtype
        closed = make_closed_towers(sizes.item_name, sizes.closed_items, rank, partitions, dtype)
    return SideBySide(learned, closed)


def _rows_by_table(config: Config, sizes: Sizes) -> dict[str, int]:
    rank, items = settled(config.model.low_rank), sizes.closed_items
    closed = {HISTORY: items, item_table(sizes.item_name): items} if rank else {}
    return {**sizes.user_tables, **sizes.item_tables, **closed}


def table_values(config: Config, sizes: Sizes) -> dict[str, int]:
    """Numbers in each table: rows by width."""
    widths = _widths(config, sizes)
    return {name: rows * widths[name] for name, rows in _rows_by_table(config, sizes).items()}


def _widths(config: Config, sizes: Sizes) -> dict[str, int]:
    towers = make_all_towers(config, sizes, {})
    sides = [towers.learned, *([towers.closed] if towers.closed else [])]
    return {
        name: width
        for side in sides
        for name, width in {**side.query.widths, **side.candidate.widths}.items()
    }


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


def _wish(
    config: Config, sharding: ShardingConfig, sizes: Sizes, name: str, device: str, world_size: int
) -> Wish:
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
    return Wish(
        shardings=_permitted(kind, config, device),
        bags=sizes.rows if name in sizes.user_tables else bags,
        pooling_factor=sizes.pooling.get(name, 1.0),
        ranks=ranks,
        cached=sharding.uvm_caching,
    )


def check_sharding(config: Config, device: str) -> None:
    """Refuse kinds of sharding that optimizer, type or device do not have, before anything is prepared.

    Raises: ConfigError naming those that they have.
    """
    sharding = config.sharding
    for kind in (sharding.kind, *sharding.tables.values()) if sharding.plan is None else ():
        _permitted(kind, config, device)


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


def _permitted(kind: str, config: Config, device: str) -> tuple[str, ...]:
    """TorchRec's kinds of sharding behind a word of the configuration.

    Raises: ConfigError for one that optimizer, type of the tables or device do not have.
    """
    optimizer, dtype = config.optimizer.name, config.model.table_dtype
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
