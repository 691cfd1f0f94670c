"""Columns of interactions on disk, read a block of rows at a time, and grouped by user.

Nothing here is memory-mapped: the pages of a map that were touched count as memory of the process.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

BLOCK_ROWS = 1 << 20
GROUP_ROWS = 1 << 22  # rows per group of users: at most 250 MB


@dataclass(frozen=True)
class Stored:
    """A column of `rows` values in a file, starting at byte `offset`."""

    path: Path
    dtype: type[np.generic]
    rows: int
    offset: int = 0

    def __len__(self) -> int:
        return self.rows

    def read(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Return the values of rows `first` to below `last`."""
        count = (self.rows if last is None else last) - first
        start = self.offset + first * np.dtype(self.dtype).itemsize
        return np.fromfile(self.path, self.dtype, count, offset=start)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the values of the given rows, which ascend."""
        taken = np.empty(len(rows), self.dtype)
        for block, values in blocks(self):
            first, last = np.searchsorted(rows, [block.start, block.stop])
            taken[first:last] = values[rows[first:last] - block.start]
        return taken


def blocks(*columns: Stored) -> Iterator[tuple]:
    """Yield slices of at most BLOCK_ROWS rows, each with the values of every column in it."""
    for first in range(0, len(columns[0]), BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, len(columns[0]))
        yield slice(first, last), *(column.read(first, last) for column in columns)


@contextmanager
def saved(path: Path, dtype: type[np.generic], rows: int) -> Iterator[BinaryIO]:
    """Open a file for `rows` values, which numpy can then load as one array."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


def stored(path: Path) -> Stored:
    """Return the column that was saved as a one-dimensional array."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return Stored(path, dtype.type, shape[0], file.tell())


def write_items_by_user(
    folder: Path, name: str, parts: list[tuple[Stored, Stored]], user_rows: int, item_count: int
) -> None:
    """Save the items of each user, ascending, as `storage.write_ragged` does.

    Args:
        folder: Folder of the arrays.
        name: Beginning of their names.
        parts: Pairs of a user column and an item column, int32, in any order.
        user_rows: Rows of the result; users without items have empty ones.
        item_count: More than any item.
    """
    counts = np.zeros(user_rows, np.int64)
    for users, _ in parts:
        for _, block in blocks(users):
            counts += np.bincount(block, minlength=user_rows)
    np.save(folder / f"{name}_offsets.npy", np.concatenate([[0], np.cumsum(counts)]))
    bits = item_count.bit_length()
    pairs = (block[1:] for part in parts for block in blocks(*part))
    with saved(folder / f"{name}_values.npy", np.int32, int(counts.sum())) as file:
        for first, (users, items) in grouped_by_user(pairs, counts, folder):
            narrow = (int(users.max(initial=first)) - first + 1) << bits <= 2**32
            keys = (users - first).astype(np.uint32 if narrow else np.int64)  # the narrow ones sort faster
            keys <<= bits
            keys |= items.astype(keys.dtype)
            keys.sort()
            keys &= (1 << bits) - 1
            keys.astype(np.int32).tofile(file)


def stable_order(keys: np.ndarray) -> np.ndarray:
    """Return what `np.argsort(keys, kind="stable")` does, several times faster where 64 bits allow it.

    Args:
        keys: (n,) integers.
    """
    place_bits = len(keys).bit_length()
    least, largest = (int(keys.min()), int(keys.max())) if len(keys) else (0, 0)
    if (largest - least).bit_length() + place_bits >= 64:
        return np.argsort(keys, kind="stable")
    packed = (keys.astype(np.int64) - least) << place_bits
    packed |= np.arange(len(keys))  # no two are equal, so that any sort is stable
    packed.sort()
    packed &= (1 << place_bits) - 1
    return packed


def grouped_by_user(
    rows: Iterable[tuple[np.ndarray, ...]], counts: np.ndarray, folder: Path
) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Return rows of consecutive users, about GROUP_ROWS at a time: the first of the users, and the columns.

    Rows keep their order within a group. Where there is more than one group, rows are sorted into a file a
    group, so that each is read and written once.

    Args:
        rows: Columns of a block of rows, the column of users first.
        counts: Rows of each user.
        folder: Folder for such files.
    """
    ends = np.cumsum(counts)
    if not ends[-1]:
        return
    cuts = np.searchsorted(ends, np.arange(GROUP_ROWS, ends[-1], GROUP_ROWS)) + 1
    bounds = np.unique(np.concatenate([[0], cuts, [len(counts)]]))
    if len(bounds) == 2:
        yield 0, tuple(np.concatenate(column) for column in zip(*rows, strict=True))
        return
    paths = [folder / f"group-{group}" for group in range(len(bounds) - 1)]
    record = _sort_into(paths, rows, bounds)
    for path, (first, _) in zip(paths, pairwise(bounds), strict=True):
        found = np.fromfile(path, record)
        path.unlink()
        yield int(first), tuple(np.ascontiguousarray(found[field]) for field in record.names or ())


def _sort_into(paths: list[Path], rows: Iterable[tuple[np.ndarray, ...]], bounds: np.ndarray) -> np.dtype:
    """Append each row to the file of its user's group; returns the type of a row."""
    group_of = np.repeat(np.arange(len(paths), dtype=np.uint16), np.diff(bounds))
    record = np.dtype([])
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for columns in rows:
            record = np.dtype([(f"f{place}", column.dtype) for place, column in enumerate(columns)])
            groups = group_of[columns[0]]
            order = np.argsort(groups, kind="stable")
            block = np.empty(len(order), record)
            for place, column in enumerate(columns):
                block[f"f{place}"] = column[order]
            ends = np.cumsum(np.bincount(groups, minlength=len(paths)))
            for file, part in zip(files, np.split(block, ends[:-1]), strict=True):
                part.tofile(file)
    return record
