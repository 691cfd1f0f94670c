from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import (
    Losses,
    configured,
    shards,
    small_dataset,
    source_of,
    train_small,
    whole,
)
from trainer.dataset.dataset import open_dataset
from trainer.distributed import host_limits
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit
from trainer.sharding.input_dist import InputDistCollection

pytestmark = pytest.mark.distributed

RANKS = (1, 2, 4)

# Adagrad and Adam forgive a gradient that is a multiple of the right one; SGD at a high rate does not.
SGD = "--optimizer.name sgd --optimizer.learning_rate 3 --optimizer.table_learning_rates {}"
SINGLE = "--batches.rows interaction --batches.size 61"
DENSE = "--model.user_features income --model.item_features price,image"
FEATURES = "--model.user_features group --model.item_features labels"

# Every loss, kind of candidates, optimizer, sharding and part of a model stands in at least one line.
TRAININGS = {
    "catalogue": "",
    "closed form beside": "--model.low_rank 8",
    "in-batch, sgd": f"--loss.candidates in_batch {SINGLE} {SGD}",
    "in-batch of users": "--loss.candidates in_batch --model.learn_temperature true",
    "sampled, users": f"--loss.candidates sampled --loss.samples 16 {SGD}",
    "sampled, interactions": f"--loss.candidates sampled --loss.samples 16 {SINGLE} "
    "--loss.popularity_power 0.75 --optimizer.name adam",
    "bpr, sgd": f"--loss.name bpr --loss.mask_known false --loss.candidates in_batch {SINGLE} {SGD}",
    "mse, adam": f"--loss.name mse {SINGLE} --optimizer.name adam --model.similarity dot "
    "--optimizer.learning_rate 0.05",
    "bce": f"--loss.name bce {SINGLE}",
    "features, dense layers": f"{FEATURES} --model.hidden 8,8 --model.learn_temperature true {SGD}",
    "features, in-batch, adagrad": f"{FEATURES} --model.hidden 8 --loss.candidates in_batch "
    "--optimizer.name adagrad --model.item_bias false",
    "history, sgd": f"--model.history true {SGD} --loss.user_weight_power 0",
    "history alone, interactions, adagrad": "--model.history true --model.user_id false "
    f"--loss.candidates in_batch --optimizer.name adagrad {SINGLE}",
    "history, features side by side, ids dropped": "--model.history true --model.user_features group "
    f"--model.item_features labels --model.combine concat --model.dim 24 --model.item_id_dropout 0.3 "
    f"--loss.candidates sampled --loss.samples 16 {SGD}",
    "history, columns, dense layers": "--model.history true --model.user_id false --model.dim 128 "
    "--model.hidden 8 --sharding.kind column_wise --optimizer.name adagrad",
    "history, copies": "--model.history true --sharding.kind data_parallel",
    "columns, adagrad": "--sharding.kind column_wise --model.dim 128 --optimizer.name adagrad",
    "columns, sgd": f"--sharding.kind column_wise --model.dim 128 --loss.candidates in_batch {SINGLE} {SGD}",
    "rows in place, sgd": f"--sharding.kind row_partitioned --loss.user_weight_power 0 {SGD}",
    "rows in place, sampled, adam": "--sharding.kind row_partitioned --optimizer.name adam "
    f"--loss.candidates sampled --loss.samples 16 {SINGLE}",
    "rows in place, mse, sgd": f"--sharding.kind row_partitioned --loss.name mse {SINGLE} "
    "--optimizer.name sgd --optimizer.learning_rate 0.5 --optimizer.table_learning_rates {}",
    "rows in place beside copies, bce": f"--sharding.kind row_partitioned --loss.name bce {SINGLE} "
    f"{FEATURES} --sharding.tables.user_group data_parallel --sharding.tables.item_labels data_parallel "
    "--model.hidden 8",
    "users in place, copies of items, bpr": "--sharding.kind data_parallel --loss.name bpr "
    f"--sharding.tables.user row_partitioned --loss.candidates in_batch {SINGLE} {SGD}",
    "numbers and vectors, sgd": f"{DENSE} --optimizer.dense_learning_rate 0.05 {SGD}",
    "numbers and vectors side by side, dense layers, ids dropped": f"{DENSE} --model.combine concat "
    "--model.dim 24 --model.hidden 8 --model.item_id_dropout 0.3 --loss.candidates in_batch",
    "numbers and vectors, rows in place, mse": f"--sharding.kind row_partitioned {DENSE} --loss.name mse "
    f"{SINGLE}",
    "numbers and vectors, bpr, copies": f"{DENSE} --sharding.kind data_parallel --loss.name bpr "
    f"--loss.candidates in_batch {SINGLE}",
    "hashed ids, sgd": f"--model.hashed_rows 13 {SGD}",
    "hashed ids, rows cut, adam": "--model.hashed_rows 13 --sharding.kind row_partitioned "
    "--optimizer.name adam --loss.candidates in_batch",
    "hashed ids, rows cut, history, features, ids dropped": "--model.hashed_rows 13 --model.history true "
    f"--sharding.kind row_partitioned {FEATURES} --model.item_id_dropout 0.3 --loss.candidates sampled "
    f"--loss.samples 16 {SGD}",
    "hashed ids, copies, mse": "--model.hashed_rows 13 --sharding.kind data_parallel --loss.name mse "
    f"{SINGLE}",
    "copies": f"--sharding.kind data_parallel {FEATURES} --model.hidden 8",
    "copies, adam, mse": f"--sharding.kind data_parallel --optimizer.name adam --loss.name mse {SINGLE} "
    "--optimizer.weight_decay 0.01",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_a_training_is_the_same_on_one_rank_and_on_several(options, folder):
    config = configured(options)
    (alone,), *others = [run_on_ranks(size, train_small, config, folder) for size in RANKS]
    start, end = whole([alone.before]), whole([alone.after])
    # The steps must matter, or they would be the same for want of any effect.
    epochs = torch.tensor(alone.losses).view(2, -1).mean(1)
    assert epochs[1] < epochs[0] * 0.99
    for training in others:
        for rank in training:
            torch.testing.assert_close(rank.losses, alone.losses, rtol=1e-4, atol=0)
        torch.testing.assert_close(training[0].metrics, alone.metrics, rtol=0, atol=1e-3)
        torch.testing.assert_close(whole([rank.before for rank in training]), start, rtol=0, atol=0)
        torch.testing.assert_close(whole([rank.after for rank in training]), end, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("sharding", ["table_wise", "column_wise", "data_parallel"])
def test_initial_weights_depend_on_neither_ranks_nor_sharding(sharding, folder):
    plain = whole(run_on_ranks(1, initial_weights, configured("--model.dim 128"), folder))
    config = configured("--model.dim 128", f"--sharding.kind {sharding}")
    for size in RANKS[1:]:
        weights = whole(run_on_ranks(size, initial_weights, config, folder))
        torch.testing.assert_close(weights, plain, rtol=0, atol=0)


def initial_weights(world, config, folder):
    return shards(assemble(config, open_dataset(folder), world).model)


@pytest.mark.parametrize("options", ["", f"--loss.name mse {SINGLE}"])
@pytest.mark.parametrize("size", [2, 3])
def test_a_step_asks_no_other_rank_for_rows_that_are_cut_by_rank(size, options, folder):
    config = configured(f"--sharding.kind row_partitioned {options}")
    assert run_on_ranks(size, steps_with_an_exchange, config, folder) == [0] * size
    # The same tables in another order: then rows are where no rank looks for its own.
    turned = configured(f"--sharding.kind row_partitioned --sharding.ranks.user 1,0 {options}")
    counts = run_on_ranks(2, steps_with_an_exchange, turned, folder)
    assert counts[0] == counts[1] > 0


def test_hashed_ids_are_exchanged_as_the_rows_of_one_lie_on_several_ranks(folder):
    config = configured("--sharding.kind row_partitioned --model.hashed_rows 13")
    counts = run_on_ranks(2, steps_with_an_exchange, config, folder)
    assert counts[0] == counts[1] > 0


def steps_with_an_exchange(world, config, folder):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    source = source_of(config, dataset, parts)
    with mock.patch.object(
        InputDistCollection, "forward", autospec=True, side_effect=InputDistCollection.forward
    ) as exchange:
        fit(config, dataset, parts, source, world, Losses())
    return exchange.call_count


def test_columns_of_a_table_lie_on_several_ranks(folder):
    config = configured("--model.dim 128 --sharding.kind column_wise")
    ranks = run_on_ranks(4, initial_weights, config, folder)
    columns = {(part.column, part.values.shape[1]) for rank in ranks for part in rank if ".user." in part.key}
    assert columns == {(0, 32), (32, 32), (64, 32), (96, 32)}
    assert sum(any(".user." in part.key for part in rank) for rank in ranks) > 1


@pytest.mark.parametrize("size", [2])
@pytest.mark.parametrize("options", ["", SGD + " " + SINGLE, FEATURES + " --model.hidden 8"])
def test_two_like_runs_are_equal_to_the_last_bit(size, options, folder):
    first, second = [run_on_ranks(size, train_small, configured(options), folder) for _ in range(2)]
    for one, other in zip(first, second, strict=True):
        assert one.losses == other.losses
        assert one.metrics == other.metrics
        assert all(torch.equal(a.values, b.values) for a, b in zip(one.after, other.after, strict=True))


@pytest.mark.parametrize("options", ["", f"--loss.name mse {SINGLE}", "--loss.candidates in_batch"])
def test_a_last_batch_of_fewer_rows_than_ranks_ends_like_on_one_rank(options, folder):
    dataset = open_dataset(folder)
    rows = np.count_nonzero(dataset.train_by_user().lengths()) if "mse" not in options else len(dataset.train)
    config = configured(options, f"--batches.size {(rows - 1) // 2}")
    (alone,), *others = [run_on_ranks(size, train_small, config, folder) for size in (1, 3, 4)]
    assert len(alone.losses) == 2 * 3  # two full batches and one of one or two rows, twice
    for training in others:
        torch.testing.assert_close(training[0].losses, alone.losses, rtol=1e-4, atol=0)


def test_ranks_without_a_table_train_along(folder):
    config = configured("--model.item_bias false")
    plans = run_on_ranks(4, plan_of, config, folder)
    assert plans[0].idle_ranks == (2, 3)
    assert all(plan == plans[0] for plan in plans)
    (alone,), *others = [run_on_ranks(size, train_small, config, folder) for size in (1, 4)]
    for rank in others[0]:
        torch.testing.assert_close(rank.losses, alone.losses, rtol=1e-4, atol=0)


def plan_of(world, config, folder):
    return assemble(config, open_dataset(folder), world).plan


@pytest.mark.parametrize("sharding", ["table_wise", "row_partitioned", "column_wise", "data_parallel"])
def test_all_ranks_follow_one_plan_though_hosts_differ_in_memory(sharding, folder):
    config = configured(f"--sharding.kind {sharding}")
    first, second = run_on_ranks(2, plan_with_memory_of_the_first_rank, config, folder)
    assert first == second


def plan_with_memory_of_the_first_rank(world, config, folder):
    memory = 2**40 if world.is_first else 2**10
    with mock.patch.object(host_limits, "memory", return_value=host_limits.Memory(memory, None)):
        return plan_of(world, config, folder)


@pytest.mark.parametrize("sharding", ["table_wise", "data_parallel"])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_every_epoch_trains(sharding, optimizer, folder):
    # TorchRec issue 2327: with a reused iterator nothing trains after the first epoch.
    config = configured(
        f"--run.epochs 4 --sharding.kind {sharding} --optimizer.name {optimizer}",
        "--model.hidden 8 --run.log_every 0",
    )
    epochs = [whole(ranks) for ranks in zip(*run_on_ranks(2, weights_of_epochs, config, folder), strict=True)]
    assert len(epochs) == 4
    for earlier, later in pairwise(epochs):
        for key, values in earlier.items():
            if key != "learned.log_temperature":
                assert not torch.equal(values, later[key]), key


class WeightsOfEpochs(Losses):
    def __init__(self, model):
        super().__init__()
        self.model, self.epochs = model, []

    def record(self, step, text, **figures):
        self.epochs.append(shards(self.model))


def weights_of_epochs(world, config, folder):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    progress = WeightsOfEpochs(parts.model)
    fit(config, dataset, parts, source_of(config, dataset, parts), world, progress)
    return progress.epochs
