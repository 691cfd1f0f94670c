"""The k-core of interactions whose users are on several hosts."""

import numpy as np

from trainer.shares.hosts import Hosts


def common_core(users: np.ndarray, items: np.ndarray, k: int, item_count: int, hosts: Hosts) -> np.ndarray:
    """Return which rows stay, as `trainer.storage.pairs.core` does, with items counted over all hosts.

    Args:
        users: (n,) int32, users of this host.
        items: (n,) int32, numbered alike on all hosts.
        k: Rows that a user or an item has at least.
        item_count: Items of all hosts.
        hosts: All hosts, each of which calls this.

    Returns:
        (n,) bool.

    Source: the k-core of a bipartite graph (Seidman, Social Networks 1983).
    """
    stays = np.ones(len(users), bool)
    remaining = -1
    while True:
        stays &= (np.bincount(users[stays], minlength=int(users.max(initial=-1)) + 1) >= k)[users]
        counts = hosts.sum(np.bincount(items[stays], minlength=item_count))
        before, remaining = remaining, int(counts.sum())
        if remaining == before:  # users had enough, and so had items
            return stays
        stays &= (counts >= k)[items]
