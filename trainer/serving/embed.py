"""What the towers of a run make of its users, its items and of somebody's history."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from trainer.batching.tower_inputs import USER_HISTORY
from trainer.model.retriever import TowerPair, candidate_vectors, query_from_history, query_vectors
from trainer.runs.checkpoint_store import SavedCheckpoint
from trainer.runs.run_folder import TrainedRun, open_run, weight_bytes
from trainer.serving.vector_cache import Vectors, keep_vectors

CPU = torch.device("cpu")
ROWS_AT_ONCE = 262_144
LARGEST_KEPT = 2**30
"""Bytes of tables of which the vectors of all users are kept."""


def query_and_items(run: Path, saved: SavedCheckpoint, user: int) -> tuple[np.ndarray, np.ndarray]:
    """Query vector (D,) of a user's row and candidate vectors (items, D) of the catalogue.

    Where the tables are small, the vectors of all users are made and kept.
    """
    trained = open_run(run, saved)
    items = _item_vectors(trained)
    if kept := _keep(run, saved, trained, items):
        return kept.users[user], kept.items
    return query_vectors(trained.tower_pairs, np.array([user]), CPU)[0].numpy(), items.numpy()


def query_of_history(
    run: Path, saved: SavedCheckpoint, history: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Query vector (D,) of someone who has the items in these rows, and candidate vectors (items, D).

    Vectors are kept as `query_and_items` does, where the next history can be answered by them.
    """
    trained = open_run(run, saved)
    items = _item_vectors(trained)
    if USER_HISTORY not in trained.tower_pairs[0].user_inputs:
        _keep(run, saved, trained, items)
    histories = torch.tensor([len(history)]), torch.tensor(history)
    return query_from_history(trained.tower_pairs, histories, items)[0].numpy(), items.numpy()


def _keep(run: Path, saved: SavedCheckpoint, trained: TrainedRun, items: torch.Tensor) -> Vectors | None:
    """Keep what answers without towers; None: the tables are too large."""
    if weight_bytes(run) > LARGEST_KEPT:
        return None
    users = _in_blocks(query_vectors, trained.tower_pairs, len(trained.vocabulary.user_ids))
    # The towers' own vectors of histories of one item: a sum over more is theirs but for its root.
    rows = np.arange(len(items))
    single = [
        replace(part, user_inputs=dict.fromkeys(part.user_inputs, rows)) for part in trained.tower_pairs[1:]
    ]
    histories = _in_blocks(query_vectors, single, len(items)) if single else items[:, :0]
    vectors = Vectors(users.numpy(), items.numpy(), histories.numpy())
    keep_vectors(run, saved, vectors)
    return vectors


def _item_vectors(trained: TrainedRun) -> torch.Tensor:
    return _in_blocks(candidate_vectors, trained.tower_pairs, len(trained.vocabulary.item_ids))


def _in_blocks(
    vectors: Callable[[Sequence[TowerPair], np.ndarray, torch.device], torch.Tensor],
    tower_pairs: Sequence[TowerPair],
    count: int,
) -> torch.Tensor:
    """Vectors of rows 0 to below `count`."""
    return torch.cat(
        [
            vectors(tower_pairs, np.arange(start, min(start + ROWS_AT_ONCE, count)), CPU)
            for start in range(0, count, ROWS_AT_ONCE)
        ]
    )
