"""Attributes of someone new, such as `gender=F` and `age=25`, as codes of categories and as numbers."""

import re
from collections.abc import Mapping

import numpy as np

from trainer.errors import UserError
from trainer.ranking.plain_text import nearest

NAMED = 5
"""Most values that a message names."""
BUCKET = re.compile(r"(\S+) to (\S+)")
"""Name of a bucket of numbers, such as `18.0 to 25.0`."""


def category_codes(place: str, value: object, codes: Mapping[str, int]) -> list[int]:
    """Return the codes of one category, or of several in a list or in a text with `|` between them.

    A number finds the bucket that it falls into.

    Args:
        place: Where the value was given, for messages.
        value: As it was given.
        codes: Code of each category, by its text.

    Raises:
        UserError: No user of the training has the value.
    """
    parts = [*value] if isinstance(value, list | tuple | set | np.ndarray) else [value]
    if len(parts) == 1 and str(parts[0]) not in codes:
        parts = str(parts[0]).split("|")
    found = []
    for part in map(str, parts):
        code = codes[part] if part in codes else _bucket(part, codes)
        if code is None:
            raise UserError(f"{place}: no user has {part}. {_near(part, [*codes])}. Name one of these")
        found.append(code)
    return found


def numbers(place: str, value: object, width: int) -> np.ndarray:
    """Return the numbers of one attribute, (width,) float32.

    Args:
        place: Where the value was given, for messages.
        value: A number, a list of them, or a text with `|` between them.
        width: How many are needed.

    Raises:
        UserError: The value is not so many finite numbers.
    """
    parts = value.split("|") if isinstance(value, str) else value
    try:
        found = np.asarray(parts, np.float32).reshape(-1)
    except (TypeError, ValueError):
        found = np.empty(0, np.float32)
    if len(found) != width or not np.isfinite(found).all():
        wanted = "a number is needed" if width == 1 else f"{width} numbers are needed, with | between them"
        raise UserError(f"{place}: {wanted}")
    return found


def _bucket(text: str, codes: Mapping[str, int]) -> int | None:
    """Return the code of the bucket that a number falls into; None where there are no buckets."""
    try:
        number = float(text)
    except ValueError:
        return None
    for name, code in codes.items():
        match = BUCKET.fullmatch(name)
        if match is None:
            return None
        low, high = match.groups()
        if (low == "lowest" or float(low) <= number) and (high == "highest" or number < float(high)):
            return code
    return None


def _near(text: str, categories: list[str]) -> str:
    """Return a sentence that names the categories nearest to a text, or some."""
    try:
        number = float(text)
        by_distance = sorted(categories, key=lambda name: abs(float(name) - number))
        return f"Nearest: {', '.join(sorted(by_distance[:2], key=float))}"
    except ValueError:
        near = nearest(text, categories, NAMED)
    if near:
        return f"Nearest: {', '.join(near)}"
    if len(categories) <= NAMED:
        return f"There are: {', '.join(categories)}"
    return f"Such as: {', '.join(categories[:NAMED])}"
