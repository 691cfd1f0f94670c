"""Shares of users: who has whom, and which rows of a table are whose."""

import numpy as np

from trainer.storage.user_shares import UserShares, map_user_shares, write_user_shares

LENGTHS = {
    "train": np.array([2, 0, 1, 3, 4, 0], np.int32),
    "validation": np.zeros(6, np.int32),
    "test": np.ones(6, np.int32),
}


def shares(cuts=(0, 2, 2, 5)):
    return UserShares(np.array(cuts), LENGTHS, np.array([6, 4]), {"train": "a"})


def test_each_rank_has_a_block_of_the_table_as_long_as_the_largest_share_and_one_row_more():
    three = shares()
    assert (three.block, three.table_rows) == (4, 12)
    # Users 0 and 1 are in block 0, nobody in block 1, 2 to 4 in block 2; unknown users have the last row.
    assert three.rows_in_table().tolist() == [0, 1, 8, 9, 10, 11]


def test_one_share_has_the_rows_of_a_table_of_all_users():
    one = shares((0, 5))
    assert one.rows_in_table().tolist() == [0, 1, 2, 3, 4, 5]
    assert one.table_rows == 6


def test_ranks_of_an_evaluation_take_whole_shares():
    three = shares()
    assert [three.users_of(rank, 3) for rank in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 5)]
    assert [three.users_of(rank, 2) for rank in range(2)] == [slice(0, 2), slice(2, 5)]
    assert three.users_of(0, 1) == slice(0, 5)
    of_six = [three.users_of(rank, 6) for rank in range(6)]
    assert sum(each.stop - each.start for each in of_six) == 5


def test_shares_come_back_from_disk(tmp_path):
    meta = write_user_shares(tmp_path, shares())
    found = map_user_shares(tmp_path, meta)
    assert found is not None
    assert found.cuts.tolist() == [0, 2, 2, 5]
    assert found.count("train") == 10
    assert found.digests == {"train": "a"}
    assert map_user_shares(tmp_path, {}) is None
