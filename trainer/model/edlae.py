"""Closed-form towers (EDLAE): an item-item regression of reduced rank as a history and an item table.

A query vector is the sum of the history rows of a user's items, so that users who were not in the
training data need no fitting.
"""

import atexit
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse as sparse
from scipy.linalg import lapack

from trainer.config.size_defaults import FIXED_PENALTY
from trainer.dataset.dataset import Dataset
from trainer.histories.recency import recency_weights
from trainer.histories.stretches import last_of
from trainer.storage.arrays import keep_array
from trainer.storage.attributes import Ragged

EXACT_SIZE = 12_000
"""Most items, or users if they are fewer, for an exact inverse: 12 bytes an entry, a minute or two."""
EIGENVECTORS = 128
"""Eigenvectors beyond the rank that approximate a matrix too large to be inverted."""
OVERSAMPLING, ITERATIONS = 64, 8
"""Columns beyond the rank, and rounds, of subspace iteration: NDCG@10 at rank 128 is stable to 4 digits."""
BLOCK = 1024
"""Rows of an item-item or user-user matrix that are computed at a time."""
VERSION = 2  # of the computation; in the file names of saved towers, so that older ones are not read

Product = Callable[[np.ndarray], np.ndarray]
"""A matrix as a function that multiplies by it: (n, width) float32 to the same shape."""
Inverse = tuple[Product, np.ndarray]
"""P, the inverse of the penalised item-item matrix, as a product, and its diagonal, (items,) float64."""
Towers = tuple[np.ndarray, np.ndarray]
"""History table and item table, (items, rank) float32 each."""


def closed_form_towers(
    users: np.ndarray,
    items: np.ndarray,
    user_count: int,
    item_count: int,
    rank: int,
    penalty: float = FIXED_PENALTY,
    dropout: float = 0.4,
    weight_power: float = -0.7,
    exact_size: int = EXACT_SIZE,
) -> Towers:
    """Compute rank-reduced EDLAE, an autoencoder that may not copy its input, with dropout in expectation.

    With X the users x items matrix of training, w = (interactions of a user) ** weight_power, W = diag(w):
    P = (X'WX + diag(penalty + dropout / (1 - dropout) X'w))^-1, B = -P / diag(P) with a zero diagonal,
    V the leading right singular vectors of W^1/2 X B. The history table is B V, the item table V. P is used
    in products alone: a matrix of items is inverted, or one of users if they are fewer. If there are too many
    of both, leading eigenvectors approximate X'WX, found with sparse products alone: NDCG@10 at rank 128 and
    the best penalty is then 1.4% lower on ml-1m, within 0.4% on ml-100k and ml-latest-small.

    Args:
        users: User row of each training interaction, (n,); each pair of user and item once.
        items: Item row of each training interaction, (n,).
        user_count: Users.
        item_count: Items of the catalogue.
        rank: Width of both tables; columns beyond `item_count` are zero.
        penalty: L2 penalty on the regression's weights.
        dropout: Share of a user's items that is hidden, from 0 to below 1.
        weight_power: Below 0, each interaction of a user with many of them counts less.
        exact_size: If users and items are both more, P is approximated.

    Returns:
        History table and item table, (item_count, rank) float32 each.

    Source: Steck, NeurIPS 2020 (EDLAE); Halko et al., SIAM Review 2011 (subspace iteration).
    """
    counts = np.bincount(users, minlength=user_count).astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** weight_power, 0)
    weights *= counts.sum() / max((weights * counts).sum(), 1e-30)
    values = np.sqrt(weights[users]).astype(np.float32)
    matrix = sparse.csr_matrix((values, (users, items)), shape=(user_count, item_count))
    ridge = penalty + dropout / (1 - dropout) * np.bincount(items, values.astype(np.float64) ** 2, item_count)
    width = min(rank, item_count)
    if min(user_count, item_count) > exact_size:
        inverse = _inverse_by_eigenvectors(matrix, ridge, min(rank + EIGENVECTORS, item_count))
    else:
        inverse = (_inverse_by_users if user_count < item_count else _inverse_by_items)(matrix, ridge)
    history, vectors = _reduce_rank(matrix, *inverse, width)
    padding = ((0, 0), (0, rank - width))
    return np.pad(history, padding).astype(np.float32), np.pad(vectors, padding).astype(np.float32)


