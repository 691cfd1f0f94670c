"""The best columns of each row of a matrix that comes in blocks of columns: exact selection on CPU.

What cannot be among a row's k best is passed over by the largest score of each group of columns, so that few
scores are looked at twice. A score and its column are packed into one integer whose order is that of the
ranking: sorting needs no care for equal scores. numpy sorts and partitions by SIMD; torch.topk does not.
"""

import numpy as np
import torch

LARGEST_GROUP = 16
"""Columns of which at most only the largest is looked at first; a power of two."""
LAST_COLUMN = 2**32 - 1
_NOTHING = np.int64(np.float32(-np.inf).view(np.int32) ^ 0x7FFFFFFF) << 32


class RunningBest:
    """The k best columns seen so far, for each of some rows; equal scores rank the lower column first.

    It holds up to twice as many integers as the result, and while a block of equal scores is taken in,
    several for each of them.

    Attributes:
        diverged: (rows,) bool, where a score was NaN or plus infinity. Minus infinity is no score.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.diverged = np.zeros(rows, dtype=bool)
        self._keys = np.full((rows, k), _NOTHING)
        # Only what is above can still be among the k best, since earlier columns win where scores are equal.
        self._above = np.full(rows, -np.inf, dtype=np.float32)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending_count = 0

    def add(self, scores: np.ndarray, largest: np.ndarray, first: int) -> None:
        """Take in a block of columns, the one after the last block's.

        Args:
            scores: (rows, width) float32, contiguous.
            largest: (rows, groups) float32, see `largest_of_groups`.
            first: column of scores[:, 0], at most `LAST_COLUMN` - width.
        """
        self.diverged |= ~(largest.max(axis=1) < np.inf)
        rows, cells = self._survivors(scores, largest)
        if not len(rows):
            return
        keys = _keys(scores.reshape(-1)[cells], cells - rows * scores.shape[1] + first)
        self._pending.append((rows, keys))
        self._pending_count += len(rows)
        if self._pending_count > self._keys.size:
            self._merge()

    def ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and columns int64, both (rows, k), best first; -inf and -1 where there are fewer."""
        self._merge()
        keys = self._keys[:, ::-1]
        scores = _scores(keys)
        return scores, np.where(scores > -np.inf, LAST_COLUMN - (keys & LAST_COLUMN), -1)

    def _survivors(self, scores: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and cell of each score that may be among the best, rows ascending within the block."""
        (count, width), groups = scores.shape, largest.shape[1]
        k = self._keys.shape[1]
        above = self._above
        promising = largest > above[:, None]
        if np.count_nonzero(promising) > count * k:
            # There are more than k groups, and k of them hold a score of at least the k-th largest of theirs.
            kth = np.partition(largest, groups - k, axis=1)[:, groups - k]
            above = np.maximum(above, np.nextafter(kth, np.float32(-np.inf)))
            promising = largest > above[:, None]
        found = np.flatnonzero(promising)
        rows = found // groups
        cells = (found + rows * (width - groups))[:, None] + np.arange(0, width, groups)
        kept = np.flatnonzero(scores.reshape(-1)[cells] > above[rows][:, None])
        return rows[kept // cells.shape[1]], cells.reshape(-1)[kept]

    def _merge(self) -> None:
        """Put what is pending among the best."""
        if not self._pending:
            return
        rows, keys = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        if len(self._pending) > 1:
            order = np.argsort(rows, kind="stable")
            rows, keys = rows[order], keys[order]
        count, k = self._keys.shape
        lengths = np.bincount(rows, minlength=count)
        merged = np.full((count, k + int(lengths.max())), _NOTHING)
        merged[:, :k] = self._keys
        merged[rows, k + np.arange(len(rows)) - (lengths.cumsum() - lengths)[rows]] = keys
        merged.sort(axis=1)
        self._keys = merged[:, -k:]
        self._above = _scores(self._keys[:, 0])
        self._pending, self._pending_count = [], 0


def padded_width(width: int) -> int:
    """The least width that groups divide, for a block to be filled up with minus infinity."""
    return -(-width // LARGEST_GROUP) * LARGEST_GROUP


def largest_of_groups(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Largest of columns j, j + groups, j + 2 groups and so on; the scores themselves where k is large.

    A group has about sqrt(width / k) columns: then there are as many groups as columns in the k best of them.

    Args: scores: (rows, width), see `padded_width`.
    Returns: (rows, groups).
    """
    rows, width = scores.shape
    group = LARGEST_GROUP
    while group > 1 and group * group * k > width:
        group //= 2
    # Over a middle axis torch reduces many columns at a time.
    return scores.view(rows, group, width // group).amax(1) if group > 1 else scores


def _keys(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Integers that sort as (score ascending, column descending)."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero makes minus zero zero
    return (_monotone(bits).astype(np.int64) << 32) + (LAST_COLUMN - columns)


def _scores(keys: np.ndarray) -> np.ndarray:
    return _monotone((keys >> 32).astype(np.int32)).view(np.float32)


def _monotone(bits: np.ndarray) -> np.ndarray:
    """Of a float32, an integer in the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
