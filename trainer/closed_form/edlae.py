"""Closed-form towers (EDLAE): an item-item regression of reduced rank as a history and an item table.

A query vector is the sum of the history rows of a user's items, so that users who were not in the
training data need no fitting.
"""

import atexit
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sparse

from trainer.closed_form.gram_inverse import (
    ITERATIONS,
    Inverse,
    gram_factors,
    gram_matrix,
    inverse_by_factors,
    inverse_by_items,
    inverse_by_users,
    leading_eigenvectors,
)
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
COARSE_ITERATIONS = 3
"""Rounds where penalties and widths are compared."""
DROPOUT, WEIGHT_POWER = 0.4, -0.7
VERSION = 2  # of the computation; in the file names of saved towers, so that older ones are not read

Towers = tuple[np.ndarray, np.ndarray]
"""History table and item table, (items, rank) float32 each."""


def closed_form_towers(
    users: np.ndarray,
    items: np.ndarray,
    user_count: int,
    item_count: int,
    rank: int,
    penalty: float = FIXED_PENALTY,
    dropout: float = DROPOUT,
    weight_power: float = WEIGHT_POWER,
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
    shape = user_count, item_count
    regression = Regression.of(users, items, shape, dropout=dropout, weight_power=weight_power)
    return regression.towers(rank, penalty, exact_size)


class Regression:
    """The regression of one training split, for several penalties: what they share is computed once.

    That is the Gram matrix X'WX, 4 bytes an entry.
    """

    def __init__(self, matrix: sparse.csr_matrix, dropout_ridge: np.ndarray) -> None:
        """Take over the parts of `closed_form_towers`.

        Args:
            matrix: W^1/2 X, (users, items) float32.
            dropout_ridge: What dropout adds to the diagonal, (items,) float64.
        """
        self._matrix, self._dropout_ridge = matrix, dropout_ridge
        self._gram: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        users: np.ndarray,
        items: np.ndarray,
        shape: tuple[int, int],
        dropout: float = DROPOUT,
        weight_power: float = WEIGHT_POWER,
    ) -> "Regression":
        """Return the regression of interactions, see `closed_form_towers`; the shape is users and items."""
        user_count, item_count = shape
        counts = np.bincount(users, minlength=user_count).astype(np.float64)
        weights = np.where(counts > 0, np.maximum(counts, 1) ** weight_power, 0)
        weights *= counts.sum() / max((weights * counts).sum(), 1e-30)
        values = np.sqrt(weights[users]).astype(np.float32)
        matrix = sparse.csr_matrix((values, (users, items)), shape=shape)
        weighted = np.bincount(items, values.astype(np.float64) ** 2, item_count)
        return cls(matrix, dropout / (1 - dropout) * weighted)

    @classmethod
    def of_training(cls, dataset: Dataset) -> "Regression":
        """Return the regression of a data set's training split."""
        users, items = np.asarray(dataset.train.users), np.asarray(dataset.train.items)
        return cls.of(users, items, (dataset.user_count, dataset.item_count))

    def towers(self, rank: int, penalty: float, exact_size: int = EXACT_SIZE, coarse: bool = False) -> Towers:
        """Return history table and item table, (items, rank) float32 each.

        Args:
            rank: Width of both tables.
            penalty: L2 penalty on the regression's weights.
            exact_size: If users and items are both more, P is approximated.
            coarse: Penalties or widths are to be compared, at a fraction of the work: the leading singular
                vectors take fewer rounds, and the Gram matrix is made once. The outcome does not
                depend on what was asked for before.
        """
        inverse = self._inverse(penalty, rank + EIGENVECTORS, exact_size, coarse)
        coarse = coarse and min(self._matrix.shape) <= exact_size  # approximations need all rounds
        return _reduce_rank(self._matrix, inverse, rank, COARSE_ITERATIONS if coarse else ITERATIONS)

    def _inverse(self, penalty: float, count: int, exact_size: int, coarse: bool) -> Inverse:
        """Return P; approximated, by a number of eigenvectors of the Gram matrix."""
        matrix, ridge = self._matrix, penalty + self._dropout_ridge
        users, items = matrix.shape
        if min(users, items) > exact_size:
            return inverse_by_factors(ridge, gram_factors(matrix, ridge, min(count, items)))
        if users < items:  # C C' of `inverse_by_users` depends on the penalty
            return inverse_by_users(matrix, ridge)
        if not coarse:
            return inverse_by_items(gram_matrix(matrix.T.tocsr(), np.float64), ridge)
        if self._gram is None:
            self._gram = gram_matrix(matrix.T.tocsr(), np.float32)
        return inverse_by_items(self._gram.astype(np.float64), ridge)


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
    return Regression.of_training(dataset).towers(rank, penalty)


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


def _reduce_rank(
    matrix: sparse.csr_matrix, given: Inverse, rank: int, iterations: int = ITERATIONS
) -> Towers:
    """Return B V and V, given P as a product and its diagonal; columns beyond the items are zero."""
    inverse, diagonal = given
    transposed, divisor = matrix.T.tocsr(), diagonal.astype(np.float32)[:, None]

    def regression(block: np.ndarray) -> np.ndarray:
        # B = I - P / diag(P): column j is divided by P_jj, which makes the diagonal zero.
        return block - inverse(block / divisor)

    def product(block: np.ndarray) -> np.ndarray:
        predicted = transposed @ (matrix @ regression(block))
        return predicted - inverse(predicted) / divisor

    width = min(rank, len(diagonal))
    vectors = leading_eigenvectors(product, len(diagonal), width, iterations)
    history, padding = regression(vectors), ((0, 0), (0, rank - width))
    return np.pad(history, padding).astype(np.float32), np.pad(vectors, padding).astype(np.float32)
