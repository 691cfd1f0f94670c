"""Record batches of raw ids -> integer columns on disk, and the rows of them that are worth keeping."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError
from trainer.sources.schema import SourceTables
from trainer.storage.columns import Stored, blocks

COLUMNS = {
    "user_id": np.int32,
    "item_id": np.int32,
    "value": np.float32,
    "timestamp": np.int64,
    "weight": np.float32,
}
ROUND_ROWS = 1 << 20  # encoded at a time; with ids that are hashed, every round hashes the vocabulary again
LARGEST_LISTED = 1 << 26  # ids below are looked up in a list of at most 256 MB, which is faster than hashing


@dataclass(frozen=True)
class Encoded:
    """All interactions of a source, the training file's first.

    Attributes:
        columns: By name of COLUMNS, n rows each; `user_id` and `item_id` are rows of `ids`.
        ids: Raw ids by column, in order of first appearance.
        training_rows: Rows of the training file; the others are held out.
        weightless: Rows left out because their weight is 0; None: there are no weights.
        file_order: Whether `timestamp` is the place in the file, which tells the order in time but no time.
    """

    columns: dict[str, Stored]
    ids: dict[str, pa.Array]
    training_rows: int
    weightless: int | None = None
    file_order: bool = False

    @property
    def has_order(self) -> bool:
        """Whether it is known which interaction of a user came before another."""
        return "timestamp" in self.columns

    @property
    def has_timestamps(self) -> bool:
        """Whether it is known in which second."""
        return self.has_order and not self.file_order

    def __len__(self) -> int:
        return len(self.columns["user_id"])

    def counts(self, column: str, stays: np.ndarray) -> np.ndarray:
        """Return rows that stay of each user or item."""
        found = np.zeros(len(self.ids[column]), np.int64)
        for rows, ids in blocks(self.columns[column]):
            kept = ids if stays[rows].all() else ids[stays[rows]]
            found += np.bincount(kept, minlength=len(found))
        return found


def encode(source: SourceTables, name: str, folder: Path, file_order: bool = False) -> Encoded:
    """Stream the interactions of a source into one file a column, but for those of weight 0.

    Args:
        source: Raw ids and the other columns.
        name: Name of the data set, for messages.
        folder: Folder of the files.
        file_order: Take places in the file for timestamps, so that rules by time go by them.

    Raises:
        DataError: There are none, a column has nulls or values that are not finite, or columns or types
            change from one batch or file to another.
    """
    known = {"user_id": _Ids(), "item_id": _Ids()}
    rows = training_rows = weightless = 0
    names: list[str] = []
    with ExitStack() as stack:
        files = {}
        for held_out, table in rounds(source, name):
            weighty = with_weight(table)
            weightless += len(table) - len(weighty)
            table = weighty
            if not len(table):
                continue
            if file_order:
                table = _with_places(table, rows)
            if not files:
                names = table.column_names
                files = {column: stack.enter_context(open(folder / column, "wb")) for column in names}
            for column in names:
                chunks = table[column]
                codes = known[column].number(chunks) if column in known else chunks.to_numpy()
                if column not in known and not np.isfinite(codes).all():
                    row = rows + int(np.flatnonzero(~np.isfinite(codes))[0]) + 1
                    raise DataError(f"{name}: {column} of interaction {row:,} is no finite number. Remove it")
                codes.astype(COLUMNS[column], copy=False).tofile(files[column])
            rows += len(table)
            training_rows += 0 if held_out else len(table)
    refuse_none(name, rows, weightless)
    columns = {column: Stored(folder / column, COLUMNS[column], rows) for column in names}
    ids = {column: found.all() for column, found in known.items()}
    return Encoded(columns, ids, training_rows, weightless if "weight" in names else None, file_order)


def with_weight(table: pa.Table) -> pa.Table:
    """Return the rows whose weight is not 0, where there are weights; NaN stays, to be refused."""
    return table.filter(pc.not_equal(table["weight"], 0)) if "weight" in table.column_names else table


def refuse_none(name: str, rows: int, weightless: int) -> None:
    """Refuse a source without interactions, or none of a weight above 0."""
    if weightless and not rows:
        raise DataError(f"{name}: the weights of all {weightless:,} interactions are 0. Name another column")
    if not rows:
        raise DataError(
            f"{name}: no interactions found, expected at least two. Check the file (--data.interactions)"
        )


def _with_places(table: pa.Table, first: int) -> pa.Table:
    """Return the table with places in the file, from `first` up, as timestamps."""
    if "timestamp" in table.column_names:
        table = table.drop_columns("timestamp")
    return table.append_column("timestamp", pa.array(np.arange(first, first + len(table))))


def id_notes(ids: dict[str, pa.Array]) -> list[str]:
    """Return what to say of ids that are texts, though some of them look like numbers.

    Args:
        ids: Raw ids by column, each once.
    """
    notes = []
    for column, found in ids.items():
        if found.type != pa.string():
            continue
        if spaced := pc.not_equal(pc.utf8_trim_whitespace(found), found).true_count:
            notes.append(
                f"{column}: {spaced:,} of {len(found):,} ids begin or end with spaces, which are kept"
            )
        numbers, padded = (pc.match_substring_regex(found, form) for form in ("^-?[0-9]+$", "^-?0[0-9]+$"))
        some, zeros = numbers.true_count, padded.true_count
        shown = found.filter(padded if zeros else pc.invert(numbers))
        if zeros:
            notes.append(
                f"{column}: {zeros:,} of {len(found):,} ids are padded with zeros, such as {shown[0]}; "
                "all are taken as texts, so that 7 and 007 are two ids"
            )
        elif some and some < len(found):
            notes.append(
                f"{column}: {some:,} of {len(found):,} ids are whole numbers and the others texts, such as "
                f"{shown[0]}; all are taken as texts"
            )
    return notes


class _Ids:
    """Raw ids that have been met, numbered in the order of their first appearance."""

    def __init__(self) -> None:
        self.parts: list[pa.Array] = []
        self.count = 0
        self.list: np.ndarray | None = np.zeros(1 << 12, np.int32)  # number + 1 of each id, 0: not met

    def number(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the number of each id of `column`, (n,) int32; those that are new are added."""
        if self.list is not None and self._can_be_listed(column):
            return np.concatenate([self._listed(chunk.to_numpy()) for chunk in column.chunks])
        self.list = None
        seen = self.all() if self.parts else pa.array([], column.type)
        encoded = pa.chunked_array([seen, *column.chunks]).dictionary_encode()  # one dictionary for all
        self.parts = [encoded.chunk(0).dictionary]
        self.count = len(self.parts[0])
        return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.slice(len(seen)).chunks])

    def all(self) -> pa.Array:
        """Return all ids in the order of their numbers."""
        self.parts = [pa.concat_arrays(self.parts)]
        return self.parts[0]

    def _can_be_listed(self, column: pa.ChunkedArray) -> bool:
        if column.type != pa.int64():
            return False
        least, largest = pc.min_max(column).values()
        return least.as_py() >= 0 and largest.as_py() < LARGEST_LISTED

    def _listed(self, ids: np.ndarray) -> np.ndarray:
        assert self.list is not None
        if len(ids) and ids.max() >= len(self.list):
            longer = np.zeros(1 << int(ids.max()).bit_length(), np.int32)
            longer[: len(self.list)] = self.list
            self.list = longer
        numbers = self.list[ids]
        new = numbers == 0
        if new.any():
            appeared = pc.unique(pa.array(ids[new]))
            self.list[appeared.to_numpy()] = np.arange(self.count + 1, self.count + len(appeared) + 1)
            self.parts.append(appeared)
            self.count += len(appeared)
            numbers[new] = self.list[ids[new]]
        numbers -= 1
        return numbers


def rounds(source: SourceTables, name: str) -> Iterator[tuple[bool, pa.Table]]:
    """Return whether held out, and a table of about ROUND_ROWS rows, with the known columns alone."""
    first: pa.Schema | None = None
    for held_out, batches in ((False, source.interactions), (True, source.held_out or ())):
        pending: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            batch = batch.select([column for column in COLUMNS if column in batch.schema.names])
            first = first or batch.schema
            check_batch(batch, first, name)
            pending.append(batch)
            rows += len(batch)
            if rows >= ROUND_ROWS:
                yield held_out, pa.Table.from_batches(pending)
                pending, rows = [], 0
        if rows:
            yield held_out, pa.Table.from_batches(pending)


def check_batch(batch: pa.RecordBatch, first: pa.Schema, name: str) -> None:
    """Refuse a batch with other columns or types than the first, or with nulls."""
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