def cached_towers(dataset: Dataset, rank: int, penalty: float = FIXED_PENALTY) -> Towers:
    """Return the towers of a data set's training split, read from its folder or computed and saved there.

    Nothing is saved if the folder is not writable.

    Returns:
        History table and item table, (items, rank) float32 each, memory-mapped if they had been saved.
    """
    paths = _files(dataset, rank, penalty)
    if (saved := _load(paths)) is not None:
        return saved
    tables = training_towers(dataset, rank, penalty)
    for path, table in zip(paths, tables, strict=True):
        keep_array(path, table)
    return tables


def closed_form_files(dataset: Dataset, rank: int, penalty: float) -> tuple[Path, Path]:
    """Return the files of the history table and of the item table, computing them if they are missing.

    Where the data set's folder is not writable they are temporary, and removed when this process ends.
    """
    tables, paths = cached_towers(dataset, rank, penalty), _files(dataset, rank, penalty)
    if _load(paths) is not None:
        return paths
    folder = Path(tempfile.mkdtemp(prefix="shardtower-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path, table in zip(paths, tables, strict=True):
        np.save(folder / path.name, table, allow_pickle=False)
    return folder / paths[0].name, folder / paths[1].name


def _load(paths: tuple[Path, Path]) -> Towers | None:
    """Return the towers in two files, memory-mapped; None if a file is missing or incomplete."""
    try:
        # Plain views, since arithmetic on numpy's memmap class is slower.
        history, vectors = (np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths)
    except (OSError, ValueError):
        return None
    return history, vectors


def training_towers(dataset: Dataset, rank: int, penalty: float) -> Towers:
    """Compute history table and item table of a data set's training split, (items, rank) float32 each."""
    users, items = np.asarray(dataset.train.users), np.asarray(dataset.train.items)
    return closed_form_towers(users, items, dataset.user_count, dataset.item_count, rank, penalty)


def history_vectors(by_user: Ragged, users: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Return the query vectors of users, (users, rank): sums of their items' rows / sqrt(count)."""
    lengths, items = by_user.take(users)
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((values, items, offsets), shape=(len(users), len(history))) @ history


def recent_history_vectors(
    sequences: Ragged, users: np.ndarray, history: np.ndarray, length: int, decay: float
) -> np.ndarray:
    """Return the query vectors of users with ordered histories, (users, rank): decaying sums of rows.

    The row of an item that stands d places before the next one weighs exp(-decay (d - 1)), up to `length`.
    """
    lengths, places = last_of(sequences, users, length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = recency_weights(lengths, math.exp(-decay))
    shape = len(users), len(history)
    return sparse.csr_array((values, sequences.values[places], offsets), shape=shape) @ history


def _files(dataset: Dataset, rank: int, penalty: float) -> tuple[Path, Path]:
    name = f"low_rank_{VERSION}_{rank}_{penalty:g}"
    return dataset.folder / f"{name}_history.npy", dataset.folder / f"{name}_items.npy"


def _reduce_rank(matrix: sparse.csr_matrix, inverse: Product, diagonal: np.ndarray, rank: int) -> Towers:
    """Return B V and V, given P as a product and its diagonal."""
    transposed, divisor = matrix.T.tocsr(), diagonal.astype(np.float32)[:, None]

    def regression(block: np.ndarray) -> np.ndarray:
        # B = I - P / diag(P): column j is divided by P_jj, which makes the diagonal zero.
        return block - inverse(block / divisor)

    def product(block: np.ndarray) -> np.ndarray:
        predicted = transposed @ (matrix @ regression(block))
        return predicted - inverse(predicted) / divisor

    vectors = _leading_eigenvectors(product, len(diagonal), rank)
    return regression(vectors), vectors


def _inverse_by_items(matrix: sparse.csr_matrix, ridge: np.ndarray) -> Inverse:
    """Return P = (matrix' matrix + diag(ridge))^-1 by items^3 operations."""
    inverse = _inverse_of_gram(matrix.T.tocsr(), ridge)
    single = inverse.astype(np.float32)
    return lambda block: single @ block, np.diagonal(inverse).copy()


def _inverse_by_users(matrix: sparse.csr_matrix, ridge: np.ndarray) -> Inverse:
    """Return P by users^3 operations.

    P = D^-1/2 (I - C' (I + C C')^-1 C) D^-1/2 with D = diag(ridge) and C = matrix D^-1/2.

    Source: Woodbury, 1950 (the inverse of a matrix that is modified by one of lower rank).
    """
    scale = 1 / np.sqrt(ridge)
    scaled = (matrix.astype(np.float64) @ sparse.diags(scale)).tocsr()
    transposed = scaled.T.tocsr()
    inner = _inverse_of_gram(scaled, np.ones(matrix.shape[0]))
    blocks = (transposed[start : start + BLOCK] for start in range(0, len(ridge), BLOCK))
    shares = np.concatenate([np.asarray(rows.multiply(rows @ inner).sum(1)).ravel() for rows in blocks])
    single, factor = inner.astype(np.float32), scale.astype(np.float32)[:, None]
    scaled, transposed = scaled.astype(np.float32), transposed.astype(np.float32)

    def product(block: np.ndarray) -> np.ndarray:
        block = block * factor
        return (block - transposed @ (single @ (scaled @ block))) * factor

    return product, (1 - shares) / ridge


def _inverse_by_eigenvectors(matrix: sparse.csr_matrix, ridge: np.ndarray, count: int) -> Inverse:
    """Return P approximately, by sparse products: C' C as leading eigenvectors and the diagonal of the rest.

    Source: Snelson and Ghahramani, NeurIPS 2005 (low rank plus the diagonal of the residual).
    """
    scaled = (matrix @ sparse.diags((1 / np.sqrt(ridge)).astype(np.float32))).tocsr()
    transposed = scaled.T.tocsr()

    def gram(block: np.ndarray) -> np.ndarray:
        return transposed @ (scaled @ block)

    factor = _leading_eigenvectors(gram, len(ridge), count)
    factor *= np.sqrt(np.maximum((factor * gram(factor)).sum(0), 0))
    rest = np.maximum(np.asarray(scaled.multiply(scaled).sum(0)).ravel() - (factor**2).sum(1), 0)
    factor /= np.sqrt(1 + rest)[:, None]
    root = np.linalg.cholesky(np.eye(count) + (factor.T @ factor).astype(np.float64))
    factor = factor @ np.linalg.inv(root).T.astype(np.float32)
    ridge = ridge * (1 + rest)
    scale = (1 / np.sqrt(ridge)).astype(np.float32)[:, None]

    def product(block: np.ndarray) -> np.ndarray:
        block = block * scale
        return (block - factor @ (factor.T @ block)) * scale

    return product, (1 - (factor**2).sum(1, dtype=np.float64)) / ridge


def _inverse_of_gram(rows: sparse.csr_matrix, ridge: np.ndarray) -> np.ndarray:
    """Return (rows rows' + diag(ridge))^-1 in float64, by Cholesky: half the work of a general inverse."""
    rows = rows.astype(np.float64)
    columns, size = rows.T.tocsr(), rows.shape[0]
    gram = np.empty((size, size), order="F")
    for start in range(0, size, BLOCK):
        gram[:, start : start + BLOCK] = (rows[start : start + BLOCK] @ columns).toarray().T
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


def _leading_eigenvectors(product: Product, size: int, rank: int) -> np.ndarray:
    """Return the leading eigenvectors of a symmetric matrix given as a product, (size, rank) float32."""
    width = min(rank + OVERSAMPLING, size)
    block = np.random.default_rng(0).standard_normal((size, width), dtype=np.float32)
    for _ in range(ITERATIONS):
        # numpy's qr would work in double precision.
        block, _ = scipy.linalg.qr(product(block), overwrite_a=True, mode="economic", check_finite=False)
    inner = (block.T @ product(block)).astype(np.float64)
    _, rotation = np.linalg.eigh((inner + inner.T) / 2)
    return block @ rotation[:, ::-1][:, :rank].astype(np.float32)
