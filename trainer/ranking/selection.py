"""Which items may stand in a list: conditions, allowed and denied ones, at most n of an attribute's value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import UserError
from trainer.formatting import format_count
from trainer.ranking.best import best
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.filters import column_of, matching, parse_conditions
from trainer.storage.raw_ids import rows_of

COUNTS = 2**24
"""Counts of a value in a user's list that are in memory at a time, 4 bytes each."""
NAMED = 10
"""Most unknown ids that a note lists."""


@dataclass(frozen=True)
class Limit:
    """At most so many items of one value of an attribute may stand in a list.

    Attributes:
        most: That number.
        offsets: (items + 1,) int64 where the values of each item begin in `codes`.
        codes: Values of one item after those of another, numbered from 0; an item whose value is unknown has
            none and is not limited.
    """

    most: int
    offsets: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class Selection:
    """What restricts a list.

    Attributes:
        left_out: (n,) int64 rows of the items that may not stand in it.
        limits: Limits of attributes.
        notes: Sentences about what was asked for and could not be done.
    """

    left_out: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()


def make_selection(
    catalogue: Catalogue,
    where: Sequence[str] = (),
    allow: Iterable[str | int] | None = None,
    deny: Iterable[str | int] = (),
    at_most: Mapping[str, int] | None = None,
) -> Selection:
    """Return what restricts a list.

    Args:
        catalogue: The items.
        where: Conditions that all items must meet, see `parse_conditions`.
        allow: Raw ids of the only items that may stand in a list; None: any.
        deny: Raw ids of items that may not.
        at_most: Most items of one value, by attribute. An item with several values counts for each.

    Raises:
        UserError: A condition or a limit does not fit the attributes, or no item is left.
    """
    notes: list[str] = []
    allowed = matching(catalogue, parse_conditions(where))
    if allow is not None:
        rows, unknown = _rows(catalogue, allow)
        if not len(rows):
            raise UserError(
                f"--allow: none of {format_count(unknown.count, 'id')} is among the {len(catalogue):,} items "
                f"({unknown.examples}). Name items of the catalogue, such as {catalogue.item_ids[0]}"
            )
        chosen = np.zeros(len(catalogue), bool)
        chosen[rows] = True
        if where and not (chosen & allowed).any():
            raise UserError(
                f"--allow: none of its {len(rows):,} items meets --where. Leave one of the two out"
            )
        allowed &= chosen
        notes += unknown.note("--allow", catalogue)
    rows, unknown = _rows(catalogue, deny)
    notes += unknown.note("--deny", catalogue)
    allowed[rows] = False
    if not allowed.any():
        raise UserError("--deny: no item is left. Deny fewer items")
    limits = tuple(_limit(catalogue, name, most) for name, most in (at_most or {}).items())
    return Selection(np.flatnonzero(~allowed), limits, tuple(notes))


def parse_limits(texts: Sequence[str]) -> dict[str, int]:
    """Return the limits that texts such as `genres=2` stand for.

    Raises:
        UserError: A text is no limit.
    """
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name.strip() or not number.strip().isdecimal() or int(number) < 1:
            raise UserError(
                f"--at-most {text}: an attribute, = and a number from 1 up are needed, as genres=2"
            )
        found[name.strip()] = int(number)
    return found


def select(
    scores: np.ndarray,
    k: int,
    item_ids: pa.Array,
    left_out: np.ndarray,
    first_hash: int = 0,
    selection: Selection | None = None,
) -> np.ndarray:
    """Return the rows of the k best items that a selection permits, best first; fewer where fewer remain.

    With limits the ranking is gone through from its top, and an item is taken unless one of its values has
    been taken as often as it may.

    Args:
        scores: See `best`, as for all arguments but the last.
        k: Items wanted.
        item_ids: Raw ids.
        left_out: Rows that must not be returned, whatever the selection.
        first_hash: Where the order of equal scores begins.
        selection: What restricts the list; None: nothing.
    """
    if selection is not None:
        left_out = np.concatenate([left_out, selection.left_out])
    if selection is None or not selection.limits:
        return best(scores, k, item_ids, left_out, first_hash)
    wanted = 4 * k
    while True:
        ranking = best(scores, wanted, item_ids, left_out, first_hash)
        found = ranking[within_limits(ranking[None], k, selection.limits)[0]]
        if len(found) == k or len(ranking) < wanted:
            return found
        wanted *= 4


