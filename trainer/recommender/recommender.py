"""`Recommender`: recommendations, similar items and titles from an export."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.errors import UserError
from trainer.object_storage.copies import open_place
from trainer.ranking.selection import Selection, make_selection, select
from trainer.ranking.titles import find_titles
from trainer.recommender.export_folder import ExportFolder, open_export
from trainer.recommender.people import People, RawId
from trainer.recommender.search import Ranked, Search


class Recommender:
    """Recommendations from an export, the same as those of the run that was exported.

    Opening needs numpy, pandas and pyarrow, faiss where the export has an index, and torch where someone new
    is to be served by a query tower with layers. All methods only read, so that threads may share one.

    Raw ids may be given in their own type or as text. Errors are `trainer.errors.UserError`.
    """

    def __init__(self, export: ExportFolder) -> None:
        """Take over an opened export; `Recommender.open` opens one."""
        self._export = export
        ids, place = export.catalogue.item_ids, str(export.folder)
        self._search = Search(export.items, ids, export.index, export.learned, place)
        self._people = People(export)

    @classmethod
    def open(cls, folder: str | Path) -> "Recommender":
        """Open an export after checking its manifest and the SHA-256 of its files.

        Raises:
            UserError: The folder is no export of this version, or a file of it is missing or damaged.
        """
        return cls(open_export(open_place(folder)))

    @property
    def manifest(self) -> dict[str, Any]:
        """What was exported, with which settings, versions, metrics and checks."""
        return self._export.manifest

    @cached_property
    def items(self) -> pd.DataFrame:
        """The catalogue: columns `item`, `title`, then attributes."""
        catalogue = self._export.catalogue
        rows = np.arange(len(catalogue))
        return pd.concat([self._named(rows), catalogue.attributes.to_pandas()], axis=1)

    @property
    def user_ids(self) -> pa.Array:
        """Raw ids of the users of the run."""
        return self._export.user_ids

    def recommend(
        self,
        user: RawId | None = None,
        history: Sequence[RawId] | None = None,
        k: int = 10,
        *,
        attributes: Mapping[str, Any] | None = None,
        where: Sequence[str] = (),
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] = (),
        at_most: Mapping[str, int] | None = None,
        keep_seen: bool = False,
        why: int = 0,
    ) -> pd.DataFrame:
        """Return the best items for a user of the run, or for someone new, best first.

        Args:
            user: Raw id of a user.
            history: In place of it, raw ids or titles of what someone has, oldest first.
            k: Items wanted, from 1 up; fewer come back where fewer remain.
            attributes: Of someone new, where the query tower takes attributes: `{"gender": "F"}`.
            where: Conditions on attributes of items, such as `genres=Comedy` and `year>=1990`.
            allow: Raw ids of the only items that may be recommended.
            deny: Raw ids of items that may not.
            at_most: Most items of one value of an attribute: `{"genres": 2}`.
            keep_seen: Whether to recommend what the person has too.
            why: For each item, name so many items of the past that speak most for it.

        Returns:
            Columns `rank` (from 1), `item`, `title` (None where there is none), `score`, and with `why` also
            `why`, lists of raw ids. `attrs["unknown"]` are unknown ids of the history, `attrs["notes"]`
            sentences about what could not be done.
        """
        _check_k(k)
        person = self._people.person(user, history, attributes, keep_seen)
        selection = self._selection(where, allow, deny, at_most)
        ranked = self._search.one(person.query, k, person.left_out, person.first_hash, selection)
        frame = self._ranking(ranked)
        if why:
            frame["why"] = self._people.reasons(person, ranked.rows, why)
        notes = [*person.notes, *(selection.notes if selection else ())]
        frame.attrs |= {"unknown": person.unknown, "notes": notes}
        return frame

    def recommend_many(
        self,
        users: Sequence[RawId] | None = None,
        histories: Sequence[Sequence[RawId]] | None = None,
        k: int = 10,
        *,
        attributes: Mapping[str, Any] | None = None,
        where: Sequence[str] = (),
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] = (),
        at_most: Mapping[str, int] | None = None,
        keep_seen: bool = False,
    ) -> pd.DataFrame:
        """Return the best items for several users of the run, or for several new people.

        Arguments are those of `recommend`; `attributes` are what all of these people have in common.

        Returns:
            The columns of `recommend` behind a first column: `user`, raw ids, or `query`, the number of the
            history from 0. `attrs["unknown"]` are the unknown ids of all histories.
        """
        _check_k(k)
        if (users is None) == (histories is None):
            raise UserError("recommend_many: give either users or histories")
        selection = self._selection(where, allow, deny, at_most)
        if users is not None:
            if attributes:
                raise UserError("attributes: those of a user are known. Give them with histories")
            rows = self._people.user_rows(users)
            people = self._people.known(rows, keep_seen)
            keys: Any = self._export.user_ids.take(pa.array(rows)).to_numpy(zero_copy_only=False)
        else:
            assert histories is not None
            people = self._people.new(histories, attributes, keep_seen)
            keys = np.arange(len(people))
        queries = (
            np.stack([each.query for each in people]) if people else np.empty((0, self._export.items.dim))
        )
        ranked = self._search.many(
            queries, k, [each.left_out for each in people], [each.first_hash for each in people], selection
        )
        frame = self._ranking(*ranked)
        lengths = [len(each.rows) for each in ranked]
        frame.insert(0, "query" if users is None else "user", np.repeat(keys, lengths))
        unknown = [name for each in people for name in each.unknown]
        notes = [*(note for each in people for note in each.notes), *(selection.notes if selection else ())]
        frame.attrs |= {"unknown": list(dict.fromkeys(unknown)), "notes": list(dict.fromkeys(notes))}
        return frame

    def similar(self, item: RawId, k: int = 10, *, where: Sequence[str] = ()) -> pd.DataFrame:
        """Return the items most like one, without itself.

        The score is the cosine of the learned candidate vectors without the popularity bias.

        Args:
            item: Raw id or title.
            k: Items wanted.
            where: Conditions on attributes of the others.

        Returns:
            Columns `rank`, `item`, `title`, `score`.
        """
        _check_k(k)
        return self._ranking(self._similar(self._people.item_row(item), k, self._selection(where)))

    def similar_many(self, items: Sequence[RawId], k: int = 10, *, where: Sequence[str] = ()) -> pd.DataFrame:
        """Return the items most like each of several; a first column `query` is the raw id of that item."""
        _check_k(k)
        selection, rows = self._selection(where), [self._people.item_row(item) for item in items]
        ranked = [self._similar(row, k, selection) for row in rows]
        frame = self._ranking(*ranked)
        ids = self._export.catalogue.item_ids.take(pa.array(rows, pa.int64())).to_numpy(zero_copy_only=False)
        frame.insert(0, "query", np.repeat(ids, [len(each.rows) for each in ranked]))
        return frame

    def past(self, user: RawId) -> pd.DataFrame:
        """Return the known items of a user, latest last where there is an order: columns `item`, `title`."""
        return self._named(self._export.past.take(self._people.user_rows([user]))[1])

    def find_titles(self, text: str, limit: int = 10) -> pd.DataFrame:
        """Return the items whose titles match a text, best first: columns `item`, `title`."""
        return self._named(find_titles(self._export.catalogue, text, limit))

    def _selection(
        self,
        where: Sequence[str],
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] = (),
        at_most: Mapping[str, int] | None = None,
    ) -> Selection | None:
        if isinstance(where, str):
            where = [where]
        deny = list(deny)
        if not where and allow is None and not deny and not at_most:
            return None
        return make_selection(self._export.catalogue, where, allow, deny, at_most)

    def _similar(self, row: int, k: int, selection: Selection | None) -> Ranked:
        scores = self._search.similarities(row)
        rows = select(scores, k, self._export.catalogue.item_ids, np.array([row]), 0, selection)
        return Ranked(rows, scores[rows])

    def _named(self, rows: np.ndarray) -> pd.DataFrame:
        catalogue, chosen = self._export.catalogue, pa.array(rows, pa.int64())
        titles = [None] * len(rows) if catalogue.titles is None else catalogue.titles.take(chosen).to_pylist()
        return pd.DataFrame(
            {
                "item": _column(catalogue.item_ids.take(chosen)),
                # As objects: pandas' own string type would turn None into a float.
                "title": pd.Series(titles, dtype=object),
            }
        )

    def _ranking(self, *ranked: Ranked) -> pd.DataFrame:
        rows = np.concatenate([np.empty(0, np.int64), *(each.rows for each in ranked)])
        frame = self._named(rows)
        places = [np.arange(1, len(each.rows) + 1) for each in ranked]
        frame.insert(0, "rank", np.concatenate([np.empty(0, np.int64), *places]))
        frame["score"] = np.concatenate([np.empty(0, np.float32), *(each.scores for each in ranked)])
        return frame


def _column(ids: pa.Array) -> Any:
    return ids.to_numpy() if pa.types.is_integer(ids.type) else pd.Series(ids.to_pylist(), dtype=object)


def _check_k(k: int) -> None:
    if k < 1:
        raise UserError(f"k {k}: a whole number from 1 up is needed")
