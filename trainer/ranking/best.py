"""The one rule by which items are ranked: by score, and of equal scores by a hash of the raw id."""

import numpy as np
import pyarrow as pa

from trainer.storage.tie_hashes import tie_hashes


def scores_of(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the score of every item, (items,) float32: dot products of (items, D) vectors and a query (D,).

    They are not computed by BLAS, which may sum rows in different orders: items with equal vectors need equal
    scores.
    """
    return np.einsum("id,d->i", vectors, query)


def best(
    scores: np.ndarray, k: int, item_ids: pa.Array, left_out: np.ndarray, first_hash: int = 0
) -> np.ndarray:
    """Return the rows of the k best items, best first; fewer where fewer remain.

    Where scores are equal, items stand in the order of the hashes of their raw ids, which begins at
    `first_hash`, as in an evaluation; see `trainer.storage.tie_hashes`.

    Args:
        scores: (items,) finite scores.
        k: Items wanted, from 1 up.
        item_ids: Raw ids of the items.
        left_out: (n,) rows of items that must not be returned.
        first_hash: `first_hashes` of the user; 0 for someone without an id.
    """
    remains = np.ones(len(scores), bool)
    remains[left_out] = False
    left = np.flatnonzero(remains)
    if k < len(left):
        left = left[scores[left] >= np.partition(scores[left], -k)[-k]]
    found = left[np.argsort(-scores[left])]
    if (scores[found[1:]] == scores[found[:-1]]).any():
        places = tie_hashes(item_ids.take(pa.array(found))) - np.uint64(first_hash)
        found = found[np.lexsort((places, -scores[found]))]
    return found[:k]
