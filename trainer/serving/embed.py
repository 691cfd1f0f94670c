"""Query and candidate vectors from the towers of a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from trainer.batching.tower_inputs import USER, USER_HISTORY, USER_SEQUENCE
from trainer.model.retriever import (
    TowerPair,
    candidate_vectors,
    one_user,
    query_from_bag,
    query_from_history,
    query_vectors,
    query_with_history,
    someone_new,
)
from trainer.ranking.reasons import Past
from trainer.runs.checkpoint_store import SavedCheckpoint
from trainer.runs.run_folder import TrainedRun, open_run, weight_bytes
from trainer.serving.query_parts import known_items, query_parts
from trainer.serving.user_attributes import attribute_inputs
from trainer.serving.vector_cache import Vectors, save_vectors
from trainer.storage.attributes import Ragged
from trainer.storage.id_hashes import hashed_rows, ids_sharing

CPU = torch.device("cpu")
BLOCK = 262_144
"""Rows whose vectors are computed at a time."""
CACHED_BYTES = 2**30
"""Most bytes of tables for which the vectors of all users are cached."""


def query_and_items(run: Path, saved: SavedCheckpoint, user: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the query vector (D,) of a user's row and the candidate vectors (items, D) of the catalogue.

    Where the tables are small, the vectors of all users are computed and cached.
    """
    trained = open_run(run, saved)
    items = _item_vectors(trained)
    if cached := _cache(run, saved, trained, items):
        return cached.users[user], cached.items
    return query_vectors(trained.tower_pairs, np.array([user]), CPU)[0].numpy(), items.numpy()


