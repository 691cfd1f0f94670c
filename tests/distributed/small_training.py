"""A small data set with a taste to learn, and the real training loop on it, watched step by step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

from trainer.batching.sampler import Batches
from trainer.config.parser import parse_config
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.build import prepare
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import TrainingComponents, assemble, make_batches
from trainer.fitting.loop import evaluate_model, fit, protocol
from trainer.sharding.model_state import whole_state
from trainer.sources.schema import SourceTables

USERS, ITEMS, TASTES = 61, 43, 4


def small_dataset(cache: Path, validation_size: float = 0) -> Path:
    """Folder of a prepared data set of 61 users, 43 items and 4 tastes, with values and attributes.

    Item popularity falls with its number; a user likes (value 4 or 5) mostly items of his own taste, item
    number modulo 4. Items have bags of none to three labels, a price, and a vector; users have an income.
    Every seventh price and every fifth vector is missing.
    """
    generator = np.random.default_rng(7)
    odds = (1 + 5 * (np.arange(ITEMS) % TASTES == np.arange(USERS)[:, None] % TASTES)) / (
        5 + np.arange(ITEMS)
    )
    chosen = generator.random((USERS, ITEMS)) < np.minimum(odds * 1.5, 0.9)
    users, items = np.nonzero(chosen)
    order = generator.permutation(len(users))
    users, items = users[order], items[order]
    alike = users % TASTES == items % TASTES
    values = np.where(alike, generator.integers(4, 6, len(users)), generator.integers(1, 4, len(users)))
    interactions = pa.record_batch(
        {
            "user_id": pa.array(users + 1000),
            "item_id": pa.array(items + 1),
            "value": pa.array(values, pa.float32()),
            "timestamp": pa.array(np.arange(len(users))),
        }
    )
    labels = [[f"label {n}" for n in range(item % 4)] for item in range(ITEMS)]
    prices = [None if item % 7 == 0 else 1.5 * item for item in range(ITEMS)]
    images = pa.array(
        [
            None if item % 5 == 0 else [float(item % TASTES == taste) for taste in range(3)]
            for item in range(ITEMS)
        ],
        pa.list_(pa.float32(), 3),
    )
    source = SourceTables(
        iter([interactions]),
        users=pa.table(
            {
                "user_id": np.arange(USERS) + 1000,
                "group": np.arange(USERS) % 3,
                "income": np.arange(USERS) % TASTES + 0.5,
            }
        ),
        items=pa.table({"item_id": np.arange(ITEMS) + 1, "labels": labels, "price": prices, "image": images}),
    )
    return prepare(
        lambda: source,
        {},
        cache,
        name="small",
        min_value=None,
        k_core=0,
        split="random",
        test_size=0.2,
        validation_size=validation_size,
        split_seed=1,
    )


def configured(*options: str) -> Config:
    """A configuration of a short training on the CPU, changed by command-line options."""
    short = "--model.dim 16 --batches.size 16 --run.epochs 2 --run.log_every 1 --evaluation.k 5,10"
    fused = "--optimizer.name rowwise_adagrad"
    config = parse_config([word for text in (short, fused, *options) for word in text.split()])
    return with_fixed_values(with_size_defaults(config, USERS, ITEMS, interactions=1000))


@dataclass
class Watched:
    """A training as one rank saw it.

    Attributes:
        losses: mean loss of each step over all ranks.
        before, after: this rank's shards of each table, and its other parameters: see `shards`.
        metrics: of the model on the test part, on rank 0.
    """

    losses: list[float]
    before: list["Shard"]
    after: list["Shard"]
    metrics: dict[str, float] | None


@dataclass
class Shard:
    """A part of a parameter: its values and the first row and column of them."""

    key: str
    row: int
    column: int
    values: torch.Tensor


class Losses:
    """Stands where the training's progress does, and keeps what is recorded."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def advance(self) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def record(self, step: int, text: str, **figures: float) -> None:
        self.losses.append(figures["loss"])


def train_small(world: World, config: Config, folder: Path) -> Watched:
    """Train as `python -m trainer train` does, without a run folder."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    before = shards(parts.model)
    progress: Any = Losses()
    fit(config, dataset, parts, source_of(config, dataset, parts), world, progress)
    evaluation = evaluate_model(parts, dataset, world, protocol(config, "test", baselines=()))
    return Watched(
        progress.losses, before, shards(parts.model), evaluation.rankers["model"] if evaluation else None
    )


def source_of(config: Config, dataset: Any, parts: TrainingComponents) -> Batches:
    """The batches of a training."""
    return make_batches(config, dataset, parts)


def shards(model: nn.Module) -> list[Shard]:
    """Copies of every parameter's parts on this rank."""
    found = []
    for key, value in whole_state(model).items():
        if isinstance(value, ShardedTensor):
            for part in value.local_shards():
                row, column = part.metadata.shard_offsets
                found.append(Shard(key, row, column, part.tensor.detach().clone()))
        else:
            found.append(Shard(key, 0, 0, value.detach().clone()))
    return found


def whole(shards_of_ranks: list[list[Shard]]) -> dict[str, torch.Tensor]:
    """Parameters put together from the shards of all ranks; what ranks hold twice must agree bitwise."""
    weights: dict[str, torch.Tensor] = {}
    for part in [part for rank in shards_of_ranks for part in rank]:
        if part.values.dim() < 2:
            assert torch.equal(weights.setdefault(part.key, part.values), part.values), part.key
            continue
        rows, columns = part.row + part.values.shape[0], part.column + part.values.shape[1]
        held = weights.get(part.key, torch.zeros(0, 0))
        grown = torch.full((max(rows, held.shape[0]), max(columns, held.shape[1])), torch.nan)
        grown[: held.shape[0], : held.shape[1]] = held
        place = grown[part.row : rows, part.column : columns]
        assert bool((place.isnan() | (place == part.values)).all()), f"{part.key} differs between ranks"
        place.copy_(part.values)
        weights[part.key] = grown
    assert not any(values.isnan().any() for values in weights.values())
    return weights
