"""Made-up data: deterministic, heavy-tailed, and with a structure that popularity does not see."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import DataError
from trainer.sources import synthetic
from trainer.sources.synthetic import synthesise


def columns(*arguments: int) -> dict[str, np.ndarray]:
    table = pa.Table.from_batches(list(synthesise(*arguments).interactions))
    return {name: table[name].to_numpy() for name in table.column_names}


def test_the_same_arguments_give_the_same_data_and_another_seed_other_data():
    first, second = synthesise(50, 40, 1000, 3), synthesise(50, 40, 1000, 3)
    assert list(first.interactions) == list(second.interactions)
    assert first.users == second.users
    assert first.items == second.items
    assert not np.array_equal(columns(50, 40, 1000, 3)["item_id"], columns(50, 40, 1000, 4)["item_id"])


def test_the_global_random_state_is_neither_read_nor_touched():
    np.random.seed(1)
    first = columns(50, 40, 1000, 3)
    state = np.random.get_state()[1].tolist()
    columns(50, 40, 1000, 3)
    assert np.random.get_state()[1].tolist() == state
    np.random.seed(2)
    assert np.array_equal(columns(50, 40, 1000, 3)["item_id"], first["item_id"])


def test_sizes_and_types(monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK_ROWS", 1000)
    tables = synthesise(300, 200, 9000, 0)
    batches = list(tables.interactions)
    assert len(batches) > 3
    assert sum(map(len, batches)) == 9000
    assert max(map(len, batches)) <= 1000 + 100  # a block and the rest of a user, who has at most 200 / 2
    assert {str(batch.schema) for batch in batches} == {
        "user_id: int64\nitem_id: int64\nvalue: float\ntimestamp: int64"
    }
    assert tables.users["user_id"].to_pylist() == list(range(1, 301))
    assert tables.items["item_id"].to_pylist() == list(range(1, 201))
    assert tables.users.column_names == ["user_id", "gender", "age"]
    assert tables.items.column_names == ["item_id", "title", "genres", "release_year"]
    assert tables.items.schema.field("genres").type == pa.list_(pa.string())
    assert all(len(set(genres)) == len(genres) > 0 for genres in tables.items["genres"].to_pylist())
    title, year = tables.items["title"][6].as_py(), tables.items["release_year"][6].as_py()
    assert title == f"Item 7 ({year})"


def test_every_user_has_five_interactions_where_there_are_ten_a_user():
    counts = np.bincount(columns(1000, 500, 10_000, 0)["user_id"], minlength=1001)[1:]
    assert counts.sum() == 10_000
    assert counts.min() >= 5
    assert counts.max() > 5 * counts.mean()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (10, 3, 2), (3, 2, 6), (2, 1000, 1500), (5, 4, 100)])
def test_odd_sizes_give_exactly_the_interactions_asked_for(sizes):
    users, items, interactions = sizes
    read = columns(*sizes, 0)
    assert len(read["user_id"]) == interactions
    assert 1 <= read["user_id"].min() <= read["user_id"].max() <= users
    assert 1 <= read["item_id"].min() <= read["item_id"].max() <= items


def test_duplicates_are_few():
    read = columns(1000, 500, 40_000, 0)
    pairs = np.unique(np.stack([read["user_id"], read["item_id"]]), axis=1).shape[1]
    assert pairs > 0.99 * 40_000


def test_timestamps_increase_within_a_user_and_values_are_stars():
    read = columns(100, 500, 4000, 0)
    within = np.diff(read["user_id"]) == 0
    assert (np.diff(read["timestamp"])[within] > 0).all()
    assert set(read["value"]) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_popularity_has_a_heavy_tail():
    counts = np.sort(np.bincount(columns(2000, 5000, 40_000, 0)["item_id"]))[::-1]
    assert counts[:500].sum() > 0.35 * 40_000  # a tenth of the items; evenly it would be 0.1


@pytest.mark.parametrize(
    ("sizes", "option"),
    [
        ((0, 1, 1, 0), "users"),
        ((1, 0, 1, 0), "items"),
        ((1, 1, 0, 0), "interactions"),
        ((1, 1, 1, -1), "seed"),
    ],
)
def test_sizes_that_make_no_data_are_refused(sizes, option):
    with pytest.raises(DataError, match=f"--data.synthetic_{option}: "):
        synthesise(*sizes)


def ndcg_at_10(scores: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Mean over users with test items; a hit at rank r counts 1 / log2(r + 1), training items left out."""
    top = np.argsort(np.where(train, -np.inf, scores), axis=1)[:, ::-1][:, :10]
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = (np.take_along_axis(test, top, axis=1) * discounts).sum(1)
    ideal = np.concatenate([[0], np.cumsum(discounts)])[np.minimum(test.sum(1), 10)]
    return float((gains[ideal > 0] / ideal[ideal > 0]).mean())


def test_a_factorisation_ranks_far_better_than_popularity():
    read = columns(1000, 500, 40_000, 0)
    in_test = np.random.default_rng(0).random(40_000) < 0.2
    train, test = np.zeros((1000, 500), bool), np.zeros((1000, 500), bool)
    train[read["user_id"][~in_test] - 1, read["item_id"][~in_test] - 1] = True
    test[read["user_id"][in_test] - 1, read["item_id"][in_test] - 1] = True
    test &= ~train
    left, values, right = np.linalg.svd(train.astype(float), full_matrices=False)
    factorised = ndcg_at_10((left[:, :16] * values[:16]) @ right[:16], train, test)
    popular = ndcg_at_10(np.tile(train.sum(0), (1000, 1)), train, test)
    assert factorised > 1.5 * popular  # 0.30 and 0.14


def test_attributes_and_values_tell_of_the_structure():
    tables = synthesise(1000, 500, 40_000, 0)
    read = pa.Table.from_batches(list(tables.interactions)).to_pandas()
    joined = read.merge(tables.users.to_pandas()).merge(tables.items.to_pandas())
    # Were gender and genre independent, half of the largest genre's readers would be of either gender.
    first_genre = joined["genres"].str[0]
    shares = joined.groupby(first_genre)["gender"].value_counts(normalize=True).unstack()["F"]
    assert shares.max() - shares.min() > 0.2
    # A user's mean value within his most frequent release decade exceeds his mean elsewhere.
    decade = joined["release_year"] // 10
    favourite = decade.groupby(joined["user_id"]).transform(lambda years: years.mode().iloc[0])
    assert joined["value"][decade == favourite].mean() > joined["value"][decade != favourite].mean() + 0.3
