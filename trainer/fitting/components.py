"""The components of a training, assembled as in TorchRec's training example.

Process group and data set come first, in `trainer.training.train`. Inputs, sharding plan, towers on the meta
device, `DistributedModelParallel` with its optimizers, initial values and batches follow here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.batching.next_rows import NextBatches
from trainer.batching.sampler import Batches, BatchPlan
from trainer.batching.tower_inputs import (
    Inputs,
    expected_popularity,
    looked_up,
    make_inputs,
    named_dense,
)
from trainer.closed_form.edlae import closed_form_files
from trainer.config.effects import expects_bias
from trainer.config.resolved import ResolvedConfig, ResolvedOptimizerConfig
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.facts.losses import loss_spec, losses_where
from trainer.fitting.initial_values import (
    closed_form_start,
    normal_values,
    popularity_bias,
    scaled,
)
from trainer.model.builder import HISTORY, closed_inputs, initial_std, item_table, table_of_alias
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
from trainer.shares.lists import ExchangedLists


@dataclass(frozen=True)
class TrainingComponents:
    """A sharded model with its optimizer, plan and inputs.

    Attributes:
        model: The model, wrapped for training.
        towers: The learned towers in it, sharded.
        optimizer: Optimizer of tables and dense layers.
        plan: The sharding plan.
        user_block: Users of a rank, see `trainer.batching.sampler.BatchPlan`.
        item_block: Items of a rank.
        user_inputs: What users look up in the learned towers.
        item_inputs: What items look up in the learned towers.
        tower_pairs: Learned and closed-form towers, whose concatenated vectors rank the catalogue.
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
    """Assemble a sharded model with its optimizer, plan and inputs; on every rank alike.

    Args:
        config: Configuration of the training.
        dataset: The data set, which all ranks have mapped.
        world: The process group.
        filled: Give tables initial values; False where a checkpoint is loaded next.

    Raises:
        ConfigError: Options that do not go together, or a plan that does not fit.
    """
    if loss_spec(config.loss.name).needs_values and dataset.train.values is None:
        raise ConfigError(
            f"--loss.name {config.loss.name}: {dataset.name} has no values (ratings) to fit. "
            f"Use --loss.name {losses_where(lambda spec: not spec.needs_values)}, or data with values"
        )
    # Inputs: which rows of which tables users and items look up.
    user_inputs, item_inputs = make_inputs(config, dataset)

    # Plan: rank 0 makes it for all, as it depends on memory, in which hosts may differ.
    workload = workload_of(config, dataset, user_inputs, item_inputs)
    plan = world.on_first(lambda: _make_plan(config, workload, world))

    # Towers on the meta device, with tables in as many partitions as the plan has.
    towers = make_all_towers(config, workload, partitions_of(plan))
    for tower in (towers.learned.query, towers.learned.candidate):
        if tower.dense_inputs is not None:
            tower.dense_inputs.set_scales(named_dense(dataset))

    # DistributedModelParallel, with a fused or a dense optimizer for each table.
    tables = [*looked_up(user_inputs), *looked_up(item_inputs)]
    rates = _learning_rates(config.optimizer, tables, dataset.item_name)
    if config.model.low_rank:  # closed-form towers are not trained: no gradient reaches their tables
        rates |= {HISTORY: 0.0, item_table(dataset.item_name): 0.0}
    model, optimizer = shard(
        towers,
        sharding_plan(plan, towers, world.device.type, world.local_size),
        device=world.device,
        optimizer=config.optimizer.name,
        learning_rates=rates,
        dense_learning_rate=config.optimizer.dense_learning_rate,
        weight_decay=config.optimizer.weight_decay,
        communication=config.sharding.communication,
        betas=config.optimizer.betas,
        lookup=config.sharding.lookup,
    )
    sharded = cast(CombinedTowers, model.module)
    tower_pairs = [TowerPair(sharded.learned, user_inputs, item_inputs)]

    # Initial values, which depend on the table alone and not on the plan.
    if filled:
        fill_tables(model, _initial_values(config, dataset, tower_pairs[0], world))
    if sharded.closed is not None:
        tower_pairs.append(
            TowerPair(sharded.closed, *closed_inputs(dataset, sharded.closed.encoder is not None))
        )

    user_block, item_block = blocks_of_ranks(
        config.model,
        plan,
        dataset.item_name,
        lookup=config.sharding.lookup,
        device=world.device.type,
    )
    return TrainingComponents(
        model=model,
        towers=sharded.learned,
        optimizer=optimizer,
        plan=plan,
        user_block=user_block,
        item_block=item_block,
        user_inputs=user_inputs,
        item_inputs=item_inputs,
        tower_pairs=tower_pairs,
    )


