"""Rows of an earlier run that are appended to ids, attributes and lists of a data set."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError
from trainer.storage.attributes import DenseFeature, Feature, Ragged


def rows_in(vocabulary: pa.Array, ids: pa.Array) -> np.ndarray:
    """Return the row in `vocabulary` of each id, -1 if there is none; ids of two types compare as text."""
    if ids.type != vocabulary.type:
        ids, vocabulary = ids.cast(pa.string()), vocabulary.cast(pa.string())
    return pc.fill_null(pc.index_in(ids, value_set=vocabulary), -1).to_numpy().astype(np.int64)


def extend_feature(
    feature: Feature,
    column: Any,
    categories: pa.Array | None,
    rows: np.ndarray,
    *,
    has_unknown_row: bool,
) -> Feature:
    """Append the bags of retained rows to a feature, and categories that only the earlier run has.

    Args:
        feature: Attribute of the data set.
        column: The same attribute as the earlier run looks it up, if it does.
        categories: Its categories in the earlier run.
        rows: Retained rows of the earlier run.
        has_unknown_row: Whether the last row is that of unknown users, and stays the last.
    """
    lengths, codes, all_categories = np.ones(len(rows), np.int64), None, feature.categories
    if isinstance(column, Ragged) and categories is not None:
        codes_now = rows_in(feature.categories, categories)
        missing = codes_now < 0
        added = cast_as_now(
            categories.filter(pa.array(missing)), feature.categories.type, f"values of {feature.name}"
        )
        codes_now[missing] = len(feature.categories) + np.arange(len(added))
        all_categories = pa.concat_arrays([feature.categories, added])
        lengths, codes_before = column.take(rows)
        codes = np.append(codes_now, len(all_categories))[codes_before]
    unknown = len(all_categories)
    codes = np.full(len(rows), unknown) if codes is None else codes
    values = np.where(feature.bags.values == feature.size - 1, unknown, feature.bags.values)
    bags = Ragged(feature.bags.offsets, values.astype(np.int32))
    added_bags = Ragged(np.append(0, np.cumsum(lengths)), codes.astype(np.int32))
    return Feature(feature.name, all_categories, insert_rows(bags, added_bags, has_unknown_row))


def extend_dense(feature: DenseFeature, column: Any, rows: np.ndarray, before_last: bool) -> DenseFeature:
    """Append the numbers of retained rows to a feature; they are missing where the earlier run has none."""
    width = feature.values.shape[1]
    added = np.full((len(rows), width), np.nan, np.float32)
    if isinstance(column, np.ndarray) and column.shape[1:] == (width,):
        added = column[rows]
    cut = len(feature.values) - before_last
    values = np.concatenate([feature.values[:cut], added, feature.values[cut:]])
    return replace(feature, values=values)


def cast_as_now(values: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    """Return values of an earlier run in the type that the data set has; `name` says what they are.

    Raises:
        DataError: That type cannot hold them.
    """
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        raise DataError(
            f"--run.removed keep: {name} were {values.type} and are {kind} now. Write them as before, or use "
            "--run.removed drop"
        ) from None


def insert_rows(ragged: Ragged, added: Ragged, before_last: bool) -> Ragged:
    """Insert rows at the end of `ragged`, or before its last row."""
    row = len(ragged.offsets) - 1 - before_last
    cut, total = ragged.offsets[row], added.offsets[-1]
    offsets = [ragged.offsets[:row], added.offsets + cut, ragged.offsets[row + 1 :] + total]
    values = [ragged.values[:cut], added.values, ragged.values[cut:]]
    return Ragged(np.concatenate(offsets).astype(np.int64), np.concatenate(values, dtype=ragged.values.dtype))
