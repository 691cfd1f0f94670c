"""Text in blocks: headers in the middle are left out and counted, and lines keep their numbers."""

import pytest

from trainer.errors import DataError
from trainer.tables.delimited import LightGCNFile, TextFile


def rows(file, names=("user_id", "item_id")):
    return [row for batch in file.batches([*names]) for row in zip(*batch.to_pydict().values(), strict=True)]


def test_a_header_in_the_middle_is_left_out_and_counted(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id\n1,2\nuser_id,item_id\n3,4\nuser_id,item_id\n5,6\n")
    file = TextFile(tmp_path / "x.csv", ",")
    for _ in range(2):  # a file may be read twice
        assert rows(file) == [("1", "2"), ("3", "4"), ("5", "6")]
        assert file.remarks() == ["2 lines that repeat the header were left out"]
    assert [file.position(row) for row in range(3)] == [2, 4, 6]


def test_lines_behind_a_header_in_the_middle_and_a_broken_one_keep_their_numbers(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id\nbroken\n1,2\nuser_id,item_id\na,b,c\n3,4\n")
    file = TextFile(tmp_path / "x.csv", ",")
    assert rows(file) == [("1", "2"), ("3", "4")]
    assert file.malformed == [2, 5]
    assert [file.position(row) for row in range(2)] == [3, 6]


def test_a_header_in_the_middle_is_found_in_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.tables.delimited.BLOCK_BYTES", 100)
    lines = [f"{n},{n}\n" for n in range(200)]
    (tmp_path / "x.csv").write_text("".join(["user_id,item_id\n", *lines, "user_id,item_id\n", *lines]))
    file = TextFile(tmp_path / "x.csv", ",")
    assert rows(file) == [(str(n), str(n)) for n in range(200)] * 2
    assert (file.position(199), file.position(200)) == (201, 203)


def test_a_header_in_another_order_in_the_middle_is_refused_with_its_line(tmp_path):
    # The fields of the rows below it stand in its order, so that leaving it out would swap users and items.
    (tmp_path / "x.csv").write_text("user_id,item_id\n1,2\nitem_id,user_id\n3,4\n")
    with pytest.raises(DataError, match=r"x.csv:3: a header in another order \(item_id, user_id\)"):
        rows(TextFile(tmp_path / "x.csv", ","))


def test_one_name_alone_in_a_row_is_a_value(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id\nuser_id,7\n")
    assert rows(TextFile(tmp_path / "x.csv", ",")) == [("user_id", "7")]


def test_spaces_around_fields_are_left_out_where_they_belong_to_the_form(tmp_path):
    (tmp_path / "x.csv").write_text('user_id, item_id\n1, a\n2,\n3, "b"\n')
    file = TextFile(tmp_path / "x.csv", ",", nulls=("",), quoted=True, trimmed=True)
    assert rows(file) == [("1", "a"), ("2", None), ("3", "b")]
    assert rows(TextFile(tmp_path / "x.csv", ","), ["user_id", " item_id"])[0] == ("1", " a")


def test_columns_of_folders_stand_in_every_row(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id\n1,2\nuser_id,item_id\n3,4\n")
    file = TextFile(tmp_path / "x.csv", ",")
    file.add_constants({"day": "17", "item_id": "the file's own comes first"})
    assert rows(file, ["day", "item_id"]) == [("17", "2"), ("17", "4")]
    assert rows(file, ["day"]) == [("17",), ("17",)]


def test_a_line_that_does_not_end_is_told_without_words_of_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.tables.delimited.BLOCK_BYTES", 1 << 20)
    (tmp_path / "x.csv").write_text('user_id,item_id\n1,"' + "x\n" * (2 << 20))
    message = r"x.csv: a line is longer than 1 MiB, or a quote is not closed. Mend the file"
    with pytest.raises(DataError, match=message):
        rows(TextFile(tmp_path / "x.csv", ","))


@pytest.mark.parametrize("header", ["user item", "user_id item_id", "UserID ItemID"])
@pytest.mark.parametrize("before", ["", "0 1 2\n1\n"])
def test_a_header_in_lightgcn_text_is_refused_with_its_line(tmp_path, header, before):
    (tmp_path / "x.txt").write_text(f"{before}{header}\n0 1\n")
    line = before.count("\n") + 1
    with pytest.raises(DataError, match=rf"x.txt:{line}: {header} is a header.*Remove the line"):
        rows(LightGCNFile(tmp_path / "x.txt"))


def test_bytes_that_an_encoding_does_not_have_are_one_line(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id\n" + b"1,2\n" * 50_000 + b"3,\x81\n")
    with pytest.raises(DataError, match=r"x.csv: is no cp1252 text \(byte 0x81.*--data.encoding NAME$"):
        rows(TextFile(tmp_path / "x.csv", ",", encoding="cp1252"))
