"""A prepared data set with users and items that an earlier run knows and its training part lacks.

They stand behind its own, without interactions, and look up vectors of their own; attributes and what a user
had come from the earlier run.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from trainer.batching.tower_inputs import USER, Inputs
from trainer.dataset import storage
from trainer.dataset.attributes import Feature, Ragged
from trainer.dataset.dataset import Dataset, open_dataset, write_feature
from trainer.dataset.vocabulary import Vocabulary
from trainer.errors import DataError


@dataclass(frozen=True)
class _Side:
    """Users or items that are added to a data set.

    Attributes:
        ids: their raw ids, in the order of the earlier run.
        then: (n,) their rows in the earlier run.
        now: (rows of the earlier run,) row of each in the extended data set, -1 where there is none.
        kept: rows that look up vectors of their own, the added ones and those without training interactions.
        features: of the extended data set.
    """

    ids: pa.Array
    then: np.ndarray
    now: np.ndarray
    kept: np.ndarray
    features: list[Feature]


@dataclass(frozen=True)
class _Then:
    """Users or items of the earlier run, by its own rows.

    Attributes:
        side: `user` or `item`; `table`: the same as tables are called.
        ids: raw ids.
        trained: (n,) whether there is a vector to be kept.
        inputs: what they look up.
        categories: of each attribute, in the order of its codes.
    """

    side: str
    table: str
    ids: pa.Array
    trained: np.ndarray
    inputs: Inputs
    categories: dict[str, pa.Array]


def places(ids: pa.Array, among: pa.Array) -> np.ndarray:
    """Row in `among` of each of `ids`, -1 where there is none; ids of another type are compared as text."""
    if ids.type != among.type:
        ids, among = ids.cast(pa.string()), among.cast(pa.string())
    return pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy().astype(np.int64)


def extend(folder: Path, vocabulary: Vocabulary, user_inputs: Inputs, item_inputs: Inputs) -> Path:
    """The folder of a data set with what an earlier run trained and its training part lacks, made if need be.

    The content, and so the name, depends on what is added alone: the earlier run and one that has kept all of
    it give the same folder.

    Args:
        folder: of the prepared data set.
        vocabulary, user_inputs, item_inputs: of the earlier run, by its own rows.
    Raises: DataError if ids or values of the run are of a type that this data set's cannot hold.
    """
    dataset = open_dataset(folder)
    of_users, of_items = dataset.train_by_user().lengths()[:-1], np.zeros(dataset.item_count, np.int64)
    np.add.at(of_items, dataset.train.items, 1)
    users, items = (
        _side(dataset, then, interactions)
        for then, interactions in zip(
            _then(vocabulary, user_inputs, item_inputs), (of_users, of_items), strict=True
        )
    )
    histories = _histories(vocabulary.seen, users, items)
    key = _digest(dataset, users, items, histories)
    extended = folder.with_name(f"{folder.name}-{key[:20]}")
    with FileLock(folder.with_name(f"{extended.name}.lock")):
        if not storage.is_whole(extended):
            with storage.published(extended) as temporary:
                _write(temporary, dataset, key, users, items, histories, _titles(dataset, vocabulary, items))
    return extended


def _then(vocabulary: Vocabulary, user_inputs: Inputs, item_inputs: Inputs) -> tuple[_Then, _Then]:
    """Users and items of an earlier run."""
    name = vocabulary.item_name
    # Of those who look up no row of their own, all have a history that stands for them.
    users: Any = user_inputs.get(USER)
    known = vocabulary.seen.lengths() > 0 if users is None else users == np.arange(len(users))
    items: Any = item_inputs[name]
    return (
        _Then("user", USER, vocabulary.user_ids, known[:-1], user_inputs, vocabulary.user_categories),
        _Then(
            *("item", name, vocabulary.item_ids, items == np.arange(len(items))),
            *(item_inputs, vocabulary.item_categories),
        ),
    )


def _side(dataset: Dataset, before: _Then, interactions: np.ndarray) -> _Side:
    """What is added on one side: ids that were trained then and are not there now."""
    side, trained = before.side, before.trained
    ids_now: pa.Array = getattr(dataset, f"{side}_ids")
    now = places(before.ids, ids_now)
    then = np.flatnonzero((now < 0) & trained)
    ids = _as(ids_now.type, before.ids.take(pa.array(then)), f"{side} ids")
    silent = now[(now >= 0) & trained]
    kept = np.sort(silent[interactions[silent] == 0])
    now[then] = len(ids_now) + np.arange(len(then))
    features = [
        _feature(
            feature,
            before.inputs.get(f"{before.table}_{name}"),
            before.categories.get(name),
            then,
            side == "user",
        )
        for name, feature in getattr(dataset, f"{side}_features").items()
    ]
    return _Side(ids, then, now, np.append(kept, now[then]), features)


def _feature(
    feature: Feature, column: Any, categories: pa.Array | None, then: np.ndarray, has_unknown_row: bool
) -> Feature:
    """A feature with the bags of added rows, and with values that the earlier run alone has."""
    lengths, codes, all_categories = np.ones(len(then), np.int64), None, feature.categories
    if isinstance(column, Ragged) and categories is not None:
        codes_now = places(categories, feature.categories)
        alone = codes_now < 0
        gone = _as(feature.categories.type, categories.filter(pa.array(alone)), f"values of {feature.name}")
        codes_now[alone] = len(feature.categories) + np.arange(len(gone))
        all_categories = pa.concat_arrays([feature.categories, gone])
        lengths, before = column.take(then)
        codes = np.append(codes_now, len(all_categories))[before]
    unknown = len(all_categories)
    codes = np.full(len(then), unknown) if codes is None else codes
    values = np.where(feature.bags.values == feature.size - 1, unknown, feature.bags.values)
    bags = Ragged(feature.bags.offsets, values.astype(np.int32))
    added = Ragged(np.append(0, np.cumsum(lengths)), codes.astype(np.int32))
    return Feature(feature.name, all_categories, _with_rows(bags, added, has_unknown_row))


def _as(kind: pa.DataType, values: pa.Array, what: str) -> pa.Array:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        raise DataError(
            f"--run.removed keep: {what} were {values.type} and are {kind} now. Write them as before, or use "
            "--run.removed drop"
        ) from None


def _with_rows(ragged: Ragged, added: Ragged, before_last: bool) -> Ragged:
    """Rows of `added` behind those of `ragged`, or before its last one."""
    place = len(ragged.offsets) - 1 - before_last
    cut, total = ragged.offsets[place], added.offsets[-1]
    offsets = [ragged.offsets[:place], added.offsets + cut, ragged.offsets[place + 1 :] + total]
    values = [ragged.values[:cut], added.values, ragged.values[cut:]]
    return Ragged(np.concatenate(offsets).astype(np.int64), np.concatenate(values).astype(np.int32))


def _histories(known: Ragged, users: _Side, items: _Side) -> Ragged:
    """What added users had, by rows of the extended data set, ascending."""
    lengths, then = known.take(users.then)
    owners, rows = np.repeat(np.arange(len(lengths)), lengths), items.now[then]
    owners, rows = owners[rows >= 0], rows[rows >= 0]
    order = np.lexsort((rows, owners))
    counts = np.bincount(owners, minlength=len(lengths))
    return Ragged(np.append(0, np.cumsum(counts)), rows[order].astype(np.int32))


def _digest(dataset: Dataset, users: _Side, items: _Side, histories: Ragged) -> str:
    found = hashlib.sha256(dataset.key.encode())
    arrays = [histories.offsets, histories.values]
    for side in (users, items):
        found.update("\n".join(map(str, [*side.ids.to_pylist(), ""])).encode())
        arrays.append(side.kept)
        for feature in side.features:
            found.update("\n".join(map(str, [*feature.categories.to_pylist(), ""])).encode())
            arrays += [feature.bags.offsets, feature.bags.values]
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _titles(dataset: Dataset, vocabulary: Vocabulary, items: _Side) -> pa.Array | None:
    if dataset.titles is None and vocabulary.titles is None:
        return None
    nulls = pa.nulls(dataset.item_count, pa.string())
    added = pa.nulls(len(items.ids), pa.string())
    if vocabulary.titles is not None:
        added = vocabulary.titles.take(pa.array(items.then))
    return pa.concat_arrays([nulls if dataset.titles is None else dataset.titles, added])


def _write(
    folder: Path,
    dataset: Dataset,
    key: str,
    users: _Side,
    items: _Side,
    histories: Ragged,
    titles: pa.Array | None,
) -> None:
    for part in ("train", "validation", "test"):
        for path in dataset.folder.glob(f"{part}_*.npy"):
            _link(path, folder / path.name)
        nobody = Ragged(np.zeros(len(users.ids) + 1, np.int64), np.empty(0, np.int32))
        by_user = storage.map_ragged(dataset.folder, f"by_user_{part}")
        storage.write_ragged(folder, f"by_user_{part}", _with_rows(by_user, nobody, before_last=True))
    for name, ragged in (("known", dataset.seen("test")), ("history", dataset.history())):
        storage.write_ragged(folder, f"by_user_{name}", _with_rows(ragged, histories, before_last=True))
    storage.write_ids(folder, "user", pa.concat_arrays([dataset.user_ids, users.ids]), None)
    storage.write_ids(folder, "item", pa.concat_arrays([dataset.item_ids, items.ids]), titles)
    names = {}
    for side, added in (("user", users), ("item", items)):
        np.save(folder / f"kept_{side}s.npy", added.kept)
        for number, feature in enumerate(added.features):
            write_feature(folder, side, number, feature)
        names[f"{side}_features"] = [feature.name for feature in added.features]
    report = dataset.report | {"kept_users": len(users.ids), "kept_items": len(items.ids)}
    meta = {"key": key, "name": dataset.name, "item_name": dataset.item_name, "report": report}
    storage.write_meta(folder, meta | names)


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
