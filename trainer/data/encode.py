"""Record batches of raw ids -> integer columns on disk, and the rows of them that are worth keeping."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.data.features import Ragged
from trainer.data.source import SourceTables
from trainer.data.split import core, last_of_each_pair
from trainer.errors import DataError

COLUMNS = {"user_id": np.int32, "item_id": np.int32, "value": np.float32, "timestamp": np.int64}
ROUND_ROWS = 1 << 22  # encoded at a time; every round hashes the vocabulary again, so that rounds are large


@dataclass(frozen=True)
class Encoded:
    """All interactions of a source, the training file's first.

    Attributes:
        columns: by name of COLUMNS, (n,) memory-mapped; `user_id` and `item_id` are rows of `ids`.
        ids: raw ids by column, in order of first appearance.
        training_rows: rows of the training file; the others are held out.
    """

    columns: dict[str, np.ndarray]
    ids: dict[str, pa.Array]
    training_rows: int


def encode(source: SourceTables, name: str, folder: Path) -> Encoded:
    """Stream the interactions of a source into one file a column.

    Raises: DataError if there are none, a column has nulls or values that are not finite, or the columns or
    their types change from one batch or file to another.
    """
    ids: dict[str, pa.Array] = {}
    rows = training_rows = 0
    names: list[str] = []
    with ExitStack() as stack:
        files = {}
        for held_out, table in _rounds(source, name):
            if not files:
                names = table.column_names
                files = {column: stack.enter_context(open(folder / column, "wb")) for column in names}
            for column in names:
                chunks = table[column]
                if column in ("user_id", "item_id"):
                    seen = ids.get(column, pa.array([], chunks.type))
                    ids[column], codes = _encode_ids(seen, chunks)
                else:
                    codes = chunks.to_numpy()
                    if not np.isfinite(codes).all():
                        row = rows + int(np.flatnonzero(~np.isfinite(codes))[0]) + 1
                        raise DataError(
                            f"{name}: {column} of interaction {row:,} is no finite number. Remove it"
                        )
                codes.astype(COLUMNS[column], copy=False).tofile(files[column])
            rows += len(table)
            training_rows += 0 if held_out else len(table)
    if not rows:
        raise DataError(
            f"{name}: no interactions found, expected at least two. Check the file (--data.interactions)"
        )
    columns = {column: np.asarray(np.memmap(folder / column, COLUMNS[column], "r")) for column in names}
    return Encoded(columns, ids, training_rows)


def clean(
    encoded: Encoded, name: str, min_value: float | None, k_core: int
) -> tuple[np.ndarray, dict[str, int | float | str]]:
    """Which rows stay, and how many each rule dropped: `min_value`, then duplicates, then `k_core`.

    Returns: (n,) bool, and the counts `below_min_value`, `duplicates` and `outside_k_core`.
    Raises: DataError if nothing stays, or there is a `min_value` and no values.
    """
    columns = encoded.columns
    users, items, timestamps = columns["user_id"], columns["item_id"], columns.get("timestamp")
    held_out = np.arange(len(users)) >= encoded.training_rows
    stays = np.ones(len(users), bool)
    report: dict[str, int | float | str] = {"below_min_value": 0, "duplicates": 0, "outside_k_core": 0}

    def drop(rule: str, option: str, selected: np.ndarray) -> None:
        report[rule] = len(selected) - int(np.count_nonzero(selected))
        if report[rule] == len(selected):
            raise DataError(
                f"{name}: {option} drops all {len(selected):,} interactions. Choose a smaller value"
            )
        if report[rule]:
            stays[stays] = selected

    def kept(column: np.ndarray) -> np.ndarray:
        return column if stays.all() else column[stays]

    if min_value is not None:
        if "value" not in columns:
            raise DataError(
                f"{name}: --data.min_value is {min_value}, but these interactions have no values. "
                "Leave it out, or name their column: --data.value_column"
            )
        drop("below_min_value", f"--data.min_value {min_value}", columns["value"] >= min_value)
    pairs = _pairs(kept(users), kept(items), len(encoded.ids["item_id"]))
    moments = None if timestamps is None else kept(timestamps)
    drop("duplicates", "the rule against duplicates", last_of_each_pair(pairs, moments, kept(held_out)))
    del pairs, moments
    drop("outside_k_core", f"--data.k_core {k_core}", core(kept(users), kept(items), k_core))
    return stays, report


def items_by_user(users: np.ndarray, items: np.ndarray, user_rows: int, item_count: int) -> Ragged:
    """Items of each user, ascending.

    Args:
        users, items: (n,) int32, in any order.
        user_rows: rows of the result; users without items have empty ones.
        item_count: more than any of `items`.
    """
    pairs = _pairs(users, items, item_count)
    pairs.sort()
    offsets = np.searchsorted(pairs, np.arange(user_rows + 1, dtype=np.int64) * item_count)
    pairs %= item_count
    return Ragged(offsets, pairs.astype(np.int32))


def _pairs(users: np.ndarray, items: np.ndarray, item_count: int) -> np.ndarray:
    """One int64 a (user, item) pair, ordered by user, then item; in place, since n may be large."""
    pairs = users.astype(np.int64)
    pairs *= item_count
    pairs += items
    return pairs


def _encode_ids(seen: pa.Array, column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """`seen` extended by the ids it lacks, and the position in it of each id of `column`, (n,) int32."""
    encoded = pa.chunked_array([seen, *column.chunks]).dictionary_encode()  # one dictionary for all chunks
    codes = [chunk.indices.to_numpy() for chunk in encoded.slice(len(seen)).chunks]
    return encoded.chunk(0).dictionary, np.concatenate(codes)


def _rounds(source: SourceTables, name: str) -> Iterator[tuple[bool, pa.Table]]:
    """Whether held out, and a table of about ROUND_ROWS rows, with the known columns alone."""
    first: pa.Schema | None = None
    for held_out, batches in ((False, source.interactions), (True, source.held_out or ())):
        pending: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            batch = batch.select([column for column in COLUMNS if column in batch.schema.names])
            first = first or batch.schema
            _check_batch(batch, first, name)
            pending.append(batch)
            rows += len(batch)
            if rows >= ROUND_ROWS:
                yield held_out, pa.Table.from_batches(pending)
                pending, rows = [], 0
        if rows:
            yield held_out, pa.Table.from_batches(pending)


def _check_batch(batch: pa.RecordBatch, first: pa.Schema, name: str) -> None:
    if batch.schema.names != first.names:
        raise DataError(
            f"{name}: interactions have the columns {', '.join(batch.schema.names)}, expected "
            f"{', '.join(first.names)} as in the part before. Give all files the same columns"
        )
    for column, expected in zip(batch.schema.names, first.types, strict=True):
        found = batch.column(column)
        if found.type != expected:
            raise DataError(
                f"{name}: {column} is {found.type}, expected {expected} as in the part before. "
                "Write all of them as numbers or all as text"
            )
        if found.null_count:
            raise DataError(f"{name}: {column} is missing in {found.null_count:,} interactions. Remove them")
