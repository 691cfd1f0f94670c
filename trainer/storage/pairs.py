"""Which (user, item) pairs of an interaction table occur again, and which of their rows stay."""

from dataclasses import dataclass

import numpy as np

MARKED = 24
"""Most possible pairs per row with which marking the pairs that occur is faster than sorting them."""


def repeated_pairs(pairs: np.ndarray) -> np.ndarray:
    """Return the rows whose pair occurs more than once, ascending.

    Args:
        pairs: (n,) int64 from 0 up, equal where user and item are.
    """
    largest = int(pairs.max(initial=0))
    if largest < MARKED * len(pairs):
        stands = np.zeros(largest + 1, bool)
        stands[pairs] = True
        if np.count_nonzero(stands) == len(pairs):
            return np.zeros(0, np.int64)
    place_bits = len(pairs).bit_length()
    if largest.bit_length() + place_bits < 64:
        packed = (pairs << place_bits) | np.arange(len(pairs))  # sorts several times faster than argsort
        packed.sort()
        ordered, order = packed >> place_bits, packed
    else:
        order = np.argsort(pairs, kind="stable")
        ordered = pairs[order]
    same = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(pairs), bool)
    repeated[1:] = same
    repeated[:-1] |= same
    return np.sort(order[repeated] & ((1 << place_bits) - 1))


def last_of_each_pair(pairs: np.ndarray, timestamps: np.ndarray | None, held_out: np.ndarray) -> np.ndarray:
    """Return which rows to keep so that each (user, item) pair occurs once.

    Of the rows of a pair, held-out rows take precedence over training rows, then the largest timestamp wins,
    then the last row in file order.

    Args:
        pairs: (n,) int64, equal where user and item are.
        timestamps: (n,) int64 seconds, or None.
        held_out: (n,) bool, whether the row comes from the held-out file.

    Returns:
        (n,) bool.
    """
    stays = np.ones(len(pairs), bool)
    keys = (pairs,) if timestamps is None else (timestamps, held_out, pairs)
    order = np.lexsort(keys)  # stable; held-out rows follow training rows in file order anyway
    ordered = pairs[order]
    stays[order[:-1][ordered[:-1] == ordered[1:]]] = False
    return stays


@dataclass(frozen=True)
class Repeats:
    """(User, item) pairs that stand more than once, each with its first and its last row.

    Attributes:
        first: (n,) int64 rows; by time, then by file order.
        last: (n,) int64 rows.
    """

    first: np.ndarray
    last: np.ndarray


def first_and_last_of_each_pair(pairs: np.ndarray, timestamps: np.ndarray) -> Repeats:
    """Return the first and the last row of each pair by time; of rows of one second by file order.

    Args:
        pairs: (n,) int64, n > 0, equal where user and item are.
        timestamps: (n,) int64 seconds.
    """
    order = np.lexsort((timestamps, pairs))
    ordered = pairs[order]
    begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return Repeats(order[begins], order[np.append(begins[1:], len(order)) - 1])


def core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Return which rows stay when users and items with fewer than `k` rows are dropped until none has fewer.

    Args:
        users: (n,) int32.
        items: (n,) int32.
        k: Rows that a user or an item has at least; below 2 every row stays.

    Returns:
        (n,) bool.

    Source: the k-core of a bipartite graph (Seidman, Social Networks 1983).
    """
    stays = np.ones(len(users), bool)
    remaining = len(users)
    while k > 1 and remaining:
        for ids in (users, items):
            stays &= (np.bincount(ids[stays], minlength=int(ids.max()) + 1) >= k)[ids]
        before, remaining = remaining, int(np.count_nonzero(stays))
        if remaining == before:
            break
    return stays
