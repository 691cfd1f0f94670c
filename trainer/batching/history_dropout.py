"""What a training step hides of a user's history, so that no answer stands in its own question."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Bags: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Lengths (b,) and concatenated values, as `Ragged.take` gives them."""


@dataclass(frozen=True)
class History:
    """Histories of a step's rows in two parts.

    Attributes:
        shown: what the query tower looks up.
        hidden: the rest; at least one item of every row that has any.
    """

    shown: Bags
    hidden: Bags


def split_history(history: Bags, share: float, draws: np.ndarray, own: np.ndarray | None = None) -> History:
    """Hide each item with chance `share`, and one of every row in any case.

    Args:
        history: items of each of b rows.
        share: from 0 to 1.
        draws: one number from 0 to below 1 for every item, uniform.
        own: (b,) the item that is hidden in any case; None: the one of the smallest draw.
    """
    lengths, items = history
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if own is None:
        least = np.full(len(lengths), np.inf)
        filled = lengths > 0
        least[filled] = np.minimum.reduceat(draws, (np.cumsum(lengths) - lengths)[filled])
        hidden = (draws < share) | (draws == least[rows])
    else:
        hidden = (draws < share) | (items == own[rows])
    counts = np.bincount(rows[hidden], minlength=len(lengths))
    return History((lengths - counts, items[~hidden]), (counts, items[hidden]))
