"""Exact top-k over the whole catalogue, and which of the ranked items were held out."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from trainer.errors import diverged
from trainer.evaluation.cpu_topk import RunningBest, largest_of_groups, padded_width

ItemLists = tuple[Tensor, Tensor]
"""A list of item rows for each user: lengths (B,) and the concatenated item rows (total,), both integers."""

# Scores that stand in memory at a time: 4,096 x 432 float32 = 7 MiB, small enough for the cache of one core.
# Scores of an item lie 27 cache lines apart: a power of two would crowd them into a few places of the cache.
USER_BLOCK = 432
ITEM_BLOCK = 4096

# Users x items that are marked as held out or not at a time: 4 MiB.
MARKS = 2**22

# Matrix products on CPU sum in another order where a thread gets few rows, which changes last bits. Filling
# each product up to a multiple of this many users, and to four items for each of 16 threads, keeps a user's
# scores the same in whichever chunk he comes.
USER_MULTIPLE = 48


@torch.no_grad()
def top_k(query: Tensor, items: Tensor, k: int, exclude: ItemLists | None = None) -> tuple[Tensor, Tensor]:
    """The k items of highest score for each user, without the excluded ones.

    A score is a dot product in float32. Equal scores rank the lower item row first. The result for a user
    does not depend on the other users of the call (on CPU, to the last bit). Beside the arguments and the
    result, memory is bounded by a few times USER_BLOCK x ITEM_BLOCK scores for each thread.

    Args:
        query: (B, D) user vectors.  items: (N, D) item vectors.
        k: length of the ranking, at least 1; it may exceed N.
        exclude: item rows that must not be returned, a list for each user.
    Returns: scores (B, k) float32 and item rows (B, k) int64, best first. Where a user has fewer than k
        items left, the rest is -inf and -1.
    Raises: DivergedError if a score is NaN or infinite; ValueError if `exclude` does not fit the vectors.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    query, items = query.detach().float(), items.detach().float()
    scores = torch.full((len(query), k), -torch.inf, device=query.device)
    rows = torch.full((len(query), k), -1, device=query.device)
    if exclude is None:
        exclude = (rows.new_zeros(len(query)), rows.new_zeros(0))
    users = owners(exclude, len(query), len(items))
    values = exclude[1].long()
    on_cpu = query.device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 1
    rank = _CpuRanker(items, k) if on_cpu else _SortingRanker(items, k)
    own, left_out = _blocks(users, len(query), threads)
    with _workers(min(threads, len(own))) as each:
        found = each(
            rank,
            (query[block] for block in own),
            (users[part] - block.start for part, block in zip(left_out, own, strict=True)),
            (values[part] for part in left_out),
        )
        for block, (best, best_rows) in zip(own, found, strict=True):
            scores[block], rows[block] = best, best_rows
    _check_numbers(scores, rows, k - len(items) + exclude[0])
    return scores, rows


