"""Checkerboards whose run is exported, for tests of exports and of what opens them.

Items of even rows are white and of odd rows black; users of a colour have all items of it but one, which is
withheld and must be recommended first.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests import worlds

TRAIN, WITHHELD = worlds.checkerboard(users=32, items=16)
ITEMS = range(worlds.FIRST_ITEM, worlds.FIRST_ITEM + 16)
TITLES = [f"Film {chr(ord('A') + number)} ({1990 + number})" for number in range(16)]
CLOSED = ("--run.choose", "false", "--model.low_rank", "4")
PLAIN = CLOSED
ATTRIBUTES = (*CLOSED, "--model.user_features", "colour,height,decade")
BAG = (
    *ATTRIBUTES,
    "--model.history",
    "bag",
    "--model.hidden",
    "8",
    "--model.combine",
    "concat",
    "--model.dim",
    "20",
)


def options(folder: Path) -> list[str]:
    """Options that read the checkerboard with attributes of both sides."""
    users = {
        "user_id": [user for user, _ in WITHHELD],
        "colour": ["white", "black"] * 16,
        "height": [1.5, 1.9] * 16,
        "decade": [20, 40] * 16,
    }
    items = {
        "item_id": list(ITEMS),
        "title": TITLES,
        "colours": [["white"], ["black"]] * 8,
        "release_year": [1990 + number // 2 for number in range(16)],
    }
    found = worlds.options(folder, TRAIN, WITHHELD)
    for side, columns in (("users", users), ("items", items)):
        pq.write_table(pa.table(columns), folder / f"{side}.parquet")
        found += [f"--data.{side}", str(folder / f"{side}.parquet")]
    return found


def trained(folder: Path, *arguments: str) -> Path:
    """Run folder of a training on the checkerboard."""
    return worlds.trained(folder, *options(folder), *arguments)
