"""Every optimizer against plain PyTorch on one process, step by step: weights, per-table rates, schedule."""

import pytest
import torch
from torch import nn

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, shards, small_dataset, source_of, whole
from trainer.dataset.dataset import open_dataset
from trainer.fitting.components import assemble
from trainer.fitting.step import make_loss, train_step
from trainer.sharding.optimizers import set_learning_rates

pytestmark = pytest.mark.distributed

FACTORS = (0.5, 0.0, 1.0, 0.25)
"""Multiples of the peak learning rates in four steps: a rate that is one step late is seen at once."""
RATES = {"user": 0.3, "item": 0.2}


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row: the mean of the squared gradients of its columns."""

    def step(self):
        for group in self.param_groups:
            for weights in group["params"]:
                total = self.state[weights].setdefault("sum", torch.zeros(len(weights), 1))
                total += (weights.grad**2).mean(1, keepdim=True)
                weights.data -= group["lr"] * weights.grad / (total.sqrt() + 1e-8)


REFERENCES = {
    "sgd": lambda groups: torch.optim.SGD(groups),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, eps=1e-8),
    "rowwise_adagrad": lambda groups: RowwiseAdagrad(groups, {}),
    "adam": lambda groups: torch.optim.Adam(groups, eps=1e-8),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data"))


def weights_of_steps(world, config, folder):
    """This rank's shards before the first and after every step."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    source, history = source_of(config, dataset, parts), [shards(parts.model)]
    for step, factor in enumerate(FACTORS):
        set_learning_rates(parts.optimizer, factor)
        batch = source.make(step, world.rank, world.size)
        train_step(parts.model, parts.optimizer, batch, make_loss(config.loss, world), world)
        history.append(shards(parts.model))
    return history


def reference(history, rows_of_steps, dataset, optimizer, decay):
    """Weights after every step of the plain loop that starts with the same weights."""
    tables = {name: nn.Parameter(table(history[0], name).clone()) for name in ("user", "item")}
    groups = [{"params": [tables[name]], "lr": RATES[name]} for name in tables]
    updater = REFERENCES[optimizer](groups)
    for rows, factor in zip(rows_of_steps, FACTORS, strict=True):
        users, items = (torch.tensor(column[rows]) for column in (dataset.train.users, dataset.train.items))
        scores = (tables["user"][users] * tables["item"][items]).sum(1)
        updater.zero_grad()
        nn.functional.mse_loss(scores, torch.tensor(dataset.train.values[rows])).backward()
        for (name, values), group in zip(tables.items(), updater.param_groups, strict=True):
            group["lr"] = RATES[name] * factor
            values.grad += decay * values.detach()
        updater.step()
        yield {name: values.detach().clone() for name, values in tables.items()}


def table(weights, name):
    (found,) = [values for key, values in weights.items() if key.endswith(f".{name}.weight")]
    return found


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    ("optimizer", "sharding", "decay"),
    [
        ("sgd", "table_wise", 0.0),
        ("sgd", "column_wise", 0.0),
        ("sgd", "data_parallel", 0.1),
        ("adagrad", "table_wise", 0.0),
        ("adagrad", "column_wise", 0.0),
        ("adagrad", "data_parallel", 0.0),
        ("rowwise_adagrad", "table_wise", 0.0),
        ("rowwise_adagrad", "data_parallel", 0.0),
        ("adam", "table_wise", 0.1),
        ("adam", "data_parallel", 0.0),
    ],
)
def test_every_step_is_that_of_plain_pytorch_at_the_rate_set_before_it(
    size, optimizer, sharding, decay, folder
):
    config = configured(
        f"--optimizer.name {optimizer} --sharding.kind {sharding} --optimizer.weight_decay {decay}",
        f"--optimizer.learning_rate {RATES['user']} --optimizer.table_learning_rates.item {RATES['item']}",
        "--loss.name mse --batches.rows interaction --batches.size 50",
        "--model.similarity dot --model.item_bias false --model.init_std 0.5",
    )
    dataset = open_dataset(folder)
    ranks = run_on_ranks(size, weights_of_steps, config, folder)
    history = [whole(list(parts)) for parts in zip(*ranks, strict=True)]
    rows = run_on_ranks(1, rows_of_steps, config, folder)[0]
    expected = list(reference(history, rows, dataset, optimizer, decay))
    for step, (weights, before, wanted) in enumerate(zip(history[1:], history, expected, strict=False)):
        for name, values in wanted.items():
            torch.testing.assert_close(table(weights, name), values, rtol=1e-4, atol=1e-5)
            moved = not torch.equal(table(weights, name), table(before, name))
            assert moved == (FACTORS[step] > 0), f"{name} in step {step}"


def rows_of_steps(world, config, folder):
    dataset = open_dataset(folder)
    source = source_of(config, dataset, assemble(config, dataset, world))
    return [source.rows_of_step(step) for step in range(len(FACTORS))]
