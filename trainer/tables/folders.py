"""Folders of part files, as Spark, Hive, Delta, DuckDB and BigQuery leave them."""

import json
from collections.abc import Collection, Iterable, Iterator
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


MANIFEST, BUCKET = "_user_buckets.json", "user_bucket"
"""File that says that a folder is partitioned by user, and what its subfolders' names begin with; see
`trainer.storage.user_buckets`."""


def part_files(folder: Path, buckets: Collection[int] | None = None) -> list[Path]:
    """Return the files of a folder that hold rows, in the order of their names.

    As in Spark and Hive, a path of which any part begins with `_` or `.` is none of them: what a running or
    failed job leaves, checksums, logs. Neither are empty files.

    Args:
        folder: The folder.
        buckets: Of a folder that is partitioned by user, the buckets whose files are wanted; None: all.

    Raises:
        DataError: The folder is a table of several versions, whose old files are there too, or is empty.
    """
    _refuse_versions(folder)
    files = sorted(of_buckets(folder, visible_files(folder), buckets))
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        found = "empty files alone" if files else "no file"
        raise DataError(f"{folder}: the folder holds {found}. Put the part files there")
    return filled


def of_buckets(folder: Path, files: Iterable[Path], buckets: Collection[int] | None) -> Iterator[Path]:
    """Yield the files of some buckets, or all where the folder is not partitioned by user."""
    chosen = buckets is not None and (folder / MANIFEST).exists()
    names = {f"{BUCKET}={bucket}" for bucket in buckets or ()}
    return (file for file in files if not chosen or file.relative_to(folder).parts[0] in names)


def bucket_manifest(folder: Path) -> tuple[int, str] | None:
    """Return the buckets of a folder that is partitioned by user, and by what hash; None: it is not.

    Raises:
        DataError: The file that says so cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return int(found["buckets"]), str(found["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{path}: says neither `buckets` nor `hash`. Partition the folder anew, or remove this file and "
            "read all of it on each host"
        ) from None


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
