"""Timestamps in the forms that people have, as whole seconds since 1970 (UTC).

The form is found per file, block by block, and is one for a whole column: seconds among milliseconds, or
dates among numbers, are refused, since nobody can tell which of the two is meant.
"""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.tables.column_rules import Column, Reader, convert

DAY = 86_400
SMALL = 10**8
"""Numbers below may stand in any unit, as 0 does; by their size alone they tell nothing."""


class Form(IntEnum):
    """What a time is written as; the first two are none."""

    UNREADABLE = 0
    ANY = 1  # a small number, in whatever unit the others are
    SECONDS = 2
    MILLISECONDS = 3
    MICROSECONDS = 4
    NANOSECONDS = 5
    DAYS = 6
    MOMENTS = 7
    LOCAL = 8
    ZONED = 9
    TYPED = 10


NAMES = (
    *("no time", "a number", "seconds", "milliseconds", "microseconds", "nanoseconds"),
    *("days as 20200917", "times as 20200917002000"),
    *("times without a zone, read as UTC", "times with a zone", "times"),
)
"""Of the forms."""
BOUNDS = np.array([SMALL, 10**11, 10**14, 10**17])  # seconds to the year 5138, milliseconds from 1973 on, ...
EARLIEST_MOMENT = 19_000_101_000_000
SCALES = np.array([1, 1, 1, 10**3, 10**6, 10**9])  # of the forms up to nanoseconds

NUMBER = r"^[+-]?[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?$"
FRACTION = r"^(.{10}[T ][0-9]{2}:[0-9]{2}:[0-9]{2})[.,][0-9]+"
WITH_ZONE = r"^.{10}[T ][0-9:]+(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$"
RULE = "a time: ISO 8601, or a number of seconds, ms, us or ns since 1970"


class MixedFormsError(ValueError):
    """A column has times in two forms.

    Attributes:
        row: Row of the block, from 0, whose form differs from that of the rows before.
        fault: Completes `timestamp is '5'`.
    """

    def __init__(self, row: int, fault: str):
        super().__init__(fault)
        self.row, self.fault = row, fault


@dataclass(frozen=True)
class TimeColumn(Column):
    """A column of times, returned as int64 seconds since 1970."""

    def reader(self) -> Reader:
        """Return what converts this column in one file, and remembers its form."""
        return TimeReader(self.source)


TIMESTAMP = TimeColumn("timestamp", "timestamp", pa.int64(), RULE)


