"""Conditions on attributes of items, such as `genres=Comedy` and `year>=1990`."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import UserError
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.plain_text import nearest

OPTION = "--where"
NAMED = 5
"""Most values that a message names."""
FORM = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|==|=|<|>)\s*(.+?)\s*", re.DOTALL)
ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """One condition on one attribute.

    Attributes:
        text: As it was given.
        attribute: Name or end of a name of the attribute.
        sign: `=`, `!=`, `<`, `<=`, `>` or `>=`.
        values: Values of which an item needs one; of `!=`, none.
    """

    text: str
    attribute: str
    sign: str
    values: tuple[str, ...]

    def fault(self, message: str) -> UserError:
        """Return an error that names the condition."""
        return UserError(f"{OPTION} {self.text}: {message}")


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """Return the conditions that texts such as `genres=Comedy|Drama` stand for.

    Raises:
        UserError: A text is no condition.
    """
    found = []
    for text in texts:
        match = FORM.fullmatch(text)
        if match is None:
            raise UserError(
                f"{OPTION} {text}: a name, one of = != < <= > >= and a value are needed, as genres=Comedy"
            )
        name, sign, value = match.groups()
        condition = Condition(text, name, "=" if sign == "==" else sign, tuple(value.split("|")))
        if sign in ORDERS and len(condition.values) > 1:
            raise condition.fault(f"{sign} takes one value. With several, use = or !=")
        found.append(condition)
    return found


def matching(catalogue: Catalogue, conditions: Sequence[Condition]) -> np.ndarray:
    """Return which items meet all conditions, (items,) bool.

    A list meets `=` where it holds one of the values, and `!=` where it holds none of them. An item whose
    value is unknown meets `!=` alone. Texts are compared in any case where none has exactly the one given.

    Raises:
        UserError: An attribute is unknown or no number where one is needed, no item has a value, or no item
            meets all conditions.
    """
    each = [_matching(catalogue, condition) for condition in conditions]
    found = np.logical_and.reduce(each) if each else np.ones(len(catalogue), bool)
    if not found.any():
        texts = f" {OPTION} ".join(condition.text for condition in conditions)
        if len(each) == 1:
            raise conditions[0].fault(f"no item matches.{_range(catalogue, conditions[0])}")
        alone = " and ".join(f"{int(one.sum()):,}" for one in each)
        raise UserError(
            f"{OPTION} {texts}: no item matches all; {alone} of {len(catalogue):,} match each alone. "
            "Leave one out"
        )
    return found


def column_of(catalogue: Catalogue, name: str, place: str) -> str:
    """Return the attribute of a name: the name itself, or the only one that ends with `_` and the name.

    Args:
        catalogue: Whose attributes they are.
        name: Such as `release_year` or `year`.
        place: What the name was given as, for messages.

    Raises:
        UserError: There is none, or more than one.
    """
    names = catalogue.attributes.column_names
    if name in names:
        return name
    ends = [each for each in names if each.endswith(f"_{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"{place}: {name} may be {' or '.join(ends)}. Write the whole name")
    if not names:
        raise UserError(
            f"{place}: no attributes of the items are known. Leave the option out, or train a run on data "
            "with attributes (--data.items)"
        )
    raise UserError(f"{place}: the items have no attribute {name}. There are: {', '.join(names)}")


def _matching(catalogue: Catalogue, condition: Condition) -> np.ndarray:
    """Return which items meet one condition, (items,) bool."""
    place = f"{OPTION} {condition.text}"
    name = column_of(catalogue, condition.attribute, place)
    column = catalogue.attributes[name].combine_chunks()
    values, owners = _flat(column)
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if condition.sign in ORDERS:
        if not is_number:
            raise condition.fault(f"{name} holds texts, which have no order. Use = or !=")
        (limit,) = _numbers(condition, name, values.type)
        met = ORDERS[condition.sign](pc.fill_null(values, 0).to_numpy(), limit)
        met &= values.is_valid().to_numpy(zero_copy_only=False)
    else:
        wanted = _known_numbers(condition, name, values) if is_number else _known_texts(condition, values)
        met = pc.is_in(values, value_set=wanted, skip_nulls=True).to_numpy(zero_copy_only=False)
    found = np.zeros(len(catalogue), bool)
    found[owners[met]] = True
    return ~found if condition.sign == "!=" else found


def _flat(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the values of a column, those of lists one list after another, and the row of each."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return column, np.arange(len(column))
    return pc.list_flatten(column), pc.list_parent_indices(column).to_numpy()


def _numbers(condition: Condition, name: str, type: pa.DataType) -> list[Any]:
    """Return the values of a condition as numbers of a column's type, or between them where it has none."""
    found: list[Any] = []
    for text in condition.values:
        try:
            number = int(text) if text.strip("+-").isdecimal() else float(text)
        except ValueError:
            raise condition.fault(f"{name} holds numbers, and {text!r} is none") from None
        if not np.isfinite(number):
            raise condition.fault(f"{name} holds numbers, and {text} is no finite one")
        found.append(type.to_pandas_dtype()(number) if pa.types.is_floating(type) else number)
    return found


def _known_numbers(condition: Condition, name: str, values: pa.Array) -> pa.Array:
    """Return the numbers that a condition asks for, each of which an item has."""
    known = pc.unique(values).drop_null().sort()
    if not len(known):
        raise condition.fault(f"{name} is unknown of all items. Leave the condition out")
    numbers = known.to_numpy()
    asked = _numbers(condition, name, values.type)
    for number in asked:
        if number not in numbers:
            order = np.argsort(np.abs(numbers.astype(np.float64) - float(number)), kind="stable")
            near = ", ".join(str(each) for each in numbers[np.sort(order[:2])])
            raise condition.fault(f"no item has {number}. Nearest: {near}")
    return pa.array(asked, values.type)


def _known_texts(condition: Condition, values: pa.Array) -> pa.Array:
    """Return the texts that a condition asks for, each of which an item has."""
    known = pc.unique(values).drop_null().to_pylist()
    found: list[str] = []
    for text in condition.values:
        same = [text] if text in known else [each for each in known if each.casefold() == text.casefold()]
        if not same:
            near = nearest(text, known, NAMED)
            shown = f"Nearest: {', '.join(near)}" if near else f"Such as: {', '.join(sorted(known)[:NAMED])}"
            raise condition.fault(f"no item has {text!r}. {shown}")
        found += same
    return pa.array(found, values.type)


def _range(catalogue: Catalogue, condition: Condition) -> str:
    """Return a sentence on the least and largest number of a condition's attribute; empty for texts."""
    name = column_of(catalogue, condition.attribute, OPTION)
    values, _ = _flat(catalogue.attributes[name].combine_chunks())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return " Leave the condition out"
    ends = pc.min_max(values).as_py()
    return f" {name} goes from {ends['min']} to {ends['max']}"
