"""What the order of items tells: which came last, and which came after which."""

import numpy as np

from trainer.storage.attributes import Ragged

HOUR = 3600.0
"""Seconds."""
TIMES_LOOKED_AT = 1_000_000
"""Times of known histories that say how long after an item the next one usually comes."""


def recency_weights(lengths: np.ndarray, decay: float) -> np.ndarray:
    """Return decay ** (number of later items of the same user) of each item, (sum of lengths,) float32.

    Args:
        lengths: Items of each user, oldest first.
        decay: 0 to 1; 0 leaves the last item alone.
    """
    later = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(lengths.sum())
    return (decay**later).astype(np.float32)


def transitions(lengths: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each item that is not a user's last, and the item right after it.

    Args:
        lengths: Items of each user.
        items: (sum of lengths,) their items, oldest first.
    """
    goes_on = np.repeat(np.cumsum(lengths), lengths)[:-1] > np.arange(1, len(items))
    return items[:-1][goes_on], items[1:][goes_on]


def usual_gap(times: Ragged) -> float:
    """Return the seconds from one item to the next that are usual in known histories.

    Its log of 1 + hours, by which weights decay, is the mean of theirs.

    Args:
        times: Seconds of each user's items, oldest first.
    """
    first, starts = times.values[:TIMES_LOOKED_AT], times.offsets[1:]
    gaps = np.diff(first)
    within = np.ones(len(gaps), bool)
    within[starts[(starts > 0) & (starts <= len(gaps))] - 1] = False  # from one person to the next
    usual = np.log1p(np.maximum(gaps[within], 0) / HOUR).mean() if within.any() else 0.0
    return float(np.expm1(usual) * HOUR)
