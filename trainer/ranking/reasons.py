"""Why an item is recommended: the items of the user's past that speak most for it.

A score is the dot product of a candidate vector with the query vector. Where the query is a sum over the
past, the score is too, and each item of the past has an exact part in it: its own vector in that sum times
the candidate. That holds for closed-form dimensions, for histories that are looked up as a bag, and for those
that decay by recency, as long as no dense layers stand above them. The rest of the score without the bias,
such as that of a user's own learned vector, is no sum; where it is above 0 it is divided among the items of
the past in proportion to their similarity with the candidate (those below 0 have no part).

The bias of an item is the same for all users, so that nothing of the past speaks for it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Past:
    """The items of a user's past, n of them, and what each has given to the query.

    Attributes:
        rows: (n,) item rows.
        query: (D,) query vector.
        parts: (n, D) part of the query that each item has given; zero in dimensions that are no sum.
    """

    rows: np.ndarray
    query: np.ndarray
    parts: np.ndarray


def contributions(past: Past, vectors: np.ndarray, unit: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return what each item of the past contributes to the scores of some items, (len(rows), n) float32.

    Args:
        past: The past.
        vectors: (items, D) candidate vectors.
        unit: (items, learned) learned parts of length 1, see `unit_vectors`.
        rows: Items whose scores are divided up.
    """
    chosen = np.asarray(vectors[rows], np.float32)
    exact = chosen @ past.parts.T
    rest = past.query - past.parts.sum(0)
    # Behind the learned dimensions stand the bias and closed-form ones, whose query is the sum of its parts.
    learned = unit.shape[1]
    unshared = np.maximum(chosen[:, :learned] @ rest[:learned], 0)
    likeness = np.maximum(unit[rows] @ unit[past.rows].T, 0)
    shares = likeness / np.maximum(likeness.sum(1, keepdims=True), 1e-12)
    return exact + unshared[:, None] * shares


def strongest(contributed: np.ndarray, most: int) -> np.ndarray:
    """Return the places of the items of the past that contribute most to each item, (B, up to `most`).

    Those of no or negative contribution are left out: -1 stands in their place.
    """
    order = np.argsort(-contributed, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(contributed, order, 1) > 0, order, -1)
