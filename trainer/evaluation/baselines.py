"""Rankers that a model is compared with, under the same protocol and on the same users.

`trainer.facts.baselines` lists them. Each is made by one function here, from the training split alone; those
that go by order look up what a user had before the evaluated split, validation items before the test too.
"""

from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from trainer.closed_form.edlae import cached_towers
from trainer.dataset.dataset import Dataset
from trainer.errors import DataError
from trainer.evaluation.item_item import (
    cached_weights,
    ease,
    item_knn,
    rank_by_history,
    training_matrix,
)
from trainer.evaluation.tie_order import TieOrder
from trainer.evaluation.topk import ItemLists, owners, top_k
from trainer.facts.baselines import baseline
from trainer.histories.recency import recency_weights, transitions
from trainer.storage.attributes import Ragged

Ranker: TypeAlias = Callable[[np.ndarray, ItemLists], Tensor]
"""From user rows (B,) and the items to exclude for each to ranked item rows (B, k), -1 for no item."""

LOW_RANK = 128
"""Width of the closed-form two-tower as a baseline, or the catalogue's size where that is smaller."""

# Near the best on validation splits (10% of training) of both ml-100k and ml-1m. NDCG@10 on their test
# splits: item_knn 0.396 and 0.372, ease 0.438 and 0.437.
ITEM_KNN = {"neighbours": 200, "shrinkage": 10.0}
EASE = {"penalty": 700.0}
# Near the best on validation splits of each user's last item (ml-100k, ml-latest-small, Amazon Beauty).
DECAY = 0.7  # weight of an item in item_knn_last, relative to the user's next one
PRIOR = 10.0  # transitions that markov spreads over all items by popularity, beside those that it counts


def make_ranker(name: str, dataset: Dataset, k: int, seed: int, split: str = "test") -> Ranker:
    """Fit a baseline to the training split.

    Args:
        name: Key of `trainer.facts.baselines.BASELINES`.
        dataset: Interactions and catalogue.
        k: Length of the lists.
        seed: Seed of random lists.
        split: Split that is evaluated.

    Raises:
        ConfigError: If there is no baseline of that name.
    """
    return resolve_name(baseline(name).ranker)(dataset, k, seed, split)


def check_baselines(names: Sequence[str], dataset: Dataset, option_prefix: str = "--evaluation.") -> None:
    """Refuse data that do not suit one of the baselines.

    Args:
        names: Baselines.
        dataset: The data, whose catalogue and order count.
        option_prefix: What the running command writes before `baselines`.

    Raises:
        ConfigError: If there is no baseline of a name.
        DataError: If the catalogue is too large for one, or one needs an order and there is none.
    """
    for name in names:
        limit, item_count = baseline(name).item_limit, dataset.evaluated_items
        if limit is not None and item_count > limit:
            raise DataError(
                f"baseline {name}: the catalogue has {item_count:,} items, expected at most {limit:,}, as it "
                f"weighs every item against every other. Name other baselines: {option_prefix}baselines"
            )
        if baseline(name).needs_order and not dataset.has_order:
            raise DataError(
                f"baseline {name}: these interactions have neither timestamps nor --data.order file, and it "
                f"ranks by what a user had last. Name other baselines: {option_prefix}baselines"
            )


def popularity_ranker(dataset: Dataset, k: int, seed: int, split: str) -> Ranker:
    """Make a ranker by the number of training interactions, or the sum of their weights."""
    order = TieOrder.of(dataset)
    scores = torch.from_numpy(dataset.item_popularity()).float()[order.rows]
    return order.by_rows(lambda rows, exclude: rank_by_scores(scores, k, exclude))


def random_ranker(dataset: Dataset, k: int, seed: int, split: str) -> Ranker:
    """Make a ranker that draws each user's list at random."""
    count = dataset.evaluated_items
    length = min(k, count)  # each place of a list costs a sort
    return lambda rows, exclude: torch.nn.functional.pad(
        rank_randomly(torch.from_numpy(rows), count, length, exclude, seed), (0, k - length), value=-1
    )


def item_knn_ranker(dataset: Dataset, k: int, seed: int, split: str) -> Ranker:
    """Make a ranker by the similarity of items to those of the user, see `item_knn`."""
    order = TieOrder.of(dataset)
    history = _history_of_places(dataset, order)
    weights = cached_weights(dataset.folder, item_knn, history, ITEM_KNN)
    return order.by_rows(lambda rows, exclude: rank_by_history(weights, history[rows], k, exclude))


