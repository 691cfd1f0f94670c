"""Encoded interactions -> the split of each, and the files of each split."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.dataset.encode import Encoded
from trainer.dataset.sequences import write_sequences
from trainer.dataset.split import (
    BY_TIME,
    NEGATIVE,
    NEGATIVES,
    PARTS,
    TEST,
    Rule,
    repeated_in_test,
    split_rows,
)
from trainer.errors import DataError
from trainer.storage.arrays import map_ragged
from trainer.storage.columns import BLOCK_ROWS, blocks, saved, stored, write_items_by_user
from trainer.storage.pairs import Repeats

FEWEST_UNKNOWN = 10
"""Fewest held-out ids of which it is no chance that training knows none: they are spelled otherwise."""


def parts_of_rows(encoded: Encoded, stays: np.ndarray, rule: Rule, settings: dict) -> np.ndarray:
    """Return the split of every row, (n,) int8, -1 where it was dropped."""
    held_out = np.zeros(len(stays), bool)
    held_out[encoded.training_rows :] = True
    whole = bool(stays.all())

    def read(column: str) -> np.ndarray:
        values = encoded.columns[column].read()
        return values if whole else values[stays]

    # Read only the columns that the rule uses; of the others only the length matters.
    by_time = rule in (*BY_TIME, "none") and encoded.has_order
    by_user = rule in ("leave_last_out", "per_user", "none")
    found = split_rows(
        rule,
        read("user_id") if by_user else np.zeros(np.count_nonzero(stays), np.int32),
        read("timestamp") if by_time else None,
        held_out if whole else held_out[stays],
        settings["test_size"],
        settings["validation_size"],
        settings["split_seed"],
        settings.get("validation_seed"),
    )
    if whole:
        return found
    parts = np.full(len(stays), -1, np.int8)
    parts[stays] = found
    return parts


def count_repeats(
    encoded: Encoded, parts: np.ndarray, rule: Rule, repeats: Repeats, keep: bool
) -> dict[str, int]:
    """Count what users repeat in the time of the test split; with `keep`, put it into that split.

    Args:
        encoded: All interactions.
        parts: (n,) int8, the split of every row, which is changed with `keep`.
        rule: How the test split is chosen; only one of `BY_TIME` has a time.
        repeats: Pairs that stand several times.
        keep: Whether repeats count.

    Returns:
        Where the rule goes by time, `repeats_kept` or `repeats_dropped`.
    """
    if rule not in BY_TIME:
        return {}
    found = np.zeros(0, np.int64)
    if len(repeats.first):
        users, timestamps = (encoded.columns[column].read() for column in ("user_id", "timestamp"))
        found = repeated_in_test(rule, parts, users, timestamps, repeats)
    if keep:
        parts[found] = TEST
    return {"repeats_kept" if keep else "repeats_dropped": len(found)}


def by_appearance(ids: pa.Array, column: str, used: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Number the ids that are used, in the order of their first appearance.

    Args:
        ids: Raw ids, numbered anew.
        column: `user_id` or `item_id`.
        used: (n,) bool, whether an id has an interaction in any split.

    Returns:
        Ids by their new rows, and the new row of each id, (n,) int32.
    """
    return ids.filter(pa.array(used)), (np.cumsum(used) - 1).astype(np.int32)


Numbering: TypeAlias = Callable[[pa.Array, str, np.ndarray], tuple[pa.Array, np.ndarray]]
"""What numbers ids: `by_appearance`, or what hosts that share users agree on."""


def write_parts(
    folder: Path,
    encoded: Encoded,
    parts: np.ndarray,
    number: Numbering = by_appearance,
    sequences: bool = True,
) -> tuple[pa.Array, pa.Array]:
    """Write the columns of each split and its items by user; return the remaining ids of users and items.

    Where interactions have an order, the items of each user are written in it too, unless `sequences` is
    false.

    Explicit negatives, if there are any, are written like a split; their users and items stand in others.
    """
    ids, rows_of = {}, {}
    for column in ("user_id", "item_id"):
        used = encoded.counts(column, (parts >= 0) & (parts < NEGATIVE)) > 0
        ids[column], rows_of[column] = number(encoded.ids[column], column, used)
    _write_columns(folder, encoded, parts, rows_of)
    pairs = {
        part: (stored(folder / f"{part}_user_id.npy"), stored(folder / f"{part}_item_id.npy"))
        for part in PARTS
    }
    groups = {part: [pairs[part]] for part in PARTS}
    if len(pairs["validation"][0]):
        groups["known"] = [pairs["train"], pairs["validation"]]
    for name, group in groups.items():
        sizes = len(ids["user_id"]) + 1, len(ids["item_id"])
        write_items_by_user(folder, f"by_user_{name}", group, *sizes)
    if encoded.has_order and sequences:
        write_sequences(folder, encoded, parts, rows_of)
    return ids["user_id"], ids["item_id"]


