"""A planning scenario: the configuration, the sizes of prepared or imagined data, and the cluster."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from trainer.batching.tower_inputs import USER, USER_HISTORY, context_table, make_inputs
from trainer.config.effects import check_decided_effects
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config, ModelConfig
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.errors import ConfigError
from trainer.facts.histories import history_spec
from trainer.planning.hardware import Cluster, Hardware, hardware_here, named_hardware
from trainer.planning.workload import Workload, hashed_pooling, items_of_step, workload_of

INTERACTIONS_PER_USER = 20
"""Assumed where `--rows` gives the sizes and no data are read."""


@dataclass(frozen=True)
class DataSize:
    """What the defaults of a configuration depend on.

    Attributes:
        users: Users with training interactions.
        items: Items of the catalogue.
        interactions: Training interactions.
    """

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Scenario:
    """A configuration, the sizes of its tables, and the cluster that they are planned for.

    Attributes:
        asked: Configuration as the user gave it.
        data_size: Counts that decide what the configuration leaves open.
        config: The same configuration without gaps.
        workload: Rows of every table, and what a step looks up.
        cluster: Hardware and ranks.
        local_world_size_asked: Ranks per host as the user gave them; None if they did not.
    """

    asked: Config
    data_size: DataSize
    config: ResolvedConfig
    workload: Workload
    cluster: Cluster
    local_world_size_asked: int | None


def make_scenario(
    config: Config,
    rows: Mapping[str, int],
    *,
    hardware: str | None,
    world_size: int,
    local_world_size: int | None,
) -> Scenario:
    """Make the scenario of a configuration and its data, with the rows of some tables replaced.

    Args:
        config: Configuration as the user gave it.
        rows: Rows by table. If both id tables are given, the data are not read.
        hardware: Name or YAML file; None: this machine, with the device of the configuration.
        world_size: Ranks in all.
        local_world_size: Ranks per host; None: one per device of the hardware, on CPU all.

    Raises:
        ConfigError: A table or the hardware is unknown, or the ranks do not fill their hosts.
        DataError: The data cannot be prepared.
    """
    device = named_hardware(hardware) if hardware else hardware_here(config.device)
    local = local_world_size or default_local_world_size(device, world_size)
    if world_size % local:
        raise ConfigError(
            f"--local-world-size {local}: {world_size} ranks do not fill hosts of {local}. Use a divisor"
        )
    items = [name for name in rows if not name.startswith(USER)]
    if USER in rows and items:
        data_size, resolved, workload = _from_rows(config, rows, items[0])
    else:
        data_size, resolved, workload = _from_data(config, rows)
    cluster = Cluster(device, world_size, local)
    return Scenario(config, data_size, resolved, workload, cluster, local_world_size)


def without_gaps(config: Config, data_size: DataSize) -> ResolvedConfig:
    """Return the configuration that a training on data of this size would follow."""
    sized = with_size_defaults(config, data_size.users, data_size.items, data_size.interactions)
    check_decided_effects(config, sized)
    return with_fixed_values(sized)


def default_local_world_size(hardware: Hardware, world_size: int) -> int:
    """Return the ranks per host if nobody gives them: on CPU all, else an even share of the ranks."""
    if hardware.device == "cpu":
        return world_size
    return next(count for count in range(min(hardware.devices, world_size), 0, -1) if world_size % count == 0)


def _from_data(config: Config, rows: Mapping[str, int]) -> tuple[DataSize, ResolvedConfig, Workload]:
    dataset = open_dataset(prepare_data(config.data))
    item = dataset.item_name
    users = rows.get(USER, int(np.count_nonzero(dataset.train_by_user().lengths())))
    data_size = DataSize(users, rows.get(item, dataset.item_count), len(dataset.train))
    resolved = without_gaps(config, data_size)
    workload = workload_of(resolved, dataset, *make_inputs(resolved, dataset))
    known = [*workload.user_tables, *workload.item_tables]
    for name in rows:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}"
            raise ConfigError(f"--rows {name}: {dataset.name} has no such table. {hint}")
    if item in rows:  # tables as long as the catalogue change with it
        as_long = (f"{item}_bias", context_table(item), USER_HISTORY)
        rows = dict.fromkeys(as_long, rows[item]) | dict(rows)
        per_user = len(dataset.train) / max(dataset.user_count, 1)
        candidates, gathered = items_of_step(resolved, rows[item], per_user)
        workload = replace(workload, candidates=candidates, gathered=gathered, closed_items=rows[item])
    rows = _with_hashed_rows(rows, resolved.model, item)
    user_tables = {name: rows.get(name, count) for name, count in workload.user_tables.items()}
    item_tables = {name: rows.get(name, count) for name, count in workload.item_tables.items()}
    return data_size, resolved, replace(workload, user_tables=user_tables, item_tables=item_tables)


def _from_rows(
    asked: Config, rows: Mapping[str, int], item: str
) -> tuple[DataSize, ResolvedConfig, Workload]:
    """Take all sizes from the command line; tables named `user...` belong to the query tower."""
    users, items = rows[USER], rows[item]
    data_size = DataSize(users, items, users * INTERACTIONS_PER_USER)
    config = without_gaps(asked, data_size)
    user_tables = {name: count for name, count in rows.items() if name.startswith(USER)}
    ordered = history_spec(config.model.history).ordered
    if ordered and not config.model.user_id:  # their number still decides the defaults
        del user_tables[USER]
    item_tables = {name: count for name, count in rows.items() if not name.startswith(USER)}
    if config.model.item_bias:
        item_tables.setdefault(f"{item}_bias", items)
    if ordered and config.model.history_table != "tied":
        item_tables.setdefault(context_table(item), items)
    item_tables = _with_hashed_rows(item_tables, config.model, item)
    candidates, gathered = items_of_step(config, items, INTERACTIONS_PER_USER)
    workload = Workload(
        user_tables=_with_hashed_rows(user_tables, config.model, item),
        item_tables=item_tables,
        item_name=item,
        closed_items=items,
        rows=config.batches.size,
        candidates=candidates,
        gathered=gathered,
        pooling={USER_HISTORY: INTERACTIONS_PER_USER * (1 - config.model.history_dropout)}
        | hashed_pooling(config.model, item),
    )
    return data_size, config, workload


def _with_hashed_rows(rows: Mapping[str, int], model: ModelConfig, item: str) -> dict[str, int]:
    """Return rows by table, where tables of ids have those that ids are hashed into, and a reserved one."""
    hashed = {USER, item, context_table(item)} & rows.keys() if model.hashed_rows else set()
    return {name: (model.hashed_rows or 0) + 1 if name in hashed else count for name, count in rows.items()}


def parse_table_rows(texts: list[str]) -> dict[str, int]:
    """Parse the rows of tables, given as `user=2e9` and the like.

    Raises:
        ConfigError: A text is not a table's name and a whole number.
    """
    rows = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            count = float(number)
        except ValueError:
            count = math.nan
        if not (name and equals) or not count.is_integer() or not 1 <= count <= 2**53:
            raise ConfigError(f"--rows {text}: a table and a whole number from 1 up are needed, as user=2e9")
        if "." in name or ":" in name:
            raise ConfigError(f"--rows {text}: a table's name has no full stop and no colon")
        rows[name] = int(count)
    return rows
