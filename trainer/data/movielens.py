"""Official files of every MovieLens release, and the checked reading of files that `tables` builds on.

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

from trainer.data.source import BadRows, SourceTables
from trainer.errors import DataError

LARGEST_ID = 2**63 - 1
BLOCK_BYTES = 4 << 20  # a line must fit
GENRES = (  # noqa: SIM905 - the order of u.genre, and of the flags in u.item
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
AGE_GROUPS = np.array([1, 18, 25, 35, 45, 50, 56])  # lower ends of the age groups of ml-1m


@dataclass(frozen=True)
class Column:
    """A column to read, and the rule that its values keep.

    Attributes:
        name, type: in the record batches that are returned.
        source: name in the file.
        rule: completes `expected ...` in an error.
        bounds: smallest and largest value; None: any that can be converted, and any string but an empty one.
        required: a value that breaks the rule makes its row a bad one; otherwise it is read as null.
    """

    name: str
    source: str
    type: pa.DataType
    rule: str = ""
    bounds: tuple[float, float] | None = None
    required: bool = True

    def read(self, raw: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Converted values, null where they break the rule, and which keep it (boolean, no nulls)."""
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
    """`raw` as `type`, null where a value cannot be converted."""
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
        separator: one character, or `::`. With a comma, fields may stand in double quotes.
        given_names: of the fields; None: the first line names them.
        nulls: texts that stand for a missing value.

    Raises: DataError if there is no such file, or nothing in it.
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
        """The fields `names` as strings, in file order, BLOCK_BYTES of text at a time."""
        self.malformed.clear()
        try:
            with self._open(names) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.path}: {error}. Mend the file") from None

    def position(self, row: int) -> int:
        """Line, from 1, of row `row`, from 0, among those with the right number of fields."""
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
    """Replaces `::`, which pyarrow cannot split at, in chunks of which one may end between the colons."""
    held = b""

    def transform(chunk: pa.Buffer) -> bytes:
        nonlocal held
        text, held = held + memoryview(chunk), b""
        if len(chunk) and text.endswith(b":") and not text.endswith(b"::"):
            text, held = text[:-1], b":"
        return text.replace(b"::", b"\x1f")

    return transform


class ParquetFile:
    """Rows of a Parquet file. Raises: DataError if it cannot be read."""

    malformed: ClassVar[list[int]] = []  # no row of Parquet has a wrong number of fields
    malformed_fault = ""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = parquet.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: {error}. Put the whole Parquet file there") from None
        self.names: list[str] = self.file.schema_arrow.names

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        return self.file.iter_batches(columns=names)

    def position(self, row: int) -> int:
        return row + 1


