"""Files of raw ids: one a line, or a column of CSV or Parquet."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from trainer.errors import UserError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Separator of files that have a header, by suffix."""


def read_ids(path: Path, option: str, names: Sequence[str]) -> pa.Array:
    """Return the raw ids of a file, (n,) integers or strings, each once.

    A Parquet file, or one that ends in `.csv` or `.tsv` and begins with a header, has them in its only column
    or in one of `names`; any other file has one id a line.

    Args:
        path: The file.
        option: Option that named it, for messages.
        names: Columns that may hold the ids, the best first.

    Raises:
        UserError: The file cannot be read, or none of its columns holds ids.
    """
    if not path.is_file():
        raise UserError(f"{option} {path}: no such file. Name a file of raw ids, one a line")
    try:
        ids = _column(path, option, names)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{option} {path}: cannot be read ({first}). Name a file of raw ids") from None
    ids = pc.unique(ids).drop_null()
    if not len(ids):
        raise UserError(f"{option} {path}: holds no ids. Name a file of raw ids, one a line")
    return ids


def _column(path: Path, option: str, names: Sequence[str]) -> pa.Array:
    """Return the ids as they stand in the file."""
    if path.suffix == ".parquet":
        schema = pq.read_schema(path)
        name = _name(schema.names, path, option, names)
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{option} {path}: column {name} holds {kind}. Ids are whole numbers or texts")
        ids = pq.read_table(path, columns=[name])[name].combine_chunks()
        return ids.cast(pa.int64() if pa.types.is_integer(kind) else pa.string())
    if path.suffix in SEPARATORS:
        parse = csv.ParseOptions(delimiter=SEPARATORS[path.suffix])
        with csv.open_csv(path, parse_options=parse) as reader:
            name = _name(reader.schema.names, path, option, names)
        convert = csv.ConvertOptions(include_columns=[name], column_types={name: pa.string()})
        return csv.read_csv(path, parse_options=parse, convert_options=convert)[name].combine_chunks()
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return pa.array([line.strip() for line in lines if line.strip()], pa.string())


def _name(columns: list[str], path: Path, option: str, names: Sequence[str]) -> str:
    """Return the column that holds the ids."""
    for name in columns if len(columns) == 1 else names:
        if name in columns:
            return name
    raise UserError(
        f"{option} {path}: no column {' or '.join(names)}. It has: {', '.join(columns)}. Rename the column "
        "of ids, or write them one a line into a file that ends in .txt"
    )
