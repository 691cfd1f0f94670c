"""Ordered training histories, cut into stretches whose positions are the rows of a step.

A stretch is at most `length` positions of one user, one after another in time, and up to `length` items
before them; so the memory of a step is bounded by `length`, however long a user's history is. Every training
interaction is a position of exactly one stretch.
"""

from dataclasses import dataclass

import numpy as np

from trainer.dataset.sequences import Sequences
from trainer.storage.attributes import Ragged


@dataclass(frozen=True)
class StretchRows:
    """The rows of some stretches: for each position of each stretch, what is to be predicted from what.

    Attributes:
        stretches: Stretch of each row, counted from 0 among those asked for, (B,) int64, ascending.
        places: Place of each row's interaction in the ordered histories, (B,) int64.
        before: Items before each row in its stretch, (B,) int64.
    """

    stretches: np.ndarray
    places: np.ndarray
    before: np.ndarray


class Stretches:
    """Stretches of a training split.

    Attributes:
        users: User of each stretch, (n,) int64, ascending.
        items: Items of all ordered histories, oldest first within a user.
        times: Their times in seconds, or None.
    """

    def __init__(self, sequences: Sequences, trained: np.ndarray, length: int) -> None:
        """Cut histories into stretches, each user's from the oldest on.

        Args:
            sequences: Ordered histories.
            trained: Whether a user's history is trained on, (users + 1,) bool: it is not where it is known
                from an earlier run alone.
            length: Most positions of a stretch, and most items before them.
        """
        offsets = sequences.items.offsets
        self.items = sequences.items.values
        self.times = None if sequences.times is None else sequences.times.values
        counts = np.where(trained, np.diff(offsets), 0)
        cuts = -(-counts // length)
        self.users = np.repeat(np.arange(len(counts)), cuts)
        numbers = np.arange(len(self.users)) - np.repeat(np.cumsum(cuts) - cuts, cuts)
        begins, ends = offsets[self.users], offsets[self.users] + counts[self.users]
        self._first = begins + numbers * length  # the first position
        self._stop = np.minimum(self._first + length, ends)
        self._begin = np.maximum(self._first - length, begins)  # the first item
        self._user_begin, self._user_stop = begins, ends

    def __len__(self) -> int:
        return len(self.users)

    def shown(self, stretches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of slots of each stretch, and the places of their items in `items`.

        The last position of a stretch is not shown: nothing comes after it.
        """
        return _ranges(self._begin[stretches], self._stop[stretches] - 1)

    def rows(self, stretches: np.ndarray) -> StretchRows:
        """Return the rows of some stretches, one stretch's after another's."""
        lengths, places = _ranges(self._first[stretches], self._stop[stretches])
        of_row = np.repeat(np.arange(len(stretches)), lengths)
        return StretchRows(of_row, places, places - self._begin[stretches][of_row])

    def near(self, stretches: np.ndarray, rows: StretchRows, places: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a user's items up to so many places before and after each row, the row's own included.

        Args:
            stretches: Those of which `rows` are.
            rows: Rows of some stretches.
            places: Most places between a row and an item.

        Returns:
            Number of items of each row, (B,), at most 2 * places + 1 however long the history is; and the
            items, one row's after another's.
        """
        of_row = stretches[rows.stretches]
        starts = np.maximum(rows.places - places, self._user_begin[of_row])
        lengths, found = _ranges(starts, np.minimum(rows.places + places + 1, self._user_stop[of_row]))
        return lengths, self.items[found]

    def row_count(self, stretches: np.ndarray) -> int:
        """Return the number of rows of some stretches."""
        return int((self._stop[stretches] - self._first[stretches]).sum())

    def items_of(self, stretches: np.ndarray) -> np.ndarray:
        """Return the items of some stretches, those to be predicted and those before them."""
        return self.items[_ranges(self._begin[stretches], self._stop[stretches])[1]]

    def stretches_with_items(self, item_count: int) -> np.ndarray:
        """Return the number of stretches with each item, (item_count,)."""
        # A user has an item once at most.
        return np.bincount(self.items_of(np.arange(len(self))), minlength=item_count)


def last_of(sequences: Ragged, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last `length` entries of some rows: how many there are of each, and their places."""
    stops = sequences.offsets[np.asarray(rows) + 1]
    return _ranges(np.maximum(sequences.offsets[rows], stops - length), stops)


def _ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of ranges, at least 0, and their numbers one after another."""
    lengths = np.maximum(stops - starts, 0)
    return lengths, np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
