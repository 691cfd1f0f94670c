"""What is to be planned: the sizes of prepared data, or of a data set that nobody has yet."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from trainer.batching.tower_inputs import USER, USER_HISTORY, make_inputs
from trainer.config.effects import check_decided_effects
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.errors import ConfigError
from trainer.planning.hardware import Hardware, hardware_here, named_hardware
from trainer.planning.workload import Workload, candidates_of_step, gathered_count, workload_of

INTERACTIONS_A_USER = 20
"""Assumed where sizes alone are given."""


@dataclass(frozen=True)
class Scenario:
    """What is to be planned: a configuration, the sizes of its tables, and where they go.

    Attributes:
        asked: the configuration as it was given.
        counts: users, items and interactions, which decide what it leaves open.
        config: the same without gaps.
        ranks_of_host: as it was given; None: it was not.
    """

    asked: Config
    counts: tuple[int, int, int]
    config: ResolvedConfig
    sizes: Workload
    hardware: Hardware
    world_size: int
    local_world_size: int
    ranks_of_host: int | None


def make_scenario(
    config: Config,
    rows: Mapping[str, int],
    hardware: str | None,
    world_size: int,
    local_world_size: int | None,
) -> Scenario:
    """The case of a configuration's data, with other numbers of rows for some tables.

    Args:
        rows: by table; with both ids' tables among them the data are not touched.
        hardware: name or file; None: this machine as `config.device` takes it.
        local_world_size: ranks of a host; None: as many as the hardware has devices, on CPU all.
    Raises: ConfigError for unknown tables or hardware; DataError from the data.
    """
    device = named_hardware(hardware) if hardware else hardware_here(config.device)
    local = local_world_size or ranks_of_host(device, world_size)
    if world_size % local:
        raise ConfigError(
            f"--local-world-size {local}: {world_size} ranks do not fill hosts of {local}. Use a divisor"
        )
    items = [name for name in rows if not name.startswith(USER)]
    by_hand = USER in rows and bool(items)
    counts, resolved, sizes = _by_hand(config, rows, items[0]) if by_hand else _of_data(config, rows)
    return Scenario(config, counts, resolved, sizes, device, world_size, local, local_world_size)


def without_gaps(config: Config, counts: tuple[int, int, int]) -> ResolvedConfig:
    """The configuration as a training on so many users, items and interactions has it."""
    sized = with_size_defaults(config, *counts)
    check_decided_effects(config, sized)
    return with_fixed_values(sized)


def ranks_of_host(hardware: Hardware, world_size: int) -> int:
    """Ranks of a host where nobody says: as many as its devices and an even share allow; on CPU all."""
    if hardware.device == "cpu":
        return world_size
    return next(count for count in range(min(hardware.devices, world_size), 0, -1) if world_size % count == 0)


def _of_data(
    config: Config, rows: Mapping[str, int]
) -> tuple[tuple[int, int, int], ResolvedConfig, Workload]:
    dataset = open_dataset(prepare_data(config.data))
    item = dataset.item_name
    users = rows.get(USER, int(np.count_nonzero(dataset.train_by_user().lengths())))
    counts = users, rows.get(item, dataset.item_count), len(dataset.train)
    filled = without_gaps(config, counts)
    sizes = workload_of(filled, dataset, *make_inputs(filled, dataset))
    known = [*sizes.user_tables, *sizes.item_tables]
    for name in rows:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}"
            raise ConfigError(f"--rows {name}: {dataset.name} has no such table. {hint}")
    if item in rows:  # what is as long as the catalogue goes with it
        rows = {f"{item}_bias": rows[item], USER_HISTORY: rows[item]} | dict(rows)
        a_row = len(dataset.train) / max(dataset.user_count, 1) if config.batches.rows == "user" else 1
        candidates = candidates_of_step(filled, rows[item], sizes.rows * a_row)
        gathered = gathered_count(filled, sizes.rows, min(candidates, rows[item]))
        sizes = replace(sizes, candidates=candidates, gathered=gathered, closed_items=rows[item])
    user_tables = {name: rows.get(name, count) for name, count in sizes.user_tables.items()}
    item_tables = {name: rows.get(name, count) for name, count in sizes.item_tables.items()}
    return counts, filled, replace(sizes, user_tables=user_tables, item_tables=item_tables)


def _by_hand(
    asked: Config, rows: Mapping[str, int], item: str
) -> tuple[tuple[int, int, int], ResolvedConfig, Workload]:
    """Sizes from the command line: `user...` tables in the query tower, the others in the candidate tower."""
    users, items = rows[USER], rows[item]
    counts = users, items, users * INTERACTIONS_A_USER
    config = without_gaps(asked, counts)
    size = config.batches.size
    positives = size * (INTERACTIONS_A_USER if config.batches.rows == "user" else 1)
    item_tables = {name: count for name, count in rows.items() if not name.startswith(USER)}
    if config.model.item_bias:
        item_tables.setdefault(f"{item}_bias", items)
    candidates = candidates_of_step(config, items, positives)
    sizes = Workload(
        user_tables={name: count for name, count in rows.items() if name.startswith(USER)},
        item_tables=item_tables,
        item_name=item,
        closed_items=items,
        rows=size,
        candidates=candidates,
        gathered=gathered_count(config, size, min(candidates, items)),
        pooling={USER_HISTORY: INTERACTIONS_A_USER * (1 - config.model.history_dropout)},
    )
    return counts, config, sizes


def table_rows_given(texts: list[str]) -> dict[str, int]:
    """Rows by table from `user=2e9` and the like.

    Raises: ConfigError for what is no name and number.
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
