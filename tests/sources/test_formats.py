"""Own tables in whatever form they come: each file is opened as what it is, or refused in one line."""

import bz2
import gzip

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from trainer.errors import DataError
from trainer.sources.files import read_tables

OPTIONS = {
    "held_out": None,
    "users": None,
    "items": None,
    "user_column": "user_id",
    "item_column": "item_id",
    "value_column": "value",
    "timestamp_column": "timestamp",
    "bad_rows": "error",
}
COLUMNS = ["user", "item", "value", "timestamp"]
NOON = 1_600_344_000  # 2020-09-17 12:00:00 UTC
EXPECTED = {"user_id": [7, 9], "item_id": ["a", "b"], "value": [1.5, 4.0], "timestamp": [NOON, NOON]}
TEXT = f"user_id,item_id,value,timestamp\n7,a,1.5,{NOON}\n9,b,4,{NOON}\n"


def read(interactions, format="auto", **options):
    return read_tables(format, interactions, **{**OPTIONS, **options})


def rows(tables):
    return pa.Table.from_batches([*tables.interactions]).to_pydict()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("auto", TEXT),
        ("csv", "\ufeff" + TEXT.replace(",", ";").replace("1.5", "1,5").replace("\n", "\r\n")),
        ("csv", TEXT.replace(",", ", ")),
        ("tsv", "".join('"{}"\t"{}"\t"{}"\t"{}"\n'.format(*line.split(",")) for line in TEXT.splitlines())),
        ("tsv", TEXT),
        ("csv", TEXT.replace(",", "\t")),
        ("auto", TEXT.replace(",", "|")),
        ("auto", TEXT.replace(",", "::")),
        ("auto", gzip.compress(TEXT.encode(), mtime=0)),
        ("csv", bz2.compress(TEXT.encode())),
        ("csv", TEXT.replace(str(NOON), "2020-09-17 12:00:00")),
        ("csv", TEXT.replace(str(NOON), "2020-09-17T12:00:00Z")),
        ("csv", TEXT.replace(str(NOON), f"{NOON}000")),
        ("csv", TEXT.replace("\n7,", "\n7.0,").replace("\n9,", "\n9.0,")),
        ("csv", TEXT + TEXT.splitlines()[0] + "\n"),
        ("auto", "user_id:token item_id:token rating:float timestamp:float\n" + TEXT[32:].replace(",", " ")),
        ("recbole", "user_id:token,item_id:token,rating:float,timestamp:float\n" + TEXT[32:]),
    ],
)
def test_the_same_two_rows_in_every_form_are_the_same(tmp_path, format, content):
    assert rows(read(write(tmp_path / "x.csv", content), format)) == EXPECTED


def test_a_folder_may_mix_formats_compressions_and_forms_of_times(tmp_path):
    write(tmp_path / "a.csv", TEXT)
    write(tmp_path / "b.tsv", TEXT.replace(",", "\t"))
    write(tmp_path / "c.csv.gz", gzip.compress(TEXT.replace(str(NOON), "2020-09-17 12:00").encode()))
    frame = pd.DataFrame({**EXPECTED, "timestamp": pd.to_datetime(EXPECTED["timestamp"], unit="s")})
    frame.to_parquet(tmp_path / "d.parquet")
    assert rows(read(tmp_path)) == {name: values * 4 for name, values in EXPECTED.items()}


def test_what_was_guessed_of_a_file_is_told(tmp_path):
    text = TEXT.replace(",", ";").replace(str(NOON), f"{NOON}000") + "user_id;item_id;value;timestamp\n"
    tables = read(write(tmp_path / "x.csv", text))
    assert tables.bad_rows.notes == []  # before anything is read
    assert rows(tables) == EXPECTED
    assert tables.bad_rows.notes == [
        f"{tmp_path}/x.csv: timestamp holds milliseconds",
        f"{tmp_path}/x.csv: fields are taken to be separated by semicolon",
        f"{tmp_path}/x.csv: 1 line that repeats the header was left out",
    ]


def test_a_separator_that_is_given_is_taken_by_name_or_as_it_is(tmp_path):
    path = write(tmp_path / "x.csv", "user_id;item_id\n1,2;3\n")
    for separator in ("semicolon", ";"):
        assert rows(read(path, separator=separator)) == {"user_id": ["1,2"], "item_id": [3]}
    with pytest.raises(DataError, match=r"no column 'user_id', found user_id;item_id"):
        read(path, separator="tab")


@pytest.mark.parametrize("separator", [",", "::", ";", "\x01"])
def test_columns_without_a_header_are_named_by_their_use(tmp_path, separator):
    text = "".join(f"{line}\n" for line in TEXT.splitlines()[1:]).replace(",", separator)
    path = write(tmp_path / "ratings", text)
    assert rows(read(path, columns=COLUMNS)) == EXPECTED
    own = read(path, columns=["who", "item", "value", "when"], user_column="who", timestamp_column="when")
    assert rows(own) == EXPECTED


