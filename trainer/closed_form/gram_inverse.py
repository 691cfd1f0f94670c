"""Ways to the inverse of a penalised Gram matrix (X'WX + diag(ridge)), exact or approximate."""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse as sparse
from scipy.linalg import lapack

OVERSAMPLING, ITERATIONS = 64, 8
"""Columns beyond the rank, and rounds, of subspace iteration: NDCG@10 at rank 128 is stable to 4 digits."""
BLOCK = 1024
"""Rows of an item-item or user-user matrix that are computed at a time."""

Product = Callable[[np.ndarray], np.ndarray]
"""A matrix as a function that multiplies by it: (n, width) float32 to the same shape."""
Inverse = tuple[Product, np.ndarray]
"""P, the inverse of the penalised item-item matrix, as a product, and its diagonal, (items,) float64."""
Factors = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Approximation of a Gram matrix, see `gram_factors`."""


def inverse_by_items(gram: np.ndarray, ridge: np.ndarray) -> Inverse:
    """Return P = (gram + diag(ridge))^-1 by items^3 operations; the memory of the matrix is used again."""
    inverse = inverse_of_gram(gram, ridge)
    single = inverse.astype(np.float32)
    return lambda block: single @ block, np.diagonal(inverse).copy()


def inverse_by_users(matrix: sparse.csr_matrix, ridge: np.ndarray) -> Inverse:
    """Return P by users^3 operations.

    P = D^-1/2 (I - C' (I + C C')^-1 C) D^-1/2 with D = diag(ridge) and C = matrix D^-1/2.

    Source: Woodbury, 1950 (the inverse of a matrix that is modified by one of lower rank).
    """
    scale = 1 / np.sqrt(ridge)
    scaled = (matrix.astype(np.float64) @ sparse.diags(scale)).tocsr()
    transposed = scaled.T.tocsr()
    inner = inverse_of_gram(gram_matrix(scaled, np.float64), np.ones(matrix.shape[0]))
    blocks = (transposed[start : start + BLOCK] for start in range(0, len(ridge), BLOCK))
    shares = np.concatenate([np.asarray(rows.multiply(rows @ inner).sum(1)).ravel() for rows in blocks])
    single, factor = inner.astype(np.float32), scale.astype(np.float32)[:, None]
    scaled, transposed = scaled.astype(np.float32), transposed.astype(np.float32)

    def product(block: np.ndarray) -> np.ndarray:
        block = block * factor
        return (block - transposed @ (single @ (scaled @ block))) * factor

    return product, (1 - shares) / ridge


def gram_factors(
    matrix: sparse.csr_matrix, ridge: np.ndarray, count: int, iterations: int = ITERATIONS
) -> Factors:
    """Return D = diag(ridge), F and R with matrix' matrix = D^1/2 (F F' + R) D^1/2, nearly.

    Leading eigenvectors are found with sparse products; R is the diagonal of what they leave out. They
    approximate the inverse for this ridge best, and for others of its size well.

    Source: Snelson and Ghahramani, NeurIPS 2005 (low rank plus the diagonal of the residual).

    Returns:
        D (items,) float64, F (items, count) float32 and R (items,) float32.
    """
    scaled = (matrix @ sparse.diags((1 / np.sqrt(ridge)).astype(np.float32))).tocsr()
    transposed = scaled.T.tocsr()

    def gram(block: np.ndarray) -> np.ndarray:
        return transposed @ (scaled @ block)

    factor = leading_eigenvectors(gram, len(ridge), count, iterations)
    factor *= np.sqrt(np.maximum((factor * gram(factor)).sum(0), 0))
    rest = np.maximum(np.asarray(scaled.multiply(scaled).sum(0)).ravel() - (factor**2).sum(1), 0)
    return ridge, factor, rest


def inverse_by_factors(ridge: np.ndarray, factors: Factors) -> Inverse:
    """Return P approximately, from the factors of X'WX at another ridge or at the same one.

    With E = diag(ridge) + D R and G = E^-1/2 D^1/2 F: P = E^-1/2 (I + G G')^-1 E^-1/2.
    """
    scale, factor, rest = factors
    ridge = ridge + scale * rest
    factor = factor * np.sqrt(scale / ridge).astype(np.float32)[:, None]
    root = np.linalg.cholesky(np.eye(factor.shape[1]) + (factor.T @ factor).astype(np.float64))
    factor = factor @ np.linalg.inv(root).T.astype(np.float32)
    scale = (1 / np.sqrt(ridge)).astype(np.float32)[:, None]

    def product(block: np.ndarray) -> np.ndarray:
        block = block * scale
        return (block - factor @ (factor.T @ block)) * scale

    return product, (1 - (factor**2).sum(1, dtype=np.float64)) / ridge


def gram_matrix(rows: sparse.csr_matrix, dtype: type) -> np.ndarray:
    """Return rows rows', computed in float64."""
    rows = rows.astype(np.float64)
    columns, size = rows.T.tocsr(), rows.shape[0]
    gram = np.empty((size, size), dtype, order="F")
    for start in range(0, size, BLOCK):
        gram[:, start : start + BLOCK] = (rows[start : start + BLOCK] @ columns).toarray().T
    return gram


def inverse_of_gram(gram: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Return (gram + diag(ridge))^-1 in place, by Cholesky: half the work of a general inverse."""
    size = len(gram)
    gram[np.diag_indices(size)] += ridge
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    if failed:
        raise ValueError("the penalty leaves the matrix singular, expected a larger one")
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    for start in range(0, size, BLOCK):  # only the lower triangle was computed
        stop = start + BLOCK
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        corner = inverse[start:stop, start:stop]
        corner[...] = np.tril(corner) + np.tril(corner, -1).T
    return inverse


def leading_eigenvectors(product: Product, size: int, rank: int, iterations: int = ITERATIONS) -> np.ndarray:
    """Return the leading eigenvectors of a symmetric matrix given as a product, (size, rank) float32."""
    width = min(rank + OVERSAMPLING, size)
    block = np.random.default_rng(0).standard_normal((size, width), dtype=np.float32)
    for _ in range(iterations):
        # numpy's qr would work in double precision.
        block, _ = scipy.linalg.qr(product(block), overwrite_a=True, mode="economic", check_finite=False)
    inner = (block.T @ product(block)).astype(np.float64)
    _, rotation = np.linalg.eigh((inner + inner.T) / 2)
    return block @ rotation[:, ::-1][:, :rank].astype(np.float32)
