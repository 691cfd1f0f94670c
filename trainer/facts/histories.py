"""What the query tower knows of a user's earlier items: facts about each kind of history.

A new kind is an entry of `HISTORIES` with its name in `HistoryName`.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

HistoryName: TypeAlias = Literal["none", "bag", "recency", "transformer"]


@dataclass(frozen=True)
class HistorySpec:
    """Facts about one kind of history.

    Attributes:
        bag: Whether the items are looked up together, in any order, in a table of their own.
        ordered: Whether the items stand in their order of time, and each is predicted from those before it.
        attention: Whether the encoder of an ordered history attends to the items.
    """

    bag: bool = False
    ordered: bool = False
    attention: bool = False


HISTORIES: dict[str, HistorySpec] = {
    "none": HistorySpec(),
    "bag": HistorySpec(bag=True),
    "recency": HistorySpec(ordered=True),
    "transformer": HistorySpec(ordered=True, attention=True),
}
OLD_NAMES: dict[object, HistoryName] = {False: "none", True: "bag"}
"""Names of kinds in configurations of older versions."""
ORDERED = " or ".join(name for name, spec in HISTORIES.items() if spec.ordered)
"""Kinds of ordered histories, for messages."""


def history_spec(name: str | bool | None) -> HistorySpec:
    """Return the facts about a kind of history; of one that is still to be decided, those of `none`."""
    return HISTORIES[OLD_NAMES.get(name, name or "none")]  # type: ignore[arg-type]
