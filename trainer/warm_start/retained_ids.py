"""Retained ids: users and items that an earlier run trained and the training split lacks.

They are appended to the prepared data without interactions, and look up vectors of their own. Their
attributes, and the items that a user had, come from the earlier run.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.batching.tower_inputs import USER, Inputs
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.impressions import SHOWN
from trainer.dataset.sequences import Sequences, save_sequences
from trainer.dataset.split import NEGATIVES, PARTS
from trainer.dataset.vocabulary import Vocabulary
from trainer.storage import arrays
from trainer.storage.attribute_store import write_dense, write_feature
from trainer.storage.attributes import DenseFeature, Feature, Ragged
from trainer.warm_start.retained_rows import cast_as_now, extend_dense, extend_feature, insert_rows, rows_in


@dataclass(frozen=True)
class _Earlier:
    """Users or items of the earlier run, by its own rows.

    Attributes:
        side: `user` or `item`.
        table: Their name in tables.
        ids: Raw ids.
        trained: (n,) whether a vector was trained for each.
        inputs: What they look up.
        categories: Categories of each attribute, in the order of its codes.
    """

    side: str
    table: str
    ids: pa.Array
    trained: np.ndarray
    inputs: Inputs
    categories: dict[str, pa.Array]


@dataclass(frozen=True)
class _Retained:
    """Users or items that are appended to a data set.

    Attributes:
        ids: Their raw ids, in the order of the earlier run.
        earlier_rows: (n,) their rows in the earlier run.
        rows: (rows of the earlier run,) row of each in the extended data set, -1 if there is none.
        own_rows: Rows that look up vectors of their own without training: the appended ones, and others.
        features: Attributes of the extended data set.
        dense: Those that are numbers or vectors.
    """

    ids: pa.Array
    earlier_rows: np.ndarray
    rows: np.ndarray
    own_rows: np.ndarray
    features: list[Feature]
    dense: list[DenseFeature]


def extend(folder: Path, vocabulary: Vocabulary, user_inputs: Inputs, item_inputs: Inputs) -> Path:
    """Return the folder of a data set extended by an earlier run's retained ids; write it if need be.

    Its content and name depend only on what is added: the earlier run, and a run that retained all of it,
    give the same folder.

    Args:
        folder: Folder of the prepared data set.
        vocabulary: Vocabulary of the earlier run.
        user_inputs: What its users look up.
        item_inputs: What its items look up.

    Raises:
        DataError: Ids or attribute values of the run have a type that those of the data set cannot hold.
    """
    dataset = open_dataset(folder)
    user_counts, item_counts = dataset.train_by_user().lengths()[:-1], np.zeros(dataset.item_count, np.int64)
    np.add.at(item_counts, dataset.train.items, 1)
    users, items = (
        _retain(dataset, earlier, counts)
        for earlier, counts in zip(
            _earlier(vocabulary, user_inputs, item_inputs), (user_counts, item_counts), strict=True
        )
    )
    histories = _histories(vocabulary.seen, users, items)
    held_out = None if vocabulary.held_out is None else _histories(vocabulary.held_out, users, items)
    sequences = _sequences(vocabulary, users, items) if dataset.has_order else None
    lists = [histories, held_out, *([] if sequences is None else [sequences.items, sequences.times])]
    key = _key(dataset, users, items, [each for each in lists if each is not None])
    extended = folder.with_name(f"{folder.name}-{key[:20]}")
    with arrays.locked(extended):
        if not arrays.is_whole(extended):
            with arrays.published(extended) as temporary:
                titles = _titles(dataset, vocabulary, items)
                _write(temporary, dataset, key, users, items, histories, held_out, sequences, titles)
    return extended


def _earlier(vocabulary: Vocabulary, user_inputs: Inputs, item_inputs: Inputs) -> tuple[_Earlier, _Earlier]:
    """Return the users and items of an earlier run."""
    name = vocabulary.item_name
    # Without a table with a row a user, their histories stand for them.
    users: Any = user_inputs.get(USER)
    by_row = isinstance(users, np.ndarray)
    trained = users == np.arange(len(users)) if by_row else vocabulary.seen.lengths() > 0
    return (
        _Earlier(
            side="user",
            table=USER,
            ids=vocabulary.user_ids,
            trained=trained[:-1],
            inputs=user_inputs,
            categories=vocabulary.user_categories,
        ),
        _Earlier(
            side="item",
            table=name,
            ids=vocabulary.item_ids,
            trained=trained_items(vocabulary, item_inputs),
            inputs=item_inputs,
            categories=vocabulary.item_categories,
        ),
    )


def trained_items(vocabulary: Vocabulary, item_inputs: Inputs) -> np.ndarray:
    """Return which items of an earlier run have a trained row of their own, (items,) bool.

    Where ids are hashed, the table of biases tells and, without one, the items that users had.
    """
    name = vocabulary.item_name
    for table in (name, f"{name}_bias"):
        column = item_inputs.get(table)
        if isinstance(column, np.ndarray):
            return column == np.arange(len(column))
    return np.bincount(vocabulary.seen.values, minlength=len(vocabulary.item_ids)) > 0


def _retain(dataset: Dataset, earlier: _Earlier, counts: np.ndarray) -> _Retained:
    """Find the ids of one side that were trained and are not in the data set.

    Args:
        dataset: The data set to be extended.
        earlier: Users or items of the earlier run.
        counts: Training interactions of each user or item of the data set.
    """
    side, trained = earlier.side, earlier.trained
    ids_now: pa.Array = getattr(dataset, f"{side}_ids")
    rows = rows_in(ids_now, earlier.ids)
    earlier_rows = np.flatnonzero((rows < 0) & trained)
    ids = cast_as_now(earlier.ids.take(pa.array(earlier_rows)), ids_now.type, f"{side} ids")
    shared = rows[(rows >= 0) & trained]
    untrained = np.sort(shared[counts[shared] == 0])
    rows[earlier_rows] = len(ids_now) + np.arange(len(earlier_rows))
    features = [
        extend_feature(
            feature,
            earlier.inputs.get(f"{earlier.table}_{name}"),
            earlier.categories.get(name),
            earlier_rows,
            has_unknown_row=side == "user",
        )
        for name, feature in getattr(dataset, f"{side}_features").items()
    ]
    dense = [
        extend_dense(feature, earlier.inputs.get(f"{earlier.table}_{name}"), earlier_rows, side == "user")
        for name, feature in getattr(dataset, f"{side}_dense").items()
    ]
    return _Retained(ids, earlier_rows, rows, np.append(untrained, rows[earlier_rows]), features, dense)


def _insert_sequences(sequences: Sequences, added: Sequences) -> Sequences:
    """Insert the sequences of retained users before those of unknown ones."""
    items, times = insert_rows(sequences.items, added.items, before_last=True), None
    if sequences.times is not None and added.times is not None:
        times = insert_rows(sequences.times, added.times, before_last=True)
    return Sequences(items, times)


def _histories(seen: Ragged, users: _Retained, items: _Retained) -> Ragged:
    """Return the items that retained users had, by rows of the extended data set, ascending."""
    lengths, earlier_items = seen.take(users.earlier_rows)
    owners, rows = np.repeat(np.arange(len(lengths)), lengths), items.rows[earlier_items]
    owners, rows = owners[rows >= 0], rows[rows >= 0]
    order = np.lexsort((rows, owners))
    counts = np.bincount(owners, minlength=len(lengths))
    return Ragged(np.append(0, np.cumsum(counts)), rows[order].astype(np.int32))


def _sequences(vocabulary: Vocabulary, users: _Retained, items: _Retained) -> Sequences:
    """Return the items that retained users had, oldest first, with their times.

    A run that knows no order leaves them as they stand, and one that knows no times at second 0: nothing
    tells then how long ago they were.
    """
    known = vocabulary.sequences or Sequences(vocabulary.seen, None)
    lengths, earlier_items = known.items.take(users.earlier_rows)
    rows = items.rows[earlier_items]
    counts = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[rows >= 0], minlength=len(lengths))
    offsets = np.append(0, np.cumsum(counts))
    times = np.zeros(len(rows), np.int64) if known.times is None else known.times.take(users.earlier_rows)[1]
    return Sequences(Ragged(offsets, rows[rows >= 0].astype(np.int32)), Ragged(offsets, times[rows >= 0]))


def _key(dataset: Dataset, users: _Retained, items: _Retained, lists: Sequence[Ragged]) -> str:
    digest = hashlib.sha256(dataset.key.encode())
    parts = [array for each in lists for array in (each.offsets, each.values)]
    for side in (users, items):
        digest.update("\n".join(map(str, [*side.ids.to_pylist(), ""])).encode())
        parts.append(side.own_rows)
        for feature in side.features:
            digest.update("\n".join(map(str, [*feature.categories.to_pylist(), ""])).encode())
            parts += [feature.bags.offsets, feature.bags.values]
        parts += [feature.values for feature in side.dense]
    for array in parts:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _titles(dataset: Dataset, vocabulary: Vocabulary, items: _Retained) -> pa.Array | None:
    if dataset.titles is None and vocabulary.titles is None:
        return None
    nulls = pa.nulls(dataset.item_count, pa.string())
    added = pa.nulls(len(items.ids), pa.string())
    if vocabulary.titles is not None:
        added = vocabulary.titles.take(pa.array(items.earlier_rows))
    return pa.concat_arrays([nulls if dataset.titles is None else dataset.titles, added])


def _write(
    folder: Path,
    dataset: Dataset,
    key: str,
    users: _Retained,
    items: _Retained,
    histories: Ragged,
    held_out: Ragged | None,
    sequences: Sequences | None,
    titles: pa.Array | None,
) -> None:
    """Write the files of the extended data set; those of interactions are the same files."""
    for split in PARTS:
        for path in dataset.folder.glob(f"{split}_*.npy"):
            _link(path, folder / path.name)
        empty = Ragged(np.zeros(len(users.ids) + 1, np.int64), np.empty(0, np.int32))
        by_user = arrays.map_ragged(dataset.folder, f"by_user_{split}")
        arrays.write_ragged(folder, f"by_user_{split}", insert_rows(by_user, empty, before_last=True))
    for part in (NEGATIVES, SHOWN):
        for path in dataset.folder.glob(f"{part}_*.npy"):
            _link(path, folder / path.name)
    for name, ragged in (("known", dataset.seen("test")), ("history", dataset.history())):
        arrays.write_ragged(folder, f"by_user_{name}", insert_rows(ragged, histories, before_last=True))
    if sequences is not None:
        for name, split in (("train", "validation"), ("known", "test")):
            save_sequences(folder, name, _insert_sequences(dataset.sequences(split), sequences))
    if held_out is not None:  # beside the test split, in which nobody looks for them
        known = insert_rows(dataset.held_out("test"), held_out, before_last=True)
        arrays.write_ragged(folder, "by_user_held_out", known)
    arrays.write_ids(folder, "user", pa.concat_arrays([dataset.user_ids, users.ids]), None)
    arrays.write_ids(folder, "item", pa.concat_arrays([dataset.item_ids, items.ids]), titles)
    names: dict[str, Any] = {"attributes": dataset.attributes, "has_order": dataset.has_order}
    for side, retained in (("user", users), ("item", items)):
        np.save(folder / f"kept_{side}s.npy", retained.own_rows)
        for number, feature in enumerate(retained.features):
            write_feature(folder, side, number, feature)
        for number, dense in enumerate(retained.dense):
            write_dense(folder, side, number, dense)
        names[f"{side}_features"] = [feature.name for feature in retained.features]
        names[f"{side}_dense"] = [feature.name for feature in retained.dense]
    report = dataset.report | {"kept_users": len(users.ids), "kept_items": len(items.ids)}
    meta = {"key": key, "name": dataset.name, "item_name": dataset.item_name, "report": report}
    arrays.write_meta(folder, meta | names)


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
