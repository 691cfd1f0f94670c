"""The best items that one user is not known to have, from a run folder alone, in one process.

Cached vectors answer without torch, which is imported only where towers are needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.config.schema import ModelConfig
from trainer.dataset.vocabulary import Vocabulary, open_vocabulary
from trainer.errors import UserError, diverged
from trainer.facts.losses import loss_spec, losses_where
from trainer.formatting import format_count
from trainer.ranking.best import best, scores_of
from trainer.runs.checkpoint_store import CONFIG, SavedCheckpoint, check_is_run, finished_step, newest
from trainer.serving.history import known_history, split_history, unknown_text
from trainer.serving.known_items import held_out_items, newer_items, without_held_out
from trainer.serving.ordered_history import has_ordered_histories, served_history
from trainer.serving.vector_cache import Vectors, open_vectors
from trainer.storage.attributes import Ragged
from trainer.storage.tie_hashes import first_hashes

TEST = "test"
"""Split whose items can be marked."""


def recommend(
    run: Path,
    user: str,
    k: int = 10,
    keep_seen: bool = False,
    *,
    interactions: Path | None = None,
    mark: str | None = None,
) -> pd.DataFrame:
    """Rank the items that a user is not known to have, best first.

    Known are the items of all splits: training, validation and test. They are also what an ordered history is
    made of, with newer items behind them; with `mark` it ends before the test split, as in an evaluation. A
    user who is not in the data has rows where ids are hashed; a note says how many others share them.

    Args:
        run: Run folder.
        user: Raw id as text.
        k: Items wanted, from 1 up; fewer come back where fewer remain.
        keep_seen: Whether to rank items that the user already has too.
        interactions: File of newer interactions, whose items are known too.
        mark: `test` ranks the items of the test split too, as an evaluation does, and marks them.

    Returns:
        Columns `item` (raw id), `title` (None where there is none), `score`, and with `mark` also `test`
        (bool). `attrs["notes"]` are sentences about what could not be done.

    Raises:
        UserError: If the user is not in the data and ids are not hashed, or options contradict each other.
        CheckpointError: If the folder is no run.
    """
    _check_options(keep_seen, interactions, mark)
    saved, vocabulary = _open(run, k)
    row = vocabulary.user_row(user)
    if row is None:
        return _recommend_to_new_id(run, saved, vocabulary, user, k, interactions, mark)
    held_out = held_out_items(run, vocabulary, row)
    if mark is not None and held_out is None:
        raise UserError(f"--mark {mark}: {without_held_out(run)}")
    known, notes = np.empty(0, np.int64), []
    if not keep_seen:
        known = vocabulary.seen.take(np.array([row]))[1]
        if vocabulary.disliked is not None and mark is None:  # an evaluation ranks them
            known = np.append(known, vocabulary.disliked.take(np.array([row]))[1])
        if held_out is None:
            notes.append(f"only training and validation items are left out: {without_held_out(run)}")
        elif mark is None:
            known = np.append(known, held_out)
    newer, ordered = None, mark is None and has_ordered_histories(saved)
    if interactions is not None:
        newer = newer_items(run, vocabulary, interactions, user, timed=ordered)
        known = np.append(known, newer.items)
        if not len(newer.items):
            notes.append(_nothing_newer(interactions, user))
    if ordered and (history := served_history(vocabulary, row, newer)):
        from trainer.serving.embed import query_of_known_history

        query, vectors = query_of_known_history(run, saved, row, *history)
    elif cached := open_vectors(run, saved):
        query, vectors = cached.users[row], cached.items
    else:
        from trainer.serving.embed import query_and_items

        query, vectors = query_and_items(run, saved, row)
    first = int(first_hashes(vocabulary.user_ids.slice(row, 1))[0])
    rows, items = _best(run, vocabulary, query, vectors, k, known, first)
    if mark is not None and held_out is not None:
        items[TEST] = np.isin(rows, held_out)
        items.attrs["held_out"] = len(held_out)
    items.attrs["notes"] = notes
    return items


def recommend_by_history(
    run: Path, history: Sequence[str], k: int = 10, keep_seen: bool = False, *, split: bool = False
) -> pd.DataFrame:
    """Rank items for someone who need not be in the data, best first.

    Args:
        run: Run folder.
        history: Raw ids as text of the items that this person has, at least one of them known; unknown ones
            are left out, and spaces around an id where that gives a known one.
        k: Items wanted, from 1 up; fewer come back where fewer remain.
        keep_seen: Whether to rank the items of the history too.
        split: Whether each text may hold several ids, separated by commas.

    Returns:
        Columns as those of `recommend`. `attrs["history"]` and `attrs["unknown"]` are the ids that were used
        and those that were not.

    Raises:
        UserError: If no item is in the data, or the run was trained on values.
        CheckpointError: If the folder is no run.
    """
    saved, vocabulary = _open(run, k)
    given = split_history(vocabulary, history) if split else history
    known, unknown = known_history(run, vocabulary, given)
    rows = list(known.values())
    model = _model_without_values(run, saved)
    # A query tower with a table or an encoder of histories has to look the items up.
    if model.history == "none" and (cached := open_vectors(run, saved)):
        query, vectors = _query_from_cache(cached, rows, model), cached.items
    else:
        from trainer.serving.embed import query_of_history

        query, vectors = query_of_history(run, saved, rows)
    items = _best(run, vocabulary, query, vectors, k, np.array([] if keep_seen else rows, np.int64))[1]
    notes = []
    if unknown:
        counts = f"{len(known):,} of {len(known) + len(unknown):,} given are known"
        notes.append(f"{unknown_text(run, vocabulary, unknown)}, and left out; {counts}")
    items.attrs |= {"history": list(known), "unknown": unknown, "notes": notes}
    return items


def _recommend_to_new_id(
    run: Path,
    saved: SavedCheckpoint,
    vocabulary: Vocabulary,
    user: str,
    k: int,
    interactions: Path | None,
    mark: str | None,
) -> pd.DataFrame:
    """Rank items for a user who is not in the data, by the rows of the hashed id; see `recommend`."""
    from trainer.config.parser import read_config

    users, model = len(vocabulary.user_ids), read_config(saved.folder / CONFIG).model
    if not (model.hashed_rows and model.user_id):
        examples = ", ".join(map(str, vocabulary.user_ids[:3].to_pylist()))
        raise UserError(
            f"--user {user}: not among the {users:,} users of {run} "
            f"(such as {examples}). Name one of them, or use --history with this user's items"
        )
    if mark is not None:
        raise UserError(f"--mark {mark}: user {user} is new to {run} and has no test items. Leave --mark out")
    known = np.empty(0, np.int64)
    if interactions is not None:
        known = newer_items(run, vocabulary, interactions, user).items
    from trainer.serving.embed import query_of_new_id

    query, vectors, sharing = query_of_new_id(run, saved, user)
    first = int(first_hashes(pa.array([user]))[0])
    items = _best(run, vocabulary, query, vectors, k, known, first)[1]
    notes = [
        f"--user {user}: not among the {users:,} users of {run}. Ranked by the two rows of the hashed id, of "
        f"which {format_count(sharing, 'known user')} {'shares' if sharing == 1 else 'share'} at least one; "
        "with items of this user, --history is better"
    ]
    if interactions is not None and not len(known):
        notes.append(_nothing_newer(interactions, user))
    items.attrs["notes"] = notes
    return items


def _nothing_newer(interactions: Path, user: str) -> str:
    return f"--interactions {interactions}: no item of the catalogue for user {user}"


def _check_options(keep_seen: bool, interactions: Path | None, mark: str | None) -> None:
    """Refuse options that contradict each other."""
    if mark not in (None, TEST):
        raise UserError(f"--mark {mark}: only items of the test split can be marked. Use --mark test")
    if interactions is not None and (keep_seen or mark is not None):
        other = "--keep-seen" if keep_seen else f"--mark {mark}"
        raise UserError(
            f"--interactions {interactions}: its items are left out, and {other} ranks items that the user "
            "has. Leave one of the two out"
        )


def _open(run: Path, k: int) -> tuple[SavedCheckpoint, Vocabulary]:
    """Open a run's newest checkpoint and its vocabulary."""
    if k < 1:
        raise UserError(f"-k {k}: a whole number from 1 up is needed")
    check_is_run(run)
    return newest(run, finished_step(run)), open_vocabulary(run)


