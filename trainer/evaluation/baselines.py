"""Rankers that know nothing of the user, under the same protocol as the model: most popular, and random."""

import numpy as np
import torch
from torch import Tensor

from trainer.evaluation.topk import ItemLists, owners


def popularity_scores(train_items: Tensor, item_count: int) -> Tensor:
    """Number of training interactions of each item.

    Args: train_items: (interactions,) integer item rows.
    Returns: (N,) float32.
    Raises: ValueError if an item row is not below `item_count`.
    """
    counts = torch.bincount(train_items, minlength=item_count)
    if len(counts) > item_count:
        raise ValueError(f"item row {len(counts) - 1}, expected 0 to {item_count - 1}")
    return counts.float()


def rank_by_scores(item_scores: Tensor, k: int, exclude: ItemLists) -> Tensor:
    """The k items of highest score that each user has left, when all users share the scores.

    Sorts the catalogue once and walks past what a user excludes: O(N log N + excluded log excluded), with no
    users x items matrix. Equal scores rank the lower item row first.

    Args:
        item_scores: (N,), without NaN.
        exclude: a list of item rows for each of B users (lengths of zero: nothing is left out).
    Returns: (B, k) int64 item rows, best first; -1 where fewer than k are left.
    Raises: ValueError on NaN, or if `exclude` does not fit.
    """
    if item_scores.isnan().any():
        raise ValueError("an item score is NaN, expected numbers")
    order = item_scores.sort(descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    lengths, items = _distinct(exclude, len(exclude[0]), len(order), place)
    nth = torch.arange(k, device=order.device).expand(len(lengths), k)
    found = _nth_left(nth, len(order), (lengths, items))
    return order[found].masked_fill(found < 0, -1)


def rank_randomly(
    user_rows: Tensor, item_count: int, k: int, exclude: ItemLists | None = None, seed: int = 0
) -> Tensor:
    """K of the items that each user has left, every ordered choice with the same chance.

    The draw of a user depends on (seed, user row) and what he excludes, never on who else is in the call. For
    a user with r items left, R of them held out, and k <= r, the expected precision@k is R / r and the
    expected recall@k is k / r.

    Args:
        user_rows: (B,) integer rows that tell users apart.
        exclude: a list of item rows for each user; None: nothing is left out.
    Returns: (B, k) int64 item rows; -1 where fewer than k are left.
    Raises: ValueError if `exclude` does not fit.
    """
    if exclude is None:
        exclude = (torch.zeros_like(user_rows), user_rows.new_zeros(0))
    lengths, items = _distinct(exclude, len(user_rows), item_count)
    picks = torch.full((len(user_rows), k), item_count, device=user_rows.device)
    for place in range(min(k, item_count)):
        left = item_count - lengths - place
        nth = _random_integers(seed, user_rows, place) % left.clamp(min=1)
        before = picks[:, :place].sort(dim=1).values - torch.arange(place, device=picks.device)
        pick = nth + (before <= nth.unsqueeze(1)).sum(1)
        picks[:, place] = pick.where(left > 0, item_count)
    return _nth_left(picks, item_count, (lengths, items))


def _distinct(lists: ItemLists, user_count: int, item_count: int, place: Tensor | None = None) -> ItemLists:
    """The lists, each ascending and without repeats, items renumbered by `place` (N,) if given."""
    users = owners(lists, user_count, item_count)
    values = lists[1].long() if place is None else place[lists[1].long()]
    keys = torch.unique(users * item_count + values)
    return torch.bincount(keys // item_count, minlength=user_count), keys % item_count


def _nth_left(nth: Tensor, item_count: int, exclude: ItemLists) -> Tensor:
    """The nth (from 0) of the items 0 to N - 1 that remain when a user's ascending list is taken out.

    Args: nth: (B, k).
    Returns: (B, k) int64; -1 where fewer than nth + 1 items remain.
    """
    lengths, items = exclude
    users = owners(exclude, len(lengths), item_count)
    begin = lengths.cumsum(0) - lengths
    # Before the excluded item that is j-th (from 0) in its list, `item - j` items remain; the nth remaining
    # item is therefore nth plus the number of excluded items with `item - j` <= nth.
    remaining_before = items - (torch.arange(len(items), device=items.device) - begin[users])
    wanted = torch.arange(len(lengths), device=items.device).unsqueeze(1) * item_count
    wanted = wanted + nth.clamp(max=item_count - 1)
    passed = torch.searchsorted(users * item_count + remaining_before, wanted, right=True)
    found = nth + passed - begin.unsqueeze(1)
    return found.masked_fill(nth >= (item_count - lengths).unsqueeze(1), -1)


def _random_integers(seed: int, user_rows: Tensor, place: int) -> Tensor:
    """A uniform integer of 63 bits for each (seed, user row, place), with no state between calls.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), once for each of the three.
    """
    bits = np.zeros(len(user_rows), dtype=np.uint64)
    for part in (np.uint64(seed % 2**64), user_rows.cpu().numpy().astype(np.uint64), np.uint64(place)):
        bits = bits + part + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
    return torch.from_numpy((bits >> np.uint64(1)).astype(np.int64)).to(user_rows.device)
