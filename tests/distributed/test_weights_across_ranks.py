"""Trainings with weights and explicit negatives: the same at any number of ranks, and what weights mean."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import ITEMS, USERS, configured, train_small
from trainer.dataset.build import prepare
from trainer.dataset.dataset import open_dataset
from trainer.sources.schema import SourceTables

pytestmark = pytest.mark.distributed

SGD = "--optimizer.name sgd --optimizer.learning_rate 3 --optimizer.table_learning_rates {}"
SINGLE = "--batches.rows interaction --batches.size 61"
TRAININGS = {
    "catalogue": SGD,
    "in-batch of users": f"--loss.candidates in_batch {SGD}",
    "sampled by popularity": f"--loss.candidates sampled --loss.samples 16 {SINGLE} {SGD} "
    "--loss.popularity_power 0.75",
    "rows in place": f"--sharding.kind row_partitioned {SGD}",
    "history": f"--model.history true {SGD}",
    "bpr": f"--loss.name bpr --loss.candidates in_batch {SINGLE} {SGD}",
    "mse": f"--loss.name mse --model.similarity dot {SINGLE}",
    "mse, rows in place": f"--loss.name mse --sharding.kind row_partitioned {SINGLE}",
    "bce": f"--loss.name bce {SINGLE}",
}


def weighed(cache: Path, weights: Any = None, rows: Any = None) -> Path:
    """Folder of a prepared data set whose values below 3 are explicit negatives.

    Args:
        cache: An empty folder.
        weights: From row numbers to weights; None: there are none.
        rows: From row numbers to whether the row is there; None: all are.
    """
    generator = np.random.default_rng(7)
    users, items = np.nonzero(generator.random((USERS, ITEMS)) < 0.3)
    values = generator.integers(1, 6, len(users))
    numbers = np.arange(len(users))
    held_out = generator.random(len(users)) < 0.2
    there = np.ones(len(users), bool) if rows is None else rows(numbers)
    columns = {"user_id": users, "item_id": items, "value": values.astype(np.float32)}
    if weights is not None:
        columns["weight"] = weights(numbers).astype(np.float32)
    tables = (
        pa.table({name: column[chosen & there] for name, column in columns.items()})
        for chosen in (~held_out, held_out)
    )
    source = SourceTables(*(iter(table.to_batches()) for table in tables))
    settings = {"k_core": 0, "split": "given", "test_size": 0.2, "validation_size": 0, "split_seed": 1}
    return prepare(lambda: source, {}, cache, name="weighed", min_value=3, negatives="use", **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = weighed(tmp_path_factory.mktemp("data"), lambda rows: 0.25 + rows % 4)
    assert len(open_dataset(found).negatives) > 100
    return found


@pytest.mark.parametrize("name", TRAININGS)
def test_weights_and_negatives_give_the_same_losses_at_any_number_of_ranks(name, folder):
    config = configured(TRAININGS[name])
    (alone,), *others = [run_on_ranks(size, train_small, config, folder) for size in (1, 2, 4)]
    for ranks in others:
        torch.testing.assert_close(ranks[0].losses, alone.losses, rtol=1e-4, atol=0)
        assert ranks[0].metrics == pytest.approx(alone.metrics, abs=2e-3)


def losses_of(folder, options):
    return run_on_ranks(1, train_small, configured(options), folder)[0].losses


@pytest.mark.parametrize("name", ["catalogue", "bpr", "mse"])
def test_a_weight_of_zero_is_a_row_that_is_not_there(name, tmp_path):
    zeros = weighed(tmp_path / "zeros", lambda rows: (rows % 5 > 0).astype(float))
    absent = weighed(tmp_path / "absent", lambda rows: np.ones(len(rows)), lambda rows: rows % 5 > 0)
    assert losses_of(zeros, TRAININGS[name]) == losses_of(absent, TRAININGS[name])


@pytest.mark.parametrize("name", ["catalogue", "sampled by popularity", "bpr", "mse"])
def test_equal_weights_are_no_weights(name, tmp_path):
    # Sums of weights to a power and popularity only grow by a factor.
    equal = weighed(tmp_path / "equal", lambda rows: np.full(len(rows), 2.0))
    none = weighed(tmp_path / "none")
    assert losses_of(equal, TRAININGS[name]) == pytest.approx(losses_of(none, TRAININGS[name]), rel=1e-4)
