"""Items of equal scores rank by a hash of their raw ids, whatever the order of the file."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import worlds
from trainer.evaluation.baselines import make_ranker
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.tie_order import TieOrder, tied_lists
from trainer.reporting.evaluation_text import ties_text
from trainer.storage.tie_hashes import tie_hashes


def shuffled(folder: Path, seed: int) -> tuple[worlds.Pairs, worlds.Pairs]:
    """The pairs of a checkerboard in another order, by which rows are numbered otherwise."""
    train, withheld = worlds.checkerboard()
    return [random.Random(seed).sample(pairs, len(pairs)) for pairs in (train, withheld)]


# Every item of a colour is as popular and as similar as any other, so that all of these lists are tied.
@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease"])
def test_lists_of_a_baseline_do_not_depend_on_the_order_of_the_file(tmp_path: Path, name: str) -> None:
    found = []
    for seed in range(3):
        data = worlds.dataset(tmp_path / str(seed), *shuffled(tmp_path, seed))
        users = np.array([data.user_row(worlds.FIRST_USER + user) for user in range(16)])
        exclude = tuple(torch.from_numpy(each) for each in data.seen("test").take(users))
        ranking = make_ranker(name, data, 8, 42)(users, exclude)
        ids = np.append(data.item_ids.to_numpy(), -1)
        found.append(ids[ranking.numpy()].tolist())
    assert found[0] == found[1] == found[2]


def test_the_most_popular_item_of_a_file_does_not_win_by_standing_first(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, *worlds.checkerboard())
    nothing = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    ranking = make_ranker("popularity", data, 8, 42)(np.array([0]), nothing)[0].tolist()
    hashes = tie_hashes(data.item_ids)
    assert ranking == sorted(range(8), key=lambda row: hashes[row])  # all 8 are equally popular
    assert ranking != list(range(8))


def test_places_and_rows_are_inverse_and_lists_are_mapped_both_ways(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, *worlds.checkerboard())
    order = TieOrder.of(data)
    assert order.rows[order.places].tolist() == list(range(8))
    lengths, places = order.lists_of_places((torch.tensor([2, 0, 1]), torch.tensor([3, 5, 0])))
    assert lengths.tolist() == [2, 0, 1]
    assert order.item_rows(torch.stack([places, torch.tensor([-1, -1, 4])])).tolist() == [
        [3, 5, 0],
        [-1, -1, int(order.rows[4])],
    ]


def test_a_damaged_or_foreign_order_in_the_cache_is_computed_again(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, *worlds.checkerboard())
    expected = TieOrder.of(data).rows.tolist()
    (path,) = data.folder.glob("tie-order-*.npy")
    assert np.load(path).tolist() == expected
    path.write_bytes(path.read_bytes()[:-4])
    assert TieOrder.of(data).rows.tolist() == expected
    np.save(path, np.arange(5))
    assert TieOrder.of(data).rows.tolist() == expected
    assert np.load(path).tolist() == expected


def test_lists_are_tied_where_two_scores_are_equal_and_no_item_is_no_score() -> None:
    none = -torch.inf
    scores = torch.tensor([[3.0, 2, 1], [3, 3, 1], [2, 1, 1], [2, none, none], [none] * 3])
    assert tied_lists(scores).tolist() == [False, True, True, False, False]
    assert tied_lists(torch.ones(2, 1)).tolist() == [False, False]


@pytest.mark.parametrize(("tied", "told"), [(5, False), (6, True)])
def test_ties_are_told_where_more_than_half_of_the_lists_have_them(tied: int, told: bool) -> None:
    evaluation = Evaluation("test", "mask", users=10, items=8, rankers={}, tied=tied)
    assert evaluation.mostly_tied is told
    assert f"{tied} of 10 users" in ties_text(evaluation)
