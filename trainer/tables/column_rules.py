"""Columns to read: their types, the rules that their values keep, and conversion without Python per row.

In a column without fault nothing is looked at alone; in one with a fault, only the values that look odd are.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LARGEST_ID = 2**63 - 1
LARGEST_VALUE = float(np.finfo(np.float32).max)
WHOLE_FLOAT = r"^(-?[0-9]+)\.0+$"  # what pandas writes for an integer of a column with gaps
DECIMAL_COMMA = r"^([+-]?[0-9]*),([0-9]+)$"


class Reader(Protocol):
    """Converts the blocks of one column of one file, in file order."""

    @property
    def note(self) -> str:
        """A sentence on how the column was understood; empty if there is nothing to say."""
        ...

    def read(self, raw: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Return converted values, null where they break the rule, and a mask of those that keep it."""
        ...


@dataclass(frozen=True)
class Column:
    """A column to read, and the rule that its values keep.

    Attributes:
        name: Name in the record batches that are returned.
        type: Type there.
        source: Name in the file.
        rule: Completes `expected ...` in an error.
        bounds: Smallest and largest value; None: any that can be converted, and any string but an empty one.
        required: A value that breaks the rule makes its row a bad one; otherwise it is read as null.
        remedy: What to do when all values of a file break the rule, so that skipping rows leaves none.
        decimal_comma: Whether a number may be written `0,5`.
    """

    name: str
    source: str
    type: pa.DataType
    rule: str = ""
    bounds: tuple[float, float] | None = None
    required: bool = True
    remedy: str = ""
    decimal_comma: bool = False

    note = ""

    def reader(self) -> Reader:
        """Return what converts this column in one file."""
        return self

    def read(self, raw: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Return converted values, null where they break the rule, and a mask of those that keep it."""
        if self.type == pa.string():
            if self.name.endswith("_id") and is_fractional(raw.type):
                raw = convert(raw, pa.int64())  # 86.0 is the id 86, among texts too
            values = convert(raw, pa.string())
            good = pc.greater(pc.binary_length(values), 0)
        else:
            if self.decimal_comma and raw.type == pa.string():
                raw = pc.replace_substring_regex(raw, DECIMAL_COMMA, r"\1.\2")
            # Values may be written as 4 or 4.0, whatever the type they are returned in.
            values = convert(raw, pa.float64() if self.name == "value" else self.type)
            good = pc.is_valid(values)
        if self.bounds:  # false for NaN
            good = pc.and_(pc.greater_equal(values, self.bounds[0]), pc.less_equal(values, self.bounds[1]))
        good = pc.fill_null(good, False)
        if good.false_count:
            values = pc.if_else(good, values, None)
        return values.cast(self.type, safe=False), good


def is_fractional(type: pa.DataType) -> bool:
    """Return whether numbers of a type may have decimals."""
    return pa.types.is_floating(type) or pa.types.is_decimal(type)


def plain(raw: pa.Array) -> pa.Array:
    """Return the values of an extension type or a dictionary as such; UUIDs as text."""
    if isinstance(raw.type, pa.BaseExtensionType):
        return uuid_texts(raw.storage) if is_uuid(raw.type) else plain(raw.storage)
    if pa.types.is_dictionary(raw.type):
        return plain(raw.dictionary_decode())
    return raw.cast(pa.string()) if raw.type == pa.string_view() else raw


def plain_type(type: pa.DataType) -> pa.DataType:
    """Return the type of what `plain` returns."""
    if isinstance(type, pa.BaseExtensionType):
        return pa.string() if is_uuid(type) else plain_type(type.storage_type)
    if pa.types.is_dictionary(type):
        return plain_type(type.value_type)
    return pa.string() if type == pa.string_view() else type


def is_uuid(type: pa.DataType) -> bool:
    """Return whether a type is Arrow's UUID: 16 bytes that are written as 36 characters."""
    return isinstance(type, pa.BaseExtensionType) and type.extension_name == "arrow.uuid"


def uuid_texts(raw: pa.Array) -> pa.Array:
    """Return (n,) values of 16 bytes as text in the form 8-4-4-4-12, null where they are."""
    given = raw.is_valid().to_numpy(zero_copy_only=False)
    data = np.frombuffer(raw.buffers()[1], np.uint8).reshape(-1, 16)[raw.offset : raw.offset + len(raw)]
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    pairs = np.stack([digits[data >> 4], digits[data & 15]], 2).reshape(-1, 32)
    texts = np.full((len(raw), 36), ord("-"), np.uint8)
    texts[:, [place for place in range(36) if place not in (8, 13, 18, 23)]] = pairs
    offsets = np.arange(0, 36 * len(raw) + 1, 36, dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
    whole = pa.Array.from_buffers(pa.large_string(), len(raw), buffers).cast(pa.string())
    return whole if given.all() else pc.if_else(given, whole, None)


def convert(raw: pa.Array, type: pa.DataType) -> pa.Array:
    """Return `raw` as `type`, null where a value cannot be converted."""
    try:
        return raw.cast(type)
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(raw), type)
    except pa.ArrowInvalid:
        odd = raw.is_valid()
    if raw.type == pa.string():
        if type == pa.int64():
            raw = pc.replace_substring_regex(raw, WHOLE_FLOAT, r"\1")
        odd = pc.fill_null(pc.invert(pc.match_substring_regex(raw, "^[0-9]{1,15}$")), False)
    elif pa.types.is_floating(raw.type):
        # Whole numbers up to 2**53 can be converted, and NaN equals nothing.
        numbers = raw.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less_equal(pc.abs(numbers), 2.0**53))
        odd = pc.fill_null(pc.invert(whole), False)
    converted = pa.array([_convert_one(value, type) for value in raw.filter(odd)], type)
    return pc.replace_with_mask(pc.if_else(odd, None, raw).cast(type), odd, converted)


def _convert_one(value: pa.Scalar, type: pa.DataType) -> object:
    with suppress(pa.ArrowInvalid):
        return value.cast(type).as_py()
    return None


def as_whole_numbers(texts: pa.Array) -> pa.Array | None:
    """Return texts as int64; None if one is not a canonical whole number (as labels, 7 and 007 differ)."""
    given = texts.drop_null()
    starts = np.frombuffer(given.buffers()[1], np.int32)[given.offset :][: len(given) + 1]
    characters = np.frombuffer(given.buffers()[2] or b"", np.uint8)
    try:
        numbers = texts.cast(pa.int64())  # takes 007, -0 and 0x7 too
    except pa.ArrowInvalid:
        return None
    # A zero in front stands alone; behind a minus there is none.
    first, lengths = characters[starts[:-1]], np.diff(starts)
    zero = (first == ord("0")) & (lengths > 1)
    minus = starts[:-1][first == ord("-")]
    return None if zero.any() or (characters[minus + 1] == ord("0")).any() else numbers


def are_whole_ids(texts: pa.Array) -> bool:
    """Return whether all texts are whole numbers; 86.0, as pandas writes a column with gaps, is 86."""
    if as_whole_numbers(texts) is not None:
        return True
    shortened = pc.replace_substring_regex(texts, WHOLE_FLOAT, r"\1")
    return shortened != texts and as_whole_numbers(shortened) is not None


def can_be_id(type: pa.DataType) -> bool:
    """Return whether values of a type can be ids: text, whole numbers, or numbers that may be whole."""
    type = plain_type(type)
    numeric = pa.types.is_integer(type) or is_fractional(type)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return numeric or pa.types.is_null(type) or any(test(type) for test in texts)
