"""The list of one person: items by score, and the reasons for each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from trainer.errors import diverged
from trainer.ranking.best import scores_of
from trainer.ranking.reasons import Past, contributions, strongest
from trainer.ranking.selection import Selection, select
from trainer.ranking.similar import unit_vectors
from trainer.serving.served_run import ServedRun

WHY = "why"
"""Column of reasons."""


@dataclass(frozen=True)
class Person:
    """Someone for whom items are ranked.

    Attributes:
        query: (D,) query vector.
        vectors: (items, D) candidate vectors.
        known: (n,) rows of items that must not be listed.
        first_hash: Where the order of items of equal scores begins.
        past: Gives the past of which the query is made; None: there is none.
        notes: Sentences about what could not be done.
    """

    query: np.ndarray
    vectors: np.ndarray
    known: np.ndarray
    first_hash: int = 0
    past: Callable[[], Past] | None = None
    notes: list[str] = field(default_factory=list)


def list_of(
    served: ServedRun, person: Person, k: int, selection: Selection, why: int
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the rows of a person's k best items and a table of them; `attrs["notes"]` are all notes.

    Args:
        served: The run.
        person: The person.
        k: Items wanted.
        selection: What restricts the list.
        why: Most reasons named for each item, in a column `why`; 0: there is no such column.
    """
    scores = scores_of(person.vectors, person.query)
    if not np.isfinite(scores).all():
        raise diverged(str(served.run), "scores are NaN or infinite")
    item_ids = served.vocabulary.item_ids
    rows = select(scores, k, item_ids, person.known, person.first_hash, selection)
    table = served.table(rows, scores[rows])
    notes = [*person.notes, *selection.notes]
    if why:
        past = person.past() if person.past is not None and len(rows) else None
        if past is None or not len(past.rows):
            notes.append("--why: no items of the past are known that could be named")
            table[WHY] = pd.Series([[] for _ in rows], dtype=object)
        else:
            table[WHY] = pd.Series(_reasons(served, past, person.vectors, rows, why), dtype=object)
    table.attrs["notes"] = notes
    return rows, table


def _reasons(served: ServedRun, past: Past, vectors: np.ndarray, rows: np.ndarray, most: int) -> list[Any]:
    """Return records of the items of the past that contribute most to each listed item."""
    contributed = contributions(past, vectors, unit_vectors(vectors, served.dim), rows)
    found: list[Any] = []
    for places, own in zip(strongest(contributed, most), contributed, strict=True):
        places = places[places >= 0]
        found.append(served.table(past.rows[places], own[places]).to_dict("records"))
    return found
