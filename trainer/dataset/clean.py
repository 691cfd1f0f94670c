"""Filters on encoded interactions: minimum value, duplicates and k-core; explicit negatives."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.dataset.columns import blocks, grouped_by_user
from trainer.dataset.encode import Encoded
from trainer.dataset.split import TRAIN, core, last_of_each_pair, random_rows, repeated_pairs
from trainer.errors import DataError


def clean(
    encoded: Encoded, name: str, min_value: float | None, k_core: int
) -> tuple[np.ndarray, dict[str, int | float | str]]:
    """Return which rows stay, and how many each rule dropped: `min_value`, then duplicates, then `k_core`.

    Returns:
        (n,) bool, and the counts `below_min_value`, `duplicates` and `outside_k_core`.

    Raises:
        DataError: Nothing stays, or there is a `min_value` and no values.
    """
    stays = np.ones(len(encoded), bool)
    report: dict[str, int | float | str] = {}
    remaining = len(stays)

    def dropped(rule: str, option: str) -> None:
        nonlocal remaining
        before, remaining = remaining, int(np.count_nonzero(stays))
        report[rule] = before - remaining
        if not remaining:
            raise DataError(f"{name}: {option} drops all {before:,} interactions. Choose a smaller value")

    if min_value is not None:
        if "value" not in encoded.columns:
            raise DataError(
                f"{name}: --data.min_value is {min_value}, but these interactions have no values. "
                "Leave it out, or name their column: --data.value_column"
            )
        for rows, values in blocks(encoded.columns["value"]):
            stays[rows] = values >= min_value
    dropped("below_min_value", f"--data.min_value {min_value}")
    _drop_duplicates(encoded, stays)
    dropped("duplicates", "the rule against duplicates")
    if k_core > 1:
        users, items = (encoded.columns[column].read()[stays] for column in ("user_id", "item_id"))
        stays[stays] = core(users, items, k_core)
    dropped("outside_k_core", f"--data.k_core {k_core}")
    return stays, report


def _drop_duplicates(encoded: Encoded, stays: np.ndarray) -> None:
    """Clear `stays`, (n,) bool, for all but one row of each (user, item) pair."""
    columns, item_count = encoded.columns, len(encoded.ids["item_id"])
    timestamps = columns.get("timestamp")

    def kept() -> Iterator[tuple[np.ndarray, ...]]:
        for rows, users, items in blocks(columns["user_id"], columns["item_id"]):
            chosen = np.flatnonzero(stays[rows])
            if len(chosen) < len(users):
                users, items = users[chosen], items[chosen]
            yield users, items, rows.start + chosen

    counts, folder = encoded.counts("user_id", stays), columns["user_id"].path.parent
    for first, (users, items, rows) in grouped_by_user(kept(), counts, folder):
        pairs = users.astype(np.int64)  # in place, since there may be many
        pairs -= first
        pairs *= item_count
        pairs += items
        repeated = repeated_pairs(pairs)
        if len(repeated):
            rows = rows[repeated]
            moments = None if timestamps is None else timestamps.take(rows)
            stays[rows] = last_of_each_pair(pairs[repeated], moments, rows >= encoded.training_rows)


def explicit_negatives(
    encoded: Encoded, stays: np.ndarray, parts: np.ndarray, settings: dict[str, Any], rule: str
) -> np.ndarray:
    """Return the rows, ascending, that are explicit negatives of the training: values below `min_value`.

    Of a pair that stands several times the latest row counts, and none if it is also a positive. Only rows of
    users and items with training interactions count. What would be held out if it were a positive is left
    out: rows later than the first held-out one (`temporal`; of the same user `leave_last_out`), rows of the
    held-out file (`given`), and a random share as large as that of the splits (`random`, `per_user`).

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
    pairs = all_users[rows] * np.int64(item_count) + all_items[rows]
    positives = all_users[stays] * np.int64(item_count) + all_items[stays]
    chosen = ~np.isin(pairs, positives)
    rows, pairs = rows[chosen], pairs[chosen]
    moments = columns["timestamp"].take(rows) if "timestamp" in columns else None
    last = last_of_each_pair(pairs, moments, rows >= encoded.training_rows)
    rows = rows[last]
    return rows[_before_held_out(encoded, rows, all_users, parts, settings, rule)]


def _before_held_out(
    encoded: Encoded,
    rows: np.ndarray,
    users: np.ndarray,
    parts: np.ndarray,
    settings: dict[str, Any],
    rule: str,
) -> np.ndarray:
    """Return which of the rows of negatives belong to training, (len(rows),) bool."""
    if rule == "given":
        return rows < encoded.training_rows
    if rule in ("random", "per_user"):
        held_out = 1 - (1 - settings["test_size"]) * (1 - settings["validation_size"])
        return ~random_rows(len(rows), held_out, settings["split_seed"])
    moments = encoded.columns["timestamp"]
    later = np.flatnonzero(parts > TRAIN)
    first = np.full(len(encoded.ids["user_id"]), np.iinfo(np.int64).max)
    if rule == "temporal":
        first[:] = moments.take(later).min()
    else:
        np.minimum.at(first, users[later], moments.take(later))
    return moments.take(rows) < first[users[rows]]
