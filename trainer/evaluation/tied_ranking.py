"""The best items of each user, where users whose scores are equal rank them in orders of their own."""

import numpy as np
import torch
from torch import Tensor

from trainer.evaluation.tie_order import TieOrder, tied_lists
from trainer.evaluation.topk import ItemLists, top_k


def rank_items(
    query: Tensor, items: Tensor, k: int, users: np.ndarray, exclude: ItemLists | None, order: TieOrder
) -> tuple[Tensor, Tensor]:
    """Find the k items of highest score for each user; equal scores rank as `tie_order` says.

    Args:
        query: User vectors, (B, D).
        items: Item vectors by place of the order, (N, D).
        k: Length of the lists.
        users: (B,) rows of the users.
        exclude: A list of item rows for each user that must not be returned.
        order: Order of the items.

    Returns:
        Item rows (B, k), best first, -1 for no item; and (B,) bool, whether the list depends on the order.
    """
    exclude = None if exclude is None else order.lists_of_places(exclude)
    # One item more tells whether the last of the list is tied.
    scores, places = top_k(query, items, k + 1, exclude)
    tied, places = tied_lists(scores), places[:, :k].contiguous()
    chosen = torch.nonzero(tied).squeeze(1)
    entries = order.entries_of(users[chosen.cpu().numpy()]) if len(chosen) else np.zeros(0, np.int64)
    for entry in np.unique(entries).tolist():
        own = chosen[torch.from_numpy(entries == entry).to(chosen.device)]
        lists = None if exclude is None else _turned(_lists_of(exclude, own), entry, len(items))
        found = top_k(query[own], items.roll(-entry, 0), k, lists)[1]
        places[own] = torch.where(found < 0, found, (found + entry) % len(items))
    return order.item_rows(places), tied


def _lists_of(lists: ItemLists, users: Tensor) -> ItemLists:
    """Return the lists of some users, given by ascending position."""
    lengths, flat = lists
    chosen = torch.zeros(len(lengths), dtype=torch.bool, device=lengths.device)
    chosen[users] = True
    return lengths[users], flat[chosen.repeat_interleave(lengths)]


def _turned(lists: ItemLists, entry: int, count: int) -> ItemLists:
    """Return lists of places in a catalogue whose first place is `entry`."""
    return lists[0], (lists[1] - entry) % count