def hits(rows: Tensor, held_out: ItemLists) -> Tensor:
    """Which ranked items are among the held-out items of their user.

    Args:
        rows: (B, K) ranked item rows; -1 (no item) is never a hit.
        held_out: the held-out item rows, a list for each user.
    Returns: (B, K) bool.
    Raises: ValueError if `held_out` does not have B lists.
    """
    values = held_out[1].long()
    count = 1 + max(int(each.max()) if each.numel() else -1 for each in (rows, values))
    users, width = owners(held_out, len(rows), count), 1 + count
    found = torch.zeros_like(rows, dtype=torch.bool)
    block = max(MARKS // width, 1)
    starts = range(0, len(rows), block)
    bounds = torch.searchsorted(users, torch.tensor([*starts, len(rows)], device=users.device)).tolist()
    # Item i is marked in column i + 1: the first column is that of no item.
    marks = torch.zeros(min(block, len(rows)), width, dtype=torch.bool, device=rows.device)
    for number, start in enumerate(starts):
        ranked, held = rows[start : start + block], slice(bounds[number], bounds[number + 1])
        cells = (users[held] - start) * width + values[held] + 1
        marks.view(-1).index_fill_(0, cells, True)
        torch.gather(marks[: len(ranked)], 1, ranked + 1, out=found[start : start + block])
        marks.view(-1).index_fill_(0, cells, False)
    return found


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of each row and their scores, equal scores by ascending column.

    Args: scores: (B, N), without NaN.
    Returns: scores and columns, both (B, min(k, N)), best first.
    """
    # topk leaves the order of equal scores open. They matter only if two of the k + 1 best are equal, which
    # is rare in trained models: only such rows are sorted in full.
    best, columns = scores.topk(min(k + 1, scores.shape[1]))
    tied = ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -torch.inf)).any(1).nonzero().squeeze(1)
    if len(tied):
        exact = scores[tied].sort(dim=1, descending=True, stable=True)
        best[tied], columns[tied] = exact.values[:, : best.shape[1]], exact.indices[:, : best.shape[1]]
    return best[:, :k], columns[:, :k]


def owners(lists: ItemLists, user_count: int, item_count: int) -> Tensor:
    """The user (0 to B - 1) to whom each value of the lists belongs.

    Returns: (total,) int64, ascending.
    Raises: ValueError if there are not `user_count` lists, lengths do not add up to the number of values,
        or a value is not an item row.
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


def _blocks(users: Tensor, count: int, threads: int) -> tuple[list[slice], list[slice]]:
    """Users to be ranked together, and which of the ascending `users` are theirs."""
    length = min(USER_BLOCK, -(-count // threads // USER_MULTIPLE) * USER_MULTIPLE)
    own = [slice(start, min(start + length, count)) for start in range(0, count, max(length, 1))]
    starts = torch.tensor([block.start for block in own], device=users.device)
    bounds = [*torch.searchsorted(users, starts).tolist(), len(users)]
    return own, [slice(*pair) for pair in pairwise(bounds)]


def _check_numbers(scores: Tensor, rows: Tensor, gaps: Tensor) -> None:
    """Refuse scores that are NaN or infinite.

    Args:
        scores, rows: (B, k), ranked.
        gaps: (B,) places that excluded items may leave empty, if positive.
    Raises: DivergedError.
    """
    # A score of minus infinity ranks like an excluded item: only the gap at the end tells of it.
    filled = rows.shape[1] - gaps.long().clamp(min=0)
    short = (filled > 0) & (rows.gather(1, (filled - 1).clamp(min=0).unsqueeze(1)).squeeze(1) < 0)
    wrong = ~(scores[:, 0] < torch.inf) | short
    if wrong.any():
        raise diverged(f"query {int(wrong.nonzero()[0])}", "scores are NaN or infinite")


class _SortingRanker:
    """top_k for one block of users after another: each block of items is sorted into the best before it."""

    def __init__(self, items: Tensor, k: int) -> None:
        self._items, self._k = items, k

    def __call__(self, query: Tensor, users: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and item rows, (B, k); pair i of `users` (rows of the block) and `excluded` is left out."""
        best = query.new_full((len(query), self._k), -torch.inf)
        rows = torch.full((len(query), self._k), -1, device=query.device)
        for first in range(0, len(self._items), ITEM_BLOCK):
            block = self._items[first : first + ITEM_BLOCK]
            scores = query @ block.T
            inside = (excluded >= first) & (excluded < first + len(block))
            cells = users[inside] * len(block) + excluded[inside] - first
            scores.view(-1).index_fill_(0, cells, -torch.inf)
            block_best, block_rows = best_columns(scores, self._k)
            # Earlier blocks hold lower item rows and stand first, so a stable sort keeps the order of ties.
            best, order = torch.cat([best, block_best], 1).sort(dim=1, descending=True, stable=True)
            rows = torch.cat([rows, block_rows + first], 1).gather(1, order)[:, : self._k]
            best = best[:, : self._k]
        return best, rows.masked_fill(best == -torch.inf, -1)


class _CpuRanker:
    """The same where sorting would take longer than the scores do: few scores are looked at twice."""

    def __init__(self, items: Tensor, k: int) -> None:
        self._items, self._k, self._of_thread = items, k, threading.local()

    def __call__(self, query: Tensor, users: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        count = len(query)
        query = _filled_up(query, count + -count % USER_MULTIPLE)
        best = RunningBest(len(query), self._k)
        for first in range(0, len(self._items), ITEM_BLOCK):
            scores = self._block(query, first)
            scores[:, count:] = -torch.inf
            self._leave_out(scores.numpy(), first, users.numpy(), excluded.numpy())
            best.add(scores.numpy(), largest_of_groups(scores, self._k, first).numpy(), first)
        scores, rows = map(torch.from_numpy, best.ranked())
        if best.diverged.any():
            scores[torch.from_numpy(best.diverged)] = torch.nan
        return scores[:count], rows[:count]

    def _block(self, query: Tensor, first: int) -> Tensor:
        """Scores of a block of items, (width, B), and minus infinity up to the width, see `padded_width`."""
        block = self._items[first : first + ITEM_BLOCK]
        width = padded_width(len(block))
        # Fresh memory for each product would take as long as the product.
        if not hasattr(self._of_thread, "scores"):
            self._of_thread.scores = torch.empty((USER_BLOCK + USER_MULTIPLE) * padded_width(ITEM_BLOCK))
        scores = self._of_thread.scores[: len(query) * width].view(width, len(query))
        product = _filled_up(block, width) if width == padded_width(1) else block
        torch.mm(product, query.T, out=scores[: len(product)])
        scores[len(block) :] = -torch.inf
        return scores

    def _leave_out(self, scores: np.ndarray, first: int, users: np.ndarray, excluded: np.ndarray) -> None:
        if not len(users):
            return
        if len(self._items) > ITEM_BLOCK:
            inside = np.flatnonzero((excluded >= first) & (excluded < first + ITEM_BLOCK))
            users, excluded = users[inside], excluded[inside] - first
        scores.reshape(-1)[excluded * scores.shape[1] + users] = -np.inf


def _filled_up(vectors: Tensor, count: int) -> Tensor:
    """The vectors, and zeros up to so many; without a copy where there is nothing to fill."""
    missing = count - len(vectors)
    return torch.nn.functional.pad(vectors, (0, 0, 0, missing)) if missing else vectors


@contextmanager
def _workers(count: int) -> Iterator[Callable[..., Iterable[tuple[Tensor, Tensor]]]]:
    """`map` in so many threads, each of which computes alone, as does this one meanwhile.

    Threads that share one product wait for each other at its end, for long where a core has other work. Those
    that share the copying of results spin between two copies, and take a core from the others.
    """
    if count < 2:
        yield map
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # what one thread sets holds for all that start later
