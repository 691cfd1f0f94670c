"""Tables of float16 on real gloo ranks: the same training at any world size, gone on with, and opened."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.broken_training import begin, end
from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, configured, small_dataset, source_of, train_small, whole
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit
from trainer.runs.checkpoint import save
from trainer.runs.run_folder import describe_run, open_run
from trainer.sharding.model_state import whole_state

HALF = "--model.table_dtype float16"
MORE = f"{HALF} --model.history true --model.hidden 8 --run.log_every 1 --run.save_every 4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    "options",
    [
        "--model.low_rank 8",
        "--optimizer.name adagrad --sharding.kind column_wise",
        "--optimizer.name sgd --model.history true",
    ],
)
def test_a_training_is_the_same_on_one_rank_and_on_several(options: str, folder: Path) -> None:
    config = configured(HALF, options)
    (alone,), *others = [run_on_ranks(size, train_small, config, folder) for size in (1, 2, 4)]
    epochs = torch.tensor(alone.losses).view(2, -1).mean(1)
    assert epochs[1] < epochs[0]
    for training in others:
        torch.testing.assert_close(training[0].losses, alone.losses, rtol=2e-4, atol=0)
        torch.testing.assert_close(training[0].metrics, alone.metrics, rtol=0, atol=1e-3)
        before = whole([rank.before for rank in training])
        torch.testing.assert_close(before, whole([alone.before]), rtol=0, atol=0)
        # A sum in another order may round to the next number of float16, which is up to 2^-10 away.
        after = whole([rank.after for rank in training])
        torch.testing.assert_close(after, whole([alone.after]), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("sharding", ["table_wise", "row_partitioned"])
def test_initial_values_are_those_of_float32_rounded(sharding: str, folder: Path) -> None:
    plan = f"--sharding.kind {sharding} --model.low_rank 8"
    exact = run_on_ranks(2, initial, configured(plan), folder)
    rounded = run_on_ranks(2, initial, configured(plan, HALF), folder)
    for one, other in zip(exact, rounded, strict=True):
        assert one.keys() == other.keys()
        for key, values in one.items():
            expected = values.half() if "embedding_bags" in key else values
            assert other[key].dtype == expected.dtype, key
            assert torch.equal(other[key], expected), key


def initial(world: World, config: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Every value that this rank holds, by key and place."""
    state = whole_state(assemble(config, open_dataset(folder), world).model)
    found = {}
    for key, value in state.items():
        parts = value.local_shards() if hasattr(value, "local_shards") else None
        for number, part in enumerate([value] if parts is None else [shard.tensor for shard in parts]):
            found[f"{key} {number}"] = part.detach().clone()
    return found


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [("rowwise_adagrad", "row_partitioned"), ("adagrad", "column_wise"), ("sgd", "table_wise")],
)
def test_a_training_goes_on_to_the_same_weights_bit_by_bit(optimizer, kind, folder, tmp_path) -> None:
    config = configured(MORE, f"--optimizer.name {optimizer} --sharding.kind {kind}")
    run_on_ranks(2, begin, config, folder, tmp_path)
    broken = run_on_ranks(2, end, config, folder, tmp_path)
    unbroken = run_on_ranks(2, end, config, folder, None)
    for (weights, _), (expected, _) in zip(broken, unbroken, strict=True):
        for key, values in expected.items():
            assert all(torch.equal(a, b) for a, b in zip(weights[key], values, strict=True)), key
    assert broken[0][1] == unbroken[0][1]


def test_a_training_goes_on_at_other_ranks(folder, tmp_path) -> None:
    before = configured(MORE, "--optimizer.name adagrad --sharding.kind row_partitioned")
    after = configured(MORE, "--optimizer.name adagrad --sharding.kind column_wise")
    run_on_ranks(4, begin, before, folder, tmp_path)
    (_, figures), *_ = run_on_ranks(2, end, after, folder, tmp_path)
    (_, expected), *_ = run_on_ranks(2, end, after, folder, None)
    assert figures == pytest.approx(expected, abs=1e-3)


def test_optimizer_states_are_float32(folder) -> None:
    config = configured(HALF, "--optimizer.name adagrad --sharding.kind row_partitioned")
    for dtypes in run_on_ranks(2, dtypes_of_states, config, folder):
        assert dtypes == {torch.float32}


def dtypes_of_states(world: World, config: Any, folder: Path) -> set[torch.dtype]:
    parts = assemble(config, open_dataset(folder), world)
    return {
        shard.tensor.dtype
        for state in parts.optimizer.state_dict()["state"].values()
        for value in state.values()
        if hasattr(value, "local_shards")
        for shard in value.local_shards()
    }


def test_a_run_of_several_ranks_opens_whole_with_the_same_values(folder, tmp_path) -> None:
    config = configured(HALF, "--sharding.kind row_partitioned --model.low_rank 8")
    ranks = run_on_ranks(2, keep_trained, config, folder, tmp_path / "run")
    opened = {
        f"{part}.{key}": values
        for part, tower_pairs in zip(
            ("learned", "closed"), open_run(tmp_path / "run").tower_pairs, strict=True
        )
        for key, values in tower_pairs.towers.state_dict().items()
    }
    for key, rows in [entry for rank in ranks for entry in rank]:
        for row, values in rows.items():
            assert torch.equal(opened[key][row], values.float()), (key, row)
    assert {values.dtype for values in opened.values()} == {torch.float32}


def keep_trained(world: World, config: Any, folder: Path, run: Path) -> list[tuple[str, dict]]:
    """Train, write a run folder, and tell the rows of this rank's shards."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    progress: Any = Losses()
    fit(config, dataset, parts, source_of(config, dataset, parts), world, progress)
    if world.is_first:
        run.mkdir()
        describe_run(run, config, dataset, parts.plan, parts.tower_pairs)
    save(run, 1, parts.model, world)
    return [
        (key, {part.metadata.shard_offsets[0] + row: v.clone() for row, v in enumerate(part.tensor)})
        for key, value in whole_state(parts.model).items()
        if hasattr(value, "local_shards")
        for part in value.local_shards()
    ]
