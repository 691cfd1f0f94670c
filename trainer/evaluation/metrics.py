"""Ranking metrics of each user, from which ranked items are hits.

Every function takes
    hits: (B, K) bool, or zeros and ones, best rank first: the item at this rank is held out for the user.
    relevant: (B,) integer, number of held-out items of each user, each item counted once.
    k: ranks that count, 1 to K.
and returns (B,) float64, a value from 0 to 1 for each user; a user without a hit gets 0. Users without
held-out items cannot be measured and must be left out: a ValueError says so. Ranks without an item (shorter
rankings) are no hits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def precision(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Share of the first k ranks that are hits: hits / k, also where fewer than k items are held out.

    Source: Cleverdon, Mills and Keen, Cranfield 1966.
    """
    return _first(hits, relevant, k).sum(1) / k


def recall(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Share of the held-out items that are found: hits / relevant, below 1 where more than k are held out.

    Source: Cleverdon, Mills and Keen, Cranfield 1966.
    """
    return _first(hits, relevant, k).sum(1) / relevant


def ndcg(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Normalised discounted cumulative gain: each hit gains 1 / log2(rank + 1), divided by the gain of a
    ranking that starts with min(relevant, k) hits.

    Source: Järvelin and Kekäläinen, TOIS 2002.
    """
    first = _first(hits, relevant, k)
    discounts = (_ranks(k, hits) + 1).log2().reciprocal()
    ideal = discounts.cumsum(0)[relevant.clamp(max=k).long() - 1]
    return (first * discounts).sum(1) / ideal


def hit_rate(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """1 if one of the first k ranks is a hit, else 0.

    Source: Deshpande and Karypis, TOIS 2004.
    """
    return _first(hits, relevant, k).amax(1)


def reciprocal_rank(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """1 / rank of the first hit among the first k ranks.

    Source: Voorhees, TREC-8 1999.
    """
    return (_first(hits, relevant, k) / _ranks(k, hits)).amax(1)


def average_precision(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Sum of the precision at the rank of each hit among the first k ranks, divided by min(relevant, k), the
    most hits that k ranks can hold. (Dividing by `relevant`, as some libraries do, keeps a perfect ranking
    below 1 where more than k items are held out.)

    Source: Buckley and Voorhees, SIGIR 2000.
    """
    first = _first(hits, relevant, k)
    return (first * first.cumsum(1) / _ranks(k, hits)).sum(1) / relevant.clamp(max=k)


def measure(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """All metrics at every k, in this order: ndcg, recall, precision, hit_rate, mrr, map.

    Returns: `ndcg@10` and so on -> (B,) float64 of each user, to be averaged over all users.
    Raises: ValueError if a user has no held-out item, or a k is not from 1 to K.
    """
    metrics = {
        "ndcg": ndcg,
        "recall": recall,
        "precision": precision,
        "hit_rate": hit_rate,
        "mrr": reciprocal_rank,
        "map": average_precision,
    }
    first = hits.double()  # once for all
    return {f"{name}@{k}": metric(first, relevant, k) for k in ks for name, metric in metrics.items()}


def _first(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """The first k ranks as (B, k) float64, once the arguments are known to fit."""
    if not 1 <= k <= hits.shape[1]:
        raise ValueError(f"k is {k}, expected 1 to {hits.shape[1]}, the length of the ranking")
    if (relevant < 1).any():
        user = int((relevant < 1).nonzero()[0])
        raise ValueError(f"user {user} has no held-out item, expected at least one. Leave such users out")
    return hits[:, :k].double()


def _ranks(k: int, like: Tensor) -> Tensor:
    return torch.arange(1, k + 1, dtype=torch.float64, device=like.device)
