"""Trainings on ordered histories are the same at 1, 2 and 4 ranks, under every sharding, and when resumed."""

from pathlib import Path

import pytest
import torch

from tests.distributed.broken_training import HALF, begin, end
from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset, source_of, train_small, whole
from trainer.config.resolved import ResolvedConfig
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import assemble

pytestmark = pytest.mark.distributed

RANKS = (1, 2, 4)
# Stretches of up to 4 positions, so that users have several. Adagrad and Adam forgive a gradient that is a
# multiple of the right one; SGD at a high rate does not.
ORDERED = "--model.history recency --model.history_length 4 --optimizer.dense_learning_rate 0.05"
TRANSFORMER = ORDERED.replace("recency", "transformer")
SGD = "--optimizer.name sgd --optimizer.learning_rate 3 --optimizer.table_learning_rates {}"
CATALOGUE = "--loss.candidates catalogue"
SAMPLED = "--loss.candidates sampled --loss.samples 16"

# Every kind of table, decay, candidates and sharding stands in at least one line.
TRAININGS = {
    "tied, catalogue, sgd": f"{ORDERED} --model.history_table tied {CATALOGUE} {SGD}",
    "own, sampled, users, by time, sgd": f"{ORDERED} --model.history_table own --model.user_id true "
    f"--model.history_decay time {SAMPLED} {SGD}",
    "both, sampled, both decays, adam": f"{ORDERED} --model.history_decay both {SAMPLED} "
    "--optimizer.name adam --batches.ahead 2",
    "rows in place": f"{ORDERED} --evaluation.sharded true --sharding.kind row_partitioned "
    f"--model.user_id true {SAMPLED} {SGD}",
    "rows in place, no table of users": f"{ORDERED} --sharding.kind row_partitioned {CATALOGUE} {SGD}",
    "columns": f"{ORDERED} --sharding.kind column_wise --model.dim 128 {SAMPLED} --model.user_id true "
    "--optimizer.name adagrad",
    "copies": f"{ORDERED} --sharding.kind data_parallel --model.history_table own {SAMPLED}",
    "transformer, features": f"{TRANSFORMER} --model.item_features labels --model.user_features group "
    f"--model.history_table tied {SAMPLED} {SGD}",
    "transformer, numbers, dense layers": f"{TRANSFORMER} --model.item_features price,image --model.hidden 8 "
    f"--model.user_features income --model.history_decay both {CATALOGUE}",
    "ids dropped, a learned temperature": f"{ORDERED} --model.item_features labels --model.item_id_dropout "
    f"0.3 --model.learn_temperature true --loss.mask_known false {SAMPLED} {SGD}",
    "hashed ids": f"{ORDERED} --model.hashed_rows 24 --model.user_id true {SAMPLED} {SGD}",
    "TorchRec's own lookups, dot": f"{ORDERED} --sharding.lookup torchrec --model.similarity dot "
    f"{SAMPLED} --model.user_id true --optimizer.name rowwise_adagrad",
    "exchanged ahead, in batch": f"{ORDERED} --sharding.exchange_ahead true --loss.candidates in_batch "
    f"--batches.ahead 2 {SGD}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_a_training_is_the_same_on_one_rank_and_on_several(options: str, folder: Path) -> None:
    config = configured(options)
    (alone,), *others = [run_on_ranks(size, train_small, config, folder) for size in RANKS]
    start, end = whole([alone.before]), whole([alone.after])
    # The steps must matter, or they would be the same for want of any effect.
    epochs = torch.tensor(alone.losses).view(2, -1).mean(1)
    assert epochs[1] < epochs[0] * 0.99
    decays = [key for key in start if "decay" in key]
    assert decays
    assert all(not torch.equal(start[key], end[key]) for key in decays)
    for training in others:
        for rank in training:
            torch.testing.assert_close(rank.losses, alone.losses, rtol=1e-4, atol=0)
        torch.testing.assert_close(training[0].metrics, alone.metrics, rtol=0, atol=1e-3)
        torch.testing.assert_close(whole([rank.before for rank in training]), start, rtol=0, atol=0)
        torch.testing.assert_close(whole([rank.after for rank in training]), end, rtol=1e-3, atol=5e-4)


BROKEN = (
    f"{TRANSFORMER} --run.log_every 1 --run.save_every {HALF} --model.history_decay both --model.user_id true"
)


@pytest.mark.parametrize(
    ("optimizer", "kind", "size", "options"),
    [
        ("adam", "table_wise", 1, ""),
        ("adam", "table_wise", 2, "--model.history_table tied --run.save_async true"),
        ("rowwise_adagrad", "row_partitioned", 2, SAMPLED),
        ("rowwise_adagrad", "data_parallel", 3, f"--model.history_table own {SAMPLED} --batches.ahead 2"),
    ],
)
def test_a_training_that_was_cut_short_within_an_epoch_ends_with_the_weights_of_one_that_was_not(
    optimizer: str, kind: str, size: int, options: str, folder: Path, tmp_path: Path
) -> None:
    config = configured(BROKEN, f"--optimizer.name {optimizer} --sharding.kind {kind} {options}")
    assert run_on_ranks(1, steps_of_an_epoch, config, folder)[0] > HALF
    run_on_ranks(size, begin, config, folder, tmp_path)
    broken = run_on_ranks(size, end, config, folder, tmp_path)
    whole = run_on_ranks(size, end, config, folder, None)
    for (weights, _), (expected, _) in zip(broken, whole, strict=True):
        assert weights.keys() == expected.keys()
        assert any("attention" in key for key in weights)
        for key, values in expected.items():
            assert all(torch.equal(a, b) for a, b in zip(weights[key], values, strict=True)), key
    assert broken[0][1] == whole[0][1]


def steps_of_an_epoch(world: World, config: ResolvedConfig, folder: Path) -> int:
    dataset = open_dataset(folder)
    return source_of(config, dataset, assemble(config, dataset, world)).steps_per_epoch
