"""Item-to-item rankers from the training interactions alone, without a gradient: strong and cheap baselines.

Both give a weight matrix (N, N) float32 whose entry [i, j] is what having item i adds to the score of item j.
A matrix of N items takes 4 N^2 bytes, and `ease` works on 12 N^2 more: made for catalogues up to ITEM_LIMIT.
"""

from pathlib import Path

import numpy as np
import torch
from scipy.linalg import lapack
from scipy.sparse import csr_array
from torch import Tensor

from trainer.dataset.attributes import Ragged
from trainer.dataset.storage import keep_array
from trainer.errors import DataError
from trainer.evaluation.topk import USER_BLOCK, ItemLists, best_columns, owners

ITEM_LIMIT = 20_000
"""Most items of a catalogue: 1.6 GB of weights, and minutes for `ease` on one core."""

VERSION = 1  # of what is computed; part of the names of kept weights, so that older ones are not taken

# Near the best on validation parts (10% of training) of both ml-100k and ml-1m. NDCG@10 on their test parts:
# item_knn 0.396 and 0.372, ease 0.438 and 0.437.
SETTINGS: dict[str, dict[str, float]] = {
    "item_knn": {"neighbours": 200, "shrinkage": 10.0},
    "ease": {"penalty": 700.0},
}


def training_matrix(by_user: Ragged, item_count: int) -> csr_array:
    """Which items each user has, (users, N) float32 of ones.

    Args: by_user: items of each user, no item twice.
    """
    ones = np.ones(len(by_user.values), np.float32)
    return csr_array(
        (ones, by_user.values, by_user.offsets), shape=(len(by_user.offsets) - 1, item_count), copy=False
    )


def item_knn(history: csr_array, neighbours: int, shrinkage: float) -> np.ndarray:
    """Cosine of the items' columns, for each item (column) to its nearest neighbours alone.

    weight[i, j] = c_ij / (sqrt(c_ii c_jj) + shrinkage) with c = history^T history, if i is one of the
    `neighbours` items of largest weight in column j (of equals, the lower rows), else 0. The diagonal is 0.
    Shrinkage lowers similarities that rest on few users.

    Args: history: (users, N), non-negative.
    Returns: (N, N) float32.
    Raises: DataError if N is above ITEM_LIMIT.
    Source: Sarwar et al., WWW 2001; shrinkage as in Ferrari Dacrema et al., RecSys 2019.
    """
    check_size("item_knn", history.shape[1])
    together = (history.T @ history).tocoo()
    norms = np.sqrt(together.diagonal())
    divisor = norms[together.row] * norms[together.col] + shrinkage
    together.data = np.divide(together.data, divisor, dtype=np.float32, casting="same_kind")
    weights = together.toarray()
    np.fill_diagonal(weights, 0)
    # A column that has been cut is never read again, and the matrix was symmetric: its rows are not needed.
    for start in range(0, len(weights), USER_BLOCK):
        columns = np.arange(start, min(start + USER_BLOCK, len(weights)))
        best, rows = best_columns(torch.from_numpy(weights[:, columns].T.copy()), neighbours)
        weights[:, columns] = 0
        weights[rows.numpy(), columns[:, None]] = best.numpy()
    return weights


def ease(history: csr_array, penalty: float) -> np.ndarray:
    """The linear item-to-item model of least squared error whose diagonal is zero, in closed form.

    weight[i, j] = -p_ij / p_jj and 0 on the diagonal, with p = (history^T history + penalty I)^-1.

    Args:
        history: (users, N).
        penalty: L2 penalty on the weights, above 0.
    Returns: (N, N) float32.
    Raises: DataError if N is above ITEM_LIMIT.
    Source: Steck, WWW 2019.
    """
    check_size("ease", history.shape[1])
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


def rank_by_history(weights: np.ndarray, history: csr_array, k: int, exclude: ItemLists) -> Tensor:
    """The k items that each user has left with the highest sum of weights from the user's items.

    Scores, history @ weights, are made for USER_BLOCK users at a time. Equal scores rank the lower item row
    first; so does the whole catalogue for a user without history, about whom these rankers know nothing.

    Args:
        weights: (N, N) float32.
        history: (B, N) float32.
        exclude: a list of item rows for each of the B users.
    Returns: (B, k) int64 item rows, best first; -1 where fewer than k are left.
    Raises: ValueError if `exclude` does not fit.
    """
    count, items = history.shape
    users, values = owners(exclude, count, items), exclude[1].long()
    ranking = torch.full((count, k), -1)
    for start in range(0, count, USER_BLOCK):
        own = slice(start, start + USER_BLOCK)
        scores = torch.from_numpy(history[own] @ weights)
        inside = (users >= start) & (users < start + USER_BLOCK)
        scores[users[inside] - start, values[inside]] = -torch.inf
        best, rows = best_columns(scores, k)
        ranking[own, : rows.shape[1]] = rows.masked_fill(best == -torch.inf, -1)
    return ranking


def kept_weights(folder: Path, name: str, history: csr_array) -> np.ndarray:
    """Weights of `item_knn` or `ease` under SETTINGS, read from `folder` or computed and kept there.

    Args: folder: of the prepared data set that `history` is the training part of; where it cannot be written
        to, nothing is kept.
    Returns: (N, N) float32, memory-mapped where it was kept.
    """
    settings = SETTINGS[name]
    words = "-".join(f"{key}-{value:g}" for key, value in settings.items())
    path = folder / f"weights-{VERSION}-{name}-{words}.npy"
    try:
        # A plain view of the map: arithmetic on numpy's memmap class is slower.
        weights = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if len(weights) == history.shape[1]:  # older ones weigh items that are retained from an earlier run
            return weights
    except (OSError, ValueError):
        pass  # not there, or not whole: made anew
    if name == "item_knn":
        weights = item_knn(history, int(settings["neighbours"]), settings["shrinkage"])
    else:
        weights = ease(history, settings["penalty"])
    keep_array(path, weights)
    return weights


def check_size(name: str, item_count: int) -> None:
    """Refuse a catalogue whose item-to-item weights would not fit.

    Raises: DataError naming the baseline.
    """
    if name in SETTINGS and item_count > ITEM_LIMIT:
        raise DataError(
            f"baseline {name}: the catalogue has {item_count:,} items, expected at most {ITEM_LIMIT:,}, as "
            "it weighs every item against every other. Name other baselines: --evaluation.baselines (train), "
            "--baselines (evaluate)"
        )
