"""Encoded attributes -> a table of the values that they stand for, for filters and for readers."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.storage.attributes import DenseFeature, Feature


def attribute_table(
    features: Mapping[str, Feature], dense: Mapping[str, DenseFeature], rows: int
) -> pa.Table:
    """Return the attributes of the first `rows` rows; vectors are left out.

    Args:
        features: Categories by name.
        dense: Numbers and vectors by name; times are seconds since 1970.
        rows: Number of users or items.

    Returns:
        A column an attribute: integers or strings, lists of them, or float32; null where unknown.
    """
    columns: dict[str, pa.Array] = {name: _categories(feature, rows) for name, feature in features.items()}
    for name, feature in dense.items():
        if feature.values.shape[1] == 1:
            columns[name] = pa.array(feature.values[:rows, 0], from_pandas=True)  # NaN is missing
    return pa.table(columns)


def _categories(feature: Feature, rows: int) -> pa.Array:
    offsets = np.asarray(feature.bags.offsets[: rows + 1])
    codes = np.asarray(feature.bags.values[: offsets[-1]])
    unknown = codes == len(feature.categories)
    values = feature.categories.take(pa.array(codes, mask=unknown))
    if (np.diff(offsets) == 1).all():
        return values
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)
    # A missing list was encoded as a bag of the unknown category alone.
    missing = np.zeros(rows, bool)
    alone = np.flatnonzero(np.diff(offsets) == 1)
    missing[alone] = unknown[offsets[alone]]
    return pc.if_else(pa.array(missing), pa.scalar(None, lists.type), lists)
