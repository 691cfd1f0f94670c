"""Ordered histories are cut into stretches that hold every position once, and no more than they may."""

import numpy as np

from trainer.dataset.sequences import Sequences
from trainer.histories.stretches import Stretches, last_of
from trainer.storage.attributes import Ragged


def sequences(*users: list[int]) -> Sequences:
    """Return ordered histories; their times are ten times the place."""
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in users])])
    items = np.concatenate([*users, []]).astype(np.int32)
    return Sequences(Ragged(offsets, items), Ragged(offsets, np.arange(len(items)) * 10))


def stretches(*users: list[int], length: int = 2, trained: list[bool] | None = None) -> Stretches:
    return Stretches(sequences(*users), np.array(trained or [True] * len(users)), length)


def test_a_history_is_cut_into_stretches_of_the_given_length_from_the_oldest_on() -> None:
    found = stretches([5, 6, 7, 8, 9], [3])
    assert found.users.tolist() == [0, 0, 0, 1]
    rows = found.rows(np.arange(4))
    assert found.items[rows.places].tolist() == [5, 6, 7, 8, 9, 3]
    assert rows.stretches.tolist() == [0, 0, 1, 1, 2, 3]


def test_a_stretch_shows_as_many_items_before_its_first_position_as_a_state_looks_back() -> None:
    found = stretches([5, 6, 7, 8, 9])
    lengths, places = found.shown(np.arange(3))
    assert lengths.tolist() == [1, 3, 2]  # 5; 5 6 7; 7 8: nothing comes after the last position
    assert found.items[places].tolist() == [5, 5, 6, 7, 7, 8]
    assert found.rows(np.arange(3)).before.tolist() == [0, 1, 2, 3, 2]


def test_stretches_taken_in_any_order_have_their_own_rows() -> None:
    found = stretches([5, 6, 7, 8, 9], [3, 4])
    rows = found.rows(np.array([3, 1]))
    assert found.items[rows.places].tolist() == [3, 4, 7, 8]
    assert rows.stretches.tolist() == [0, 0, 1, 1]
    assert rows.before.tolist() == [0, 1, 2, 3]


def test_every_interaction_is_a_position_once_whatever_the_length() -> None:
    users = [list(range(number)) for number in (0, 1, 7, 50, 3)]
    for length in (1, 2, 7, 100):
        found = stretches(*users, length=length)
        places = found.rows(np.arange(len(found))).places
        assert sorted(places) == list(range(61))


def test_a_history_that_is_not_trained_on_makes_no_stretch() -> None:
    assert stretches([1, 2], [3, 4], trained=[False, True]).users.tolist() == [1]


def test_items_count_once_for_every_stretch_that_shows_or_predicts_them() -> None:
    found = stretches([5, 6, 7, 8, 9])  # 5 6 | 5 6 7 8 | 7 8 9
    assert found.stretches_with_items(10).tolist() == [0, 0, 0, 0, 0, 2, 2, 2, 2, 1]
    assert found.items_of(np.array([2])).tolist() == [7, 8, 9]


def test_a_step_is_bounded_by_the_length_and_not_by_the_longest_history() -> None:
    found = stretches(list(range(10_000)), length=50)
    assert max(found.shown(np.arange(len(found)))[0]) == 99
    assert found.row_count(np.array([7])) == 50


def test_the_last_items_of_users_keep_their_order() -> None:
    items = sequences([5, 6, 7], [], [3]).items
    lengths, places = last_of(items, np.array([2, 1, 0]), 2)
    assert lengths.tolist() == [1, 0, 2]
    assert items.values[places].tolist() == [3, 6, 7]
