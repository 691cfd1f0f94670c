"""Exact top-k selection on CPU, from scores that come in blocks of items.

Blocks are transposed, items x users, so that an operation on every user runs over memory in order. The
largest score of each group of items tells which groups cannot hold one of a user's k best, so that few scores
are read twice. A score and its item are packed into one integer, a key, whose order is that of the ranking:
sorting keys breaks ties by the item. numpy sorts and partitions with SIMD; torch.topk does not.

Names end in the shape of the array:
    B: users.
    N: items of a block.
    G: groups of items of a block.
    K: ranks of a list.
    S: scores of all users that may still be among the best (survivors).
"""
# Shapes are capitals.
# ruff: noqa: N803, N806

import numpy as np
import torch

LARGEST_GROUP = 16
"""Most items of a group; a power of two."""
LAST_ITEM = 2**32 - 1
"""Largest item row that a key can hold, and the mask that gets it."""
_EMPTY = ~np.int64(np.float32(-np.inf).view(np.int32) ^ 0x7FFFFFFF) << 32


class RunningTopK:
    """The k best items seen so far of each user; equal scores rank the lower item row first.

    It holds up to three times as many integers as the result, and while a block of equal scores is added,
    several for each of them.

    Attributes:
        diverged_B: Whether a score was NaN or plus infinity. Minus infinity is no score.
    """

    def __init__(self, users: int, k: int) -> None:
        self.diverged_B = np.zeros(users, dtype=bool)
        self._k = k
        self._keys = np.empty((users, 0), dtype=np.int64)
        # Only higher scores can still be among the k best, since earlier items win where scores are equal.
        self._threshold_B = np.full(users, -np.inf, dtype=np.float32)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending_count = 0

    def add(self, scores_NB: np.ndarray, largest_GB: np.ndarray, first: int) -> None:
        """Add a block of items that follows the last block.

        Args:
            scores_NB: float32, contiguous; N as `padded_width` gives it.
            largest_GB: float32, see `largest_of_groups`.
            first: Item row of scores_NB[0], at most `LAST_ITEM` - N.
        """
        self.diverged_B |= ~(largest_GB.max(axis=0) < np.inf)
        users_S, items_S, values_S = self._survivors(scores_NB, largest_GB)
        if not len(users_S):
            return
        self._pending.append((users_S, _keys(values_S, items_S + first)))
        self._pending_count += len(users_S)
        if not self._keys.size or 2 * self._pending_count > self._keys.size:
            self._merge()

    def ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scores float32 and item rows int64, both (B, k), best first; -inf and -1 for no item."""
        self._merge()
        keys_BK = np.full((len(self._keys), self._k), _EMPTY)
        keys_BK[:, : self._keys.shape[1]] = self._keys
        keys_BK.sort(axis=1)
        scores_BK, items_BK = _scores(keys_BK), keys_BK & LAST_ITEM
        items_BK[scores_BK == -np.inf] = -1
        return scores_BK, items_BK

    def _survivors(
        self, scores_NB: np.ndarray, largest_GB: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return user, item within the block, and value of each score that may be among the best."""
        groups, users = largest_GB.shape
        threshold_B, full = self._threshold_B, self._keys.shape[1] == self._k
        promising = largest_GB > threshold_B if full else None
        if groups > self._k and (promising is None or np.count_nonzero(promising) > users * self._k):
            threshold_B, promising = np.maximum(threshold_B, _bound(largest_GB, self._k)), None
        found = np.flatnonzero(largest_GB > threshold_B if promising is None else promising)
        group, user = np.divmod(found, users)
        values = scores_NB.reshape(-1, largest_GB.size).take(found, axis=1)
        # numpy finds indices in one dimension several times as fast as in two.
        above = np.flatnonzero(values > threshold_B[user])
        place, which = np.divmod(above, max(len(found), 1))
        return user[which], group[which] + place * groups, values.reshape(-1)[above]

    def _merge(self) -> None:
        """Merge pending keys into the best."""
        if not self._pending:
            return
        users_S, keys_S = (np.concatenate(each) for each in zip(*self._pending, strict=True))
        count, held = self._keys.shape
        # numpy sorts integers of at most 16 bits by radix, in linear time.
        order = np.argsort(users_S.astype(np.min_scalar_type(count)), kind="stable")
        lengths_B = np.bincount(users_S, minlength=count)
        merged = np.full((count, held + int(lengths_B.max())), _EMPTY)
        merged[:, :held] = self._keys
        starts_B = np.arange(count) * merged.shape[1] + held - (lengths_B.cumsum() - lengths_B)
        merged.reshape(-1)[np.arange(len(users_S)) + starts_B.repeat(lengths_B)] = keys_S[order]
        if merged.shape[1] > self._k:
            merged.partition(self._k - 1, axis=1)
        self._keys = merged[:, : self._k]
        if self._keys.shape[1] == self._k:
            self._threshold_B = _scores(self._keys.max(axis=1))
        self._pending, self._pending_count = [], 0


def padded_width(width: int) -> int:
    """Return the least width, from `width` up, that is a multiple of four of the largest groups."""
    return -(-width // (4 * LARGEST_GROUP)) * 4 * LARGEST_GROUP


def largest_of_groups(scores_NB: torch.Tensor, k: int, first: int = 0) -> torch.Tensor:
    """Return the largest score of items j, j + G, j + 2 G and so on; the scores themselves where k is large.

    A group has about sqrt(N / k) items: then there are as many groups as items in the groups that hold the
    k best. Of a block after others, k * N / first items are expected to be among the best.

    Args:
        scores_NB: Scores of a block; N as `padded_width` gives it.
        k: Items wanted.
        first: Number of items before this block.

    Returns:
        (G, B).
    """
    width, users = scores_NB.shape
    group = LARGEST_GROUP
    while group > 1 and group * group * k > max(width, first):
        group //= 2
    return scores_NB.view(group, width // group, users).amax(0) if group > 1 else scores_NB


def _bound(largest_GB: np.ndarray, k: int) -> np.ndarray:
    """Return for each user a number below at least k scores, from the largest of more than k groups."""
    # Groups of groups, as long as there are 4k, hardly lower it: two of the k best rarely share one.
    while len(largest_GB) >= 8 * k and len(largest_GB) % 2 == 0:
        half = len(largest_GB) // 2
        largest_GB = np.maximum(largest_GB[:half], largest_GB[half:])
    place = len(largest_GB) - k
    by_user_BG = torch.from_numpy(largest_GB).T.contiguous().numpy()  # several times as fast as numpy's copy
    kth_B = np.partition(by_user_BG, place, axis=1)[:, place]
    return np.nextafter(kth_B, np.float32(-np.inf))


def _keys(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Pack scores and items into integers that sort as (score descending, item ascending)."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero turns minus zero into zero
    return (~_monotone(bits)).astype(np.int64) << 32 | items


def _scores(keys: np.ndarray) -> np.ndarray:
    return _monotone(~(keys >> 32).astype(np.int32)).view(np.float32)


def _monotone(bits: np.ndarray) -> np.ndarray:
    """Map the bits of a float32 to an integer in the same order; the map is its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
