"""The catalogue: raw ids, titles and attributes of the items that are ranked."""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from trainer.ranking.plain_text import plain_title
from trainer.storage.raw_ids import row_of


@dataclass(frozen=True)
class Catalogue:
    """All items that may be recommended; row i of every column is item i.

    Attributes:
        item_ids: Raw ids, int64 or string.
        titles: (items,) strings, null where unknown; None where no item has one.
        item_name: What an item is called, e.g. `movie`.
        attributes: A column an attribute: integers, strings, float32, or lists of integers or of strings;
            null where unknown. There may be no column.
    """

    item_ids: pa.Array
    titles: pa.Array | None
    item_name: str
    attributes: pa.Table

    def __len__(self) -> int:
        return len(self.item_ids)

    def item_row(self, raw_id: str | int) -> int | None:
        """Return the row of an item, or None. Ids from outside are text, so "1" finds the integer 1."""
        return row_of(self.item_ids, raw_id)

    def title(self, row: int) -> str | None:
        """Return the title of an item, None where there is none."""
        return None if self.titles is None else self.titles[row].as_py()

    @cached_property
    def plain_titles(self) -> pa.Array:
        """Titles in plain letters, see `plain_title`; (items,) strings, empty where there is none."""
        titles = [None] * len(self) if self.titles is None else self.titles.to_pylist()
        return pa.array([plain_title(title) if title else "" for title in titles], pa.large_string())
