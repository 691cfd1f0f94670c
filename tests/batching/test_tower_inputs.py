"""What the towers look up for each user and item."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import worlds
from trainer.batching.sampler import Batches, BatchPlan
from trainer.batching.tower_inputs import (
    dense_values,
    dense_widths,
    id_collisions,
    item_inputs,
    keyed_jagged,
    make_inputs,
    open_inputs,
    save_inputs,
    table_rows,
    user_inputs,
)
from trainer.config.parser import parse_config
from trainer.dataset.dataset import Dataset
from trainer.errors import ConfigError
from trainer.storage.id_hashes import hashed_rows

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


def numbered(tmp_path: Path) -> Dataset:
    """Three items, the last of which is new, with a number each; the second and third user have one too."""
    items = pa.table({"item_id": [10, 20, 30], "price": [0.5, 1.5, 3.5], "kind": ["a", "b", "a"]})
    pairs = [(1, 10), (1, 20), (2, 10), (3, 10)], [(1, 30)]
    users = pa.table({"user_id": [2, 3], "income": [1.5, 2.5]})
    return worlds.dataset(tmp_path, *pairs, users=users, items=items)


def test_numbers_stand_beside_what_is_looked_up(tmp_path: Path) -> None:
    data = numbered(tmp_path)
    config = parse_config(["--model.user_features", "income", "--model.item_features", "price,kind"])
    users, items = make_inputs(config, data)
    assert keyed_jagged(items, np.array([2, 0])).keys() == ["item", "item_kind", "item_bias"]
    assert dense_values(items, np.array([2, 0])).tolist() == [[3.5], [0.5]]
    assert keyed_jagged(users, np.array([1])).keys() == ["user"]
    np.testing.assert_array_equal(dense_values(users, np.array([1, 0, 3])), [[1.5], [np.nan], [np.nan]])
    assert dense_widths(items) == {"item_price": 1}
    assert dense_values({"item": items["item"]}, np.array([0])) is None


def test_numbers_are_saved_with_a_run_as_they_are(tmp_path: Path) -> None:
    data = numbered(tmp_path / "data")
    _, items = make_inputs(parse_config(["--model.item_features", "price,kind"]), data)
    save_inputs(tmp_path / "inputs.npz", items)
    opened = open_inputs(tmp_path / "inputs.npz")
    assert list(opened) == list(items)
    np.testing.assert_array_equal(opened["item_price"], items["item_price"])


def test_new_items_have_the_expected_bias_of_their_kind_and_the_boost(tmp_path: Path) -> None:
    data = numbered(tmp_path)
    options = ["--model.item_features", "kind", "--model.item_id_dropout", "0.2"]
    _, plain = make_inputs(parse_config(options), data)
    _, boosted = make_inputs(parse_config([*options, "--model.new_item_boost", "-0.5"]), data)
    # Kind a is had by 3 users and kind b by one, so that their weights are half of log 3 times 1 / (1 + 5).
    # Biases are centred at the mean over all items, of which the new one counts as half an interaction.
    mean = (np.log(3) + np.log(0.5)) / 3
    step = np.log(3) / 2 / 6
    expected = 0.85 * (np.log(3) / 2 + np.array([step, -step, step]) - mean)
    np.testing.assert_allclose(plain["item_expected_bias"][:, 0], expected, rtol=1e-5)
    change = boosted["item_expected_bias"] - plain["item_expected_bias"]
    np.testing.assert_allclose(change[:, 0], [0, 0, -0.5], atol=1e-6)


def test_data_without_an_order_have_no_ordered_histories(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, [("a", "x"), ("a", "y"), ("b", "x")], [("b", "y")])
    refused = r"--model.history recency: .* has no timestamps.*--data.order file"
    with pytest.raises(ConfigError, match=refused):
        make_inputs(parse_config(["--model.history", "recency"]), data)


def test_hashed_ids_look_up_two_rows_and_biases_stay_one_an_item(data) -> None:
    users, items = make_inputs(parse_config(["--model.hashed_rows", "5"]), data)
    own = hashed_rows(data.user_ids, 5).tolist()
    # User 30 is new, and has rows at once; row 5 is reserved for users of whom nothing is known.
    assert bags(keyed_jagged(users, np.arange(4)), "user") == [*own, [5]]
    tensor = keyed_jagged(items, np.array([2, 0]))
    movies = hashed_rows(data.item_ids, 5).tolist()
    assert tensor.keys() == ["movie", "movie_bias"]
    assert bags(tensor, "movie") == [movies[2], movies[0]]
    assert bags(tensor, "movie_bias") == [[3], [0]]
    assert table_rows(data, users, 5) | table_rows(data, items, 5) == {"user": 6, "movie": 6, "movie_bias": 4}
    assert id_collisions(users, items, "movie").keys() == {"user", "movie"}
    assert id_collisions(*make_inputs(parse_config([]), data), "movie") == {}


def test_new_items_look_up_the_reserved_row_beyond_hashed_ones_where_it_is_trained(data) -> None:
    options = [
        "--model.hashed_rows",
        "5",
        "--model.item_id_dropout",
        "0.5",
        "--model.item_features",
        "genres",
    ]
    _, items = make_inputs(parse_config(options), data)
    movies = hashed_rows(data.item_ids, 5).tolist()
    assert bags(keyed_jagged(items, np.arange(3)), "movie") == [movies[0], movies[1], [5]]
    plan = BatchPlan(rows="user", size=2, seed=1, candidates="catalogue", item_id_dropout=0.5)
    source = Batches(data, plan, user_inputs(data, []), items)
    found = [bags(source.make(step).candidates, "movie") for step in range(20)]
    dropped = [bags(source.make(step).candidates, "movie_bias") for step in range(20)]
    # Movies 7 and 8 are candidates: with their own rows and bias, or with the reserved ones.
    for step, biases in zip(found, dropped, strict=True):
        assert step == [movies[row] if bias == [row] else [5] for row, bias in enumerate(biases)]
        assert all(bias in ([row], [3]) for row, bias in enumerate(biases))
    assert 5 < sum(bias == [3] for biases in dropped for bias in biases) < 35


def test_hashed_inputs_come_back_from_their_file(data, tmp_path: Path) -> None:
    users, _ = make_inputs(parse_config(["--model.hashed_rows", "5"]), data)
    save_inputs(tmp_path / "inputs.npz", users)
    rows = np.arange(4)
    found = keyed_jagged(open_inputs(tmp_path / "inputs.npz"), rows)
    assert bags(found, "user") == bags(keyed_jagged(users, rows), "user")