def test_attributes_have_their_header_where_interactions_have_none(tmp_path):
    path = write(tmp_path / "x.csv", f"7,a,1.5,{NOON}\n")
    items = write(tmp_path / "items.csv", "item_id,title\na,Heat\n")
    assert read(path, columns=COLUMNS, items=items).items.to_pydict() == {"item_id": ["a"], "title": ["Heat"]}


def test_a_file_without_a_header_is_told_how_to_name_its_columns(tmp_path):
    path = write(tmp_path / "x.csv", "A03X,B04,0.5,1600302000\nA50X,B19,2.0,1600136000\n")
    named = {"user_column": "A03X", "item_column": "B04", "value_column": None, "timestamp_column": None}
    for options in ({}, named):  # whoever names the first row's values as columns would lose that row
        with pytest.raises(DataError) as error:
            rows(read(path, **options))
        assert str(error.value) == (
            f"{path}: seems to have no header, as line 1 is A03X, B04, 0.5, 1600302000. "
            "Name its columns, in this way: --data.columns user,item,value,timestamp"
        )


ITEM_ROWS = "a,Heat,1995,crime|drama\nb,Ronin,1998,crime\n"


def test_attributes_without_a_header_are_named_too(tmp_path):
    log = write(tmp_path / "x.csv", TEXT)
    users = write(tmp_path / "u.user", "7|24|M\n9|53|F\n")
    items = write(tmp_path / "items.csv", ITEM_ROWS)
    named = {"user_columns": ["user", "age", "sex"], "item_columns": ["item", "title", "year", "genres"]}
    found = read(log, users=users, items=items, **named)
    assert rows(found) == EXPECTED
    assert found.users.to_pydict() == {"user_id": [7, 9], "age": [24, 53], "sex": ["M", "F"]}
    assert found.items.to_pydict() == {
        "item_id": ["a", "b"],
        "title": ["Heat", "Ronin"],
        "year": [1995, 1998],
        "genres": [["crime", "drama"], ["crime"]],
    }
    own = read(log, items=items, item_columns=["item_id", "title", "year", "genres"])
    assert own.items.equals(found.items)


@pytest.mark.parametrize(
    ("side", "text", "line"),
    [
        (
            "item",
            ITEM_ROWS,
            "seems to have no header, as line 1 is a, Heat, 1995, crime|drama. Name its columns",
        ),
        ("user", "7,M\n9,F\n", "seems to have no header, as line 1 is 7, M. Name its columns, in this way"),
        ("item", "a,Heat\nb,Ronin\n", "no column 'item_id', found a, Heat. Name the column of item ids"),
    ],
)
def test_attributes_without_a_header_are_refused_with_an_option_that_reads_them(tmp_path, side, text, line):
    log, path = write(tmp_path / "x.csv", TEXT), write(tmp_path / "attributes.csv", text)
    with pytest.raises(DataError) as error:
        read(log, **{f"{side}s": path})
    assert str(error.value).startswith(f"{path}: {line}")
    option, _, names = str(error.value).rpartition(": ")[2].partition(" ")
    assert option == f"--data.{side}_columns"
    found = read(log, **{f"{side}s": path, f"{side}_columns": names.split(",")})
    assert getattr(found, f"{side}s").num_rows == 2


def test_names_of_attributes_that_do_not_fit_the_file_are_refused(tmp_path):
    log, items = write(tmp_path / "x.csv", TEXT), write(tmp_path / "items.csv", "a,Heat,1995\nb,Ronin,1998\n")
    with pytest.raises(DataError, match=r"items.csv:1: 3 fields, expected 2 .*columns: --data.item_columns;"):
        read(log, items=items, item_columns=["item", "title"])
    items = write(tmp_path / "headed.csv", "item_id,title\na,Heat\n")
    with pytest.raises(DataError) as error:
        read(log, items=items, item_columns=["item", "title"])
    assert str(error.value) == (
        f"{items}:1: item_id, title is a header. Leave --data.item_columns out, and name its column of ids: "
        "--data.item_column"
    )
    pd.DataFrame({"item_id": ["a", "b"]}).to_parquet(tmp_path / "items.parquet")
    with pytest.raises(
        DataError, match=r"--data.item_columns: has no effect on .*items.parquet, which is no"
    ):
        read(log, items=tmp_path / "items.parquet", item_columns=["item"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2\n", "user,item"),
        ("1,2,5\n", "user,item,value"),
        ("1,2,5,100,web\n", "user,item,value,timestamp,column_5"),
    ],
)
def test_the_option_for_interactions_has_a_name_for_every_field(tmp_path, text, names):
    path = write(tmp_path / "x.csv", text)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).endswith(f" --data.columns {names}")
    assert rows(read(path, columns=names.split(",")))["item_id"] == [2]


