"""Attribute columns of users and items -> category codes, in bags of one or of many."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, one after the other (compressed sparse rows).

    Attributes:
        offsets: (rows + 1,) int64; row r is `values[offsets[r]:offsets[r + 1]]`.
        values: (total,) int32.
    """

    offsets: np.ndarray
    values: np.ndarray

    def lengths(self) -> np.ndarray:
        """Return values in each row, (rows,) int64."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return lengths (n,) int64 and concatenated values (sum of lengths,) int32 of n rows."""
        starts = self.offsets[rows]
        lengths = self.offsets[np.asarray(rows) + 1] - starts
        before = np.cumsum(lengths) - lengths
        places = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
        return lengths, self.values[places]


@dataclass(frozen=True)
class Feature:
    """One attribute of users or of items.

    Attributes:
        name: Its column.
        categories: (size - 1,) integers or strings, what the codes stand for.
        bags: Category codes of each user or item row; a single-valued attribute has bags of one.
    """

    name: str
    categories: pa.Array
    bags: Ragged

    @property
    def size(self) -> int:
        """Rows of its table; the last one, `size - 1`, stands for unknown."""
        return len(self.categories) + 1


def align(ids: pa.Array, table: pa.Table, id_column: str) -> pa.Table:
    """Return the attribute row of each id, all null where the table has none.

    Args:
        ids: (n,) int64 or string; a null stands for an id outside the vocabulary.
        table: Attributes; other rows than those of `ids` are dropped.
        id_column: Its column of ids; those of another type than `ids` are compared as text.

    Returns:
        A table of n rows.

    Raises:
        DataError: An id is in the table twice.
    """
    keys = table[id_column].combine_chunks()
    counts = pc.value_counts(keys)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise DataError(
            f"attributes: {id_column} {repeated[0]} has more than one row, expected one. Remove the others"
        )
    if keys.type != ids.type:
        keys, ids = keys.cast(pa.string()), ids.cast(pa.string())
    return table.take(pc.index_in(ids, value_set=keys, skip_nulls=True))


def categorise(name: str, column: pa.ChunkedArray) -> Feature | None:
    """Encode an attribute; its categories are in ascending order (strings by their UTF-8 bytes).

    A null, in place of a row or within a list, is the unknown category; an empty list is an empty bag.

    Args:
        name: Name of the attribute.
        column: Integers or strings (one category a row), or lists of them (a bag of categories).

    Returns:
        The feature, or None if the column is of another type (a float is no category).
    """
    array = column.combine_chunks()
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    kind = array.type.value_type if is_list else array.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    flat = pc.list_flatten(array) if is_list else array
    categories = pc.unique(flat).drop_null().sort()
    unknown = len(categories)
    codes = pc.fill_null(pc.index_in(flat, value_set=categories, skip_nulls=True), unknown).to_numpy()
    lengths = np.ones(len(array), np.int64)
    if is_list:
        lengths = pc.fill_null(pc.list_value_length(array), 1).to_numpy().astype(np.int64)
    # A null list has no place in `flat`: its bag of one keeps the unknown code.
    values = np.full(lengths.sum(), unknown, np.int32)
    given = np.repeat(array.is_valid().to_numpy(zero_copy_only=False), lengths) if is_list else slice(None)
    values[given] = codes
    return Feature(name, categories, Ragged(np.concatenate([[0], np.cumsum(lengths)]), values))
