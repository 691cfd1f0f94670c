"""Checked reading of text and Parquet files: typed columns, rules for values, faults by line.

Text is parsed into blocks of strings, which are converted column by column: without Python per row in a block
without fault; in one with a fault, only the values that look odd are converted one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from trainer.errors import DataError
from trainer.sources.schema import BadRows

LARGEST_ID = 2**63 - 1
BLOCK_BYTES = 4 << 20  # a line must fit
PARQUET_BYTES = 1 << 20  # of a column that are read at a time


@dataclass(frozen=True)
class Column:
    """A column to read, and the rule that its values keep.

    Attributes:
        name: Name in the record batches that are returned.
        type: Type there.
        source: Name in the file.
        rule: Completes `expected ...` in an error.
        bounds: Smallest and largest value; None: any that can be converted, and any string but an empty one.
        required: A value that breaks the rule makes its row a bad one; otherwise it is read as null.
    """

    name: str
    source: str
    type: pa.DataType
    rule: str = ""
    bounds: tuple[float, float] | None = None
    required: bool = True

    def read(self, raw: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Return converted values, null where they break the rule, and a mask of those that keep it."""
        if self.type == pa.string():
            # Through bytes, because the parser leaves it to this conversion to refuse what is not UTF-8.
            values = _convert(raw.cast(pa.binary()) if raw.type == pa.string() else raw, pa.string())
            good = pc.greater(pc.binary_length(values), 0)
        else:
            # Values and timestamps may be written as 4 or 4.0, whatever the type they are returned in.
            values = _convert(raw, pa.float64() if self.name in ("value", "timestamp") else self.type)
            good = pc.is_valid(values)
        if self.bounds:  # false for NaN
            good = pc.and_(pc.greater_equal(values, self.bounds[0]), pc.less_equal(values, self.bounds[1]))
        good = pc.fill_null(good, False)
        if good.false_count:
            values = pc.if_else(good, values, None)
        return values.cast(self.type, safe=False), good


# Timestamps pass through float64, which holds every whole number up to 2**53.
TIMESTAMP = Column("timestamp", "timestamp", pa.int64(), "a number of seconds", (-(2**53), 2**53))


def _convert(raw: pa.Array, type: pa.DataType) -> pa.Array:
    """Return `raw` as `type`, null where a value cannot be converted."""
    if pa.types.is_timestamp(raw.type) or pa.types.is_date(raw.type):
        raw = raw.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    try:
        return raw.cast(type)
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(raw), type)
    except pa.ArrowInvalid:
        odd = raw.is_valid()
    if raw.type == pa.string():
        odd = pc.fill_null(pc.invert(pc.match_substring_regex(raw, "^[0-9]{1,15}$")), False)
    elif pa.types.is_floating(raw.type):
        # Whole numbers up to 2**53 can be converted, and NaN equals nothing.
        numbers = raw.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less_equal(pc.abs(numbers), 2.0**53))
        odd = pc.fill_null(pc.invert(whole), False)
    converted = pa.array([_convert_one(value, type) for value in raw.filter(odd)], type)
    return pc.replace_with_mask(pc.if_else(odd, None, raw).cast(type), odd, converted)


def _convert_one(value: pa.Scalar, type: pa.DataType) -> object:
    with suppress(pa.ArrowInvalid):
        return value.cast(type).as_py()
    return None