def query_of_known_history(
    run: Path, saved: SavedCheckpoint, user: int, history: np.ndarray, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the query vector (D,) of a user's row whose ordered history is given, and the candidate vectors.

    Args:
        run: Run with ordered histories.
        saved: Its newest checkpoint.
        user: Row of the user.
        history: Item rows, oldest first.
        times: Their seconds; None where there are no timestamps.
    """
    trained = open_run(run, saved)
    query = query_with_history(trained.tower_pairs, user, history, times)
    return query[0].numpy(), _item_vectors(trained).numpy()


def query_of_history(
    run: Path, saved: SavedCheckpoint, history: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the query vector (D,) of a history of item rows and the candidate vectors (items, D).

    Vectors are cached as in `query_and_items`, unless the next history needs the towers anyway.
    """
    trained = open_run(run, saved)
    items = _item_vectors(trained)
    if not {USER_HISTORY, USER_SEQUENCE} & trained.tower_pairs[0].user_inputs.keys():
        _cache(run, saved, trained, items)
    histories = torch.tensor([len(history)]), torch.tensor(history)
    return query_from_history(trained.tower_pairs, histories, items)[0].numpy(), items.numpy()


def all_vectors(
    run: Path, saved: SavedCheckpoint, *, from_towers: bool
) -> tuple[np.ndarray | None, np.ndarray, Sequence[TowerPair]]:
    """Return what makes the scores of all users, and cache it as `query_and_items` does.

    Args:
        run: Run folder.
        saved: Its newest checkpoint.
        from_towers: Whether query vectors have to come from the towers in any case.

    Returns:
        (users, D) query vectors, or None; (items, D) candidate vectors; and the towers that make query
        vectors where there are none yet.
    """
    trained = open_run(run, saved)
    items = _item_vectors(trained)
    if not from_towers and (cached := _cache(run, saved, trained, items)):
        return cached.users, cached.items, ()
    return None, items.numpy(), trained.tower_pairs


def item_vectors(run: Path, saved: SavedCheckpoint) -> np.ndarray:
    """Return the candidate vectors (items, D) of the catalogue; they are cached as in `query_and_items`."""
    trained = open_run(run, saved)
    items = _item_vectors(trained)
    if not {USER_SEQUENCE} & trained.tower_pairs[0].user_inputs.keys():
        _cache(run, saved, trained, items)
    return items.numpy()


def query_of_attributes(
    run: Path, saved: SavedCheckpoint, history: Sequence[int], attributes: Mapping[str, object]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the query vector (D,) of someone new with attributes, and the candidate vectors (items, D).

    Args:
        run: Run whose query tower has attributes.
        saved: Its newest checkpoint.
        history: Item rows, the oldest first; there may be none.
        attributes: Values by name.

    Raises:
        UserError: An attribute is none of the query tower's, or nobody has the value.
    """
    trained = open_run(run, saved)
    given = attribute_inputs(run, trained.vocabulary, trained.tower_pairs[0].user_inputs, attributes)
    items = _item_vectors(trained)
    histories = torch.tensor([len(history)]), torch.tensor(history, dtype=torch.int64)
    query = query_from_history(trained.tower_pairs, histories, items, given)
    return query[0].numpy(), items.numpy()


def past_of_user(
    run: Path,
    saved: SavedCheckpoint,
    user: int,
    history: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> Past:
    """Return the past of a user's row, as the query tower knows it.

    It holds the items before the test split, and those of an ordered history in place of the user's own.
    """
    trained = open_run(run, saved)
    own = [one_user(pair, user, history, times) for pair in trained.tower_pairs]
    past = np.union1d(known_items(own), trained.vocabulary.seen.take(np.array([user]))[1])
    query = query_vectors(own, np.array([0]), CPU)[0].numpy()
    return Past(past, query, query_parts(own, past))


def past_of_history(
    run: Path,
    saved: SavedCheckpoint,
    history: Sequence[int],
    query: np.ndarray,
    attributes: Mapping[str, object] | None,
) -> Past:
    """Return the past of someone new with these item rows, whose query vector is given."""
    trained = open_run(run, saved)
    learned, *closed = trained.tower_pairs
    own = Ragged(np.array([0, len(history)]), np.array(history, np.int32))
    given = attribute_inputs(run, trained.vocabulary, learned.user_inputs, attributes or {})
    pairs = [someone_new(learned, own, given), *(someone_new(pair, own) for pair in closed)]
    past = np.unique(np.array(history, np.int64))
    return Past(past, query, query_parts(pairs, past))


def query_of_new_id(run: Path, saved: SavedCheckpoint, user: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the query vector (D,) of a user whom the run does not know, by the two rows of the hashed id.

    Args:
        run: Run whose user ids are hashed.
        saved: Its newest checkpoint.
        user: Raw id as text.

    Returns:
        That vector, the candidate vectors (items, D), and how many known ids look up one of the rows.
    """
    trained = open_run(run, saved)
    bags = trained.tower_pairs[0].user_inputs[USER]
    assert isinstance(bags, Ragged)
    rows = hashed_rows(pa.array([user]), rows=int(bags.values[-1]))[0]
    query = query_from_bag(trained.tower_pairs, USER, Ragged(np.array([0, len(rows)]), rows))
    return query[0].numpy(), _item_vectors(trained).numpy(), ids_sharing(bags, rows)


def _cache(run: Path, saved: SavedCheckpoint, trained: TrainedRun, items: torch.Tensor) -> Vectors | None:
    """Compute and cache the vectors of all users and items; None if the tables are too large."""
    if weight_bytes(run) > CACHED_BYTES:
        return None
    users = _in_blocks(query_vectors, trained.tower_pairs, len(trained.vocabulary.user_ids))
    # Of histories of one item: those of n items are their sum over the square root of n.
    rows = np.arange(len(items))
    single = [
        replace(pair, user_inputs=dict.fromkeys(pair.user_inputs, rows))
        for pair in trained.tower_pairs[1:]
        if pair.towers.encoder is None  # histories with an order need the towers anyway
    ]
    histories = _in_blocks(query_vectors, single, len(items)) if single else items[:, :0]
    vectors = Vectors(users.numpy(), items.numpy(), histories.numpy())
    save_vectors(run, saved, vectors)
    return vectors


def _item_vectors(trained: TrainedRun) -> torch.Tensor:
    return _in_blocks(candidate_vectors, trained.tower_pairs, len(trained.vocabulary.item_ids))


def _in_blocks(
    vectors: Callable[[Sequence[TowerPair], np.ndarray, torch.device], torch.Tensor],
    tower_pairs: Sequence[TowerPair],
    count: int,
) -> torch.Tensor:
    """Compute the vectors of rows 0 to `count` - 1."""
    return torch.cat(
        [
            vectors(tower_pairs, np.arange(start, min(start + BLOCK, count)), CPU)
            for start in range(0, count, BLOCK)
        ]
    )
