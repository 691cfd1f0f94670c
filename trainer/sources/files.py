"""Tables of your own: Parquet, CSV and TSV, RecBole's atomic files, LightGCN's text."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError
from trainer.sources.attribute_columns import (
    BY_TYPE,
    READABLE,
    Reading,
    parquet_type,
    typed_numbers,
    typed_text,
)
from trainer.sources.delimited import (
    LARGEST_ID,
    TIMESTAMP,
    Column,
    ParquetFile,
    TextFile,
    checked,
    read_table,
)
from trainer.sources.schema import BadRows, SourceTables

Format = Literal["parquet", "csv", "tsv", "recbole", "lightgcn"]
MISSING = ("", "nan", "NaN", "null", "NULL", "None")  # what pandas, SQL and Python write for no value
LARGEST_VALUE = float(np.finfo(np.float32).max)


class LightGCNFile(TextFile):
    """A line a user, `user item item ...`, as one pair an item; a user may stand alone.

    Source: He et al., SIGIR 2020 (the data files of LightGCN).
    """

    def __init__(self, path: Path):
        super().__init__(path, "\x1f", ["line"])  # this separator stands in no text: a line is one field
        self.names = ["user_id", "item_id"]

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield users and items as strings, a pair a row."""
        line, self.first_row, self.lines = 1, 0, np.zeros(0, np.int64)
        for block in super().batches(["line"]):
            words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(block["line"]))
            starts, flat = words.offsets.to_numpy()[:-1], words.flatten()
            items = np.ones(len(flat), bool)
            items[starts] = False
            counts = words.value_lengths().to_numpy() - 1
            self.first_row += len(self.lines)
            self.lines = np.repeat(np.arange(line, line + len(block)), counts)
            line += len(block)
            pairs = {"user_id": flat.take(np.repeat(starts, counts)), "item_id": flat.filter(items)}
            yield pa.RecordBatch.from_pydict({name: pairs[name] for name in names})

    def position(self, row: int) -> int:
        """Return the line, from 1, of pair `row`, from 0."""
        return int(self.lines[row - self.first_row])


Rows = TextFile | ParquetFile


@dataclass(frozen=True)
class FileFormat:
    """One format of tables.

    Attributes:
        open: Opens one file.
        folders: Whether a table may be a folder of part files.
        attributes: Whether there are tables of attributes.
        typed: Whether columns have types; otherwise all values are text.
        types_in_names: Whether a column's name ends with its type, as in `age:token`.
    """

    open: Callable[[Path], Rows]
    folders: bool = False
    attributes: bool = True
    typed: bool = False
    types_in_names: bool = False


FORMATS: Mapping[Format, FileFormat] = {
    "parquet": FileFormat(ParquetFile, folders=True, typed=True),
    "csv": FileFormat(lambda path: TextFile(path, ",", nulls=MISSING)),
    "tsv": FileFormat(lambda path: TextFile(path, "\t", nulls=MISSING)),
    "recbole": FileFormat(lambda path: TextFile(path, "\t", nulls=MISSING), types_in_names=True),
    "lightgcn": FileFormat(LightGCNFile, attributes=False),
}
"""Every format by its name in `data.format`; a new one is one entry."""


