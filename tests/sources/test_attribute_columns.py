"""What texts and Parquet columns of attributes are taken for, by rules that are written out."""

from datetime import datetime

import pyarrow as pa
import pytest

from trainer.errors import DataError
from trainer.sources.attribute_columns import Reading, parquet_type, typed_text


def typed(values, kind=None, separator=None, declared=""):
    reading = Reading({} if kind is None else {"x": kind}, separator)
    return typed_text("x", pa.array(values, pa.string()), reading, declared)


@pytest.mark.parametrize(
    ("texts", "type", "values"),
    [
        (["7", None, "-8"], pa.int64(), [7, None, -8]),
        (["7", "8.5", "1e3"], pa.float64(), [7, 8.5, 1000]),
        (["007", "12"], pa.string(), ["007", "12"]),  # a postal code, not the number 7
        (["7", "many"], pa.string(), ["7", "many"]),
        (["1e400", "9" * 30], pa.float64(), [float("inf"), 1e30]),
        (["2024-05-31", None], pa.timestamp("s"), [datetime(2024, 5, 31), None]),
        (["2024-05-31T10:00:00Z"], pa.timestamp("s"), [datetime(2024, 5, 31, 10)]),
        (["2024-05-31 10:00:00.5", "2024-05-31 10:00:01"], pa.timestamp("s"), None),
        ([None, None], pa.string(), [None, None]),
    ],
)
def test_texts_are_what_all_of_them_are(texts, type, values):
    found = typed(texts).values
    assert found.type == type
    assert values is None or found.to_pylist() == values


def test_a_separator_that_a_tenth_of_the_values_hold_is_guessed_and_said():
    found = typed(["war|drama", "war", " comedy | ", *["war"] * 17])  # 2 of 20
    assert found.values.to_pylist()[:3] == [["war", "drama"], ["war"], ["comedy"]]
    assert found.remark == "split at '|' (guessed; set another with --data.list_separator)"
    assert typed(["war|drama", *["war"] * 19]).values.type == pa.string()  # 1 of 20


def test_a_given_separator_splits_the_columns_that_hold_it():
    found = typed(["a, b", None, ""], separator=",")
    assert found.values.to_pylist() == [["a", "b"], [], []]
    assert found.remark == "split at ',' (as given)"
    assert typed(["a|b", "c"], separator=",").values.to_pylist() == ["a|b", "c"]


def test_commas_are_no_guess_because_titles_have_them():
    assert typed(["Heat, The", "Up, Up"]).values.type == pa.string()


def test_lists_as_pandas_writes_them_are_lists():
    assert typed(["['war', \"drama\"]", "[]"]).values.to_pylist() == [["war", "drama"], []]
    vectors = typed(["[0.5, -1]", None, "[0.25 2e0]".replace(" ", ", ")]).values
    assert vectors.type == pa.list_(pa.float32())
    assert vectors.to_pylist() == [[0.5, -1], None, [0.25, 2]]


def test_a_vector_may_be_of_whole_numbers_where_the_kind_says_so():
    assert typed(["1|2", "3|4"]).values.to_pylist() == [["1", "2"], ["3", "4"]]
    assert typed(["1|2", "3|4"], "vector").values.to_pylist() == [[1, 2], [3, 4]]


def test_the_kind_goes_before_what_texts_look_like():
    assert typed(["a|b", "c|d"], "category").values.to_pylist() == ["a|b", "c|d"]
    assert typed(["7", "8"], "number").values.type == pa.float64()
    assert typed(["07", "8"], "number").values.to_pylist() == [7, 8]


@pytest.mark.parametrize(
    ("texts", "kind", "fault"),
    [
        (["7", "many"], "number", r"--data.attribute_kinds.x number: 'many' is no number. Mend the value"),
        (["7", "soon"], "time", r"--data.attribute_kinds.x time: values like '7' are no ISO 8601 times"),
        (["a b", "c"], "list", r"no separator is found in values like 'a b'. Give it with --data.list_sep"),
    ],
)
def test_a_kind_that_the_values_are_not_of_is_refused_with_one_of_them(texts, kind, fault):
    with pytest.raises(DataError, match=fault):
        typed(texts, kind)


def test_columns_of_parquet_that_can_be_attributes():
    vector = pa.list_(pa.float32())
    assert {
        parquet_type(pa.list_(pa.float16(), 3)),
        parquet_type(pa.list_(pa.int8(), 3)),
        parquet_type(pa.large_list(pa.float64())),
    } == {vector}
    assert parquet_type(pa.decimal128(9, 2)) == pa.float64()
    assert parquet_type(pa.date32()) == pa.timestamp("s")
    assert parquet_type(pa.list_(pa.list_(pa.int8()))) is None
    assert parquet_type(pa.binary()) is None
