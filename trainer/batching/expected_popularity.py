"""How popular an item is to be expected by its attributes: a ridge regression of log popularity.

New items have no interactions to tell a popularity. Without an expectation all of them have the bias of a
mean item; the few whose attributes are those of popular ones are ranked no higher than the rest.
"""

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, lsqr

from trainer.storage.attributes import DenseFeature, Feature, Ragged

PENALTY = 5.0
"""Ridge penalty: an attribute that only five items have is trusted by half."""
ITERATIONS = 100


def expected_log_popularity(
    counts: np.ndarray, features: Mapping[str, Feature], dense: Mapping[str, DenseFeature]
) -> np.ndarray:
    """Return the expected log of each item's training interactions, (items,) float64.

    With one row x a trained item (ones for its categories, standardised numbers and vectors, ones where they
    are missing) and y the log of its interactions less their mean, the weights minimise

        |X w - y|^2 + PENALTY |w|^2

    Args:
        counts: (items,) training interactions of each item; those without any are predicted alone.
        features: Attributes that are categories.
        dense: Attributes that are numbers or vectors.
    """
    trained = np.flatnonzero(counts)
    if not len(trained):
        return np.zeros(len(counts))
    blocks = [_indicators(feature, len(counts)) for feature in features.values()]
    blocks += [_standardised(feature) for feature in dense.values()]
    mean = np.log(counts[trained]).mean()
    target = np.log(counts[trained]) - mean
    design = _side_by_side([block[trained] for block in blocks])
    weights = lsqr(design, target, damp=PENALTY**0.5, iter_lim=ITERATIONS)[0]
    return _side_by_side(blocks) @ weights + mean


def residual_mean(counts: np.ndarray, expected: np.ndarray) -> float:
    """Return the log of the mean factor by which items are more popular than expected.

    It is that of an item of which nothing but the expectation is known: above 0, since the popular ones of
    equally expected items weigh more.
    """
    trained = np.flatnonzero(counts)
    return float(np.log(np.mean(counts[trained] / np.exp(expected[trained])))) if len(trained) else 0.0


def _indicators(feature: Feature, rows: int) -> csr_matrix:
    """Return a column a category, each bag divided by the root of its length as towers do."""
    bags: Ragged = feature.bags
    lengths = bags.lengths()[:rows]
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    total = int(bags.offsets[rows])
    return csr_matrix((values, bags.values[:total], bags.offsets[: rows + 1]), (rows, feature.size))


def _standardised(feature: DenseFeature) -> np.ndarray:
    missing = np.isnan(feature.values[:, :1])
    scaled = np.where(missing, 0, (feature.values - feature.center) / np.float32(feature.scale))
    return np.concatenate([scaled, missing], axis=1)


def _side_by_side(blocks: list) -> LinearOperator:
    """Return the blocks side by side as one operator; sparse ones stay sparse."""
    ends = np.cumsum([block.shape[1] for block in blocks])

    def times(weights: np.ndarray) -> np.ndarray:
        parts = np.split(weights.ravel(), ends[:-1])
        return np.sum([block @ part for block, part in zip(blocks, parts, strict=True)], axis=0)

    def transposed(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([block.T @ rows.ravel() for block in blocks])

    shape = (blocks[0].shape[0], int(ends[-1]))
    return LinearOperator(shape, matvec=times, rmatvec=transposed, dtype=np.float64)