def _model_without_values(run: Path, saved: SavedCheckpoint) -> ModelConfig:
    """Return the section `model` of a run's configuration.

    Raises:
        UserError: If the run was trained on values.
    """
    from trainer.config.parser import read_config

    config = read_config(saved.folder / CONFIG)
    if not loss_spec(config.loss.name).serves_history:
        raise UserError(
            f"--history: {run} was trained with --loss.name {config.loss.name}, which needs ratings, and a "
            "history has none. Name a user with --user, or a run that was trained with --loss.name "
            f"{losses_where(lambda spec: spec.serves_history)}"
        )
    return config.model


def _query_from_cache(cached: Vectors, rows: Sequence[int], model: ModelConfig) -> np.ndarray:
    """Return the query vector (D,) of a history of item rows, as `query_from_history` does from towers."""
    from trainer.closed_form.edlae import history_vectors
    from trainer.model.fold_in import fold_in

    own = Ragged(np.array([0, len(rows)]), np.array(rows, np.int32))
    learned = cached.items[:, : cached.items.shape[1] - cached.histories.shape[1]]
    first = fold_in(own, learned, model.similarity == "cosine", model.item_bias)
    return np.concatenate([first, history_vectors(own, np.array([0]), cached.histories)], axis=1)[0]


def _best(
    run: Path,
    vocabulary: Vocabulary,
    query: np.ndarray,
    vectors: np.ndarray,
    k: int,
    left_out: np.ndarray,
    first_hash: int = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the rows of the k best items without those that are left out, and a table of them.

    Where scores are equal, the order of the items begins at `first_hash`.
    """
    scores = scores_of(vectors, query)
    if not np.isfinite(scores).all():
        raise diverged(str(run), "scores are NaN or infinite")
    found = best(scores, k, vocabulary.item_ids, left_out, first_hash)
    titles, ids = vocabulary.titles, vocabulary.item_ids
    return found, pd.DataFrame(
        {
            "item": ids.take(found).to_pylist(),
            # As objects: pandas' own string type would turn None into a float.
            "title": pd.Series(
                titles.take(found).to_pylist() if titles is not None else [None] * len(found), dtype=object
            ),
            "score": scores[found].tolist(),
        }
    )
