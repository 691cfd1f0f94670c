"""Official files of every MovieLens release."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError
from trainer.sources.schema import BadRows, SourceTables
from trainer.tables.checked import checked, read_table
from trainer.tables.column_rules import LARGEST_ID, Column
from trainer.tables.delimited import TextFile
from trainer.tables.parquet_file import ParquetFile
from trainer.tables.times import TIMESTAMP

GENRES = (  # noqa: SIM905 - the order of u.genre, and of the flags in u.item
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
AGE_GROUPS = np.array([1, 18, 25, 35, 45, 50, 56])  # lower ends of the age groups of ml-1m


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
    """Read interactions and attributes of the release `name`, whose files are in `folder`.

    Users have `gender`, `age` (lower end of the age group), `occupation` and `zip_prefix`; movies `title`,
    `genres` (list) and `release_year`. `zip_prefix` is the first two characters: with three, 59% of ml-100k's
    users share theirs with fewer than four others, too few to learn from; with two, 10%.
    `interactions.parquet` (`user_id`, `movie_id`, perhaps `rating`, `timestamp`) stands in for the ratings.

    Raises:
        DataError: The ratings are missing, or a line is bad and `bad_rows` is `error`.
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
