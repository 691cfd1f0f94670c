"""Recommendations as text and as JSON."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import pandas as pd

NARROWEST_TITLE = 8
"""Columns of a terminal that a title gets at least."""


def as_json(person: str | Sequence[str] | dict[str, Any], recommendations: pd.DataFrame) -> dict[str, Any]:
    """Return what `recommend --json` prints.

    Args:
        person: A user's id, the ids of a history, or what else the list was made for, by name.
        recommendations: What `recommend` returned.
    """
    if isinstance(person, dict):
        who = dict(person)
    else:
        who = {"user": person} if isinstance(person, str) else {"history": list(person)}
    unknown = recommendations.attrs.get("unknown")
    who |= {"unknown": unknown} if unknown else {}
    return who | {"items": recommendations.to_dict("records")}


def as_text(recommendations: pd.DataFrame, width: int | None = None) -> str:
    """Format a heading and a line for each item: rank, raw id, title where there is one, score.

    Where there are reasons, they follow each item in a line of their own.

    Args:
        recommendations: What `recommend` returned.
        width: Columns of the terminal, to which titles are cut; None cuts nothing.
    """
    if recommendations.empty:
        return "No items are left: the user has all of them. Rank them too with --keep-seen"
    ranks = _column("rank", [str(rank) for rank in range(1, len(recommendations) + 1)], right=True)
    ids = _column("item", [_printable(item) for item in recommendations["item"]], right=True)
    scores = _column("score", [_score(score) for score in recommendations["score"]], right=True)
    columns = [ranks, ids, scores]
    marked = "test" in recommendations
    if marked:
        columns.append(_column("test", ["*" if hit else "" for hit in recommendations["test"]]))
    titles = [_printable(title or "") for title in recommendations["title"]]
    if any(titles):
        left = None if width is None else width - sum(_cells(each[0]) + 2 for each in columns)
        columns.insert(2, _column("title", titles, most=None if left is None else max(left, NARROWEST_TITLE)))
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    if "why" in recommendations:
        indent = " " * (_cells(ranks[0]) + 2)
        reasons = [_because(reasons) for reasons in recommendations["why"]]
        shown = [f"{indent}{text}" if width is None else _cut(f"{indent}{text}", width) for text in reasons]
        pairs = zip(lines[1:], shown, strict=True)
        lines[1:] = [line for pair in pairs for line in pair if line.strip()]
    if marked:
        listed, held_out = int(recommendations["test"].sum()), recommendations.attrs["held_out"]
        lines.append(f"* in the test split: {listed:,} of the {held_out:,} that the user has there")
    return "\n".join(lines)


def _because(reasons: list[dict[str, Any]]) -> str:
    """Return the items of the past that speak for an item, as one line; empty without any."""
    named = [f"{_printable(each['title'] or each['item'])} ({each['score']:+.2f})" for each in reasons]
    return f"because of {', '.join(named)}" if named else ""


def _score(score: float) -> str:
    return f"{score:,}" if isinstance(score, int) else f"{score:.4f}"


def _column(heading: str, cells: list[str], right: bool = False, most: int | None = None) -> list[str]:
    """Return a heading and its cells, all of the same width, at most `most`."""
    cells = [heading, *(cell if most is None else _cut(cell, most) for cell in cells)]
    width = max(map(_cells, cells))
    padded = [" " * (width - _cells(cell)) for cell in cells]
    return [pad + cell if right else cell + pad for cell, pad in zip(cells, padded, strict=True)]


def _cut(text: str, most: int) -> str:
    """Return a text of at most `most` columns; what was cut off is shown by an ellipsis."""
    if _cells(text) <= most:
        return text
    while _cells(text) > most - 1:
        text = text[:-1]
    return f"{text}…"


def _cells(text: str) -> int:
    """Return the columns that a text takes on a terminal, where a Chinese character takes two."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _printable(value: object) -> str:
    """Return a value as one line of text."""
    return "".join(character if character.isprintable() else " " for character in str(value))
