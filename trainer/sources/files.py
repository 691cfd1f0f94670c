"""Tables of your own: Parquet, delimited text, RecBole's atomic files, LightGCN's text."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

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
from trainer.sources.formats import (
    FORMATS,
    OF_ATTRIBUTES,
    Format,
    Rows,
    Table,
    TextOptions,
    open_tables,
)
from trainer.sources.schema import SourceTables
from trainer.tables.bad_rows import BadRows
from trainer.tables.checked import checked, read_table
from trainer.tables.column_rules import (
    LARGEST_ID,
    LARGEST_VALUE,
    Column,
    are_whole_ids,
    can_be_id,
    is_fractional,
    plain_type,
)
from trainer.tables.delimited import LightGCNFile, TextFile
from trainer.tables.parquet_file import ParquetFile
from trainer.tables.recognise import is_row
from trainer.tables.times import TIMESTAMP

INTERACTIONS = ("train", "held_out", "impressions")


class FileBatches(Iterator[pa.RecordBatch]):
    """The checked rows of files, one after the other.

    Attributes:
        files: Each file, and the columns to read of it: `checked` of the file reopened gives its rows alone.
    """

    def __init__(self, files: list[tuple[Table, list[Column]]], bad: BadRows):
        self.files = files
        self._batches = chain.from_iterable(checked(table.rows, columns, bad) for table, columns in files)

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)


def read_tables(
    format: Format | Literal["auto"],
    interactions: str | Path,
    held_out: str | Path | None,
    users: str | Path | None,
    items: str | Path | None,
    user_column: str,
    item_column: str,
    value_column: str | None,
    timestamp_column: str | None,
    bad_rows: Literal["error", "skip"],
    encoding: str = "utf-8",
    separator: str | None = None,
    columns: Sequence[str] | None = None,
    weight_column: str | None = None,
    reading: Reading = BY_TYPE,
    impressions: str | Path | None = None,
    user_columns: Sequence[str] | None = None,
    item_columns: Sequence[str] | None = None,
    buckets: Collection[int] | None = None,
) -> SourceTables:
    """Read interactions, optional held-out ones and attributes; columns are found by name.

    Under the format `auto` each file is read as what it is, so that they may differ. A value or timestamp
    column that is None is left unread. `columns` names the fields of interactions without a header: `user`,
    `item`, `value` and `timestamp` stand for the columns of that use. `user_columns` and `item_columns` do
    so for attributes, where `user` and `item` stand for the ids. Of folders that are partitioned by user,
    `buckets` are read, or all.

    Ids of users are int64 if all of them, in all files, are whole numbers up to 2**63 - 1, and strings
    otherwise; so are ids of items. Parquet says so by its types. Text and unsigned Parquet columns are read
    once more beforehand to find out, so that no late row contradicts an early one. A text is a whole number
    in canonical form (`007` is a string) or with a zero behind the point, as pandas writes 86.0 in a column
    with gaps. Missing ids (null, empty, NaN) make bad rows.

    Ids of impressions have types of their own, as users and items that are in no other file are left out
    later and may be spelled in any way. Their values are not read, and times and weights may be absent.

    Attributes are typed as `attribute_columns` says; `title` is a string in any case.
    Of RecBole's ratings, `rating` is the value where `value_column` is not there.

    Raises:
        DataError: A file or a column is missing, or a row is bad and `bad_rows` is `error`.
    """
    bad = BadRows(bad_rows)
    roles = {"user": user_column, "item": item_column, "value": value_column, "timestamp": timestamp_column}
    named = [roles.get(name) or name for name in columns] if columns else None
    options = dict.fromkeys(INTERACTIONS, TextOptions(encoding, separator, named))
    for side, given in (("user", user_columns), ("item", item_columns)):
        named = [roles[side] if name == side else name for name in given] if given else None
        options[f"{side}s"] = TextOptions(encoding, separator, named, OF_ATTRIBUTES[f"{side}s"])
    paths = {"train": interactions, "held_out": held_out, "users": users, "items": items}
    paths["impressions"] = impressions
    files = {
        part: open_tables(format, Path(path), options[part], buckets) for part, path in paths.items() if path
    }
    _check_options(files, options)
    names = {"user": user_column, "item": item_column}
    shown = {"impressions": files.pop("impressions")} if impressions else {}
    user, item = _id_types(files, names)
    types = dict.fromkeys(files, (user, item)) | {part: (*_id_types(shown, names),) for part in shown}
    files |= shown

    def stream(part: str) -> Iterator[pa.RecordBatch]:
        first: list[Column] | None = None
        pairs = []
        user, item = types[part]
        for table in files[part]:
            if part == "impressions":
                optional = _of_impressions(table, timestamp_column, weight_column)
            else:
                optional = _optional(table, value_column, timestamp_column)
                optional += _weight(table.rows, weight_column)
            first = optional if first is None else first
            _check_same(table.rows, optional, files[part][0].rows, first)
            ids = [_id("user", user_column, user, table), _id("item", item_column, item, table)]
            _refuse_row(table, ids + optional)
            pairs.append((table, ids + optional))
        return FileBatches(pairs, bad)

    keys = {"users": ("user", user_column, user), "items": ("item", item_column, item)}
    tables: dict[str, tuple[pa.Table | None, dict[str, str]]] = {
        part: _attributes(files[part], _id(*key, files[part][0]), bad, reading)
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
        impressions=stream("impressions") if impressions else None,
    )


def _check_options(files: dict[str, list[Table]], options: dict[str, TextOptions]) -> None:
    """Refuse what would change nothing, and attributes in a format that has none."""
    tables = [(part, table) for part, group in files.items() for table in group]
    for part, table in tables:
        if part not in INTERACTIONS and not FORMATS[table.format].attributes:
            raise DataError(f"--data.{part}: LightGCN text has no attributes. Leave the option out")
    delimited = {part for part, table in tables if FORMATS[table.format].delimited}
    for given, option, parts in (
        (options["train"].separator, "--data.separator", files.keys()),
        (options["train"].columns, options["train"].columns_option.name, files.keys() & {*INTERACTIONS}),
        *((options[part].columns, each.name, files.keys() & {part}) for part, each in OF_ATTRIBUTES.items()),
    ):
        if given is not None and parts and not parts & delimited:
            path = next(table.rows.path for part, table in tables if part in parts)
            raise DataError(f"{option}: has no effect on {path}, which is no delimited text. Leave it out")


def _found(rows: Rows, name: str) -> str | None:
    """Return the column's name in the file; RecBole appends its type after a colon: `user_id:token`."""
    return next((field for field in rows.names if name in (field, field.partition(":")[0])), None)


