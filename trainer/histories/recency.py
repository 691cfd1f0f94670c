"""What the order of items tells: which came last, and which came after which."""

import numpy as np


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
