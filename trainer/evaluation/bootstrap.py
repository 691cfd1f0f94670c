"""Two models on the same users: how far apart they are, and how far chance alone could put them."""

from dataclasses import dataclass

import numpy as np

DRAW_BLOCK = 2**22  # users drawn at a time: 32 MiB of rows


@dataclass(frozen=True)
class Difference:
    """Means of a metric over the same users, and how sure their difference is.

    Attributes:
        first, second: means.
        difference: first - second.
        low, high: ends of the 95% confidence interval of the difference.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float


def paired_bootstrap(
    first: dict[str, np.ndarray],
    second: dict[str, np.ndarray],
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, Difference]:
    """Difference of the means of two models, with the percentile interval of a paired bootstrap over users.

    A resample draws as many users as there are, with replacement, and takes both models' values of each: what
    makes a user hard for both cancels out. All metrics share the resamples. The interval tells of the choice
    of users alone, not of the seed of a training. Time grows with users times resamples.

    Args:
        first, second: metric -> (U,) value of each user, in the same order.
        resamples: resampled means.
        confidence: chance that the interval is to hold the true difference.
        seed: of the resamples.
    Returns: metric -> difference. Where no user differs it is exactly 0, and so are both ends.
    Raises: ValueError if metrics or users differ, or there are no users.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if {name: len(values) for name, values in first.items()} != {
        name: len(values) for name, values in second.items()
    }:
        raise ValueError("metrics or numbers of users differ, expected those of the same users")
    differences = np.stack([first[name] - second[name] for name in first])
    if not differences.shape[1]:
        raise ValueError("there are no users, expected at least one")
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(_resampled_means(differences, resamples, seed), [tail, 1 - tail], axis=1)
    return {
        name: Difference(
            float(first[name].mean()),
            float(second[name].mean()),
            float(values.mean()),
            float(low),
            float(high),
        )
        for name, values, low, high in zip(first, differences, lows, highs, strict=True)
    }


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over users drawn with replacement, (metrics, resamples), of values (metrics, users)."""
    generator, means = np.random.default_rng(seed), np.empty((len(values), resamples))
    users = values.shape[1]
    block = max(DRAW_BLOCK // users, 1)
    for start in range(0, resamples, block):
        drawn = generator.integers(users, size=(min(block, resamples - start), users))
        for metric, of_users in enumerate(values):
            means[metric, start : start + block] = of_users[drawn].mean(1)
    return means
