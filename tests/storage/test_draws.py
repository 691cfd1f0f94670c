"""Draws of rows, which can be made without those of earlier rows."""

import numpy as np
import pytest

from trainer.storage.draws import draws, share_by_draws


@pytest.mark.parametrize("first", [0, 1, 6, 7])
def test_draws_of_later_rows_are_made_without_those_of_earlier_ones(first: int) -> None:
    whole = np.random.default_rng(42).integers(0, 2**32, 20, dtype=np.uint32)
    assert np.array_equal(draws(first, 9, 42), whole[first : first + 9])


def test_a_share_of_each_user_is_the_rows_of_the_smallest_draws() -> None:
    users, drawn = np.array([4, 4, 4, 4, 9, 9, 7]), np.array([30, 10, 20, 10, 5, 4, 1], np.uint32)
    # Half of four rows is two, of two one, of one none, as a user keeps one. Of equal draws the first wins.
    assert np.flatnonzero(share_by_draws(users, drawn, 0.5)).tolist() == [1, 3, 5]
    assert np.flatnonzero(share_by_draws(users, drawn, 0.25)).tolist() == [1, 5]
