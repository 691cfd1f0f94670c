"""Tables of your own: the same three interactions in each format, and what may be wrong with them."""

from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from trainer.errors import DataError
from trainer.sources.files import read_tables
from trainer.tables import column_rules
from trainer.tables import delimited as checked_rows
from trainer.tables.parquet_file import ParquetFile

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


def read(format, interactions, **options):
    return read_tables(format, interactions, **{**OPTIONS, **options})


def rows(batches):
    batches = list(batches)
    assert len({str(batch.schema) for batch in batches}) == 1
    return pa.Table.from_batches(batches).to_pydict()


EXPECTED = {
    "user_id": [7, 7, 9],
    "item_id": ["a", "b", "a"],
    "value": [1.5, 2.0, 4.0],
    "timestamp": [100, 200, 300],
}


def write(folder, format):
    frame = pd.DataFrame(EXPECTED)
    path = folder / f"interactions.{format}"
    if format == "parquet":
        frame.to_parquet(path)
    elif format == "recbole":
        path = folder / "x.inter"
        frame.columns = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
        frame.to_csv(path, sep="\t", index=False)
    else:
        frame.to_csv(path, sep="," if format == "csv" else "\t", index=False)
    return path


@pytest.mark.parametrize("format", ["parquet", "csv", "tsv", "recbole"])
def test_every_format_with_named_columns_gives_the_same(tmp_path, format):
    tables = read(format, write(tmp_path, format), held_out=write(tmp_path, format))
    assert rows(tables.interactions) == EXPECTED
    assert rows(tables.held_out) == EXPECTED
    assert tables.item_name == "item"


@pytest.mark.parametrize("format", ["parquet", "csv", "tsv", "recbole"])
def test_impressions_come_in_every_format_and_without_their_values(tmp_path, format):
    tables = read("auto", write(tmp_path, "csv"), impressions=write(tmp_path, format))
    assert rows(tables.interactions) == EXPECTED
    assert rows(tables.impressions) == {name: EXPECTED[name] for name in ("user_id", "item_id", "timestamp")}


def test_impressions_may_lack_times_and_weights_and_have_ids_of_other_types(tmp_path):
    (tmp_path / "log.csv").write_text("who,what,when,much\n1,2,100,3\n4,2,200,1\n")
    (tmp_path / "shown.csv").write_text("what,who\n5,guest\n2,1\n")
    names = {"user_column": "who", "item_column": "what", "timestamp_column": "when", "weight_column": "much"}
    tables = read("auto", tmp_path / "log.csv", impressions=tmp_path / "shown.csv", **names)
    assert rows(tables.interactions)["user_id"] == [1, 4]
    assert rows(tables.impressions) == {"user_id": ["guest", "1"], "item_id": [5, 2]}
    (tmp_path / "weighed.csv").write_text("what,who,much\n2,1,0.5\n")
    weighed = read("auto", tmp_path / "log.csv", impressions=tmp_path / "weighed.csv", **names)
    assert rows(weighed.impressions) == {"user_id": [1], "item_id": [2], "weight": [0.5]}


def test_impressions_without_a_header_have_the_columns_of_the_interactions(tmp_path):
    (tmp_path / "log.csv").write_text("1,2\n4,2\n")
    (tmp_path / "shown.csv").write_text("4,3\n")
    columns = {"columns": ["user", "item"]}
    tables = read("auto", tmp_path / "log.csv", impressions=tmp_path / "shown.csv", **columns)
    assert rows(tables.interactions) == {"user_id": [1, 4], "item_id": [2, 2]}
    assert rows(tables.impressions) == {"user_id": [4], "item_id": [3]}


