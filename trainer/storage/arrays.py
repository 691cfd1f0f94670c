"""Folders of memory-mapped arrays, written under a temporary name and published by a rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock

from trainer.atomic_write import naming, replaced
from trainer.errors import DataError
from trainer.storage.attributes import Ragged

FORMAT = 3  # of the files; part of a prepared data set's key, so that one in an older format is made anew


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from the block while this one makes `folder`; they wait, in their own `locked`.

    The file of the lock is removed in the end, also where the block fails. Who waits for it sees that it is
    gone, and takes a new one.

    Raises:
        OSError: The file cannot be written.
    """
    path = folder.with_name(f"{folder.name}.lock")
    with FileLock(path):
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of `folder`, or is removed if the block fails.

    A partial folder left by an earlier process is removed first. The caller must ensure that only one process
    at a time publishes `folder`, see `locked`.

    Raises:
        OSError: The folder cannot be written; on a full disk it names the folder above.
    """
    temporary = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with naming(folder.parent):
            yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def write_meta(folder: Path, meta: dict) -> None:
    """Write `meta.json`, which marks the folder as complete and records the size of every file in it."""
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    text = json.dumps({"format": FORMAT, **meta, "files": files}, indent=1)
    (folder / "meta.json").write_text(text, encoding="utf-8")


def read_meta(folder: Path, remedy: str) -> dict:
    """Return what `write_meta` was given.

    Raises:
        DataError: The folder is not whole; the message ends with `remedy`.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: meta.json is missing or cannot be read. {remedy}") from error
    if meta["format"] != FORMAT:
        raise DataError(f"{folder}: written in format {meta['format']}, expected {FORMAT}. {remedy}")
    for name, size in meta["files"].items():
        path = folder / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes, expected {size:,}"
            raise DataError(f"{path}: {state}. {remedy}")
    return meta


def is_whole(folder: Path) -> bool:
    """Return whether all files are there in full."""
    try:
        read_meta(folder, "")
    except DataError:
        return False
    return True


def map_array(folder: Path, name: str) -> np.ndarray | None:
    """Return the array saved as `name`.npy, memory-mapped and read-only, or None if there is none."""
    path = folder / f"{name}.npy"
    # A plain view of the map: arithmetic on numpy's memmap class is slower.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) if path.exists() else None


def keep_array(path: Path, array: np.ndarray) -> None:
    """Save an array atomically; do nothing where the folder cannot be written to."""
    with suppress(OSError), replaced(path) as beside, beside.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_ragged(folder: Path, name: str, ragged: Ragged) -> None:
    """Save `ragged` as two arrays."""
    np.save(folder / f"{name}_offsets.npy", ragged.offsets)
    np.save(folder / f"{name}_values.npy", ragged.values)


def map_ragged(folder: Path, name: str) -> Ragged:
    """Return what `write_ragged` saved, memory-mapped."""
    offsets, values = map_array(folder, f"{name}_offsets"), map_array(folder, f"{name}_values")
    assert offsets is not None
    assert values is not None
    return Ragged(offsets, values)


def write_ids(folder: Path, side: str, ids: pa.Array, titles: pa.Array | None) -> None:
    """Save raw ids, and titles where there are any, as an Arrow file."""
    columns = {"id": ids} if titles is None else {"id": ids, "title": titles}
    batch = pa.record_batch(columns)
    with pa.ipc.new_file(folder / f"{side}s.arrow", batch.schema) as file:
        file.write_batch(batch)


def write_column(folder: Path, name: str, values: pa.Array) -> None:
    """Save one column as an Arrow file."""
    batch = pa.record_batch({"value": values})
    with pa.ipc.new_file(folder / f"{name}.arrow", batch.schema) as file:
        file.write_batch(batch)


def map_column(folder: Path, name: str) -> pa.Array:
    """Return what `write_column` saved, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).get_batch(0).column("value")


def map_ids(folder: Path, side: str) -> tuple[pa.Array, pa.Array | None]:
    """Return the raw ids and titles that `write_ids` saved, memory-mapped."""
    batch = pa.ipc.open_file(pa.memory_map(str(folder / f"{side}s.arrow"))).get_batch(0)
    return batch.column("id"), batch.column("title") if "title" in batch.schema.names else None


def write_table(folder: Path, name: str, table: pa.Table) -> None:
    """Save a table as an Arrow file."""
    with pa.ipc.new_file(folder / f"{name}.arrow", table.schema) as file:
        file.write_table(table)


def map_table(folder: Path, name: str) -> pa.Table | None:
    """Return what `write_table` saved, memory-mapped; None if there is none."""
    path = folder / f"{name}.arrow"
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all() if path.exists() else None
