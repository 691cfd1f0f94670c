"""Trainings that begin with an earlier run's vectors take over the same ones at any ranks and plan."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, Shard, configured, source_of, whole
from trainer.config.schema import Config
from trainer.dataset.build import prepare
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import TrainingComponents, assemble
from trainer.fitting.loop import fit
from trainer.runs.checkpoint import save
from trainer.runs.run_folder import describe_run
from trainer.sharding.model_state import whole_state
from trainer.sharding.optimizer_state import create_states, optimizer_state
from trainer.sources.schema import SourceTables
from trainer.warm_start.origin import open_origin
from trainer.warm_start.take_over import WarmStart, take_over

pytestmark = pytest.mark.distributed

BASE = (
    "--model.history true --model.hidden 8 --model.learn_temperature true "
    "--model.user_features group --model.item_features labels"
)


@dataclass
class Sides:
    """A data set of 50 users and 30 items, and one which has lost 10 of each and won 15 and 12.

    Of the former a user and an item with attributes of their own are in the test part alone.
    """

    before: Path
    after: Path


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    cache = tmp_path_factory.mktemp("cache")
    before = world_of(cache, "before", range(1000, 1050), range(1, 31), 0, held_out=(1020, 20))
    after = world_of(cache, "after", range(1010, 1065), range(11, 43), 2)
    return Sides(before, after)


def world_of(
    cache: Path, name: str, users: range, items: range, shift: int, held_out: tuple[int, int] = (-1, -1)
) -> Path:
    generator = np.random.default_rng(len(name))
    owners, owned = np.nonzero(generator.random((len(users), len(items))) < 0.25)
    order = generator.permutation(len(owners))  # so that rows, in order of appearance, differ
    owners, owned = users[0] + owners[order], items[0] + owned[order]
    is_test = (generator.random(len(owners)) < 0.2) | (owners == held_out[0]) | (owned == held_out[1])
    train, test = (
        pa.record_batch({"user_id": owners[part], "item_id": owned[part]}) for part in (~is_test, is_test)
    )
    groups = ["rare" if user == 1020 else f"group {user % 7 + shift}" for user in users]
    labels = [["rare" if item == 20 else f"label {item % 6 + shift}"] for item in items]
    source = SourceTables(
        iter([train]),
        iter([test]),
        users=pa.table({"user_id": list(users), "group": groups}),
        items=pa.table({"item_id": list(items), "labels": labels}),
    )
    settings: dict[str, Any] = {"min_value": None, "k_core": 0, "split": "given", "split_seed": 1}
    return prepare(lambda: source, {}, cache, name=name, test_size=0.2, validation_size=0, **settings)


def state_of(parts: TrainingComponents, config: Config) -> list[Shard]:
    """Copies of this rank's weights and optimizer's states."""
    found = []
    state = whole_state(parts.model) | optimizer_state(parts.model, parts.optimizer, config.optimizer.name)
    for key, value in state.items():
        if isinstance(value, ShardedTensor):
            for part in value.local_shards():
                found.append(Shard(key, *part.metadata.shard_offsets, part.tensor.detach().clone()))
        else:
            found.append(Shard(key, 0, 0, value.detach().clone()))
    return found


def begin(world: World, config: Config, folder: Path, run: Path) -> list[Shard]:
    """A finished run that keeps its optimizer's states."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    progress: Any = Losses()
    fit(config, dataset, parts, source_of(config, dataset, parts), world, progress)
    world.on_first(lambda: run.mkdir())
    world.on_first(lambda: describe_run(run, config, dataset, parts.plan, parts.tower_pairs))
    states = optimizer_state(parts.model, parts.optimizer, config.optimizer.name)
    save(run, 8, parts.model, world, states)
    return state_of(parts, config)


