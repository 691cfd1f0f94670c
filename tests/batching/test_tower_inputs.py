"""What the towers look up for each user and item."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import worlds
from trainer.batching.tower_inputs import item_inputs, keyed_jagged, open_inputs, save_inputs, user_inputs
from trainer.dataset.dataset import Dataset

# User 30 has only a test interaction: nothing was learned of that user.
TRAIN, HELD_OUT = [(10, 7), (20, 8), (20, 7)], [(10, 9), (30, 7)]
USERS = pa.table({"user_id": [10, 20, 30], "age": ["old", "young", "old"]})
ITEMS = pa.table({"item_id": [7, 8, 9], "genres": [["drama", "war"], [], ["comedy"]]})


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return worlds.dataset(tmp_path, TRAIN, HELD_OUT, users=USERS, items=ITEMS, item_name="movie")


def bags(tensor, key: str) -> list[list[int]]:
    return [bag.tolist() for bag in tensor[key].to_dense()]


def test_a_user_without_training_interactions_looks_up_the_unknown_row(data) -> None:
    inputs = user_inputs(data, ["age"])
    assert data.user_ids.to_pylist() == [10, 20, 30]
    assert inputs["user"].tolist() == [0, 1, 3, 3]
    # Categories in ascending order: old, young, unknown. The attribute of such a user is known all the same.
    assert bags(keyed_jagged(inputs, np.arange(4)), "user_age") == [[0], [1], [0], [2]]


def test_items_are_named_as_the_data_set_names_them(data) -> None:
    inputs = item_inputs(data, ["genres"], bias=True)
    assert list(inputs) == ["movie", "movie_genres", "movie_bias"]
    # Item 9 has no training interaction: it looks up the row that is reserved for such items.
    assert inputs["movie"].tolist() == inputs["movie_bias"].tolist() == [0, 1, 3]
    assert list(item_inputs(data, [], bias=False)) == ["movie"]


def test_features_are_taken_row_by_row_in_the_order_asked_for(data) -> None:
    rows = np.array([2, 0, 1, 0])
    tensor = keyed_jagged(item_inputs(data, ["genres"], bias=True), rows)
    assert tensor.keys() == ["movie", "movie_genres", "movie_bias"]
    assert tensor.stride() == 4
    assert bags(tensor, "movie") == bags(tensor, "movie_bias") == [[3], [0], [1], [0]]
    # comedy 0, drama 1, war 2.
    assert bags(tensor, "movie_genres") == [[0], [1, 2], [], [1, 2]]
    assert tensor.values().dtype == torch.int64


def test_no_rows_make_an_empty_tensor_with_all_keys(data) -> None:
    tensor = keyed_jagged(item_inputs(data, ["genres"], bias=True), np.zeros(0, np.int64))
    assert tensor.keys() == ["movie", "movie_genres", "movie_bias"]
    assert tensor.stride() == 0
    assert tensor.values().tolist() == tensor.lengths().tolist() == []


def test_inputs_come_back_from_their_file(data, tmp_path: Path) -> None:
    for inputs in (user_inputs(data, ["age"]), item_inputs(data, ["genres"], bias=True)):
        save_inputs(tmp_path / "inputs.npz", inputs)
        found = open_inputs(tmp_path / "inputs.npz")
        assert list(found) == list(inputs)
        rows = np.arange(3)
        expected, actual = keyed_jagged(inputs, rows), keyed_jagged(found, rows)
        assert torch.equal(actual.values(), expected.values())
        assert torch.equal(actual.lengths(), expected.lengths())
