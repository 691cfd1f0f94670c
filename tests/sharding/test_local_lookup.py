"""Lookups of one rank without an exchange, against sums of rows by hand."""

from collections.abc import Iterator

import pytest
import torch
from torchrec import KeyedJaggedTensor

from tests import layouts
from trainer.distributed.world import World, join_world
from trainer.model.towers import TwoTowers
from trainer.sharding.table_values import fill_tables

DIM = 4
ROWS = {"user": 6, "user_tags": 5}


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[World]:
    with join_world("cpu") as joined:
        yield joined


def numbered(table: str, rows: slice) -> torch.Tensor:
    """Row r of a table is r in each column, and 100 more in the second table."""
    first = 100.0 if table == "user_tags" else 0.0
    return torch.arange(rows.start, rows.stop).unsqueeze(1).expand(-1, DIM) + first


def pooled(optimizer: str, keys: list[str], bags: dict[str, list[list[int]]]) -> dict[str, list[float]]:
    """The first column of what the query tower's collection gives for bags of rows."""
    towers = TwoTowers(ROWS, {"item": 3}, DIM, "dot")
    model, _ = layouts.sharded(towers, "table_wise", optimizer, dict.fromkeys((*ROWS, "item"), 0.1))
    fill_tables(model, numbered)
    chosen = [bag for key in keys for bag in bags[key]]
    features = KeyedJaggedTensor(
        keys,
        torch.tensor([row for bag in chosen for row in bag], dtype=torch.int64),
        lengths=torch.tensor([len(bag) for bag in chosen], dtype=torch.int32),
        stride=len(bags[keys[0]]),
    )
    found = model.module.query.embeddings(features).to_dict()
    return {key: found[key][:, 0].tolist() for key in keys}


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"], ids=["dense", "fused"])
@pytest.mark.parametrize("keys", [["user", "user_tags"], ["user_tags", "user"]], ids=["in order", "turned"])
def test_a_bag_is_the_sum_of_its_rows(optimizer: str, keys: list[str]) -> None:
    single = {"user": [[4], [1]], "user_tags": [[2], [0]]}
    assert pooled(optimizer, keys, single) == {"user": [4, 1], "user_tags": [102, 100]}
    # As many rows as bags, and yet not one in each; 1 + 3 + 200 = 204.
    uneven = {"user": [[5], [2]], "user_tags": [[1, 3], []]}
    assert pooled(optimizer, keys, uneven) == {"user": [5, 2], "user_tags": [204, 0]}


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"], ids=["dense", "fused"])
def test_no_rows_have_no_vectors(optimizer: str) -> None:
    assert pooled(optimizer, ["user", "user_tags"], {"user": [], "user_tags": []}) == {
        "user": [],
        "user_tags": [],
    }
