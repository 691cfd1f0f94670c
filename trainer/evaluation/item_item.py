"""Item-to-item models, fitted to the training interactions without gradients: strong and cheap baselines.

`item_knn` and `ease` give weights (N, N) float32: entry [i, j] is what having item i adds to the score of j.
They take 4 N^2 bytes, and `ease` works on 12 N^2 more, hence the limit in `trainer.facts.baselines`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import lapack
from scipy.sparse import csr_array
from torch import Tensor

from trainer.evaluation.topk import USER_BLOCK, ItemLists, best_columns, owners
from trainer.storage.arrays import keep_array
from trainer.storage.attributes import Ragged

VERSION = 2
"""Version of the computation, part of the names of cached weights, so that those of another are not read."""


def training_matrix(by_user: Ragged, item_count: int) -> csr_array:
    """Return the users x items matrix of ones where a user has an item, (users, N) float32.

    Args:
        by_user: Items of each user, no item twice.
        item_count: Items of the catalogue, N.
    """
    ones = np.ones(len(by_user.values), np.float32)
    return csr_array(
        (ones, by_user.values, by_user.offsets), shape=(len(by_user.offsets) - 1, item_count), copy=False
    )


def item_knn(history: csr_array, neighbours: int, shrinkage: float) -> np.ndarray:
    """Compute the cosine similarity of each item (column) to its nearest neighbours.

    weight[i, j] = c_ij / (sqrt(c_ii c_jj) + shrinkage) with c = history^T history, if i is one of the
    `neighbours` items of largest weight in column j (of equals, the lower rows), else 0. The diagonal is 0.

    Args:
        history: (users, N), non-negative.
        neighbours: Items with a weight in each column.
        shrinkage: Lowers similarities that rest on few users.

    Returns:
        (N, N) float32.

    Source: Sarwar et al., WWW 2001; shrinkage as in Ferrari Dacrema et al., RecSys 2019.
    """
    together = (history.T @ history).tocoo()
    norms = np.sqrt(together.diagonal())
    divisor = norms[together.row] * norms[together.col] + shrinkage
    together.data = np.divide(together.data, divisor, dtype=np.float32, casting="same_kind")
    weights = together.toarray()
    np.fill_diagonal(weights, 0)
    # In place: a block reads its own columns alone, which no earlier block has changed.
    for start in range(0, len(weights), USER_BLOCK):
        columns = np.arange(start, min(start + USER_BLOCK, len(weights)))
        best, rows = best_columns(torch.from_numpy(weights[:, columns].T.copy()), neighbours)
        weights[:, columns] = 0
        weights[rows.numpy(), columns[:, None]] = best.numpy()
    return weights


def ease(history: csr_array, penalty: float) -> np.ndarray:
    """Compute the linear item-to-item model of least squared error with a zero diagonal, in closed form.

    weight[i, j] = -p_ij / p_jj and 0 on the diagonal, with p = (history^T history + penalty I)^-1.

    Args:
        history: (users, N).
        penalty: L2 penalty on the weights, above 0.

    Returns:
        (N, N) float32.

    Raises:
        ValueError: If the penalty leaves the matrix singular.

    Source: Steck, WWW 2019.
    """
    gram = (history.T @ history).astype(np.float64).toarray(order="F")
    gram[np.diag_indices_from(gram)] += penalty
    # By Cholesky, in place: half the work and a third of the memory of a general inverse.
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(f"penalty {penalty} leaves the matrix singular, expected a number above 0")
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    diagonal = np.diagonal(inverse).copy()
    weights = np.tril(inverse.astype(np.float32), -1)
    weights += weights.T
    weights /= -diagonal.astype(np.float32)
    return weights


def rank_by_history(
    weights: np.ndarray | csr_array, history: csr_array, k: int, exclude: ItemLists, prior: Tensor | float = 0
) -> Tensor:
    """Rank each user's remaining items by the sum of weights from the items that the user has.

    Scores, history @ weights + prior, are computed for USER_BLOCK users at a time. Equal scores rank the
    lower item row first; a user without history has the prior's scores.

    Args:
        weights: (N, N) float32.
        history: (B, N) float32; weights of the user's items.
        k: Length of the lists.
        exclude: A list of item rows for each of the B users.
        prior: (N,) float32 or a number, the scores without any history.

    Returns:
        (B, k) int64 item rows, best first; -1 where fewer than k remain.

    Raises:
        ValueError: If `exclude` does not fit.
    """
    count, items = history.shape
    users, values = owners(exclude, count, items), exclude[1].long()
    ranking = torch.full((count, k), -1)
    for start in range(0, count, USER_BLOCK):
        block = slice(start, start + USER_BLOCK)
        summed = history[block] @ weights
        scores = torch.from_numpy(summed if isinstance(summed, np.ndarray) else summed.toarray())
        scores += prior
        inside = (users >= start) & (users < start + USER_BLOCK)
        scores[users[inside] - start, values[inside]] = -torch.inf
        best, rows = best_columns(scores, k)
        ranking[block, : rows.shape[1]] = rows.masked_fill(best == -torch.inf, -1)
    return ranking


def cached_weights(
    folder: Path, compute: Callable[..., np.ndarray], history: csr_array, settings: Mapping[str, Any]
) -> np.ndarray:
    """Read weights from a file, or compute and write them.

    Args:
        folder: Folder of the prepared data set; where it cannot be written to, nothing is cached.
        compute: `item_knn` or `ease`; its name and its settings make the name of the file.
        history: (users, N), training interactions of that data set.
        settings: Further arguments of `compute`.

    Returns:
        (N, N) float32, memory-mapped where it was cached.
    """
    described = "-".join(f"{key}-{value:g}" for key, value in settings.items())
    path = folder / f"weights-{VERSION}-{compute.__name__}-{described}.npy"
    try:
        # A plain view of the map: arithmetic on numpy's memmap class is slower.
        weights = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if len(weights) == history.shape[1]:  # older versions also weighed items retained from an earlier run
            return weights
    except (OSError, ValueError):
        pass  # missing or truncated: computed again
    weights = compute(history, **settings)
    keep_array(path, weights)
    return weights
