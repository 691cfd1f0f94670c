"""Vectors of all users and items, computed and written block by block."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from trainer.batching.tower_inputs import USER_SEQUENCE, USER_SEQUENCE_TIMES
from trainer.errors import diverged
from trainer.exporting.tables import Past
from trainer.model.retriever import TowerPair, candidate_vectors, query_vectors
from trainer.recommender.manifest import ITEM_VECTOR_TABLE
from trainer.recommender.vectors import DTYPES, VectorTable, dimension_scale, quantise
from trainer.storage.attributes import Ragged

BLOCK_NUMBERS = 2**24
"""Numbers of a block of vectors, 4 bytes each."""
CPU = torch.device("cpu")
Rows = Callable[[np.ndarray], np.ndarray]
"""Vectors (n, D) float32 of rows (n,)."""


def item_vectors(tower_pairs: list[TowerPair]) -> Rows:
    """Return what computes candidate vectors."""
    return lambda rows: candidate_vectors(tower_pairs, rows, CPU).numpy()


def user_vectors(tower_pairs: list[TowerPair]) -> Rows:
    """Return what computes query vectors."""
    return lambda rows: query_vectors(tower_pairs, rows, CPU).numpy()


def served(tower_pairs: list[TowerPair], past: Past | None) -> list[TowerPair]:
    """Return the towers with all that is known of users as their ordered histories.

    Args:
        tower_pairs: Towers with the histories that an evaluation knows.
        past: What users are known to have, in order; None: histories have no order, or that of the test split
            is not known.
    """
    if past is None:
        return tower_pairs
    given = {USER_SEQUENCE: past.items, USER_SEQUENCE_TIMES: past.times}
    pairs = []
    for pair in tower_pairs:
        # A row more stands for unknown users, with an empty history.
        own = {
            name: Ragged(np.append(column.offsets, column.offsets[-1]), column.values)
            for name, column in given.items()
            if name in pair.user_inputs and column is not None
        }
        pairs.append(replace(pair, user_inputs={**pair.user_inputs, **own}))
    return pairs


def write_exact(path: Path, compute: Rows, count: int, run: Path) -> np.ndarray:
    """Write the vectors of rows 0 to `count` - 1 as float32 and return them, memory-mapped.

    Raises:
        DivergedError: A vector is not finite.
    """
    vectors = None
    for rows, block in _blocks(compute, count):
        if not np.isfinite(block).all():
            raise diverged(str(run), "vectors are NaN or infinite")
        if vectors is None:
            vectors = np.lib.format.open_memmap(path, "w+", np.float32, (count, block.shape[1]))
        vectors[rows] = block
    assert vectors is not None, "a run has users and items"
    vectors.flush()
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def write_stored(exact: np.ndarray, dtype: str, path: Path, scale_path: Path) -> VectorTable:
    """Write vectors in a stored type, with their scale if they have one, and return them as they read back.

    Args:
        exact: (rows, D) float32.
        dtype: One of `DTYPES`.
        path: File of the vectors.
        scale_path: File of the scale.
    """
    scale = None
    if DTYPES[dtype].scaled:
        scale = dimension_scale(largest_of(exact))
        np.save(scale_path, scale, allow_pickle=False)
    stored = np.lib.format.open_memmap(path, "w+", np.dtype(DTYPES[dtype].stored), exact.shape)
    for rows, block in _blocks(lambda rows: exact[rows], len(exact)):
        stored[rows] = quantise(block, dtype, scale)
    stored.flush()
    return VectorTable.open(path, scale_path)


def largest_of(exact: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each dimension, (D,) float32."""
    return np.max([np.abs(block).max(0) for _, block in _blocks(lambda rows: exact[rows], len(exact))], 0)


def write_item_table(folder: Path, item_ids: pa.Array, vectors: VectorTable) -> None:
    """Write raw item ids and their vectors as float32 lists, as what reads Parquet takes them."""
    kind = pa.list_(pa.float32(), vectors.dim)
    schema = pa.schema([("item", item_ids.type), ("vector", kind)])
    with pq.ParquetWriter(folder / ITEM_VECTOR_TABLE, schema, compression="zstd") as file:
        for rows, block in _blocks(vectors.rows, len(vectors)):
            ids = item_ids.slice(rows[0], len(rows))
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), vectors.dim)
            file.write_batch(pa.record_batch([ids, lists], schema))


def _blocks(compute: Rows, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows 0 to `count` - 1 and their vectors, a block at a time."""
    start, size = 0, 1
    while start < count:
        rows = np.arange(start, min(start + size, count))
        block = compute(rows)
        yield rows, block
        start, size = start + len(rows), max(1, BLOCK_NUMBERS // block.shape[1])
