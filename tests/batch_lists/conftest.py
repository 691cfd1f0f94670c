"""Two runs that lists are made from: one with attributes and closed form, one with ordered histories."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import worlds

USERS, ITEMS = 32, 16


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkerboard whose items have a colour or two and a size."""
    folder = tmp_path_factory.mktemp("lists")
    ids = list(range(worlds.FIRST_ITEM, worlds.FIRST_ITEM + ITEMS))
    colours = [["white"], ["black"], ["white", "red"], ["black", "red"]] * (ITEMS // 4)
    items = pa.table({"item_id": ids, "colours": colours, "size": [number % 5 for number in range(ITEMS)]})
    pq.write_table(items, folder / "items.parquet")
    options = worlds.options(folder, *worlds.checkerboard(USERS, ITEMS))
    options += ["--data.items", str(folder / "items.parquet"), "--run.choose", "false"]
    return worlds.trained(folder, *options, "--model.low_rank", "4", "--run.epochs", "3")


@pytest.fixture(scope="session")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk a cycle, served by the order of their items."""
    folder = tmp_path_factory.mktemp("ordered")
    options = worlds.ordered_options(folder, worlds.cycle(users=24))
    model = "--model.history", "recency", "--model.history_length", "4", "--model.low_rank", "4"
    return worlds.trained(folder, *options, *model, "--run.choose", "false", "--run.epochs", "2")