def read_tables(
    format: Format,
    interactions: str | Path,
    held_out: str | Path | None,
    users: str | Path | None,
    items: str | Path | None,
    user_column: str,
    item_column: str,
    value_column: str,
    timestamp_column: str,
    bad_rows: Literal["error", "skip"],
    reading: Reading = BY_TYPE,
) -> SourceTables:
    """Read interactions, optional held-out ones and attributes; columns are found by name.

    Ids of users are int64 if all of them, in all files, are whole numbers up to 2**63 - 1, and strings
    otherwise; so are ids of items. Parquet says so by its types. Text and unsigned Parquet columns are read
    once more beforehand to find out, so that no late row contradicts an early one; a text is a whole number
    in canonical form only (`007` is a string). Missing ids (null, empty, NaN) make bad rows.

    Attributes are typed as `attribute_columns` says; `title` is a string in any case.
    Of RecBole's ratings, `rating` is the value where `value_column` is not there.

    Raises:
        DataError: A file or a column is missing, or a row is bad and `bad_rows` is `error`.
    """
    bad = BadRows(bad_rows)
    if not FORMATS[format].attributes:
        user_column, item_column = "user_id", "item_id"
        if users or items:
            option = "users" if users else "items"
            raise DataError(f"--data.{option}: LightGCN text has no attributes. Leave the option out")
    paths = {"train": interactions, "held_out": held_out, "users": users, "items": items}
    files = {part: _open(format, Path(path)) for part, path in paths.items() if path}
    user, item = _id_types(files, {"user": user_column, "item": item_column})

    def stream(part: str) -> Iterator[pa.RecordBatch]:
        columns = [
            _id("user", user_column, user, files[part][0]),
            _id("item", item_column, item, files[part][0]),
        ]
        columns += _optional(format, files[part][0], value_column, timestamp_column)
        return chain.from_iterable(checked(rows, columns, bad) for rows in files[part])

    keys = {"users": ("user", user_column, user), "items": ("item", item_column, item)}
    tables: dict[str, tuple[pa.Table | None, dict[str, str]]] = {
        part: _attributes(format, files[part], _id(*key, files[part][0]), bad, reading)
        if part in files
        else (None, {})
        for part, key in keys.items()
    }
    return SourceTables(
        stream("train"),
        stream("held_out") if held_out else None,
        tables["users"][0],
        tables["items"][0],
        "item",
        bad,
        remarks={"user": tables["users"][1], "item": tables["items"][1]},
    )


def _open(format: Format, path: Path) -> list[Rows]:
    """Return the file, or the part files of a folder of Parquet, in the order of their names."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file. Put it there, or name another")
    if not path.is_dir():
        return [FORMATS[format].open(path)]
    if not FORMATS[format].folders:
        raise DataError(f"{path}: is a folder, expected a file of format {format}. Name the file")
    paths = sorted(path.rglob(f"*.{format}"))
    paths = [part for part in paths if not part.name.startswith(("_", "."))]
    if not paths:
        raise DataError(f"{path}: the folder holds no *.{format} file. Put the part files there")
    return [FORMATS[format].open(part) for part in paths]


def _found(rows: Rows, name: str) -> str | None:
    """Return the column's name in the file; RecBole appends its type after a colon: `user_id:token`."""
    return next((field for field in rows.names if name in (field, field.partition(":")[0])), None)


def _id(side: str, name: str, type: pa.DataType, rows: Rows) -> Column:
    source = _found(rows, name)
    if source is None:
        raise DataError(
            f"{rows.path}: no column {name!r}, found {', '.join(rows.names)}. "
            f"Name the column of {side} ids: --data.{side}_column NAME"
        )
    rule = f"a whole number up to {LARGEST_ID}" if type == pa.int64() else "an id"
    return Column(f"{side}_id", source, type, rule)


def _id_types(files: dict[str, list[Rows]], names: dict[str, str]) -> Iterator[pa.DataType]:
    """Yield the type of each side's ids; an attribute file has the ids of its own side only."""
    whole = dict.fromkeys(names, True)
    for part, group in files.items():
        sides = [side for side in names if part not in ("users", "items") or part == f"{side}s"]
        for rows in group:
            sources = {side: _id(side, names[side], pa.string(), rows).source for side in sides}
            for side in _not_whole(rows, {side: source for side, source in sources.items() if whole[side]}):
                whole[side] = False
    return (pa.int64() if each else pa.string() for each in whole.values())


