"""Rows -> the flat arrays of the prepared form, each task its slice at its offset.

Tasks may be started again or twice: they write the same bytes at the same place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.dataset.encode import COLUMNS
from trainer.dataset.sequences import sequences_of
from trainer.dataset.split import PARTS, TRAIN, VALIDATION
from trainer.spark.partitions import stretches
from trainer.spark.reading import PLACE
from trainer.storage.columns import saved, stored

PART, GROUP = "part", "user_group"
ROW_NAMES = {"user_id": "user", "item_id": "item"}
"""Columns of rows in the vocabulary, by the columns of the prepared form that hold them."""


def make_file(path: Path, dtype: type[np.generic], rows: int) -> None:
    """Make the file of an array of `rows` values, all 0."""
    with saved(path, dtype, rows) as file:
        file.truncate(file.tell() + rows * np.dtype(dtype).itemsize)


def write_slice(path: Path, first: int, values: np.ndarray) -> None:
    """Write the values from `first` on of the array in a file."""
    if not len(values):
        return
    column = stored(path)
    with path.open("r+b") as file:
        file.seek(column.offset + first * np.dtype(column.dtype).itemsize)
        values.astype(column.dtype, copy=False).tofile(file)


@dataclass(frozen=True)
class ColumnWriter:
    """Writes the columns of each split, in file order.

    Attributes:
        folder: Of the prepared data; `make_columns` has been there.
        names: Columns of the prepared form.
        firsts: By chunk, the place of its first row in each split, (splits,) int64.
        parts: The split of each row in file order, int8, and the number of each chunk's first row; None:
            rows say it.
        users: Number of users.
        groups: Number of groups of consecutive users.
        chunk_bits: See `splits.CHUNK_BITS`.
    """

    folder: Path
    names: Sequence[str]
    firsts: Mapping[int, np.ndarray]
    parts: tuple[Path, Mapping[int, int]] | None
    users: int
    groups: int
    chunk_bits: int

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the rows of whole chunks, in file order; return what `ByUserWriter` needs of them."""
        columns = {name: table[ROW_NAMES.get(name, name)].to_numpy() for name in self.names}
        parts = np.empty(len(table), np.int8)
        for chunk, at in stretches(table[PLACE].to_numpy() >> self.chunk_bits):
            if self.parts is None:
                parts[at] = table[PART].to_numpy()[at]
            else:
                file, firsts = self.parts
                parts[at] = np.fromfile(file, np.int8, at.stop - at.start, offset=firsts[chunk])
            for part, name in enumerate(PARTS):
                chosen = at.start + np.flatnonzero(parts[at] == part)
                for column, values in columns.items():
                    path = self.folder / f"{name}_{column}.npy"
                    write_slice(path, int(self.firsts[chunk][part]), values[chosen])
        groups = table["user"].to_numpy().astype(np.int64) * self.groups // self.users
        names = [name for name in (PLACE, "user", "item", "timestamp") if name in table.column_names]
        found = table.select(names).append_column(PART, pa.array(parts))
        return found.append_column(GROUP, pa.array(groups.astype(np.int32)))


def make_columns(folder: Path, names: Sequence[str], sizes: Sequence[int]) -> None:
    """Make the files of the columns of all splits."""
    for part, size in zip(PARTS, sizes, strict=True):
        for name in names:
            make_file(folder / f"{part}_{name}.npy", COLUMNS[name], int(size))


@dataclass(frozen=True)
class ByUserWriter:
    """Writes the items of each user, in each split and in order of time.

    Attributes:
        folder: Of the prepared data; `make_by_user` has been there.
        users: Number of users.
        items: Number of items.
        groups: Number of groups of consecutive users.
        firsts: By group, the rows of all groups before it in each split, (splits,) int64.
        has_order: Whether sequences are written.
        has_times: Whether sequences have times.
        has_validation: Whether there is a validation split.
    """

    folder: Path
    users: int
    items: int
    groups: int
    firsts: Mapping[int, np.ndarray]
    has_order: bool
    has_times: bool
    has_validation: bool

    def sets(self) -> dict[str, list[int]]:
        """Return the splits of each set of items by user."""
        sets = {name: [part] for part, name in enumerate(PARTS)}
        return sets | ({"known": [TRAIN, VALIDATION]} if self.has_validation else {})

    def make_files(self, sizes: np.ndarray) -> None:
        """Make all files; `sizes` are the rows of each split."""
        for name, parts in self.sets().items():
            total = int(sizes[parts].sum())
            make_file(self.folder / f"by_user_{name}_offsets.npy", np.int64, self.users + 2)
            make_file(self.folder / f"by_user_{name}_values.npy", np.int32, total)
            write_slice(self.folder / f"by_user_{name}_offsets.npy", self.users + 1, np.array([total]))
            if self.has_order and name in ("train", "known"):
                make_file(self.folder / f"sequences_{name}_values.npy", np.int32, total)
                if self.has_times:
                    make_file(self.folder / f"sequences_{name}_times.npy", np.int64, total)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the rows of whole groups of users, each in file order; return their number."""
        table = table.take(np.argsort(table[GROUP].to_numpy(), kind="stable"))
        for group, at in stretches(table[GROUP].to_numpy()):
            self._write_group(group, table.slice(at.start, at.stop - at.start))
        return pa.table({"rows": pa.array([len(table)], pa.int64())})

    def _write_group(self, group: int, table: pa.Table) -> None:
        first, last = (-(-each * self.users // self.groups) for each in (group, group + 1))
        parts, items, users = (table[name].to_numpy() for name in (PART, "item", "user"))
        users = users - np.int32(first)
        times = table["timestamp"].to_numpy() if self.has_order else None
        for name, numbers in self.sets().items():
            rows = np.flatnonzero(np.isin(parts, numbers))
            before = int(self.firsts[group][numbers].sum())
            self._write_items(name, before, users[rows], items[rows], last - first, first)
            if times is not None and name in ("train", "known"):
                self._write_sequences(name, before, users[rows], items[rows], times[rows], last - first)

    def _write_items(
        self, name: str, before: int, users: np.ndarray, items: np.ndarray, count: int, first: int
    ) -> None:
        ends = before + np.cumsum(np.bincount(users, minlength=count))
        write_slice(self.folder / f"by_user_{name}_offsets.npy", first + 1, ends)
        keys = users.astype(np.int64) * self.items + items
        keys.sort()
        write_slice(self.folder / f"by_user_{name}_values.npy", before, keys % self.items)

    def _write_sequences(
        self, name: str, before: int, users: np.ndarray, items: np.ndarray, times: np.ndarray, count: int
    ) -> None:
        found = sequences_of(users, items, times, count)
        write_slice(self.folder / f"sequences_{name}_values.npy", before, found.items.values)
        if self.has_times and found.times is not None:
            write_slice(self.folder / f"sequences_{name}_times.npy", before, found.times.values)

    def copy_offsets(self) -> None:
        """Write the offsets of sequences, once all tasks are done: those of the items by user."""
        for name in ("train", "known"):
            if self.has_order and name in self.sets():
                offsets = np.load(self.folder / f"by_user_{name}_offsets.npy")
                np.save(self.folder / f"sequences_{name}_offsets.npy", offsets)
