"""The vectors that a run ranks with, kept beside its checkpoints. Nothing here needs towers or torch."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data import storage
from trainer.training.published import Saved

FOLDER = "vectors"
VERSION = 1  # of what towers make of weights; vectors of another one are made anew


@dataclass(frozen=True)
class Vectors:
    """What ranks the catalogue: the score of an item for a user is the dot product of their rows.

    Attributes:
        users: (users, D) float32 query vectors, in the order of the vocabulary.
        items: (items, D) float32 candidate vectors, bias and temperature included.
    """

    users: np.ndarray
    items: np.ndarray


def open_vectors(run: Path, saved: Saved) -> Vectors | None:
    """Vectors of a checkpoint, memory-mapped; None: they are not kept."""
    with suppress(OSError, ValueError):  # a file that is cut off cannot be mapped
        users, items = (storage.map_array(run / FOLDER, _name(side, saved)) for side in ("users", "items"))
        if users is not None and items is not None:
            return Vectors(users, items)
    return None


def keep_vectors(run: Path, saved: Saved, vectors: Vectors) -> None:
    """Keep the vectors of a checkpoint in place of an earlier one's; not where they cannot be written."""
    folder = run / FOLDER
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        for other in folder.glob("*.npy"):
            other.unlink()
        for side in ("users", "items"):
            storage.keep_array(folder / f"{_name(side, saved)}.npy", getattr(vectors, side))


def _name(side: str, saved: Saved) -> str:
    return f"{side}-{VERSION}-{saved.digest[:20]}"