def ease_ranker(dataset: Dataset, k: int, seed: int, split: str) -> Ranker:
    """Make a ranker by a linear item-to-item model, see `ease`."""
    order = TieOrder.of(dataset)
    history = _history_of_places(dataset, order)
    weights = cached_weights(dataset.folder, ease, history, EASE)
    return order.by_rows(lambda rows, exclude: rank_by_history(weights, history[rows], k, exclude))


def low_rank_ranker(dataset: Dataset, k: int, seed: int, split: str) -> Ranker:
    """Make a ranker by the closed-form two-tower, see `trainer.closed_form.edlae`."""
    count, order = dataset.evaluated_items, TieOrder.of(dataset)
    history = training_matrix(dataset.train_by_user(), count)
    table, vectors = cached_towers(dataset, min(LOW_RANK, count))
    items = torch.from_numpy(vectors[order.rows.numpy()])
    return order.by_rows(
        lambda rows, exclude: top_k(torch.from_numpy(history[rows] @ table[:count]), items, k, exclude)[1]
    )


def item_knn_last_ranker(dataset: Dataset, k: int, seed: int, split: str) -> Ranker:
    """Make a ranker by the similarity of items to those of the user, the last ones above all.

    The query is the user's items, each with weight DECAY ** (number of items after it); popularity ranks for
    users without any.

    Source: Ding and Li, CIKM 2005 (decay by time); Ludewig and Jannach, UMUAI 2018 (decay by position).
    """
    order = TieOrder.of(dataset)
    weights = cached_weights(dataset.folder, item_knn, _history_of_places(dataset, order), ITEM_KNN)
    return _by_last_items(dataset, order, weights, k, split, decay=DECAY, prior=1e-6)


def markov_ranker(dataset: Dataset, k: int, seed: int, split: str) -> Ranker:
    """Make a ranker by a first-order Markov chain from the user's last item.

    Item j after item i scores n_ij + PRIOR p_j: how often training users had j right after i, and the share
    of j in all. That ranks like the transition probability under a Dirichlet prior.

    Source: Rendle et al., WWW 2010 (the chain that FPMC factorises); Zhai and Lafferty, SIGIR 2001.
    """
    order, count = TieOrder.of(dataset), dataset.evaluated_items
    trained = np.flatnonzero(dataset.train_by_user().lengths())  # all but those retained from an earlier run
    lengths, items = dataset.sequences("validation").items.take(trained)
    pairs = transitions(lengths, order.places.numpy()[items])
    counts = csr_array(
        (np.ones(len(pairs[0]), np.float32), pairs), shape=(count, count)
    )  # sums up equal pairs
    return _by_last_items(dataset, order, counts, k, split, decay=0.0, prior=PRIOR)


def _by_last_items(
    dataset: Dataset,
    order: TieOrder,
    weights: np.ndarray | csr_array,
    k: int,
    split: str,
    *,
    decay: float,
    prior: float,
) -> Ranker:
    """Make a ranker by items before `split`, weighed by recency, and popularity that sums up to `prior`."""
    items, popularity = dataset.sequences(split).items, dataset.item_popularity()[order.rows]
    base = torch.tensor(prior * popularity / popularity.sum(), dtype=torch.float32)

    def rank(rows: np.ndarray, exclude: ItemLists) -> Tensor:
        lengths, values = items.take(rows)
        cells = recency_weights(lengths, decay), order.places.numpy()[values]
        recent = csr_array((*cells, np.append(0, np.cumsum(lengths))), shape=(len(rows), len(base)))
        return rank_by_history(weights, recent, k, exclude, base)

    return order.by_rows(rank)


def _history_of_places(dataset: Dataset, order: TieOrder) -> csr_array:
    """Return the training matrix whose columns are places, so that weights and ties are by place."""
    by_user = dataset.train_by_user()
    by_place = Ragged(by_user.offsets, order.places.numpy()[by_user.values])
    matrix = training_matrix(by_place, dataset.evaluated_items)
    matrix.sort_indices()
    return matrix


