"""Attributes of someone new, such as `gender=F,age=25`, as the query tower takes them."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.batching.tower_inputs import USER, Inputs, dense_widths, looked_up
from trainer.dataset.vocabulary import Vocabulary
from trainer.errors import UserError
from trainer.ranking.plain_text import nearest
from trainer.storage.attributes import Ragged

OPTION = "--attributes"
NAMED = 5
"""Most values that a message names."""
BUCKET = re.compile(r"(\S+) to (\S+)")
"""Name of a bucket of numbers, such as `18.0 to 25.0`."""


def attribute_inputs(
    run: Path, vocabulary: Vocabulary, inputs: Inputs, given: Mapping[str, object]
) -> dict[str, np.ndarray | Ragged]:
    """Return the features of the query tower for one person of whom attributes are known.

    Args:
        run: For messages.
        vocabulary: Of the run.
        inputs: Features of all users in the learned query tower.
        given: Value of each attribute; of several categories a list, or a text with `|` between them.

    Raises:
        UserError: An attribute is none of the query tower's, or nobody has the value.
    """
    tables, numbers = looked_up(inputs), dense_widths(inputs)
    prefix = f"{USER}_"
    names = [name[len(prefix) :] for name in (*tables, *numbers) if name.startswith(prefix)]
    names = [name for name in names if name in vocabulary.user_categories or f"{prefix}{name}" in numbers]
    found: dict[str, np.ndarray | Ragged] = {}
    for name, value in given.items():
        place = f"{OPTION} {name}={value}"
        if name not in names:
            has = (
                f"It has: {', '.join(names)}"
                if names
                else "It has none; train a run with --model.user_features"
            )
            raise UserError(f"{place}: the query tower of {run} has no attribute {name}. {has}")
        table = f"{prefix}{name}"
        if table in numbers:
            found[table] = _number(place, value, numbers[table])
        else:
            codes = _codes(place, value, vocabulary.user_categories[name])
            found[table] = Ragged(np.array([0, len(codes)]), np.array(codes, np.int32))
    return found


def _number(place: str, value: object, width: int) -> np.ndarray:
    """Return a number, or a vector of numbers with `|` between them, as one row."""
    parts = value if isinstance(value, list | tuple) else str(value).split("|")
    try:
        numbers = np.array([[float(part) for part in parts]], np.float32)
    except ValueError:
        numbers = np.array([[np.nan]], np.float32)
    if numbers.shape[1] != width or not np.isfinite(numbers).all():
        wanted = "a number is needed" if width == 1 else f"{width} numbers are needed, with | between them"
        raise UserError(f"{place}: {wanted}")
    return numbers


def _codes(place: str, value: object, categories: pa.Array) -> list[int]:
    """Return the codes of the categories that a value names."""
    texts = [str(category) for category in categories.to_pylist()]
    parts = value if isinstance(value, list | tuple) else [value]
    if len(parts) == 1 and str(parts[0]) not in texts:
        parts = str(parts[0]).split("|")
    codes = []
    for part in map(str, parts):
        if part in texts:
            codes.append(texts.index(part))
        elif (bucket := _bucket(part, texts)) is not None:
            codes.append(bucket)
        else:
            near = _nearest(part, texts)
            raise UserError(f"{place}: no user has {part}. {near}. Name one of these")
    return codes


def _bucket(text: str, names: list[str]) -> int | None:
    """Return the place of the bucket that a number falls into; None where there are no buckets."""
    try:
        number = float(text)
    except ValueError:
        return None
    for place, name in enumerate(names):
        match = BUCKET.fullmatch(name)
        if match is None:
            return None
        low, high = match.groups()
        if (low == "lowest" or float(low) <= number) and (high == "highest" or number < float(high)):
            return place
    return None


def _nearest(text: str, names: list[str]) -> str:
    """Return a sentence that names the values nearest to a text, or some."""
    try:
        number = float(text)
        by_distance = sorted(names, key=lambda name: abs(float(name) - number))
        return f"Nearest: {', '.join(sorted(by_distance[:2], key=float))}"
    except ValueError:
        near = nearest(text, names, NAMED)
    if near:
        return f"Nearest: {', '.join(near)}"
    return f"There are: {', '.join(names)}" if len(names) <= NAMED else f"Such as: {', '.join(names[:NAMED])}"