def _id(side: str, name: str, type: pa.DataType, table: Table) -> Column:
    rows = table.rows
    delimited = isinstance(rows, TextFile) and rows.given_names is None
    source = _found(rows, f"{side}_id" if isinstance(rows, LightGCNFile) else name)
    if source is None:
        if delimited and is_row(rows.names):
            raise DataError(_no_header(table))
        hint = f"; if line 1 is no header: {table.columns_option.example(rows.names)}" if delimited else ""
        raise DataError(
            f"{rows.path}: no column {name!r}, found {', '.join(rows.names)}. "
            f"Name the column of {side} ids: --data.{side}_column NAME{hint}"
        )
    if isinstance(rows, ParquetFile) and not can_be_id(rows.type_of(source)):
        raise DataError(
            f"{rows.path}: {source} is a column of {rows.type_of(source)}, expected text or whole numbers. "
            f"Write it as text, or name another column of {side} ids: --data.{side}_column NAME"
        )
    rule = f"a whole number up to {LARGEST_ID}" if type == pa.int64() else "an id"
    remedy = f"Name another column of {side} ids: --data.{side}_column NAME"
    return Column(f"{side}_id", source, type, rule, remedy=remedy)


def _refuse_row(table: Table, columns: list[Column]) -> None:
    """Refuse a first line that is a row though its fields were named as columns: the row would be lost."""
    rows = table.rows
    with_digits = any(character.isdigit() for column in columns for character in column.source)
    if isinstance(rows, TextFile) and rows.given_names is None and is_row(rows.names) and with_digits:
        raise DataError(_no_header(table))


def _no_header(table: Table) -> str:
    names = table.rows.names
    return (
        f"{table.rows.path}: seems to have no header, as line 1 is {', '.join(names)}. "
        f"Name its columns, in this way: {table.columns_option.example(names)}"
    )


def _id_types(files: dict[str, list[Table]], names: dict[str, str]) -> Iterator[pa.DataType]:
    """Yield the type of each side's ids; an attribute file has the ids of its own side only."""
    whole = dict.fromkeys(names, True)
    for part, group in files.items():
        sides = [side for side in names if part not in ("users", "items") or part == f"{side}s"]
        for table in group:
            sources = {side: _id(side, names[side], pa.string(), table).source for side in sides}
            left = {side: source for side, source in sources.items() if whole[side]}
            for side in _not_whole(table.rows, left):
                whole[side] = False
    return (pa.int64() if each else pa.string() for each in whole.values())


def _not_whole(rows: Rows, sources: dict[str, str]) -> set[str]:
    """Sides with an id in their column that neither is nor can be an int64."""
    if isinstance(rows, ParquetFile):
        return {side for side, source in sources.items() if not _can_be_whole(rows, source)}
    found: set[str] = set()
    for batch in rows.batches(list(sources.values())) if sources else ():
        texts = zip(sources, batch.columns, strict=True)
        found |= {side for side, ids in texts if side not in found and not are_whole_ids(ids)}
        if len(found) == len(sources):
            break
    return found


