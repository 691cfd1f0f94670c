"""Filters on encoded interactions: minimum value, duplicates and k-core."""

from collections.abc import Iterator

import numpy as np

from trainer.dataset.columns import blocks, grouped_by_user
from trainer.dataset.encode import Encoded
from trainer.dataset.split import core, last_of_each_pair, repeated_pairs
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
        largest = -np.inf
        for rows, values in blocks(encoded.columns["value"]):
            stays[rows] = values >= min_value
            largest = max(largest, float(values.max()))
        if largest < min_value:
            raise DataError(
                f"{name}: --data.min_value {min_value} drops all {len(stays):,} interactions, as the "
                f"largest value is {largest:g}. Choose a smaller one"
            )
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
