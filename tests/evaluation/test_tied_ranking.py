"""Users whose scores are equal rank items in orders of their own, and everything else as the scores say."""

from pathlib import Path

import numpy as np
import torch

from tests import worlds
from trainer.evaluation.tie_order import TieOrder
from trainer.evaluation.tied_ranking import rank_items
from trainer.storage.tie_hashes import ORDERS, first_hashes, tie_hashes

USERS, ITEMS = 40, 12
PAIRS = [(user, 100 + (user + step) % ITEMS) for user in range(USERS) for step in range(2)]
HELD_OUT = [(0, 105)]


def ranked(data, scores: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranking of given scores, (users, items by row), without seen items."""
    order, users = TieOrder.of(data), np.arange(USERS)
    exclude = tuple(torch.from_numpy(each) for each in data.seen("test").take(users))
    rows, tied = rank_items(scores[:, order.rows], torch.eye(ITEMS), k, users, exclude, order)
    return rows.numpy(), tied.numpy()


def expected(data, scores: torch.Tensor, k: int) -> list[list[int]]:
    """The same by sorting: higher scores first, then hashes from the user's own first one on, in a circle."""
    items, found = [int(each) for each in tie_hashes(data.item_ids)], []
    for user, first in enumerate(first_hashes(data.user_ids.slice(0, USERS))):
        seen = set(data.seen("test").take(np.array([user]))[1].tolist())
        rows = [row for row in range(ITEMS) if row not in seen]
        rows.sort(key=lambda row: (-float(scores[user, row]), (items[row] - int(first)) % 2**64))
        found.append(rows[:k])
    return found


def test_equal_scores_rank_by_hash_from_a_place_of_the_users_own_on(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, PAIRS, HELD_OUT)
    equal, some = torch.zeros(USERS, ITEMS), torch.randint(3, (USERS, ITEMS)).float()
    for scores in (equal, some):
        rows, tied = ranked(data, scores, 4)
        assert rows.tolist() == expected(data, scores, 4)
        assert tied[0]
    assert len({tuple(row) for row in ranked(data, equal, 4)[0].tolist()}) > ITEMS / 2


def test_scores_that_differ_are_ranked_by_themselves_alone(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, PAIRS, HELD_OUT)
    scores = torch.rand(USERS, ITEMS)
    rows, tied = ranked(data, scores, 4)
    assert rows.tolist() == expected(data, scores, 4)
    assert not tied.any()


def test_a_tie_with_the_first_item_beyond_the_list_counts(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, PAIRS, HELD_OUT)
    scores = torch.arange(ITEMS).repeat(USERS, 1).float()
    scores[:, 4] = scores[:, 7] = 20
    unseen = np.array([not {4, 7} & {user % ITEMS, (user + 1) % ITEMS} for user in range(USERS)])
    rows, tied = ranked(data, scores, 1)
    assert rows.tolist() == expected(data, scores, 1)
    assert tied.tolist() == unseen.tolist()  # whoever has one of the two has no tie


def test_a_list_is_the_beginning_of_a_longer_one(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, PAIRS, HELD_OUT)
    scores = torch.randint(4, (USERS, ITEMS)).float()
    long = ranked(data, scores, 8)[0]
    for k in range(1, 8):
        np.testing.assert_array_equal(ranked(data, scores, k)[0], long[:, :k])


def test_hashes_divide_users_among_all_orders(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, [(user, 100) for user in range(400)], HELD_OUT)
    firsts = first_hashes(data.user_ids)
    assert len(np.unique(firsts)) == ORDERS
    assert (firsts % np.uint64(2**64 // ORDERS) == 0).all()
