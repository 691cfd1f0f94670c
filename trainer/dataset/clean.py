"""Filters on encoded interactions: minimum value, duplicates and k-core; explicit negatives."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trainer.dataset.encode import Encoded
from trainer.dataset.split import TRAIN, Rule, random_rows, validation_rule
from trainer.errors import DataError
from trainer.storage.columns import blocks, grouped_by_user
from trainer.storage.pairs import (
    Repeats,
    core,
    first_and_last_of_each_pair,
    last_of_each_pair,
    repeated_pairs,
)


def clean(
    encoded: Encoded,
    name: str,
    min_value: float | None,
    k_core: int,
    keep_first: bool = False,
    find_core: Callable[[np.ndarray, np.ndarray, int], np.ndarray] = core,
) -> tuple[np.ndarray, dict[str, int], Repeats]:
    """Return which rows stay, and how many each rule dropped: `min_value`, then duplicates, then `k_core`.

    Args:
        encoded: All interactions.
        name: Name of the data set, for messages.
        min_value: Smallest value that stays; None: all do.
        k_core: See `split.core`.
        keep_first: Of a pair that stands several times, keep the first row in time and not the last.
        find_core: Does what `core` does; hosts that share users count items together.

    Returns:
        (n,) bool; the counts `below_min_value`, `duplicates` and `outside_k_core`; and with `keep_first` the
        pairs that stand several times, whose first rows stay.

    Raises:
        DataError: Nothing stays, or there is a `min_value` and no values.
    """
    stays = np.ones(len(encoded), bool)
    report: dict[str, int] = {}
    remaining = len(stays)

    def dropped(rule: str, option: str) -> None:
        nonlocal remaining
        before, remaining = remaining, int(np.count_nonzero(stays))
        report[rule] = before - remaining
        if not remaining:
            raise none_stays(name, option, before)

    if min_value is not None:
        if "value" not in encoded.columns:
            raise no_values(name, min_value)
        largest = -np.inf
        for rows, values in blocks(encoded.columns["value"]):
            stays[rows] = values >= min_value
            largest = max(largest, float(values.max()))
        if largest < min_value:
            raise all_below(name, min_value, len(stays), largest)
    dropped("below_min_value", f"--data.min_value {min_value}")
    repeats = _drop_duplicates(encoded, stays, keep_first)
    dropped("duplicates", "the rule against duplicates")
    if k_core > 1:
        users, items = (encoded.columns[column].read()[stays] for column in ("user_id", "item_id"))
        stays[stays] = find_core(users, items, k_core)
    dropped("outside_k_core", f"--data.k_core {k_core}")
    within = stays[repeats.first]
    return stays, report, Repeats(repeats.first[within], repeats.last[within])


def none_stays(name: str, option: str, before: int) -> DataError:
    """Return the error for a rule that drops every one of `before` interactions."""
    return DataError(f"{name}: {option} drops all {before:,} interactions. Choose a smaller value")


def no_values(name: str, min_value: float) -> DataError:
    """Return the error for a smallest value where there are no values."""
    return DataError(
        f"{name}: --data.min_value is {min_value}, but these interactions have no values. "
        "Leave it out, or name their column: --data.value_column"
    )


def all_below(name: str, min_value: float, count: int, largest: float) -> DataError:
    """Return the error for a smallest value above all of `count` values."""
    return DataError(
        f"{name}: --data.min_value {min_value} drops all {count:,} interactions, as the "
        f"largest value is {largest:g}. Choose a smaller one"
    )


def _drop_duplicates(encoded: Encoded, stays: np.ndarray, keep_first: bool) -> Repeats:
    """Clear `stays`, (n,) bool, for all but one row of each (user, item) pair; see `clean`."""
    columns, item_count = encoded.columns, len(encoded.ids["item_id"])
    timestamps = columns.get("timestamp")

    def kept() -> Iterator[tuple[np.ndarray, ...]]:
        for rows, users, items in blocks(columns["user_id"], columns["item_id"]):
            chosen = np.flatnonzero(stays[rows])
            if len(chosen) < len(users):
                users, items = users[chosen], items[chosen]
            yield users, items, rows.start + chosen

    counts, folder = encoded.counts("user_id", stays), columns["user_id"].path.parent
    firsts, lasts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first, (users, items, rows) in grouped_by_user(kept(), counts, folder):
        pairs = users.astype(np.int64)  # in place, since there may be many
        pairs -= first
        pairs *= item_count
        pairs += items
        repeated = repeated_pairs(pairs)
        if not len(repeated):
            continue
        rows, pairs = rows[repeated], pairs[repeated]
        moments = None if timestamps is None else timestamps.take(rows)
        if keep_first and moments is not None:
            ends = first_and_last_of_each_pair(pairs, moments)
            firsts.append(rows[ends.first])
            lasts.append(rows[ends.last])
            stays[rows] = False
            stays[firsts[-1]] = True
        else:
            stays[rows] = last_of_each_pair(pairs, moments, rows >= encoded.training_rows)
    return Repeats(np.concatenate(firsts), np.concatenate(lasts))


def explicit_negatives(
    encoded: Encoded, stays: np.ndarray, parts: np.ndarray, settings: dict[str, Any], rule: Rule
) -> np.ndarray:
    """Return the rows, ascending, that are explicit negatives of the training: values below `min_value`.

    Only rows of users and items with training interactions count. What would be held out if it were a
    positive is left out: rows later than the first held-out one (`temporal`; of the same user
    `leave_last_out`), rows of the held-out file (`given`), and a random share as large as that of the splits
    (`random`, `per_user`). Of the others, of a pair that stands several times the latest row counts, and none
    if it is also a positive of the training; what later became a positive is not known.

    Args:
        encoded: All interactions.
        stays: (n,) bool, the positives.
        parts: (n,) int8, their split; -1 elsewhere.
        settings: Of the preparation.
        rule: Rule of the split.
    """
    columns, item_count = encoded.columns, len(encoded.ids["item_id"])
    negative = np.zeros(len(stays), bool)
    for at, values in blocks(columns["value"]):
        negative[at] = values < settings["min_value"]
    all_users, all_items = columns["user_id"].read(), columns["item_id"].read()
    trains, trained = parts == TRAIN, {}
    for name, ids in (("user_id", all_users), ("item_id", all_items)):
        trained[name] = np.bincount(ids[trains], minlength=len(encoded.ids[name])) > 0
    rows = np.flatnonzero(negative & trained["user_id"][all_users] & trained["item_id"][all_items])
    rows = rows[_before_held_out(encoded, rows, all_users, parts, settings, rule)]
    pairs = all_users[rows] * np.int64(item_count) + all_items[rows]
    positives = all_users[trains] * np.int64(item_count) + all_items[trains]
    chosen = ~np.isin(pairs, positives)
    rows, pairs = rows[chosen], pairs[chosen]
    moments = columns["timestamp"].take(rows) if "timestamp" in columns else None
    return rows[last_of_each_pair(pairs, moments, rows >= encoded.training_rows)]


def _before_held_out(
    encoded: Encoded,
    rows: np.ndarray,
    users: np.ndarray,
    parts: np.ndarray,
    settings: dict[str, Any],
    rule: Rule,
) -> np.ndarray:
    """Return which of the rows of negatives belong to training, (len(rows),) bool."""
    if rule == "given":
        return rows < encoded.training_rows
    test_size = 0 if rule == "none" else settings["test_size"]
    if rule == "none":
        rule = validation_rule(rule, "timestamp" in encoded.columns)
    if rule in ("random", "per_user"):
        held_out = 1 - (1 - test_size) * (1 - settings["validation_size"])
        return ~random_rows(len(rows), held_out, settings["split_seed"])
    moments = encoded.columns["timestamp"]
    later = np.flatnonzero(parts > TRAIN)
    first = np.full(len(encoded.ids["user_id"]), np.iinfo(np.int64).max)
    if rule == "temporal":
        first[:] = moments.take(later).min()
    else:
        np.minimum.at(first, users[later], moments.take(later))
    return moments.take(rows) < first[users[rows]]
