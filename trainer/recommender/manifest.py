"""The files of an export and its manifest, and the refusal of what is foreign or damaged."""

import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.errors import UserError

FORMAT, VERSION = "shardtower-export", 1
"""Format that a manifest names, and its version; a folder of another one is not opened."""
MANIFEST, CARD = "manifest.json", "README.md"
ITEMS, ITEM_VECTORS, ITEM_VECTOR_TABLE = "items.parquet", "item_vectors.npy", "item_vectors.parquet"
USERS, USER_VECTORS = "users.parquet", "user_vectors.npy"
ITEM_SCALE, USER_SCALE = "item_vectors_scale.npy", "user_vectors_scale.npy"
PAST, DISLIKED = "user_items", "user_disliked"
"""Beginnings of the names of two files each, offsets and values: item rows of each user."""
COUNTED = "user_items_counted.npy"
"""Which items of each user the closed-form part of the query vector is made of, bool."""
HISTORY_COLUMNS = "history_columns.npy"
PROGRAM, CATEGORIES = "query.pt2", "user_categories.json"
WEIGHTS, INDEX = "weights.safetensors", "index.faiss"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export.

    Raises:
        UserError: The folder is missing, is no export, or is one of another format or version.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Write one: python -m trainer export RUN {folder}")
    if not path.is_file():
        raise UserError(f"{folder}: no export (it has no {MANIFEST}). Name a folder that `export` wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"], manifest["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error!r}). Export the run again, with --replace") from None
    if found[0] != FORMAT:
        raise UserError(f"{path}: of the format {found[0]!r}, expected {FORMAT!r}. Name an export of ours")
    if found[1] != VERSION:
        raise UserError(
            f"{path}: of version {found[1]} of the format, and this program reads {VERSION}. Export the run "
            "again, or open it with the program that wrote it"
        )
    if manifest.pop("own_sha256", None) != digest(manifest):
        raise UserError(f"{path}: is not as it was written. Export the run again, with --replace")
    return manifest


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse an export with a file that is missing or damaged.

    Raises:
        UserError: The message names the first such file; all sizes are compared before any file is hashed.
    """
    again = "Bring it back, or export the run again, with --replace"
    for name, facts in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise UserError(f"{path}: is missing. {again}")
        if size != facts["bytes"]:
            raise UserError(f"{path}: has {size:,} bytes, expected {facts['bytes']:,}. {again}")
    for name, facts in manifest["files"].items():
        if file_sha256(folder / name) != facts["sha256"]:
            raise UserError(f"{folder / name}: is not as it was written (its SHA-256 differs). {again}")


def digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own, in hexadecimal."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
