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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from trainer.dataset.clean import clean, explicit_negatives
from trainer.dataset.encode import encode, id_notes
from trainer.dataset.impressions import write_impressions
from trainer.dataset.split import BY_TIME, NEGATIVE, PARTS, Rule, check_split
from trainer.dataset.write_splits import count_known, count_repeats, parts_of_rows, write_parts
from trainer.errors import DataError
from trainer.sources.schema import SourceTables
from trainer.storage import arrays
from trainer.storage.attribute_store import write_attributes

FILE_ORDER = "each user's interactions are taken to stand in order of time, the oldest first"
"""What to say of data whose order is that of the file."""

Build = Callable[[Path, SourceTables, str, str, dict], None]
"""Writes a prepared data set: folder, source, key, name, settings."""


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
    build: Build | None = None,
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
        build: What writes the folder in place of this process alone, see `trainer.spark`.

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
                (build or _build)(temporary, make_source(), key, name, settings)
    return folder


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
    sizes = [int(np.count_nonzero(parts == part)) for part in range(len(PARTS))]
    read = len(parts)
    report = counted(source, read, encoded.weightless, repeated, dropped, rule, sizes)
    if rated_low:
        report["negatives"] = int(np.count_nonzero(parts == NEGATIVE))
    users, items = write_parts(folder, encoded, parts)
    has_order = encoded.has_order
    del encoded
    shutil.rmtree(raw)
    complete(folder, source, key, name, settings, Rows(users, items, rule, has_order, report, notes))


def counted(
    source: SourceTables,
    read: int,
    weightless: int | None,
    repeated: Mapping[str, int],
    dropped: Mapping[str, int],
    rule: Rule,
    sizes: Sequence[int],
) -> dict[str, int | float | str]:
    """Return the report on `read` rows of a weight above 0: left out by each rule, in each of PARTS.

    `weightless` is None where there are no weights; `repeated` is of `count_repeats`, `dropped` of `clean`.
    """
    report: dict[str, int | float | str] = {"read": read + (weightless or 0)}
    report |= {"skipped": source.bad_rows.skipped} | dict(repeated)
    report |= dropped if weightless is None else {"weightless": weightless, **dropped}
    return report | {"split": rule} | dict(zip(PARTS, sizes, strict=True))


@dataclass(frozen=True)
class Rows:
    """Interactions as they were written, and what is to be said of them.

    Attributes:
        users: Raw ids of users in row order.
        items: Raw ids of items, likewise.
        rule: Rule of the test split.
        has_order: Whether it is known which interaction of a user came before another.
        report: Counts of interactions.
        notes: Sentences on ids and order.
    """

    users: pa.Array
    items: pa.Array
    rule: Rule
    has_order: bool
    report: dict[str, int | float | str]
    notes: list[str]


def complete(folder: Path, source: SourceTables, key: str, name: str, settings: dict, rows: Rows) -> None:
    """Write what stands beside the interactions: impressions, attributes, ids, and `meta.json` at last."""
    users, items, rule, report, notes = rows.users, rows.items, rows.rule, rows.report, rows.notes
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
    arrays.write_meta(folder, meta | {"has_order": rows.has_order} | attributes)
