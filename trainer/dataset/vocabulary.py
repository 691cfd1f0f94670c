"""The vocabulary that a run keeps: raw ids, titles, attribute values, and the items of each user."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from trainer.dataset import storage
from trainer.dataset.attributes import Ragged
from trainer.dataset.dataset import Dataset, row_of

FOLDER = "vocabulary"
SEEN, HELD_OUT = "by_user_known", "by_user_test"
"""Names of the items of each user before the test split, and in it, as in prepared data."""


@dataclass(frozen=True)
class Vocabulary:
    """What recommending needs to know of a data set, without the data set.

    Attributes:
        user_ids: Raw ids of users (int64 or string) in row order.
        item_ids: Raw ids of items, likewise.
        titles: (items,) strings, null where unknown, or None.
        item_name: What an item is called, e.g. `movie`.
        seen: Items of each user before the test split (users + 1 rows, the last one empty).
        held_out: Items of each user in the test split, likewise; None in run folders of older versions.
        user_categories: Categories of each user attribute, in the order of its codes, by name.
        item_categories: The same for items.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    titles: pa.Array | None
    item_name: str
    seen: Ragged
    held_out: Ragged | None
    user_categories: dict[str, pa.Array]
    item_categories: dict[str, pa.Array]

    def user_row(self, raw_id: str | int) -> int | None:
        """Return the row of a user, or None. Command-line ids are text, so "1" finds the integer 1."""
        return row_of(self.user_ids, raw_id)

    def item_row(self, raw_id: str | int) -> int | None:
        """Return the row of an item, or None."""
        return row_of(self.item_ids, raw_id)


def copy_vocabulary(dataset: Dataset, folder: Path) -> None:
    """Write `folder`/vocabulary: what `open_vocabulary` needs when the data set is no longer there.

    Nothing is done if it is there already; that of another data set is replaced.
    """
    target = folder / FOLDER
    if storage.is_whole(target) and vocabulary_key(folder) == dataset.key and _has_held_out(target):
        return
    with storage.published(target) as temporary:
        storage.write_ids(temporary, "user", dataset.user_ids, None)
        storage.write_ids(temporary, "item", dataset.item_ids, dataset.titles)
        storage.write_ragged(temporary, SEEN, dataset.seen("test"))
        storage.write_ragged(temporary, HELD_OUT, dataset.served_held_out())
        names: dict[str, list[str]] = {}
        for side, features in (("user", dataset.user_features), ("item", dataset.item_features)):
            names[f"{side}_features"] = list(features)
            for number, feature in enumerate(features.values()):
                storage.write_column(temporary, f"{side}_categories_{number}", feature.categories)
        storage.write_meta(temporary, {"key": dataset.key, "item_name": dataset.item_name} | names)


def open_vocabulary(folder: Path) -> Vocabulary:
    """Memory-map the vocabulary that `copy_vocabulary` wrote into `folder`.

    Raises:
        DataError: A file of it is missing or truncated.
    """
    target = folder / FOLDER
    meta = storage.read_meta(target, "Train the run anew, into another folder")
    user_ids, _ = storage.map_ids(target, "user")
    item_ids, titles = storage.map_ids(target, "item")
    user_categories, item_categories = (
        {
            name: storage.map_column(target, f"{side}_categories_{number}")
            for number, name in enumerate(meta[f"{side}_features"])
        }
        for side in ("user", "item")
    )
    return Vocabulary(
        user_ids=user_ids,
        item_ids=item_ids,
        titles=titles,
        item_name=meta["item_name"],
        seen=storage.map_ragged(target, SEEN),
        held_out=storage.map_ragged(target, HELD_OUT) if _has_held_out(target) else None,
        user_categories=user_categories,
        item_categories=item_categories,
    )


def vocabulary_key(folder: Path) -> str:
    """Return the key of the data set whose vocabulary is in `folder`."""
    return storage.read_meta(folder / FOLDER, "Train the run anew, into another folder")["key"]


def _has_held_out(target: Path) -> bool:
    return (target / f"{HELD_OUT}_offsets.npy").exists()


def vocabulary_digest(folder: Path) -> str | None:
    """Return the SHA-256 of the vocabulary in `folder`, in hexadecimal; None if it has none."""
    files = sorted((folder / FOLDER).glob("*.arrow"))
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if files else None