@dataclass
class TimeReader:
    """Reads the times of one file.

    Attributes:
        source: Name of the column in the file.
        form: None before the first time.
    """

    source: str
    form: Form | None = field(default=None, init=False)

    @property
    def note(self) -> str:
        """How the column was understood, unless it holds seconds or has a type that says so."""
        silent = self.form in (None, Form.ANY, Form.SECONDS, Form.TYPED)
        return "" if silent else f"{self.source} holds {NAMES[self.form or 0]}"

    def read(self, raw: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Return (n,) int64 seconds, rounded down, and a mask of the times that can be read.

        Raises:
            MixedFormsError: A time has another form than those before it.
        """
        if (whole := self._alike(raw)) is not None:
            return whole, pa.array(np.ones(len(raw), bool))
        seconds, forms = _times(raw, self.form)
        self._check(forms)
        good = pa.array(forms != Form.UNREADABLE)
        if self.form is not None and Form.SECONDS <= self.form <= Form.NANOSECONDS:
            seconds = np.floor_divide(seconds, SCALES[self.form])
        return pa.array(seconds, mask=forms == Form.UNREADABLE), good

    def _alike(self, raw: pa.Array) -> pa.Array | None:
        """Return the seconds of whole numbers whose unit is clear by the least and the largest alone."""
        if raw.type == pa.string():
            try:
                raw = raw.cast(pa.int64())
            except pa.ArrowInvalid:
                return None
        if raw.type != pa.int64() or raw.null_count or not len(raw):
            return None
        least, largest = (bound.as_py() for bound in pc.min_max(raw).values())
        first, last = (Form(int(BOUNDS.searchsorted(bound, side="right")) + 1) for bound in (least, largest))
        dates = first == Form.MILLISECONDS and largest >= EARLIEST_MOMENT
        if first != last or first == Form.ANY or dates or self.form not in (None, first):
            return None
        self.form = first
        if first == Form.SECONDS:
            return raw
        return pa.array(np.floor_divide(raw.to_numpy(), SCALES[first]))

    def _check(self, forms: np.ndarray) -> None:
        """Take the form of the first time whose size tells it, and refuse another one."""
        telling = np.flatnonzero(forms > Form.ANY)
        if self.form is None and len(telling):
            self.form = Form(forms[telling[0]])
        elif self.form is None and (forms == Form.ANY).any():
            self.form = Form.SECONDS
        if self.form is None:
            return
        numbers = Form.SECONDS <= self.form <= Form.NANOSECONDS
        other = (forms != self.form) & (forms != Form.UNREADABLE) & ~((forms == Form.ANY) & numbers)
        if other.any():
            row = int(np.flatnonzero(other)[0])
            fault = f"{NAMES[forms[row]]}, among {NAMES[self.form]}"
            raise MixedFormsError(row, fault)


def _times(raw: pa.Array, form: Form | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) int64 times, numbers still in their unit, and the form of each."""
    type = raw.type
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        seconds = raw.cast(pa.timestamp("s", getattr(type, "tz", None)), safe=False).cast(pa.int64())
        return _filled(seconds), np.where(_mask(raw.is_valid()), Form.TYPED, Form.UNREADABLE).astype(np.int8)
    if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
        return _numbers(raw, form)
    if type in (pa.large_string(), pa.binary(), pa.large_binary()):
        raw = convert(raw, pa.string())
    if raw.type != pa.string():
        return np.zeros(len(raw), np.int64), np.full(len(raw), Form.UNREADABLE, np.int8)
    raw = pc.ascii_trim_whitespace(raw)
    try:
        return _numbers(raw.cast(pa.int64()), form)
    except pa.ArrowInvalid:
        numeric = _mask(pc.match_substring_regex(raw, NUMBER))
    times, forms = _iso_8601(pc.if_else(numeric, None, raw))
    if numeric.any():
        numbers, units = _numbers(convert(raw.filter(numeric), pa.float64()), form)
        times[numeric], forms[numeric] = numbers, units
    return times, forms


def _numbers(raw: pa.Array, form: Form | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) int64 numbers rounded down, and their forms by their size."""
    given = _mask(raw.is_valid())
    if not pa.types.is_integer(raw.type) or pa.types.is_uint64(raw.type):
        values = raw.cast(pa.float64(), safe=False).fill_null(0).to_numpy()
        given &= np.abs(values) < 2.0**63  # false for NaN
        numbers = np.floor(np.where(given, values, 0)).astype(np.int64)
    else:
        numbers = _filled(raw.cast(pa.int64()))
    forms = np.where(given, Form.ANY + BOUNDS.searchsorted(np.abs(numbers), side="right"), Form.UNREADABLE)
    for calendar, unit, first in ((Form.DAYS, 1, Form.ANY), (Form.MOMENTS, 10**6, Form.MILLISECONDS)):
        # As seconds these would lie in 1970, as milliseconds after 2572; dates are what people mean.
        if form in (None, calendar) and given.any() and (forms[given] == first).all():
            moments, valid = _calendar(numbers, unit)
            if valid[given].all():
                return moments, np.where(given, calendar, Form.UNREADABLE).astype(np.int8)
    return numbers, forms.astype(np.int8)


def _calendar(numbers: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds of numbers such as 20200917 (unit 1) or 20200917002000 (10**6), and which are dates."""
    days, clock = numbers // unit, numbers % unit
    year, month, day = days // 10_000, days // 100 % 100, days % 100
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    valid = (year >= 1900) & (year <= 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype("M8[M]")
    dates = months.astype("M8[D]") + np.where(valid, day - 1, 0)
    valid &= dates.astype("M8[M]") == months  # there is no 31st of June
    return dates.astype(np.int64) * DAY + hour * 3600 + minute * 60 + second, valid


def _iso_8601(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) int64 seconds, without their fractions, and the form of each."""
    texts = pc.replace_substring_regex(texts, FRACTION, r"\1")
    texts = pc.replace_substring_regex(texts, r"([0-9]) ?(?:UTC|GMT|z)$", r"\1Z")
    texts = pc.replace_substring_regex(texts, r"(:[0-9]{2}) ([+-][0-9]{2})", r"\1\2")
    zoned = _mask(pc.match_substring_regex(texts, WITH_ZONE))
    seconds, forms = np.zeros(len(texts), np.int64), np.full(len(texts), Form.UNREADABLE, np.int8)
    for form, chosen, zone in ((Form.ZONED, zoned, "UTC"), (Form.LOCAL, ~zoned, None)):
        if chosen.any():
            moments = convert(texts.filter(chosen), pa.timestamp("s", zone)).cast(pa.int64())
            seconds[chosen] = _filled(moments)
            forms[chosen] = np.where(_mask(moments.is_valid()), form, Form.UNREADABLE)
    return seconds, forms


def _mask(mask: pa.Array) -> np.ndarray:
    return np.array(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def _filled(values: pa.Array) -> np.ndarray:
    return np.array(pc.fill_null(values, 0).to_numpy(zero_copy_only=False))
