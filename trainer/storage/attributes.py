"""Attribute columns of users and items -> category codes in bags of one or many, or numbers and vectors."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError

DEFAULT_BUCKETS = 10
BLOCK_ROWS = 65_536  # rows of vectors whose mean is taken at a time, in float64


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, one after the other (compressed sparse rows).

    Attributes:
        offsets: (rows + 1,) int64; row r is `values[offsets[r]:offsets[r + 1]]`.
        values: (total,) int32; int64 where they are times.
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


@dataclass(frozen=True)
class DenseFeature:
    """One attribute of users or of items that is a number or a vector, for a linear layer instead of a table.

    Attributes:
        name: Its column.
        values: (rows, width) float32, as they were read; a row of NaN is missing.
        center: (width,) float32, mean of the rows that are not missing.
        scale: Root of the mean squared distance from it: a number's standard deviation.
    """

    name: str
    values: np.ndarray
    center: np.ndarray
    scale: float


class LeftOutError(Exception):
    """An attribute cannot be used; the message says why."""


def encode_attribute(name: str, column: pa.ChunkedArray, kind: str | None = None) -> Feature | DenseFeature:
    """Encode an attribute by its type, or as the kind that was asked for.

    Integers, texts and lists of them are categories; fractional numbers and times are numbers; lists of
    fractional numbers are vectors.

    Args:
        name: Name of the attribute.
        column: Its values, a row a user or an item.
        kind: One of `trainer.config.schema.ATTRIBUTE_KINDS`, for instance `buckets:20`; None: by type.

    Raises:
        LeftOutError: It cannot be used; the message says why.
    """
    array = column.combine_chunks()
    asked, _, count = (kind or _kind_of(array.type)).partition(":")
    if asked == "ignore":
        raise LeftOutError(f"left out, as --data.attribute_kinds.{name} says")
    if asked == "vector":
        return _dense(name, _vectors(array))
    if asked in ("number", "time", "buckets"):
        numbers = _numbers(array)
        if asked == "buckets":
            return bucketed(name, numbers, int(count or DEFAULT_BUCKETS))
        return _dense(name, numbers[:, None])
    feature = categorise(name, pa.chunked_array([_as_categories(array)]))
    if feature is None:
        raise LeftOutError(f"left out, as {array.type} is no {asked}")
    return feature


def bucketed(name: str, numbers: np.ndarray, count: int) -> Feature:
    """Cut numbers at their quantiles; each bucket is a category, and so is a missing number.

    Args:
        name: Name of the attribute.
        numbers: (n,) with NaN for missing ones.
        count: Number of buckets; fewer result where a value is more frequent than a bucket.
    """
    known = numbers[np.isfinite(numbers)]
    bounds = np.empty(0)
    if len(known):  # bounds are values that occur, so that no bucket is empty
        bounds = np.unique(np.quantile(known, np.arange(1, count) / count, method="higher"))
        bounds = bounds[bounds > known.min()]
    codes = np.searchsorted(bounds, numbers, side="right").astype(np.int32)
    edges = [str(bound) for bound in bounds.tolist()]
    names = [f"{low} to {high}" for low, high in pairwise(["lowest", *edges, "highest"])]
    codes[~np.isfinite(numbers)] = len(names)
    return Feature(name, pa.array(names), Ragged(np.arange(len(numbers) + 1), codes))


def _kind_of(type: pa.DataType) -> str:
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        return "time"
    if pa.types.is_floating(type):
        return "number"
    if pa.types.is_fixed_size_list(type):
        return "vector"
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return "vector" if pa.types.is_floating(type.value_type) else "list"
    return "category"


def _as_categories(array: pa.Array) -> pa.Array:
    """Return fractional numbers and times as texts, for those who want them as categories."""
    number = pa.types.is_floating(array.type) or _kind_of(array.type) == "time"
    return array.cast(pa.string()) if number else array


def _numbers(array: pa.Array) -> np.ndarray:
    """Return (n,) float64, NaN where missing; times are seconds since 1970."""
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    try:
        numbers = pc.fill_null(array.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise LeftOutError(f"left out, as not all of its values ({array.type}) are numbers") from None
    if (np.abs(numbers) > np.finfo(np.float32).max).any():
        raise LeftOutError("left out, as it holds numbers that are infinite in float32")
    return numbers


def _vectors(array: pa.Array) -> np.ndarray:
    """Return (n, width) float32, rows of NaN where missing."""
    if not hasattr(array, "flatten") or not pa.types.is_nested(array.type):
        raise LeftOutError(f"left out, as {array.type} is no list of numbers")
    given = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.unique(pc.list_value_length(array).drop_null().to_numpy())
    if len(lengths) != 1 or not lengths[0]:
        found = " and ".join(map(str, lengths[:2])) or "none"
        raise LeftOutError(f"left out, as its lists have different lengths ({found}), and vectors have one")
    try:
        flat = pc.list_flatten(array.drop_null()).cast(pa.float32())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise LeftOutError(f"left out, as not all entries of its lists ({array.type}) are numbers") from None
    vectors = np.full((len(array), int(lengths[0])), np.nan, np.float32)
    vectors[given] = pc.fill_null(flat, float("nan")).to_numpy(zero_copy_only=False).reshape(-1, lengths[0])
    if np.isinf(vectors).any():
        raise LeftOutError("left out, as it holds vectors that are infinite in float32")
    return vectors


def _dense(name: str, values: np.ndarray) -> DenseFeature:
    missing = np.isnan(values).any(1)
    known = np.flatnonzero(~missing)
    if not len(known):
        raise LeftOutError("left out, as all of its values are missing")
    blocks = [known[start : start + BLOCK_ROWS] for start in range(0, len(known), BLOCK_ROWS)]
    center = np.sum([values[block].sum(0, dtype=np.float64) for block in blocks], 0) / len(known)
    scale = math.sqrt(sum(float(np.square(values[block] - center).sum()) for block in blocks) / len(known))
    if not scale:
        raise LeftOutError("left out, as all of its values are the same")
    values = values.astype(np.float32)
    values[missing] = np.nan
    return DenseFeature(name, values, center.astype(np.float32), scale)


def description(attribute: Feature | DenseFeature, rows: int, is_time: bool = False) -> str:
    """Return a text of an attribute's kind, cardinality and missing values in its first `rows` rows."""
    if isinstance(attribute, DenseFeature):
        width = attribute.values.shape[1]
        missing = f"{int(np.isnan(attribute.values[:rows, 0]).sum()):,} of {rows:,} missing"
        if width > 1:
            return f"vector of {width:,} numbers, {missing}"
        if is_time:
            mean, days = np.datetime64(int(attribute.center[0]), "s"), attribute.scale / 86_400
            return f"time, mean {str(mean)[:10]}, deviation {days:.4g} days, {missing}"
        return f"number, mean {attribute.center[0]:.4g}, deviation {attribute.scale:.4g}, {missing}"
    lengths, codes = attribute.bags.take(np.arange(rows))
    missing = f"{int(np.count_nonzero(codes == attribute.size - 1)):,} of {rows:,} missing"
    if (lengths == 1).all():
        return f"category, {len(attribute.categories):,} different, {missing}"
    return f"list, {len(attribute.categories):,} different, {lengths.mean():.1f} a row, {missing}"
