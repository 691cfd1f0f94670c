"""Candidate sets: which items a training step scores, and how likely each was to be among them.

A set is made from the rows of the whole step on every rank alike, so that it is the same at any world size;
each rank looks up its share of it.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from trainer.batching import seeds

CandidateKind: TypeAlias = Literal["catalogue", "in_batch", "sampled", "own"]
"""All items with interactions, the step's positives, these and a sample, or each row's own item alone."""
DENSE_ITEMS = 8
"""Items per row up to which marking the items of a step takes less time than sorting them."""


@dataclass(frozen=True)
class Candidates:
    """Items scored by every row of one step.

    Attributes:
        items: Item rows, ascending and distinct, (C,) int64.
        log_q: Natural log of the chance that the item is in the set, (C,) float32; None: all are certain.
        by_item: Position of every item in the set, (N,), -1 for those outside it; None: `items` is searched.
    """

    items: np.ndarray
    log_q: np.ndarray | None
    by_item: np.ndarray | None = None

    def positions(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of `items` in the set, and which of them are in it.

        The position of an item outside the set has no meaning.
        """
        if self.by_item is not None:
            positions = self.by_item[items]
            return positions, positions >= 0
        positions = np.searchsorted(self.items, items)
        positions[positions == len(self.items)] = 0
        return positions, self.items[positions] == items


class CandidateSets:
    """Make the candidate set of every step.

    Attributes:
        draw_chances: Chance of each item in one draw of `sampled`, (N,); their sum is 1.
        cumulative_chances: Running sum of `draw_chances`, (N,).
    """

    def __init__(
        self,
        kind: CandidateKind,
        item_rows: np.ndarray,
        row_count: int,
        *,
        samples: int,
        popularity_power: float,
        seed: int,
        popularity: np.ndarray | None = None,
    ) -> None:
        """Compute what all steps share.

        Args:
            kind: Kind of the sets.
            item_rows: Training rows that contain each item, as a positive or as an explicit negative, (N,).
            row_count: Training rows.
            samples: Draws of `sampled`.
            popularity_power: See `trainer.batching.sampler.BatchPlan`.
            seed: Seed of the training.
            popularity: Popularity of each item by which `sampled` draws, (N,); None: `item_rows`.
        """
        self._item_rows, self._row_count, self._samples, self._seed = item_rows, row_count, samples, seed
        self._make = {
            "catalogue": self._make_catalogue,
            "in_batch": self._make_in_batch,
            "sampled": self._make_sampled,
            "own": self._make_own,
        }[kind]
        if kind == "catalogue":
            self._catalogue = catalogue(item_rows)
        if kind == "sampled":
            # An item that is never a positive would only be pushed down.
            popularity = (item_rows if popularity is None else popularity).astype(np.float64)
            weights = np.where(popularity > 0, popularity**popularity_power, 0)
            self.draw_chances = weights / weights.sum()
            self.cumulative_chances = np.cumsum(self.draw_chances)

    def of_step(self, step: int, rows: int, items: np.ndarray) -> Candidates:
        """Return the set of a step.

        Args:
            step: Number of the step.
            rows: Rows of the step over all ranks.
            items: Positives and explicit negatives of all of them.
        """
        return self._make(step, rows, items)

    def _make_catalogue(self, step: int, rows: int, items: np.ndarray) -> Candidates:
        return self._catalogue

    def _make_in_batch(self, step: int, rows: int, items: np.ndarray) -> Candidates:
        return in_batch(items, self._item_rows, rows, self._row_count)

    def _make_sampled(self, step: int, rows: int, items: np.ndarray) -> Candidates:
        return sampled(
            items,
            self._item_rows,
            rows,
            self._row_count,
            draw_chances=self.draw_chances,
            cumulative_chances=self.cumulative_chances,
            draws=self._samples,
            generator=seeds.generator(seeds.CANDIDATES, self._seed, step),
        )

    def _make_own(self, step: int, rows: int, items: np.ndarray) -> Candidates:
        return own_items(items, len(self._item_rows))


def catalogue(item_rows: np.ndarray) -> Candidates:
    """Return every item that has a training row; the others, never a positive, would only be pushed down.

    Args:
        item_rows: Training rows that contain each item, (N,).
    """
    return _marked(item_rows > 0)


