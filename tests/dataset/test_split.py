import math

import numpy as np
import pytest

from trainer.dataset.split import (
    TEST,
    TRAIN,
    VALIDATION,
    check_split,
    last_of_each_user,
    latest_rows,
    random_rows,
    repeated_in_test,
    share_of_each_user,
    split_rows,
)
from trainer.errors import DataError
from trainer.storage.pairs import Repeats


def split(rule, users, timestamps=None, held_out=None, test_size=0.5, validation_size=0.0, seed=0):
    users = np.asarray(users, np.int32)
    timestamps = None if timestamps is None else np.asarray(timestamps, np.int64)
    held_out = np.zeros(len(users), bool) if held_out is None else np.asarray(held_out, bool)
    return split_rows(rule, users, timestamps, held_out, test_size, validation_size, seed)


def test_the_time_of_the_test_part_begins_for_all_at_once_or_for_each_user():
    # Rows 0 and 1 train; row 2, of user 0, and row 3, of user 1, are to be found. Rows 4, 5 and 6 repeat rows
    # 0, 1 and 2. Row 5 is of the second in which the whole test part begins, but before that of user 1.
    users, seconds = np.array([0, 1, 0, 1, 0, 1, 0]), np.array([1, 2, 5, 8, 7, 5, 9])
    parts = np.array([TRAIN, TRAIN, TEST, TEST, -1, -1, -1])
    repeats = Repeats(np.array([0, 1, 2]), np.array([4, 5, 6]))
    assert repeated_in_test("temporal", parts, users, seconds, repeats).tolist() == [4, 5]
    assert repeated_in_test("leave_last_out", parts, users, seconds, repeats).tolist() == [4]


@pytest.mark.parametrize(
    ("count", "share", "seed"), [(10, 0.2, 42), (11, 0.2, 0), (1001, 0.33, 7), (7, 0.01, 1)]
)
def test_random_rows_are_those_of_scikit_learn(count, share, seed):
    selection = pytest.importorskip("sklearn.model_selection")
    _, expected = selection.train_test_split(range(count), test_size=share, random_state=seed)
    assert np.flatnonzero(random_rows(count, share, seed)).tolist() == sorted(expected)


def test_random_validation_is_scikit_learns_split_of_the_training_rows():
    selection = pytest.importorskip("sklearn.model_selection")
    training, test = selection.train_test_split(range(100), test_size=0.2, random_state=42)
    _, validation = selection.train_test_split(sorted(training), test_size=0.1, random_state=42)
    parts = split("random", [0] * 100, test_size=0.2, validation_size=0.1, seed=42)
    assert np.flatnonzero(parts == TEST).tolist() == sorted(test)
    assert np.flatnonzero(parts == VALIDATION).tolist() == sorted(validation)


@pytest.mark.parametrize("rule", ["random", "per_user", "given"])
def test_a_seed_of_the_validation_part_draws_that_part_alone_anew(rule):
    users, held_out = np.arange(200, dtype=np.int32) // 20, np.arange(200) % 5 == 0
    own, again, other = (split_rows(rule, users, None, held_out, 0.2, 0.25, 7, seed) for seed in (None, 7, 8))
    assert again.tolist() == own.tolist()
    assert (other == TEST).tolist() == (own == TEST).tolist()
    assert (other == VALIDATION).sum() == (own == VALIDATION).sum() == 40
    assert (other != own).any()


def test_the_last_of_each_user_is_the_latest_then_the_last_in_file_order():
    # User 0: seconds 5, 9, 9 -> row 3. User 1: 8, 7 -> row 1. User 2 has one row, which stays in training.
    users, seconds = np.array([0, 1, 0, 0, 2, 1]), np.array([5, 8, 9, 9, 1, 7])
    assert np.flatnonzero(last_of_each_user(users, seconds)).tolist() == [1, 3]


def test_leave_last_out_validates_on_the_last_but_one():
    # User 0 in time order: rows 2, 0, 1 -> training, validation, test. User 1: row 4, and row 3 to train.
    parts = split("leave_last_out", [0, 0, 0, 1, 1], [2, 3, 1, 5, 6], validation_size=0.5)
    assert parts.tolist() == [VALIDATION, TEST, TRAIN, TRAIN, TEST]


def test_a_temporal_split_takes_the_latest_rows_and_rounds_up():
    # ceil(0.4 * 6) = 3 rows: second 9 (row 0), and of the rows of second 5 (1, 3, 4) the last two.
    assert np.flatnonzero(latest_rows(np.array([9, 5, 1, 5, 5, 2]), 0.4)).tolist() == [0, 3, 4]


def test_temporal_validation_lies_between_training_and_test():
    # Test ceil(0.25 * 8) = 2: seconds 7, 8. Of the other 6, validation ceil(0.3 * 6) = 2: seconds 5, 6.
    seconds = [8, 1, 7, 2, 6, 3, 5, 4]
    parts = split("temporal", [0] * 8, seconds, test_size=0.25, validation_size=0.3)
    assert parts.tolist() == [TEST, TRAIN, TEST, TRAIN, VALIDATION, TRAIN, VALIDATION, TRAIN]


