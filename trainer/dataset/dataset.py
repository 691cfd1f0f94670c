"""Prepare the interactions and attributes of a source as a data set on disk, memory-mapped by all ranks.

Preparing streams: record batches are encoded as they come and written out, then cleaned and split a block of
rows, or of users, at a time. Its peak is about 500 MB of memory besides the vocabulary, and 6 bytes an
interaction (draws of the random split, masks); a k-core takes 20, a split by time or by user up to 30. The
prepared form takes up to 40 bytes an interaction on disk (12 of them for its place in time; up to 56 with a
validation split), and 28 more while it is made.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.dataset.clean import clean, explicit_negatives
from trainer.dataset.encode import COLUMNS, encode, id_notes
from trainer.dataset.impressions import SHOWN, write_impressions
from trainer.dataset.interactions import Interactions
from trainer.dataset.sequences import Sequences, map_sequences, sequences_of
from trainer.dataset.split import BY_TIME, NEGATIVE, NEGATIVES, PARTS, Rule, check_split
from trainer.dataset.write_splits import count_known, count_repeats, parts_of_rows, write_parts
from trainer.errors import DataError
from trainer.sources.schema import SourceTables
from trainer.storage import arrays
from trainer.storage.attribute_store import map_dense, map_features, write_attributes
from trainer.storage.attributes import DenseFeature, Feature, Ragged

FILE_ORDER = "each user's interactions are taken to stand in order of time, the oldest first"
"""What to say of data whose order is that of the file."""


@dataclass(frozen=True)
class Dataset:
    """A prepared data set; see `prepare`.

    Attributes:
        folder: Folder of the prepared data.
        key: Hash of source and settings, in the folder's name.
        name: Name of the data set.
        item_name: What an item is called, e.g. `movie`.
        user_count: Users in the vocabulary; row `user_count` is reserved for unknown users.
        item_count: Items in the catalogue: every item of any split.
        train: Training interactions.
        validation: Validation interactions; there may be none.
        test: Test interactions; under `none` there are none.
        user_ids: Raw ids of users (int64 or string) in row order: by first appearance.
        item_ids: Raw ids of items, likewise.
        titles: (item_count,) strings, null where unknown, or None.
        user_features: Attributes by name; `user_count + 1` rows, the last one unknown.
        item_features: Attributes by name; `item_count` rows.
        user_dense: Numbers and vectors by name, of the same rows as `user_features`.
        item_dense: The same for items.
        attributes: A text on every attribute, used or left out, by side (`user`, `item`) and name.
        report: What was read, dropped and kept.
        notes: Sentences on how the files were understood and what of them was left out.
        kept_users: (n,) int64 rows that have vectors of their own without training interactions; see
            `trainer.warm_start.retained_ids`.
        kept_items: The same for items.
        negatives: Interactions below `min_value` that are explicit negatives of the training, of users and
            items with training interactions; or None.
        shown: Impressions that are, likewise; see `impressions.write_impressions`.
        has_order: Whether it is known which interaction of a user came before another.
    """

    folder: Path
    key: str
    name: str
    item_name: str
    user_count: int
    item_count: int
    train: Interactions
    validation: Interactions
    test: Interactions
    user_ids: pa.Array
    item_ids: pa.Array
    titles: pa.Array | None
    user_features: dict[str, Feature]
    item_features: dict[str, Feature]
    user_dense: dict[str, DenseFeature]
    item_dense: dict[str, DenseFeature]
    attributes: dict[str, dict[str, str]]
    report: dict[str, int | float | str]
    notes: list[str]
    kept_users: np.ndarray
    kept_items: np.ndarray
    negatives: Interactions | None = None
    shown: Interactions | None = None
    has_order: bool = False

    @property
    def evaluated_items(self) -> int:
        """Number of items that evaluations rank: all but the last, which an earlier run retained."""
        return self.item_count - int(self.report.get("kept_items", 0))

    def item_popularity(self) -> np.ndarray:
        """Return the summed weights of each item's training interactions, (item_count,) float64."""
        return np.bincount(self.train.items, self.train.weights, self.item_count).astype(np.float64)

    def explicit_negatives(self) -> Interactions | None:
        """Return all explicit negatives of the training; None without any."""
        return self.shown if self.negatives is None else self.negatives.followed_by(self.shown)

    def train_by_user(self) -> Ragged:
        """Training items of each user, of the same shape as `seen`."""
        return self._by_user("train")

    def seen(self, split: str) -> Ragged:
        """Return the items of each user before `split`: training items, for `test` validation items too.

        Returns:
            `user_count + 1` rows, item rows ascending within a user; the last row is empty.
        """
        return self._by_user("known" if split == "test" else "train")

    def history(self) -> Ragged:
        """Return each user's history: training items or, for a retained user, those of the earlier run."""
        return self._by_user("history")

    def sequences(self, split: str) -> Sequences:
        """Return the items of each user before `split`, as `seen` does, but oldest first, with their times.

        Of interactions of one second, the earlier in the file is the older. A retained user has the items of
        the earlier run before either split, as in `history`: they are there to be looked up, not trained on.

        Raises:
            DataError: The interactions have no order.
        """
        if not self.has_order:
            raise DataError(
                f"{self.name}: these interactions have no timestamps, which say what a user did last. Name "
                "their column (--data.timestamp_column) or, where a user's rows stand in order of time, use "
                "--data.order file"
            )
        found = map_sequences(self.folder, "known") if split == "test" else None
        return found or map_sequences(self.folder, "train") or self._unwritten_sequences(split)

    def _unwritten_sequences(self, split: str) -> Sequences:
        """Return the sequences of data that were prepared before they were written with them."""
        before = [self.train, self.validation] if split == "test" else [self.train]
        users, items, times = (
            np.concatenate([getattr(part, column) for part in before])
            for column in ("users", "items", "timestamps")  # there was no other order then
        )
        return sequences_of(users, items, times, self.user_count + 1)

    def _by_user(self, name: str) -> Ragged:
        own = (self.folder / f"by_user_{name}_offsets.npy").exists()
        return arrays.map_ragged(self.folder, f"by_user_{name if own else 'train'}")

    def held_out(self, split: str) -> Ragged:
        """Return the items of `split` by user, of the same shape as `seen`."""
        return arrays.map_ragged(self.folder, f"by_user_{split}")

    def served_held_out(self) -> Ragged:
        """Return the test items of each user or, for a retained user, those that the earlier run knew of."""
        own = (self.folder / "by_user_held_out_offsets.npy").exists()
        return arrays.map_ragged(self.folder, "by_user_held_out") if own else self.held_out("test")

    def user_row(self, raw_id: str | int) -> int | None:
        """Return the row of a user, or None. Command-line ids are text, so "1" finds the integer 1."""
        return row_of(self.user_ids, raw_id)

    def item_row(self, raw_id: str | int) -> int | None:
        """Return the row of an item, or None."""
        return row_of(self.item_ids, raw_id)


