"""Whom lists are for: users of the run, and people known by a history or by attributes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.errors import UserError
from trainer.ranking.reasons import Past, contributions, strongest
from trainer.ranking.similar import unit_vectors
from trainer.ranking.titles import near_titles, row_of_title
from trainer.recommender.export_folder import ExportFolder
from trainer.storage.attributes import Ragged
from trainer.storage.raw_ids import row_of, rows_of
from trainer.storage.tie_hashes import first_hashes

RawId = str | int
NAMED = 10
"""Most unknown ids that a message lists."""


@dataclass
class Person:
    """Whom a list is for.

    Attributes:
        query: (D,) query vector.
        past: (n,) item rows that they have, oldest first where there is an order.
        counted: (n,) bool, which of these the query vector was made of.
        left_out: Item rows that are not recommended.
        first_hash: Where their order of items of equal scores begins.
        unknown: What of a history is not in the catalogue.
        notes: Sentences about what could not be done.
    """

    query: np.ndarray
    past: np.ndarray
    counted: np.ndarray
    left_out: np.ndarray
    first_hash: int = 0
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class People:
    """Finds people in an export, or makes query vectors of new ones."""

    def __init__(self, export: ExportFolder) -> None:
        self._export = export

    def person(
        self,
        user: RawId | None,
        history: Sequence[RawId] | None,
        attributes: Mapping[str, Any] | None,
        keep_seen: bool,
    ) -> Person:
        """Return one person; arguments as in `Recommender.recommend`."""
        if user is not None:
            if history is not None or attributes:
                other = "history" if history is not None else "attributes"
                raise UserError(f"user {user}: not together with {other}, which are of someone new")
            return self.known(self.user_rows([user]), keep_seen)[0]
        if history is None and not attributes:
            raise UserError("recommend: give a user, a history or attributes")
        return self.new([history or ()], attributes, keep_seen)[0]

    def known(self, rows: np.ndarray, keep_seen: bool) -> list[Person]:
        """Return users of the run by their rows."""
        export = self._export
        queries = export.users.rows(rows)
        hashes = first_hashes(export.user_ids.take(pa.array(rows)))
        people = []
        for row, query, first in zip(rows, queries, hashes, strict=True):
            past = _of_row(export.past, row)
            counted = np.ones(len(past), bool)
            if export.counted is not None:
                counted = _of_row(export.counted, row).astype(bool)
            left_out = past
            if export.disliked is not None:
                left_out = np.append(left_out, _of_row(export.disliked, row))
            if keep_seen:
                left_out = left_out[:0]
            people.append(Person(query, past, counted, np.unique(left_out), int(first)))
        return people

    def new(
        self, histories: Sequence[Sequence[RawId]], attributes: Mapping[str, Any] | None, keep_seen: bool
    ) -> list[Person]:
        """Return new people by their histories, which may be empty; attributes are those of all of them."""
        queries = self._export.queries
        found = [self._history_rows(history) for history in histories]
        rows = [each[0] for each in found]
        if any(map(len, rows)):
            queries.check_histories()
        vectors = queries.vectors(rows, attributes)
        return [
            Person(
                query=vector,
                past=own,
                counted=np.ones(len(own), bool),
                left_out=own[:0] if keep_seen else own,
                unknown=unknown,
                notes=_named(unknown),
            )
            for vector, (own, unknown) in zip(vectors, found, strict=True)
        ]

    def user_rows(self, users: Sequence[RawId]) -> np.ndarray:
        """Return the rows of users, all of whom must be known."""
        ids = self._export.user_ids
        if len(users) == 1:
            row = row_of(ids, users[0])
            rows, missing = np.array([row or 0]), [0] if row is None else []
        else:
            found = rows_of(ids, pa.array([str(each) for each in users], pa.string()))
            missing = np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False)).tolist()
            rows = found.fill_null(0).to_numpy()
        if missing:
            examples = ", ".join(map(str, ids[:3].to_pylist()))
            raise UserError(
                f"user {users[missing[0]]}: not among the {len(ids):,} users of {self._export.folder} (such "
                f"as {examples}). Name one of them, or give a history with this user's items"
            )
        return rows

    def item_row(self, item: RawId) -> int:
        """Return the row of an item by its raw id or title."""
        catalogue = self._export.catalogue
        row = catalogue.item_row(item)
        row = row_of_title(catalogue, str(item), "item") if row is None else row
        if row is None:
            examples = ", ".join(map(str, catalogue.item_ids[:3].to_pylist()))
            near = near_titles(catalogue, str(item))
            raise UserError(
                f"item {item}: not among the {len(catalogue):,} items (such as {examples}{near}). "
                "Name one of them"
            )
        return row

    def reasons(self, person: Person, rows: np.ndarray, most: int) -> list[list[RawId]]:
        """Return the raw ids of the items of the past that speak most for each item."""
        vectors = self._export.items.rows(np.append(rows, person.past))
        unit = unit_vectors(vectors, self._export.learned)
        places = np.arange(len(rows), len(vectors))
        parts = self._export.queries.parts(person.past, person.counted, len(person.query))
        past = Past(places, person.query, parts)
        found = strongest(contributions(past, vectors, unit, np.arange(len(rows))), most)
        ids = self._export.catalogue.item_ids
        return [ids.take(pa.array(person.past[each[each >= 0]])).to_pylist() for each in found]

    def _history_rows(self, history: Sequence[RawId]) -> tuple[np.ndarray, list[str]]:
        """Return the distinct rows of a history, and what of it is unknown."""
        if isinstance(history, str):
            raise UserError(f"history: {history!r} is one text. Give a list of ids or titles")
        catalogue, rows, unknown = self._export.catalogue, [], []
        for each in history:
            row = catalogue.item_row(each)
            row = row_of_title(catalogue, str(each), "history") if row is None else row
            unknown += [str(each)] if row is None else []
            rows += [] if row is None else [row]
        if unknown and not rows:
            near = near_titles(catalogue, unknown[0])
            examples = ", ".join(map(str, catalogue.item_ids[:3].to_pylist()))
            raise UserError(
                f"history: {', '.join(unknown[:NAMED])}: not among the {len(catalogue):,} items (such as "
                f"{examples}{near}). Name at least one of these"
            )
        return np.array(list(dict.fromkeys(rows)), np.int64), unknown


def _of_row(lists: Ragged, row: int) -> np.ndarray:
    return np.asarray(lists.values[lists.offsets[row] : lists.offsets[row + 1]], np.int64)


def _named(unknown: Sequence[str]) -> list[str]:
    """Return a note that names unknown items, if there are any."""
    if not unknown:
        return []
    more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
    return [f"history: {', '.join(unknown[:NAMED])}{more}: not in the catalogue, and left out"]
