"""Which items a training step scores, and how likely each was to be among them.

A candidate set is made from the whole step's rows on every rank alike, so it is the same at any world size,
and each rank looks up only its share of it.
"""

from dataclasses import dataclass

import numpy as np

MARKED = 8
"""Items for each row up to which marking those that are there takes less than sorting."""


@dataclass(frozen=True)
class Candidates:
    """Items scored by every row of one step.

    Attributes:
        items: (C,) int64 item rows, ascending, each once.
        log_q: (C,) float32 natural log of the chance that the item is in the set; None: all are certain.
        places: (N,) position of every item in the set, -1 of those that are not in it; None: to be searched.
    """

    items: np.ndarray
    log_q: np.ndarray | None
    places: np.ndarray | None = None

    def positions(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of `items` in the set, and which of them are in it: two arrays of the same length.

        The position of an item that is not in it has no meaning.
        """
        if self.places is not None:
            positions = self.places[items]
            return positions, positions >= 0
        positions = np.searchsorted(self.items, items)
        positions[positions == len(self.items)] = 0
        return positions, self.items[positions] == items


def catalogue(holders: np.ndarray) -> Candidates:
    """Every item that a training row holds: others, never a positive, would only be pushed down.

    Args: holders: (N,) training rows that hold the item.
    """
    return _marked(holders > 0)


def of_rows(items: np.ndarray, item_count: int) -> Candidates:
    """The items of a step's rows, for losses that score no others.

    Args: items: (rows,) over all ranks.
    """
    if item_count > MARKED * len(items):
        return Candidates(np.unique(items), None)
    held = np.zeros(item_count, bool)
    held[items] = True
    return _marked(held)


def _marked(held: np.ndarray) -> Candidates:
    """The items that are marked in (N,) booleans."""
    return Candidates(np.flatnonzero(held), None, np.where(held, np.cumsum(held) - 1, -1))


def in_batch(positives: np.ndarray, holders: np.ndarray, rows: int, row_count: int) -> Candidates:
    """The step's own positives (Yi et al., RecSys 2019).

    Args:
        positives: (P,) int64 items of all rows of the step, over all ranks.
        holders: (N,) training rows that hold the item.
        rows: rows of the step.
        row_count: training rows in all, of which a step takes `rows` different ones.
    """
    items = np.unique(positives)
    return Candidates(items, _log_chance(_log_absent_from_rows(holders[items], rows, row_count)))


def sampled(
    positives: np.ndarray,
    holders: np.ndarray,
    rows: int,
    row_count: int,
    draw_share: np.ndarray,
    summed_share: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> Candidates:
    """The step's own positives and a sample that all rows share.

    Args:
        positives, holders, rows, row_count: as in `in_batch`.
        draw_share: (N,) chance of each item in one draw; its sum is 1.
        summed_share: (N,) running sum of `draw_share`, which is the same at every step.
        draws: items drawn, with replacement.
        generator: of the step, the same on every rank.
    """
    # Inverse transform sampling: `Generator.choice` would sum all chances anew at every step. Rounding may
    # leave their sum below 1, and beyond it lies no item but perhaps one that cannot be drawn.
    drawn = np.searchsorted(summed_share, generator.random(draws) * summed_share[-1], side="right")
    items = np.union1d(positives, drawn)
    absent_from_rows = _log_absent_from_rows(holders[items], rows, row_count)
    with np.errstate(divide="ignore"):
        absent_from_draws = draws * np.log1p(-draw_share[items])
    return Candidates(items, _log_chance(absent_from_rows + absent_from_draws))


def _log_absent_from_rows(holders: np.ndarray, rows: int, row_count: int) -> np.ndarray:
    """Log of the chance that none of an item's rows is among the different rows of a step.

    It is the product of 1 - larger / (row_count - i) for i < smaller, where `smaller` and `larger` are the
    item's rows and the step's in order of size (hypergeometric); all factors are taken at the middle i, which
    is exact for one row and for a step of all rows.
    """
    smaller, larger = np.minimum(holders, rows), np.maximum(holders, rows)
    taken = larger / (row_count - np.maximum(smaller - 1, 0) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(smaller, smaller * np.log1p(-np.minimum(taken, 1)), 0.0)


def _log_chance(log_absent: np.ndarray) -> np.ndarray:
    return np.log(-np.expm1(log_absent)).astype(np.float32)