def _write_columns(folder: Path, encoded: Encoded, parts: np.ndarray, rows_of: dict[str, np.ndarray]) -> None:
    """Write the columns of each split, with ids renumbered by `rows_of`."""
    names = PARTS if not (parts == NEGATIVE).any() else (*PARTS, NEGATIVES)
    sizes = [int(np.count_nonzero(parts == number)) for number in range(len(names))]
    kept = dict(encoded.columns)
    if not encoded.has_timestamps:
        kept.pop("timestamp", None)  # places in the file, which have done their work
    with ExitStack() as stack:
        files = [
            [
                stack.enter_context(saved(folder / f"{part}_{name}.npy", column.dtype, size))
                for name, column in kept.items()
            ]
            for part, size in zip(names, sizes, strict=True)
        ]
        for rows, *columns in blocks(*kept.values()):
            named = dict(zip(kept, columns, strict=True))
            named |= {name: row_of[named[name]] for name, row_of in rows_of.items()}
            for number, of_part in enumerate(files):
                chosen = np.flatnonzero(parts[rows] == number)
                for file, values in zip(of_part, named.values(), strict=True):
                    values[chosen].tofile(file)


def count_known(
    folder: Path, name: str, rule: Rule, ids: dict[str, pa.Array], tables: dict[str, pa.Table | None]
) -> dict[str, int]:
    """Count the held-out ids that training knows, and the ids that have a row of attributes.

    Args:
        folder: Where `write_parts` has written.
        name: Name of the data set, for messages.
        rule: How the test split was chosen.
        ids: Raw ids of `user` and `item`.
        tables: Attributes of `user` and `item`, or None.

    Returns:
        For users, and for items alike, `held_out_users`, `known_users` and, where there are attributes,
        `users_with_attributes`.

    Raises:
        DataError: No id has a row of attributes, or a held-out file has no id that training or attributes
            know: then ids are written in different ways.
    """
    report: dict[str, int] = {}
    (known_users, known_items), (test_users, test_items) = (
        _ids_of_split(folder, split, len(ids["item"])) for split in ("train", "test")
    )
    for side, known, held_out in (("user", known_users, test_users), ("item", known_items, test_items)):
        table, found = tables[side], known
        if table is not None:
            keys = table[f"{side}_id"]
            described = _stand_in(ids[side], keys)
            report[f"{side}s_with_attributes"] = int(np.count_nonzero(described))
            if not described.any():
                raise DataError(
                    f"{name}: none of the {len(ids[side]):,} {side}s has a row of attributes, whose ids are "
                    f"such as {_examples(keys)}, in place of {_examples(ids[side])}. Write ids alike in both "
                    f"files, or leave out --data.{side}s"
                )
            found = known | described
        many = np.count_nonzero(held_out) >= FEWEST_UNKNOWN
        if rule == "given" and many and not (held_out & found).any():
            there, here = (_examples(ids[side].filter(pa.array(mask))) for mask in (held_out, known))
            raise DataError(
                f"{name}: none of the {np.count_nonzero(held_out):,} {side}s of --data.held_out is trained "
                f"on: ids are such as {there} there, and {here} in --data.interactions. Write them alike"
            )
        report |= {f"held_out_{side}s": int(np.count_nonzero(held_out))}
        report |= {f"known_{side}s": int(np.count_nonzero(held_out & known))}
    return report


def _ids_of_split(folder: Path, split: str, item_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which users and which items have interactions in a split, (users,) and (items,) bool."""
    by_user, items = map_ragged(folder, f"by_user_{split}"), np.zeros(item_count, bool)
    for start in range(0, len(by_user.values), BLOCK_ROWS):
        items[by_user.values[start : start + BLOCK_ROWS]] = True
    return by_user.lengths()[:-1] > 0, items


def _stand_in(ids: pa.Array, keys: pa.ChunkedArray) -> np.ndarray:
    """Return whether each id is among the keys, (n,) bool; those of two types are compared as text."""
    if keys.type != ids.type:
        keys, ids = keys.cast(pa.string()), ids.cast(pa.string())
    return pc.is_in(ids, value_set=keys.combine_chunks()).to_numpy(zero_copy_only=False)


def _examples(ids: pa.Array | pa.ChunkedArray) -> str:
    return ", ".join(map(repr, ids[:2].to_pylist()))
