"""What a file is, by its first bytes and lines: compression, encoding, format, separator, quotes, header."""

import codecs
import csv
import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from trainer.config.validation import SEPARATORS
from trainer.errors import DataError

UNREADABLE = (OSError, EOFError, pa.ArrowException)
"""What libraries raise for files that they cannot read, besides errors of encoding."""
SAMPLE_BYTES = 1 << 16
SAMPLE_LINES = 100

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""Compressions that are read, by the first bytes of a file."""
ZIP, PARQUET = b"PK\x03\x04", b"PAR1"
FOREIGN = {
    PARQUET: "Parquet; name it: --data.format parquet",
    b"ARROW1": "Arrow IPC (Feather); write it as Parquet",
    b"ORC": "ORC; write it as Parquet",
    b"Obj\x01": "Avro; write it as Parquet",
    b"SQLite format 3": "an SQLite data base; write its table as Parquet",
    b"\xfd7zXZ": "compressed by xz; compress it by gzip or zstd",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save its sheet as CSV",
    b"\x89HDF": "HDF5; write its table as Parquet",
    b"\x93NUMPY": "a NumPy array; write it as Parquet with named columns",
    b"%PDF": "PDF; write its table as CSV",
    b'{"': "JSON; write it as Parquet or CSV",
    b"[{": "JSON; write it as Parquet or CSV",
    b"sep=": "text behind a line `sep=` for Excel; remove that line",
}
"""What is no delimited text, by the first bytes of the (uncompressed) file."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

QUOTED = (",", ";")  # with these, fields may always stand in double quotes
RECBOLE_TYPES = {"token", "token_seq", "float", "float_seq"}
SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".inter": "recbole",
    ".user": "recbole",
    ".item": "recbole",
    ".link": "recbole",
}
"""Formats by the ending of a file's name, which what stands in it overrules."""
OTHER_SUFFIXES = (".txt", ".dat", ".data", ".ratings", ".edges")
"""Endings of tables that do not tell their format."""
COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".zip", ".lz4")
NUMBER = re.compile(r"[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}.*")


@dataclass(frozen=True)
class TextForm:
    """How the lines of a text are cut into fields.

    Attributes:
        separator: One character, or `::`.
        quoted: Whether fields may stand in double quotes.
        trimmed: Whether spaces around fields belong to the form and not to the values.
        first: Fields of the first line.
    """

    separator: str
    quoted: bool = False
    trimmed: bool = False
    first: tuple[str, ...] = ()

    @property
    def decimal_comma(self) -> bool:
        """Whether a number may be written 0,5, as spreadsheets do where they separate by semicolons."""
        return self.separator == ";"


def open_stream(path: Path, encoding: str) -> pa.NativeFile:
    """Open a file, decompressed and as UTF-8.

    Raises:
        DataError: It cannot be opened, or is an archive of several files.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        stream = _unzipped(path) if head.startswith(ZIP) else pa.OSFile(str(path))
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}). Name a readable file") from None
    for magic, compression in COMPRESSIONS.items():
        if head.startswith(magic) and (compression != "bz2" or head[3:4].isdigit()):
            stream = pa.CompressedInputStream(stream, compression)
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        return stream  # the parser leaves out a byte order mark
    return pa.transcoding_input_stream(stream, encoding, "utf-8")


def _unzipped(path: Path) -> pa.NativeFile:
    archive = zipfile.ZipFile(path)
    members = [name for name in archive.namelist() if not name.startswith("__MACOSX") and name[-1] != "/"]
    if "[Content_Types].xml" in members:
        raise DataError(f"{path}: is an Excel workbook; save its sheet as CSV")
    if len(members) != 1:
        shown = ", ".join(members[:3]) + (", ..." if len(members) > 3 else "")
        raise DataError(
            f"{path}: the archive holds {len(members)} files ({shown}), expected one. Unpack it and name one"
        )
    return pa.PythonFile(archive.open(members[0]), mode="r")


def reason(error: Exception) -> str:
    """Return an error of a library as one line without a full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split()).rstrip(".")


