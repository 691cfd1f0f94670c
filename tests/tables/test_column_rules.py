"""Values keep their rule or are marked; ids are the numbers that they equal."""

import uuid
from decimal import Decimal

import pyarrow as pa
import pytest

from trainer.tables.column_rules import Column, are_whole_ids, can_be_id, plain, uuid_texts


def read(column, values, type=None):
    found, good = column.read(pa.array(values, type))
    return found.to_pylist(), good.to_pylist()


def test_uuids_are_the_texts_that_python_writes():
    ids = [uuid.UUID(int=number**9) for number in range(1, 60)]
    raw = pa.array([each.bytes for each in ids] + [None], pa.binary(16))
    assert uuid_texts(raw).to_pylist() == [*map(str, ids), None]
    assert uuid_texts(raw[7:9]).to_pylist() == [*map(str, ids[7:9])]
    assert plain(raw.cast(pa.uuid())).to_pylist() == [*map(str, ids), None]


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["1", "2.0", "-3.00", None], True),
        (["0.0"], True),
        (["007.0"], False),
        (["2.5"], False),
        (["1", "x"], False),
        (["1", "1."], False),
        (["9223372036854775808.0"], False),
    ],
)
def test_texts_are_whole_ids_where_each_equals_a_canonical_integer(texts, whole):
    assert are_whole_ids(pa.array(texts)) == whole


def test_an_id_is_the_integer_that_it_equals():
    column = Column("user_id", "u", pa.int64())
    assert read(column, ["86.0", "7"]) == ([86, 7], [True, True])
    assert read(column, [86.0, 2.5, None]) == ([86, None, None], [True, False, False])
    assert read(column, [Decimal("86.00"), Decimal("2.50")]) == ([86, None], [True, False])


def test_a_number_among_texts_is_written_as_the_integer_that_it_equals():
    column = Column("user_id", "u", pa.string())
    assert read(column, [86.0, 2.0]) == (["86", "2"], [True, True])
    assert read(column, [Decimal("86.00")]) == (["86"], [True])


def test_a_decimal_comma_is_read_where_the_file_has_them():
    values = ["0,5", "-1,25", "3", ",5", "1.000,5", "1,2,3"]
    column = Column("value", "v", pa.float32(), decimal_comma=True)
    assert read(column, values)[0] == [0.5, -1.25, 3, 0.5, None, None]
    assert read(Column("value", "v", pa.float32()), values)[0] == [None, None, 3, None, None, None]


@pytest.mark.parametrize(
    "type", [pa.bool_(), pa.list_(pa.int64()), pa.binary(16), pa.date32(), pa.duration("s")]
)
def test_columns_of_other_types_are_no_ids(type):
    assert not can_be_id(type)


@pytest.mark.parametrize("type", [pa.int8(), pa.uuid(), pa.float64(), pa.binary(), pa.decimal128(38)])
def test_columns_of_numbers_and_texts_may_be_ids(type):
    assert can_be_id(type)
    assert can_be_id(pa.dictionary(pa.int32(), type))
