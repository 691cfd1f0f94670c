"""The same training under different plans, on real gloo ranks."""

from pathlib import Path

import pytest
import torch

from tests import layouts
from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset, train_small
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.errors import ConfigError
from trainer.fitting.components import assemble
from trainer.model.towers import TwoTowers
from trainer.planning.layout import follow_plan
from trainer.planning.plan import Plan, save_plan
from trainer.runs.checkpoint import load, save
from trainer.runs.run_folder import describe_run, open_run
from trainer.sharding.model_state import whole_state
from trainer.sharding.table_values import fill_tables

MIXED = (
    "--sharding.kind row_partitioned --sharding.partitions.user 3 --sharding.ranks.user 1,0",
    "--sharding.tables.item_bias data_parallel",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    ("optimizer", "kinds"),
    [
        # Adagrad keeps a value a weight, so its state can be cut as its table is.
        ("adagrad", ("table_wise", "row_partitioned", "column_wise", "data_parallel", "auto")),
        ("rowwise_adagrad", ("row_partitioned", "data_parallel")),
        ("sgd", ("row_partitioned", "table_column_wise")),
        ("adam", ("row_partitioned", "data_parallel")),
    ],
)
def test_losses_and_metrics_are_the_same_under_every_plan(optimizer, kinds, folder):
    options = f"--optimizer.name {optimizer} --model.hidden 8"
    (alone,) = run_on_ranks(1, train_small, configured(options), folder)
    for kind in kinds:
        ranks = run_on_ranks(4, train_small, configured(options, f"--sharding.kind {kind}"), folder)
        torch.testing.assert_close(ranks[0].losses, alone.losses, rtol=1e-4, atol=0)
        assert ranks[0].metrics == pytest.approx(alone.metrics, abs=1e-3)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_histories_and_labels_in_partitions_are_pooled_as_in_whole_tables(optimizer, folder):
    options = f"--optimizer.name {optimizer} --model.history true --model.item_features labels"
    (alone,) = run_on_ranks(1, train_small, configured(options), folder)
    cut = configured(options, "--sharding.kind row_partitioned")
    for size in (2, 3):
        ranks = run_on_ranks(size, train_small, cut, folder)
        torch.testing.assert_close(ranks[0].losses, alone.losses, rtol=1e-4, atol=0)
        assert ranks[0].metrics == pytest.approx(alone.metrics, abs=1e-3)


def test_a_saved_plan_is_followed_exactly_by_every_rank(folder, tmp_path):
    planned = run_on_ranks(2, plan_of, configured(*MIXED), folder)[0]
    # 61 users and the reserved row: 62 rows in 3 parts of 21, on ranks 1, 0 and 1 in turn.
    user = planned.tables[0]
    assert [(shard.rank, shard.row_offset, shard.rows) for shard in user.shards] == [
        (1, 0, 21),
        (0, 21, 21),
        (1, 42, 20),
    ]
    save_plan(planned, tmp_path / "plan.json")
    followed = run_on_ranks(2, plan_of, configured(f"--sharding.plan {tmp_path / 'plan.json'}"), folder)
    assert followed == [planned, planned]


def test_every_rank_refuses_a_plan_for_another_world(folder, tmp_path):
    save_plan(run_on_ranks(2, plan_of, configured(), folder)[0], tmp_path / "plan.json")
    with pytest.raises(
        ConfigError, match=r"plan.json: a plan for 2 ranks, and there are 3. Start 2, or plan"
    ):
        run_on_ranks(3, plan_of, configured(f"--sharding.plan {tmp_path / 'plan.json'}"), folder)


def plan_of(world: World, config, folder: Path) -> Plan:
    """The plan that this rank follows."""
    return assemble(follow_plan(config, world.size), open_dataset(folder), world).plan


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_a_run_saved_in_partitions_opens_whole_in_one_process(optimizer, folder, tmp_path):
    config = configured(*MIXED, f"--optimizer.name {optimizer}")
    run_on_ranks(2, keep_run, config, folder, tmp_path / "run")
    run_on_ranks(1, keep_run, configured(f"--optimizer.name {optimizer}"), folder, tmp_path / "alone")
    cut, alone = (open_run(tmp_path / name).tower_pairs[0].towers.state_dict() for name in ("run", "alone"))
    assert cut.keys() == alone.keys()
    for key, values in alone.items():  # initial values, which do not depend on the plan
        assert torch.equal(cut[key], values), key


def keep_run(world: World, config, folder: Path, run: Path) -> None:
    """Write a run folder of a model as it starts."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    if world.is_first:
        run.mkdir()
        describe_run(run, config, dataset, parts.plan, parts.tower_pairs)
    save(run, 1, parts.model, world)


@pytest.mark.parametrize(("saved", "opened"), [((4, 2), (2, 3)), ((3, 1), (4, 7))])
def test_a_checkpoint_opens_on_other_ranks_in_other_partitions(saved, opened, tmp_path):
    # Two parts on four ranks leave ranks without any, which take part in saving and loading all the same.
    run_on_ranks(saved[0], save_numbered, saved[1], tmp_path)
    (folder,) = (tmp_path / "checkpoints").iterdir()
    rows = [row for rank in run_on_ranks(opened[0], opened_rows, opened[1], folder) for row in rank]
    assert sorted(rows) == [(number, float(number)) for number in range(7)]


def in_partitions(world: World, parts: int, first: float) -> torch.nn.Module:
    """A user table of 7 rows, of which row r is r + `first`."""
    towers = TwoTowers({"user": 7}, {"item": 3}, 4, partitions={"user": parts} if parts > 1 else {})
    rates = {"user": 0.1, "item": 0.1}
    model, _ = layouts.sharded(towers, "table_wise", "sgd", rates, world_size=world.size)
    fill_tables(model, lambda _, rows: torch.arange(rows.start, rows.stop).unsqueeze(1).expand(-1, 4) + first)
    return model


def save_numbered(world: World, parts: int, run: Path) -> None:
    save(run, 1, in_partitions(world, parts, 0.0), world)


def opened_rows(world: World, parts: int, checkpoint: Path) -> list[tuple[int, float]]:
    """Number and first value of each row on this rank."""
    model = in_partitions(world, parts, 100.0)
    load(checkpoint, model)
    shards = whole_state(model)["query.embeddings.embedding_bags.user.weight"].local_shards()
    return [
        (shard.metadata.shard_offsets[0] + number, float(row[0]))
        for shard in shards
        for number, row in enumerate(shard.tensor)
    ]
