"""Attributes of someone new as a query program takes them: codes of categories, and numbers."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.ranking.plain_text import nearest

NAMED = 5
"""Most values that a message names."""
BUCKET = re.compile(r"(\S+) to (\S+)")
"""Name of a bucket of numbers, such as `18.0 to 25.0`."""


def category_codes(name: str, value: Any, codes: Mapping[str, int]) -> list[int]:
    """Return the codes of one category, or of several in a list or in a text with `|` between them.

    A number finds the bucket that it falls into.

    Args:
        name: Of the attribute.
        value: As it was given.
        codes: Code of each category, by its text.

    Raises:
        UserError: Nobody in the training data has the value.
    """
    parts = [*value] if isinstance(value, (list, tuple, set, np.ndarray)) else [value]
    if len(parts) == 1 and str(parts[0]) not in codes:
        parts = str(parts[0]).split("|")
    found = []
    for text in map(str, parts):
        code = codes.get(text, _bucket(text, codes))
        if code is None:
            near = nearest(text, codes, NAMED) or list(codes)[:NAMED]
            raise UserError(
                f"attributes: {name}={text}: nobody in the training data has it. Name one of these or the "
                f"like: {', '.join(near)}"
            )
        found.append(code)
    return found


def attribute_numbers(name: str, value: Any, width: int) -> np.ndarray:
    """Return the numbers of one attribute, (width,) float32; NaN where it is unknown.

    Raises:
        UserError: The value is not so many numbers.
    """
    if value is None:
        return np.full(width, np.nan, np.float32)
    parts = value.split("|") if isinstance(value, str) else value
    try:
        found = np.asarray(parts, np.float32).reshape(-1)
    except (TypeError, ValueError):
        found = np.empty(0, np.float32)
    if len(found) != width or not np.isfinite(found).all():
        wanted = "a number is needed" if width == 1 else f"{width} numbers are needed"
        raise UserError(f"attributes: {name}={value}: {wanted}")
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
