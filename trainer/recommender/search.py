"""Ranking of the items of an export for one query vector or for many."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from trainer.errors import diverged
from trainer.ranking.best import best
from trainer.ranking.selection import Selection, select
from trainer.ranking.similar import unit_vectors
from trainer.recommender.index import Index
from trainer.recommender.vectors import VectorTable

SCORES = 2**24
"""Scores in memory at a time, 4 bytes each."""
ROUNDING = 4e-6
"""Bound of the difference of two sums of the same products in float32, in lengths of the vectors."""


@dataclass(frozen=True)
class Ranked:
    """The best items of one query: their rows and scores, best first."""

    rows: np.ndarray
    scores: np.ndarray


class Search:
    """Ranks the items of an export; threads may share it."""

    def __init__(
        self, items: VectorTable, item_ids: pa.Array, index: Index | None, learned: int, place: str
    ) -> None:
        """Take over what is searched.

        Args:
            items: Candidate vectors.
            item_ids: Raw ids of the items.
            index: Index of the items, or None.
            learned: Width of the learned part of the vectors, without a bias.
            place: What messages name.
        """
        self._items, self._ids, self._index = items, item_ids, index
        self._learned, self._place = learned, place

    def one(
        self,
        query: np.ndarray,
        k: int,
        left_out: np.ndarray,
        first_hash: int = 0,
        selection: Selection | None = None,
    ) -> Ranked:
        """Return the best items for a query vector (D,); see `trainer.ranking.selection.select`.

        Where there is an index and no selection, only its candidates are scored: as many as are wanted and
        left out.
        """
        index, asked = self._index, k + len(left_out)
        free = selection is None or not (len(selection.left_out) or selection.limits)
        if index is not None and free and index.is_worth_it(asked, len(self._ids)):
            found = np.setdiff1d(index.candidates(query, asked), left_out, assume_unique=True)
            return self._among(found, query, k, first_hash)
        scores = self._items.scores(query)
        self._check(scores)
        rows = select(scores, k, self._ids, left_out, first_hash, selection)
        return Ranked(rows, scores[rows])

    def many(
        self,
        queries: np.ndarray,
        k: int,
        left_out: Sequence[np.ndarray],
        first_hashes: Sequence[int],
        selection: Selection | None = None,
    ) -> list[Ranked]:
        """Return the best items for each query vector of (B, D), as `one` does."""
        if self._index is not None or (selection is not None and selection.limits):
            return [
                self.one(query, k, out, first, selection)
                for query, out, first in zip(queries, left_out, first_hashes, strict=True)
            ]
        found: list[Ranked] = []
        size = max(1, SCORES // len(self._ids))
        for start in range(0, len(queries), size):
            block = slice(start, start + size)
            found += self._block(queries[block], k, left_out[block], first_hashes[block], selection)
        return found

    def similarities(self, row: int) -> np.ndarray:
        """Return the cosine of each item's learned vector with that of `row`, (items,) float32."""
        own = unit_vectors(self._items.rows(np.array([row])), self._learned)[0]
        found = np.empty(len(self._items), np.float32)
        for rows, vectors in self._items.blocks():
            np.einsum("id,d->i", vectors[:, : self._learned], own, out=found[rows])
        return np.clip(found / self._norms, -1, 1)

    @cached_property
    def _norms(self) -> np.ndarray:
        """Length of each item's learned vector, (items,)."""
        blocks = [np.linalg.norm(each[:, : self._learned], axis=1) for _, each in self._items.blocks()]
        return np.maximum(np.concatenate(blocks), 1e-12)

    @cached_property
    def _longest(self) -> float:
        """Length of the longest candidate vector."""
        return max(float(np.linalg.norm(each, axis=1).max()) for _, each in self._items.blocks())

    def _block(
        self,
        queries: np.ndarray,
        k: int,
        left_out: Sequence[np.ndarray],
        first_hashes: Sequence[int],
        selection: Selection | None,
    ) -> list[Ranked]:
        scores = np.empty((len(queries), len(self._ids)), np.float32)
        for rows, vectors in self._items.blocks():
            np.matmul(queries, vectors.T, out=scores[:, rows])
        self._check(scores)
        if selection is not None:
            scores[:, selection.left_out] = -np.inf
        for own, out in zip(scores, left_out, strict=True):
            own[out] = -np.inf
        limits = np.full(len(scores), -np.inf, np.float32)
        if k < len(self._ids):
            limits = np.partition(scores, -k, axis=1)[:, -k]
        # A product of matrices sums in any order: what is near the limit is scored again, as `one` does.
        limits = limits - ROUNDING * self._longest * np.linalg.norm(queries, axis=1)
        return [
            self._among(np.flatnonzero((own >= limit) & (own > -np.inf)), query, k, first)
            for own, limit, query, first in zip(scores, limits, queries, first_hashes, strict=True)
        ]

    def _among(self, rows: np.ndarray, query: np.ndarray, k: int, first_hash: int) -> Ranked:
        """Return the best of some rows."""
        scores = np.einsum("id,d->i", self._items.rows(rows), query)
        self._check(scores)
        places = best(scores, k, self._ids.take(pa.array(rows)), np.empty(0, np.int64), first_hash)
        return Ranked(rows[places], scores[places])

    def _check(self, scores: np.ndarray) -> None:
        if not np.isfinite(scores).all():
            raise diverged(self._place, "scores are NaN or infinite")