def prepare(
    make_source: Callable[[], SourceTables],
    source_key: dict,
    cache: Path,
    *,
    name: str,
    min_value: float | None,
    k_core: int,
    split: Rule,
    test_size: float,
    validation_size: float,
    split_seed: int,
    validation_seed: int | None = None,
    order: Literal["time", "file"] = "time",
    repeats: Literal["drop", "keep"] = "drop",
    negatives: str = "drop",
    attribute_kinds: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Return the folder of the prepared data set, made if it is not there or not whole.

    Interactions are cleaned in this order: weights of 0 and values below `min_value` are dropped; of a (user,
    item) pair that stands several times the latest row stays (see `split.last_of_each_pair`), or the first in
    splits by time, which must not know the future; then the `k_core` is taken. The rest keeps its file order,
    is numbered from 0 and split (see `split.split_rows`); a source with a held-out file is split by that
    file, whatever `split` says but for `none`, which trains on both files. The vocabulary holds the remaining
    users and items in the order in which the files first name them. `attributes.encode_attribute`
    says what attributes become.

    Args:
        make_source: Called only if the source has to be read.
        source_key: What decides the content of the source: paths, sizes, modification times, options.
        cache: Folder of prepared data sets; processes that prepare the same one at once wait for the first.
        name: Name of the data set, with which that of the folder begins.
        min_value: Smallest value of a positive; None: all are.
        k_core: Least interactions of a user and of an item.
        split: Rule of the split.
        test_size: Share of the test split.
        validation_size: Share of the validation split; 0: none.
        split_seed: Seed of both.
        validation_seed: Seed of the validation split alone, by default `split_seed`.
        order: Whether timestamps, or places in the file, tell which of a user's interactions is older.
        repeats: Whether a pair from before the test split counts when it stands there again, in splits by
            time: `drop` leaves it out, `keep` adds it. The other splits are the same.
        negatives: `use` keeps the dropped values below `min_value` as explicit negatives of the training,
            see `clean.explicit_negatives`, and impressions, see `impressions.write_impressions`.
        attribute_kinds: Kinds of attributes that were asked for, by name.

    Raises:
        DataError: The settings do not suit the source or leave nothing.
    """
    check_split(split, test_size, validation_size, split_seed)
    settings: dict[str, Any] = {"min_value": min_value, "k_core": k_core, "split": split}
    settings |= {"test_size": test_size, "validation_size": validation_size, "split_seed": split_seed}
    if validation_seed not in (None, split_seed):  # so that folders keep their names
        settings["validation_seed"] = validation_seed
    if split in BY_TIME:  # likewise
        settings["repeats"] = repeats
    settings["order"] = order  # which also tells folders with sequences from older ones without
    if negatives != "drop":
        settings["negatives"] = negatives
    if attribute_kinds:
        settings["attribute_kinds"] = dict(attribute_kinds)
    identity = json.dumps([arrays.FORMAT, name, source_key, settings], sort_keys=True, default=str)
    key = hashlib.sha256(identity.encode()).hexdigest()[:20]
    folder = cache / f"{name}-{key}"
    if arrays.is_whole(folder):
        return folder
    with ExitStack() as lock:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            lock.enter_context(arrays.locked(folder))
        except OSError as error:
            raise DataError(
                f"{cache}: {error.strerror}. Choose a folder for prepared data: --data.cache"
            ) from error
        if not arrays.is_whole(folder):
            with arrays.published(folder) as temporary:
                _build(temporary, make_source(), key, name, settings)
    return folder


def open_dataset(folder: Path) -> Dataset:
    """Memory-map a prepared data set.

    Raises:
        DataError: A file of it is missing or truncated.
    """
    meta = arrays.read_meta(folder, "Prepare it anew: start the same command again")
    has_timestamps = (folder / "train_timestamp.npy").exists()
    user_ids, _ = arrays.map_ids(folder, "user")
    item_ids, titles = arrays.map_ids(folder, "item")
    train, validation, test = (_map_part(folder, part) for part in PARTS)
    return Dataset(
        folder=folder,
        key=meta["key"],
        name=meta["name"],
        item_name=meta["item_name"],
        user_count=len(user_ids),
        item_count=len(item_ids),
        train=train,
        validation=validation,
        test=test,
        user_ids=user_ids,
        item_ids=item_ids,
        titles=titles,
        user_features=map_features(folder, "user", meta),
        item_features=map_features(folder, "item", meta),
        user_dense=map_dense(folder, "user", meta),
        item_dense=map_dense(folder, "item", meta),
        attributes=meta.get("attributes", {}),
        report=meta["report"],
        notes=meta.get("notes", []),
        kept_users=_kept(folder, "user"),
        kept_items=_kept(folder, "item"),
        negatives=_map_part(folder, NEGATIVES) if (folder / f"{NEGATIVES}_user_id.npy").exists() else None,
        has_order=meta.get("has_order", has_timestamps),
        shown=_map_part(folder, SHOWN) if (folder / f"{SHOWN}_user_id.npy").exists() else None,
    )


def _build(folder: Path, source: SourceTables, key: str, name: str, settings: dict) -> None:
    if settings["split"] == "given" and source.held_out is None:
        raise DataError(f"{name}: --data.split given needs a file of held-out interactions: --data.held_out")
    raw = folder / "raw"
    raw.mkdir()
    encoded = encode(source, name, raw, file_order=settings["order"] == "file")
    notes = id_notes(encoded.ids)
    notes += [FILE_ORDER] if settings["order"] == "file" else []
    rule: Rule = settings["split"] if source.held_out is None or settings["split"] == "none" else "given"
    by_time = rule in (*BY_TIME, "none")
    stays, dropped, repeats = clean(encoded, name, settings["min_value"], settings["k_core"], by_time)
    parts = parts_of_rows(encoded, stays, rule, settings)
    repeated = count_repeats(encoded, parts, rule, repeats, settings.get("repeats") == "keep")
    dropped["duplicates"] -= int(np.count_nonzero(parts >= 0)) - int(np.count_nonzero(stays))
    rated_low = settings.get("negatives") == "use" and settings["min_value"] is not None
    if rated_low:
        parts[explicit_negatives(encoded, stays, parts, settings, rule)] = NEGATIVE
    del stays, repeats
    weightless = encoded.weightless or 0
    report: dict[str, int | float | str] = {
        "read": len(parts) + weightless,
        "skipped": source.bad_rows.skipped,
    }
    report |= repeated
    report |= dropped if encoded.weightless is None else {"weightless": weightless, **dropped}
    report |= {"split": rule} | {part: int(np.count_nonzero(parts == p)) for p, part in enumerate(PARTS)}
    if rated_low:
        report["negatives"] = int(np.count_nonzero(parts == NEGATIVE))
    users, items = write_parts(folder, encoded, parts)
    has_order = encoded.has_order
    del encoded
    shutil.rmtree(raw)
    if source.impressions is not None and settings.get("negatives") == "use":
        found, remarks = write_impressions(folder, name, source, users, items, rule)
        report |= found
        notes += remarks
    ids, tables = {"user": users, "item": items}, {"user": source.users, "item": source.items}
    report |= count_known(folder, name, rule, ids, tables)
    known_users = pa.concat_arrays([users, pa.nulls(1, users.type)])  # the null: the row of unknown users
    ids = {"user": known_users, "item": items}
    attributes, titles = write_attributes(folder, ids, source, settings.get("attribute_kinds", {}))
    arrays.write_ids(folder, "user", users, None)
    arrays.write_ids(folder, "item", items, titles)
    report |= {"users": len(users), "items": len(items)}
    notes = [*source.bad_rows.notes, *notes]
    meta = {"key": key, "name": name, "item_name": source.item_name, "report": report, "notes": notes}
    arrays.write_meta(folder, meta | {"has_order": has_order} | attributes)


def _map_part(folder: Path, part: str) -> Interactions:
    users, items, *others = (arrays.map_array(folder, f"{part}_{column}") for column in COLUMNS)
    assert users is not None
    assert items is not None
    return Interactions(users, items, *others)


def _kept(folder: Path, side: str) -> np.ndarray:
    rows = arrays.map_array(folder, f"kept_{side}s")
    return np.empty(0, np.int64) if rows is None else rows


def row_of(ids: pa.Array, raw_id: str | int) -> int | None:
    """Return the position of a raw id, or None; a scan takes some milliseconds per million ids."""
    text = str(raw_id)
    if pa.types.is_int64(ids.type):
        try:
            number = pa.scalar(int(text), pa.int64())
        except (ValueError, OverflowError):
            return None
        row = pc.index(ids, number).as_py() if str(number.as_py()) == text else -1
    else:
        row = pc.index(ids, pa.scalar(text, ids.type)).as_py()
    return None if row < 0 else row
