from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import DataError
from trainer.storage.attributes import (
    DenseFeature,
    LeftOutError,
    Ragged,
    align,
    bucketed,
    categorise,
    description,
    encode_attribute,
)


def bags(feature):
    """Each row's codes, as lists."""
    return [feature.bags.values[a:b].tolist() for a, b in pairwise(feature.bags.offsets)]


def test_rows_of_different_lengths_are_taken_in_the_order_asked_for():
    ragged = Ragged(np.array([0, 2, 2, 5]), np.array([10, 11, 20, 21, 22], np.int32))  # [10 11] [] [20 21 22]
    lengths, values = ragged.take(np.array([2, 1, 0, 2]))
    assert lengths.tolist() == [3, 0, 2, 3]
    assert values.tolist() == [20, 21, 22, 10, 11, 20, 21, 22]
    assert values.dtype == np.int32


def test_taking_no_rows_gives_nothing():
    lengths, values = Ragged(np.array([0, 1]), np.array([4], np.int32)).take(np.array([], np.int64))
    assert (len(lengths), len(values)) == (0, 0)


def test_strings_are_coded_in_ascending_order_and_null_is_the_last_code():
    feature = categorise("occupation", pa.chunked_array([["writer", None], ["artist", "writer"]]))
    assert (feature.name, feature.size) == ("occupation", 3)  # artist 0, writer 1, unknown 2
    assert bags(feature) == [[1], [2], [0], [1]]


def test_integers_are_coded_by_value_not_as_text():
    feature = categorise("age", pa.chunked_array([[100, 25, 3]]))  # 3 -> 0, 25 -> 1, 100 -> 2
    assert bags(feature) == [[2], [1], [0]]


def test_lists_become_bags():
    column = pa.chunked_array([[["war", "drama"], []], [None, ["war", None]]], pa.list_(pa.string()))
    feature = categorise("genres", column)  # drama 0, war 1, unknown 2
    assert feature.size == 3
    assert bags(feature) == [[1, 0], [], [2], [1, 2]]


def test_lists_of_integers_become_bags():
    assert bags(categorise("tags", pa.chunked_array([[[30, 4], [4]]]))) == [[1, 0], [0]]


def test_a_slice_of_a_column_is_coded_as_such():
    column = pa.chunked_array([pa.array([["z"], ["b", "a"], None, ["a"]]).slice(1)])
    assert bags(categorise("genres", column)) == [[1, 0], [2], [0]]


def test_a_column_of_nulls_is_all_unknown():
    feature = categorise("zip", pa.chunked_array([pa.nulls(2, pa.string())]))
    assert (feature.size, bags(feature)) == (1, [[0], [0]])


@pytest.mark.parametrize("values", [[1.5, 2.0], [True, False], [[0.5], [1.5]]])
def test_a_column_that_is_no_category_gives_no_feature(values):
    assert categorise("price", pa.chunked_array([values])) is None


def test_attributes_follow_the_vocabulary():
    # Id 5 has no row; the row of 7 is nobody's; the null is the row of unknown users.
    table = pa.table({"user_id": [7, 2, 9], "age": [70, 20, 90]})
    aligned = align(pa.array([9, 5, 2, None]), table, "user_id")
    assert aligned["age"].to_pylist() == [90, None, 20, None]


def test_an_id_without_a_row_does_not_find_a_null_id():
    table = pa.table({"user_id": [7, None], "age": [70, 1]})
    assert align(pa.array([None, 7]), table, "user_id")["age"].to_pylist() == [None, 70]


def test_ids_of_different_types_are_compared_as_text():
    table = pa.table({"item_id": [7, 2], "title": ["seven", "two"]})
    assert align(pa.array(["2", "B7"]), table, "item_id")["title"].to_pylist() == ["two", None]


def test_an_id_with_two_attribute_rows_is_named():
    table = pa.table({"user_id": [1, 4, 4, 2], "age": [1, 2, 3, 4]})
    with pytest.raises(DataError, match="user_id 4 has more than one row"):
        align(pa.array([1]), table, "user_id")


