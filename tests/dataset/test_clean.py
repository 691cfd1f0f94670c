"""Weights of 0 are left out; values below the least positive one become explicit negatives."""

import pyarrow as pa
import pytest

from trainer.dataset.build import prepare
from trainer.dataset.dataset import open_dataset
from trainer.errors import DataError
from trainer.sources.schema import SourceTables

TYPES = {"value": pa.float32(), "weight": pa.float32()}


def ready(cache, rows, columns, held_out=None, **settings):
    """Prepare rows with the given columns, and open them."""
    defaults = {"min_value": 3, "k_core": 0, "split": "random", "test_size": 0.5, "validation_size": 0}
    tables = [
        pa.table({c: pa.array([row[n] for row in part], TYPES.get(c)) for n, c in enumerate(columns)})
        for part in (rows, held_out or [])
    ]
    first, second = (iter(table.to_batches()) for table in tables)
    source = SourceTables(first, second if held_out else None)
    settings = {"name": "small", "split_seed": 42, "negatives": "use"} | defaults | settings
    return open_dataset(prepare(lambda: source, {}, cache, **settings))


def raw(dataset, part):
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    return sorted((users[u], items[i]) for u, i in zip(part.users, part.items, strict=True))


VALUED, TIMED = ("user_id", "item_id", "value"), ("user_id", "item_id", "value", "timestamp")
POSITIVES = [(user, item, 5) for user in (1, 2, 3) for item in (10, 11)]
HELD_OUT = [(1, 12, 4), (2, 13, 1)]


def test_values_below_the_least_are_negatives_and_no_positives(tmp_path):
    rows = [*POSITIVES, (1, 12, 3), (2, 12, 1), (3, 12, 2)]
    dataset = ready(tmp_path, rows, VALUED, [(3, 10, 5)])
    assert raw(dataset, dataset.negatives) == [(2, 12), (3, 12)]
    assert dataset.negatives.values.tolist() == [1, 2]
    assert (2, 12) not in raw(dataset, dataset.train)
    assert dataset.report["negatives"] == 2
    assert dataset.report["below_min_value"] == 2


def test_without_being_asked_for_there_are_none(tmp_path):
    dataset = ready(tmp_path, [*POSITIVES, (1, 12, 1)], VALUED, [(3, 10, 5)], negatives="drop")
    assert dataset.negatives is None
    assert "negatives" not in dataset.report


def test_the_held_out_file_gives_no_negatives(tmp_path):
    dataset = ready(tmp_path, [*POSITIVES, (3, 12, 5), (1, 13, 5)], VALUED, [*HELD_OUT, (2, 12, 1)])
    assert dataset.negatives is None


def test_a_pair_that_is_also_a_positive_is_no_negative_and_of_repeats_the_last_counts(tmp_path):
    rows = [*POSITIVES, (1, 12, 5), (1, 10, 1), (2, 12, 1), (2, 12, 2)]
    dataset = ready(tmp_path, rows, VALUED, [(3, 10, 5)])
    assert raw(dataset, dataset.negatives) == [(2, 12)]
    assert dataset.negatives.values.tolist() == [2]


def test_users_and_items_without_training_positives_have_no_negatives(tmp_path):
    rows = [*POSITIVES, (1, 12, 5), (4, 10, 1), (1, 99, 1), (2, 12, 1)]
    dataset = ready(tmp_path, rows, VALUED, [(3, 10, 5)])
    assert raw(dataset, dataset.negatives) == [(2, 12)]
    assert 4 not in dataset.user_ids.to_pylist()
    assert 99 not in dataset.item_ids.to_pylist()


def test_negatives_later_than_the_first_test_row_are_left_out_of_a_split_by_time(tmp_path):
    rows = [(1, 10, 5, 1), (2, 11, 5, 2), (1, 11, 1, 3), (2, 10, 5, 5), (1, 12, 5, 6), (2, 10, 1, 0)]
    rows += [(2, 12, 5, 4), (1, 11, 1, 5)]
    # Positives by time: 1, 2, 4 for training, 5 and 6 for the test. Of (1, 11) the row of second 5 is too
    # late and that of second 3 counts; that (2, 10) will be a positive of the test is not known either.
    dataset = ready(tmp_path, rows, TIMED, split="temporal", test_size=0.4)
    assert raw(dataset, dataset.train) == [(1, 10), (2, 11), (2, 12)]
    assert raw(dataset, dataset.negatives) == [(1, 11), (2, 10)]
    early = ready(tmp_path / "early", [*rows[:-1]], TIMED, split="temporal", test_size=0.4)
    assert raw(early, early.negatives) == [(1, 11), (2, 10)]


def test_negatives_of_a_user_are_older_than_the_users_last_positive(tmp_path):
    rows = [(1, 10, 5, 1), (1, 11, 5, 9), (2, 10, 5, 1), (2, 12, 5, 3), (3, 12, 5, 1), (3, 13, 5, 2)]
    rows += [(1, 12, 1, 8), (2, 13, 1, 4), (3, 10, 1, 1)]
    dataset = ready(tmp_path, rows, TIMED, split="leave_last_out")
    assert raw(dataset, dataset.negatives) == [(1, 12), (3, 10)]


def test_a_random_split_holds_out_negatives_too(tmp_path):
    rows = [(user, item, 5 if (user + item) % 2 else 1) for user in range(40) for item in range(20)]
    dataset = ready(tmp_path, rows, VALUED, test_size=0.25)
    assert len(dataset.train) == 300
    assert len(dataset.negatives) == 300
    assert not set(raw(dataset, dataset.negatives)) & set(raw(dataset, dataset.test))


def test_a_weight_of_zero_leaves_the_row_out(tmp_path):
    columns = ("user_id", "item_id", "value", "weight")
    rows = [(*row, 2) for row in POSITIVES]
    zeros = [(1, 12, 5, 0), (2, 11, 1, 0)]
    held_out = [(1, 10, 5, 1), (2, 11, 5, 0)]
    dataset = ready(tmp_path, [*zeros, *rows], columns, held_out)
    same = ready(tmp_path / "same", rows, columns, held_out[:-1])
    for part in ("train", "test"):
        assert raw(dataset, getattr(dataset, part)) == raw(same, getattr(same, part))
    assert dataset.negatives is None
    assert (dataset.report["read"], dataset.report["weightless"]) == (10, 3)
    assert dataset.item_ids.equals(same.item_ids)
    assert set(dataset.train.weights.tolist()) == {2.0}
    with pytest.raises(DataError, match=r"small: the weights of all 1 interactions are 0"):
        ready(tmp_path / "none", [(1, 10, 5, 0)], columns)
