"""The attributes of a prepared data set on disk: encoded and written, opened memory-mapped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.errors import DataError
from trainer.sources.schema import SourceTables
from trainer.storage import arrays
from trainer.storage.attributes import (
    DenseFeature,
    Feature,
    LeftOutError,
    align,
    description,
    encode_attribute,
)


def write_attributes(
    folder: Path, ids: Mapping[str, pa.Array], source: SourceTables, kinds: Mapping[str, str]
) -> tuple[dict[str, Any], pa.Array | None]:
    """Write the attributes of both sides.

    Args:
        folder: Folder of the prepared data.
        ids: Ids of each side (`user`, `item`) in row order; a null stands for unknown users.
        source: Tables of attributes and of vectors.
        kinds: Kinds that were asked for, by attribute.

    Returns:
        What `meta.json` is to say of them, and the titles of the items if there are any.

    Raises:
        DataError: An attribute is there twice or not at all, or is not of the kind that was asked for.
    """
    meta: dict[str, Any] = {"attributes": {}}
    titles, present = None, set()
    for side, table in (("user", source.users), ("item", source.items)):
        columns: dict[str, pa.ChunkedArray] = {}
        if table is not None:
            aligned = align(ids[side], table, f"{side}_id")
            columns = {name: aligned[name] for name in aligned.column_names if name != f"{side}_id"}
            if side == "item" and "title" in columns:
                titles = columns.pop("title").cast(pa.string()).combine_chunks()
        for name, vectors in source.vectors.get(side, {}).items():
            if name in columns:
                raise DataError(f"--data.{side}_vectors.{name}: there is a column of that name. Rename one")
            columns[name] = _aligned_vectors(side, name, ids[side], vectors)
        remarks = dict(source.remarks.get(side, {}))
        meta |= _write_side(folder, side, columns, kinds, remarks, len(ids[side].drop_null()))
        meta["attributes"][side] = remarks
        present |= remarks.keys()
    if unknown := sorted(kinds.keys() - present):
        has = f"it has {', '.join(sorted(present))}" if present else "it has none"
        raise DataError(f"--data.attribute_kinds.{unknown[0]}: the data have no such attribute; {has}")
    return meta, titles


def _write_side(
    folder: Path,
    side: str,
    columns: Mapping[str, pa.ChunkedArray],
    kinds: Mapping[str, str],
    remarks: dict[str, str],
    rows: int,
) -> dict[str, list[str]]:
    """Write one side's attributes and complete the remarks on them; returns the names of each sort."""
    names: dict[str, list[str]] = {f"{side}_features": [], f"{side}_dense": []}
    for name, column in columns.items():
        try:
            attribute = encode_attribute(name, column, kinds.get(name))
        except LeftOutError as reason:
            if kinds.get(name, "ignore") != "ignore":
                raise DataError(
                    f"--data.attribute_kinds.{name} {kinds[name]}: {reason}. Give another kind, or none"
                ) from None
            remarks[name] = str(reason)
            continue
        guess = f"; {remarks[name]}" if name in remarks else ""
        remarks[name] = description(attribute, rows, pa.types.is_temporal(column.type)) + guess
        if isinstance(attribute, DenseFeature):
            write_dense(folder, side, len(names[f"{side}_dense"]), attribute)
            names[f"{side}_dense"].append(name)
        else:
            write_feature(folder, side, len(names[f"{side}_features"]), attribute)
            names[f"{side}_features"].append(name)
    return names


def _aligned_vectors(side: str, name: str, ids: pa.Array, vectors: pa.Table) -> pa.ChunkedArray:
    aligned = align(ids, vectors, "id")["vector"]
    if aligned.null_count == len(aligned):
        raise DataError(
            f"--data.{side}_vectors.{name}: none of its {len(vectors):,} ids (such as {vectors['id'][0]}) is "
            f"among the {side}s of the interactions (such as {ids[0]}). Write the ids as there"
            if len(vectors)
            else f"--data.{side}_vectors.{name}: holds no vectors. Leave the option out"
        )
    return aligned


def write_feature(folder: Path, side: str, number: int, feature: Feature) -> None:
    """Save the feature with that number of a side."""
    arrays.write_ragged(folder, f"{side}_feature_{number}", feature.bags)
    arrays.write_column(folder, f"{side}_categories_{number}", feature.categories)


def write_dense(folder: Path, side: str, number: int, feature: DenseFeature) -> None:
    """Save the number or vector with that number of a side."""
    np.save(folder / f"{side}_dense_{number}.npy", feature.values)
    np.save(folder / f"{side}_dense_{number}_scale.npy", np.append(feature.center, np.float32(feature.scale)))


def map_features(folder: Path, side: str, meta: Mapping[str, Any]) -> dict[str, Feature]:
    """Return a side's features by name, memory-mapped."""
    return {
        name: Feature(
            name,
            arrays.map_column(folder, f"{side}_categories_{number}"),
            arrays.map_ragged(folder, f"{side}_feature_{number}"),
        )
        for number, name in enumerate(meta[f"{side}_features"])
    }


def map_dense(folder: Path, side: str, meta: Mapping[str, Any]) -> dict[str, DenseFeature]:
    """Return a side's numbers and vectors by name, memory-mapped; older data sets have none."""
    found = {}
    for number, name in enumerate(meta.get(f"{side}_dense", ())):
        values = arrays.map_array(folder, f"{side}_dense_{number}")
        scale = arrays.map_array(folder, f"{side}_dense_{number}_scale")
        assert values is not None
        assert scale is not None
        found[name] = DenseFeature(name, values, scale[:-1], float(scale[-1]))
    return found
