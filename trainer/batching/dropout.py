"""Dropout of ids: items of histories that a step predicts, and items that are to be known without theirs."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trainer.batching import seeds
from trainer.storage.attributes import Ragged

Bags: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Lengths (b,) and concatenated values, as `Ragged.take` returns them."""


@dataclass(frozen=True)
class History:
    """Histories of a step's rows, split in two.

    Attributes:
        shown: Items that the query tower looks up.
        hidden: All others; at least one item of every row that has any.
    """

    shown: Bags
    hidden: Bags


def draw_history(
    by_user: Ragged,
    users: np.ndarray,
    share: slice,
    own: np.ndarray | None,
    *,
    chance: float,
    seed: int,
    step: int,
) -> History:
    """Split the histories of a rank's rows of a step.

    Args:
        by_user: Items of every user.
        users: Users of the step's rows over all ranks.
        share: Which of the rows are the rank's.
        own: Item of each row of the rank, which is hidden in any case; None: see `split_history`.
        chance: Chance that an item is hidden.
        seed: Seed of the training.
        step: Number of the step.
    """
    history = by_user.take(users[share])
    # Skipping the draws of the rows before its own, all ranks together draw what a single one would.
    before = users[: share.start]
    skipped = int((by_user.offsets[before + 1] - by_user.offsets[before]).sum())
    draws = seeds.generator(seeds.HISTORY, seed, step, skipped).random(len(history[1]))
    return split_history(history, chance, draws, own)


def split_history(history: Bags, chance: float, draws: np.ndarray, own: np.ndarray | None = None) -> History:
    """Hide each item by chance, and at least one of every row.

    Args:
        history: Items of each of b rows.
        chance: Chance that an item is hidden, from 0 to 1.
        draws: A uniform number from 0 to below 1 for every item.
        own: Item of each row that is hidden in any case, (b,); None: the one with the smallest draw.
    """
    lengths, items = history
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if own is None:
        smallest = np.full(len(lengths), np.inf)
        filled = lengths > 0
        smallest[filled] = np.minimum.reduceat(draws, (np.cumsum(lengths) - lengths)[filled])
        hidden = (draws < chance) | (draws == smallest[rows])
    else:
        hidden = (draws < chance) | (items == own[rows])
    counts = np.bincount(rows[hidden], minlength=len(lengths))
    return History((lengths - counts, items[~hidden]), (counts, items[hidden]))


def drop_item_ids(
    ids: np.ndarray,
    share: slice | np.ndarray,
    *,
    count: int,
    reserved: int,
    chance: float,
    seed: int,
    step: int,
) -> np.ndarray:
    """Replace some of a rank's item ids by the reserved one, whichever rank has them.

    So the reserved rows are trained, which items without interactions look up.

    Args:
        ids: Ids of this rank's candidates, (c,).
        share: Which of the step's candidates they are.
        count: Candidates of the step over all ranks.
        reserved: Reserved id.
        chance: Chance of being replaced, for each id.
        seed: Seed of the training.
        step: Number of the step.
    """
    draws = seeds.generator(seeds.ITEM_IDS, seed, step).random(count)[share]
    return np.where(draws < chance, reserved, ids)
