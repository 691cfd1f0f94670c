"""From a data configuration to the folder of its prepared form: choose the reader, fetch, prepare once.

Readers are imported when something has to be read, so that a second start is quick.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from trainer.config.schema import DataConfig
from trainer.dataset.build import Build, prepare
from trainer.dataset.split import Rule
from trainer.errors import DataError
from trainer.object_storage.copies import data_copy, holds_anything, object_facts
from trainer.object_storage.urls import is_url, local_path, tidy
from trainer.sources.schema import SourceTables
from trainer.storage import arrays
from trainer.tables.folders import of_buckets, visible_files

TABLES = ("interactions", "held_out", "impressions", "users", "items")
"""Options that name tables of the user's own."""
ATTRIBUTE_RULES = 2
"""Version of how attributes are read, so that those which an earlier version read otherwise are read anew."""


def prepare_data(
    data: DataConfig, validation_seed: int | None = None, build_with: Build | None = None
) -> Path:
    """Return the folder of the prepared data, which is written if it does not exist yet.

    Args:
        data: Data section of the configuration.
        validation_seed: Seed of the validation split alone, by default `data.split_seed`.
        build_with: What writes the folder in place of this process alone.

    Raises:
        DataError: Data are missing or cannot be read.
    """
    make_source, key = source_of(fetched(data))
    return prepare(
        make_source,
        key,
        cache_folder(data.cache),
        name=data.name,
        min_value=data.min_value,
        k_core=data.k_core,
        split=rule_of(data),
        test_size=data.test_size,
        validation_size=data.validation_size,
        split_seed=data.split_seed,
        validation_seed=validation_seed,
        order=data.order,
        repeats=data.repeats,
        negatives=data.negatives,
        attribute_kinds=data.attribute_kinds,
        build=build_with,
    )


def rule_of(data: DataConfig) -> Rule:
    """Return the rule of the split: a file of held-out interactions implies `given`."""
    return "given" if data.held_out and data.split != "none" else data.split


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
    return _with_vectors(data, *_source(data, buckets))


def read_source(data: DataConfig) -> SourceTables:
    """Return the tables of the source, which are read as its interactions are consumed.

    Raises:
        DataError: Data are missing or cannot be read.
    """
    make_source, _ = _source(fetched(data))
    return make_source()


def fetched(data: DataConfig) -> DataConfig:
    """Return a data section in which addresses of object stores are replaced by paths of local copies.

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
    given = {option: getattr(data, option) for option in TABLES}
    paths: dict[str, Any] = {
        option: _fetched(f"--data.{option}", path) for option, path in given.items() if path is not None
    }
    for option in ("user_vectors", "item_vectors"):
        paths[option] = {
            name: _fetched(f"--data.{option}.{name}", path) for name, path in getattr(data, option).items()
        }
    return replace(data, **paths)


def _fetched(option: str, place: str) -> str:
    return str(data_copy(option, place) if is_url(place) else local_path(place))


def cache_folder(cache: str | None) -> Path:
    """Return the folder of prepared data sets: the given one, or the user's cache."""
    if cache:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardtower"


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


def find_prepared(data: DataConfig, key: str) -> Path | None:
    """Return the prepared form with a key, if it stands in the folder of prepared data; else None."""
    for folder in cache_folder(data.cache).glob(f"{data.name}-*{key[:20]}"):
        if arrays.is_whole(folder) and arrays.read_meta(folder, "")["key"] == key:
            return folder
    return None


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
