"""Plans of trainings on ordered histories: their tables, and what a step looks up and exchanges."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from trainer.cli import main

ROWS = ("--rows", "user=1e5", "--rows", "item=2e4", "--model.history", "recency", "--model.dim", "16")


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]):
    """The plan that a `plan` command prints as JSON."""

    def show(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["plan", *arguments, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return show


def tables(plan: dict[str, Any]) -> dict[str, int]:
    return {table["name"]: table["rows"] for table in plan["tables"]}


def test_an_ordered_history_needs_no_table_of_users_and_may_have_one_of_its_own(plan, tmp_path: Path) -> None:
    data = worlds.ordered_options(tmp_path, worlds.cycle())
    ordered = (*data, "--model.history", "recency", "--world-size", "2")
    assert tables(plan(*ordered)) == {"item": 13, "item_bias": 13, "item_context": 13}
    assert tables(plan(*ordered, "--model.history_table", "tied")) == {"item": 13, "item_bias": 13}
    assert tables(plan(*ordered, "--model.user_id", "true"))["user"] == 41
    # What is as long as the catalogue grows with it.
    grown = plan(*ordered, "--rows", "item=1000")
    assert tables(grown) == {"item": 1000, "item_bias": 1000, "item_context": 1000}


def test_sizes_alone_plan_the_same_tables(plan) -> None:
    assert tables(plan(*ROWS)) == {"item": 20_000, "item_bias": 20_000, "item_context": 20_000}
    users = plan(*ROWS, "--model.user_id", "true", "--model.history_table", "tied")
    assert tables(users) == {"user": 100_000, "item": 20_000, "item_bias": 20_000}


def test_rows_in_place_are_looked_up_here_and_candidates_take_their_context_along(
    plan,
) -> None:
    placed = (*ROWS, "--sharding.kind", "row_partitioned", "--world-size", "2")
    tied, own = (plan(*placed, "--model.history_table", table)["ranks"] for table in ("tied", "own"))
    assert all(rank["communication_ms"] == 0 for rank in [*tied, *own])
    # All that is sent are candidates: 16 values and a bias, and 16 more as items of histories.
    for one, other in zip(tied, own, strict=True):
        assert other["bytes_sent"] / one["bytes_sent"] == pytest.approx((16 + 1 + 16) / (16 + 1), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "may_change"),
    [
        ("--data.split leave_last_out", True),
        ("--data.split random", False),
        ("--data.split leave_last_out --model.history none", False),
        ("--data.split leave_last_out --model.history recency", False),
        ("--data.split leave_last_out --run.choose false", False),
    ],
)
def test_a_plan_says_where_training_may_choose_ordered_histories(
    options: str, may_change: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = worlds.ordered_options(tmp_path, worlds.cycle())
    assert main(["plan", *data, *options.split()]) == 0
    assert ("Training may choose ordered histories" in capsys.readouterr().out) == may_change
