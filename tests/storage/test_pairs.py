import numpy as np
import pytest

from trainer.storage.pairs import (
    core,
    first_and_last_of_each_pair,
    last_of_each_pair,
    repeated_pairs,
)

NONE_HELD_OUT = np.zeros(10, bool)


def test_of_equal_pairs_the_latest_stays():
    # Pair 7 stands at seconds 30, 50 and 40: row 3 stays. Pair 1 stands once.
    pairs, seconds = np.array([7, 1, 7, 7]), np.array([30, 10, 40, 50])
    assert last_of_each_pair(pairs, seconds, NONE_HELD_OUT[:4]).tolist() == [False, True, False, True]


def test_of_equal_pairs_of_one_second_the_last_in_file_order_stays():
    pairs, seconds = np.array([7, 7, 5]), np.array([30, 30, 30])
    assert last_of_each_pair(pairs, seconds, NONE_HELD_OUT[:3]).tolist() == [False, True, True]


def test_without_timestamps_the_last_of_equal_pairs_in_file_order_stays():
    pairs = np.array([7, 5, 7, 5, 7])
    assert last_of_each_pair(pairs, None, NONE_HELD_OUT[:5]).tolist() == [False, False, False, True, True]


def test_a_held_out_pair_stays_rather_than_a_later_training_one():
    # Row 0 is later than row 1, but row 1 is held out.
    pairs, seconds, held_out = np.array([7, 7]), np.array([90, 10]), np.array([False, True])
    assert last_of_each_pair(pairs, seconds, held_out).tolist() == [False, True]


def test_the_first_and_the_last_row_of_each_pair_are_those_in_time_then_in_file_order():
    # Pair 7 in time order: rows 1, 0, 3; pair 5 stands twice in one second, in rows 2 and 4.
    found = first_and_last_of_each_pair(np.array([7, 7, 5, 7, 5]), np.array([20, 10, 30, 40, 30]))
    assert list(zip(found.first.tolist(), found.last.tolist(), strict=True)) == [(2, 4), (1, 3)]


def test_duplicates_agree_with_a_dictionary():
    generator = np.random.default_rng(1)
    pairs, seconds = generator.integers(0, 300, 1000), generator.integers(0, 5, 1000)
    held_out = np.arange(1000) >= 700
    best: dict[int, int] = {}
    for row in range(1000):
        rank = (held_out[row], seconds[row])
        if pairs[row] not in best or rank >= (held_out[best[pairs[row]]], seconds[best[pairs[row]]]):
            best[pairs[row]] = row
    assert np.flatnonzero(last_of_each_pair(pairs, seconds, held_out)).tolist() == sorted(best.values())


def test_the_core_is_taken_until_nothing_more_falls():
    # k = 2. Rows: a1 a2 b1 b2 c2 c3. Item 3 has one row: c3 falls; then c has one row: c2 falls.
    users, items = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 1, 2, 2, 3])
    assert core(users, items, 2).tolist() == [True, True, True, True, False, False]


def test_a_core_may_be_empty():
    # A chain: a1 b1 b2 c2. a falls, then item 1, then b, then item 2.
    assert not core(np.array([0, 1, 1, 2]), np.array([1, 1, 2, 2]), 2).any()


def test_a_core_of_less_than_two_keeps_all():
    for k in (0, 1):
        assert core(np.array([0, 1]), np.array([0, 1]), k).all()


@pytest.mark.parametrize("scale", [1, 2**60], ids=["small", "too large to be packed"])
def test_repeated_pairs_are_found_in_file_order(scale):
    pairs = np.array([3, 1, 2, 1, 3, 5, 3]) * scale
    assert repeated_pairs(pairs).tolist() == [0, 1, 3, 4, 6]
    assert repeated_pairs(pairs[:3]).tolist() == []
    assert repeated_pairs(pairs[:0]).tolist() == []