def own_items(items: np.ndarray, item_count: int) -> Candidates:
    """Return the items of a step's rows, for losses that score no others.

    Args:
        items: Item of each row of the step over all ranks.
        item_count: Items of the catalogue.
    """
    if item_count > DENSE_ITEMS * len(items):
        return Candidates(np.unique(items), None)
    present = np.zeros(item_count, bool)
    present[items] = True
    return _marked(present)


def in_batch(positives: np.ndarray, item_rows: np.ndarray, rows: int, row_count: int) -> Candidates:
    """Return the step's own positives (Yi et al., RecSys 2019).

    Args:
        positives: Items of all rows of the step over all ranks, (P,) int64.
        item_rows: Training rows that contain each item, (N,).
        rows: Rows of the step.
        row_count: Training rows, of which a step takes `rows` different ones.
    """
    items = np.unique(positives)
    return Candidates(items, _log_chance(_log_absent_from_rows(item_rows[items], rows, row_count)))


def sampled(
    positives: np.ndarray,
    item_rows: np.ndarray,
    rows: int,
    row_count: int,
    *,
    draw_chances: np.ndarray,
    cumulative_chances: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> Candidates:
    """Return the step's own positives and a sample that all rows share.

    Args:
        positives: As in `in_batch`.
        item_rows: As in `in_batch`.
        rows: As in `in_batch`.
        row_count: As in `in_batch`.
        draw_chances: Chance of each item in one draw, (N,); their sum is 1.
        cumulative_chances: Running sum of `draw_chances`, (N,).
        draws: Items drawn, with replacement.
        generator: Generator of the step, the same on every rank.
    """
    # Inverse transform sampling, since `Generator.choice` would sum all chances anew in every step. Rounding
    # may leave their sum below 1; scaled by it, no draw lies beyond the last item that can be drawn.
    drawn = np.searchsorted(
        cumulative_chances, generator.random(draws) * cumulative_chances[-1], side="right"
    )
    items = np.union1d(positives, drawn)
    absent_from_rows = _log_absent_from_rows(item_rows[items], rows, row_count)
    with np.errstate(divide="ignore"):
        absent_from_draws = draws * np.log1p(-draw_chances[items])
    return Candidates(items, _log_chance(absent_from_rows + absent_from_draws))


def pairs(lengths: np.ndarray, columns: np.ndarray, share: slice | None = None) -> torch.Tensor:
    """Return pairs of row and column, (2, P); with a share of the columns, those in it, from its first.

    Args:
        lengths: Number of columns of each row.
        columns: Columns of all rows, one row's after another's.
        share: Columns to keep; None: all.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if share is not None:
        inside = np.flatnonzero((columns >= share.start) & (columns < share.stop))
        rows, columns = rows[inside], columns[inside] - share.start
    return torch.from_numpy(np.stack([rows, columns.astype(np.int64)]))


def inside(columns: np.ndarray, weights: np.ndarray | None, share: slice | None) -> torch.Tensor | None:
    """Return the weights of the pairs that `pairs` keeps."""
    if weights is None:
        return None
    if share is not None:
        weights = weights[(columns >= share.start) & (columns < share.stop)]
    return torch.from_numpy(weights)


def _marked(present: np.ndarray) -> Candidates:
    """Return the items that are marked in (N,) booleans."""
    return Candidates(np.flatnonzero(present), None, np.where(present, np.cumsum(present) - 1, -1))


def _log_absent_from_rows(item_rows: np.ndarray, rows: int, row_count: int) -> np.ndarray:
    """Return the log of the chance that none of an item's rows is among the different rows of a step.

    It is the product of 1 - larger / (row_count - i) over i < smaller (hypergeometric), where `smaller` and
    `larger` are the item's rows and the step's in order of size. All factors are taken at the middle i, which
    is exact for one row and for a step of all rows.
    """
    smaller, larger = np.minimum(item_rows, rows), np.maximum(item_rows, rows)
    taken = larger / (row_count - np.maximum(smaller - 1, 0) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(smaller, smaller * np.log1p(-np.minimum(taken, 1)), 0.0)


def _log_chance(log_absent: np.ndarray) -> np.ndarray:
    return np.log(-np.expm1(log_absent)).astype(np.float32)
