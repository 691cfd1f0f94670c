"""Rivals of the trainer that one core fits in seconds, each as user and item vectors to be multiplied.

A rival takes the training interactions as a (users, items) float32 matrix of ones. Where its score is no
product of two factors, a user's row of that matrix is the user vector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from scipy.sparse import csr_matrix

Vectors = tuple[np.ndarray, np.ndarray]
"""User vectors (users, D) and item vectors (items, D), float32."""


@dataclass(frozen=True)
class Rival:
    """A way to fit, and what may be chosen about it.

    Attributes:
        fit: called with the training matrix, a seed, and one value of each setting.
        grid: values to choose from by setting, in the order in which they are varied.
        seeded: whether the seed matters.
    """

    fit: Callable[..., Vectors]
    grid: dict[str, tuple[float, ...]]
    seeded: bool = False


def popularity(train: csr_matrix, seed: int) -> Vectors:
    """Training interactions of each item, the same for every user."""
    return np.ones((train.shape[0], 1), np.float32), train.sum(axis=0).reshape(-1, 1).astype(np.float32)


def item_knn(train: csr_matrix, seed: int, neighbours: int, shrinkage: float) -> Vectors:
    """Sum of the cosines between an item and those of its nearest neighbours that the user has.

    Args:
        neighbours: items that are kept for each item, those of the largest cosine.
        shrinkage: added to the denominator of every cosine, against likeness by few users.
    Source: Sarwar et al., WWW 2001; shrinkage as in Ferrari Dacrema et al., RecSys 2019.
    """
    together = (train.T @ train).toarray()
    lengths = np.sqrt(together.diagonal())
    cosines = together / (np.outer(lengths, lengths) + shrinkage + 1e-6)
    np.fill_diagonal(cosines, 0)
    if neighbours < len(cosines):
        least = np.partition(cosines, -neighbours, axis=1)[:, -neighbours, None]
        cosines[cosines < least] = 0
    return train.toarray(), cosines.astype(np.float32)


def ease(train: csr_matrix, seed: int, penalty: float) -> Vectors:
    """Least squares of each item on all others, in closed form.

    Args:
        penalty: L2 penalty on the weights.
    Source: Steck, WWW 2019.
    """
    users, items = train.shape
    rows = train.toarray()
    if items <= users:
        inverse = np.linalg.inv((train.T @ train).toarray().astype(np.float64) + penalty * np.eye(items))
    else:  # Woodbury: the same inverse by way of the smaller matrix
        small = (train @ train.T).toarray().astype(np.float64) + penalty * np.eye(users)
        inverse = (np.eye(items) - rows.T @ np.linalg.solve(small, rows)) / penalty
    weights = inverse / -inverse.diagonal()
    np.fill_diagonal(weights, 0)
    return rows, np.ascontiguousarray(weights.T, np.float32)


def als(
    train: csr_matrix, seed: int, factors: int, regularization: float, alpha: float, iterations: int
) -> Vectors:
    """Weighted least squares over all pairs, an interaction weighing `alpha` and all else 1, by `implicit`.

    Source: Hu, Koren and Volinsky, ICDM 2008.
    """
    model = AlternatingLeastSquares(
        factors=factors,
        regularization=regularization,
        alpha=alpha,
        iterations=iterations,
        num_threads=1,
        random_state=seed,
    )
    model.fit(train, show_progress=False)
    assert model.user_factors is not None
    assert model.item_factors is not None
    return model.user_factors, model.item_factors


def bpr(
    train: csr_matrix, seed: int, factors: int, learning_rate: float, regularization: float, iterations: int
) -> Vectors:
    """Pairs of an interaction and an item drawn at random, ranked by a logistic loss, by `implicit`.

    Source: Rendle et al., UAI 2009.
    """
    model = BayesianPersonalizedRanking(
        factors=factors,
        learning_rate=learning_rate,
        regularization=regularization,
        iterations=iterations,
        num_threads=1,
        random_state=seed,
    )
    model.fit(train, show_progress=False)
    assert model.user_factors is not None
    assert model.item_factors is not None
    return model.user_factors, model.item_factors


RIVALS = {
    "popularity": Rival(popularity, {}),
    "item_knn": Rival(
        item_knn, {"neighbours": (20, 50, 100, 200, 400, 10_000), "shrinkage": (0, 5, 20, 50, 200)}
    ),
    "ease": Rival(ease, {"penalty": (50, 100, 200, 300, 500, 700, 1000, 2000)}),
    "als": Rival(
        als,
        {
            "factors": (32, 64, 128),
            "regularization": (0.01, 1, 3, 10, 30, 100),
            "alpha": (0.5, 1, 2, 4, 8, 16),
            "iterations": (5, 10, 15, 30),
        },
        seeded=True,
    ),
    "bpr": Rival(
        bpr,
        {
            "factors": (32, 64, 128),
            "learning_rate": (0.003, 0.01, 0.03),
            "iterations": (10, 20, 50, 100),
            "regularization": (0.0001, 0.001, 0.01, 0.1),
        },
        seeded=True,
    ),
}


def choose(
    grid: dict[str, tuple[float, ...]], score: Callable[[dict[str, Any]], float]
) -> tuple[dict[str, Any], float, int]:
    """Settings of the largest score among those that a walk over the grid tries.

    There is a walk for each value of the first setting, from the middle of the others: one of them is varied
    at a time, round after round, until none changes. With two settings that is the whole grid.

    Args:
        grid: at least one setting, each with its values.
    Returns: settings, their score, and how many were tried.
    """
    tried: dict[tuple[float, ...], float] = {}

    def scored(settings: dict[str, Any]) -> float:
        key = tuple(settings.values())
        if key not in tried:
            tried[key] = score(settings)
        return tried[key]

    (first, starts), *others = grid.items()
    for start in starts:
        best, before = {first: start} | {name: values[len(values) // 2] for name, values in others}, None
        scored(best)
        while best != before:
            before = best
            for name, values in others:
                best = max((best | {name: value} for value in values), key=scored)
    key = max(tried, key=tried.__getitem__)
    return dict(zip(grid, key, strict=True)), tried[key], len(tried)


CHOSEN: dict[str, dict[str, dict[str, Any]]] = {
    "ml-1m": {
        "item_knn": {"neighbours": 200, "shrinkage": 50},
        "ease": {"penalty": 1000},
        "als": {"factors": 64, "regularization": 30, "alpha": 2, "iterations": 15},
        "bpr": {"factors": 32, "learning_rate": 0.003, "iterations": 100, "regularization": 0.0001},
    },
    "ml-100k": {
        "item_knn": {"neighbours": 200, "shrinkage": 0},
        "ease": {"penalty": 300},
        "als": {"factors": 64, "regularization": 30, "alpha": 4, "iterations": 5},
        "bpr": {"factors": 64, "learning_rate": 0.01, "iterations": 50, "regularization": 0.0001},
    },
    "ml-100k-4": {
        "item_knn": {"neighbours": 200, "shrinkage": 5},
        "ease": {"penalty": 300},
        "als": {"factors": 64, "regularization": 30, "alpha": 4, "iterations": 30},
        "bpr": {"factors": 32, "learning_rate": 0.01, "iterations": 50, "regularization": 0.0001},
    },
    "ml-100k-last": {
        "item_knn": {"neighbours": 10000, "shrinkage": 0},
        "ease": {"penalty": 100},
        "als": {"factors": 128, "regularization": 10, "alpha": 2, "iterations": 10},
        "bpr": {"factors": 128, "learning_rate": 0.01, "iterations": 50, "regularization": 0.0001},
    },
    "ml-100k-temporal": {
        "item_knn": {"neighbours": 400, "shrinkage": 5},
        "ease": {"penalty": 500},
        "als": {"factors": 32, "regularization": 30, "alpha": 0.5, "iterations": 15},
        "bpr": {"factors": 32, "learning_rate": 0.01, "iterations": 50, "regularization": 0.01},
    },
    "ml-latest-small": {
        "item_knn": {"neighbours": 100, "shrinkage": 0},
        "ease": {"penalty": 300},
        "als": {"factors": 128, "regularization": 30, "alpha": 4, "iterations": 30},
        "bpr": {"factors": 64, "learning_rate": 0.01, "iterations": 100, "regularization": 0.01},
    },
}
"""By data set and rival, as `python -m tests.benchmarks.quality --tune` printed them on 2026-11-24."""