def _not_whole(rows: Rows, sources: dict[str, str]) -> set[str]:
    """Sides with an id in their column that neither is nor can be an int64."""
    if isinstance(rows, ParquetFile):
        return {side for side, source in sources.items() if not _can_be_whole(rows, source)}
    found: set[str] = set()
    for batch in rows.batches(list(sources.values())) if sources else ():
        texts = zip(sources, batch.columns, strict=True)
        found |= {side for side, ids in texts if side not in found and _as_whole_numbers(ids) is None}
        if len(found) == len(sources):
            break
    return found


def _can_be_whole(rows: ParquetFile, source: str) -> bool:
    type = rows.file.schema_arrow.field(source).type
    if type == pa.uint64():
        largest = (pc.max(batch.column(0)).as_py() or 0 for batch in rows.batches([source]))
        return all(each <= LARGEST_ID for each in largest)
    return pa.types.is_integer(type) or pa.types.is_floating(type) or not rows.file.metadata.num_rows


def _as_whole_numbers(texts: pa.Array) -> pa.Array | None:
    """Return texts as int64; None if one is not a canonical whole number (as labels, 7 and 007 differ)."""
    given = texts.drop_null()
    starts = np.frombuffer(given.buffers()[1], np.int32)[given.offset :][: len(given) + 1]
    characters = np.frombuffer(given.buffers()[2] or b"", np.uint8)
    try:
        numbers = texts.cast(pa.int64())  # takes 007, -0 and 0x7 too
    except pa.ArrowInvalid:
        return None
    # A zero in front stands alone; behind a minus there is none.
    first, lengths = characters[starts[:-1]], np.diff(starts)
    zero = (first == ord("0")) & (lengths > 1)
    minus = starts[:-1][first == ord("-")]
    return None if zero.any() or (characters[minus + 1] == ord("0")).any() else numbers


def _optional(format: Format, rows: Rows, value_column: str, timestamp_column: str) -> list[Column]:
    """Return value and timestamp columns where the file has them; a non-default name must exist."""
    number = Column("value", "value", pa.float32(), "a number", (-LARGEST_VALUE, LARGEST_VALUE))
    columns = []
    for column, asked in ((number, value_column), (TIMESTAMP, timestamp_column)):
        source = _found(rows, asked)
        if source is None and FORMATS[format].types_in_names and column is number:
            source = _found(rows, "rating")
        if source is not None:
            columns.append(replace(column, source=source))
        elif asked != column.name:
            raise DataError(
                f"{rows.path}: no column {asked!r}, found {', '.join(rows.names)}. "
                f"Name another, or leave the option out: --data.{column.name}_column NAME"
            )
    return columns


def _attributes(
    format: Format, files: list[Rows], key: Column, bad: BadRows, reading: Reading
) -> tuple[pa.Table, dict[str, str]]:
    """Return the attributes, and remarks on them by name: what was guessed, and why one is left out."""
    columns, declared, remarks = [key], {}, {}
    for source in files[0].names:
        name, _, declared[name] = (
            source.partition(":") if FORMATS[format].types_in_names else (source, "", "")
        )
        if source == key.source:
            continue
        type = pa.string()
        if isinstance(files[0], ParquetFile) and name != "title":
            found = files[0].file.schema_arrow.field(source).type
            type = parquet_type(found)
            if type is None:
                remarks[name] = f"left out, as {found} is no {READABLE}"
        if type is not None:
            columns.append(Column(name, source, type, required=False))
    table = pa.concat_tables(read_table(rows, columns, bad) for rows in files)
    attributes = {key.name: table[key.name].combine_chunks()}
    for column in columns[1:]:
        name, values = column.name, table[column.name].combine_chunks()
        if name != "title" and not FORMATS[format].typed:
            typed = typed_text(name, values, reading, declared[name])
            values, remarks[name] = typed.values, typed.remark
        elif column.type == pa.float64():
            values = typed_numbers(name, values, reading)
        attributes[name] = values
    return pa.table(attributes), {name: remark for name, remark in remarks.items() if remark}
