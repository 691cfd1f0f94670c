"""The best unseen items of one user, from a run folder alone, in one process."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from trainer.errors import UserError
from trainer.evaluation.topk import top_k
from trainer.model.served import candidate_vectors, query_vectors
from trainer.training.runs import open_run

ITEMS_AT_ONCE = 262_144


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
    if k < 1:
        raise UserError(f"-k {k}: a whole number from 1 up is needed")
    trained = open_run(run)
    row = trained.vocabulary.user_row(user)
    if row is None:
        examples = ", ".join(map(str, trained.vocabulary.user_ids[:3].to_pylist()))
        raise UserError(
            f"--user {user}: not among the {len(trained.vocabulary.user_ids):,} users of {run} "
            f"(such as {examples}). Name one of them, or train with this user's interactions"
        )
    lengths, seen = trained.vocabulary.known.take(np.array([row]))
    exclude = None if keep_seen else (torch.from_numpy(lengths), torch.from_numpy(seen))
    items = len(trained.vocabulary.item_ids)
    cpu = torch.device("cpu")
    query = query_vectors(trained.served, np.array([row]), cpu)
    blocks = [
        candidate_vectors(trained.served, np.arange(start, min(start + ITEMS_AT_ONCE, items)), cpu)
        for start in range(0, items, ITEMS_AT_ONCE)
    ]
    scores, rows = top_k(query, torch.cat(blocks), k, exclude)
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


def as_json(user: str, recommendations: pd.DataFrame) -> dict[str, Any]:
    """What `recommend --json` prints."""
    return {"user": user, "items": recommendations.to_dict("records")}


def as_text(recommendations: pd.DataFrame) -> str:
    """A line an item: rank, raw id, title, score."""
    if recommendations.empty:
        return "No items are left: the user has the whole catalogue. Rank them too with --keep-seen"
    width = recommendations["item"].astype(str).str.len().max()
    return "\n".join(
        f"{rank:>3}  {item!s:>{width}}  {(title or '')[:56]:<56}  {score:8.4f}"
        for rank, (item, title, score) in enumerate(recommendations.itertuples(index=False), start=1)
    )