@dataclass
class TextFile:
    """Delimited text as blocks of strings; lines with a wrong number of fields are left out and remembered.

    Attributes:
        separator: One character, or `::`. With a comma, fields may stand in double quotes.
        given_names: Names of the fields; None: the first line names them.
        nulls: Texts that stand for a missing value.

    Raises:
        DataError: There is no such file, or nothing in it.
    """

    path: Path
    separator: str
    given_names: list[str] | None = None
    encoding: str = "utf8"
    nulls: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file. Put it there, or name another")
        if self.path.stat().st_size == 0:
            raise DataError(
                f"{self.path}: the file is empty, expected a line a row. Put the whole file there"
            )
        self.malformed: list[int] = []
        self.malformed_fault = ""
        try:
            self.names: list[str] = self.given_names or self._open([]).schema.names
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.path}: {error}. Mend the file") from None

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Return the fields `names` as strings, in file order, BLOCK_BYTES of text at a time."""
        self.malformed.clear()
        try:
            with self._open(names) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.path}: {error}. Mend the file") from None

    def position(self, row: int) -> int:
        """Return the line, from 1, of row `row`, from 0, among those with the right number of fields."""
        line = row + 1 + (self.given_names is None)
        for number in self.malformed:
            line += number <= line
        return line

    def _open(self, include: list[str]) -> csv.CSVStreamingReader:
        source, separator = pa.OSFile(str(self.path)), self.separator
        if separator == "::":
            source, separator = pa.lib.TransformInputStream(source, _with_unit_separators()), "\x1f"
        quoted = separator == ","
        options = csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=self.encoding)
        options.column_names = self.given_names or []
        return csv.open_csv(
            source,
            options,
            csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
                invalid_row_handler=self._remember,  # which is told line numbers by a single thread only
            ),
            csv.ConvertOptions(
                check_utf8=False,
                include_columns=include,
                column_types=dict.fromkeys(include, pa.string()),
                null_values=list(self.nulls),
                strings_can_be_null=True,
            ),
        )

    def _remember(self, row: csv.InvalidRow) -> Literal["skip"]:
        if not self.malformed:
            self.malformed_fault = f"{row.actual_columns} fields, expected {row.expected_columns}"
        self.malformed.append(row.number)
        return "skip"


def _with_unit_separators() -> Callable[[pa.Buffer], bytes]:
    """Return a transform that replaces `::`, which pyarrow cannot split at, even across two chunks."""
    held = b""

    def transform(chunk: pa.Buffer) -> bytes:
        nonlocal held
        text, held = held + memoryview(chunk), b""
        if len(chunk) and text.endswith(b":") and not text.endswith(b"::"):
            text, held = text[:-1], b":"
        return _with_unit_separator(text)

    return transform


def _with_unit_separator(text: bytes) -> bytes:
    r"""Return `text.replace(b"::", b"\x1f")`, in half the time."""
    characters = np.frombuffer(text, np.uint8)
    colons = characters == ord(":")
    pairs = colons[1:] & colons[:-1]
    if (pairs[1:] & pairs[:-1]).any():  # three in a row, of which the first two are the pair
        return text.replace(b"::", b"\x1f")
    replaced = characters.copy()
    replaced[:-1] -= pairs * np.uint8(ord(":") - ord("\x1f"))
    stays = np.ones(len(text), bool)
    np.logical_not(pairs, out=stays[1:])
    return replaced[stays].tobytes()


class ParquetFile:
    """Rows of a Parquet file.

    Raises:
        DataError: It cannot be read.
    """

    malformed: ClassVar[list[int]] = []  # no row of Parquet has a wrong number of fields
    malformed_fault = ""

    def __init__(self, path: Path):
        self.path = path
        try:
            # By default a file keeps all that it has read, and reads a column of a row group at once.
            self.file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=PARQUET_BYTES)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: {str(error).rstrip('.')}. Put the whole Parquet file there") from None
        self.names: list[str] = self.file.schema_arrow.names

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Return the columns `names` in file order."""
        return self.file.iter_batches(columns=names)

    def position(self, row: int) -> int:
        """Return the number, from 1, of row `row`, from 0."""
        return row + 1


def checked(rows: TextFile | ParquetFile, columns: list[Column], bad: BadRows) -> Iterator[pa.RecordBatch]:
    """Return rows whose required columns keep their rules, converted, in file order.

    Raises:
        DataError: A column is missing. Under the policy `error`, a row is bad: raised at the end of the file,
            when all bad rows are counted; no rows after the first bad block are returned.
    """
    if absent := [column.source for column in columns if column.source not in rows.names]:
        raise DataError(f"{rows.path}: no column {absent[0]!r}, found {', '.join(rows.names)}. Rename it")
    total = faults = 0
    first: tuple[int, str] | None = None
    for raw in rows.batches([column.source for column in columns]):
        read = [column.read(raw.column(column.source)) for column in columns]
        kept = {column: keeps for column, (_, keeps) in zip(columns, read, strict=True) if column.required}
        good = reduce(pc.and_, kept.values())
        if good.false_count and first is None:
            row = good.index(False).as_py()
            broken = next(column for column, keeps in kept.items() if not keeps[row].as_py())
            shown = _shown(raw.column(broken.source)[row])
            first = rows.position(total + row), f"{broken.source} is {shown}, expected {broken.rule}"
        total += len(good)
        faults += good.false_count
        if bad.policy == "skip" or not (faults or rows.malformed):
            batch = pa.RecordBatch.from_arrays([values for values, _ in read], schema=_schema(columns))
            yield batch.filter(good) if good.false_count else batch
    if rows.malformed and (first is None or rows.malformed[0] < first[0]):
        first = rows.malformed[0], rows.malformed_fault
    if first:
        faults, total = (count + len(rows.malformed) for count in (faults, total))
        bad.found(f"{rows.path}:{first[0]}", f"{first[1]} ({faults:,} of {total:,} rows are bad)", faults)


def _shown(value: pa.Scalar) -> str:
    if value.type == pa.string() and value.is_valid:
        return repr(value.as_buffer().to_pybytes().decode(errors="replace"))
    return repr(value.as_py()) if value.is_valid else "missing"


def read_table(rows: TextFile | ParquetFile, columns: list[Column], bad: BadRows) -> pa.Table:
    """Return `checked` rows as one table with one chunk per column."""
    return pa.Table.from_batches(checked(rows, columns, bad), _schema(columns)).combine_chunks()


def _schema(columns: list[Column]) -> pa.Schema:
    return pa.schema([(column.name, column.type) for column in columns])
