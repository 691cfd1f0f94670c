"""What a step looks up and gathers, by its loss."""

from dataclasses import replace
from typing import Any

import pytest

from trainer.config.resolved import ResolvedLossConfig
from trainer.planning.workload import step_sizes

ROWS, ITEMS, POSITIVES = 64, 10_000, 640.0


def sizes(**loss: Any) -> tuple[int, int]:
    config = replace(ResolvedLossConfig(candidates="catalogue", samples=512), **loss)
    return step_sizes(config, ROWS, ITEMS, POSITIVES)


@pytest.mark.parametrize(
    ("candidates", "count"), [("catalogue", 10_000), ("in_batch", 640), ("sampled", 1152)]
)
def test_samples_are_counted_where_a_step_draws_them(candidates: str, count: int) -> None:
    # A softmax gathers its rows, and BPR its candidates.
    assert sizes(candidates=candidates) == (count, ROWS)
    assert sizes(candidates=candidates, name="bpr") == (count, count)


def test_no_step_looks_up_more_items_than_there_are() -> None:
    assert sizes(candidates="sampled", samples=ITEMS) == (ITEMS, ROWS)


@pytest.mark.parametrize("name", ["mse", "bce"])
def test_a_loss_on_values_looks_up_an_item_for_each_row_and_gathers_nothing(name: str) -> None:
    assert sizes(name=name) == (ROWS, 0)


def test_unknown_candidates_are_an_error() -> None:
    with pytest.raises(KeyError):
        sizes(candidates="some")
