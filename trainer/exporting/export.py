"""`export`: a run as a folder of files that others use, checked against the exact ranking."""

import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainer.config.resolved import ResolvedConfig
from trainer.exporting.publish import check_place, published
from trainer.exporting.query import write_query
from trainer.exporting.tables import write_items, write_past, write_users
from trainer.exporting.vectors import (
    item_vectors,
    served,
    user_vectors,
    write_exact,
    write_item_table,
    write_stored,
)
from trainer.exporting.weights import map_weights
from trainer.facts.histories import history_spec
from trainer.recommender.manifest import (
    FORMAT,
    ITEM_SCALE,
    ITEM_VECTORS,
    MANIFEST,
    USER_SCALE,
    USER_VECTORS,
    VERSION,
    WEIGHTS,
    digest,
    file_sha256,
)
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


def export(run: Path, folder: Path, wishes: Wishes = Wishes()) -> dict[str, Any] | None:
    """Write an export of a run's newest checkpoint.

    Under torchrun the first rank writes, and the others have nothing to do: towers open whole in one process,
    from a file that is memory-mapped, so that tables need not fit into memory.

    Args:
        run: Run folder.
        folder: Place of the export.
        wishes: What it shall be.

    Returns:
        The manifest; None on ranks other than the first.

    Raises:
        UserError: The place is taken, or the gate is not passed; nothing is left behind.
        CheckpointError: The folder is no run, or holds no undamaged checkpoint.
    """
    if int(os.environ.get("RANK", 0)) != 0:
        return None
    check_is_run(run)
    check_place(folder, wishes.replace)
    config, saved = run_config(run), newest(run, finished_step(run))
    with published(folder, wishes.replace) as beside:
        trained = open_run(run, saved, allocate=lambda model: map_weights(model, beside / WEIGHTS))
        manifest = _write(run, config, saved, trained, beside, wishes)
    return manifest


def _write(
    run: Path,
    config: ResolvedConfig,
    saved: SavedCheckpoint,
    trained: TrainedRun,
    folder: Path,
    wishes: Wishes,
) -> dict[str, Any]:
    vocabulary, pairs = trained.vocabulary, trained.tower_pairs
    scratch = folder / SCRATCH
    scratch.mkdir()
    write_items(folder, vocabulary)
    write_users(folder, vocabulary)
    ordered = history_spec(config.model.history).ordered
    past = write_past(folder, vocabulary, ordered)
    whole = ordered and vocabulary.held_out_sequences is not None
    counts = len(vocabulary.user_ids), len(vocabulary.item_ids)
    exact_items = write_exact(scratch / ITEM_VECTORS, item_vectors(pairs), counts[1], run)
    users = user_vectors(served(pairs, past if whole else None))
    exact_users = write_exact(scratch / USER_VECTORS, users, counts[0], run)
    items = write_stored(exact_items, wishes.dtype, folder / ITEM_VECTORS, folder / ITEM_SCALE)
    write_stored(exact_users, wishes.dtype, folder / USER_VECTORS, folder / USER_SCALE)
    write_item_table(folder, vocabulary.item_ids, items)
    query = write_query(folder, config, trained)
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
    metrics = run / METRICS
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "packages": _versions(),
        "checkpoint": {"step": saved.step, "digest": saved.digest},
        "item_name": vocabulary.item_name,
        "users": counts[0],
        "items": counts[1],
        "dim": items.dim,
        "dtype": wishes.dtype,
        "index": None,
        "ordered": vocabulary.sequences is not None,
        "query": query,
        "metrics": json.loads(metrics.read_text()) if metrics.exists() else None,
        "config": asdict(config),
    }
    return write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of a folder that is otherwise whole, with size and SHA-256 of every file."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = json.loads(json.dumps(manifest | {"files": files}))
    text = json.dumps(manifest | {"own_sha256": digest(manifest)}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
