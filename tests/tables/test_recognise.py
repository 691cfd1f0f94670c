"""A file is taken as what stands in it: compression, encoding, format, separator, quotes, header."""

import bz2
import gzip
import io
import zipfile

import pyarrow as pa
import pytest

from trainer.errors import DataError
from trainer.tables.recognise import find_form, format_of, is_row, read_sample

TEXT = "user_id,item_id\n1,ä\n"


# Both without the time of day: they stand in the names of tests, which several processes must agree on.
def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return file.getvalue()


def gzipped(content):
    return gzip.compress(content, mtime=0)


def write(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        gzipped(TEXT.encode()),
        gzipped(TEXT[:10].encode()) + gzipped(TEXT[10:].encode()),  # as parallel writers do
        bz2.compress(TEXT.encode()),
        pa.Codec("zstd").compress(TEXT.encode(), asbytes=True),
        zipped(a=TEXT),
        zipped(a=TEXT, __MACOSX_a="x"),
    ],
)
def test_text_is_the_same_plain_and_compressed_whatever_the_files_name(tmp_path, content):
    assert read_sample(write(tmp_path, "x.csv", content), "utf-8") == TEXT


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "latin-1"])
def test_text_in_a_named_encoding_is_the_same(tmp_path, encoding):
    assert read_sample(write(tmp_path, "x.csv", TEXT.encode(encoding)), encoding) == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), "is UTF-16 text, read as utf-8. Name it: --data.encoding utf-16"),
        (TEXT.encode("utf-16-le"), "holds zero bytes.*--data.encoding utf-16"),
        (b"", "the file is empty"),
        (b" \n \n", "the file is empty"),
        (zipped(a=TEXT, b=TEXT), r"holds 2 files \(a, b\), expected one"),
        (zipped(**{"[Content_Types].xml": "", "xl": ""}), "is an Excel workbook; save its sheet as CSV"),
        (zipped(a=TEXT)[:40], "cannot be read"),
        (gzipped(TEXT.encode() * 999)[:-20], "cannot be read .*Put the whole file there"),
        (b"PAR1", "this is Parquet; name it: --data.format parquet"),
        (b"SQLite format 3\0", "this is an SQLite data base"),
        (b"\xfd7zXZ\0", "this is compressed by xz"),
        (b'{"user_id": 1}\n', "this is JSON"),
        (b"sep=;\nuser_id;item_id\n1;2\n", "this is text behind a line `sep=` for Excel; remove that line"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"x.csv: .*{message}") as error:
        read_sample(write(tmp_path, "x.csv", content), "utf-8")
    assert "\n" not in str(error.value)


def test_an_encoding_without_the_files_characters_is_refused(tmp_path):
    path = write(tmp_path, "x.csv", b"user_id\n\x81\n")
    with pytest.raises(DataError, match=r"x.csv: is no cp1252 text \(byte 0x81: .*--data.encoding NAME"):
        read_sample(path, "cp1252")


@pytest.mark.parametrize(
    ("sample", "separator", "first"),
    [
        ("a,b\n1,2\n", ",", ("a", "b")),
        ("a\tb\n1\t2\n", "\t", ("a", "b")),
        ("a;b\n1;0,5\n", ";", ("a", "b")),
        ("3;124;0,5\n4;125;1,5\n", ";", ("3", "124", "0,5")),
        ("a::b\n1::2\n", "::", ("a", "b")),
        ("a|b\n1|2\n", "|", ("a", "b")),
        ("a b\n1 2\n", " ", ("a", "b")),
        ("1\x012\n3\x014\n", "\x01", ("1", "2")),
        ("a,time\n1,2020-09-17 00:20:00\n", ",", ("a", "time")),
        ("id,genres\n1,Drama|War|Art\n2,War|Art|Drama\n", ",", ("id", "genres")),
        ("id\ttitle\n1\tHeat, the; end\n", "\t", ("id", "title")),
        ('id,title\n1,"a;b;c"\n2,"d;e;f"\n', ",", ("id", "title")),
        ("user id\titem id\n1\t2\n", "\t", ("user id", "item id")),
        ("a, b\n1, 2\n", ",", ("a", "b")),
        ("a\n1\n", ",", ("a",)),
    ],
)
def test_the_separator_is_the_one_that_cuts_every_line_alike(sample, separator, first):
    form = find_form(sample, ",")
    assert (form.separator, form.first) == (separator, first)


def test_where_two_separators_would_do_the_formats_own_is_taken():
    sample = "a;b,c\n1;2,3\n"
    assert [find_form(sample, each).separator for each in (",", ";")] == [",", ";"]


def test_fields_of_tsv_are_quoted_only_where_the_names_are():
    assert find_form('"a"\t"b"\n"1"\t"x"\n', "\t").quoted
    assert not find_form('a\tb\n"Heat"\t"x"\n', "\t").quoted
    assert not find_form('a\tb\n1\t5" disk\n', "\t").quoted


def test_a_number_of_columns_that_is_known_rules_out_other_separators():
    assert find_form("1,2;3\n4,5;6\n", ",", width=3).separator == ","
    assert find_form("1 2,3 4 5\n", ",", width=4).separator == " "


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("x.csv", "a,b\n1,2\n", "csv"),
        ("x.tsv", "a\tb\n1\t2\n", "tsv"),
        ("x.inter", "user_id:token\titem_id:token\n1\t2\n", "recbole"),
        ("x.csv", "user_id:token,item_id:token\n1,2\n", "recbole"),
        ("x", "a,b\n1,2\n", "csv"),
        ("x.csv.gz", gzipped(b"a,b\n1,2\n"), "csv"),
        ("train.txt", "0 1 2\n1 3\n2 1 2 3\n", "lightgcn"),
        ("train.txt", "0 1\n1 3\n", "csv"),  # pairs: both would do
        ("x.csv", b"PAR1...", "parquet"),
        ("x.pq", b"PAR1...", "parquet"),
    ],
)
def test_a_format_is_known_by_content_and_then_by_name(tmp_path, name, text, format):
    assert format_of(write(tmp_path, name, text), "utf-8") == format


@pytest.mark.parametrize("names", [["A03X", "B01", "0.5"], ["1", "2"], ["u", "2020-09-17 00:20:00"]])
def test_a_first_line_with_values_is_a_row(names):
    assert is_row(names)


@pytest.mark.parametrize("names", [["user_id", "item_id"], ["0", "1", "2"], ["a1", "b2"]])
def test_names_and_column_numbers_are_no_row(names):
    assert not is_row(names)
