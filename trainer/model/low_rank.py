"""The closed-form two-tower: an item-item regression of reduced rank as a history table and an item table.

It has no gradients to wait for, serves a person by the sum of the history rows of their items, and so needs
no id: someone who was not in training is served at once.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse as sparse

from trainer.data.dataset import Dataset
from trainer.data.features import Ragged
from trainer.data.storage import keep_array

EXACT_ITEMS = 12_000
"""Largest catalogue whose item-item matrix is inverted: three of them stand in memory, 8 bytes an entry."""
PENALTY = 300.0
OVERSAMPLING = 16
ITERATIONS = 8


def closed_form_towers(
    users: np.ndarray,
    items: np.ndarray,
    user_count: int,
    item_count: int,
    rank: int,
    penalty: float = PENALTY,
    dropout: float = 0.4,
    weight_power: float = -0.7,
    exact_items: int = EXACT_ITEMS,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank-reduced EDLAE: an autoencoder that may not copy its input, with dropout in expectation.

    With X the users x items matrix of training, w = (interactions of a user) ** weight_power, W = diag(w):
    P = (X'WX + diag(penalty + dropout / (1 - dropout) X'w))^-1, B = -P / diag(P) with a zero diagonal,
    V the leading right singular vectors of W^1/2 X B. The history table is B V, the item table V. Where an
    item-item matrix does not fit, V are the leading eigenvectors of the regularised X'WX instead, found with
    sparse products only (a few per cent worse).

    Args:
        users, items: (n,) training interactions as rows of users and items, each pair once.
        user_count, item_count: users, and items of the catalogue.
        rank: width of both tables; at most `item_count` columns are other than zero.
        penalty: squared penalty on the regression's weights.
        dropout: share of a user's items that is hidden, from 0 to below 1.
        weight_power: below 0, a user with many interactions counts less for each.
        exact_items: larger catalogues take the sparse way.
    Returns: history table and item table, (item_count, rank) float32 each.
    Source: Steck, NeurIPS 2020 (EDLAE); Halko et al., SIAM Review 2011 (subspace iteration).
    """
    counts = np.bincount(users, minlength=user_count).astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** weight_power, 0)
    weights *= counts.sum() / max((weights * counts).sum(), 1e-30)
    values = np.sqrt(weights[users]).astype(np.float32)
    matrix = sparse.csr_matrix((values, (users, items)), shape=(user_count, item_count))
    found = min(rank, item_count)
    solve = _exact if item_count <= exact_items else _sparse
    history, vectors = solve(matrix, found, penalty, dropout / (1 - dropout))
    padding = ((0, 0), (0, rank - found))
    return np.pad(history, padding).astype(np.float32), np.pad(vectors, padding).astype(np.float32)


def kept_towers(dataset: Dataset, rank: int, penalty: float = PENALTY) -> tuple[np.ndarray, np.ndarray]:
    """Towers of a data set's training part, read from its folder or computed and kept there.

    Where the folder cannot be written to, nothing is kept.

    Returns: history table and item table, (items, rank) float32 each, memory-mapped where they were kept.
    """
    paths = _files(dataset, rank, penalty)
    try:
        # Plain views of the maps: arithmetic on numpy's memmap class is slower.
        history, vectors = (np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths)
        return history, vectors
    except (OSError, ValueError):
        pass  # not there, or not whole: made anew
    tables = training_towers(dataset, rank, penalty)
    for path, table in zip(paths, tables, strict=True):
        keep_array(path, table)
    return tables


def closed_form_files(dataset: Dataset, rank: int, penalty: float) -> tuple[Path, Path]:
    """Files of the history table and of the item table, computed where they are not there yet."""
    kept_towers(dataset, rank, penalty)
    return _files(dataset, rank, penalty)


def training_towers(dataset: Dataset, rank: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """History table and item table of a data set's training part, (items, rank) float32 each."""
    users, items = np.asarray(dataset.train.users), np.asarray(dataset.train.items)
    return closed_form_towers(users, items, dataset.user_count, dataset.item_count, rank, penalty)


def history_vectors(by_user: Ragged, users: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Query vectors of users: the sum of their items' rows over the root of their number, (users, rank)."""
    lengths, items = by_user.take(users)
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((values, items, offsets), shape=(len(users), len(history))) @ history


def _files(dataset: Dataset, rank: int, penalty: float) -> tuple[Path, Path]:
    name = f"low_rank_{rank}_{penalty:g}"
    return dataset.folder / f"{name}_history.npy", dataset.folder / f"{name}_items.npy"


def _exact(
    matrix: sparse.csr_matrix, rank: int, penalty: float, odds: float
) -> tuple[np.ndarray, np.ndarray]:
    gram = (matrix.T @ matrix).toarray().astype(np.float64)
    penalised = gram + np.diag(penalty + odds * np.diag(gram))
    inverse = scipy.linalg.cho_solve(
        scipy.linalg.cho_factor(penalised, overwrite_a=True), np.eye(len(gram)), overwrite_b=True
    )
    regression = inverse / -np.diag(inverse)
    np.fill_diagonal(regression, 0)
    vectors = _leading(lambda block: regression.T @ (gram @ (regression @ block)), len(gram), rank)
    return regression @ vectors, vectors


def _sparse(
    matrix: sparse.csr_matrix, rank: int, penalty: float, odds: float
) -> tuple[np.ndarray, np.ndarray]:
    held = np.asarray(matrix.multiply(matrix).sum(0)).ravel().astype(np.float64)
    scale = 1 / np.sqrt(penalty + odds * held)
    scaled = (matrix @ sparse.diags(scale.astype(np.float32))).tocsr()
    transposed = scaled.T.tocsr()

    def product(block: np.ndarray) -> np.ndarray:
        return transposed @ (scaled @ block.astype(np.float32))

    vectors = _leading(product, matrix.shape[1], rank)
    values = (vectors * product(vectors)).sum(0)
    # The ridge regression on the leading eigenvectors: directions of little mass are shrunk.
    return scale[:, None] * vectors * (values / (1 + values)), vectors / scale[:, None]


def _leading(product: Callable[[np.ndarray], np.ndarray], size: int, rank: int) -> np.ndarray:
    """Leading eigenvectors of a symmetric matrix known by its products, (size, rank)."""
    block = np.random.default_rng(0).standard_normal((size, min(rank + OVERSAMPLING, size)))
    for _ in range(ITERATIONS):
        block, _ = np.linalg.qr(product(block))
    inner = block.T @ product(block)
    _, rotation = np.linalg.eigh((inner + inner.T) / 2)
    return block @ rotation[:, ::-1][:, :rank]
