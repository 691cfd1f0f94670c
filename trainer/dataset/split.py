"""Rules for which split each interaction belongs to, as pure functions of columns."""

import math
from typing import Literal

import numpy as np

from trainer.errors import DataError
from trainer.storage.draws import share_of_each_user
from trainer.storage.pairs import Repeats

Rule = Literal["random", "leave_last_out", "temporal", "per_user", "given", "none"]
BY_TIME = ("leave_last_out", "temporal")
"""Rules whose test split is later than the training split."""
SEEDED = ("random", "per_user", "given")
"""Rules under which another seed cuts another validation split."""
TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")
NEGATIVE, NEGATIVES = 3, "negative"
"""Number and name of explicit negatives, which are stored like a split."""


WHERE_NONE_IS_LEFT: dict[Rule, dict[int, str]] = {
    "random": {
        TRAIN: "Use a smaller {size}, or more data",
        # By chance, where hosts share users.
        TEST: "Use a larger {size}, or more data",
        VALIDATION: "Use a larger {size}, or more data",
    },
    "temporal": {TRAIN: "Use a smaller {size}, or more data"},
    "per_user": {
        TEST: "Every user has too few: use a larger {size}, or --data.split random",
        VALIDATION: "Every user has too few: use a larger {size}, or --data.split random",
    },
    "leave_last_out": {
        TEST: "Every user has one alone: use --data.split random, or more data",
        VALIDATION: "Every user has too few: use --data.split random, or {size} 0",
    },
    "given": {
        TRAIN: "All that count are in --data.held_out: name others as --data.interactions, or leave "
        "--data.held_out out and use --data.split random",
        TEST: "None of --data.held_out counts: name another, or leave it out and use --data.split random",
    },
}
"""What to do where a rule leaves a split empty; `size` is the option that says how much is cut off."""


def repeated_in_test(
    rule: Rule, parts: np.ndarray, users: np.ndarray, timestamps: np.ndarray, repeats: Repeats
) -> np.ndarray:
    """Return the rows that lie in the time of the test split and repeat a pair from before it.

    That time begins with the first test row: of all users under `temporal`, of each user under
    `leave_last_out`. Of rows of one second, later ones in file order are later.

    Args:
        rule: A rule of `BY_TIME`.
        parts: (n,) split of each row, negative where it was dropped.
        users: (n,) int32.
        timestamps: (n,) int64 seconds.
        repeats: Pairs with several of these rows, of which at most the first has a split.

    Returns:
        (m,) int64 rows, at most one of each pair.
    """
    test = np.flatnonzero(parts == TEST)
    begins = np.full(int(users.max()) + 1, np.iinfo(np.int64).max)
    rows = begins.copy()
    if rule == "temporal":
        begins[:] = timestamps[test].min()
        rows[:] = test[timestamps[test] == begins[0]].min()
    else:
        begins[users[test]], rows[users[test]] = timestamps[test], test
    before = (parts[repeats.first] == TRAIN) | (parts[repeats.first] == VALIDATION)
    last = repeats.last[before]
    moments, begin, row = timestamps[last], begins[users[last]], rows[users[last]]
    return last[(moments > begin) | ((moments == begin) & (last > row))]


def random_rows(count: int, share: float, seed: int) -> np.ndarray:
    """Return a random `share` of rows, rounded up: the very rows of scikit-learn's `train_test_split`.

    Args:
        count: Number of rows.
        share: 0 to 1.
        seed: `random_state` there, 0 to 2**32 - 1.

    Returns:
        (count,) bool.
    """
    rows = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)  # half of what permutation() takes
    np.random.RandomState(seed).shuffle(rows)
    chosen = np.zeros(count, bool)
    chosen[rows[: math.ceil(share * count)]] = True
    return chosen


