"""Slices of arrays that tasks write, without Spark."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("pyspark", reason="pyspark is not installed")

from trainer.spark.cleaning import LAST, once
from trainer.spark.partitions import stretches
from trainer.spark.writing import ByUserWriter, make_file, write_slice


def test_slices_in_any_order_and_twice_make_one_array(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    make_file(path, np.int32, 5)
    for first, values in ((3, [30, 40]), (0, [0, 10, 20]), (3, [30, 40])):
        write_slice(path, first, np.array(values))
    assert np.load(path).tolist() == [0, 10, 20, 30, 40]


def test_equal_neighbours_are_one_stretch() -> None:
    assert list(stretches(np.array([7, 7, 2, 9, 9]))) == [
        (7, slice(0, 2)),
        (2, slice(2, 3)),
        (9, slice(3, 5)),
    ]


def test_the_first_row_of_a_pair_stays_and_the_last_is_told() -> None:
    rows = {"user_id": ["a", "a", "b", "a"], "item_id": [1, 1, 1, 1], "timestamp": [5, 9, 9, 7]}
    table = pa.table(rows | {"place": [0, 1, 2, 3]})
    kept = once(table, held_out_from=9, keep_first=True, keep_last_too=True)
    assert kept["place"].to_pylist() == [0, 2]
    assert kept[LAST].to_pylist() == [{"timestamp": 9, "place": 1}, None]
    assert once(table, 9, False, False)["place"].to_pylist() == [1, 2]
    assert once(table, 3, False, False)["place"].to_pylist() == [2, 3]  # row 3 is a held-out one


def test_groups_of_users_write_their_items_ascending_and_in_order_of_time(tmp_path: Path) -> None:
    # Users 0 and 1 are group 0, user 2 group 1. User 1 trains on items 4 and 3, in this order; 2 is its test.
    before = {0: np.array([0, 0, 0]), 1: np.array([3, 0, 1])}
    writer = ByUserWriter(tmp_path, 3, 5, 2, before, has_order=True, has_times=False, has_validation=False)
    writer.make_files(np.array([4, 0, 1]))
    rows = {"place": [0, 1, 2, 3, 4], "user": [1, 2, 0, 1, 1], "item": [4, 0, 1, 3, 2]}
    rows |= {"timestamp": [0, 1, 2, 3, 4], "part": [0, 0, 0, 0, 2], "user_group": [0, 1, 0, 0, 0]}
    writer(pa.table({name: pa.array(values, pa.int32()) for name, values in rows.items()}))
    writer.copy_offsets()
    assert np.load(tmp_path / "by_user_train_offsets.npy").tolist() == [0, 1, 3, 4, 4]
    assert np.load(tmp_path / "by_user_train_values.npy").tolist() == [1, 3, 4, 0]
    assert np.load(tmp_path / "sequences_train_values.npy").tolist() == [1, 4, 3, 0]
    assert np.load(tmp_path / "by_user_test_offsets.npy").tolist() == [0, 0, 1, 1, 1]
    assert not (tmp_path / "sequences_train_times.npy").exists()
