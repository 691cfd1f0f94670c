"""From a data configuration to its source: which reader, where the files are, and what identifies them.

Readers are imported when something has to be read, so that a second start is quick.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from trainer.config.schema import DataConfig
from trainer.errors import DataError, StorageError
from trainer.object_storage.copies import data_copy, holds_anything, object_facts
from trainer.object_storage.urls import is_url, local_path, tidy
from trainer.sources.schema import SourceTables
from trainer.tables.folders import BUCKET, MANIFEST, bucket_manifest, of_buckets, visible_files

TABLES = ("interactions", "held_out", "impressions", "users", "items")
"""Options that name tables of the user's own."""
ATTRIBUTE_RULES = 2
"""Version of how attributes are read, so that those which an earlier version read otherwise are read anew."""


def source_of(
    data: DataConfig, buckets: Collection[int] | None = None
) -> tuple[Callable[[], SourceTables], dict[str, Any]]:
    """Return how to read the raw data, and what identifies them.

    Args:
        data: Data section of the configuration.
        buckets: Of folders that are partitioned by user, the buckets to read; None: all.

    Raises:
        DataError: Data are missing.
    """
    data = fetched(data, buckets)
    return _with_vectors(data, *_source(data, buckets))


def read_source(data: DataConfig) -> SourceTables:
    """Return the tables of the source, which are read as its interactions are consumed.

    Raises:
        DataError: Data are missing or cannot be read.
    """
    make_source, _ = _source(fetched(data))
    return make_source()


def buckets_on_disk(data: DataConfig) -> tuple[int, str] | None:
    """Return the buckets of interactions that are partitioned by user, and by what hash; None: they are not.

    Raises:
        DataError: The file that says so cannot be read.
    """
    if data.name != "files" or data.interactions is None:
        return None
    folder = local_path(data.interactions)
    if is_url(data.interactions):
        with suppress(StorageError):  # there is no such file, or what is wrong shows as data are fetched
            folder = data_copy("--data.interactions", data.interactions, MANIFEST.__eq__)
    return bucket_manifest(folder) if folder.is_dir() else None


def fetched(data: DataConfig, buckets: Collection[int] | None = None) -> DataConfig:
    """Return a data section in which addresses of object stores are replaced by paths of local copies.

    Args:
        data: Data section of the configuration.
        buckets: Of interactions that are partitioned by user, the buckets to fetch; None: all.

    Raises:
        DataError: The cache is such an address; it is memory-mapped.
        StorageError: Data are not there, or the store fails.
    """
    if data.cache is not None and is_url(data.cache):
        raise DataError(
            f"--data.cache {data.cache}: prepared data are memory-mapped. Name a folder on a disk"
        )
    if data.name != "files":
        if data.name == "synthetic" or not is_url(data.root):
            return replace(data, root=str(local_path(data.root)))
        return replace(data, root=str(data_copy("--data.root", f"{tidy(data.root)}/{data.name}").parent))
    folders = None if buckets is None else {MANIFEST, *(f"{BUCKET}={bucket}" for bucket in buckets)}
    paths: dict[str, Any] = {}
    for option in TABLES:
        if (place := getattr(data, option)) is not None:
            of_own = folders if option == "interactions" else None
            paths[option] = _fetched(f"--data.{option}", place, of_own)
    for option in ("user_vectors", "item_vectors"):
        paths[option] = {
            name: _fetched(f"--data.{option}.{name}", path) for name, path in getattr(data, option).items()
        }
    return replace(data, **paths)


def _fetched(option: str, place: str, folders: Collection[str] | None = None) -> str:
    """Return the path of a place; of an address, with what is in some of its folders, or in all."""
    if not is_url(place):
        return str(local_path(place))
    only = None if folders is None else lambda name: name.partition("/")[0] in folders
    return str(data_copy(option, place, only))


def _source(
    data: DataConfig, buckets: Collection[int] | None = None
) -> tuple[Callable[[], SourceTables], dict[str, Any]]:
    """Return how to read the raw data, and what identifies them."""
    if data.name == "synthetic":
        size = (data.synthetic_users, data.synthetic_items, data.synthetic_interactions, data.synthetic_seed)
        return lambda: _synthesised(*size), {"synthetic": size}
    if data.name == "files":
        return _tables(data, buckets)
    from trainer.sources.download import ensure_movielens

    folder = ensure_movielens(data.name, Path(data.root), data.source)
    key = {"movielens": data.name, "files": _fingerprint("--data.root", folder), "bad_rows": data.bad_rows}
    return lambda: _movielens(data.name, folder, data.bad_rows), key


