"""The best unseen items of one person, from a run folder alone, in one process.

They are found with vectors that are kept, if they are: torch waits until towers are needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trainer.config.losses import loss_spec, losses_where
from trainer.config.schema import ModelConfig
from trainer.dataset.attributes import Ragged
from trainer.dataset.vocabulary import Vocabulary, open_vocabulary
from trainer.errors import UserError, diverged
from trainer.runs.checkpoint_store import CONFIG, SavedCheckpoint, check_is_run, finished_step, newest
from trainer.serving.vector_cache import Vectors, open_vectors

UNKNOWN_NAMED = 10


def recommend(run: Path, user: str, k: int = 10, keep_seen: bool = False) -> pd.DataFrame:
    """The k best items of a user, best first; fewer where fewer are left.

    Args:
        run: run folder.
        user: raw id as text.
        k: items wanted, from 1 up.
        keep_seen: rank items that the user already has too.
    Returns: columns `item` (raw id), `title` (None where there is none), `score`.
    Raises: UserError for a user who is not in the data; CheckpointError for a folder that is no run.
    """
    saved, vocabulary = _open(run, k)
    row = vocabulary.user_row(user)
    if row is None:
        examples = ", ".join(map(str, vocabulary.user_ids[:3].to_pylist()))
        raise UserError(
            f"--user {user}: not among the {len(vocabulary.user_ids):,} users of {run} "
            f"(such as {examples}). Name one of them, or use --history with this user's items"
        )
    if kept := open_vectors(run, saved):
        query, vectors = kept.users[row], kept.items
    else:
        from trainer.serving.embed import query_and_items

        query, vectors = query_and_items(run, saved, row)
    seen = vocabulary.seen.take(np.array([row]))[1]
    return _best(run, vocabulary, query, vectors, k, seen[:0] if keep_seen else seen)


def recommend_by_history(
    run: Path, history: Sequence[str], k: int = 10, keep_seen: bool = False
) -> pd.DataFrame:
    """The k best items for someone who need not be in the data, best first; fewer where fewer are left.

    Args:
        run: run folder.
        history: raw ids as text of the items that this person has, at least one.
        k, keep_seen: as in `recommend`.
    Returns: as `recommend` does.
    Raises: UserError for an item that is not in the data, and for a run that was trained on values;
        CheckpointError for a folder that is no run.
    """
    saved, vocabulary = _open(run, k)
    rows = _item_rows(run, vocabulary, history)
    model = _model_without_values(run, saved)
    # Whoever is known by a table of histories is looked up, by towers.
    if not model.history and (kept := open_vectors(run, saved)):
        query, vectors = _query_of_history(kept, rows, model), kept.items
    else:
        from trainer.serving.embed import query_of_history

        query, vectors = query_of_history(run, saved, rows)
    return _best(run, vocabulary, query, vectors, k, np.array([] if keep_seen else rows, np.int64))


def _open(run: Path, k: int) -> tuple[SavedCheckpoint, Vocabulary]:
    """A run's newest checkpoint and its vocabulary."""
    if k < 1:
        raise UserError(f"-k {k}: a whole number from 1 up is needed")
    check_is_run(run)
    return newest(run, finished_step(run)), open_vocabulary(run)


def _item_rows(run: Path, vocabulary: Vocabulary, history: Sequence[str]) -> list[int]:
    """Rows of the items, each once, in the order given."""
    found = {item: vocabulary.item_row(item) for item in history}
    rows = [row for row in found.values() if row is not None]
    if unknown := [item for item, row in found.items() if row is None]:
        more = f" and {len(unknown) - UNKNOWN_NAMED:,} more" if len(unknown) > UNKNOWN_NAMED else ""
        examples = ", ".join(map(str, vocabulary.item_ids[:3].to_pylist()))
        raise UserError(
            f"--history {','.join(unknown[:UNKNOWN_NAMED])}{more}: not among the "
            f"{len(vocabulary.item_ids):,} items of {run} (such as {examples}); {len(rows)} of {len(found)} "
            "given are known. Leave the others out"
        )
    return rows


def _model_without_values(run: Path, saved: SavedCheckpoint) -> ModelConfig:
    """How a run's towers are made.

    Raises: UserError for a run that was trained on values.
    """
    from trainer.config.parser import read_config

    config = read_config(saved.folder / CONFIG)
    if not loss_spec(config.loss.name).serves_history:
        raise UserError(
            f"--history: {run} was trained with --loss.name {config.loss.name}, which needs ratings, and a "
            "history has none. Name a user with --user, or a run with --loss.name "
            f"{losses_where(lambda spec: spec.serves_history)}"
        )
    return config.model


def _query_of_history(kept: Vectors, rows: Sequence[int], model: ModelConfig) -> np.ndarray:
    """Query vector (D,) of someone who has the items in these rows, as `query_from_history` makes it."""
    from trainer.model.edlae import history_vectors
    from trainer.model.fold_in import fold_in

    own = Ragged(np.array([0, len(rows)]), np.array(rows, np.int32))
    learned = kept.items[:, : kept.items.shape[1] - kept.histories.shape[1]]
    first = fold_in(own, learned, model.similarity == "cosine", model.item_bias)
    return np.concatenate([first, history_vectors(own, np.array([0]), kept.histories)], axis=1)[0]


def _best(
    run: Path, vocabulary: Vocabulary, query: np.ndarray, vectors: np.ndarray, k: int, seen: np.ndarray
) -> pd.DataFrame:
    # Not by BLAS, which may add up rows in different orders: items of one vector must have one score.
    scores = np.einsum("id,d->i", vectors, query)
    if not np.isfinite(scores).all():
        raise diverged(str(run), "scores are NaN or infinite")
    left = np.setdiff1d(np.arange(len(scores)), seen)
    if k < len(left):
        left = left[scores[left] >= np.partition(scores[left], -k)[-k]]
    found = left[np.argsort(-scores[left], kind="stable")[:k]]  # equal scores by ascending row
    titles, ids = vocabulary.titles, vocabulary.item_ids
    return pd.DataFrame(
        {
            "item": ids.take(found).to_pylist(),
            # As objects: pandas' own type of text would turn None into a float.
            "title": pd.Series(
                titles.take(found).to_pylist() if titles is not None else [None] * len(found), dtype=object
            ),
            "score": scores[found].tolist(),
        }
    )


def as_json(person: str | Sequence[str], recommendations: pd.DataFrame) -> dict[str, Any]:
    """What `recommend --json` prints for a user's id or for the ids of a history."""
    who = {"user": person} if isinstance(person, str) else {"history": list(person)}
    return who | {"items": recommendations.to_dict("records")}


def as_text(recommendations: pd.DataFrame) -> str:
    """A line an item: rank, raw id, title, score."""
    if recommendations.empty:
        return "No items are left: the user has the whole catalogue. Rank them too with --keep-seen"
    width = recommendations["item"].astype(str).str.len().max()
    return "\n".join(
        f"{rank:>3}  {item!s:>{width}}  {(title or '')[:56]:<56}  {score:8.4f}"
        for rank, (item, title, score) in enumerate(recommendations.itertuples(index=False), start=1)
    )
