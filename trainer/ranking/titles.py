"""Items by title, as people type titles: without year, accents or case, and with slips."""

import difflib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import UserError
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.plain_text import plain, plain_title

COMPARED = 50
"""Titles that share the most trigrams, which are then compared letter by letter."""
LEAST_SHARED = 0.25
"""Least share of the trigrams of a text that a title near it holds."""
LEAST_LIKENESS = 0.5
"""Least likeness, from 0 to 1, of a text and a title near it."""
NAMED = 3
"""Titles that a message names."""


def find_titles(catalogue: Catalogue, text: str, limit: int = 10) -> np.ndarray:
    """Return the rows of items whose titles match a text, best first, (at most `limit`,) int64.

    First come items with this title, then those whose titles begin with it, then those that hold it, at the
    beginning of a word before elsewhere; where there is none of these, the ones whose letters are nearest.

    Args:
        catalogue: Of which the items are.
        text: A title or the beginning of one, in any case and with or without accents and year.
        limit: Most rows.
    """
    asked, titles = plain_title(text), catalogue.plain_titles
    if catalogue.titles is None or not asked:
        return np.empty(0, np.int64)
    holds = np.flatnonzero(pc.match_substring(titles, asked))
    if len(holds):
        found = titles.take(pa.array(holds))
        begins = pc.starts_with(found, asked).to_numpy(zero_copy_only=False)
        word = pc.match_substring(found, f" {asked}").to_numpy(zero_copy_only=False)
        lengths = pc.utf8_length(found).to_numpy()
        exact = np.isin(holds, titled(catalogue, text))
        return holds[np.lexsort((lengths, ~word, ~begins, ~exact))][:limit]
    return _nearest(asked, titles)[:limit]


def titled(catalogue: Catalogue, text: str) -> list[int]:
    """Return the rows of the items with this title: more than one where several share it.

    An item whose title is the same in all but case and accents goes before those that have it without year.
    """
    if catalogue.titles is None:
        return []
    asked = plain_title(text)
    rows = np.flatnonzero(pc.equal(catalogue.plain_titles, asked)).tolist() if asked else []
    whole = [row for row in rows if plain(catalogue.title(row) or "") == plain(text)]
    return whole or rows


def row_of_title(catalogue: Catalogue, text: str, option: str) -> int | None:
    """Return the row of the one item with this title; None where nothing says that a title was meant.

    Args:
        catalogue: Of which the items are.
        text: An id or a title that is no id of the catalogue.
        option: What the text was given as, for messages: `--history`.

    Raises:
        UserError: Several items have this title.
    """
    rows = titled(catalogue, text)
    if len(rows) > 1:
        named = ", ".join(_named(catalogue, row) for row in rows[:NAMED])
        raise UserError(
            f"{option} {text}: {len(rows):,} items have this title ({named}). Name one of them by its id"
        )
    return rows[0] if rows else None


def near_titles(catalogue: Catalogue, text: str) -> str:
    """Return a clause that names the titles nearest to a text; empty where none is near."""
    rows = find_titles(catalogue, text, NAMED).tolist()
    return "; nearest titles: " + ", ".join(_named(catalogue, row) for row in rows) if rows else ""


def _named(catalogue: Catalogue, row: int) -> str:
    return f'"{catalogue.title(row)}" ({catalogue.item_ids[row]})'


def _nearest(asked: str, titles: pa.Array) -> np.ndarray:
    """Return the rows of the titles that are nearest to one, at most `COMPARED`.

    Titles are compared by the trigrams of their UTF-8 bytes, those of all titles at once.
    """
    start, end, between = (pa.scalar(text, titles.type) for text in ("  ", " ", ""))
    padded = pc.binary_join_element_wise(start, titles, end, between)
    offsets = np.frombuffer(padded.buffers()[1], np.int64)[padded.offset :][: len(padded) + 1]
    letters = np.frombuffer(padded.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    wanted = np.unique(_trigrams(np.frombuffer(f"  {asked} ".encode(), np.uint8)))
    shared = np.flatnonzero(np.isin(_trigrams(letters), wanted))
    owners = np.searchsorted(offsets - offsets[0], shared, side="right") - 1
    inside = shared + 3 <= (offsets - offsets[0])[owners + 1]  # not from one title into the next
    counts = np.bincount(owners[inside], minlength=len(titles))
    near = np.flatnonzero(counts >= LEAST_SHARED * len(wanted))
    # Of titles that share as many, the shorter ones are nearer.
    near = near[np.lexsort((lengths[near], -counts[near]))][:COMPARED]
    likeness = np.array([_likeness(asked, title) for title in titles.take(pa.array(near)).to_pylist()])
    order = np.argsort(-likeness, kind="stable")
    return near[order[likeness[order] >= LEAST_LIKENESS]]


def _likeness(asked: str, title: str) -> float:
    """Return how like a text is to a title or, with a little less weight, to its beginning."""
    whole, beginning = (
        difflib.SequenceMatcher(None, asked, part).ratio() for part in (title, title[: len(asked)])
    )
    return max(whole, 0.95 * beginning)


def _trigrams(letters: np.ndarray) -> np.ndarray:
    """Return each three bytes in a row as one number."""
    wide = letters.astype(np.int32)
    return (wide[:-2] << 16) | (wide[1:-1] << 8) | wide[2:]
