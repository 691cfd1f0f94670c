"""Vectors as an export holds them: in float32, or in fewer bytes with what gives them back.

A new type is an entry of `DTYPES`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

BLOCK = 65_536
"""Rows that are converted at a time."""
CONVERTED_BYTES = 2**29
"""Most bytes of float32 rows that are kept converted; of larger tables each search converts blocks."""
LARGEST = 127
"""Largest absolute value of an int8 entry; -128 is not used."""


@dataclass(frozen=True)
class DtypeSpec:
    """Facts about one type of stored vectors.

    Attributes:
        stored: Type of an entry of the file.
        scaled: Whether each dimension is divided by a scale of its own first, its largest absolute value over
            LARGEST. (A scale a vector would give most of the range to the dimension of the biases.)
        text: What it is, for the model card.
    """

    stored: type[np.generic]
    scaled: bool
    text: str


DTYPES: dict[str, DtypeSpec] = {
    "float32": DtypeSpec(np.float32, False, "float32, as they were trained"),
    "float16": DtypeSpec(np.float16, False, "float16, rounded"),
    "int8": DtypeSpec(np.int8, True, "int8, rounded, times a float32 scale for each dimension"),
}


def quantise(vectors: np.ndarray, dtype: str, scale: np.ndarray | None) -> np.ndarray:
    """Return vectors (n, D) float32 in a stored type; `scale` is that of `dimension_scale`."""
    spec = DTYPES[dtype]
    if not spec.scaled:
        return vectors.astype(spec.stored)
    return np.clip(np.rint(vectors / scale), -LARGEST, LARGEST).astype(spec.stored)


def dimension_scale(largest: np.ndarray) -> np.ndarray:
    """Return the scale of each dimension, (D,) float32, given its largest absolute value."""
    return np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)


@dataclass(frozen=True)
class VectorTable:
    """Stored vectors, read back as float32.

    Attributes:
        stored: (rows, D) as in the file, memory-mapped.
        scale: (D,) float32 factors, or None.
    """

    stored: np.ndarray
    scale: np.ndarray | None = None

    @classmethod
    def open(cls, vectors: Path, scale: Path) -> "VectorTable":
        """Map the vectors of one file, with the scale in another if there is one."""
        # A plain view of the map: arithmetic on numpy's memmap class is slower.
        stored = np.asarray(np.load(vectors, mmap_mode="r", allow_pickle=False))
        return cls(stored, np.load(scale, allow_pickle=False) if scale.is_file() else None)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.stored.shape[1]

    def rows(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return some rows, (n, D) float32."""
        found = self.stored[rows].astype(np.float32, copy=False)
        return found if self.scale is None else found * self.scale

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield all rows in blocks of float32; as one where they need or have no conversion."""
        if self.whole is not None:
            yield slice(0, len(self)), self.whole
            return
        for start in range(0, len(self), BLOCK):
            rows = slice(start, min(start + BLOCK, len(self)))
            yield rows, self.rows(rows)

    def scores(self, query: np.ndarray) -> np.ndarray:
        """Return the dot product of each row with a query vector (D,), (rows,) float32."""
        # Not with BLAS, which may sum rows in different orders: rows that are equal need equal scores.
        scores = np.empty(len(self), np.float32)
        for rows, vectors in self.blocks():
            np.einsum("id,d->i", vectors, query, out=scores[rows])
        return scores

    @cached_property
    def whole(self) -> np.ndarray | None:
        """All rows as float32, (rows, D); None where they would take too much memory."""
        if self.stored.dtype == np.float32 and self.scale is None:
            return self.stored
        return self.rows(slice(None)) if self.stored.size * 4 <= CONVERTED_BYTES else None
