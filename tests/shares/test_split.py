"""Draws and cuts that depend on no other host's rows."""

import numpy as np
import pytest

from trainer.dataset.split import TEST, check_counts
from trainer.distributed.world import World
from trainer.errors import DataError
from trainer.shares.core import common_core
from trainer.shares.hosts import Hosts
from trainer.shares.split import latest_cut, pair_draws
from trainer.storage.pairs import core


def hashes(count, seed):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def one_host():
    return Hosts(World(0, 1, 0, 1, None))  # type: ignore[arg-type]


def test_draws_of_a_pair_do_not_depend_on_the_others():
    users, items = hashes(100, 1), hashes(100, 2)
    drawn = pair_draws(users, items, 42, 2)
    assert np.array_equal(pair_draws(users[30:40], items[30:40], 42, 2), drawn[30:40])
    assert (pair_draws(items, users, 42, 2) != drawn).all()


def test_draws_are_uniform_and_those_of_another_split_or_seed_are_others():
    users, items = np.repeat(hashes(100, 1), 100), np.tile(hashes(100, 2), 100)
    drawn = {key: pair_draws(users, items, *key) / 2.0**64 for key in ((42, 1), (42, 2), (43, 1))}
    for values in drawn.values():
        # 10,000 draws: the mean of a uniform number has the standard deviation sqrt(1/12) / 100.
        assert abs(values.mean() - 0.5) < 4 * np.sqrt(1 / 12) / 100
        assert abs((values < 0.2).mean() - 0.2) < 4 * np.sqrt(0.16) / 100
    one, *others = drawn.values()
    for other in others:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 100


def test_a_cut_in_time_is_the_largest_second_that_leaves_enough():
    times = np.array([5, 1, 9, 9, 7, 3, 9, 2, 8, 4])
    # From 9 on there are 3 rows, from 8 on 4, from 7 on 5.
    assert latest_cut(times, 0.3, one_host()) == 9
    assert latest_cut(times, 0.31, one_host()) == 8
    assert latest_cut(times, 0.5, one_host()) == 7
    assert latest_cut(np.array([-4, -4]), 0.5, one_host()) == -4


def test_one_host_takes_the_core_that_a_data_set_alone_has():
    generator = np.random.default_rng(5)
    users, items = (np.minimum(generator.geometric(0.06, 300), 39).astype(np.int32) for _ in range(2))
    for k in (2, 7, 8, 9, 30):
        assert np.array_equal(common_core(users, items, k, 40, one_host()), core(users, items, k)), k
    assert 0 < core(users, items, 7).sum() < 300


def test_a_test_split_that_is_empty_by_chance_is_refused_with_what_helps():
    with pytest.raises(DataError, match=r"no test interactions of 3\. Use a larger --data.test_size, "):
        check_counts("random", "random", np.array([3, 0, 0]), TEST)