def read_sample(path: Path, encoding: str) -> str:
    """Return whole lines from the beginning of a text file, about SAMPLE_BYTES of them.

    Raises:
        DataError: It is empty, cannot be read, or is no text in that encoding.
    """
    try:
        with open_stream(path, encoding) as stream:
            data = stream.read(SAMPLE_BYTES)
    except UnicodeError as error:
        raise DataError(wrong_encoding(path, encoding, error)) from None
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}). Put the whole file there") from None
    if data[:2] in UTF_16:
        raise DataError(f"{path}: is UTF-16 text, read as {encoding}. Name it: --data.encoding utf-16")
    for magic, found in FOREIGN.items():
        if data.startswith(magic):
            raise DataError(f"{path}: expected delimited text, but this is {found}")
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    if "\0" in text:
        raise DataError(
            f"{path}: holds zero bytes, expected {encoding} text. Name its encoding (--data.encoding utf-16) "
            "or write it as text or Parquet"
        )
    if not text.strip():
        raise DataError(f"{path}: the file is empty, expected a line a row. Put the whole file there")
    whole = max(text.rfind("\n"), text.rfind("\r")) if len(data) == SAMPLE_BYTES else len(text)
    return text[: whole + 1] if whole > 0 else text


def wrong_encoding(path: Path, encoding: str, error: UnicodeError) -> str:
    """Return the message for bytes that an encoding has no character for."""
    shown = ""
    if isinstance(error, UnicodeDecodeError):
        shown = f" (byte {error.object[error.start]:#04x}: {error.reason})"
    return f"{path}: is no {encoding} text{shown}. Name its encoding: --data.encoding NAME"


def find_form(sample: str, preferred: str, width: int | None = None) -> TextForm:
    """Return the form under which most lines have as many fields as the first one, then the widest.

    Args:
        sample: Whole lines.
        preferred: The separator that is taken where nothing tells them apart.
        width: Fields of a line, where it is known.
    """
    best, best_score = split_as(sample, preferred)[0], (0.0, 0)
    for separator in sorted(SEPARATORS.values(), key=lambda each: each != preferred):
        form, widths = split_as(sample, separator)
        expected = width or len(form.first)
        score = sum(each == expected for each in widths) / len(widths), expected
        if min(expected, len(form.first)) > 1 and score > best_score:
            best, best_score = form, score
    return best


def split_as(sample: str, separator: str) -> tuple[TextForm, list[int]]:
    """Return the form with a given separator, and the number of fields of each line."""
    quoted = separator in QUOTED
    records = _records(sample, separator, quoted)
    if not quoted and separator != "::":
        # A lone quote may stand anywhere; a writer who quotes at all quotes the names too.
        quoted = any(_is_quoted(field) for field in records[0]) and all(
            _is_quoted(field) or NUMBER.fullmatch(field) for field in records[0]
        )
        records = _records(sample, separator, quoted) if quoted else records
    trimmed = separator != " " and any(field != field.strip() for field in records[0])
    first = tuple(field.strip() if trimmed else field for field in records[0])
    return TextForm(separator, quoted, trimmed, first), [len(record) for record in records]


def _is_quoted(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"'


def _records(sample: str, separator: str, quoted: bool) -> list[list[str]]:
    if separator == "::":
        return [line.split("::") for line in sample.splitlines()[:SAMPLE_LINES]]
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, quoting=quoting)
    try:
        records = list(islice(lines, SAMPLE_LINES))
    except csv.Error:
        return [[sample]]
    return [record for record in records if record] or [[sample]]


def format_of(path: Path, encoding: str) -> str:
    """Return the format of a file: what stands in it tells first, then its name.

    Raises:
        DataError: It is no table that can be read.
    """
    with path.open("rb") as file:
        if file.read(4) == PARQUET:
            return "parquet"
    suffixes = [suffix for suffix in path.suffixes if suffix.lower() not in COMPRESSED_SUFFIXES]
    named = SUFFIXES.get(suffixes[-1].lower()) if suffixes else None
    if named == "parquet":
        return named
    sample = read_sample(path, encoding)
    if all(field.partition(":")[2] in RECBOLE_TYPES for field in find_form(sample, "\t").first):
        return "recbole"
    return named or ("lightgcn" if _is_lightgcn(sample) else "csv")


def is_named_as_table(path: Path) -> bool:
    """Return whether the ending of a file's name may be that of a table, or is a mere number."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED_SUFFIXES]
    return not suffixes or suffixes[-1] in {*SUFFIXES, *OTHER_SUFFIXES} or suffixes[-1][1:].isdigit()


def _is_lightgcn(sample: str) -> bool:
    """Return whether lines are a user and any number of items, all of them whole numbers."""
    lines = [line.rstrip() for line in sample.splitlines()[:SAMPLE_LINES]]
    numbers = all(re.fullmatch(r"[0-9]+( [0-9]+)*", line) for line in lines)
    return numbers and len({line.count(" ") for line in lines}) > 1


def is_row(names: Sequence[str]) -> bool:
    """Return whether the fields of a first line look like values, not like names.

    Names may be column numbers, as pandas writes them: 0, 1, 2.
    """
    numbers = any(NUMBER.fullmatch(name) for name in names)
    return numbers and list(names) != [str(place) for place in range(len(names))]