def begin_again(
    world: World, config: Config, folder: Path, run: Path | None
) -> tuple[list[Shard], WarmStart | None]:
    """The state before the first step of a training that begins with a run, or of a fresh one."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    if run is None:
        create_states(parts.optimizer)
        return state_of(parts, config), None
    growth = take_over(open_origin(run, config, world), config, dataset, parts.model, parts.optimizer)
    return state_of(parts, config), growth


def names_of_rows(folder: Path) -> dict[str, list[Any]]:
    """What every row of a table stands for; None: a row that training never looks up."""
    data = open_dataset(folder)
    users, items = data.user_ids.to_pylist(), data.item_ids.to_pylist()
    trained_users, trained_items = np.unique(data.train.users), np.unique(data.train.items)
    users = [user if row in trained_users else None for row, user in enumerate(users)]
    items = [item if row in trained_items else None for row, item in enumerate(items)]
    groups = labels_of(data, "user_features", "group", trained_users)
    labels = labels_of(data, "item_features", "labels", trained_items)
    tables = {"user": [*users, "unknown"], "user_history": items, "user_group": [*groups, "unknown"]}
    return tables | {
        "item": [*items, "new"],
        "item_bias": [*items, "new"],
        "item_labels": [*labels, "unknown"],
    }


def labels_of(data: Dataset, side: str, name: str, rows: np.ndarray) -> list[str | None]:
    feature = getattr(data, side)[name]
    used = set(feature.bags.take(rows)[1].tolist())
    return [label if code in used else None for code, label in enumerate(feature.categories.to_pylist())]


@pytest.mark.parametrize(
    ("optimizer", "before", "after"),
    [
        ("rowwise_adagrad", (1, "table_wise"), (1, "row_partitioned")),
        ("rowwise_adagrad", (2, "row_partitioned"), (2, "table_wise")),
        ("adagrad", (2, "column_wise"), (1, "data_parallel")),
        ("adagrad", (1, "table_wise"), (2, "column_wise")),
        ("adam", (1, "table_wise"), (2, "row_partitioned")),
    ],
)
def test_known_rows_go_on_bit_by_bit_and_new_ones_start_as_in_a_fresh_training(
    optimizer, before, after, sides, tmp_path
):
    def planned(kind: str) -> Config:
        decay = "--optimizer.weight_decay 0.01" if optimizer == "adam" else ""
        return configured(BASE, decay, f"--optimizer.name {optimizer} --sharding.kind {kind}")

    config, run = planned(after[1]), tmp_path / "run"
    old = whole(run_on_ranks(before[0], begin, planned(before[1]), sides.before, run))
    taken = run_on_ranks(after[0], begin_again, config, sides.after, run)
    found = whole([shards for shards, _ in taken])
    fresh = whole([shards for shards, _ in run_on_ranks(after[0], begin_again, config, sides.after, None)])
    assert found.keys() == fresh.keys() == old.keys()
    then, now = names_of_rows(sides.before), names_of_rows(sides.after)
    states = 0
    for key, values in found.items():
        if "embedding_bags" not in key:
            assert torch.equal(values, old[key]), key
            continue
        table = key.split("embedding_bags.")[1].split(".")[0]
        is_state = key.startswith("optimizer.")
        states += is_state
        known = 0
        for row, name in enumerate(now[table]):
            if name is not None and name in then[table]:
                assert torch.equal(values[row], old[key][then[table].index(name)]), (key, name)
                known += 1
            elif name is not None:
                new = torch.zeros_like(values[row]) if is_state else fresh[key][row]
                assert torch.equal(values[row], new), (key, name)
        assert 2 < known < len(now[table]), key
    assert states == 6 * (2 if optimizer == "adam" else 1)
    growth = taken[0][1]
    assert growth is not None
    assert growth.states
    assert (growth.users.known, growth.users.new, growth.users.dropped) == (40, 15, 10)
    assert (growth.items.known, growth.items.new, growth.items.dropped) == (20, 12, 10)


def test_states_of_another_shape_are_left_out(sides, tmp_path):
    config, run = configured(BASE), tmp_path / "run"
    run_on_ranks(1, begin, config, sides.before, run)
    other = replace(config, sharding=replace(config.sharding, kind="column_wise"))
    taken = run_on_ranks(2, begin_again, other, sides.after, run)
    assert taken[0][1].why_not == f"those of {run} have another shape"
    states = [part for shards, _ in taken for part in shards if part.key.startswith("optimizer.")]
    assert states
    assert not any(part.values.any() for part in states)


@pytest.mark.parametrize(
    ("before", "after"),
    [((1, "table_wise"), (2, "row_partitioned")), ((2, "row_partitioned"), (1, "table_wise"))],
)
def test_hashed_tables_and_their_states_are_taken_over_whole(before, after, sides, tmp_path):
    def planned(kind: str) -> Config:
        return configured(f"--model.hashed_rows 60 --optimizer.name adagrad --sharding.kind {kind}")

    run = tmp_path / "run"
    old = whole(run_on_ranks(before[0], begin, planned(before[1]), sides.before, run))
    taken = run_on_ranks(after[0], begin_again, planned(after[1]), sides.after, run)
    found = whole([shards for shards, _ in taken])
    fresh = run_on_ranks(after[0], begin_again, planned(after[1]), sides.after, None)
    start = whole([shards for shards, _ in fresh])
    hashed = [key for key in found if "embedding_bags.user." in key or "embedding_bags.item." in key]
    assert len(hashed) == 4
    for key in hashed:
        assert found[key].shape == old[key].shape == (61, 16)
        trained = old[key].any(1)
        assert 20 < trained.sum() < 61
        assert torch.equal(found[key][trained], old[key][trained]), key
        # Rows of which the earlier run trained nothing: as in a training without one.
        expected = torch.zeros_like(start[key]) if key.startswith("optimizer.") else start[key]
        assert torch.equal(found[key][~trained], expected[~trained]), key
    biases = {key: values for key, values in found.items() if "item_bias" in key}
    assert {len(values) for values in biases.values()} == {open_dataset(sides.after).item_count + 1}
