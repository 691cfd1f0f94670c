"""From a data configuration to the folder of its prepared form: choose the reader, fetch, prepare once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.config import DataConfig
from trainer.data.dataset import prepare
from trainer.data.download import ensure_movielens
from trainer.data.movielens import read_movielens
from trainer.data.source import SourceTables
from trainer.data.synthetic import synthesise
from trainer.data.tables import read_tables
from trainer.errors import DataError


def prepare_data(data: DataConfig, validation_seed: int | None = None) -> Path:
    """Folder of the prepared form, made where it is not there yet.

    Args: validation_seed: of the validation part alone, by default `data.split_seed`.

    Raises: DataError for data that are missing or cannot be read.
    """
    make_source, key = _source(data)
    return prepare(
        make_source,
        key,
        cache_folder(data.cache),
        name=data.name,
        min_value=data.min_value,
        k_core=data.k_core,
        split="given" if data.held_out else data.split,
        test_size=data.test_size,
        validation_size=data.validation_size,
        split_seed=data.split_seed,
        validation_seed=validation_seed,
    )


def cache_folder(cache: str | None) -> Path:
    """Folder of prepared data sets: the given one, or the user's cache."""
    if cache:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardtower"


def _source(data: DataConfig) -> tuple[Callable[[], SourceTables], dict[str, Any]]:
    """How to read the raw data, and what identifies them."""
    if data.name == "synthetic":
        size = (data.synthetic_users, data.synthetic_items, data.synthetic_interactions, data.synthetic_seed)
        return lambda: synthesise(*size), {"synthetic": size}
    if data.name == "files":
        paths = {
            option: Path(path)
            for option in ("interactions", "held_out", "users", "items")
            if (path := getattr(data, option)) is not None
        }
        columns = {
            "user_column": data.user_column,
            "item_column": data.item_column,
            "value_column": data.value_column,
            "timestamp_column": data.timestamp_column,
        }
        key = {option: _fingerprint(f"--data.{option}", path) for option, path in paths.items()}
        return (
            lambda: read_tables(
                data.format,
                paths["interactions"],
                paths.get("held_out"),
                paths.get("users"),
                paths.get("items"),
                bad_rows=data.bad_rows,
                **columns,
            ),
            key | columns | {"format": data.format, "bad_rows": data.bad_rows},
        )
    folder = ensure_movielens(data.name, Path(data.root), data.source)
    key = {"movielens": data.name, "files": _fingerprint("--data.root", folder), "bad_rows": data.bad_rows}
    return lambda: read_movielens(data.name, folder, data.bad_rows), key


def _fingerprint(option: str, path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of every file in a folder."""
    if not path.exists():
        raise DataError(f"{option} {path}: no such file. Name an existing one")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