def within_limits(rankings: np.ndarray, k: int, limits: Sequence[Limit]) -> np.ndarray:
    """Return which items of each ranking are taken: the first k that the limits permit.

    Args:
        rankings: (B, K) item rows of B users, best first; -1 for no item.
        k: Items taken of each.
        limits: What restricts them.

    Returns:
        (B, K) bool.
    """
    widths = [int(limit.codes.max(initial=-1)) + 1 for limit in limits]
    block = max(COUNTS // max(*widths, 1), 1)
    blocks = [rankings[start : start + block] for start in range(0, len(rankings), block)]
    taken = [_within_limits(each, k, limits, widths) for each in blocks]
    return np.concatenate(taken) if taken else np.zeros(rankings.shape, bool)


def _within_limits(
    rankings: np.ndarray, k: int, limits: Sequence[Limit], widths: Sequence[int]
) -> np.ndarray:
    """Return what `within_limits` does for users whose counts of all values fit in memory."""
    taken = np.zeros(rankings.shape, bool)
    counts = [np.zeros((len(rankings), width), np.int32) for width in widths]
    total = np.zeros(len(rankings), np.int64)
    for place in range(rankings.shape[1]):
        # All users' items of this place at once: users do not depend on each other.
        users = np.flatnonzero((rankings[:, place] >= 0) & (total < k))
        if not len(users):
            break
        owners = [_values(limit, rankings[users, place]) for limit in limits]
        permitted = np.ones(len(users), bool)
        for limit, count, (who, codes) in zip(limits, counts, owners, strict=True):
            full = count[users[who], codes] >= limit.most
            permitted[who[full]] = False
        for count, (who, codes) in zip(counts, owners, strict=True):
            inside = permitted[who]
            count[users[who[inside]], codes[inside]] += 1
        taken[users[permitted], place] = True
        total[users[permitted]] += 1
    return taken


def _values(limit: Limit, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of items, one item's after another's: the place of the item, and the code."""
    starts, lengths = limit.offsets[items], limit.offsets[items + 1] - limit.offsets[items]
    who = np.repeat(np.arange(len(items)), lengths)
    inside = np.arange(len(who)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return who, limit.codes[starts[who] + inside]


def _limit(catalogue: Catalogue, name: str, most: int) -> Limit:
    place = f"--at-most {name}={most}"
    column = catalogue.attributes[column_of(catalogue, name, place)].combine_chunks()
    if pa.types.is_floating(column.type):
        raise UserError(f"{place}: {name} holds numbers with fractions, which few items share. Name another")
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    values = pc.list_flatten(column) if is_list else column
    owners = pc.list_parent_indices(column).to_numpy() if is_list else np.arange(len(column))
    known = values.is_valid().to_numpy(zero_copy_only=False)
    encoded = pc.dictionary_encode(values.filter(pa.array(known))).indices.to_numpy().astype(np.int64)
    # A value counts once for an item, however often it is listed.
    pairs = np.unique(owners[known] * (int(encoded.max(initial=0)) + 1) + encoded)
    items, codes = np.divmod(pairs, int(encoded.max(initial=0)) + 1)
    return Limit(most, np.append(0, np.cumsum(np.bincount(items, minlength=len(catalogue)))), codes)


@dataclass(frozen=True)
class _Unknown:
    """Ids that are not in the catalogue."""

    ids: list[str]
    given: int

    @property
    def count(self) -> int:
        return len(self.ids)

    @property
    def examples(self) -> str:
        more = f" and {self.count - NAMED:,} more" if self.count > NAMED else ""
        return ", ".join(self.ids[:NAMED]) + more

    def note(self, option: str, catalogue: Catalogue) -> list[str]:
        if not self.ids:
            return []
        return [
            f"{option}: {self.count:,} of {format_count(self.given, 'id')} not among the "
            f"{len(catalogue):,} items: {self.examples}"
        ]


def _rows(catalogue: Catalogue, raw_ids: Iterable[str | int]) -> tuple[np.ndarray, _Unknown]:
    """Return the rows of known ids, and the unknown ones."""
    ids = raw_ids if isinstance(raw_ids, pa.Array) else pa.array([str(each) for each in raw_ids], pa.string())
    rows = rows_of(catalogue.item_ids, ids)
    unknown = [str(each) for each in ids.filter(rows.is_null()).to_pylist()]
    return rows.drop_null().to_numpy(zero_copy_only=False), _Unknown(unknown, len(ids))