def _with_vectors(
    data: DataConfig, make_source: Callable[[], SourceTables], key: dict[str, Any]
) -> tuple[Callable[[], SourceTables], dict[str, Any]]:
    """Return the same with the dense vectors that stand in files of their own."""
    given = {"user": data.user_vectors, "item": data.item_vectors}
    if not any(given.values()):
        return make_source, key
    from trainer.sources.vector_files import files_of, read_vectors

    paths = {
        (side, name, f"--data.{side}_vectors.{name}"): Path(path)
        for side, files in given.items()
        for name, path in files.items()
    }
    vectors = {
        option: [_fingerprint(option, file) for file in files_of(path)]
        for (_, _, option), path in paths.items()
    }

    def read() -> SourceTables:
        tables: dict[str, dict[str, Any]] = {"user": {}, "item": {}}
        for (side, name, option), path in paths.items():
            tables[side][name] = read_vectors(option, path)
        return replace(make_source(), vectors=tables)

    return read, key | {"vectors": vectors}


def _synthesised(*size: int) -> SourceTables:
    from trainer.sources.synthetic import synthesise

    return synthesise(*size)


def _movielens(name: str, folder: Path, bad_rows: Literal["error", "skip"]) -> SourceTables:
    from trainer.sources.movielens import read_movielens

    return read_movielens(name, folder, bad_rows)


def _tables(
    data: DataConfig, buckets: Collection[int] | None = None
) -> tuple[Callable[[], SourceTables], dict[str, Any]]:
    """Return the same for tables of the user's own."""
    paths = {option: Path(path) for option in TABLES if (path := getattr(data, option)) is not None}
    columns: dict[str, Any] = {
        "user_column": data.user_column,
        "item_column": data.item_column,
        "value_column": data.value_column,
        "timestamp_column": data.timestamp_column if data.order == "time" else None,
        "encoding": data.encoding,
        "separator": data.separator,
        "columns": data.columns or None,
    }
    if data.weight_column is not None:  # so that other data keep their keys
        columns["weight_column"] = data.weight_column
    columns |= {side: names for side in ("user_columns", "item_columns") if (names := getattr(data, side))}
    key: dict[str, Any] = {
        option: _fingerprint(f"--data.{option}", path, buckets) for option, path in paths.items()
    }

    def read() -> SourceTables:
        from trainer.sources.attribute_columns import Reading
        from trainer.sources.files import read_tables

        return read_tables(
            data.format,
            paths["interactions"],
            paths.get("held_out"),
            paths.get("users"),
            paths.get("items"),
            bad_rows=data.bad_rows,
            reading=Reading(data.attribute_kinds, data.list_separator),
            impressions=paths.get("impressions"),
            buckets=buckets,
            **columns,
        )

    key |= columns | {"format": data.format, "bad_rows": data.bad_rows}
    if data.users or data.items:
        key |= {"list_separator": data.list_separator, "attribute_rules": ATTRIBUTE_RULES}
    return read, key


def _fingerprint(
    option: str, path: Path, buckets: Collection[int] | None = None
) -> Sequence[tuple[str, int, int | str]]:
    """Return name, size and modification time of a file, or of every file in a folder that holds rows.

    Of a local copy, those of its objects, so that hosts with other caches find the same.
    """
    if facts := object_facts(path):
        return facts
    if not path.exists():
        raise DataError(f"{option} {path}: no such file. Name an existing one")
    files = sorted(of_buckets(path, visible_files(path), buckets)) if path.is_dir() else [path]
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def raw_data_are_there(data: DataConfig) -> bool:
    """Return whether all files that a preparation would read are where the configuration says."""
    if data.name == "synthetic":
        return True
    files = [getattr(data, option) for option in TABLES]
    if data.name != "files":
        files = [f"{tidy(data.root)}/{data.name}"]
    return all(_is_there(path) for path in files if path is not None)


def _is_there(place: str) -> bool:
    return holds_anything(place) if is_url(place) else local_path(place).exists()