def _can_be_whole(rows: ParquetFile, source: str) -> bool:
    type = plain_type(rows.type_of(source))
    if type == pa.uint64():
        largest = (pc.max(batch.column(0)).as_py() or 0 for batch in rows.batches([source]))
        return all(each <= LARGEST_ID for each in largest)
    if source in rows.constants:
        return are_whole_ids(pa.array([rows.constants[source]], pa.string()))
    return pa.types.is_integer(type) or is_fractional(type) or not rows.file.metadata.num_rows


def _optional(table: Table, value_column: str | None, timestamp_column: str | None) -> list[Column]:
    """Return value and timestamp columns where the file has them; a non-default name must exist."""
    rows, columns = table.rows, []
    number = Column("value", "value", pa.float32(), "a number", (-LARGEST_VALUE, LARGEST_VALUE))
    number = replace(number, decimal_comma=rows.decimal_comma)
    for column, asked in ((number, value_column), (TIMESTAMP, timestamp_column)):
        if asked is None:
            continue
        source = _found(rows, asked)
        if source is None and FORMATS[table.format].types_in_names and column is number:
            source = _found(rows, "rating")
        if source is not None:
            option = f"--data.{column.name}_column"
            remedy = f"Leave the column unread: {option} null, or name another: {option} NAME"
            columns.append(replace(column, source=source, remedy=remedy))
        elif asked != column.name:
            raise DataError(
                f"{rows.path}: no column {asked!r}, found {', '.join(rows.names)}. "
                f"Name another, or leave the option out: --data.{column.name}_column NAME"
            )
    return columns


def _of_impressions(table: Table, timestamp_column: str | None, weight_column: str | None) -> list[Column]:
    """Return the columns of times and weights that a file of impressions has; it may lack either."""
    timed, weighed = (
        name if name is not None and _found(table.rows, name) is not None else None
        for name in (timestamp_column, weight_column)
    )
    return [*_optional(table, None, timed), *_weight(table.rows, weighed)]


def _check_same(rows: Rows, columns: list[Column], first: Rows, expected: list[Column]) -> None:
    """Refuse a part file with another set of optional columns than the first one: values would be lost."""
    differing = {column.name: column for column in columns}.keys() ^ {column.name for column in expected}
    for name in sorted(differing):
        has = name in {column.name for column in columns}
        with_it, without = (rows, first) if has else (first, rows)
        source = next(column.source for column in [*columns, *expected] if column.name == name)
        raise DataError(
            f"{without.path}: no column {source!r}, found {', '.join(without.names)}, but "
            f"{with_it.path.name} has it. Give all files the same columns, or leave it unread: "
            f"--data.{name}_column null"
        )


def _weight(rows: Rows, weight_column: str | None) -> list[Column]:
    """Return the column of weights, if one is asked for."""
    if weight_column is None:
        return []
    source = _found(rows, weight_column)
    if source is None:
        raise DataError(
            f"{rows.path}: no column {weight_column!r}, found {', '.join(rows.names)}. "
            "Name another, or leave the option out: --data.weight_column NAME"
        )
    return [Column("weight", source, pa.float32(), "a number from 0 up", (0, LARGEST_VALUE))]


def _attributes(
    tables: list[Table], key: Column, bad: BadRows, reading: Reading
) -> tuple[pa.Table, dict[str, str]]:
    """Return the attributes, and remarks on them by name: what was guessed, and why one is left out."""
    format, files = FORMATS[tables[0].format], [table.rows for table in tables]
    columns, declared, remarks = [key], {}, {}
    for source in files[0].names:
        name, _, declared[name] = source.partition(":") if format.types_in_names else (source, "", "")
        if source == key.source:
            continue
        type = pa.string()
        if isinstance(files[0], ParquetFile) and name != "title":
            found = files[0].type_of(source)
            type = parquet_type(found)
            if type is None:
                remarks[name] = f"left out, as {found} is no {READABLE}"
        if type is not None:
            columns.append(Column(name, source, type, required=False))
    table = pa.concat_tables(read_table(rows, columns, bad) for rows in files)
    attributes = {key.name: table[key.name].combine_chunks()}
    for column in columns[1:]:
        name, values = column.name, table[column.name].combine_chunks()
        if name != "title" and not format.typed:
            typed = typed_text(name, values, reading, declared[name])
            values, remarks[name] = typed.values, typed.remark
        elif column.type == pa.float64():
            values = typed_numbers(name, values, reading)
        attributes[name] = values
    return pa.table(attributes), {name: remark for name, remark in remarks.items() if remark}
