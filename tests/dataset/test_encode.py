"""Ids that look like numbers and are texts are pointed out."""

import pyarrow as pa
import pytest

from trainer.dataset.encode import id_notes


@pytest.mark.parametrize(
    "ids", [pa.array([1, 2]), pa.array(["a", "b"]), pa.array(["10", "20"]), pa.array(["x1"])]
)
def test_of_ids_of_one_kind_there_is_nothing_to_say(ids):
    assert id_notes({"user_id": ids}) == []


def test_a_column_that_mixes_texts_and_numbers_is_told_with_an_example():
    assert id_notes({"user_id": pa.array(["1", "2", "x9"]), "item_id": pa.array([1])}) == [
        "user_id: 2 of 3 ids are whole numbers and the others texts, such as x9; all are taken as texts"
    ]


def test_ids_that_differ_by_spaces_alone_are_told():
    assert id_notes({"item_id": pa.array(["a", " a", "b "])}) == [
        "item_id: 2 of 3 ids begin or end with spaces, which are kept"
    ]


def test_zero_padded_ids_are_told_with_an_example():
    assert id_notes({"item_id": pa.array(["7", "007", "0", "08"])}) == [
        "item_id: 2 of 4 ids are padded with zeros, such as 007; all are taken as texts, so that 7 and 007 "
        "are two ids"
    ]
