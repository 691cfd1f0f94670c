"""The best unseen items of one user, from a run folder alone, in one process."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.inputs import keyed_jagged
from trainer.errors import UserError
from trainer.evaluation.topk import top_k
from trainer.training.runs import open_run

ITEMS_AT_ONCE = 262_144


@dataclass(frozen=True)
class Recommendation:
    """One item: its raw id, its title where there is one, and its score."""

    item: int | str
    title: str | None
    score: float


def recommend(run: Path, user: str, k: int = 10, keep_seen: bool = False) -> list[Recommendation]:
    """The k best items of a user, best first; fewer where fewer are left.

    Args:
        run: run folder.
        user: raw id as text.
        k: items wanted, from 1 up.
        keep_seen: rank items that the user already has too.
    Raises: UserError for a user who is not in the data; CheckpointError for a folder that is no run.
    """
    if k < 1:
        raise UserError(f"-k {k}: a whole number from 1 up is needed")
    trained = open_run(run)
    row = trained.vocabulary.user_row(user)
    if row is None:
        examples = ", ".join(str(trained.vocabulary.user_ids[index].as_py()) for index in range(3))
        raise UserError(
            f"--user {user}: not among the {len(trained.vocabulary.user_ids):,} users of {run} "
            f"(such as {examples}). Name one of them, or train with this user's interactions"
        )
    lengths, seen = trained.vocabulary.known.take(np.array([row]))
    exclude = None if keep_seen else (torch.from_numpy(lengths), torch.from_numpy(seen))
    items = len(trained.vocabulary.item_ids)
    with torch.no_grad():
        query = trained.towers.queries(keyed_jagged(trained.user_inputs, np.array([row])))
        blocks = [
            trained.towers.candidates(
                keyed_jagged(trained.item_inputs, np.arange(start, min(start + ITEMS_AT_ONCE, items)))
            )
            for start in range(0, items, ITEMS_AT_ONCE)
        ]
        scores, rows = top_k(query, torch.cat(blocks), k, exclude)
    titles, ids = trained.vocabulary.titles, trained.vocabulary.item_ids
    return [
        Recommendation(ids[item].as_py(), titles[item].as_py() if titles is not None else None, score)
        for item, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        if item >= 0
    ]


def as_json(user: str, recommendations: list[Recommendation]) -> dict[str, Any]:
    """What `recommend --json` prints."""
    return {"user": user, "items": [asdict(item) for item in recommendations]}


def as_text(recommendations: list[Recommendation]) -> str:
    """A line an item: rank, raw id, title, score."""
    width = max((len(str(item.item)) for item in recommendations), default=1)
    return "\n".join(
        f"{rank:>3}  {item.item!s:>{width}}  {(item.title or '')[:56]:<56}  {item.score:8.4f}"
        for rank, item in enumerate(recommendations, start=1)
    )