def make_batches(
    config: ResolvedConfig, dataset: Dataset, components: TrainingComponents, world: World | None = None
) -> Batches:
    """Return the batches of all steps of a training; where hosts share users, called by every rank alike."""
    loss, batches, model = config.loss, config.batches, config.model
    plan = BatchPlan(
        rows=batches.rows,
        size=batches.size,
        seed=config.run.seed,
        candidates="own" if loss_spec(loss.name).pointwise else loss.candidates,
        samples=loss.samples or 0,
        popularity_power=loss.popularity_power,
        logq=loss.logq,
        mask_known=loss.mask_known,
        user_weight_power=loss.user_weight_power,
        history_dropout=model.history_dropout,
        item_id_dropout=model.item_id_dropout,
        rows_gathered=loss_spec(loss.name).gathers_rows and batches.rows != "next",
        user_block=components.user_block,
        item_block=components.item_block,
        history_length=model.history_length,
        vector_dropout=model.vector_dropout,
        vector_width=model.dim,
    )
    kind = NextBatches if plan.rows == "next" else Batches
    inputs = components.user_inputs, components.item_inputs
    if dataset.shares is None or world is None or world.size == 1:
        return kind(dataset, plan, *inputs)
    return Batches(dataset, plan, *inputs, ExchangedLists.of(dataset, dataset.shares, world))


def check_followed_plan(config: Config, dataset: Dataset, world: World) -> None:
    """Refuse a plan file that does not fit the training, before anything is tuned or written.

    Args:
        config: See `trainer.planning.layout.follow_plan`; what it leaves open changes no table.
        dataset: The data set.
        world: The process group.

    Raises:
        ConfigError: The plan differs; the message names the first difference. Raised on every rank.
    """
    if config.sharding.plan is None:
        return
    users = int(np.count_nonzero(dataset.counts_by_user("train")))
    interactions = dataset.interaction_count("train")
    filled = with_fixed_values(with_size_defaults(config, users, dataset.item_count, interactions))
    workload = workload_of(filled, dataset, *make_inputs(filled, dataset))
    world.on_first(lambda: _make_plan(filled, workload, world))


def _make_plan(config: ResolvedConfig, workload: Workload, world: World) -> Plan:
    try:
        cluster = Cluster(hardware_here(world.device.type), world.size, world.local_size)
        return lay_out(config, workload, cluster)
    except TooLargeError as error:
        raise ConfigError(
            f"--sharding.kind {config.sharding.kind}: {error}. What would fit says: python -m trainer plan "
            f"--world-size {world.size}, with the same options"
        ) from None


def _learning_rates(config: ResolvedOptimizerConfig, tables: list[str], item_name: str) -> dict[str, float]:
    """Return the peak learning rate of each table; `item` and `item_bias` stand for the items' own name."""
    given = {table_of_alias(name, item_name): rate for name, rate in config.table_learning_rates.items()}
    known = {*tables, f"{item_name}_bias"}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"--optimizer.table_learning_rates {name}: no such table; this model has {', '.join(tables)}"
            )
    return {table: given.get(table, config.learning_rate) for table in tables}


def _initial_values(
    config: ResolvedConfig, dataset: Dataset, learned: TowerPair, world: World
) -> Callable[[str, slice], torch.Tensor]:
    """Return the initial values of every table, as `fill_tables` takes them."""
    model, name = config.model, dataset.item_name
    dim, rank, penalty = model.dim, model.low_rank, model.low_rank_penalty
    std = initial_std(dim, model.init_std)
    trains_reserved_item = model.item_id_dropout > 0
    blocks = normal_values(dataset, learned, config.run.seed, std, trains_reserved_item)
    expected = expected_popularity(dataset, model.item_features) if expects_bias(model) else None
    blocks[f"{name}_bias"] = popularity_bias(dataset, model.popularity_prior, trains_reserved_item, expected)
    if model.start == "low_rank":
        files = world.on_each_host(lambda: closed_form_files(dataset, dim, penalty), long=True)
        blocks |= closed_form_start(dataset, files)
    if rank:
        files = world.on_each_host(lambda: closed_form_files(dataset, rank, penalty), long=True)
        history, vectors = (np.load(path, mmap_mode="r", allow_pickle=False) for path in files)
        blocks[HISTORY] = scaled(history, model.low_rank_weight)
        blocks[item_table(name)] = scaled(vectors, 1.0)
    return lambda table, rows: blocks[table](rows)