def checked(rows: TextFile | ParquetFile, columns: list[Column], bad: BadRows) -> Iterator[pa.RecordBatch]:
    """Rows whose required columns keep their rules, converted, in file order.

    Raises: DataError if a column is missing; under the policy `error`, at the end of the file, when all bad
        rows are counted. No row behind the block of the first bad one is returned before.
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
    """`checked` rows as one table, a chunk a column."""
    return pa.Table.from_batches(checked(rows, columns, bad), _schema(columns)).combine_chunks()


def _schema(columns: list[Column]) -> pa.Schema:
    return pa.schema([(column.name, column.type) for column in columns])


@dataclass(frozen=True)
class Release:
    """Names and form of the files of a release; those with commas have a header."""

    ratings: str = "ratings.csv"
    items: str = "movies.csv"
    users: str | None = None
    separator: str = ","
    encoding: str = "utf8"


RELEASES = {
    "ml-100k": Release("u.data", "u.item", "u.user", "|", "latin-1"),
    "ml-1m": Release("ratings.dat", "movies.dat", "users.dat", "::", "latin-1"),
    "ml-10m": Release("ratings.dat", "movies.dat", None, "::"),
    **dict.fromkeys(("ml-20m", "ml-25m", "ml-32m", "ml-latest-small"), Release()),
}


def read_movielens(name: str, folder: Path, bad_rows: Literal["error", "skip"]) -> SourceTables:
    """Interactions and attributes of the release `name`, whose files lie in `folder`.

    Users have `gender`, `age` (lower end of the age group), `occupation` and `zip_prefix`; movies `title`,
    `genres` (list) and `release_year`. `zip_prefix` is the first two characters: with three, 59% of ml-100k's
    users share theirs with fewer than four others, too few to learn from; with two, 10%.
    `interactions.parquet` (`user_id`, `movie_id`, perhaps `rating`, `timestamp`) stands in for the ratings.

    Raises: DataError if the ratings are missing; for a bad line as `bad_rows` says.
    """
    release, bad = RELEASES[name], BadRows(bad_rows)
    stand_in, ratings = folder / "interactions.parquet", folder / release.ratings
    if not stand_in.is_file() and not ratings.is_file():
        remedy = "Put it there, or have it fetched: --data.source auto"
        raise DataError(f"{ratings}: there is no such file, a part of the MovieLens release {name}. {remedy}")
    with_header = release.separator == "," and not stand_in.is_file()
    columns = [
        _id("user_id", "userId" if with_header else "user_id"),
        _id("item_id", "movieId" if with_header else "movie_id"),
        Column("value", "rating", pa.float32(), "a number from 0.5 to 5", (0.5, 5)),
        TIMESTAMP,
    ]
    if stand_in.is_file():
        rows: TextFile | ParquetFile = ParquetFile(stand_in)
        columns = columns[:2] + [column for column in columns[2:] if column.source in rows.names]
    else:
        separator = "\t" if name == "ml-100k" else release.separator
        rows = TextFile(ratings, separator, None if with_header else [column.source for column in columns])
    user_path, item_path = folder / (release.users or ""), folder / release.items
    users = _users(name, user_path, bad) if user_path.is_file() else None
    items = _items(name, item_path, bad) if item_path.is_file() else None
    return SourceTables(checked(rows, columns, bad), None, users, items, "movie", bad)


def _id(name: str, source: str) -> Column:
    return Column(name, source, pa.int64(), f"a whole number from 0 to {LARGEST_ID}", (0, LARGEST_ID))


def _attribute(name: str, type: pa.DataType) -> Column:
    return Column(name, name, type, required=False)


def _users(name: str, path: Path, bad: BadRows) -> pa.Table:
    first, second = ("age", "gender") if name == "ml-100k" else ("gender", "age")
    rows = TextFile(path, RELEASES[name].separator, ["user_id", first, second, "occupation", "zip_code"])
    occupation = pa.string() if name == "ml-100k" else pa.int64()  # ml-1m has codes from 0 to 20
    types = {"gender": pa.string(), "age": pa.int64(), "occupation": occupation, "zip_code": pa.string()}
    table = read_table(rows, [_id("user_id", "user_id"), *map(_attribute, types, types.values())], bad)
    groups = AGE_GROUPS.searchsorted(table["age"].fill_null(0), side="right") - 1
    ages = pc.if_else(table["age"].is_valid(), AGE_GROUPS[groups.clip(0)], None)
    prefixes = pc.utf8_slice_codeunits(table["zip_code"], 0, 2)
    return table.set_column(2, "age", ages).set_column(4, "zip_prefix", prefixes)


def _items(name: str, path: Path, bad: BadRows) -> pa.Table:
    release = RELEASES[name]
    with_header = release.separator == ","
    names = ["movieId" if with_header else "movie_id", "title", "genres"]
    if name == "ml-100k":
        names[2:] = ["date", "video_date", "url", *GENRES]
    rows = TextFile(path, release.separator, None if with_header else names, release.encoding)
    attributes = [_attribute(name, pa.string()) for name in names[1:]]
    table = read_table(rows, [_id("item_id", names[0]), *attributes], bad)
    year = pc.struct_field(pc.extract_regex(table["title"], r"\((?P<year>[0-9]{4})[^()]*\)\s*$"), "year")
    if name == "ml-100k":
        # A title tells when its film came out; the date is that of the release in the United States.
        year = pc.coalesce(year, pc.struct_field(pc.extract_regex(table["date"], "(?P<y>[0-9]{4})$"), "y"))
        flags = np.stack([pc.equal(table[genre], "1").fill_null(False) for genre in GENRES[1:]], 1)
        lengths, values = flags.sum(1), pa.array(np.array(GENRES[1:])[flags.nonzero()[1]])
    else:
        lists = pc.split_pattern(table["genres"], "|").combine_chunks()
        lists = pc.if_else(pc.equal(table["genres"], "(no genres listed)"), None, lists).combine_chunks()
        lengths, values = pc.list_value_length(lists).fill_null(0), lists.flatten()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = [table["item_id"], table["title"], pa.ListArray.from_arrays(offsets, values)]
    return pa.table([*columns, year.cast(pa.int64())], ["item_id", "title", "genres", "release_year"])
