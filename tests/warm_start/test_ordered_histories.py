"""Trainings on ordered histories that begin with an earlier run, on data in which users have gone on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.distributed.small_training import Losses, configured, shards, whole
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.vocabulary import open_vocabulary
from trainer.distributed.world import World, join_world
from trainer.errors import ConfigError
from trainer.fitting.components import TrainingComponents, assemble, make_batches
from trainer.fitting.loop import fit
from trainer.model.retriever import query_vectors
from trainer.runs.checkpoint import save
from trainer.runs.run_folder import LEARNED, describe_run, run_inputs
from trainer.sharding.optimizer_state import optimizer_state
from trainer.warm_start.origin import open_origin
from trainer.warm_start.retained_ids import extend
from trainer.warm_start.take_over import take_over

BASE = (
    "--model.history transformer --model.history_decay both --model.history_length 4 "
    "--optimizer.dense_learning_rate 0.05"
)
# 30 is new and comes first, so that all rows of items move; users 1 and 2 go on, 3 is gone, 4 is new.
BEFORE = {1: [11, 12, 13, 14], 2: [13, 11, 15, 12], 3: [16, 14, 11, 17]}
AFTER = {4: [30, 11, 12], 1: [11, 12, 13, 14, 15, 16], 2: [13, 11, 15, 12, 30]}


@pytest.fixture
def world():
    with join_world("cpu") as world:
        yield world


def data_of(folder: Path, histories: dict[int, list[int]]) -> Dataset:
    return worlds.ordered_dataset(folder, histories, split="none")


def trained(world: World, config: Config, data: Dataset, run: Path) -> TrainingComponents:
    """A finished run with the states of its optimizer."""
    parts = assemble(config, data, world)
    progress: Any = Losses()
    fit(config, data, parts, make_batches(config, data, parts), world, progress)
    run.mkdir()
    describe_run(run, config, data, parts.plan, parts.tower_pairs)
    save(run, 8, parts.model, world, optimizer_state(parts.model, parts.optimizer, config.optimizer.name))
    return parts


def begun(world: World, config: Config, data: Dataset, run: Path) -> TrainingComponents:
    """A training that begins with a run, before its first step."""
    parts = assemble(config, data, world)
    found = take_over(open_origin(run, config, world), config, data, parts.model, parts.optimizer)
    assert found.states, found.why_not
    return parts


@pytest.mark.parametrize("table", ["tied", "own", "both"])
@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
def test_known_items_and_the_encoder_go_on_and_new_items_begin(
    table: str, optimizer: str, world: World, tmp_path: Path
) -> None:
    config = configured(BASE, f"--model.history_table {table} --optimizer.name {optimizer}")
    before, after = data_of(tmp_path / "before", BEFORE), data_of(tmp_path / "after", AFTER)
    run = tmp_path / "run"
    old = whole([shards(trained(world, config, before, run).model)])
    new = whole([shards(begun(world, config, after, run).model)])
    fresh = whole([shards(assemble(config, after, world).model)])
    assert new.keys() == old.keys()
    assert ("learned.candidate.embeddings.embedding_bags.item_context.weight" in new) == (table != "tied")
    then, now = before.item_ids.to_pylist(), after.item_ids.to_pylist()
    for key, values in new.items():
        if "embedding_bags" not in key:
            assert torch.equal(values, old[key]), key
            assert "encoder" not in key or not torch.equal(values, fresh[key]) or "norms" in key, key
            continue
        for row, item in enumerate(now):
            expected = old[key][then.index(item)] if item in then else fresh[key][row]
            assert torch.equal(values[row], expected), (key, item)


def test_users_who_went_on_have_longer_histories_of_the_same_vectors(world: World, tmp_path: Path) -> None:
    config = configured(BASE)
    before, after = data_of(tmp_path / "before", BEFORE), data_of(tmp_path / "after", AFTER)
    trained(world, config, before, tmp_path / "run")
    parts = begun(world, config, after, tmp_path / "run")
    inputs = parts.user_inputs["user_sequence"]
    names = after.item_ids.to_pylist()
    for row, user in enumerate(after.user_ids.to_pylist()):
        assert [names[item] for item in inputs.take(np.array([row]))[1]] == AFTER[user]


def test_a_retained_user_has_the_query_vector_that_the_earlier_run_had(world: World, tmp_path: Path) -> None:
    config, run, cpu = configured(BASE), tmp_path / "run", torch.device("cpu")
    before, after = data_of(tmp_path / "before", BEFORE), data_of(tmp_path / "after", AFTER)
    old = trained(world, config, before, run)
    folder = extend(after.folder, open_vocabulary(run), *run_inputs(run, LEARNED))
    extended = open_dataset(folder)
    assert extended.user_ids.to_pylist() == [*after.user_ids.to_pylist(), 3]
    parts = begun(world, config, extended, run)
    expected = query_vectors(old.tower_pairs, np.array([before.user_ids.to_pylist().index(3)]), cpu)
    found = query_vectors(parts.tower_pairs, np.array([extended.user_ids.to_pylist().index(3)]), cpu)
    torch.testing.assert_close(found, expected)
    # They are looked up and not trained on.
    batches = make_batches(config, extended, parts)
    batches_of_others = make_batches(config, after, begun(world, config, after, run))
    assert len(batches.stretches) == len(batches_of_others.stretches)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--model.history_table own", "--model.history_table own"),
        ("--model.history_decay time", "--model.history_decay time"),
        ("--model.history_length 5", "--model.history_length 5"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(
    change: str, named: str, world: World, tmp_path: Path
) -> None:
    trained(world, configured(BASE), data_of(tmp_path / "before", BEFORE), tmp_path / "run")
    with pytest.raises(ConfigError, match=f"^{named}: .*Leave the option out"):
        open_origin(tmp_path / "run", configured(BASE, change), world)


def test_a_decay_without_attention_suits_histories_of_another_length(world: World, tmp_path: Path) -> None:
    base, run = BASE.replace("transformer", "recency"), tmp_path / "run"
    trained(world, configured(base), data_of(tmp_path / "before", BEFORE), run)
    begun(world, configured(base, "--model.history_length 9"), data_of(tmp_path / "after", AFTER), run)
