"""`export`: a run as a folder of files that others use, checked against the exact ranking."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.resolved import ResolvedConfig
from trainer.errors import UserError
from trainer.exporting.choice import Choice, Chooser
from trainer.exporting.gate import draw_sample
from trainer.exporting.index_kinds import INDEXES, check_index
from trainer.exporting.model_card import model_card
from trainer.exporting.publish import check_place, published, write_manifest
from trainer.exporting.query import write_query
from trainer.exporting.tables import Past, write_items, write_past, write_users
from trainer.exporting.vectors import (
    item_vectors,
    largest_of,
    served,
    user_vectors,
    write_exact,
    write_item_table,
    write_stored,
)
from trainer.exporting.weights import map_weights
from trainer.facts.histories import history_spec
from trainer.object_storage.folder_upload import folder_to_publish
from trainer.object_storage.urls import is_url, local_path
from trainer.recommender.manifest import (
    CARD,
    FORMAT,
    INDEX,
    ITEM_SCALE,
    ITEM_VECTORS,
    MANIFEST,
    USER_SCALE,
    USER_VECTORS,
    VERSION,
    WEIGHTS,
)
from trainer.recommender.search import Search
from trainer.recommender.vectors import DTYPES, VectorTable
from trainer.runs.checkpoint_store import METRICS, SavedCheckpoint, check_is_run, finished_step, newest
from trainer.runs.run_folder import TrainedRun, open_run, run_config

PACKAGES = ("shardtower", "torch", "torchrec", "numpy", "pyarrow", "pandas", "faiss-cpu")
"""Distributions whose versions a manifest names."""
SCRATCH = "scratch"
"""Folder of what only the export itself needs."""


@dataclass(frozen=True)
class Wishes:
    """What an export shall be.

    Attributes:
        dtype: Type of the vectors, one of `trainer.recommender.vectors.DTYPES`.
        index: Kind of the index, or `none`.
        min_recall: Least recall@10 and @100 against the exact ranking, 0 to 1.
        replace: Whether an earlier export in the same place may be replaced.
    """

    dtype: str = "float32"
    index: str = "none"
    min_recall: float = 0.98
    replace: bool = False


def export(run: Path, place: str | Path, wishes: Wishes = Wishes()) -> dict[str, Any] | None:
    """Write an export of a run's newest checkpoint, into a folder or to an address of an object store.

    Under torchrun the first rank writes, and the others have nothing to do: towers open whole in one process,
    from a file that is memory-mapped, so that tables need not fit into memory.

    Args:
        run: Run folder.
        place: Of the export.
        wishes: What it shall be.

    Returns:
        The manifest; None on ranks other than the first.

    Raises:
        UserError: The place is taken, or the gate is not passed; nothing is left behind.
        CheckpointError: The folder is no run, or holds no undamaged checkpoint.
    """
    if int(os.environ.get("RANK", 0)) != 0:
        return None
    _check_wishes(wishes)
    check_is_run(run)
    if not is_url(place):
        return _export(run, local_path(place), wishes)
    with folder_to_publish(str(place), MANIFEST, wishes.replace) as folder:
        return _export(run, folder, wishes)


def _export(run: Path, folder: Path, wishes: Wishes) -> dict[str, Any]:
    check_place(folder, wishes.replace)
    config, saved = run_config(run), newest(run, finished_step(run))
    with published(folder, wishes.replace) as beside:
        trained = open_run(run, saved, allocate=lambda model: map_weights(model, beside / WEIGHTS))
        check_index(wishes.index, len(trained.vocabulary.item_ids))
        return _Export(run, config, saved, trained, beside, wishes).write()


@dataclass(frozen=True)
class _Export:
    """One export: what is exported, the folder that is written, and what it shall be."""

    run: Path
    config: ResolvedConfig
    saved: SavedCheckpoint
    trained: TrainedRun
    folder: Path
    wishes: Wishes

    def write(self) -> dict[str, Any]:
        """Write all files and return the manifest."""
        folder, vocabulary = self.folder, self.trained.vocabulary
        scratch = folder / SCRATCH
        scratch.mkdir()
        write_items(folder, vocabulary)
        write_users(folder, vocabulary)
        past = write_past(folder, vocabulary, history_spec(self.config.model.history).ordered)
        pairs = self.trained.tower_pairs
        exact_items = write_exact(
            scratch / ITEM_VECTORS, item_vectors(pairs), len(vocabulary.item_ids), self.run
        )
        exact_users = self._exact_users(scratch, past)
        query = write_query(folder, self.config, self.trained, past.items)
        choice = self._choose(scratch, exact_items, exact_users, query)
        write_stored(exact_users, self.wishes.dtype, folder / USER_VECTORS, folder / USER_SCALE)
        items = write_stored(exact_items, self.wishes.dtype, folder / ITEM_VECTORS, folder / ITEM_SCALE)
        write_item_table(folder, vocabulary.item_ids, items)
        if choice.index is not None:
            import faiss

            faiss.write_index(choice.index, str(folder / INDEX))
        shutil.rmtree(scratch)
        manifest = self._manifest(items.dim, query, choice)
        files = {path.name for path in folder.iterdir()}
        (folder / CARD).write_text(model_card(manifest, files), encoding="utf-8")
        return write_manifest(folder, manifest)

    def _exact_users(self, scratch: Path, past: Past) -> np.ndarray:
        """Return the query vectors of all users as they are served: with all that is known of them."""
        vocabulary = self.trained.vocabulary
        ordered = history_spec(self.config.model.history).ordered
        whole = past if ordered and vocabulary.held_out_sequences is not None else None
        users = user_vectors(served(self.trained.tower_pairs, whole))
        return write_exact(scratch / USER_VECTORS, users, len(vocabulary.user_ids), self.run)

    def _choose(
        self, scratch: Path, exact_items: np.ndarray, exact_users: np.ndarray, query: dict[str, Any]
    ) -> Choice:
        """Pass the gate."""
        vocabulary, learned = self.trained.vocabulary, query["learned_dim"] - query["bias"]
        exact = Search(VectorTable(exact_items), vocabulary.item_ids, None, learned, str(self.run))
        compute = user_vectors(self.trained.tower_pairs)
        sample = draw_sample(vocabulary, compute, largest_of(exact_users), exact)

        def vectors(dtype: str) -> VectorTable:
            names = f"tried_{dtype}.npy", f"tried_{dtype}_scale.npy"
            return write_stored(exact_items, dtype, *(scratch / name for name in names))

        chooser = Chooser(sample, vectors, vocabulary.item_ids, learned, str(self.run))
        return chooser.choose(self.wishes.dtype, self.wishes.index, self.wishes.min_recall)

    def _manifest(self, dim: int, query: dict[str, Any], choice: Choice) -> dict[str, Any]:
        vocabulary, metrics = self.trained.vocabulary, self.run / METRICS
        return {
            "format": FORMAT,
            "version": VERSION,
            "packages": _versions(),
            "checkpoint": {"step": self.saved.step, "digest": self.saved.digest},
            "item_name": vocabulary.item_name,
            "users": len(vocabulary.user_ids),
            "items": len(vocabulary.item_ids),
            "interactions": len(vocabulary.seen.values),
            "dim": dim,
            "dtype": choice.dtype,
            "index": choice.facts(),
            "ordered": vocabulary.sequences is not None,
            "query": query,
            "checks": {"min_recall": self.wishes.min_recall, **choice.checks.facts()},
            "metrics": json.loads(metrics.read_text()) if metrics.exists() else None,
            "config": asdict(self.config),
        }


def _check_wishes(wishes: Wishes) -> None:
    for option, value, table in (("--dtype", wishes.dtype, DTYPES), ("--index", wishes.index, INDEXES)):
        if value not in table:
            raise UserError(f"{option} {value}: expected one of {', '.join(table)}")
    if not 0 < wishes.min_recall <= 1:
        raise UserError(f"--min-recall {wishes.min_recall:g}: a number above 0 and up to 1 is needed")


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
