"""Exact top-k over the whole catalogue, and which of the ranked items were held out.

Names end in the shape of the tensor:
    B: users.
    N: items; in a block of items, those of the block.
    D: width of a vector.
    K: ranks of a list.
    E: excluded items of all users together.
"""
# Shapes are capitals.
# ruff: noqa: N803, N806

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from trainer.errors import diverged
from trainer.evaluation.cpu_topk import RunningTopK, largest_of_groups, padded_width

ItemLists: TypeAlias = tuple[Tensor, Tensor]
"""A list of item rows for each user: lengths (B,) and the concatenated item rows (total,), both integers."""

# Scores in memory at a time: 4,096 x 432 float32 = 7 MiB, small enough for the cache of one core. An item's
# scores take 27 cache lines: a power of two would map those of all items to a few sets of the cache.
USER_BLOCK = 432
ITEM_BLOCK = 4096
# On a GPU every block costs a dozen launches, and what counts is that there are few: 512 MiB of scores.
GPU_USER_BLOCK, GPU_SCORES = 4096, 2**27

MARKS = 2**22
"""Pairs of user and item that are marked as held out or not at a time: 4 MiB."""

# A matrix product on CPU sums in another order where a thread gets few rows, which changes last bits. Padding
# each product to a multiple of this many users, and to four items for each of 16 threads, keeps a user's
# scores the same in any chunk.
USER_MULTIPLE = 48


@torch.no_grad()
def top_k(
    query_BD: Tensor, items_ND: Tensor, k: int, exclude: ItemLists | None = None
) -> tuple[Tensor, Tensor]:
    """Find the k items of highest score for each user, without the excluded ones.

    A score is a dot product in float32. Equal scores rank the lower item row first; rankers number the items
    so that this is fair (see `tie_order`). The result for a user does not depend on the other users of the
    call (on CPU, to the last bit). Beyond the arguments and the result, memory is bounded by a few times
    USER_BLOCK x ITEM_BLOCK scores for each thread, on a GPU by a few times GPU_SCORES.

    Args:
        query_BD: User vectors.
        items_ND: Item vectors.
        k: Length of the lists, at least 1; it may exceed N.
        exclude: A list of item rows for each user that must not be returned.

    Returns:
        Scores (B, k) float32 and item rows (B, k) int64, best first; -inf and -1 at the end where fewer than
        k items remain.

    Raises:
        DivergedError: If a score is NaN or infinite.
        ValueError: If `exclude` does not fit the vectors.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    query_BD, items_ND = query_BD.detach().float(), items_ND.detach().float()
    scores_BK = torch.full((len(query_BD), k), -torch.inf, device=query_BD.device)
    rows_BK = torch.full((len(query_BD), k), -1, device=query_BD.device)
    if exclude is None:
        exclude = (rows_BK.new_zeros(len(query_BD)), rows_BK.new_zeros(0))
    users_E = owners(exclude, len(query_BD), len(items_ND))
    items_E = exclude[1].long()
    on_cpu = query_BD.device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 1
    ranker = _CpuRanker(items_ND, k) if on_cpu else _SortingRanker(items_ND, k)
    user_block = USER_BLOCK if on_cpu else GPU_USER_BLOCK
    blocks, spans = _blocks(users_E, len(query_BD), threads, user_block)
    with _thread_map(min(threads, len(blocks))) as map_blocks:
        ranked = map_blocks(
            ranker,
            (query_BD[block] for block in blocks),
            (users_E[span] - block.start for span, block in zip(spans, blocks, strict=True)),
            (items_E[span] for span in spans),
        )
        for block, (best, best_rows) in zip(blocks, ranked, strict=True):
            scores_BK[block], rows_BK[block] = best, best_rows
    _check_finite(scores_BK, rows_BK, k - len(items_ND) + exclude[0])
    return scores_BK, rows_BK


def hits(rows_BK: Tensor, held_out: ItemLists) -> Tensor:
    """Find which ranked items are among the held-out items of their user.

    Args:
        rows_BK: Ranked item rows; -1 (no item) is never a hit.
        held_out: A list of item rows for each user.

    Returns:
        (B, K) bool.

    Raises:
        ValueError: If `held_out` does not have B lists.
    """
    held_items = held_out[1].long()
    count = 1 + max(int(each.max()) if each.numel() else -1 for each in (rows_BK, held_items))
    users, width = owners(held_out, len(rows_BK), count), 1 + count
    found_BK = torch.zeros_like(rows_BK, dtype=torch.bool)
    block = max(MARKS // width, 1)
    starts = range(0, len(rows_BK), block)
    bounds = torch.searchsorted(users, torch.tensor([*starts, len(rows_BK)], device=users.device)).tolist()
    # Item i is marked in column i + 1: the first column belongs to no item.
    marks = torch.zeros(min(block, len(rows_BK)), width, dtype=torch.bool, device=rows_BK.device)
    for number, start in enumerate(starts):
        ranked, held = rows_BK[start : start + block], slice(bounds[number], bounds[number + 1])
        cells = (users[held] - start) * width + held_items[held] + 1
        marks.view(-1).index_fill_(0, cells, True)
        torch.gather(marks[: len(ranked)], 1, ranked + 1, out=found_BK[start : start + block])
        marks.view(-1).index_fill_(0, cells, False)
    return found_BK


def best_columns(scores_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k best columns of each row, equal scores by ascending column.

    Args:
        scores_BN: Scores without NaN.
        k: Columns wanted.

    Returns:
        Scores and columns, both (B, min(k, N)), best first.
    """
    # topk leaves the order of equal scores open. They matter only if two of the k + 1 best are equal, which
    # is rare in trained models: only such rows are sorted in full.
    best, columns = scores_BN.topk(min(k + 1, scores_BN.shape[1]))
    tied = ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -torch.inf)).any(1).nonzero().squeeze(1)
    if len(tied):
        exact = scores_BN[tied].sort(dim=1, descending=True, stable=True)
        best[tied], columns[tied] = exact.values[:, : best.shape[1]], exact.indices[:, : best.shape[1]]
    return best[:, :k], columns[:, :k]


