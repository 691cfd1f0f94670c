"""Ranking metrics of each user, from which of the ranked items are hits.

Names end in the shape of the tensor:
    B: users.
    K: ranks of a list.

Every metric takes
    hits_BK: Whether the item at each rank, best first, is held out for the user; bool, or zeros and ones.
    relevant_B: Integer number of held-out items R of each user, each item counted once.
    k: Number of ranks that count, 1 to K.
and returns (B,) float64 from 0 to 1, with 0 for a user without a hit. hit(r) is 1 if the item at rank r (from
1) is a hit, else 0. Ranks without an item, in lists that are shorter, are no hits. Users without held-out
items have no metrics and must be left out: a ValueError says so.
"""
# Shapes are capitals.
# ruff: noqa: N803, N806

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def precision(hits_BK: Tensor, relevant_B: Tensor, k: int) -> Tensor:
    """Compute the share of the first k ranks that are hits.

    sum over r = 1..k of hit(r) / k, also where fewer than k items are held out.

    Source: Cleverdon, Mills and Keen, Cranfield 1966.
    """
    return _first(hits_BK, relevant_B, k).sum(1) / k


def recall(hits_BK: Tensor, relevant_B: Tensor, k: int) -> Tensor:
    """Compute the share of the held-out items that are among the first k ranks.

    sum over r = 1..k of hit(r) / R, which stays below 1 where more than k items are held out.

    Source: Cleverdon, Mills and Keen, Cranfield 1966.
    """
    return _first(hits_BK, relevant_B, k).sum(1) / relevant_B


def ndcg(hits_BK: Tensor, relevant_B: Tensor, k: int) -> Tensor:
    """Compute the normalised discounted cumulative gain.

    DCG = sum over r = 1..k of hit(r) / log2(r + 1), divided by the DCG of a list that starts with
    min(R, k) hits.

    Source: Järvelin and Kekäläinen, TOIS 2002.
    """
    first_Bk = _first(hits_BK, relevant_B, k)
    discounts_k = (_ranks(k, hits_BK) + 1).log2().reciprocal()
    ideal_B = discounts_k.cumsum(0)[relevant_B.clamp(max=k).long() - 1]
    return (first_Bk * discounts_k).sum(1) / ideal_B


def hit_rate(hits_BK: Tensor, relevant_B: Tensor, k: int) -> Tensor:
    """Compute whether one of the first k ranks is a hit: max over r = 1..k of hit(r).

    Source: Deshpande and Karypis, TOIS 2004.
    """
    return _first(hits_BK, relevant_B, k).amax(1)


def reciprocal_rank(hits_BK: Tensor, relevant_B: Tensor, k: int) -> Tensor:
    """Compute the reciprocal rank of the first hit: max over r = 1..k of hit(r) / r.

    Source: Voorhees, TREC-8 1999.
    """
    return (_first(hits_BK, relevant_B, k) / _ranks(k, hits_BK)).amax(1)


def average_precision(hits_BK: Tensor, relevant_B: Tensor, k: int) -> Tensor:
    """Compute the average precision at the ranks of the hits.

    sum over r = 1..k of hit(r) precision@r / min(R, k), the most hits that k ranks can hold. Dividing by R,
    as some libraries do, keeps a perfect list below 1 where more than k items are held out.

    Source: Buckley and Voorhees, SIGIR 2000.
    """
    first_Bk = _first(hits_BK, relevant_B, k)
    return (first_Bk * first_Bk.cumsum(1) / _ranks(k, hits_BK)).sum(1) / relevant_B.clamp(max=k)


METRICS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "hit_rate": hit_rate,
    "mrr": reciprocal_rank,
    "map": average_precision,
}
"""By name, in the order in which tables show them."""


def metrics_by_user(hits_BK: Tensor, relevant_B: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Compute every metric of `METRICS` at every k.

    Args:
        hits_BK: Whether the item at each rank is held out for the user.
        relevant_B: Number of held-out items of each user.
        ks: Numbers of ranks that count.

    Returns:
        `ndcg@10` and so on -> (B,) float64 of each user, to be averaged over all users.

    Raises:
        ValueError: If a user has no held-out item, or a k is not from 1 to K.
    """
    first_BK = hits_BK.double()  # once for all metrics
    return {f"{name}@{k}": metric(first_BK, relevant_B, k) for k in ks for name, metric in METRICS.items()}


def _first(hits_BK: Tensor, relevant_B: Tensor, k: int) -> Tensor:
    """Return the first k ranks as (B, k) float64, after checking the arguments."""
    if not 1 <= k <= hits_BK.shape[1]:
        raise ValueError(f"k is {k}, expected 1 to {hits_BK.shape[1]}, the length of the ranking")
    if (relevant_B < 1).any():
        user = int((relevant_B < 1).nonzero()[0])
        raise ValueError(f"user {user} has no held-out item, expected at least one. Leave such users out")
    return hits_BK[:, :k].double()


def _ranks(k: int, like: Tensor) -> Tensor:
    return torch.arange(1, k + 1, dtype=torch.float64, device=like.device)