def test_each_user_gives_his_share_to_the_nearest_whole_number():
    # share 0.25: 10 rows -> 2.5 -> 3; 4 rows -> 1; 2 rows -> 0.5 -> 1; 1 row -> 0.25 -> 0.
    users = np.repeat([0, 1, 2, 3], [10, 4, 2, 1])
    users = users[np.random.default_rng(0).permutation(17)]
    chosen = share_of_each_user(users, 0.25, seed=3)
    assert np.bincount(users[chosen], minlength=4).tolist() == [3, 1, 1, 0]


def test_one_row_of_each_user_stays_in_training():
    # share 0.9: 3 rows -> 2.7 -> 3, but one stays; 1 row -> 0.9 -> 1, but it stays.
    users = np.array([0, 0, 0, 1])
    chosen = share_of_each_user(users, 0.9, seed=0)
    assert np.bincount(users[chosen], minlength=2).tolist() == [2, 0]


def test_the_share_of_each_user_is_drawn_evenly_and_by_the_seed():
    users = np.repeat(np.arange(4000), 4)
    chosen = share_of_each_user(users, 0.25, seed=5)
    assert np.array_equal(chosen, share_of_each_user(users, 0.25, seed=5))
    assert not np.array_equal(chosen, share_of_each_user(users, 0.25, seed=6))
    # Each of the 4 places is drawn 1000 times, with a standard deviation of sqrt(4000 * 1/4 * 3/4) = 27.
    assert np.abs(chosen.reshape(4000, 4).sum(axis=0) - 1000).max() < 5 * 27


def test_a_given_split_is_the_held_out_file_and_validates_at_random():
    parts = split("given", [0, 0, 1, 1, 0], held_out=[0, 0, 0, 0, 1], validation_size=0.25, seed=9)
    assert np.flatnonzero(parts == TEST).tolist() == [4]
    assert np.flatnonzero(parts == VALIDATION).tolist() == np.flatnonzero(random_rows(4, 0.25, 9)).tolist()


@pytest.mark.parametrize("rule", ["leave_last_out", "temporal"])
def test_a_rule_that_needs_timestamps_says_so(rule):
    with pytest.raises(DataError, match=r"needs timestamps.*--data.timestamp_column.*--data.split random"):
        split(rule, [0, 0, 1])


def test_only_a_rule_within_each_user_can_go_by_the_order_of_the_file():
    with pytest.raises(DataError, match=r"--data.order file"):
        split("leave_last_out", [0, 0, 1])
    with pytest.raises(DataError) as error:
        split("temporal", [0, 0, 1])
    assert "--data.order" not in str(error.value)


@pytest.mark.parametrize("size", [0, 1, -0.2, 1.5, math.nan])
def test_a_test_size_outside_0_and_1_is_refused(size):
    with pytest.raises(DataError, match=r"--data.test_size is"):
        check_split("random", size, 0, 42)
    check_split("given", size, 0, 42)  # where it is not used it does not matter


@pytest.mark.parametrize("size", [1, -0.2, math.nan])
def test_a_validation_size_outside_0_and_1_is_refused(size):
    with pytest.raises(DataError, match=r"--data.validation_size is"):
        check_split("leave_last_out", 0.2, size, 42)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_cannot_use_is_refused(seed):
    with pytest.raises(DataError, match=r"--data.split_seed is"):
        check_split("random", 0.2, 0, seed)


@pytest.mark.parametrize(
    ("rule", "users", "settings", "words"),
    [
        ("random", [0], {}, "train interactions of 1. Use a smaller --data.test_size, or more data"),
        ("temporal", [0], {}, "train interactions of 1. Use a smaller --data.test_size, or more data"),
        # 2 rows: 1 for the test, and ceil(0.5 * 1) = 1 for validation.
        (
            "random",
            [0, 0],
            {"validation_size": 0.5},
            "train interactions of 2. Use a smaller --data.validation_size, or more data",
        ),
        (
            "per_user",
            [0, 0, 1, 1],
            {"test_size": 0.2},  # of 2 rows 0.4, which is nearest to none
            "test interactions of 4. Every user has too few: use a larger --data.test_size, or --data.split "
            "random",
        ),
        (
            "leave_last_out",
            [0, 1],
            {},
            "test interactions of 2. Every user has one alone: use --data.split random, or more data",
        ),
        (
            "leave_last_out",
            [0, 0],
            {"validation_size": 0.5},
            "validation interactions of 2. Every user has too few: use --data.split random, or "
            "--data.validation_size 0",
        ),
    ],
)
def test_a_split_that_would_be_empty_is_refused_with_what_fills_it(rule, users, settings, words):
    with pytest.raises(DataError) as error:
        split(rule, users, list(range(len(users))), **settings)
    assert str(error.value) == f"--data.split {rule} leaves no {words}"


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (
            [False, False],
            "test interactions of 2. None of --data.held_out counts: name another, or leave it out and "
            "use --data.split random",
        ),
        (
            [True, True],
            "train interactions of 2. All that count are in --data.held_out: name others as "
            "--data.interactions, or leave --data.held_out out and use --data.split random",
        ),
    ],
)
def test_a_given_split_of_one_file_alone_is_refused_by_the_name_of_the_file(held_out, words):
    with pytest.raises(DataError) as error:
        split_rows("given", np.array([0, 1]), None, np.array(held_out), 0.2, 0.0, 42)
    assert str(error.value) == f"--data.split given leaves no {words}"
