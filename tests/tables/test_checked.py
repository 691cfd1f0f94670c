"""Rows keep the rules of their columns, or the first that does not is named with what helps."""

import pyarrow as pa
import pytest

from trainer.errors import DataError
from trainer.tables.bad_rows import BadRows
from trainer.tables.checked import read_table
from trainer.tables.column_rules import Column
from trainer.tables.delimited import TextFile

ID = Column("user_id", "user_id", pa.string(), "an id", remedy="Name another column")
VALUE = Column("value", "value", pa.float32(), "a number", remedy="Leave the column unread")


def read(folder, text, columns, policy="error"):
    (folder / "x.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    file = TextFile(
        folder / "x.csv", ",", encoding_remedy="Name the encoding", separator_remedy="Name a separator"
    )
    bad = BadRows(policy)
    return read_table(file, columns, bad).to_pydict(), bad


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "user_id,value\n1,view\n2,buy\n",
            r"x.csv:2: value is 'view', expected a number .*Leave the column unread$",
        ),
        ("user_id,value\n,1\n,2\n", r"x.csv:2: user_id is '', expected an id .*Name another column$"),
        (
            "user_id,value\n1;2\n2;3\n",
            r"x.csv:2: 1 field, expected 2 \(2 of 2 rows are bad\). Name a separator$",
        ),
    ],
)
def test_where_all_rows_break_one_rule_the_remedy_is_about_the_rule(tmp_path, text, message, policy):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, [ID, VALUE], policy)


def test_where_one_row_breaks_it_the_row_may_be_skipped(tmp_path):
    text = "user_id,value\n1,view\n2,3\n"
    with pytest.raises(DataError, match=r"1 of 2 rows are bad\). Skip such lines: --data.bad_rows skip$"):
        read(tmp_path, text, [ID, VALUE])
    found, bad = read(tmp_path, text, [ID, VALUE], "skip")
    assert (found, bad.skipped) == ({"user_id": ["2"], "value": [3.0]}, 1)


def test_bytes_that_are_no_text_in_an_attribute_are_an_error_or_a_counted_row(tmp_path):
    title = Column("title", "title", pa.string(), required=False)
    text = "user_id,title\n1,Heat\n2,Misérables\n3,\n".encode("cp1252")
    with pytest.raises(
        DataError, match=r"x.csv:3: title is 'Mis.rables', which is no utf-8 text.*the encoding$"
    ):
        read(tmp_path, text, [ID, title])
    found, bad = read(tmp_path, text, [ID, title], "skip")
    assert (found, bad.skipped) == ({"user_id": ["1", "3"], "title": ["Heat", None]}, 1)


def test_an_id_that_goes_on_over_several_lines_is_a_quote_that_was_not_closed(tmp_path):
    text = 'user_id,value\n1,3\n"2,3\n' + "3,3\n" * 99
    with pytest.raises(DataError, match=r"x.csv:3: 1 field, expected 2") as error:
        read(tmp_path, text, [ID, VALUE])
    text = 'value,user_id\n3,1\n3,"2\n' + "3,3\n" * 99
    for policy in ("error", "skip"):  # skipping it would lose all the rows that it holds
        with pytest.raises(DataError, match=r"x.csv:3: user_id is '2\\n3,3.*\.\.\.', .*not closed") as error:
            read(tmp_path, text, [ID, VALUE], policy)
    assert len(str(error.value).removeprefix(str(tmp_path))) < 300


def test_an_attribute_that_goes_on_over_several_lines_is_told(tmp_path):
    title = Column("title", "title", pa.string(), required=False)
    found, bad = read(tmp_path, 'user_id,title\n1,"Heat\nand dust"\n2,Up\n', [ID, title])
    assert found["title"] == ["Heat\nand dust", "Up"]
    assert bad.notes[0].endswith("x.csv: 1 value of title goes on over several lines")


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x.csv: two columns are named 'value', expected one"):
        read(tmp_path, "user_id,value,value\n1,2,3\n", [ID, VALUE])


def test_an_attribute_that_cannot_be_read_is_unknown_and_counted(tmp_path):
    age = Column("age", "age", pa.int64(), required=False)
    found, bad = read(tmp_path, "user_id,age\n1,30\n2,young\n3,old\n4,\n", [ID, age])
    assert found["age"] == [30, None, None, None]
    (note,) = bad.notes
    assert note.endswith("x.csv: 2 values of age cannot be read and are unknown, such as 'young'")
