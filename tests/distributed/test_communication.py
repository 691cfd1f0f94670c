"""Pooled vectors and gradients that ranks exchange in two bytes: nearly the training that four bytes give."""

import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset, train_small, whole

pytestmark = pytest.mark.distributed

SGD = "--optimizer.name sgd --optimizer.learning_rate 3 --optimizer.table_learning_rates {}"
RESOLUTION = {"float16": 2**-11, "bfloat16": 2**-8}
"""Largest relative error of a rounded value."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data"))


def trained(size, folder, communication, *options):
    config = configured(f"--sharding.communication {communication}", *options)
    ranks = run_on_ranks(size, train_small, config, folder)
    return torch.tensor(ranks[0].losses), whole([rank.after for rank in ranks]), ranks[0].metrics


@pytest.mark.parametrize("communication", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [SGD, f"--sharding.kind column_wise --model.dim 128 {SGD}"])
def test_losses_differ_by_what_rounding_explains(communication, options, folder):
    exact, _, figures = trained(2, folder, "float32", options)
    rounded, _, near = trained(2, folder, communication, options)
    error = ((rounded - exact).abs() / exact).max()
    # The errors of many values nearly cancel out. A learning rate of 2.9 would change losses by 0.005.
    assert 0 < error < RESOLUTION[communication]
    assert near["ndcg@10"] == pytest.approx(figures["ndcg@10"], abs=0.005)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (1, SGD),
        (1, "--sharding.kind column_wise --model.dim 128 " + SGD),
        (2, "--sharding.kind data_parallel"),
    ],
)
def test_where_nothing_is_exchanged_nothing_changes(size, options, folder):
    exact, weights, _ = trained(size, folder, "float32", options)
    rounded, same, _ = trained(size, folder, "float16", options)
    assert torch.equal(exact, rounded)
    assert all(torch.equal(values, same[key]) for key, values in weights.items())
