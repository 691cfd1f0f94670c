"""Query vectors of people who were not in the training, found from what they have, as training would.

Nothing here needs torch, so that `recommend` need not wait for it.
"""

import numpy as np

from trainer.dataset.attributes import Ragged

STEPS, LEARNING_RATE = 100, 0.1
SCORES = 2**22
"""Scores that stand in memory at a time, 4 bytes each."""
MEAN_DECAY, SQUARE_DECAY, TINY = 0.9, 0.999, 1e-8
"""Adam's constants, as its authors have them: of the averages of gradients and of their squares."""


def fold_in(histories: Ragged, candidates: np.ndarray, unit: bool, bias: bool) -> np.ndarray:
    """The query vectors that minimise the softmax loss of the given histories, all items being fixed.

    From the direction of the sum of a history's item vectors, STEPS steps of Adam whose learning rate falls
    linearly to 0, on the loss of `multi_positive_softmax` with the history as positives and the catalogue as
    candidates. People are fitted side by side: nobody's vector depends on who else is in the call.

    Args:
        histories: items of each of B people, none twice for the same person.
        candidates: (N, D) float32 candidate vectors of the catalogue.
        unit: queries are unit vectors; otherwise their length is free, and nothing keeps the fit from
            following a short history too closely.
        bias: the last column of `candidates` is a bias, and that of queries is 1.
    Returns: (B, D) of the type of `candidates`; for an empty history zeros, but for the column of ones.
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
    free, _ = _normalised(sums)
    mean, square = np.zeros_like(free), np.zeros_like(free)
    for step in range(STEPS):
        own, norms = _normalised(free) if unit else (free, None)
        queries[:, :width] = own
        gradient = _gradient(queries, candidates, rows, items, lengths)[:, :width]
        if norms is not None:  # what changes a vector's length changes no unit vector
            gradient = (gradient - own * (own * gradient).sum(1, keepdims=True)) / norms
        mean += (1 - MEAN_DECAY) * (gradient - mean)
        square += (1 - SQUARE_DECAY) * (gradient**2 - square)
        # Both averages began at zero; dividing by the weight that gradients have had so far makes up for it.
        direction = mean / (1 - MEAN_DECAY ** (step + 1))
        scale = np.sqrt(square / (1 - SQUARE_DECAY ** (step + 1))) + TINY
        free -= LEARNING_RATE * (1 - step / STEPS) * direction / scale
    queries[:, :width] = _normalised(free)[0] if unit else free
    return queries


def _gradient(
    queries: np.ndarray, candidates: np.ndarray, rows: np.ndarray, items: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Gradient of each person's loss by his query vector, (B, D); see `multi_positive_softmax`."""
    scores = queries @ candidates.T
    of_positives = scores[rows, items]
    scores[rows, items] = -np.inf
    # Someone who has the whole catalogue has no largest score.
    largest = np.maximum(scores.max(1, keepdims=True), np.finfo(scores.dtype).min)
    masses = np.exp(np.subtract(scores, largest, out=scores), out=scores)
    mass = masses.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        gaps = (np.log(mass) + largest)[rows, 0] - of_positives
    # A sigmoid that cannot overflow.
    pull = (0.5 + 0.5 * np.tanh(gaps / 2)) / lengths[rows].astype(gaps.dtype)
    push = np.add.reduceat(pull, np.cumsum(lengths) - lengths)
    masses *= push[:, None] / np.maximum(mass, np.finfo(mass.dtype).tiny)
    masses[rows, items] = -pull
    return masses @ candidates


def _normalised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, zero where there is no direction, and the lengths that they had, (B, 1)."""
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors / norms, norms