def test_lightgcn_text_is_a_user_and_his_items_a_line(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("0 10 11\n1\n2  12 \n\n3 13\n")
    assert rows(read("lightgcn", path).interactions) == {"user_id": [0, 0, 2, 3], "item_id": [10, 11, 12, 13]}


def test_lightgcn_ids_may_be_strings_and_a_line_may_be_long(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("u1 " + " ".join(f"i{n}" for n in range(200_000)) + "\nu2 x\n")  # 1.4 MB in one line
    read_back = rows(read("lightgcn", path).interactions)
    assert len(read_back["item_id"]) == 200_001
    assert (read_back["user_id"][-1], read_back["item_id"][-1]) == ("u2", "x")


def test_lightgcn_text_has_no_attributes(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("0 1\n")
    with pytest.raises(DataError, match=r"--data.items: LightGCN text has no attributes"):
        read("lightgcn", path, items=path)


def test_part_files_are_read_in_the_order_of_their_names(tmp_path):
    for part, user in (("part-1", 2), ("part-0", 1), ("_part-2", 3)):
        parquet.write_table(pa.table({"user_id": [user], "item_id": [user]}), tmp_path / f"{part}.parquet")
    assert rows(read("parquet", tmp_path).interactions)["user_id"] == [1, 2]


def test_a_part_file_without_a_column_is_named(tmp_path):
    parquet.write_table(pa.table({"user_id": [1], "item_id": [1], "value": [1.0]}), tmp_path / "0.parquet")
    parquet.write_table(pa.table({"user_id": [1], "item_id": [1]}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1.parquet: no column 'value', found user_id, item_id"):
        rows(read("parquet", tmp_path).interactions)


@pytest.mark.parametrize("format", ["csv", "tsv", "recbole", "parquet"])
def test_a_folder_may_hold_part_files_of_any_format(tmp_path, format):
    path = write(tmp_path, format)
    path.rename(tmp_path / f"part-0{path.suffix}")
    assert rows(read("auto", tmp_path).interactions) == EXPECTED


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the folder holds no file. Put the part files there"):
        read("parquet", tmp_path)


def test_a_missing_column_is_answered_with_those_found_and_the_option(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user_id,movie_id\n1,2\n")
    with pytest.raises(DataError) as error:
        read("csv", path)
    assert str(error.value) == (
        f"{path}: no column 'item_id', found user_id, movie_id. "
        "Name the column of item ids: --data.item_column NAME; "
        "if line 1 is no header: --data.columns user,item"
    )
    assert rows(read("csv", path, item_column="movie_id").interactions) == {"user_id": [1], "item_id": [2]}


def test_a_value_column_that_was_asked_for_must_be_there(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"no column 'stars'.*--data.value_column"):
        read("csv", path, value_column="stars")


def test_weights_are_read_from_the_column_that_is_named(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user_id,item_id,w\n1,2,0.5\n1,3,0\n")
    found = rows(read("csv", path, weight_column="w").interactions)
    assert found == {"user_id": [1, 1], "item_id": [2, 3], "weight": [0.5, 0]}
    assert "weight" not in rows(read("csv", path).interactions)
    with pytest.raises(
        DataError, match=r"no column 'weights', found user_id, item_id, w.*--data.weight_column"
    ):
        read_one(read("csv", path, weight_column="weights"))


def read_one(tables):
    return next(tables.interactions)


@pytest.mark.parametrize("weight", ["-1", "heavy", "", "inf"])
def test_a_weight_is_a_number_from_0_up(tmp_path, weight):
    path = tmp_path / "x.csv"
    path.write_text(f"user_id,item_id,w\n1,2,1\n1,3,{weight}\n")
    with pytest.raises(DataError, match=r"x.csv:3: .*w.* expected a number from 0 up"):
        rows(read("csv", path, weight_column="w").interactions)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing.csv: there is no such file"):
        read("csv", tmp_path / "nothing.csv")


def test_a_late_string_makes_all_ids_strings(tmp_path, monkeypatch):
    monkeypatch.setattr(checked_rows, "BLOCK_BYTES", 100)
    path = tmp_path / "x.csv"
    path.write_text("user_id,item_id\n" + "".join(f"{n},1\n" for n in range(500)) + "x9,1\n")
    tables = read("csv", path)
    assert rows(tables.interactions)["user_id"] == [*map(str, range(500)), "x9"]


@pytest.mark.parametrize(
    "odd", ["007", "+7", "7.5", "07.0", "9223372036854775808", "0x7", "0xFFFFFFFFF", "-0", "-07"]
)
def test_what_is_no_canonical_int64_is_a_string(tmp_path, odd):
    path = tmp_path / "x.csv"
    path.write_text(f"user_id,item_id\n5,1\n{odd},1\n")
    assert rows(read("csv", path).interactions) == {"user_id": ["5", odd], "item_id": [1, 1]}


def test_each_side_has_a_type_of_its_own(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user_id,item_id\n5,1\n6,07\n7,2\n")
    assert rows(read("csv", path).interactions) == {"user_id": [5, 6, 7], "item_id": ["1", "07", "2"]}


def test_a_text_file_is_read_once_to_find_the_types_of_both_ids(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("user_id,item_id\n5,1\n")
    opened, open_file = [], checked_rows.TextFile.batches
    monkeypatch.setattr(
        checked_rows.TextFile, "batches", lambda self, names: opened.append(names) or open_file(self, names)
    )
    tables = read("csv", path)
    assert opened == [["user_id", "item_id"]]
    assert rows(tables.interactions) == {"user_id": [5], "item_id": [1]}


def test_a_part_file_without_rows_says_nothing_of_ids(tmp_path):
    parquet.write_table(pa.table({"user_id": [1], "item_id": [1]}), tmp_path / "0.parquet")
    none = pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())})
    parquet.write_table(none, tmp_path / "1.parquet")
    assert rows(read("parquet", tmp_path).interactions) == {"user_id": [1], "item_id": [1]}


def test_a_parquet_file_that_has_been_read_keeps_nothing_in_memory(tmp_path):
    ids = np.random.default_rng(0).integers(0, 2**40, 200_000)
    parquet.write_table(pa.table({"user_id": ids, "item_id": ids}), tmp_path / "x.parquet")
    file = ParquetFile(tmp_path / "x.parquet")
    before = pa.total_allocated_bytes()
    assert sum(len(batch) for batch in file.batches(["user_id", "item_id"])) == 200_000
    assert pa.total_allocated_bytes() - before < 100_000  # of 3.2 MB


def test_negative_and_largest_ids_are_integers(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user_id,item_id\n-3,9223372036854775807\n")
    assert rows(read("csv", path).interactions) == {"user_id": [-3], "item_id": [2**63 - 1]}


def test_ids_have_one_type_in_all_files(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id\n1,5\n")
    (tmp_path / "y.csv").write_text("user_id,item_id\n1,b\n")
    (tmp_path / "u.csv").write_text("user_id,age\n1,30\n")
    tables = read("csv", tmp_path / "x.csv", held_out=tmp_path / "y.csv", users=tmp_path / "u.csv")
    assert rows(tables.interactions) == {"user_id": [1], "item_id": ["5"]}
    assert rows(tables.held_out) == {"user_id": [1], "item_id": ["b"]}
    assert tables.users.to_pydict() == {"user_id": [1], "age": [30]}


def test_unsigned_ids_beyond_int64_are_strings(tmp_path):
    for big, expected in ((5, [1, 5]), (2**64 - 1, ["1", str(2**64 - 1)])):
        table = pa.table({"user_id": pa.array([1, big], pa.uint64()), "item_id": [1, 1]})
        parquet.write_table(table, tmp_path / "x.parquet")
        assert rows(read("parquet", tmp_path / "x.parquet").interactions)["user_id"] == expected


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "null"])
@pytest.mark.parametrize("other", ["1", "u1"])
def test_missing_ids_make_bad_rows(tmp_path, missing, other):
    path = tmp_path / "x.csv"
    path.write_text(f"user_id,item_id\n{other},1\n{missing},1\n")
    with pytest.raises(DataError, match=r"x.csv:3: user_id is missing, expected .*\(1 of 2 rows are bad\)"):
        rows(read("csv", path).interactions)
    tables = read("csv", path, bad_rows="skip")
    assert rows(tables.interactions)["item_id"] == [1]
    assert tables.bad_rows.skipped == 1


def test_missing_ids_of_parquet_make_bad_rows(tmp_path):
    # pandas keeps a column of integers with a gap as floats.
    pd.DataFrame({"user_id": [1.0, None, 2.5], "item_id": ["a", "b", ""]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet:2: user_id is missing.*\(2 of 3 rows are bad\)"):
        rows(read("parquet", tmp_path / "x.parquet").interactions)
    tables = read("parquet", tmp_path / "x.parquet", bad_rows="skip")
    assert rows(tables.interactions) == {"user_id": [1], "item_id": ["a"]}


def test_a_missing_id_among_fractional_numbers_is_the_only_value_converted_alone(tmp_path, monkeypatch):
    ids = np.arange(1000.0)
    ids[[3, 500, 700, 800, 900]] = [np.nan, np.nan, 0.5, -np.inf, 1e300]
    table = {"user_id": pa.array(ids, from_pandas=False), "item_id": np.arange(1000)}
    parquet.write_table(pa.table(table), tmp_path / "likes.parquet")
    alone = []
    convert_one = column_rules._convert_one
    monkeypatch.setattr(
        column_rules, "_convert_one", lambda value, type: alone.append(value) or convert_one(value, type)
    )
    source = read("parquet", tmp_path / "likes.parquet", bad_rows="skip")
    kept = [place for place in range(1000) if place not in (3, 500, 700, 800, 900)]
    assert rows(source.interactions) == {"user_id": kept, "item_id": kept}
    assert len(alone) == source.bad_rows.skipped == 5


def test_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id\n1,caf\xe9\n")
    with pytest.raises(
        DataError, match=r"x.csv:2: item_id is 'caf\ufffd', which is no utf-8 text.*--data.encoding"
    ):
        rows(read("csv", tmp_path / "x.csv").interactions)


@pytest.mark.parametrize("value", ["five", "nan", "inf", "1e300"])
def test_a_value_is_a_finite_number(tmp_path, value):
    (tmp_path / "x.csv").write_text(f"user_id,item_id,value\n1,1,-7.5\n1,2,{value}\n")
    with pytest.raises(DataError, match=r"x.csv:3: value is .*, expected a number \(1 of 2"):
        rows(read("csv", tmp_path / "x.csv").interactions)


def test_timestamps_may_be_fractions_or_dates(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id,timestamp\n1,1,881250949.7\n1,2,8.8e8\n")
    assert rows(read("csv", tmp_path / "x.csv").interactions)["timestamp"] == [881250949, 880000000]
    dates = pd.to_datetime(["1970-01-01 00:01:40.5", "1970-01-02 00:00:00.0"])  # 100.5 s and 86,400 s
    pd.DataFrame({"user_id": 1, "item_id": 1, "timestamp": dates}).to_parquet(tmp_path / "x.parquet")
    assert rows(read("parquet", tmp_path / "x.parquet").interactions)["timestamp"] == [100, 86_400]


def test_quotes_and_a_byte_order_mark_in_csv(tmp_path):
    (tmp_path / "x.csv").write_text('user_id,item_id\n"a,b",1\n"c ""d""",2\n', encoding="utf-8-sig")
    assert rows(read("csv", tmp_path / "x.csv").interactions)["user_id"] == ["a,b", 'c "d"']


def test_attributes_of_recbole_follow_their_declared_types(tmp_path):
    path = write(tmp_path, "recbole")
    (tmp_path / "x.item").write_text(
        "item_id:token\ttitle:token_seq\tyear:float\tprice:float\tclass:token_seq\tmaker:token\n"
        "a\tToy Story\t1995.0\t9.5\tDrama War\t7\n"
        "b\tHeat\t\t3\t\t8\n"
    )
    assert read("recbole", path, items=tmp_path / "x.item").items.to_pydict() == {
        "item_id": ["a", "b"],
        "title": ["Toy Story", "Heat"],
        "year": [1995, None],
        "price": [9.5, 3.0],
        "class": [["Drama", "War"], []],
        "maker": [7, 8],
    }


def test_attributes_of_csv_are_integers_or_strings(tmp_path):
    path = write(tmp_path, "csv")
    (tmp_path / "items.csv").write_text("title,item_id,size,zip\n300,a,1,01234\n12,b,,9\n")
    assert read("csv", path, items=tmp_path / "items.csv").items.to_pydict() == {
        "item_id": ["a", "b"],
        "title": ["300", "12"],
        "size": [1, None],
        "zip": ["01234", "9"],
    }


def test_attributes_of_parquet_keep_their_types(tmp_path):
    path = write(tmp_path, "parquet")
    table = pa.table(
        {
            "item_id": ["a", "b"],
            "genres": pa.array([["x", "y"], None], pa.large_list(pa.large_string())),
            "codes": pa.array([[1], []], pa.list_(pa.int16())),
            "year": [1995.0, float("nan")],
            "price": [0.5, 1.0],
            "kind": pa.array(["k", None]).dictionary_encode(),
            "when": pa.array([0, 1], pa.timestamp("s")),
            "nested": [{"a": 1}, {"a": 2}],
        }
    )
    parquet.write_table(table, tmp_path / "items.parquet")
    source = read("parquet", path, items=tmp_path / "items.parquet")
    items = source.items
    assert items.to_pydict() == {
        "item_id": ["a", "b"],
        "genres": [["x", "y"], None],
        "codes": [[1], []],
        "year": [1995, None],
        "price": [0.5, 1.0],
        "kind": ["k", None],
        "when": [datetime(1970, 1, 1), datetime(1970, 1, 1, 0, 0, 1)],
    }
    assert items.schema.field("year").type == pa.int64()
    assert source.remarks["item"] == {
        "nested": "left out, as struct<a: int64> is no number, text, truth value, time, or list of numbers "
        "or texts"
    }
    assert items.schema.field("genres").type == pa.list_(pa.string())


def test_a_bad_row_of_attributes_is_named(tmp_path):
    path = write(tmp_path, "csv")
    (tmp_path / "items.csv").write_text("item_id,size\na,1\nb\n")
    with pytest.raises(DataError, match=r"items.csv:3: 1 field, expected 2"):
        read("csv", path, items=tmp_path / "items.csv")
    tables = read("csv", path, items=tmp_path / "items.csv", bad_rows="skip")
    assert tables.items.to_pydict() == {"item_id": ["a"], "size": [1]}


def test_interactions_of_a_type_that_is_no_id_are_refused(tmp_path):
    parquet.write_table(pa.table({"user_id": [[1]], "item_id": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet: user_id is a column of list.*, expected text or whole"):
        rows(read("parquet", tmp_path / "x.parquet").interactions)


def test_every_format_of_the_schema_has_an_entry() -> None:
    from typing import get_args, get_type_hints

    from trainer.config.schema import DataConfig
    from trainer.sources.files import FORMATS

    assert ["auto", *FORMATS] == [*get_args(get_type_hints(DataConfig)["format"])]
