"""Checked reading: typed columns of a file, and place, value and rule of what is wrong in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError
from trainer.formatting import format_count
from trainer.tables.bad_rows import BadRows
from trainer.tables.column_rules import Column, plain
from trainer.tables.delimited import TextFile
from trainer.tables.parquet_file import ParquetFile
from trainer.tables.times import MixedFormsError

LONGEST_SHOWN = 80
BYTES = (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())


def checked(rows: TextFile | ParquetFile, columns: list[Column], bad: BadRows) -> Iterator[pa.RecordBatch]:
    """Return rows whose required columns keep their rules, converted, in file order.

    Raises:
        DataError: A column is missing, or has times in two forms, or no row is good. Under the policy
            `error`, a row is bad: raised at the end of the file, when all bad rows are counted; no rows after
            the first bad block are returned.
    """
    if absent := [column.source for column in columns if column.source not in rows.names]:
        raise DataError(f"{rows.path}: no column {absent[0]!r}, found {', '.join(rows.names)}. Rename it")
    if repeated := [column.source for column in columns if rows.names.count(column.source) > 1]:
        raise DataError(f"{rows.path}: two columns are named {repeated[0]!r}, expected one. Rename the other")
    found, readers = _Found(), [column.reader() for column in columns]
    for raw in rows.batches([column.source for column in columns]):
        values, good = [], []
        for column, reader in zip(columns, readers, strict=True):
            texts = plain(raw.column(column.source))
            is_text = column.type == pa.string() and texts.type in BYTES
            texts, decoded = _decoded(texts) if is_text else (texts, None)
            try:
                read, keeps = reader.read(texts)
            except MixedFormsError as error:
                raise _mixed(rows, column, texts, found.total, error) from None
            if column.type == pa.string() and rows.breaks_lines:
                found.broken(rows, column, read)
            elif not column.required:
                found.lost(column, texts, read)
            values.append(read)
            if decoded is not None and decoded.false_count:
                good.append((column, decoded, rows.encoding_fault))
            if column.required:
                good.append((column, keeps, f"expected {column.rule}"))
        kept = reduce(pc.and_, [keeps for _, keeps, _ in good])
        found.add(rows, raw, kept, good)
        if bad.policy == "skip" or not (found.faults or rows.malformed):
            batch = pa.RecordBatch.from_arrays(values, schema=_schema(columns))
            yield batch.filter(kept) if kept.false_count else batch
    _report(rows, found, bad)
    for remark in [*(reader.note for reader in readers if reader.note), *rows.remarks()]:
        bad.note(rows.path, remark)
    for name, count in found.long.items():
        goes = "goes" if count == 1 else "go"
        bad.note(rows.path, f"{format_count(count, 'value')} of {name} {goes} on over several lines")
    for name, (count, shown) in found.unread.items():
        values, are = format_count(count, "value"), "is" if count == 1 else "are"
        bad.note(rows.path, f"{values} of {name} cannot be read and {are} unknown, such as {shown}")


@dataclass
class _Found:
    """What is wrong in the rows of a file so far.

    Attributes:
        total: Rows.
        faults: Bad ones among them.
        first: Position and fault of the first.
        remedy: What to do if all break the rule that it breaks.
        unread: Values of each attribute that cannot be read, and one of them.
        long: Values of each attribute that go on over several lines.
    """

    total: int = 0
    faults: int = 0
    first: tuple[int, str] | None = None
    remedy: str = ""
    unread: dict[str, tuple[int, str]] = field(default_factory=dict)
    long: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        rows: TextFile | ParquetFile,
        raw: pa.RecordBatch,
        kept: pa.Array,
        good: list[tuple[Column, pa.Array, str]],
    ) -> None:
        """Count a block, of which the rows `kept` are good: those that keep the rule of every column."""
        if kept.false_count and self.first is None:
            row = kept.index(False).as_py()
            column, _, expected = next(entry for entry in good if not entry[1][row].as_py())
            shown = _shown(raw.column(column.source)[row])
            self.first = rows.position(self.total + row), f"{column.source} is {shown}, {expected}"
            self.remedy = rows.encoding_remedy if expected == rows.encoding_fault else column.remedy
        self.total += len(kept)
        self.faults += kept.false_count

    def broken(self, rows: TextFile | ParquetFile, column: Column, read: pa.Array) -> None:
        """Refuse an id that goes on over several lines, and count attributes that do.

        A quote that is not closed makes such an id of all the rows up to the next quote; skipping it would
        lose them uncounted.
        """
        broken = pc.fill_null(pc.match_substring(read, "\n"), False)
        if broken.true_count and column.required:
            row = broken.index(True).as_py()
            raise DataError(
                f"{rows.path}:{rows.position(self.total + row)}: {column.source} is {_shown(read[row])}, "
                "which goes on over several lines, as if a quote is not closed. Close it or take it out"
            )
        if broken.true_count:
            self.long[column.source] = self.long.get(column.source, 0) + broken.true_count

    def lost(self, column: Column, raw: pa.Array, read: pa.Array) -> None:
        """Count values of an attribute that were given and could not be read."""
        lost = pc.and_(raw.is_valid(), read.is_null())
        if raw.type == pa.string():
            lost = pc.and_(lost, pc.fill_null(pc.greater(pc.binary_length(raw), 0), False))
        elif pa.types.is_floating(raw.type):
            lost = pc.and_(lost, pc.fill_null(pc.invert(pc.is_nan(raw)), False))
        if lost.true_count:
            count, shown = self.unread.get(column.source, (0, _shown(raw.filter(lost)[0])))
            self.unread[column.source] = count + lost.true_count, shown


def _report(rows: TextFile | ParquetFile, found: _Found, bad: BadRows) -> None:
    """Count bad rows, or raise; where every row is bad, whatever the policy, as skipping would leave none."""
    malformed, first, remedy = len(rows.malformed), found.first, found.remedy
    if malformed and (first is None or rows.malformed[0] < first[0]):
        first, remedy = (rows.malformed[0], rows.malformed_fault), rows.separator_remedy
    if first is None:
        return
    faults, total = found.faults + malformed, found.total + malformed
    place, fault = f"{rows.path}:{first[0]}", f"{first[1]} ({faults:,} of {total:,} rows are bad)"
    encoding = bad.policy == "error" and remedy and remedy == rows.encoding_remedy
    if remedy and (encoding or (faults == total and total > 1)):
        raise DataError(f"{place}: {fault}. {remedy}")
    bad.found(place, fault, faults)


def _mixed(
    rows: TextFile | ParquetFile, column: Column, raw: pa.Array, total: int, error: MixedFormsError
) -> DataError:
    leave = f", or leave the column unread: --data.{column.name}_column null" if column.remedy else ""
    return DataError(
        f"{rows.path}:{rows.position(total + error.row)}: {column.source} is {_shown(raw[error.row])}, "
        f"{error.fault}. Write all in one form{leave}"
    )


def _decoded(raw: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Return strings, null where they are no UTF-8, and a mask of those that are; None: all are."""
    raw = raw.cast(pa.large_binary() if pa.types.is_large_string(raw.type) else pa.binary())
    try:
        return raw.cast(pa.string()), None
    except pa.ArrowInvalid:
        good = pa.array([value is None or _is_utf8(value) for value in raw.to_pylist()])
    return pc.if_else(good, raw, None).cast(pa.string()), good


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(value: pa.Scalar) -> str:
    if not value.is_valid:
        return "missing"
    if value.type == pa.string():
        text = repr(value.as_buffer().to_pybytes().decode(errors="replace"))
    else:
        text = repr(value.as_py())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 4]}...{text[-1]}"


def read_table(rows: TextFile | ParquetFile, columns: list[Column], bad: BadRows) -> pa.Table:
    """Return `checked` rows as one table with one chunk per column."""
    return pa.Table.from_batches(checked(rows, columns, bad), _schema(columns)).combine_chunks()


def _schema(columns: list[Column]) -> pa.Schema:
    return pa.schema([(column.name, column.type) for column in columns])
