"""Lists that need nobody's past: items like an item, and items that are popular."""

from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd

from trainer.errors import UserError, diverged
from trainer.ranking.selection import select
from trainer.ranking.similar import MEASURE, similarities, unit_vectors
from trainer.ranking.titles import near_titles, row_of_title
from trainer.serving.served_run import Restrictions, ServedRun, open_served
from trainer.serving.vector_cache import open_vectors


def similar_items(run: Path, item: str, k: int = 10, **restrictions: Unpack[Restrictions]) -> pd.DataFrame:
    """Rank the items that are most like an item, best first, by the cosine of their learned vectors.

    Args:
        run: Run folder.
        item: Raw id or title, as text.
        k: Items wanted, from 1 up; fewer come back where fewer remain.
        restrictions: What restricts the list: `where`, `allow`, `deny`, `at_most`.

    Returns:
        Columns `item` (raw id), `title` (None where there is none) and `score` (from -1 to 1).
        `attrs["measure"]` says what the score is, `attrs["item"]` is the raw id.

    Raises:
        UserError: If the item is unknown, or a restriction does not fit.
        CheckpointError: If the folder is no run.
    """
    served = open_served(run, k)
    row, selection = _row(served, item), served.selection(**restrictions)
    if cached := open_vectors(run, served.saved):
        vectors = cached.items
    else:
        from trainer.serving.embed import item_vectors

        vectors = item_vectors(run, served.saved)
    scores = similarities(unit_vectors(vectors, served.dim), row)
    if not np.isfinite(scores).all():
        raise diverged(str(run), "vectors are NaN or infinite")
    rows = select(scores, k, served.vocabulary.item_ids, np.array([row]), selection=selection)
    found = served.table(rows, scores[rows])
    found.attrs |= {"item": str(served.vocabulary.item_ids[row]), "measure": MEASURE}
    found.attrs["notes"] = [*selection.notes, f"scores are the {MEASURE}"]
    return found


def popular_items(run: Path, k: int = 10, **restrictions: Unpack[Restrictions]) -> pd.DataFrame:
    """Rank the items by their interactions before the test split, for someone of whom nothing is known.

    Args:
        run: Run folder.
        k: Items wanted, from 1 up.
        restrictions: What restricts the list, as in `similar_items`.

    Returns:
        Columns as those of `similar_items`; the score is the number of interactions.
    """
    served = open_served(run, k)
    selection, known = served.selection(**restrictions), served.vocabulary
    scores = np.bincount(known.seen.values, minlength=len(known.item_ids))
    rows = select(scores, k, known.item_ids, np.empty(0, np.int64), selection=selection)
    found = served.table(rows, scores[rows])
    found.attrs["notes"] = [*selection.notes, "scores are numbers of interactions before the test split"]
    return found


def _row(served: ServedRun, item: str) -> int:
    """Return the row of an item that is named by id or title."""
    catalogue = served.catalogue
    row = catalogue.item_row(item)
    if row is None:
        row = row_of_title(catalogue, item, "--item")
    if row is None:
        examples = ", ".join(map(str, catalogue.item_ids[:3].to_pylist()))
        raise UserError(
            f"--item {item}: not among the {len(catalogue):,} items of {served.run} (such as {examples})"
            f"{near_titles(catalogue, item)}. Name one of these"
        )
    return row
