"""Official MovieLens files, small made-up ones in their format and the real ones where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from trainer.errors import DataError
from trainer.sources import movielens
from trainer.sources.movielens import read_movielens
from trainer.tables import delimited as checked_rows

DATA = Path(os.environ.get("SHARDTOWER_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not at hand")
    return DATA / name


def rows(tables):
    return pa.Table.from_batches(list(tables.interactions)).to_pydict()


def write_1m(folder: Path, ratings: str) -> Path:
    (folder / "ratings.dat").write_text(ratings)
    return folder


GOOD = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"


def test_ratings_of_ml_1m_keep_their_order(tmp_path):
    tables = read_movielens("ml-1m", write_1m(tmp_path, GOOD), "error")
    assert rows(tables) == {
        "user_id": [1, 1, 2],
        "item_id": [1193, 661, 1193],
        "value": [5.0, 3.0, 4.0],
        "timestamp": [978300760, 978302109, 978298413],
    }
    assert tables.users is None
    assert tables.items is None
    assert tables.item_name == "movie"


def test_attributes_of_ml_1m(tmp_path):
    write_1m(tmp_path, GOOD)
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::V3N4P\n")
    (tmp_path / "movies.dat").write_bytes(
        "1193::Star Wars: Episode IV (1977)::Action|Sci-Fi\n661::Misérables, Les::Drama\n".encode("latin-1")
    )
    tables = read_movielens("ml-1m", tmp_path, "error")
    assert tables.users.to_pylist() == [
        {"user_id": 1, "gender": "F", "age": 1, "occupation": 10, "zip_prefix": "48"},
        {"user_id": 2, "gender": "M", "age": 56, "occupation": 16, "zip_prefix": "V3"},
    ]
    assert tables.items.to_pylist() == [
        {
            "item_id": 1193,
            "title": "Star Wars: Episode IV (1977)",
            "genres": ["Action", "Sci-Fi"],
            "release_year": 1977,
        },
        {"item_id": 661, "title": "Misérables, Les", "genres": ["Drama"], "release_year": None},
    ]


def test_ages_of_ml_100k_fall_into_the_groups_of_ml_1m(tmp_path):
    (tmp_path / "u.data").write_text("1\t1\t3\t881250949\n")
    # Groups begin at 1, 18, 25, 35, 45, 50 and 56.
    ages = {7: 1, 17: 1, 18: 18, 24: 18, 25: 25, 49: 45, 50: 50, 55: 50, 56: 56, 73: 56}
    (tmp_path / "u.user").write_text("".join(f"{age}|{age}|M|writer|32067\n" for age in ages))
    assert read_movielens("ml-100k", tmp_path, "error").users["age"].to_pylist() == list(ages.values())


def test_genres_and_year_of_ml_100k_come_from_flags_and_date(tmp_path):
    (tmp_path / "u.data").write_text("1\t1\t3\t881250949\n")
    none = "|".join("0" * 19)
    (tmp_path / "u.item").write_bytes(
        f"1|Nénette (1995)|22-Jan-1996||http://x|0|1|{'|'.join('0' * 16)}|1\n"
        f"2|Dated only|01-Feb-1996|||{none}\n"
        f"3|unknown||||1|{'|'.join('0' * 18)}\n".encode("latin-1")
    )
    assert read_movielens("ml-100k", tmp_path, "error").items.to_pylist() == [
        {"item_id": 1, "title": "Nénette (1995)", "genres": ["Action", "Western"], "release_year": 1995},
        {"item_id": 2, "title": "Dated only", "genres": [], "release_year": 1996},
        {"item_id": 3, "title": "unknown", "genres": [], "release_year": None},
    ]


@pytest.mark.parametrize("name", ["ml-20m", "ml-25m", "ml-32m", "ml-latest-small"])
def test_csv_releases_with_quoted_titles_and_half_stars(tmp_path, name):
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n7,10,0.5,9\n"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n31,"American President, The (1995)",Comedy|Drama\n10,Odd,(no genres listed)\n'
    )
    tables = read_movielens(name, tmp_path, "error")
    assert rows(tables) == {
        "user_id": [1, 7],
        "item_id": [31, 10],
        "value": [2.5, 0.5],
        "timestamp": [1260759144, 9],
    }
    assert tables.items["title"].to_pylist() == ["American President, The (1995)", "Odd"]
    assert tables.items["genres"].to_pylist() == [["Comedy", "Drama"], []]


def test_a_csv_without_its_header_is_refused(tmp_path):
    (tmp_path / "ratings.csv").write_text("1,31,2.5,1260759144\n")
    with pytest.raises(DataError, match="no column 'userId'"):
        rows(read_movielens("ml-20m", tmp_path, "error"))


def test_ml_10m_is_utf_8_and_has_no_users(tmp_path):
    write_1m(tmp_path, "1::122::4.5::838985046\r\n")  # with the line ends of Windows
    (tmp_path / "movies.dat").write_text("122::Café (1992)::Comedy\n", encoding="utf8")
    tables = read_movielens("ml-10m", tmp_path, "error")
    assert rows(tables)["value"] == [4.5]
    assert tables.items["title"].to_pylist() == ["Café (1992)"]
    assert tables.users is None


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("1::2::3", "3 fields, expected 4"),
        ("1::2::3::4::5", "5 fields, expected 4"),
        ("1::2:x:3::4", "3 fields, expected 4"),
        ("", "user_id is '', expected a whole number"),
        ("1::2::five::4", "rating is 'five', expected a number from 0.5 to 5"),
        ("1::2::nan::4", "rating is 'nan', expected a number from 0.5 to 5"),
        ("1::2::::4", "rating is '', expected a number from 0.5 to 5"),
        ("1::2::5.5::4", "rating is '5.5', expected a number from 0.5 to 5"),
        ("1::2::0::4", "rating is '0', expected a number from 0.5 to 5"),
        ("1::2::inf::4", "rating is 'inf', expected a number from 0.5 to 5"),
        ("-1::2::3::4", "user_id is '-1', expected a whole number from 0 to 9223372036854775807"),
        ("1::1.5::3::4", "movie_id is '1.5', expected a whole number from 0 to 9223372036854775807"),
        ("1::9223372036854775808::3::4", "movie_id is '9223372036854775808', expected a whole number"),
        ("1::2::3::noon", "timestamp is 'noon', expected a time"),
        ("1::2::3::inf", "timestamp is 'inf', expected a time"),
        ("1::\xff::3::4", "movie_id is '\ufffd', expected a whole number"),
    ],
)
def test_a_broken_line_is_named_with_its_number(tmp_path, line, fault):
    (tmp_path / "ratings.dat").write_bytes(f"{GOOD}{line}\n{GOOD}".encode("latin-1"))  # it is line 4 of 7
    with pytest.raises(DataError) as error:
        rows(read_movielens("ml-1m", tmp_path, "error"))
    assert str(error.value).startswith(f"{tmp_path / 'ratings.dat'}:4: {fault}")
    assert "(1 of 7 rows are bad)" in str(error.value)
    assert str(error.value).endswith("Skip such lines: --data.bad_rows skip")
    assert "\n" not in str(error.value)

    tables = read_movielens("ml-1m", tmp_path, "skip")
    assert rows(tables)["item_id"] == [1193, 661, 1193] * 2
    assert tables.bad_rows.skipped == 1


def test_the_largest_id_and_the_last_line_without_an_end_are_read(tmp_path):
    tables = read_movielens("ml-1m", write_1m(tmp_path, "0::9223372036854775807::3::4"), "error")
    assert rows(tables)["item_id"] == [2**63 - 1]


def test_bad_lines_are_named_and_counted_over_blocks(tmp_path, monkeypatch):
    # Blocks of about 50 lines; the first value fault stands before the first line of a wrong width,
    # and both before others, so that the line number has to count what was left out.
    monkeypatch.setattr(checked_rows, "BLOCK_BYTES", 1000)
    lines = [f"{n}::{n}::4::978300760" for n in range(1, 1001)]
    lines[498] = "499::499::4"  # line 499
    lines[500] = "501::501::six::978300760"  # line 501
    lines[997] = "998::998::seven::978300760"
    write_1m(tmp_path, "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"ratings.dat:499: 3 fields.*\(3 of 1,000 rows are bad\)"):
        rows(read_movielens("ml-1m", tmp_path, "error"))
    lines[498] = "499::499::4::978300760"
    lines[990] = "991"
    write_1m(tmp_path, "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"ratings.dat:501: rating is 'six'.*\(3 of 1,000 rows are bad\)"):
        rows(read_movielens("ml-1m", tmp_path, "error"))
    lines[10] = "a line too short"  # moves no number
    write_1m(tmp_path, "\n".join(lines) + "\n")
    tables = read_movielens("ml-1m", tmp_path, "skip")
    expected = [n for n in range(1, 1001) if n not in (11, 501, 991, 998)]
    assert rows(tables)["user_id"] == expected
    assert tables.bad_rows.skipped == 4


def test_a_value_fault_behind_a_short_line_has_its_own_number(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1\n1,2,nine,4\n")
    tables = read_movielens("ml-20m", tmp_path, "error")
    with pytest.raises(DataError, match=r"ratings.csv:2: 2 fields"):
        rows(tables)
    file = checked_rows.TextFile(tmp_path / "ratings.csv", ",")
    list(file.batches(["userId"]))
    assert file.position(0) == 3  # the header, the short line, then this


def test_an_empty_file_is_refused_whatever_the_policy(tmp_path):
    with pytest.raises(DataError, match=r"ratings.dat: the file is empty"):
        read_movielens("ml-1m", write_1m(tmp_path, ""), "skip")


def test_a_missing_file_is_named_with_its_release(tmp_path):
    with pytest.raises(DataError, match=r"u\.data: there is no such file.*MovieLens release ml-100k"):
        read_movielens("ml-100k", tmp_path, "error")


def test_parquet_stands_in_for_the_ratings(tmp_path):
    write_1m(tmp_path, "broken")
    table = pa.table({"user_id": pa.array([3, 1], pa.int32()), "movie_id": pa.array([5, 6], pa.int32())})
    parquet.write_table(table, tmp_path / "interactions.parquet")
    assert rows(read_movielens("ml-1m", tmp_path, "error")) == {"user_id": [3, 1], "item_id": [5, 6]}


def test_a_bad_row_of_parquet_is_named_with_its_number(tmp_path):
    table = pa.table({"user_id": [3, None, 4], "movie_id": [5, 6, -7], "rating": [4.0, 4.0, float("nan")]})
    parquet.write_table(table, tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match=r"interactions.parquet:2: user_id is missing.*\(2 of 3 rows are bad"):
        rows(read_movielens("ml-1m", tmp_path, "error"))
    assert rows(read_movielens("ml-1m", tmp_path, "skip")) == {"user_id": [3], "item_id": [5], "value": [4.0]}


def test_a_stream_that_is_cut_between_two_colons_is_read_whole():
    transform = checked_rows._with_unit_separators()
    pieces = [b"1::2:", b":3::4", b":", b":5::6:", b""]
    assert b"".join(transform(pa.py_buffer(piece)) for piece in pieces) == b"1\x1f2\x1f3\x1f4\x1f5\x1f6:"


def test_pairs_of_colons_are_replaced_as_bytes_replace_them():
    generator = np.random.default_rng(0)
    for length in range(40):
        text = bytes(generator.choice(list(b"::a"), length).astype(np.uint8))
        assert checked_rows._with_unit_separator(text) == text.replace(b"::", b"\x1f")


@pytest.mark.real_data
def test_real_ml_100k():
    folder = real("ml-100k")
    tables = read_movielens("ml-100k", folder, "error")
    read = pa.Table.from_batches(list(tables.interactions))
    expected = np.loadtxt(folder / "u.data", dtype=np.int64)
    assert np.array_equal(np.stack([read[name].to_numpy() for name in read.column_names], 1), expected)
    assert tables.users.num_rows == 943
    assert tables.items.num_rows == 1682
    assert tables.items["release_year"].null_count == 1  # the film called `unknown`
    # The README of ml-100k: genres as they are counted by u.item's flags.
    flags = [line.split("|")[5:] for line in (folder / "u.item").read_text("latin-1").splitlines()]
    known = sum(flag == "1" for row in flags for flag in row[1:])
    assert sum(map(len, tables.items["genres"].to_pylist())) == known


@pytest.mark.real_data
def test_real_ml_1m():
    tables = read_movielens("ml-1m", real("ml-1m"), "error")
    assert sum(map(len, tables.interactions)) == 1_000_209
    assert tables.users.num_rows == 6040
    assert set(tables.users["age"].to_pylist()) == set(movielens.AGE_GROUPS.tolist())
    assert tables.items.num_rows == 3883
    assert tables.items["release_year"].null_count == 0


@pytest.mark.real_data
def test_real_ml_latest_small():
    tables = read_movielens("ml-latest-small", real("ml-latest-small"), "error")
    read = pa.Table.from_batches(list(tables.interactions))
    assert read.num_rows == 100_004
    assert set(read["value"].to_pylist()) == {half / 2 for half in range(1, 11)}
    assert tables.items.num_rows == 9125
