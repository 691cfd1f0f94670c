"""Times as people write them become seconds since 1970; what cannot be told apart is refused."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from trainer.tables.times import TIMESTAMP, Form, MixedFormsError

NOON = 1_600_344_000  # 2020-09-17 12:00:00 UTC: 18,522 days of 86,400 seconds and 12 hours
MIDNIGHT = NOON - 12 * 3600


def read(values, type=None):
    reader = TIMESTAMP.reader()
    seconds, good = reader.read(pa.array(values, type))
    assert seconds.is_valid() == good
    return seconds.to_pylist(), reader.note


def test_the_time_of_the_tests_is_what_python_says():
    assert datetime.datetime(2020, 9, 17, 12, tzinfo=datetime.UTC).timestamp() == NOON


@pytest.mark.parametrize(
    ("text", "seconds", "note"),
    [
        ("2020-09-17 12:00:00", NOON, "timestamp holds times without a zone, read as UTC"),
        ("2020-09-17T12:00", NOON, "timestamp holds times without a zone, read as UTC"),
        ("2020-09-17 12:00:00.999999", NOON, "timestamp holds times without a zone, read as UTC"),
        ("2020-09-17", MIDNIGHT, "timestamp holds times without a zone, read as UTC"),
        ("2020-09-17T12:00:00Z", NOON, "timestamp holds times with a zone"),
        ("2020-09-17T12:00:00.5Z", NOON, "timestamp holds times with a zone"),
        ("2020-09-17 12:00:00 UTC", NOON, "timestamp holds times with a zone"),
        ("2020-09-17 12:00:00+00", NOON, "timestamp holds times with a zone"),
        ("2020-09-17 14:00:00+02:00", NOON, "timestamp holds times with a zone"),
        ("2020-09-17 14:00:00 +0200", NOON, "timestamp holds times with a zone"),
        ("1969-12-31 23:59:59", -1, "timestamp holds times without a zone, read as UTC"),
        ("9999-12-31 00:00:00", 253_402_214_400, "timestamp holds times without a zone, read as UTC"),
        (str(NOON), NOON, ""),
        (f"{NOON}.75", NOON, ""),
        ("1.6e9", 1_600_000_000, ""),
        (f"{NOON}999", NOON, "timestamp holds milliseconds"),
        (f"{NOON}999999", NOON, "timestamp holds microseconds"),
        (f"{NOON}999999999", NOON, "timestamp holds nanoseconds"),
        ("20200917", MIDNIGHT, "timestamp holds days as 20200917"),
        ("20200917120000", NOON, "timestamp holds times as 20200917002000"),
        ("100", 100, ""),
    ],
)
def test_a_text_is_the_second_that_it_names(text, seconds, note):
    assert read([text]) == ([seconds], note)


@pytest.mark.parametrize(
    "text",
    ["noon", "", "17.09.2020", "9/17/2020", "2020-13-01", "2020-02-30", "0000-00-00 00:00:00", "99999-01-01"],
)
def test_a_text_that_is_no_time_is_a_bad_value_and_not_another_time(text):
    assert read([text, "2020-09-17"])[0] == [None, MIDNIGHT]


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([NOON * 10**9 + 1], pa.timestamp("ns")),
        ([NOON], pa.timestamp("s", "Europe/Berlin")),
        ([Decimal(NOON)], None),
        ([NOON], pa.uint64()),
        ([float(NOON)], pa.float64()),
        ([NOON * 10**9], pa.int64()),
    ],
)
def test_typed_columns_are_the_second_that_they_hold(values, type):
    assert read(values, type)[0] == [NOON]


@pytest.mark.parametrize("type", [pa.date32(), pa.date64()])
def test_dates_are_their_midnight(type):
    assert read([datetime.date(2020, 9, 17)], type)[0] == [MIDNIGHT]


@pytest.mark.parametrize(
    ("value", "type"),
    [(2**64 - 1, pa.uint64()), (1e300, pa.float64()), (float("nan"), pa.float64()), (True, pa.bool_())],
)
def test_a_value_beyond_all_times_is_bad(value, type):
    assert read([value], type)[0] == [None]


def test_whole_nanoseconds_do_not_pass_through_floats():
    # As a float, one nanosecond before noon would be noon.
    assert read([NOON * 10**9 - 1, NOON * 10**9], pa.int64())[0] == [NOON - 1, NOON]


def test_a_small_number_has_the_unit_of_the_others():
    assert read(["0", f"{NOON}000", "5000"])[0] == [0, NOON, 5]


@pytest.mark.parametrize(
    ("first", "other", "fault"),
    [
        (str(NOON), f"{NOON}000", "milliseconds, among seconds"),
        (f"{NOON}000", str(NOON), "seconds, among milliseconds"),
        (str(NOON), "2020-09-17", "times without a zone, read as UTC, among seconds"),
        ("2020-09-17", "0", "a number, among times without a zone"),
        ("2020-09-17 12:00:00", "2020-09-17 12:00:00Z", "times with a zone, among times without a zone"),
        ("100", f"{NOON}000", "milliseconds, among seconds"),
    ],
)
def test_two_forms_in_a_column_are_refused_with_the_first_row_of_the_second(first, other, fault):
    reader = TIMESTAMP.reader()
    reader.read(pa.array([first, first]))
    with pytest.raises(MixedFormsError, match=fault) as error:
        reader.read(pa.array([first, other, other]))
    assert error.value.row == 1


def test_two_forms_in_one_block_are_refused():
    with pytest.raises(MixedFormsError, match="milliseconds, among seconds") as error:
        read([str(NOON), str(NOON), f"{NOON}000"])
    assert error.value.row == 2


def test_another_file_may_have_another_form():
    for text in (str(NOON), "2020-09-17 12:00:00"):
        assert read([text])[0] == [NOON]


def test_days_written_as_numbers_are_dates_only_if_all_are():
    assert read(["20200917", "20201301"])[0] == [20_200_917, 20_201_301]
    assert read(["20200917", "20200931"])[0] == [20_200_917, 20_200_931]


def test_every_form_has_a_name():
    from trainer.tables.times import NAMES

    assert len(NAMES) == len(Form)
