"""A cache of the vectors that a run ranks with, next to its checkpoints. Nothing here imports torch."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.runs.checkpoint_store import SavedCheckpoint, file_digest
from trainer.storage import arrays

FOLDER, SUMS = "vectors", "sha256.json"
VERSION = 2
"""Version of the computation from weights to vectors; vectors of another one are not read."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of all users and items; the score of an item for a user is the dot product of their rows.

    Attributes:
        users: (users, D) float32 query vectors, in the order of the vocabulary.
        items: (items, D) float32 candidate vectors, bias and temperature included.
        histories: (items, C) float32 closed-form columns of the query vector of someone who has one item, the
            last C of D; C is 0 where the run has none.
    """

    users: np.ndarray
    items: np.ndarray
    histories: np.ndarray


def open_vectors(run: Path, saved: SavedCheckpoint) -> Vectors | None:
    """Open the vectors of a checkpoint, memory-mapped; None if they are missing or damaged."""
    folder, names = run / FOLDER, _names(saved)
    with suppress(OSError, ValueError):
        if json.loads((folder / SUMS).read_text()) == _sums(folder, names):
            users, items, histories = (arrays.map_array(folder, name) for name in names)
            assert users is not None
            assert items is not None
            assert histories is not None
            return Vectors(users, items, histories)
    return None


def save_vectors(run: Path, saved: SavedCheckpoint, vectors: Vectors) -> None:
    """Replace the cached vectors by those of a checkpoint; do nothing where they cannot be written."""
    folder = run / FOLDER
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        for other in folder.glob("*.npy"):
            other.unlink()
        kept = vectors.users, vectors.items, vectors.histories
        for name, array in zip(_names(saved), kept, strict=True):
            arrays.keep_array(folder / f"{name}.npy", array)
        (folder / SUMS).write_text(json.dumps(_sums(folder, _names(saved))))


def _names(saved: SavedCheckpoint) -> list[str]:
    return [f"{side}-{VERSION}-{saved.digest[:20]}" for side in ("users", "items", "histories")]


def _sums(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: file_digest(folder / f"{name}.npy") for name in names}
