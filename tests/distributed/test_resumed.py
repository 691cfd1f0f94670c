"""Trainings that end in the middle and go on: exactly at the same ranks, and at others under other plans."""

from pathlib import Path

import pytest
import torch

from tests.distributed.broken_training import HALF, begin, end
from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset
from trainer.errors import CheckpointError

BASE = f"--model.hidden 8 --model.history true --run.log_every 1 --run.save_every {HALF}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_a_checkpoint_written_meanwhile_holds_the_weights_of_its_own_step(optimizer, folder, tmp_path):
    config = configured(BASE, f"--optimizer.name {optimizer} --run.save_async true")
    run_on_ranks(2, begin, config, folder, tmp_path)
    broken = run_on_ranks(2, end, config, folder, tmp_path)
    whole = run_on_ranks(2, end, config, folder, None)
    assert broken[0][1] == whole[0][1]
    for key, values in whole[1][0].items():
        assert all(torch.equal(a, b) for a, b in zip(broken[1][0][key], values, strict=True)), key


@pytest.mark.parametrize(
    ("optimizer", "kind", "size"),
    [
        ("rowwise_adagrad", "table_wise", 1),
        ("adam", "table_wise", 1),
        ("rowwise_adagrad", "table_wise", 4),
        ("rowwise_adagrad", "row_partitioned", 4),
        ("rowwise_adagrad", "column_wise", 4),
        ("rowwise_adagrad", "data_parallel", 4),
        ("adagrad", "column_wise", 4),
        ("adam", "table_wise", 4),
        ("adam", "row_partitioned", 4),
        ("sgd", "table_wise", 4),
    ],
)
def test_weights_are_those_of_a_training_without_a_break(optimizer, kind, size, folder, tmp_path):
    config = configured(BASE, f"--optimizer.name {optimizer} --sharding.kind {kind}")
    run_on_ranks(size, begin, config, folder, tmp_path)
    broken = run_on_ranks(size, end, config, folder, tmp_path)
    whole = run_on_ranks(size, end, config, folder, None)
    for (weights, _), (expected, _) in zip(broken, whole, strict=True):
        assert weights.keys() == expected.keys()
        for key, values in expected.items():
            assert all(torch.equal(a, b) for a, b in zip(weights[key], values, strict=True)), key
    assert broken[0][1] == whole[0][1]


@pytest.mark.parametrize("kind", ["table_wise", "row_partitioned"])
def test_hashed_ids_are_trained_on_to_the_same_weights_bit_by_bit(kind, folder, tmp_path):
    config = configured(BASE, f"--model.hashed_rows 13 --sharding.kind {kind}")
    run_on_ranks(2, begin, config, folder, tmp_path)
    broken = run_on_ranks(2, end, config, folder, tmp_path)
    whole = run_on_ranks(2, end, config, folder, None)
    for (weights, _), (expected, _) in zip(broken, whole, strict=True):
        for key, values in expected.items():
            assert all(torch.equal(a, b) for a, b in zip(weights[key], values, strict=True)), key
    assert broken[0][1] == whole[0][1]


@pytest.mark.parametrize(
    ("optimizer", "before", "after"),
    [
        ("adagrad", (4, "table_wise"), (2, "column_wise")),
        ("adagrad", (2, "data_parallel"), (4, "row_partitioned")),
        ("rowwise_adagrad", (3, "row_partitioned"), (2, "table_wise")),
        ("rowwise_adagrad", (2, "data_parallel"), (3, "row_partitioned")),
        ("adam", (4, "table_wise"), (2, "row_partitioned")),
        ("adam", (2, "data_parallel"), (1, "table_wise")),
    ],
)
def test_a_training_goes_on_at_other_ranks_and_under_another_plan(optimizer, before, after, folder, tmp_path):
    def planned(kind: str):
        return configured(BASE, f"--optimizer.name {optimizer} --sharding.kind {kind}")

    run_on_ranks(before[0], begin, planned(before[1]), folder, tmp_path)
    broken = run_on_ranks(after[0], end, planned(after[1]), folder, tmp_path)
    whole = run_on_ranks(after[0], end, planned(after[1]), folder, None)
    for (weights, _), (expected, _) in zip(broken, whole, strict=True):
        for key, values in expected.items():
            for found, value in zip(weights[key], values, strict=True):
                torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4)
    assert broken[0][1] == pytest.approx(whole[0][1], abs=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "before", "after"),
    [
        ("rowwise_adagrad", "column_wise", "table_wise"),
        ("rowwise_adagrad", "table_wise", "column_wise"),
        ("sgd", "table_wise", None),
    ],
)
def test_states_that_do_not_suit_are_refused(optimizer, before, after, folder, tmp_path):
    config = configured(BASE, f"--optimizer.name {optimizer} --sharding.kind {before}")
    run_on_ranks(2, begin, config, folder, tmp_path)
    other = f"--sharding.kind {after}" if after else "--optimizer.name adagrad"
    config = configured(BASE, f"--optimizer.name {optimizer} {other}")
    with pytest.raises(CheckpointError, match="sum"):
        run_on_ranks(2, end, config, folder, tmp_path)
