"""The gate of an export: its rankings against the exact ones of the run, on users of the test split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.dataset.vocabulary import Vocabulary
from trainer.exporting.vectors import Rows
from trainer.recommender.search import Ranked, Search
from trainer.recommender.vectors import DTYPES, VectorTable, dimension_scale, quantise
from trainer.storage.tie_hashes import first_hashes

USERS = 2_000
"""Most users that an export is measured with; they are drawn with a fixed seed."""
TRIED = 200
"""Of these, users with whom searches are tried."""
SEED = 42
LENGTHS = (10, 100)
NDCG = 10


@dataclass(frozen=True)
class Sample:
    """Users with whom exports are measured.

    Attributes:
        queries: (n, D) float32 exact query vectors as an evaluation has them.
        largest: (D,) largest absolute value of each dimension over all users of the run.
        seen: Item rows of each user before the test split, which are not ranked.
        held_out: Item rows of each user in the test split, or None without one.
        hashes: Where each user's order of equal scores begins.
        exact: The best 100 items of each by exact vectors.
    """

    queries: np.ndarray
    largest: np.ndarray
    seen: list[np.ndarray]
    held_out: list[np.ndarray] | None
    hashes: list[int]
    exact: list[Ranked]

    def first(self, count: int) -> "Sample":
        """Return the first users of it."""
        held_out = None if self.held_out is None else self.held_out[:count]
        lists = self.seen[:count], held_out, self.hashes[:count], self.exact[:count]
        return Sample(self.queries[:count], self.largest, *lists)


@dataclass(frozen=True)
class Checks:
    """How near an export comes to the exact ranking.

    Attributes:
        users: Number of users.
        recall: Share of the exact first 10 and 100 items that it ranks among its first 10 and 100.
        ndcg_exact: NDCG@10 on the test split with exact vectors, seen items left out; None without a split.
        ndcg: The same with the export.
    """

    users: int
    recall: dict[int, float]
    ndcg_exact: float | None
    ndcg: float | None

    def passes(self, bound: float) -> bool:
        """Return whether recalls, and NDCG as a share of the exact one, are at least the bound."""
        enough = all(value >= bound for value in self.recall.values())
        return enough and (self.ndcg is None or self.ndcg >= bound * (self.ndcg_exact or 0))

    def facts(self) -> dict[str, Any]:
        """Return what a manifest holds of it."""
        recalls = {f"recall@{k}": value for k, value in self.recall.items()}
        return {"users": self.users, **recalls, "ndcg@10_exact": self.ndcg_exact, "ndcg@10": self.ndcg}

    def text(self) -> str:
        """Return the recalls as text."""
        return ", ".join(f"recall@{k} {value:.4f}" for k, value in self.recall.items())


def draw_sample(vocabulary: Vocabulary, compute: Rows, largest: np.ndarray, exact: Search) -> Sample:
    """Draw users who have test items, or any where nobody has, and rank for them exactly.

    Args:
        vocabulary: Of the run.
        compute: Query vectors as an evaluation has them.
        largest: See `Sample`.
        exact: Search among exact candidate vectors.
    """
    count = len(vocabulary.user_ids)
    held_out = vocabulary.held_out
    users = np.arange(count)
    if held_out is not None and held_out.lengths()[:count].any():
        users = np.flatnonzero(held_out.lengths()[:count])
    else:
        held_out = None
    if len(users) > USERS:
        users = np.random.default_rng(SEED).permutation(users)[:USERS]
    queries = compute(users)
    seen = [vocabulary.seen.take(users[place : place + 1])[1] for place in range(len(users))]
    hashes = [int(each) for each in first_hashes(vocabulary.user_ids.take(users))]
    return Sample(
        queries=queries,
        largest=largest,
        seen=seen,
        held_out=None
        if held_out is None
        else [np.unique(held_out.take(np.array([user]))[1]) for user in users],
        hashes=hashes,
        exact=exact.many(queries, max(LENGTHS), seen, hashes),
    )


def measure(sample: Sample, search: Search, dtype: str) -> Checks:
    """Measure a search with query vectors in a stored type."""
    scale = dimension_scale(sample.largest) if DTYPES[dtype].scaled else None
    queries = VectorTable(quantise(sample.queries, dtype, scale), scale).rows(slice(None))
    recall, ndcg = {}, None
    for k in LENGTHS:
        found = search.many(queries, k, sample.seen, sample.hashes)
        recall[k] = _recall(found, sample.exact, k)
        if k == NDCG and sample.held_out is not None:
            ndcg = _ndcg(found, sample.held_out)
    exact = None if sample.held_out is None else _ndcg(sample.exact, sample.held_out)
    return Checks(len(sample.queries), recall, exact, ndcg)


def _recall(found: Sequence[Ranked], exact: Sequence[Ranked], k: int) -> float:
    shares = [
        len(np.intersect1d(own.rows, wanted.rows[:k])) / max(len(wanted.rows[:k]), 1)
        for own, wanted in zip(found, exact, strict=True)
    ]
    return float(np.mean(shares))


def _ndcg(found: Sequence[Ranked], held_out: Sequence[np.ndarray]) -> float:
    """Return the mean NDCG@10: discounted hits over those of the best list that there could be."""
    discounts = 1 / np.log2(np.arange(2, NDCG + 2))
    values = []
    for own, wanted in zip(found, held_out, strict=True):
        hits = np.isin(own.rows[:NDCG], wanted)
        values.append(discounts[: len(hits)][hits].sum() / discounts[: min(len(wanted), NDCG)].sum())
    return float(np.mean(values))
