"""Impressions, items that were shown to a user and not taken, as explicit negatives of the training."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.dataset.encode import rounds
from trainer.dataset.split import BY_TIME, NEGATIVES, PARTS, Rule, validation_rule
from trainer.errors import DataError
from trainer.formatting import format_count
from trainer.sources.schema import SourceTables
from trainer.storage.columns import blocks, stored

SHOWN = "shown"
"""Name of impressions that are explicit negatives, which are stored like a split."""
OUTCOMES = ("skipped", "unknown", "weightless", "late", "taken", "judged", "repeated")
"""Why rows of impressions are left out, in the order in which they are; see `write_impressions`."""


@dataclass
class _Filter:
    """Finds the impressions that may be negatives, and counts the others.

    Attributes:
        ids: Raw ids of the data set, by column.
        trained: Whether each of its users and items has training interactions; the last one, which stands for
            unknown ones, has none. By column.
        held_out_from: (users,) second from which on a user's impressions are as late as what is held out;
            None: the split does not go by time.
        counts: Rows by outcome, and `read` ones.
        met: Rows whose id is one of `ids`, by column.
        examples: Ids of impressions, by column.
        timed: Whether impressions have times.
    """

    ids: dict[str, pa.Array]
    trained: dict[str, np.ndarray]
    held_out_from: np.ndarray | None
    counts: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    timed: bool = False

    def kept(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs, as (n,) int64 numbers of user x items + item, and (n,) float32 weights."""
        rows = {}
        for column, ids in self.ids.items():
            rows[column] = _rows(table[column], ids)
            self.met[column] += int(np.count_nonzero(rows[column] >= 0))
            self.examples.setdefault(column, _examples(table[column]))
        users, items = rows["user_id"], rows["item_id"]
        weights = np.ones(len(table), np.float32)
        if "weight" in table.column_names:
            weights = table["weight"].to_numpy()
        self.counts["read"] += len(table)
        stays = np.ones(len(table), bool)
        self._leave_out("unknown", stays, ~(self.trained["user_id"][users] & self.trained["item_id"][items]))
        self._leave_out("weightless", stays, weights == 0)
        if "timestamp" in table.column_names:
            self.timed = True
            if self.held_out_from is not None:
                self._leave_out("late", stays, table["timestamp"].to_numpy() >= self.held_out_from[users])
        pairs = users[stays] * np.int64(len(self.ids["item_id"])) + items[stays]
        return pairs, weights[stays]

    def _leave_out(self, outcome: str, stays: np.ndarray, wrong: np.ndarray) -> None:
        self.counts[outcome] += int(np.count_nonzero(stays & wrong))
        stays &= ~wrong


def write_impressions(
    folder: Path, name: str, source: SourceTables, users: pa.Array, items: pa.Array, rule: Rule
) -> tuple[dict[str, int], list[str]]:
    """Write the impressions that are explicit negatives of the training, each pair once.

    Left out, in this order, are rows of users or items without training interactions; of weight 0; where the
    split goes by time, from the first held-out second on (of the same user under `leave_last_out`); of pairs
    that are positives, whatever their split, or explicit negatives by their value; and of a pair that was
    shown several times all rows but the last. Without times none is late.

    It takes some 80 bytes of memory a row of known users and items.

    Args:
        folder: Where `write_parts` has written.
        name: Name of the data set, for messages.
        source: Its impressions are consumed.
        users: Raw ids of users in row order.
        items: The same of items.
        rule: How the test split was chosen.

    Returns:
        The counts `impressions`, of those used, `impressions_read` and those of OUTCOMES; and sentences on
        what could not be told.

    Raises:
        DataError: There are none, or none is of a known user, or of a known item: ids are spelled otherwise.
    """
    assert source.impressions is not None
    ids, skipped = {"user_id": users, "item_id": items}, source.bad_rows.skipped
    trained = {column: _trained(folder, column, len(known)) for column, known in ids.items()}
    found = _Filter(ids, trained, _held_out_from(folder, rule, len(users)))
    of_option = f"{name}: --data.impressions"
    tables = rounds(SourceTables(source.impressions), of_option)
    kept = [(np.zeros(0, np.int64), np.zeros(0, np.float32)), *(found.kept(table) for _, table in tables)]
    counts = found.counts
    counts["skipped"] = source.bad_rows.skipped - skipped
    _refuse_strangers(of_option, found)
    pairs, weights, repeats = _last_of_each(*map(np.concatenate, zip(*kept, strict=True)))
    for outcome, parts in (("taken", PARTS), ("judged", (NEGATIVES,))):
        others = _stand_in(folder, parts, pairs, len(items))
        counts[outcome] = int(repeats[others].sum())
        pairs, weights, repeats = (each[~others] for each in (pairs, weights, repeats))
    counts["repeated"] = int(repeats.sum()) - len(pairs)
    if len(pairs):
        _write(folder, pairs, weights, len(items))
    report = {f"impressions_{outcome}": counts[outcome] for outcome in ("read", *OUTCOMES)}
    untold = found.held_out_from is not None and not found.timed
    remarks = ["impressions have no times: all are used, also those of the held-out time"] if untold else []
    return {"impressions": len(pairs)} | report, remarks