def owners(lists: ItemLists, user_count: int, item_count: int) -> Tensor:
    """Return the user (0 to B - 1) of each item in the lists, (total,) int64, ascending.

    Args:
        lists: Item rows of each user.
        user_count: Expected number of lists, B.
        item_count: Items of the catalogue, N.

    Raises:
        ValueError: If there are not `user_count` lists, lengths do not add up to the number of items, or one
            is not an item row.
    """
    lengths, values = lists
    if len(lengths) != user_count or int(lengths.sum()) != len(values):
        raise ValueError(
            f"{len(lengths)} lists of {int(lengths.sum())} items in all with {len(values)} values, "
            f"expected {user_count} lists whose lengths add up to the number of values"
        )
    least, largest = map(int, values.aminmax()) if len(values) else (0, 0)
    if len(values) and not 0 <= least <= largest < item_count:
        raise ValueError(f"item rows from {least} to {largest}, expected 0 to {item_count - 1}")
    return torch.repeat_interleave(lengths.long(), output_size=len(values))


def _blocks(users_E: Tensor, user_count: int, threads: int, most: int) -> tuple[list[slice], list[slice]]:
    """Divide users into blocks of at most `most` for ranking, and the ascending `users_E` likewise."""
    length = min(most, -(-user_count // threads // USER_MULTIPLE) * USER_MULTIPLE)
    blocks = [slice(start, min(start + length, user_count)) for start in range(0, user_count, max(length, 1))]
    starts = torch.tensor([block.start for block in blocks], device=users_E.device)
    bounds = [*torch.searchsorted(users_E, starts).tolist(), len(users_E)]
    return blocks, [slice(*pair) for pair in pairwise(bounds)]


def _check_finite(scores_BK: Tensor, rows_BK: Tensor, gaps_B: Tensor) -> None:
    """Refuse scores that are NaN or infinite.

    Args:
        scores_BK: Scores of the ranked items.
        rows_BK: Ranked item rows.
        gaps_B: Ranks that excluded items may leave empty, if positive.

    Raises:
        DivergedError: If one is not finite.
    """
    # A score of minus infinity ranks like an excluded item: only a longer gap at the end reveals it.
    filled_B = rows_BK.shape[1] - gaps_B.long().clamp(min=0)
    last_B = rows_BK.gather(1, (filled_B - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    wrong_B = ~(scores_BK[:, 0] < torch.inf) | ((filled_B > 0) & (last_B < 0))
    if wrong_B.any():
        raise diverged(f"query {int(wrong_B.nonzero()[0])}", "scores are NaN or infinite")


class _SortingRanker:
    """Ranks a block of users on a GPU: the best of each block of items are sorted into those before it."""

    def __init__(self, items_ND: Tensor, k: int) -> None:
        self._items_ND, self._k = items_ND, k

    def __call__(self, query_BD: Tensor, users_E: Tensor, items_E: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and item rows, (B, k) each; pair i of `users_E` and `items_E` is excluded."""
        best_BK = query_BD.new_full((len(query_BD), self._k), -torch.inf)
        rows_BK = torch.full((len(query_BD), self._k), -1, device=query_BD.device)
        width = max(GPU_SCORES // max(len(query_BD), 1), 1)
        for first in range(0, len(self._items_ND), width):
            block_ND = self._items_ND[first : first + width]
            scores_BN = query_BD @ block_ND.T
            inside_E = (items_E >= first) & (items_E < first + len(block_ND))
            cells = users_E[inside_E] * len(block_ND) + items_E[inside_E] - first
            scores_BN.view(-1).index_fill_(0, cells, -torch.inf)
            block_best, block_rows = best_columns(scores_BN, self._k)
            # Earlier blocks hold lower item rows and come first, so a stable sort keeps the order of ties.
            best_BK, order = torch.cat([best_BK, block_best], 1).sort(dim=1, descending=True, stable=True)
            rows_BK = torch.cat([rows_BK, block_rows + first], 1).gather(1, order)[:, : self._k]
            best_BK = best_BK[:, : self._k]
        return best_BK, rows_BK.masked_fill(best_BK == -torch.inf, -1)


class _CpuRanker:
    """Ranks a block of users on CPU, where sorting would take longer than the product: see `cpu_topk`."""

    def __init__(self, items_ND: Tensor, k: int) -> None:
        self._items_ND, self._k, self._of_thread = items_ND, k, threading.local()

    def __call__(self, query_BD: Tensor, users_E: Tensor, items_E: Tensor) -> tuple[Tensor, Tensor]:
        count = len(query_BD)
        query_BD = _pad_rows(query_BD, count + -count % USER_MULTIPLE)
        best = RunningTopK(len(query_BD), self._k)
        for first in range(0, len(self._items_ND), ITEM_BLOCK):
            scores_NB = self._scores(query_BD, first)
            scores_NB[:, count:] = -torch.inf
            self._exclude(scores_NB.numpy(), first, users_E.numpy(), items_E.numpy())
            best.add(scores_NB.numpy(), largest_of_groups(scores_NB, self._k, first).numpy(), first)
        scores_BK, rows_BK = map(torch.from_numpy, best.ranked())
        if best.diverged_B.any():
            scores_BK[torch.from_numpy(best.diverged_B)] = torch.nan
        return scores_BK[:count], rows_BK[:count]

    def _scores(self, query_BD: Tensor, first: int) -> Tensor:
        """Compute scores of a block of items, (width, B), padded with minus infinity, see `padded_width`."""
        block_ND = self._items_ND[first : first + ITEM_BLOCK]
        width = padded_width(len(block_ND))
        # Allocating memory for each product would take as long as the product.
        if not hasattr(self._of_thread, "scores"):
            self._of_thread.scores = torch.empty((USER_BLOCK + USER_MULTIPLE) * padded_width(ITEM_BLOCK))
        scores_NB = self._of_thread.scores[: len(query_BD) * width].view(width, len(query_BD))
        factor_ND = _pad_rows(block_ND, width) if width == padded_width(1) else block_ND
        torch.mm(factor_ND, query_BD.T, out=scores_NB[: len(factor_ND)])
        scores_NB[len(block_ND) :] = -torch.inf
        return scores_NB

    def _exclude(self, scores_NB: np.ndarray, first: int, users_E: np.ndarray, items_E: np.ndarray) -> None:
        if not len(users_E):
            return
        if len(self._items_ND) > ITEM_BLOCK:
            inside = np.flatnonzero((items_E >= first) & (items_E < first + ITEM_BLOCK))
            users_E, items_E = users_E[inside], items_E[inside] - first
        scores_NB.reshape(-1)[items_E * scores_NB.shape[1] + users_E] = -np.inf


def _pad_rows(vectors: Tensor, count: int) -> Tensor:
    """Append rows of zeros up to `count` rows; without a copy where none are missing."""
    missing = count - len(vectors)
    return torch.nn.functional.pad(vectors, (0, 0, 0, missing)) if missing else vectors


@contextmanager
def _thread_map(threads: int) -> Iterator[Callable[..., Iterable[tuple[Tensor, Tensor]]]]:
    """Yield a `map` that runs in threads, each of which (as this one meanwhile) computes on its own.

    Threads that share one product wait for each other at its end, for long where other work occupies a core.
    Threads that share the copying of results spin between two copies and take a core from the others.
    """
    if threads < 2:
        yield map
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # what one thread sets holds for all that start later
