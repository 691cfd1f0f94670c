"""What an export folder holds, checked and opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.ranking.catalogue import Catalogue
from trainer.recommender.index import Index
from trainer.recommender.manifest import (
    COUNTED,
    DISLIKED,
    INDEX,
    ITEM_SCALE,
    ITEM_VECTORS,
    ITEMS,
    PAST,
    USER_SCALE,
    USER_VECTORS,
    USERS,
    check_files,
    read_manifest,
)
from trainer.recommender.query import QueryMaker
from trainer.recommender.vectors import VectorTable
from trainer.storage.attributes import Ragged

NOT_ATTRIBUTES = ["item", "title"]


@dataclass(frozen=True)
class ExportFolder:
    """An opened export; nothing in it is written to, so that threads may share it.

    Attributes:
        folder: Its place.
        manifest: As `read_manifest` returns it.
        catalogue: The items.
        user_ids: Raw ids of the users in the order of their vectors.
        items: Candidate vectors.
        users: Query vectors.
        past: Item rows of each user, oldest first where there is an order.
        counted: Which of these the query vector is a sum over, bool; None where it is no such sum.
        disliked: Item rows of each user that are explicit negatives; None without any.
        index: Index of the items, or None.
        queries: Query vectors of others.
    """

    folder: Path
    manifest: dict[str, Any]
    catalogue: Catalogue
    user_ids: pa.Array
    items: VectorTable
    users: VectorTable
    past: Ragged
    counted: Ragged | None
    disliked: Ragged | None
    index: Index | None
    queries: QueryMaker

    @property
    def learned(self) -> int:
        """Width of the learned part of candidate vectors, without a bias."""
        facts = self.manifest["query"]
        return facts["learned_dim"] - facts["bias"]


def open_export(folder: Path) -> ExportFolder:
    """Open an export after checking every file of it.

    Raises:
        UserError: The folder is no export of this version, or a file of it is missing or damaged.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    table = pq.read_table(folder / ITEMS)
    titles = table["title"].combine_chunks()
    catalogue = Catalogue(
        item_ids=table["item"].combine_chunks(),
        titles=None if titles.null_count == len(titles) else titles,
        item_name=manifest["item_name"],
        attributes=table.drop_columns(NOT_ATTRIBUTES),
    )
    past, counted = _ragged(folder, PAST), COUNTED in manifest["files"]
    items = VectorTable.open(folder / ITEM_VECTORS, folder / ITEM_SCALE)
    return ExportFolder(
        folder=folder,
        manifest=manifest,
        catalogue=catalogue,
        user_ids=pq.read_table(folder / USERS)["user"].combine_chunks(),
        items=items,
        users=VectorTable.open(folder / USER_VECTORS, folder / USER_SCALE),
        past=past,
        counted=Ragged(past.offsets, np.load(folder / COUNTED, mmap_mode="r")) if counted else None,
        disliked=_ragged(folder, DISLIKED) if f"{DISLIKED}_values.npy" in manifest["files"] else None,
        index=Index.open(folder / INDEX, manifest["index"]) if manifest["index"] else None,
        queries=QueryMaker(folder, manifest["query"], items),
    )


def _ragged(folder: Path, name: str) -> Ragged:
    offsets, values = (
        np.asarray(np.load(folder / f"{name}_{part}.npy", mmap_mode="r", allow_pickle=False))
        for part in ("offsets", "values")
    )
    return Ragged(offsets, values)
