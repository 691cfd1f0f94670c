"""A random share of each user's rows, by a draw for each row, which depends on its number alone."""

import numpy as np


def share_of_each_user(users: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return a random `share` of each user's rows, to the nearest whole number, but never all of them.

    Args:
        users: (n,) int32.
        share: 0 to 1.
        seed: Seed of the draw.

    Returns:
        (n,) bool.
    """
    return share_by_draws(users, draws(0, len(users), seed), share)


def share_by_draws(users: np.ndarray, drawn: np.ndarray, share: float) -> np.ndarray:
    """Return each user's rows of the smallest draws, as many as `share_of_each_user` says.

    Args:
        users: (n,) int32.
        drawn: (n,) uint32.
        share: 0 to 1.

    Returns:
        (n,) bool.
    """
    order = np.argsort(users.astype(np.int64) << 32 | drawn, kind="stable")
    counts = np.bincount(users)
    quotas = np.minimum(np.floor(share * counts + 0.5).astype(np.int64), np.maximum(counts - 1, 0))
    # The first `quota` places of each user's stretch of `order`.
    shifts = (np.cumsum(counts) - counts) - (np.cumsum(quotas) - quotas)
    places = np.repeat(shifts, quotas) + np.arange(quotas.sum())
    chosen = np.zeros(len(users), bool)
    chosen[order[places]] = True
    return chosen


def draws(first: int, count: int, seed: int) -> np.ndarray:
    """Return the draws of rows `first` to below `first + count`, (count,) uint32, without those before.

    NumPy makes two draws of 32 bits of each 64 bits of its generator, the lower half first.
    """
    bits = np.random.PCG64(seed).advance(first // 2)
    return np.random.Generator(bits).integers(0, 2**32, count + first % 2, dtype=np.uint32)[first % 2 :]
