"""Histories of someone new: raw ids or titles from the command line, and their rows."""

import csv
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import UserError
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.titles import near_titles, row_of_title

OPTION = "--history"
NAMED = 10
"""Most unknown items that a message lists."""


def split_history(catalogue: Catalogue, texts: Sequence[str]) -> list[str]:
    """Return raw ids and titles from texts that hold one each, or several separated by commas.

    A text that is a known id or title as a whole is that. In others one with a comma stands in double quotes,
    as in CSV: `12,"a,119"`.

    Args:
        catalogue: The items.
        texts: Values of `--history`.

    Raises:
        UserError: Several items have a title that was given.
    """
    found: list[str] = []
    for text in texts:
        if catalogue.item_row(text) is not None or row_of_title(catalogue, text, OPTION) is not None:
            found.append(text)
        else:
            found += [part for line in csv.reader([text], skipinitialspace=True) for part in line if part]
    return found


def known_history(
    run: Path, catalogue: Catalogue, history: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """Return the row of each known item by its id, in the order given, and the texts that are no item.

    A text is an id, an id with spaces around it, or a title, in this order.

    Raises:
        UserError: If no item is known, or several have a title that was given.
    """
    known: dict[str, int] = {}
    unknown: list[str] = []
    for item in dict.fromkeys(history):
        name = item if catalogue.item_row(item) is not None else item.strip()
        row = catalogue.item_row(name)
        if row is None and (row := row_of_title(catalogue, name, OPTION)) is not None:
            name = str(catalogue.item_ids[row])
        if row is None:
            unknown.append(item)
        else:
            known[name] = row
    if not known:
        examples = ", ".join(map(str, catalogue.item_ids[:3].to_pylist()))
        raise UserError(
            f"{unknown_text(run, catalogue, unknown)} (such as {examples}), and no other is given"
            f"{_near(catalogue, unknown)}. Name one of these"
        )
    return known, unknown


def left_out_text(run: Path, catalogue: Catalogue, unknown: Sequence[str], given: int) -> str:
    """Return a note on unknown items of a history of which others are known.

    Args:
        run: Run folder.
        catalogue: The items.
        unknown: Texts that are no item.
        given: Number of all.
    """
    counts = f"{given - len(unknown):,} of {given:,} given are known"
    return f"{unknown_text(run, catalogue, unknown)}, and left out; {counts}{_near(catalogue, unknown)}"


def unknown_text(run: Path, catalogue: Catalogue, unknown: Sequence[str]) -> str:
    """Return a clause that names unknown items."""
    more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
    named = ", ".join(unknown[:NAMED])
    return f"{OPTION} {named}{more}: not among the {len(catalogue):,} items of {run}"


def _near(catalogue: Catalogue, unknown: Sequence[str]) -> str:
    """Return a clause on titles that are near the first unknown text which may have been meant for one."""
    texts = (text for text in unknown[:NAMED] if not text.strip().isdecimal())
    return next(filter(None, (near_titles(catalogue, text) for text in texts)), "")
