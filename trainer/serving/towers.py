"""What the towers of a run make of its users, its items and of somebody's history."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from trainer.errors import UserError
from trainer.model.served import Served, candidate_vectors, query_from_history, query_vectors
from trainer.serving.vectors import Vectors, keep_vectors
from trainer.training.published import Saved
from trainer.training.runs import TrainedRun, open_run, weight_bytes

CPU = torch.device("cpu")
ROWS_AT_ONCE = 262_144
LARGEST_KEPT = 2**30
"""Bytes of tables of which the vectors of all users are kept."""


def query_and_items(run: Path, saved: Saved, user: int) -> tuple[np.ndarray, np.ndarray]:
    """Query vector (D,) of a user's row and candidate vectors (items, D) of the catalogue.

    Where the tables are small, the vectors of all users are made and kept.
    """
    trained = open_run(run, saved)
    items = _item_vectors(trained)
    if weight_bytes(run) > LARGEST_KEPT:
        return query_vectors(trained.served, np.array([user]), CPU)[0].numpy(), items.numpy()
    users = _in_blocks(query_vectors, trained, len(trained.vocabulary.user_ids))
    keep_vectors(run, saved, Vectors(users.numpy(), items.numpy()))
    return users[user].numpy(), items.numpy()


def query_of_history(run: Path, saved: Saved, history: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Query vector (D,) of someone who has the items in these rows, and candidate vectors (items, D).

    Raises: UserError for a run that was trained on values.
    """
    trained = open_run(run, saved)
    if trained.loss in ("mse", "bce"):
        raise UserError(
            f"--history: {run} was trained with --loss.name {trained.loss}, which needs ratings, and a "
            "history has none. Name a user with --user, or a run with --loss.name softmax or bpr"
        )
    items = _item_vectors(trained)
    histories = torch.tensor([len(history)]), torch.tensor(history)
    return query_from_history(trained.served, histories, items)[0].numpy(), items.numpy()


def _item_vectors(trained: TrainedRun) -> torch.Tensor:
    return _in_blocks(candidate_vectors, trained, len(trained.vocabulary.item_ids))


def _in_blocks(
    vectors: Callable[[Sequence[Served], np.ndarray, torch.device], torch.Tensor],
    trained: TrainedRun,
    count: int,
) -> torch.Tensor:
    """Vectors of rows 0 to below `count`."""
    return torch.cat(
        [
            vectors(trained.served, np.arange(start, min(start + ROWS_AT_ONCE, count)), CPU)
            for start in range(0, count, ROWS_AT_ONCE)
        ]
    )
