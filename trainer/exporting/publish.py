"""Publishing an export: written beside its place, then moved there at once."""

import ctypes
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.atomic_write import naming
from trainer.errors import UserError
from trainer.recommender.manifest import FORMAT, MANIFEST, digest, file_sha256, read_manifest

EXCHANGE, HERE = 2, -100
"""RENAME_EXCHANGE and AT_FDCWD of renameat2 (Linux)."""


def check_place(folder: Path, replace: bool) -> None:
    """Refuse a place that is taken.

    Raises:
        UserError: An export is there and may not be replaced, or something that is none.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: is no folder of its own. Name another place")
    try:
        read_manifest(folder)
    except UserError:
        if not replace or not _was_export(folder):
            raise UserError(f"{folder}: holds what is no export of ours. Name another folder") from None
    if not replace:
        raise UserError(f"{folder}: holds an export. Replace it with --replace, or name another folder")


def _was_export(folder: Path) -> bool:
    """Return whether a folder's manifest, damaged or of another version, says that it is an export."""
    path = folder / MANIFEST
    return path.is_file() and FORMAT in path.read_text(encoding="utf-8", errors="replace")


@contextmanager
def published(folder: Path, replace: bool) -> Iterator[Path]:
    """Give a temporary folder that takes the place of `folder`, or is removed if the block fails.

    An earlier export stays until the new one is whole; the two change places in one step where the system
    can.

    Raises:
        UserError: The place is taken, or cannot be written to.
    """
    check_place(folder, replace)
    _remove_leftovers(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}). Name another folder") from error
    try:
        with naming(folder.parent):
            yield temporary
            check_place(folder, replace)
            _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what exports to the same place have left whose processes were killed."""
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # of another user
    return True


def _move(new: Path, place: Path) -> None:
    """Move a folder to its place; what was there is left where the new one was, or removed."""
    if not place.exists() or not any(place.iterdir()):
        os.replace(new, place)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2") and not libc.renameat2(
        HERE, os.fsencode(new), HERE, os.fsencode(place), EXCHANGE
    ):
        return
    old = new.with_suffix(".old")
    os.replace(place, old)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of a folder that is otherwise whole, with size and SHA-256 of every file."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = json.loads(json.dumps(manifest | {"files": files}))
    text = json.dumps(manifest | {"own_sha256": digest(manifest)}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest
