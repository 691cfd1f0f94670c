"""Folders of part files, as Spark, Hive, Delta, DuckDB and BigQuery leave them."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from trainer.errors import DataError

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
TABLE_LOGS = {
    "_delta_log": "Delta",
    ".hoodie": "Hudi",
    "metadata": "Iceberg",
}
"""Folders that say which part files of a table count, by the kind of table."""


def part_files(folder: Path) -> list[Path]:
    """Return the files of a folder that hold rows, in the order of their names.

    As in Spark and Hive, a path of which any part begins with `_` or `.` is none of them: what a running or
    failed job leaves, checksums, logs. Neither are empty files.

    Raises:
        DataError: The folder is a table of several versions, whose old files are there too, or is empty.
    """
    _refuse_versions(folder)
    files = sorted(visible_files(folder))
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        found = "empty files alone" if files else "no file"
        raise DataError(f"{folder}: the folder holds {found}. Put the part files there")
    return filled


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files in and below a folder, but for paths with a part that begins with `_` or `.`.

    Raises:
        DataError: A link in it leads nowhere, or round in a circle.
    """
    for path in folder.iterdir():
        if path.name.startswith(("_", ".")):
            continue
        if path.is_dir():
            yield from visible_files(path)
        elif path.exists():
            yield path
        else:
            shown = str(path) if len(str(path)) < 200 else f"{str(path)[:200]}..."
            raise DataError(f"{shown}: is a link that leads nowhere. Remove it, or mend it")


def _refuse_versions(folder: Path) -> None:
    for name, kind in TABLE_LOGS.items():
        log = folder / name
        if not log.is_dir() or (kind == "Iceberg" and not list(log.glob("*.metadata.json"))):
            continue
        if kind == "Delta" and len(list(log.glob("*.json"))) == 1 and not list(log.glob("*.parquet")):
            continue  # a table that was written once: all its files count
        raise DataError(
            f"{folder}: is a {kind} table of several versions, whose part files hold deleted rows too. "
            "Write its present rows into a folder of plain Parquet, and name that"
        )


def partition_values(folder: Path, file: Path) -> dict[str, str | None]:
    """Return the columns that folders such as `day=2020-09-17` below `folder` give the rows of a file."""
    parts = [part.partition("=") for part in file.parent.relative_to(folder).parts]
    given = {name: value for name, equals, value in parts if equals}
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, value in given.items()}
