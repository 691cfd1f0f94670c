"""The best columns of each user of a matrix that comes in blocks of columns: exact selection on CPU.

Blocks are held column by column, so that whatever is done to each user runs over memory in order. What cannot
be among a user's k best is passed over by the largest score of each group of columns, so that few scores are
looked at twice. A score and its column are packed into one integer whose order is that of the ranking:
sorting needs no care for equal scores. numpy sorts and partitions by SIMD; torch.topk does not.
"""

import numpy as np
import torch

LARGEST_GROUP = 16
"""Columns of which at most only the largest is looked at first; a power of two."""
LAST_COLUMN = 2**32 - 1
_NOTHING = ~np.int64(np.float32(-np.inf).view(np.int32) ^ 0x7FFFFFFF) << 32


class RunningBest:
    """The k best columns seen so far, for each of some users; equal scores rank the lower column first.

    It holds up to three times as many integers as the result, and while a block of equal scores is taken in,
    several for each of them.

    Attributes:
        diverged: (users,) bool, where a score was NaN or plus infinity. Minus infinity is no score.
    """

    def __init__(self, users: int, k: int) -> None:
        self.diverged = np.zeros(users, dtype=bool)
        self._k = k
        self._keys = np.empty((users, 0), dtype=np.int64)
        # Only what is above can still be among the k best, since earlier columns win where scores are equal.
        self._above = np.full(users, -np.inf, dtype=np.float32)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending_count = 0

    def add(self, scores: np.ndarray, largest: np.ndarray, first: int) -> None:
        """Take in a block of columns, the one after the last block's.

        Args:
            scores: (width, users) float32, contiguous.
            largest: (groups, users) float32, see `largest_of_groups`.
            first: column of scores[0], at most `LAST_COLUMN` - width.
        """
        self.diverged |= ~(largest.max(axis=0) < np.inf)
        users, columns, values = self._survivors(scores, largest)
        if not len(users):
            return
        self._pending.append((users, _keys(values, columns + first)))
        self._pending_count += len(users)
        if not self._keys.size or 2 * self._pending_count > self._keys.size:
            self._merge()

    def ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and columns int64, both (users, k), best first; -inf and -1 where fewer are."""
        self._merge()
        keys = np.full((len(self._keys), self._k), _NOTHING)
        keys[:, : self._keys.shape[1]] = self._keys
        keys.sort(axis=1)
        scores, columns = _scores(keys), keys & LAST_COLUMN
        columns[scores == -np.inf] = -1
        return scores, columns

    def _survivors(
        self, scores: np.ndarray, largest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User, column within the block, and value of each score that may be among the best."""
        groups, count = largest.shape
        above, known = self._above, self._keys.shape[1] == self._k
        promising = largest > above if known else None
        if groups > self._k and (promising is None or np.count_nonzero(promising) > count * self._k):
            above, promising = np.maximum(above, _bound(largest, self._k)), None
        found = np.flatnonzero(largest > above if promising is None else promising)
        group, users = np.divmod(found, count)
        values = scores.reshape(-1, largest.size).take(found, axis=1)
        # numpy finds places in one dimension several times as fast as in two.
        kept = np.flatnonzero(values > above[users])
        place, which = np.divmod(kept, max(len(found), 1))
        return users[which], group[which] + place * groups, values.reshape(-1)[kept]

    def _merge(self) -> None:
        """Put what is pending among the best."""
        if not self._pending:
            return
        users, keys = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        count, held = self._keys.shape
        # Integers of at most 16 bits are sorted by their digits, in a time that grows with their number only.
        order = np.argsort(users.astype(np.min_scalar_type(count)), kind="stable")
        lengths = np.bincount(users, minlength=count)
        merged = np.full((count, held + int(lengths.max())), _NOTHING)
        merged[:, :held] = self._keys
        starts = np.arange(count) * merged.shape[1] + held - (lengths.cumsum() - lengths)
        merged.reshape(-1)[np.arange(len(users)) + starts.repeat(lengths)] = keys[order]
        if merged.shape[1] > self._k:
            merged.partition(self._k - 1, axis=1)
        self._keys = merged[:, : self._k]
        if self._keys.shape[1] == self._k:
            self._above = _scores(self._keys.max(axis=1))
        self._pending, self._pending_count = [], 0


def padded_width(width: int) -> int:
    """The least width that groups of four groups divide, for a block to be filled up with minus infinity."""
    return -(-width // (4 * LARGEST_GROUP)) * 4 * LARGEST_GROUP


def largest_of_groups(scores: torch.Tensor, k: int, first: int = 0) -> torch.Tensor:
    """Largest of columns j, j + groups, j + 2 groups and so on; the scores themselves where k is large.

    A group has about sqrt(width / k) columns: then there are as many groups as columns in those that hold the
    k best. Of a block after others, k * width / first columns are expected to be among the best.

    Args: scores: (width, users), see `padded_width`.  first: columns before this block.
    Returns: (groups, users).
    """
    width, users = scores.shape
    group = LARGEST_GROUP
    while group > 1 and group * group * k > max(width, first):
        group //= 2
    return scores.view(group, width // group, users).amax(0) if group > 1 else scores


def _bound(largest: np.ndarray, k: int) -> np.ndarray:
    """Of each user, a number below k scores at least, from the largest scores of more than k groups."""
    # Groups of groups, as long as there are 4k, make it hardly lower: two of the k best rarely share one.
    while len(largest) >= 8 * k and len(largest) % 2 == 0:
        half = len(largest) // 2
        largest = np.maximum(largest[:half], largest[half:])
    place = len(largest) - k
    by_user = torch.from_numpy(largest).T.contiguous().numpy()  # several times as fast as numpy's copy
    kth = np.partition(by_user, place, axis=1)[:, place]
    return np.nextafter(kth, np.float32(-np.inf))


def _keys(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Integers that sort as (score descending, column ascending)."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero makes minus zero zero
    return (~_monotone(bits)).astype(np.int64) << 32 | columns


def _scores(keys: np.ndarray) -> np.ndarray:
    return _monotone(~(keys >> 32).astype(np.int32)).view(np.float32)


def _monotone(bits: np.ndarray) -> np.ndarray:
    """Of a float32, an integer in the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
