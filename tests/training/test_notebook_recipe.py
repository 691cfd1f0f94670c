"""The teaching notebook's recipe, sharded, against the notebook's own loop in plain PyTorch."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from tests import worlds
from trainer.dataset.build import prepare
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import join_world
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.loop import fit
from trainer.sources.movielens import read_movielens
from trainer.sources.schema import SourceTables

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SHARDTOWER_DATA", ROOT.parent / "shared" / "data"))
SPLIT = {"min_value": None, "k_core": 0, "split": "random", "test_size": 0.2, "validation_size": 0}


class LossesOfEpochs:
    """Stands where the training's progress does, and keeps the loss of each epoch."""

    def __init__(self):
        self.losses = []

    def advance(self):
        pass

    def record(self, step, text, **figures):
        self.losses.append(figures["loss"])


class Towers(nn.Module):
    """The notebook's model, with initial weights from elsewhere."""

    def __init__(self, user_weights, item_weights):
        super().__init__()
        self.users = nn.Embedding.from_pretrained(user_weights, freeze=False)
        self.items = nn.Embedding.from_pretrained(item_weights, freeze=False)

    def forward(self, users, items):
        return (self.users(users) * self.items(items)).sum(dim=1)


def ratings(cache):
    """20,000 random ratings from 1 to 5 by 400 users of 300 items."""
    generator = np.random.default_rng(0)
    users, items = np.divmod(generator.choice(400 * 300, 20_000, replace=False), 300)
    interactions = pa.record_batch(
        {
            "user_id": pa.array(users),
            "item_id": pa.array(items),
            "value": pa.array(generator.integers(1, 6, len(users)), pa.float32()),
        }
    )
    source = SourceTables(iter([interactions]))
    return prepare(lambda: source, {}, cache, name="ratings", split_seed=42, **SPLIT)


def losses_of_both(folder, dim, epochs):
    """Mean loss of each epoch: ours, and that of the plain loop with the same weights and batches."""
    options = f"--model.dim {dim} --run.epochs {epochs} --run.seed 42 --device cpu".split()
    dataset = open_dataset(folder)
    config = worlds.configured(dataset, "--config", str(ROOT / "configs" / "notebook.yaml"), *options)
    with join_world("cpu") as world:
        components = assemble(config, dataset, world)
        source = make_batches(config, dataset, components)
        plain = Towers(table(components.towers.query), table(components.towers.candidate))
        progress = LossesOfEpochs()
        fit(config, dataset, components, source, world, progress)
    return progress.losses, plain_losses(plain, dataset.train, source, epochs)


def table(tower):
    """A copy of the only table of a tower."""
    (value,) = tower.state_dict().values()
    return value.local_shards()[0].tensor.clone()


def plain_losses(model, train, source, epochs):
    users, items = (torch.from_numpy(np.array(column)).long() for column in (train.users, train.items))
    values = torch.from_numpy(np.array(train.values))
    optimizer, loss_of, losses = torch.optim.Adam(model.parameters(), lr=1e-3), nn.MSELoss(), []
    for epoch in range(epochs):
        squares = 0.0
        for step in range(source.steps_per_epoch):
            rows = torch.from_numpy(source.rows_of_step(epoch * source.steps_per_epoch + step))
            optimizer.zero_grad()
            loss = loss_of(model(users[rows], items[rows]), values[rows])
            loss.backward()
            optimizer.step()
            squares += loss.item() * len(rows)
        losses.append(squares / len(train.users))
    return losses


def test_the_sharded_recipe_loses_what_the_notebooks_loop_loses(tmp_path):
    ours, plain = losses_of_both(ratings(tmp_path), dim=64, epochs=3)
    assert len(ours) == 3
    # Scores of standard normal vectors have variance 64, ratings from 1 to 5 a mean square of 11.
    assert ours[0] == pytest.approx(64 + 11, rel=0.1)
    assert ours[2] < ours[0] * 0.99
    assert ours == pytest.approx(plain, rel=1e-5)


@pytest.mark.real_data
def test_the_recipe_at_full_width_on_ml_100k(tmp_path):
    folder = DATA / "ml-100k"
    if not (folder / "u.data").exists():
        pytest.skip(f"no ml-100k in {DATA}")
    prepared = prepare(
        lambda: read_movielens("ml-100k", folder, "error"),
        {},
        tmp_path,
        name="ml-100k",
        split_seed=42,
        **SPLIT,
    )
    ours, plain = losses_of_both(prepared, dim=512, epochs=1)
    assert ours == pytest.approx(plain, rel=1e-4)