def _trained(folder: Path, column: str, count: int) -> np.ndarray:
    found = np.zeros(count + 1, bool)
    for _, rows in blocks(stored(folder / f"train_{column}.npy")):
        found[rows] = True
    return found


def _held_out_from(folder: Path, rule: Rule, users: int) -> np.ndarray | None:
    """Return the first held-out second, of all users or of each; None where the split has no time."""
    has_times = (folder / "train_timestamp.npy").exists()
    rule = validation_rule(rule, has_times) if rule == "none" else rule
    if rule not in BY_TIME or not has_times:
        return None
    first = np.full(users + 1, np.iinfo(np.int64).max)  # the last one: unknown users
    for part in PARTS[1:]:
        columns = (stored(folder / f"{part}_{column}.npy") for column in ("user_id", "timestamp"))
        for _, rows, seconds in blocks(*columns):
            np.minimum.at(first, rows, seconds)
    if first.min() == first[-1]:
        return None
    return np.full_like(first, first.min()) if rule == "temporal" else first


def _rows(column: pa.ChunkedArray, ids: pa.Array) -> np.ndarray:
    """Return the row of each id, -1 for an unknown one; ids of two types are compared as text."""
    if column.type != ids.type:
        column, ids = column.cast(pa.string()), ids.cast(pa.string())
    return pc.fill_null(pc.index_in(column, value_set=ids), -1).to_numpy().astype(np.int64)


def _examples(ids: pa.Array | pa.ChunkedArray) -> str:
    return ", ".join(map(repr, ids[:2].to_pylist()))


def _refuse_strangers(of_option: str, found: _Filter) -> None:
    if not found.counts["read"]:
        raise DataError(f"{of_option}: no impressions found. Check the file, or leave the option out")
    for column, ids in found.ids.items():
        if not found.met[column]:
            side = column.removesuffix("_id")
            raise DataError(
                f"{of_option}: no {side} of {format_count(found.counts['read'], 'row')} has interactions: "
                f"ids are such as {found.examples[column]} there, and {_examples(ids)} in "
                "--data.interactions. Write them alike, or leave the option out"
            )


def _last_of_each(pairs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each pair once, ascending, the weight of its last row, and the number of its rows."""
    order = np.argsort(pairs, kind="stable")
    ordered, last = pairs[order], np.ones(len(pairs), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return ordered[last], weights[order[last]], np.diff(np.flatnonzero(last), prepend=-1)


def _stand_in(folder: Path, parts: tuple[str, ...], pairs: np.ndarray, item_count: int) -> np.ndarray:
    """Return which pairs, ascending, stand in one of the parts: (n,) bool."""
    found = np.zeros(len(pairs), bool)
    for part in parts:
        if not len(pairs) or not (folder / f"{part}_user_id.npy").exists():
            continue
        columns = (stored(folder / f"{part}_{column}.npy") for column in ("user_id", "item_id"))
        for _, users, items in blocks(*columns):
            others = users * np.int64(item_count) + items
            places = np.minimum(np.searchsorted(pairs, others), len(pairs) - 1)
            found[places[pairs[places] == others]] = True
    return found


def _write(folder: Path, pairs: np.ndarray, weights: np.ndarray, item_count: int) -> None:
    """Write the columns that training interactions have too, but for times; values are missing (NaN)."""
    users, items = np.divmod(pairs, item_count)
    columns = {"user_id": users.astype(np.int32), "item_id": items.astype(np.int32)}
    columns |= {"value": np.full(len(pairs), np.nan, np.float32), "weight": weights}
    for column, values in columns.items():
        if (folder / f"train_{column}.npy").exists():
            np.save(folder / f"{SHOWN}_{column}.npy", values)
