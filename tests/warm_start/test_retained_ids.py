"""A data set extended by ids that an earlier run trained and its training split lacks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import worlds
from trainer.batching.tower_inputs import item_inputs, user_inputs
from trainer.dataset.build import prepare
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.vocabulary import Vocabulary, copy_vocabulary, open_vocabulary
from trainer.errors import DataError
from trainer.evaluation.baselines import make_ranker
from trainer.runs.data_digest import data_digests
from trainer.sources.schema import SourceTables
from trainer.storage.attributes import Feature, Ragged
from trainer.warm_start.retained_ids import extend

# Of the earlier data user 3 and item 30 are gone; user 2 and item 20 have test interactions alone now.
BEFORE = ([(1, 10), (2, 20), (3, 30), (3, 10)], [(4, 40)])
AFTER = ([(5, 50), (1, 10)], [(2, 20)])


def attributes(users: dict[int, str], items: dict[int, list[str]]) -> dict[str, pa.Table]:
    genres = pa.array(list(items.values()), pa.list_(pa.string()))
    return {
        "users": pa.table({"user_id": list(users), "work": list(users.values())}),
        "items": pa.table(
            {"item_id": list(items), "title": [f"title {item}" for item in items], "genres": genres}
        ),
    }


@pytest.fixture
def before(tmp_path: Path) -> Dataset:
    known = attributes({1: "nurse", 2: "clerk", 3: "smith"}, {10: ["war"], 20: [], 30: ["noir", "war"]})
    return worlds.dataset(tmp_path / "before", *BEFORE, **known)


@pytest.fixture
def after(tmp_path: Path) -> Dataset:
    known = attributes({1: "nurse", 5: "clerk"}, {10: ["war"], 50: ["drama"]})
    return worlds.dataset(tmp_path / "after", *AFTER, **known)


def kept_by(dataset: Dataset, folder: Path) -> Vocabulary:
    copy_vocabulary(dataset, folder)
    return open_vocabulary(folder)


def extended(after: Dataset, before: Dataset, folder: Path) -> Dataset:
    inputs = (
        user_inputs(before, list(before.user_features)),
        item_inputs(before, list(before.item_features), bias=True),
    )
    return open_dataset(extend(after.folder, kept_by(before, folder), *inputs))


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[a:b].tolist() for a, b in zip(ragged.offsets[:-1], ragged.offsets[1:], strict=True)]


def values(feature: Feature) -> list[list[str]]:
    names = [*feature.categories.to_pylist(), "unknown"]
    return [[names[code] for code in codes] for codes in lists(feature.bags)]


def test_retained_ids_are_appended_and_look_up_their_own_rows(before, after, tmp_path):
    data = extended(after, before, tmp_path / "run")
    # Nobody trained user 4 and item 40: there is nothing to be kept.
    assert data.user_ids.to_pylist() == [5, 1, 2, 3]
    assert data.item_ids.to_pylist() == [50, 10, 20, 30]
    assert (data.user_count, data.item_count) == (4, 4)
    assert user_inputs(after, ())["user"].tolist() == [0, 1, 3, 3]
    assert user_inputs(data, ())["user"].tolist() == [0, 1, 2, 3, 4]
    assert item_inputs(data, (), bias=True)["item_bias"].tolist() == [0, 1, 2, 3]
    assert (data.report["kept_users"], data.report["kept_items"]) == (1, 1)


def test_interactions_stay_and_items_of_a_retained_user_are_seen_and_looked_up(before, after, tmp_path):
    data = extended(after, before, tmp_path / "run")
    assert (data.train.users.tolist(), data.train.items.tolist()) == ([0, 1], [0, 1])
    assert lists(data.train_by_user()) == [[0], [1], [], [], []]
    assert lists(data.seen("test")) == lists(data.history()) == [[0], [1], [], [1, 3], []]
    assert lists(data.held_out("test")) == [[], [], [2], [], []]


def test_test_items_of_a_retained_user_are_known_and_not_looked_for(after, tmp_path):
    # User 3 has items 30 and 10 of the earlier training and its test split; 10 is row 1 now.
    earlier = worlds.dataset(tmp_path / "earlier", [(1, 10), (1, 20), (2, 10), (3, 30)], [(3, 10), (1, 30)])
    data = extended(after, earlier, tmp_path / "run")
    assert data.user_ids.to_pylist() == [5, 1, 2, 3]
    assert lists(data.held_out("test")) == [[], [], [2], [], []]
    assert lists(data.served_held_out()) == [[], [], [2], [1], []]
    known = kept_by(data, tmp_path / "again").held_out
    assert known is not None
    assert lists(known) == lists(data.served_held_out())
    assert extended(after, data, tmp_path / "again").folder == data.folder


def test_attributes_and_titles_of_retained_ids_come_from_the_earlier_run(before, after, tmp_path):
    data = extended(after, before, tmp_path / "run")
    work, genres = data.user_features["work"], data.item_features["genres"]
    assert work.categories.to_pylist() == ["clerk", "nurse", "smith"]
    assert values(work) == [["clerk"], ["nurse"], ["unknown"], ["smith"], ["unknown"]]
    assert genres.categories.to_pylist() == ["drama", "war", "noir"]
    assert values(genres) == [["drama"], ["war"], ["unknown"], ["noir", "war"]]
    assert data.titles is not None
    assert data.titles.to_pylist() == ["title 50", "title 10", None, "title 30"]


def test_a_run_that_has_retained_all_extends_the_data_in_the_same_way(before, after, tmp_path):
    data = extended(after, before, tmp_path / "run")
    assert extended(after, data, tmp_path / "again").folder == data.folder


def test_ids_of_another_type_cannot_be_retained(before, tmp_path):
    pairs = [(f"u{user}", f"i{item}") for user, item in AFTER[0]]
    text = worlds.dataset(tmp_path / "text", pairs, [("u9", "i9")])
    assert extended(text, before, tmp_path / "run").user_ids.to_pylist()[3:] == ["1", "2", "3"]
    with pytest.raises(DataError, match="user ids were string and are int64 now"):
        extended(before, text, tmp_path / "text run")


def test_attribute_values_of_another_type_cannot_be_retained(before, tmp_path):
    known = pa.table({"user_id": [1, 5], "work": [1, 2]})
    numbers = worlds.dataset(tmp_path / "numbers", *AFTER, users=known)
    with pytest.raises(DataError, match="values of work were string and are int64 now"):
        extended(numbers, before, tmp_path / "run")


def test_weights_and_explicit_negatives_stay(before, tmp_path):
    columns = ("user_id", "item_id", "value", "weight")
    rows = [(5, 50, 5.0, 2.0), (1, 10, 5.0, 1.0), (1, 50, 1.0, 0.5)], [(2, 20, 5.0, 1.0)]
    interactions, held_out = (
        iter(pa.table(dict(zip(columns, zip(*part, strict=True), strict=True))).to_batches()) for part in rows
    )
    source = SourceTables(interactions, held_out)
    settings = {"k_core": 0, "split": "given", "test_size": 0.2, "validation_size": 0.0, "split_seed": 42}
    folder = prepare(
        lambda: source, {}, tmp_path / "after", name="world", min_value=3, negatives="use", **settings
    )
    data = extended(open_dataset(folder), before, tmp_path / "run")
    assert data.train.weights.tolist() == [2, 1]
    assert (data.negatives.users.tolist(), data.negatives.items.tolist()) == ([1], [0])
    assert data.negatives.weights.tolist() == [0.5]
    assert "negatives" in data_digests(data)


def test_impressions_stay(before, tmp_path):
    columns = ("user_id", "item_id")
    taken, shown = (
        pa.table({name: [row[place] for row in rows] for place, name in enumerate(columns)})
        for rows in ([(5, 50), (6, 51), (5, 51), (6, 52)], [(5, 52), (6, 50)])
    )
    source = SourceTables(iter(taken.to_batches()), impressions=iter(shown.to_batches()))
    settings = {"k_core": 0, "split": "none", "test_size": 0.2, "validation_size": 0.0, "split_seed": 42}
    folder = prepare(
        lambda: source, {}, tmp_path / "after", name="world", min_value=None, negatives="use", **settings
    )
    data = extended(open_dataset(folder), before, tmp_path / "run")
    assert (data.shown.users.tolist(), data.shown.items.tolist()) == ([0, 1], [2, 0])
    assert data_digests(data)["shown"] == data_digests(open_dataset(folder))["shown"]


def test_numbers_of_retained_ids_come_from_the_earlier_run(tmp_path):
    def with_numbers(folder, pairs, users, items):
        tables = {
            f"{side}s": pa.table({f"{side}_id": list(rows), "number": list(rows.values())})
            for side, rows in (("user", users), ("item", items))
        }
        return worlds.dataset(tmp_path / folder, *pairs, **tables)

    before = with_numbers("before", BEFORE, {1: 1.5, 3: 3.5}, {10: 10.5, 30: 30.5, 40: 40.5})
    after = with_numbers("after", AFTER, {1: 1.25, 5: 5.5}, {10: 10.25, 50: 50.5})
    inputs = user_inputs(before, ["number"]), item_inputs(before, ["number"], bias=True)
    data = open_dataset(extend(after.folder, kept_by(before, tmp_path), *inputs))
    nan = np.nan
    assert data.user_ids.to_pylist() == [5, 1, 2, 3]
    np.testing.assert_array_equal(data.user_dense["number"].values[:, 0], [5.5, 1.25, nan, 3.5, nan])
    assert data.item_ids.to_pylist() == [50, 10, 20, 30]
    np.testing.assert_array_equal(data.item_dense["number"].values[:, 0], [50.5, 10.25, nan, 30.5])
    assert data.item_dense["number"].center == after.item_dense["number"].center


def in_order(folder: Path, rows: list[tuple[int, ...]]) -> Dataset:
    """Rows of user, item and perhaps second, all of them trained on."""
    names = ("user_id", "item_id", "timestamp")[: len(rows[0])]
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    settings = {"k_core": 0, "split": "none", "test_size": 0.2, "validation_size": 0.0, "split_seed": 42}
    source = SourceTables(iter(table.to_batches()))
    return open_dataset(prepare(lambda: source, {}, folder, name="world", min_value=None, **settings))


def sequences_of_retained(after: Dataset, before: Dataset, folder: Path) -> dict[str, list[list[int]]]:
    """Raw items and times of each user of `after`, extended by what `before` had, before either split."""
    data = extended(after, before, folder)
    assert data.has_order
    raw = data.item_ids.to_pylist()
    found = {}
    for split in ("validation", "test"):
        sequences = data.sequences(split)
        assert sequences.times is not None
        found[split] = [[raw[item] for item in items] for items in lists(sequences.items)]
        found[f"{split} times"] = lists(sequences.times)
    assert extended(after, data, folder / "again").folder == data.folder
    return found


def test_retained_users_keep_their_items_oldest_first(tmp_path):
    # User 3 had 30, then 10, then 40; item 40 is among the new data's, 30 is retained.
    before = in_order(tmp_path / "before", [(1, 10, 1), (3, 40, 7), (3, 10, 6), (3, 30, 5)])
    after = in_order(tmp_path / "after", [(1, 40, 9), (1, 10, 8), (5, 10, 9)])
    found = sequences_of_retained(after, before, tmp_path / "run")
    assert found["validation"] == found["test"] == [[10, 40], [10], [30, 10, 40], []]
    assert found["validation times"] == found["test times"] == [[8, 9], [9], [5, 6, 7], []]


def test_retained_users_of_a_run_without_times_have_their_items_at_second_0(tmp_path):
    before = in_order(tmp_path / "before", [(1, 10), (3, 40), (3, 10)])
    after = in_order(tmp_path / "after", [(1, 40, 9), (1, 10, 8)])
    found = sequences_of_retained(after, before, tmp_path / "run")
    # Items ascend by their rows of the earlier run: 10 is the first there.
    assert found["test"] == [[10, 40], [10, 40], []]
    assert found["test times"] == [[8, 9], [0, 0], []]


def test_data_without_an_order_are_extended_without_sequences(tmp_path):
    before = in_order(tmp_path / "before", [(1, 10, 1), (3, 40, 7)])
    after = in_order(tmp_path / "after", [(1, 40), (1, 10)])
    data = extended(after, before, tmp_path / "run")
    assert not data.has_order
    assert not list(data.folder.glob("sequences*"))


@pytest.mark.parametrize("name", ["item_knn_last", "markov"])
def test_baselines_by_order_neither_rank_nor_count_what_an_earlier_run_had(name, tmp_path):
    # Users 3 and 4 and item 30 are retained; that they had 40 after 10 in the earlier run counts no more.
    rows = [(3, 30, 1), (3, 10, 2), (3, 40, 3), (1, 10, 4), (4, 10, 5), (4, 40, 6)]
    before = in_order(tmp_path / "before", rows)
    after = in_order(tmp_path / "after", [(1, 10, 8), (1, 20, 9), (2, 40, 7), (2, 10, 9)])
    data = extended(after, before, tmp_path / "run")
    assert (data.user_ids.to_pylist(), data.item_ids.to_pylist()) == ([1, 2, 3, 4], [10, 20, 40, 30])
    seen = torch.tensor([2]), torch.tensor([0, 2])
    # After user 2's last item, 10, came 20; item 30 is not ranked and one place stays empty.
    assert make_ranker(name, data, 2, 42)(np.array([1]), seen).tolist() == [[1, -1]]
    nothing = torch.tensor([0]), torch.zeros(0, dtype=torch.int64)
    ranking, expected = (make_ranker(name, each, 3, 42)(np.array([1]), nothing) for each in (data, after))
    # By markov 10 scores 10 x 2/4, 20 scores 1 + 10 x 1/4, 40 scores 2.5: with theirs, 40 would be second.
    assert torch.equal(ranking, expected)
