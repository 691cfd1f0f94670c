"""Initial vectors of the closed form; normal ones and biases are tested with the training."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import worlds
from trainer.batching.tower_inputs import expected_biases, expected_popularity
from trainer.closed_form.edlae import history_vectors, training_towers
from trainer.config.parser import parse_config
from trainer.distributed.world import join_world
from trainer.fitting.components import assemble
from trainer.fitting.initial_values import START_NORM, normal_values, popularity_bias
from trainer.sharding.model_state import table_name
from trainer.sharding.table_values import normal_block

TRAIN, WITHHELD = worlds.checkerboard(users=32)


def test_learned_tables_start_as_the_closed_form_in_length_alone_another(tmp_path) -> None:
    dataset = worlds.dataset(tmp_path, TRAIN, [*WITHHELD, (7, 51)])  # user 7 has a test item alone
    options = ("--model.start", "low_rank", "--model.history", "true", "--model.low_rank_penalty", "2")
    with join_world("cpu") as world:
        state = assemble(
            worlds.configured(dataset, *worlds.QUICK, *options), dataset, world
        ).model.state_dict()
        tables = {
            str(table_name(key)): value.local_shards()[0].tensor.clone()
            for key, value in state.items()
            if table_name(key)
        }
    history, vectors = (torch.from_numpy(table) for table in training_towers(dataset, 8, penalty=2))
    known = dataset.train_by_user()
    users = torch.from_numpy(history_vectors(known, np.arange(dataset.user_count), history.numpy()))
    trained = known.lengths()[:-1] > 0
    factor = START_NORM / users[trained].norm(dim=1).mean()
    torch.testing.assert_close(tables["user"], torch.cat([users * factor, torch.zeros(1, 8)]))
    torch.testing.assert_close(tables["user_history"], history * factor)
    expected = vectors * START_NORM / vectors.norm(dim=1).mean()
    torch.testing.assert_close(tables["item"], torch.cat([expected, torch.zeros(1, 8)]))
    assert tables["user"][~torch.from_numpy(np.append(trained, True))].abs().max() == 0


def test_a_training_from_the_closed_form_knows_the_checkerboard_after_one_epoch(tmp_path) -> None:
    data = [*worlds.options(tmp_path, TRAIN, WITHHELD), "--run.epochs", "1"]
    start = ["--model.start", "low_rank", "--model.low_rank_penalty", "2"]
    figures = []
    for name, options in (("closed", start), ("random", [])):
        run = worlds.trained(tmp_path / name, *data, *options)
        figures.append(json.loads((run / "metrics.json").read_text())["model"]["ndcg@10"])
    assert figures[0] == 1
    assert figures[1] < 1


def test_rows_that_nothing_trains_are_zero_and_others_normal_in_every_block(tmp_path) -> None:
    train = [(user, item) for user in range(40) for item in range(60) if (user * item) % 7 == 3]
    dataset = worlds.dataset(tmp_path, train, [(100, 5), (101, 300)])
    with join_world("cpu") as world:
        tower_pairs = assemble(worlds.configured(dataset, *worlds.QUICK), dataset, world).tower_pairs[0]
    found = normal_values(dataset, tower_pairs, 3, 0.1, trains_reserved_item=False)
    trained = {
        "user": np.flatnonzero(dataset.train_by_user().lengths()),
        "item": np.unique(dataset.train.items),
    }
    for table, rows in trained.items():
        for block in (slice(0, 16), slice(16, 48), slice(48, 64)):
            numbers = np.arange(block.start, block.stop)
            expected = normal_block(3, table, block, 8, 0.1)
            expected[torch.from_numpy(np.isin(numbers, rows, invert=True))] = 0
            assert torch.equal(found[table](block), expected)
        assert 0 < len(rows) < 64


def test_the_bias_starts_at_the_log_of_summed_weights_and_of_half_the_least_where_there_are_none(
    tmp_path,
) -> None:
    dataset = worlds.dataset(tmp_path, [(1, 10), (2, 10), (2, 11)], [(1, 12)])
    weighed = replace(dataset, train=replace(dataset.train, weights=np.array([3.0, 0.5, 0.2], np.float32)))
    values = popularity_bias(weighed, 0.5, trains_reserved_item=False)(slice(0, 4))
    logs = np.log([3.5, 0.2, 0.1, 0.1])  # item 12 is held out alone; the last row is the reserved one
    assert values[:, 0].tolist() == pytest.approx(0.5 * (logs - logs[:3].mean()), rel=1e-5)
    counted = popularity_bias(dataset, 0.5, trains_reserved_item=False)(slice(0, 4))
    logs = np.log([2, 1, 0.5, 0.5])
    assert counted[:, 0].tolist() == pytest.approx(0.5 * (logs - logs[:3].mean()), rel=1e-5)


def test_with_expected_biases_items_start_alike_in_any_unit_of_weight(tmp_path):
    items = pa.table({"item_id": [10, 11, 12], "kind": ["a", "b", "a"]})
    dataset = worlds.dataset(tmp_path, [(1, 10), (2, 10), (2, 11)], [(1, 12)], items=items)
    heavy = replace(dataset, train=replace(dataset.train, weights=np.full(3, 8, np.float32)))
    model = parse_config(["--model.item_features", "kind"]).model
    starts = []
    for data in (dataset, heavy):
        beyond = popularity_bias(data, 0.85, False, expected_popularity(data, ["kind"]))(slice(0, 2))
        starts.append(beyond[:, :1].numpy() + expected_biases(data, model)[:2])
        starts.append(expected_biases(data, model)[2:])  # of the new item, which has no row of its own
    np.testing.assert_allclose(starts[2], starts[0], atol=1e-5)
    np.testing.assert_allclose(starts[3], starts[1], atol=1e-5)
