"""Histories of someone new: raw ids from the command line, and their rows."""

import csv
from collections.abc import Sequence
from pathlib import Path

from trainer.dataset.vocabulary import Vocabulary
from trainer.errors import UserError

NAMED = 10
"""Most unknown items that a message lists."""


def split_history(vocabulary: Vocabulary, texts: Sequence[str]) -> list[str]:
    """Return raw ids from texts that hold one each, or several separated by commas.

    A text that is a known id as a whole is that id. In others an id with a comma stands in double quotes, as
    in CSV: `12,"a,119"`.

    Args:
        vocabulary: Of the run.
        texts: Values of `--history`.
    """
    found: list[str] = []
    for text in texts:
        if vocabulary.item_row(text) is not None:
            found.append(text)
        else:
            found += [part for line in csv.reader([text], skipinitialspace=True) for part in line if part]
    return found


def known_history(
    run: Path, vocabulary: Vocabulary, history: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """Return the row of each known item by its id, in the order given, and the unknown ids.

    Spaces around an id are dropped where that gives a known one.

    Raises:
        UserError: If no item is known.
    """
    known: dict[str, int] = {}
    unknown: list[str] = []
    for item in dict.fromkeys(history):
        name = item if vocabulary.item_row(item) is not None else item.strip()
        row = vocabulary.item_row(name)
        if row is None:
            unknown.append(item)
        else:
            known[name] = row
    if not known:
        examples = ", ".join(map(str, vocabulary.item_ids[:3].to_pylist()))
        raise UserError(
            f"{unknown_text(run, vocabulary, unknown)} (such as {examples}), and no other is given. "
            "Name one of these"
        )
    return known, unknown


def unknown_text(run: Path, vocabulary: Vocabulary, unknown: Sequence[str]) -> str:
    """Return a clause that names unknown items."""
    more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
    named = ", ".join(unknown[:NAMED])
    return f"--history {named}{more}: not among the {len(vocabulary.item_ids):,} items of {run}"
