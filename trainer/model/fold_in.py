"""Fold-in: query vectors for users who were not in the training data, fitted to their histories.

Nothing here needs torch, so that `recommend` need not import it.
"""

import numpy as np

from trainer.storage.attributes import Ragged

STEPS, LEARNING_RATE = 100, 0.1
SCORES = 2**22
"""Scores in memory at a time, 4 bytes each."""
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Adam's beta 1, beta 2 and epsilon."""


def fold_in(histories: Ragged, candidates: np.ndarray, unit: bool, bias: bool) -> np.ndarray:
    """Return the query vectors that minimise the softmax loss of the given histories, items being fixed.

    Starting from the direction of the sum of a history's item vectors, STEPS steps of Adam with a learning
    rate that falls linearly to 0 minimise `multi_positive_softmax` with the history as positives and the
    catalogue as candidates. Nobody's vector depends on who else is in the call.

    Args:
        histories: Items of each of B people, distinct for each.
        candidates: Candidate vectors of the catalogue, (N, D) float32.
        unit: Whether queries are unit vectors; otherwise nothing regularises their length, and the fit may
            follow a short history too closely.
        bias: Whether the last column of `candidates` is a bias, for which that of queries is 1.

    Returns:
        Query vectors, (B, D); those of empty histories are zero but for the column of ones.

    Source: folding in, Deerwester et al., JASIS 1990; here on the loss of Liang et al., WWW 2018; Adam,
        Kingma and Ba, ICLR 2015.
    """
    lengths = histories.lengths()
    queries = np.zeros((len(lengths), candidates.shape[1]), candidates.dtype)
    if bias:
        queries[:, -1] = 1
    people, size = np.flatnonzero(lengths), max(1, SCORES // len(candidates))
    for start in range(0, len(people), size):
        block = people[start : start + size]
        queries[block] = _fit(*histories.take(block), candidates, unit, bias)
    return queries


def _fit(
    lengths: np.ndarray, items: np.ndarray, candidates: np.ndarray, unit: bool, bias: bool
) -> np.ndarray:
    rows, width = np.repeat(np.arange(len(lengths)), lengths), candidates.shape[1] - bias
    # The sum of a person's rows: every length is at least 1, so that no segment is empty.
    sums = np.add.reduceat(candidates[items, :width], np.cumsum(lengths) - lengths, axis=0)
    queries = np.ones((len(lengths), candidates.shape[1]), candidates.dtype)
    free, _ = _normalize(sums)
    mean, square = np.zeros_like(free), np.zeros_like(free)
    for step in range(STEPS):
        own, norms = _normalize(free) if unit else (free, None)
        queries[:, :width] = own
        gradient = _gradient(queries, candidates, rows, items, lengths)[:, :width]
        if norms is not None:  # through the normalization: no gradient along the vector itself
            gradient = (gradient - own * (own * gradient).sum(1, keepdims=True)) / norms
        mean += (1 - MEAN_DECAY) * (gradient - mean)
        square += (1 - SQUARE_DECAY) * (gradient**2 - square)
        # Bias correction: both averages began at zero.
        direction = mean / (1 - MEAN_DECAY ** (step + 1))
        scale = np.sqrt(square / (1 - SQUARE_DECAY ** (step + 1))) + EPSILON
        free -= LEARNING_RATE * (1 - step / STEPS) * direction / scale
    queries[:, :width] = _normalize(free)[0] if unit else free
    return queries


def _gradient(
    queries: np.ndarray, candidates: np.ndarray, rows: np.ndarray, items: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Return the gradient of each loss by its query vector, (B, D); see `multi_positive_softmax`."""
    scores = queries @ candidates.T
    of_positives = scores[rows, items]
    scores[rows, items] = -np.inf
    # A person who has the whole catalogue has no largest score.
    largest = np.maximum(scores.max(1, keepdims=True), np.finfo(scores.dtype).min)
    weights = np.exp(np.subtract(scores, largest, out=scores), out=scores)
    total = weights.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        gaps = (np.log(total) + largest)[rows, 0] - of_positives
    # A sigmoid that cannot overflow.
    slopes = (0.5 + 0.5 * np.tanh(gaps / 2)) / lengths[rows].astype(gaps.dtype)
    by_person = np.add.reduceat(slopes, np.cumsum(lengths) - lengths)
    weights *= by_person[:, None] / np.maximum(total, np.finfo(total.dtype).tiny)
    weights[rows, items] = -slopes
    return weights @ candidates


def _normalize(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (zero for a zero vector) and the original lengths, (B, 1)."""
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors / norms, norms