def test_column_numbers_and_a_year_among_names_are_a_header(tmp_path):
    path = write(tmp_path / "x.csv", "0,1\n5,6\n")
    assert rows(read(path, user_column="0", item_column="1")) == {"user_id": [5], "item_id": [6]}
    path = write(tmp_path / "y.csv", "user_id,item_id,2019\n5,6,1\n")
    assert rows(read(path)) == {"user_id": [5], "item_id": [6]}


def test_a_header_behind_names_that_are_given_is_no_row(tmp_path):
    with pytest.raises(DataError, match=r"x.csv:1: user_id, .* is a header. Leave --data.columns out"):
        read(write(tmp_path / "x.csv", TEXT), columns=COLUMNS)


@pytest.mark.parametrize("option", [{"columns": COLUMNS}, {"separator": "tab"}])
def test_what_changes_nothing_is_refused(tmp_path, option):
    pd.DataFrame(EXPECTED).to_parquet(tmp_path / "x.parquet")
    (name,) = option
    with pytest.raises(DataError, match=rf"--data.{name}: has no effect on .*x.parquet.*Leave it out"):
        read(tmp_path / "x.parquet", **option)


def test_an_optional_column_can_be_left_unread(tmp_path):
    path = write(tmp_path / "x.csv", "user_id,item_id,value,timestamp\n7,a,view,noon\n9,b,buy,night\n")
    with pytest.raises(DataError, match=r"value is 'view'.*the column unread: --data.value_column null"):
        rows(read(path))
    with pytest.raises(DataError, match=r"timestamp is 'noon'.*: --data.timestamp_column null"):
        rows(read(path, value_column=None))
    tables = read(path, value_column=None, timestamp_column=None)
    assert rows(tables) == {"user_id": [7, 9], "item_id": ["a", "b"]}


def test_text_in_a_named_encoding_is_read_and_otherwise_refused(tmp_path):
    path = write(tmp_path / "x.csv", "user_id,item_id\n1,b\n")
    items = write(tmp_path / "items.csv", "item_id,title\nb,Misérables\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"items.csv:2: title is .*no utf-8 text.*--data.encoding NAME"):
        read(path, items=items)
    assert read(path, items=items, encoding="cp1252").items["title"].to_pylist() == ["Misérables"]


def test_folders_of_key_and_value_are_columns_to_be_named(tmp_path):
    for day in (17, 18):
        folder = tmp_path / f"day=2020-09-{day}"
        folder.mkdir()
        parquet.write_table(pa.table({"user_id": [day], "item_id": [1]}), folder / "part-0.parquet")
    assert rows(read(tmp_path)) == {"user_id": [17, 18], "item_id": [1, 1]}
    found = rows(read(tmp_path, timestamp_column="day"))
    assert found["timestamp"] == [NOON - 43_200, NOON + 43_200]


def test_a_value_column_in_some_part_files_alone_is_refused_and_not_lost(tmp_path):
    write(tmp_path / "a.csv", "user_id,item_id\n1,2\n")
    write(tmp_path / "b.csv", "user_id,item_id,value\n1,2,3\n")
    with pytest.raises(DataError, match=r"a.csv: no column 'value', .* but b.csv has it.*value_column null"):
        read(tmp_path)
    assert rows(read(tmp_path, value_column=None)) == {"user_id": [1, 1], "item_id": [2, 2]}


def test_a_file_that_is_no_table_among_part_files_is_named(tmp_path):
    write(tmp_path / "part-0.csv", TEXT)
    write(tmp_path / "notes.md", "# Notes\n")
    with pytest.raises(DataError, match=r"notes.md: is not named as a table is .*Move it out of"):
        read(tmp_path)
    (tmp_path / "notes.md").rename(tmp_path / "_notes.md")
    assert rows(read(tmp_path)) == EXPECTED


def test_ids_of_uuid_type_are_texts_and_bare_bytes_are_refused_as_a_column(tmp_path):
    raw = pa.array([bytes(range(16))], pa.binary(16))
    parquet.write_table(pa.table({"user_id": raw.cast(pa.uuid()), "item_id": [1]}), tmp_path / "x.parquet")
    found = rows(read(tmp_path / "x.parquet"))
    assert found == {"user_id": ["00010203-0405-0607-0809-0a0b0c0d0e0f"], "item_id": [1]}
    parquet.write_table(pa.table({"user_id": raw, "item_id": [1]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r"user_id is a column of fixed_size_binary.*Write it as text"):
        read(tmp_path / "y.parquet")


def test_ids_as_floats_in_one_file_are_those_of_the_integers_in_another(tmp_path):
    train = write(tmp_path / "train.csv", "user_id,item_id\n3.0,1\n50.0,2\n")
    test = write(tmp_path / "test.csv", "user_id,item_id\n3,1\n50,2\n")
    tables = read(train, held_out=test)
    assert (
        rows(tables)["user_id"] == pa.Table.from_batches([*tables.held_out])["user_id"].to_pylist() == [3, 50]
    )
