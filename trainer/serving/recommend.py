"""The best unseen items of one person, from a run folder alone, in one process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from trainer.data.vocabulary import Vocabulary
from trainer.errors import UserError
from trainer.evaluation.topk import ItemLists, top_k
from trainer.model.served import candidate_vectors, query_from_history, query_vectors
from trainer.training.runs import TrainedRun, open_run

CPU = torch.device("cpu")
ITEMS_AT_ONCE = 262_144
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
    _check_length(k)
    trained = open_run(run)
    row = trained.vocabulary.user_row(user)
    if row is None:
        examples = ", ".join(map(str, trained.vocabulary.user_ids[:3].to_pylist()))
        raise UserError(
            f"--user {user}: not among the {len(trained.vocabulary.user_ids):,} users of {run} "
            f"(such as {examples}). Name one of them, or use --history with this user's items"
        )
    lengths, seen = trained.vocabulary.known.take(np.array([row]))
    exclude = None if keep_seen else (torch.from_numpy(lengths), torch.from_numpy(seen))
    query = query_vectors(trained.served, np.array([row]), CPU)
    return _best(trained, query, _item_vectors(trained), k, exclude)


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
    _check_length(k)
    trained = open_run(run)
    if trained.loss in ("mse", "bce"):
        raise UserError(
            f"--history: {run} was trained with --loss.name {trained.loss}, which needs ratings, and a "
            "history has none. Name a user with --user, or a run with --loss.name softmax or bpr"
        )
    rows = torch.tensor(_item_rows(run, trained.vocabulary, history))
    histories = torch.tensor([len(rows)]), rows
    vectors = _item_vectors(trained)
    query = query_from_history(trained.served, histories, vectors)
    return _best(trained, query, vectors, k, None if keep_seen else histories)


def _check_length(k: int) -> None:
    if k < 1:
        raise UserError(f"-k {k}: a whole number from 1 up is needed")


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


def _item_vectors(trained: TrainedRun) -> torch.Tensor:
    items = len(trained.vocabulary.item_ids)
    blocks = [
        candidate_vectors(trained.served, np.arange(start, min(start + ITEMS_AT_ONCE, items)), CPU)
        for start in range(0, items, ITEMS_AT_ONCE)
    ]
    return torch.cat(blocks)


def _best(
    trained: TrainedRun, query: torch.Tensor, vectors: torch.Tensor, k: int, exclude: ItemLists | None
) -> pd.DataFrame:
    scores, rows = top_k(query, vectors, k, exclude)
    found = rows[0][rows[0] >= 0].numpy()
    titles, ids = trained.vocabulary.titles, trained.vocabulary.item_ids
    return pd.DataFrame(
        {
            "item": ids.take(found).to_pylist(),
            # As objects: pandas' own type of text would turn None into a float.
            "title": pd.Series(
                titles.take(found).to_pylist() if titles is not None else [None] * len(found), dtype=object
            ),
            "score": scores[0, : len(found)].tolist(),
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