def test_fractional_numbers_are_standardised_by_their_mean_and_deviation():
    feature = encode_attribute("price", pa.chunked_array([[1.5, None, 4.5]]))
    assert feature.center.tolist() == [3.0]  # (1.5 + 4.5) / 2
    assert feature.scale == 1.5  # both are 1.5 away
    np.testing.assert_array_equal(feature.values, np.array([[1.5], [np.nan], [4.5]], np.float32))
    assert description(feature, 3) == "number, mean 3, deviation 1.5, 1 of 3 missing"


def test_integers_are_numbers_where_the_kind_says_so():
    column = pa.chunked_array([[10, 20, 30]])
    assert encode_attribute("year", column).size == 4
    assert encode_attribute("year", column, "number").center.tolist() == [20]


def test_times_are_seconds():
    times = pa.chunked_array([pa.array([0, 86_400], pa.timestamp("s")).cast(pa.timestamp("ns"))])
    assert encode_attribute("made", times).values.tolist() == [[0], [86_400]]
    assert encode_attribute("made", times, "buckets:2").bags.values.tolist() == [0, 1]


def test_buckets_have_equal_shares_and_missing_is_one_more():
    numbers = np.array([5, 1, np.nan, 8, 2, 4, 3, 7, 6], float)  # quarters 1 2 | 3 4 | 5 6 | 7 8
    feature = bucketed("price", numbers, 4)
    assert feature.bags.values.tolist() == [2, 0, 4, 3, 0, 1, 1, 3, 2]
    assert feature.categories.to_pylist() == [
        "lowest to 3.0",
        "3.0 to 5.0",
        "5.0 to 7.0",
        "7.0 to highest",
    ]
    assert feature.size == 5


@pytest.mark.parametrize("numbers", [[1.0] * 9 + [2.0], [1.0, 1.0], [0.0, 1.0, 10.0], [np.nan, np.nan]])
def test_no_bucket_is_empty(numbers):
    feature = bucketed("price", np.array(numbers), 10)
    codes = np.unique(feature.bags.values[~np.isnan(numbers)])
    assert codes.tolist() == list(range(len(codes)))
    assert len(codes) in (len(feature.categories), 0)


def test_lists_of_one_length_are_vectors_with_one_scale():
    column = pa.chunked_array([pa.array([[3, 0], None, [0, 4]], pa.list_(pa.float32(), 2))])
    feature = encode_attribute("image", column)
    np.testing.assert_array_equal(feature.values, [[3, 0], [np.nan, np.nan], [0, 4]])
    assert feature.center.tolist() == [1.5, 2]
    assert feature.scale == 2.5  # both are (1.5, 2) away: 2.25 + 4 = 2.5 ** 2
    assert description(feature, 3) == "vector of 2 numbers, 1 of 3 missing"


def test_a_vector_with_a_gap_is_missing_as_a_whole():
    feature = encode_attribute("image", pa.chunked_array([[[1.5, None], [1.0, 2.0], [2.0, 2.5]]]))
    assert np.isnan(feature.values[0]).all()
    assert feature.center.tolist() == [1.5, 2.25]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ([[0.5], [0.5, 1.0]], None, r"its lists have different lengths \(1 and 2\)"),
        ([0.5, 0.5], None, "all of its values are the same"),
        ([float("nan")], None, "all of its values are missing"),
        ([0.5, 1e300], None, "infinite in float32"),
        (["a", "b"], "number", r"not all of its values \(string\) are numbers"),
        ([1, 2], "vector", "int64 is no list of numbers"),
        ([1, 2], "ignore", "as --data.attribute_kinds.x says"),
    ],
)
def test_an_attribute_that_cannot_be_used_says_why(values, kind, reason):
    with pytest.raises(LeftOutError, match=reason):
        encode_attribute("x", pa.chunked_array([values]), kind)


def test_a_time_is_described_by_its_date_and_days() -> None:
    # 1970-01-11 and 1970-01-31: their mean is 1970-01-21, from which both are ten days away.
    days = np.array([[10], [30], [np.nan]], np.float32) * 86_400
    feature = DenseFeature("since", days, np.array([20 * 86_400], np.float32), 10 * 86_400.0)
    assert description(feature, 3, is_time=True) == "time, mean 1970-01-21, deviation 10 days, 1 of 3 missing"
