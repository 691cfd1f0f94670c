"""From a configuration to the parts of a training: data set, inputs, towers, plan, sharded model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.batching.sampler import Batches, BatchPlan
from trainer.batching.tower_inputs import Inputs, make_inputs
from trainer.config.losses import loss_spec, losses_where
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.model.builder import HISTORY, closed_inputs, item_table
from trainer.model.edlae import closed_form_files
from trainer.model.retriever import CombinedTowers, TowerPair
from trainer.model.towers import TwoTowers
from trainer.planning.capacity import TooLargeError
from trainer.planning.hardware import Cluster, hardware_here
from trainer.planning.layout import blocks_of_ranks, lay_out
from trainer.planning.plan import Plan
from trainer.planning.plan_check import partitions_of
from trainer.planning.workload import Workload, make_all_towers, workload_of
from trainer.sharding.shard import shard
from trainer.sharding.table_values import fill_tables
from trainer.sharding.torchrec_plan import sharding_plan
from trainer.training.initial_values import (
    START_NORM,
    closed_form_start,
    normal_values,
    popularity_bias,
    scaled,
)


@dataclass(frozen=True)
class TrainingComponents:
    """A sharded model with what it takes in.

    Attributes:
        model: wrapped for training; `towers` are the learned ones in it, sharded.
        optimizer: of tables and dense layers.
        plan: the sharding plan.
        user_block, item_block: see `trainer.batching.sampler.BatchPlan`.
        user_inputs, item_inputs: of the learned towers.
        served: the learned towers and the closed-form ones beside them, whose vectors rank the catalogue.
    """

    model: nn.Module
    towers: TwoTowers
    optimizer: CombinedOptimizer
    plan: Plan
    user_block: int
    item_block: int
    user_inputs: Inputs
    item_inputs: Inputs
    tower_pairs: list[TowerPair]


def assemble(
    config: ResolvedConfig, dataset: Dataset, world: World, filled: bool = True
) -> TrainingComponents:
    """Sharded towers with initial values.

    Args: filled: False where a checkpoint is opened next, so that tables need no values before.
    Raises: ConfigError for combinations that cannot work.
    """
    if loss_spec(config.loss.name).needs_values and dataset.train.values is None:
        raise ConfigError(
            f"--loss.name {config.loss.name}: {dataset.name} has no values (ratings) to fit. "
            f"Use --loss.name {losses_where(lambda spec: not spec.needs_values)}, or data with values"
        )
    users, items = make_inputs(config, dataset)
    rank = config.model.low_rank
    sizes = workload_of(config, dataset, users, items)
    # One rank decides: memory enters the plan, and hosts may differ in it.
    plan = world.on_first(lambda: _plan(config, sizes, world))
    towers = make_all_towers(config, sizes, partitions_of(plan))
    rates = _learning_rates(config, [*users, *items], dataset.item_name)
    # The closed form is not trained: no gradient reaches its tables.
    rates |= {HISTORY: 0.0, item_table(dataset.item_name): 0.0} if rank else {}
    model, optimizer = shard(
        towers,
        sharding_plan(plan, towers, world.device.type, world.local_size),
        world.device,
        config.optimizer.name,
        rates,
        config.optimizer.dense_learning_rate,
        config.optimizer.weight_decay,
        config.sharding.communication,
        config.optimizer.betas,
    )
    inside = cast(CombinedTowers, model.module)
    tower_pairs = [TowerPair(inside.learned, users, items)]
    if filled:
        fill_tables(model, _initial_values(config, dataset, tower_pairs[0], world))
    if inside.closed is not None:
        tower_pairs.append(TowerPair(inside.closed, *closed_inputs(dataset)))
    blocks = blocks_of_ranks(config.model, plan, dataset.item_name, world.device.type)
    return TrainingComponents(model, inside.learned, optimizer, plan, *blocks, users, items, tower_pairs)


def _plan(config: ResolvedConfig, sizes: Workload, world: World) -> Plan:
    try:
        return lay_out(config, sizes, Cluster(hardware_here(world.device.type), world.size, world.local_size))
    except TooLargeError as error:
        raise ConfigError(
            f"--sharding.kind {config.sharding.kind}: {error}. What would fit says: python -m trainer plan "
            f"--world-size {world.size}, with the same options"
        ) from None


def check_followed_plan(config: Config, dataset: Dataset, world: World) -> None:
    """Refuse a plan file that does not suit the training, before anything is chosen or written.

    Args: config: see `trainer.planning.layout.follow_plan`; what it leaves open changes no table.
    Raises: ConfigError, on every rank, naming the first difference.
    """
    if config.sharding.plan is None:
        return
    users = int(np.count_nonzero(dataset.train_by_user().lengths()))
    filled = with_fixed_values(with_size_defaults(config, users, dataset.item_count, len(dataset.train)))
    sizes = workload_of(filled, dataset, *make_inputs(filled, dataset))
    world.on_first(lambda: _plan(filled, sizes, world))


def make_batches(config: ResolvedConfig, dataset: Dataset, parts: TrainingComponents) -> Batches:
    """The steps of a training."""
    loss = config.loss
    plan = BatchPlan(
        rows=config.batches.rows,
        size=config.batches.size,
        seed=config.run.seed,
        candidates="own" if loss_spec(loss.name).pointwise else loss.candidates,
        samples=loss.samples or 0,
        popularity_power=loss.popularity_power,
        logq=loss.logq,
        mask_known=loss.mask_known,
        user_weight_power=loss.user_weight_power,
        history_dropout=config.model.history_dropout,
        item_id_dropout=config.model.item_id_dropout,
        rows_gathered=loss_spec(loss.name).gathers_rows,
        user_block=parts.user_block,
        item_block=parts.item_block,
    )
    return Batches(dataset, plan, parts.user_inputs, parts.item_inputs)


def _learning_rates(config: ResolvedConfig, tables: list[str], item_name: str) -> dict[str, float]:
    """Peak learning rate of each table; `item` and `item_bias` stand for whatever items are called."""
    given = {
        name.replace("item", item_name, 1) if name in ("item", "item_bias") else name: rate
        for name, rate in config.optimizer.table_learning_rates.items()
    }
    known = {*tables, f"{item_name}_bias"}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"--optimizer.table_learning_rates {name}: no such table; this model has {', '.join(tables)}"
            )
    return {table: given.get(table, config.optimizer.learning_rate) for table in tables}


def _initial_values(
    config: ResolvedConfig, dataset: Dataset, learned: TowerPair, world: World
) -> Callable[[str, slice], torch.Tensor]:
    """Values of every table, as `fill_tables` takes them."""
    model, name = config.model, dataset.item_name
    dim, rank, penalty = model.dim, model.low_rank, model.low_rank_penalty
    std = START_NORM / dim**0.5 if model.init_std is None else model.init_std
    trains_reserved_item = model.item_id_dropout > 0
    blocks = normal_values(dataset, learned, config.run.seed, std, trains_reserved_item)
    blocks[f"{name}_bias"] = popularity_bias(dataset, model.popularity_prior, trains_reserved_item)
    if model.start == "low_rank":
        files = world.on_each_host(lambda: closed_form_files(dataset, dim, penalty), long=True)
        blocks |= closed_form_start(dataset, files)
    if rank:
        files = world.on_each_host(lambda: closed_form_files(dataset, rank, penalty), long=True)
        history, vectors = (np.load(path, mmap_mode="r", allow_pickle=False) for path in files)
        blocks[HISTORY] = scaled(history, model.low_rank_weight)
        blocks[item_table(name)] = scaled(vectors, 1.0)
    return lambda table, rows: blocks[table](rows)
