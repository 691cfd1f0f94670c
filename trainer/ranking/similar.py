"""Items that are like an item: the cosine of their learned candidate vectors, without the popularity bias."""

import numpy as np

MEASURE = "cosine of the learned candidate vectors, without the popularity bias"
"""What `similarities` gives, as readers are told."""


def unit_vectors(vectors: np.ndarray, learned: int) -> np.ndarray:
    """Return the learned part of candidate vectors, each of length 1, (items, learned) float32.

    A candidate vector is the learned vector over the temperature, then the bias of the item where there is
    one, then closed-form dimensions. The temperature is one factor for all and falls out. The bias says how
    popular an item is, not what it is like. Closed-form dimensions are short in candidates, as their weight
    is in the queries: with them neighbours are the same.

    Args:
        vectors: (items, D) candidate vectors.
        learned: Width of the learned part without bias.
    """
    own = np.asarray(vectors[:, :learned], np.float32)
    return own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)


def similarities(unit: np.ndarray, row: int) -> np.ndarray:
    """Return the similarity of each item with that in `row`, (items,) float32 from -1 to 1.

    Args:
        unit: As `unit_vectors` returns them.
        row: The item, whose similarity with itself is 1.
    """
    # Not by BLAS, as for scores: items with equal vectors are equally similar.
    return np.clip(np.einsum("id,d->i", unit, unit[row]), -1, 1)
