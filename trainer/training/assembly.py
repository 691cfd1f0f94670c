"""From a configuration to the parts of a training: data set, inputs, towers, plan, sharded model."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.config import Config
from trainer.data.batches import BatchPlan
from trainer.data.dataset import Dataset
from trainer.data.features import Ragged
from trainer.data.inputs import USER_HISTORY, Inputs, item_inputs, table_rows, user_inputs
from trainer.errors import ConfigError
from trainer.model.low_rank import closed_form_files
from trainer.model.served import Served, SideBySide
from trainer.model.towers import BIAS_DIM, TwoTowers
from trainer.parallel.plan import compute_kernel, describe_plan, make_plan
from trainer.parallel.shard import fill_tables, normal_block, shard
from trainer.parallel.world import World
from trainer.training.by_size import settled
from trainer.training.closed_form import HISTORY, closed_inputs, item_table, make_closed_towers

TAKEN_NAMES = {"user": ("history", "low_rank"), "item": ("bias", "low_rank")}
"""Attributes whose tables would be named like others."""


@dataclass(frozen=True)
class Parts:
    """A sharded model with what it takes in.

    Attributes:
        model: wrapped for training; `towers` are the learned ones in it, sharded.
        optimizer: of tables and dense layers.
        plan: the sharding plan as plain data.
        user_inputs, item_inputs: of the learned towers.
        served: the learned towers and the closed-form ones beside them, whose vectors rank the catalogue.
    """

    model: nn.Module
    towers: TwoTowers
    optimizer: CombinedOptimizer
    plan: dict
    user_inputs: Inputs
    item_inputs: Inputs
    served: list[Served]


def make_inputs(config: Config, dataset: Dataset) -> tuple[Inputs, Inputs]:
    """Features of the query and of the candidate tower.

    Raises: ConfigError for an attribute that the data set does not have, or that cannot name a table.
    """
    for side, wanted, present in (
        ("user", config.model.user_features, dataset.user_features),
        ("item", config.model.item_features, dataset.item_features),
    ):
        for name in wanted:
            if name not in present:
                has = f"it has {', '.join(present)}" if present else "it has none"
                raise ConfigError(
                    f"--model.{side}_features {name}: no such attribute in {dataset.name}; {has}"
                )
            if "." in name or name in TAKEN_NAMES[side]:
                taken = " or ".join(f"`{other}`" for other in TAKEN_NAMES[side])
                raise ConfigError(
                    f"--model.{side}_features {name}: cannot name a table (no full stops, not {taken}). "
                    "Rename the column"
                )
    model = config.model
    users = user_inputs(dataset, model.user_features, model.user_id, model.history)
    items = item_inputs(dataset, model.item_features, model.item_bias)
    return users, items


def make_towers(
    config: Config, user_tables: dict[str, int], item_tables: dict[str, int], item_name: str
) -> TwoTowers:
    """Towers without values in their tables, whose rows are given by name."""
    torch.manual_seed(config.run.seed)  # of the dense layers
    model = config.model
    return TwoTowers(
        user_tables,
        item_tables,
        dim=settled(model.dim),
        similarity=model.similarity,
        temperature=settled(model.temperature),
        learn_temperature=model.learn_temperature,
        item_bias=f"{item_name}_bias" if model.item_bias else None,
        hidden=model.hidden,
        combine=model.combine,
    )


def assemble(config: Config, dataset: Dataset, world: World) -> Parts:
    """Sharded towers with initial values.

    Raises: ConfigError for combinations that cannot work.
    """
    if config.loss.name in ("mse", "bce") and dataset.train.values is None:
        raise ConfigError(
            f"--loss.name {config.loss.name}: {dataset.name} has no values (ratings) to fit. "
            "Use --loss.name softmax or bpr, or data with values"
        )
    kernel = compute_kernel(config.optimizer.name, config.sharding.kind, world.device.type)
    users, items = make_inputs(config, dataset)
    rank = settled(config.model.low_rank)
    towers = SideBySide(
        make_towers(
            config,
            table_rows(dataset, users),
            table_rows(dataset, items),
            dataset.item_name,
        ),
        make_closed_towers(dataset.item_name, dataset.item_count, rank) if rank else None,
    )
    rows = settled(config.batches.size) // world.size
    # One rank decides: memory enters the plan, and hosts may differ in it.
    plan = world.on_first(
        lambda: make_plan(
            towers, config.sharding.kind, kernel, world.size, world.local_size, world.device.type, rows
        )
    )
    described = describe_plan(plan, towers, world.size)
    rates = _learning_rates(config, [*users, *items], dataset.item_name)
    # The closed form is not trained: no gradient reaches its tables.
    rates |= {HISTORY: 0.0, item_table(dataset.item_name): 0.0} if rank else {}
    model, optimizer = shard(
        towers,
        plan,
        kernel,
        world.device,
        config.optimizer.name,
        rates,
        config.optimizer.dense_learning_rate,
        config.optimizer.weight_decay,
    )
    closed = (
        world.on_each_host(lambda: closed_form_files(dataset, rank, settled(config.model.low_rank_penalty)))
        if rank
        else None
    )
    inside = cast(SideBySide, model.module)
    served = [Served(inside.learned, users, items)]
    _initialise(model, config, dataset, served[0], closed)
    if inside.closed is not None:
        served.append(Served(inside.closed, *closed_inputs(dataset)))
    return Parts(model, inside.learned, optimizer, described, users, items, served)


def batch_plan(config: Config) -> BatchPlan:
    """How steps are cut, from the configuration."""
    loss = config.loss
    assert loss.candidates != "auto", "the configuration is settled before it is used"
    return BatchPlan(
        rows=config.batches.rows,
        size=settled(config.batches.size),
        seed=config.run.seed,
        candidates="own" if loss.name in ("mse", "bce") else loss.candidates,
        samples=settled(loss.samples),
        popularity_power=loss.popularity_power,
        logq=loss.logq,
        mask_known=loss.mask_known,
        user_weight_power=loss.user_weight_power,
        history_dropout=config.model.history_dropout,
        item_id_dropout=config.model.item_id_dropout,
    )


def _learning_rates(config: Config, tables: list[str], item_name: str) -> dict[str, float]:
    """Peak learning rate of each table; `item` and `item_bias` stand for whatever items are called."""
    given = {
        name.replace("item", item_name, 1) if name in ("item", "item_bias") else name: rate
        for name, rate in settled(config.optimizer.table_learning_rates).items()
    }
    known = {*tables, f"{item_name}_bias"}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"--optimizer.table_learning_rates {name}: no such table; this model has {', '.join(tables)}"
            )
    return {table: given.get(table, settled(config.optimizer.learning_rate)) for table in tables}


def _initialise(
    model: nn.Module, config: Config, dataset: Dataset, learned: Served, closed: tuple[Path, Path] | None
) -> None:
    """Normal vectors, biases of log popularity, and zero for what training looks up for nobody and nothing.

    Such rows stay as they are: those of unknown users and of items without training interactions, and
    categories, the unknown one among them, of such users or items alone. Unit vectors would give their
    values, by chance, the full weight.
    """
    seed, widths = config.run.seed, learned.towers.query.widths | learned.towers.candidate.widths
    std = 0.3 / settled(config.model.dim) ** 0.5 if config.model.init_std is None else config.model.init_std
    bias = _initial_bias(dataset, config.model.popularity_prior)
    used = _used_rows(dataset, learned)
    if config.model.item_id_dropout:
        used[dataset.item_name] = np.append(used[dataset.item_name], dataset.item_count)

    fixed: dict[str, tuple[np.ndarray, float]] = {}
    if closed is not None:
        history, vectors = (np.load(path, mmap_mode="r", allow_pickle=False) for path in closed)
        fixed[HISTORY] = history, settled(config.model.low_rank_weight)
        fixed[item_table(dataset.item_name)] = vectors, 1.0

    def values(table: str, rows: slice) -> torch.Tensor:
        if table in fixed:
            source, factor = fixed[table]
            return _whole_block(source, factor, rows)
        if table == f"{dataset.item_name}_bias":
            column = bias[rows]
            block = torch.zeros(rows.stop - rows.start, BIAS_DIM)
            block[: len(column)] = column.unsqueeze(1)
            return block
        block = normal_block(seed, table, rows, widths[table], std)
        unused = np.isin(np.arange(rows.start, rows.stop), used[table], invert=True)
        block[torch.from_numpy(unused)] = 0
        return block

    fill_tables(model, values)


def _whole_block(source: np.ndarray, factor: float, rows: slice) -> torch.Tensor:
    """Rows of an array times a factor, as many as asked for; those behind its end are zero."""
    part = torch.from_numpy(source[rows] * np.float32(factor))
    block = torch.zeros(rows.stop - rows.start, source.shape[1])
    block[: len(part)] = part
    return block


def _used_rows(dataset: Dataset, learned: Served) -> dict[str, np.ndarray]:
    """Rows of each table that training looks up, ascending."""
    users = np.flatnonzero(dataset.known("train").lengths())
    items = np.flatnonzero(np.bincount(dataset.train.items, minlength=dataset.item_count))
    # Of the histories, which are as long as the data, the answer is known.
    return {
        table: items if table == USER_HISTORY else np.unique(_looked_up(column, rows))
        for inputs, rows in ((learned.user_inputs, users), (learned.item_inputs, items))
        for table, column in inputs.items()
    }


def _looked_up(column: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray:
    return column.take(rows)[1] if isinstance(column, Ragged) else column[rows]


def _initial_bias(dataset: Dataset, prior: float) -> torch.Tensor:
    """Centred log popularity times `prior`, (items + 1,); an item that nobody has counts as half a one.

    So does the last row, which all such items look up.
    """
    counts = np.bincount(dataset.train.items, minlength=dataset.item_count + 1)
    logarithm = np.log(np.maximum(counts, 0.5))
    return torch.from_numpy(prior * (logarithm - logarithm[:-1].mean())).float()