def popularity_scores(train_items: Tensor, item_count: int, weights: Tensor | None = None) -> Tensor:
    """Count the training interactions of each item, or sum up their weights.

    Args:
        train_items: (interactions,) integer item rows.
        item_count: Items of the catalogue, N.
        weights: (interactions,); None: all weigh 1.

    Returns:
        (N,) float32.

    Raises:
        ValueError: If an item row is not below `item_count`.
    """
    counts = torch.bincount(train_items, weights, minlength=item_count)
    if len(counts) > item_count:
        raise ValueError(f"item row {len(counts) - 1}, expected 0 to {item_count - 1}")
    return counts.float()


def rank_by_scores(item_scores: Tensor, k: int, exclude: ItemLists) -> Tensor:
    """Rank each user's remaining items by scores that all users share.

    The catalogue is sorted once, and each user's excluded items are skipped: O(N log N + excluded log
    excluded), without a users x items matrix. Equal scores rank the lower item row first.

    Args:
        item_scores: (N,), without NaN.
        k: Length of the lists.
        exclude: A list of item rows for each of B users; lengths of zero exclude nothing.

    Returns:
        (B, k) int64 item rows, best first; -1 where fewer than k remain.

    Raises:
        ValueError: On NaN, or if `exclude` does not fit.
    """
    if item_scores.isnan().any():
        raise ValueError("an item score is NaN, expected numbers")
    order = item_scores.sort(descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    lengths, items = _distinct(exclude, len(exclude[0]), len(order), place)
    nth = torch.arange(k, device=order.device).expand(len(lengths), k)
    found = _nth_remaining(nth, len(order), (lengths, items))
    return order[found].masked_fill(found < 0, -1)


def rank_randomly(
    user_rows: Tensor, item_count: int, k: int, exclude: ItemLists | None = None, seed: int = 0
) -> Tensor:
    """Draw k of each user's remaining items, every ordered choice with the same probability.

    A user's draw depends on (seed, user row) and on what is excluded for the user, never on the other users
    of the call. For a user with r remaining items, R of them held out, and k <= r, the expected precision@k
    is R / r and the expected recall@k is k / r.

    Args:
        user_rows: (B,) integer rows that identify users.
        item_count: Items of the catalogue.
        k: Length of the lists.
        exclude: A list of item rows for each user; None excludes nothing.
        seed: Seed of the draws.

    Returns:
        (B, k) int64 item rows; -1 where fewer than k remain.

    Raises:
        ValueError: If `exclude` does not fit.
    """
    if exclude is None:
        exclude = (torch.zeros_like(user_rows), user_rows.new_zeros(0))
    lengths, items = _distinct(exclude, len(user_rows), item_count)
    picks = torch.full((len(user_rows), k), item_count, device=user_rows.device)
    for place in range(min(k, item_count)):
        remaining = item_count - lengths - place
        nth = _random_integers(seed, user_rows, place) % remaining.clamp(min=1)
        before = picks[:, :place].sort(dim=1).values - torch.arange(place, device=picks.device)
        pick = nth + (before <= nth.unsqueeze(1)).sum(1)
        picks[:, place] = pick.where(remaining > 0, item_count)
    return _nth_remaining(picks, item_count, (lengths, items))


def _distinct(lists: ItemLists, user_count: int, item_count: int, place: Tensor | None = None) -> ItemLists:
    """Sort the lists and drop repeats, after renumbering items by `place` (N,) if it is given."""
    users = owners(lists, user_count, item_count)
    values = lists[1].long() if place is None else place[lists[1].long()]
    keys = torch.unique(users * item_count + values)
    return torch.bincount(keys // item_count, minlength=user_count), keys % item_count


def _nth_remaining(nth: Tensor, item_count: int, exclude: ItemLists) -> Tensor:
    """Find the nth (from 0) of the items 0 to N - 1 that remain without a user's ascending list.

    Args:
        nth: (B, k).
        item_count: N.
        exclude: Sorted lists without repeats.

    Returns:
        (B, k) int64; -1 where fewer than nth + 1 items remain.
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
    """Hash each (seed, user row, place) to a uniform integer of 63 bits, with no state between calls.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), once for each of the three.
    """
    bits = np.zeros(len(user_rows), dtype=np.uint64)
    for value in (np.uint64(seed % 2**64), user_rows.cpu().numpy().astype(np.uint64), np.uint64(place)):
        bits = bits + value + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
    return torch.from_numpy((bits >> np.uint64(1)).astype(np.int64)).to(user_rows.device)
