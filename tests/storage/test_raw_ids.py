"""Rows of raw ids, one and many."""

import pyarrow as pa

from trainer.storage.raw_ids import row_of, rows_of


def test_one_id_is_found_by_its_text() -> None:
    numbers, texts = pa.array([5, 6, -7]), pa.array(["a", "06"])
    assert [row_of(numbers, each) for each in (6, "-7", "06", "x", "9" * 30)] == [1, 2, None, None, None]
    assert [row_of(texts, each) for each in ("06", "6", 6)] == [1, None, None]


def test_many_ids_are_found_whatever_their_type() -> None:
    known = pa.array([5, 6, 7])
    assert rows_of(known, pa.array([7, 8, None, 5])).to_pylist() == [2, None, None, 0]
    assert rows_of(known, pa.array(["7", "x", "5"])).to_pylist() == [2, None, 0]
    assert rows_of(pa.array(["a", "5"]), pa.array([5, 6])).to_pylist() == [1, None]
