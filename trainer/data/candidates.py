"""Which items a training step scores, and how likely each was to be among them.

A candidate set is made from the whole step's rows on every rank alike, so it is the same at any world size,
and each rank looks up only its share of it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """Items scored by every row of one step.

    Attributes:
        items: (C,) int64 item rows, ascending, each once.
        log_q: (C,) float32 natural log of the chance that the item is in the set; None: all are certain.
    """

    items: np.ndarray
    log_q: np.ndarray | None

    def positions(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of `items` in the set, and which of them are in it: two arrays of the same length."""
        positions = np.searchsorted(self.items, items)
        positions[positions == len(self.items)] = 0
        return positions, self.items[positions] == items


def catalogue(item_count: int) -> Candidates:
    """Every item."""
    return Candidates(np.arange(item_count), None)


def in_batch(positives: np.ndarray, row_share: np.ndarray, rows: int) -> Candidates:
    """The step's own positives (Yi et al., RecSys 2019).

    Args:
        positives: (P,) int64 items of all rows of the step, over all ranks.
        row_share: (N,) share of all training rows that hold the item.
        rows: rows of the step.
    """
    items = np.unique(positives)
    return Candidates(items, _log(1 - _chance_absent(row_share[items], rows)))


def sampled(
    positives: np.ndarray,
    row_share: np.ndarray,
    rows: int,
    draw_share: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> Candidates:
    """The step's own positives and a sample that all rows share.

    Args:
        positives, row_share, rows: as in `in_batch`.
        draw_share: (N,) chance of each item in one draw; its sum is 1.
        draws: items drawn, with replacement.
        generator: of the step, the same on every rank.
    """
    # Inverse transform sampling: `Generator.choice` would sum all chances anew at every step.
    drawn = np.searchsorted(np.cumsum(draw_share), generator.random(draws), side="right")
    items = np.union1d(positives, np.minimum(drawn, len(draw_share) - 1))
    absent = _chance_absent(row_share[items], rows) * _chance_absent(draw_share[items], draws)
    return Candidates(items, _log(1 - absent))


def _chance_absent(share: np.ndarray, draws: int) -> np.ndarray:
    return np.power(1 - share.astype(np.float64), draws)


def _log(chance: np.ndarray) -> np.ndarray:
    return np.log(chance).astype(np.float32)
