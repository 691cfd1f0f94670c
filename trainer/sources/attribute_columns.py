"""What the values of an attribute are: texts as numbers, times or lists; Parquet types that can be used."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError

SEPARATORS = ("|", ";")
"""Separators of lists that are guessed; commas and blanks stand in titles and descriptions too."""
LEAST_SHARE = 0.1
"""Share of a column's values that must hold a separator for it to be guessed."""
WHOLE = r"^(0|-?[1-9][0-9]*)$"
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""Numbers as text. A leading zero, as in a postal code, makes a text."""
BRACKETS = r"^\s*[\[(].*[\])]\s*$"
"""Lists as pandas writes them: `['war', 'drama']`."""


@dataclass(frozen=True)
class Reading:
    """How attributes are to be read.

    Attributes:
        kinds: Kind by attribute where it is given; see `trainer.config.schema.ATTRIBUTE_KINDS`.
        list_separator: What separates the entries of a list in text; None: guessed for each column.
    """

    kinds: Mapping[str, str]
    list_separator: str | None = None

    def kind(self, name: str) -> str | None:
        """Return the kind that was given for an attribute, without the number of its buckets."""
        return self.kinds[name].partition(":")[0] if name in self.kinds else None


BY_TYPE = Reading({})
"""Every attribute as its values say."""
READABLE = "number, text, truth value, time, or list of numbers or texts"
"""Types of Parquet columns that can be attributes, for messages."""


@dataclass(frozen=True)
class Typed:
    """An attribute with a type.

    Attributes:
        values: Its values.
        remark: What was guessed; may be empty.
    """

    values: pa.Array
    remark: str = ""


def typed_text(name: str, texts: pa.Array, reading: Reading, declared: str = "") -> Typed:
    """Return texts as whole numbers, numbers, times, lists or texts: what all of them are.

    Args:
        name: Name of the attribute.
        texts: Its values; null is missing.
        reading: What was asked for.
        declared: Type that the file itself gives, as RecBole's do: `token_seq`, `float` or `float_seq`.

    Raises:
        DataError: Values are not of the kind that was asked for.
    """
    kind, separator = reading.kind(name), reading.list_separator
    if declared in ("token_seq", "float_seq"):
        separator = " "
    elif kind in ("list", "vector") and separator is None:
        separator = _guessed_separator(texts, 0.0)
        if separator is None and not _all_match(texts, BRACKETS):
            raise DataError(
                f"--data.attribute_kinds.{name} {kind}: no separator is found in values like "
                f"{_example(texts)!r}. Give it with --data.list_separator, or leave the kind out"
            )
    if kind in ("number", "buckets") or declared == "float":
        return Typed(typed_numbers(name, _given_numbers(name, texts, kind), reading))
    if kind == "category":
        return Typed(_as_whole(texts, texts))
    if declared != "token" and kind != "time" and (split := _split(texts, separator, kind, declared)):
        return split
    if _all_match(texts, WHOLE):
        return Typed(_as_whole(texts, texts))
    if declared != "token" and _all_match(texts, NUMBER):
        return Typed(texts.cast(pa.float64()))
    times = _as_times(texts) if declared != "token" else None
    if kind == "time" and times is None:
        raise DataError(
            f"--data.attribute_kinds.{name} time: values like {_example(texts)!r} are no ISO 8601 times, "
            "expected 2024-05-31 or 2024-05-31T12:00:00. Write them so, or leave the kind out"
        )
    return Typed(texts if times is None else times)


def typed_numbers(name: str, numbers: pa.Array, reading: Reading) -> pa.Array:
    """Return float64 numbers as integers if all are whole (as pandas writes integers with gaps)."""
    missing = pc.fill_null(pc.is_nan(numbers), True)
    numbers = pc.if_else(missing, None, numbers)
    if reading.kind(name) in (None, "category"):
        try:
            return numbers.cast(pa.int64())
        except pa.ArrowInvalid:  # a fraction
            pass
    return numbers


def parquet_type(type: pa.DataType) -> pa.DataType | None:
    """Return what a Parquet column of attributes is read as; None: it cannot be one."""
    if pa.types.is_dictionary(type):
        return parquet_type(type.value_type)
    if pa.types.is_fixed_size_list(type):
        return (
            pa.list_(pa.float32()) if _is_number(type.value_type) else parquet_type(pa.list_(type.value_type))
        )
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        if pa.types.is_floating(type.value_type):
            return pa.list_(pa.float32())
        element = parquet_type(type.value_type)
        return pa.list_(element) if element in (pa.int64(), pa.string()) else None
    if pa.types.is_integer(type):
        return pa.int64()
    if pa.types.is_floating(type) or pa.types.is_decimal(type):
        return pa.float64()
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        return pa.timestamp("s")
    textual = pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_boolean(type)
    return pa.string() if textual else None


def _is_number(type: pa.DataType) -> bool:
    return pa.types.is_floating(type) or pa.types.is_integer(type)


def _split(texts: pa.Array, separator: str | None, kind: str | None, declared: str) -> Typed | None:
    """Return texts as lists if they are lists, else None."""
    if declared in ("", "token_seq", "float_seq") and _all_match(texts, BRACKETS):
        inner = pc.replace_substring_regex(texts, r"^\s*[\[(]\s*|\s*[\])]\s*$", "")
        return _lists(inner, "," if pc.any(pc.match_substring(inner, ",")).as_py() else " ", kind)
    if declared:
        return _lists(texts, separator, kind) if separator == " " else None
    guessed = separator is None
    separator = _guessed_separator(texts, LEAST_SHARE) if guessed else separator
    if separator is None or not pc.any(pc.match_substring(texts, separator)).as_py():
        return None
    found = _lists(texts, separator, kind)
    how = "guessed; set another with --data.list_separator" if guessed else "as given"
    return Typed(found.values, f"split at {separator!r} ({how})")


def _lists(texts: pa.Array, separator: str | None, kind: str | None) -> Typed:
    """Split texts; entries lose blanks and quotes around them, and empty ones are dropped.

    Entries that are all numbers, some of them fractional, make vectors.
    """
    parts = pc.split_pattern(texts, separator)
    lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy()
    flat = pc.utf8_trim(pc.list_flatten(parts), characters=" \t\"'")
    filled = pc.greater(pc.binary_length(flat), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(lengths)), lengths)[filled]
    flat = flat.filter(pa.array(filled))
    lengths = np.bincount(rows, minlength=len(texts))
    ends = np.append(0, np.cumsum(lengths))
    offsets = pa.array(ends, pa.int32())
    fractions = len(flat) > 0 and _all_match(flat, NUMBER) and not _all_match(flat, WHOLE)
    if kind == "vector" or (fractions and kind != "list"):
        # A missing vector is no empty one, while a missing list is a bag of nothing.
        known = pa.array(ends, pa.int32(), mask=np.append(_is_null(texts), False))
        return Typed(pa.ListArray.from_arrays(known, flat.cast(pa.float32())))
    return Typed(pa.ListArray.from_arrays(offsets, flat))


def _guessed_separator(texts: pa.Array, least_share: float) -> str | None:
    given = texts.drop_null()
    for separator in SEPARATORS:
        held = pc.sum(pc.match_substring(given, separator)).as_py() or 0
        if held > 0 and held >= least_share * len(given):
            return separator
    return None


def _given_numbers(name: str, texts: pa.Array, kind: str | None) -> pa.Array:
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        odd = texts.drop_null()
        odd = odd.filter(pc.invert(pc.match_substring_regex(odd, NUMBER)))
        asked = f"--data.attribute_kinds.{name} {kind}" if kind else f"attribute {name}:float"
        raise DataError(
            f"{asked}: {_example(odd)!r} is no number. Mend the value, or read the column as a category: "
            f"--data.attribute_kinds.{name} category"
        ) from None


def _as_whole(texts: pa.Array, otherwise: pa.Array) -> pa.Array:
    """Return texts as int64 if all are whole numbers in canonical form; else `otherwise`."""
    if not _all_match(texts, WHOLE):
        return otherwise
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:  # too large
        return otherwise


def _as_times(texts: pa.Array) -> pa.Array | None:
    """Return ISO 8601 texts, with a zone or without, as times in seconds; None if they are none."""
    if not texts.null_count < len(texts):
        return None
    for type in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return texts.cast(type).cast(pa.timestamp("s"), safe=False)
        except pa.ArrowInvalid:
            continue
    return None


def _all_match(texts: pa.Array, pattern: str) -> bool:
    """Return whether there are texts, and all of them match."""
    return texts.null_count < len(texts) and bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _is_null(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _example(texts: pa.Array) -> str:
    given = texts.drop_null()
    return str(given[0].as_py())[:40] if len(given) else ""