def last_of_each_user(users: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Return the latest row of every user with at least two; of rows of one second the last in file order.

    Args:
        users: (n,) int32, n > 0.
        timestamps: (n,) int64 seconds.

    Returns:
        (n,) bool.
    """
    counts = np.bincount(users)
    latest = np.full(len(counts), np.iinfo(np.int64).min)
    np.maximum.at(latest, users, timestamps)
    rows = np.flatnonzero(timestamps == latest[users])
    last = np.full(len(counts), -1)
    np.maximum.at(last, users[rows], rows)
    chosen = np.zeros(len(users), bool)
    chosen[last[counts > 1]] = True
    return chosen


def latest_rows(timestamps: np.ndarray, share: float) -> np.ndarray:
    """Return the latest `share` of rows, rounded up; of rows of one second the last in file order.

    Args:
        timestamps: (n,) int64 seconds.
        share: 0 to 1.

    Returns:
        (n,) bool.
    """
    count = len(timestamps)
    chosen = np.zeros(count, bool)
    chosen[np.argsort(timestamps, kind="stable")[count - math.ceil(share * count) :]] = True
    return chosen


def check_split(rule: Rule, test_size: float, validation_size: float, seed: int) -> None:
    """Refuse sizes and seeds that cannot be used, before anything is read.

    Raises:
        DataError: One cannot be used; the message names the option.
    """
    if rule not in ("leave_last_out", "given", "none") and not 0 < test_size < 1:
        raise DataError(f"--data.test_size is {test_size}, expected a share between 0 and 1, e.g. 0.2")
    if not 0 <= validation_size < 1:
        raise DataError(
            f"--data.validation_size is {validation_size}, expected a share between 0 and 1, or 0 for none"
        )
    if not 0 <= seed < 2**32:
        raise DataError(f"--data.split_seed is {seed}, expected a whole number from 0 to {2**32 - 1}")


def validation_rule(rule: Rule, has_order: bool) -> Rule:
    """Return the rule by which a validation split is cut from the training split of another rule.

    Without a test split, that is each user's last interaction where it can be told, since a model that is
    trained on everything is asked for the next one.
    """
    if rule == "none":
        return "leave_last_out" if has_order else "random"
    return "random" if rule == "given" else rule


def split_rows(
    rule: Rule,
    users: np.ndarray,
    timestamps: np.ndarray | None,
    held_out: np.ndarray,
    test_size: float,
    validation_size: float,
    seed: int,
    validation_seed: int | None = None,
) -> np.ndarray:
    """Return the split of each row: TRAIN, VALIDATION or TEST.

    The validation split is cut from the training split by `validation_rule`. A `validation_size` of 0 cuts
    none; with `leave_last_out` any other value cuts each user's last interaction.

    Args:
        rule: How the test split is chosen.
        users: (n,) int32, n > 0.
        timestamps: (n,) int64 seconds, or None.
        held_out: (n,) bool, the test split of the rule `given`.
        test_size: Share of rows, 0 to 1.
        validation_size: Share of the remaining rows, 0 to 1.
        seed: Seed of the rules `random` and `per_user`.
        validation_seed: The same for the validation split alone, by default `seed`.

    Returns:
        (n,) int8.

    Raises:
        DataError: The rule needs timestamps and there are none, or a split would be empty.
    """
    check_split(rule, test_size, validation_size, seed)
    check_order(rule, timestamps is not None)
    parts = np.full(len(users), TRAIN, np.int8)
    if rule != "none":
        parts[held_out if rule == "given" else _choose(rule, users, timestamps, test_size, seed)] = TEST
        check_counts(rule, rule, np.bincount(parts, minlength=len(PARTS)), TEST)
    if validation_size:
        training = parts == TRAIN
        rule_again = validation_rule(rule, timestamps is not None)
        rest = None if timestamps is None or rule_again not in BY_TIME else timestamps[training]
        seed = seed if validation_seed is None else validation_seed
        chosen = _choose(rule_again, users[training], rest, validation_size, seed)
        parts[training] = np.where(chosen, np.int8(VALIDATION), np.int8(TRAIN))
        check_counts(rule, rule_again, np.bincount(parts, minlength=len(PARTS)), VALIDATION)
    return parts


def _choose(
    rule: Rule, users: np.ndarray, timestamps: np.ndarray | None, share: float, seed: int
) -> np.ndarray:
    if rule == "random":
        return random_rows(len(users), share, seed)
    if rule == "per_user":
        return share_of_each_user(users, share, seed)
    assert timestamps is not None
    return latest_rows(timestamps, share) if rule == "temporal" else last_of_each_user(users, timestamps)


def check_order(rule: Rule, has_order: bool) -> None:
    """Refuse a rule that goes by time where nothing tells it."""
    if rule in BY_TIME and not has_order:
        in_file = ", say that each user's rows stand in order of time (--data.order file)"
        raise DataError(
            f"--data.split {rule} needs timestamps, and these interactions have none. "
            f"Name their column (--data.timestamp_column){in_file if rule == 'leave_last_out' else ''} "
            "or split at random (--data.split random)"
        )


def check_counts(asked: Rule, rule: Rule, counts: np.ndarray, cut: int) -> None:
    """Refuse an empty split: the one that `rule` has cut off, or the training split.

    Args:
        asked: Rule of the test split.
        rule: Rule of this cut.
        counts: Rows of each split, in the order of PARTS.
        cut: Number of the split that was cut off.
    """
    for part in (TRAIN, cut):
        if not counts[part]:
            remedy = WHERE_NONE_IS_LEFT[rule][part].format(size=f"--data.{PARTS[cut]}_size")
            raise DataError(
                f"--data.split {asked} leaves no {PARTS[part]} interactions of {counts.sum():,}. {remedy}"
            )
