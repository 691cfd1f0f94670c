"""Worlds in which what comes next follows from what came last, which only ordered histories know."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import worlds

TRAINING = (
    *("--model.dim", "32", "--batches.size", "16", "--run.epochs", "30", "--run.tensorboard", "false"),
    *("--run.choose", "false", "--model.temperature", "0.1", "--model.low_rank", "0"),
    *("--evaluation.k", "1", "--loss.candidates", "catalogue", "--optimizer.name", "adam"),
    *("--optimizer.learning_rate", "0.02"),
)
FAST_DECAY = ("--optimizer.dense_learning_rate", "0.1", "--model.history_table", "own")


def walks(users: int = 150, items: int = 40, length: int = 9) -> dict[int, list[int]]:
    """Histories that go around a cycle and jump to anywhere at every third step; the last step is none.

    What a user has are several arcs, each with a next item; only the last item says which of them comes next.
    """
    generator = np.random.default_rng(1)
    histories: dict[int, list[int]] = {}
    while len(histories) < users:
        walk = [int(generator.integers(items))]
        for step in range(1, length):
            jumps = step % 3 == 0 and step < length - 1
            walk.append(int(generator.integers(items)) if jumps else (walk[-1] + 1) % items)
        if len(set(walk)) == length:
            histories[1000 + len(histories)] = walk
    return histories


def found_first(folder: Path, histories: dict[int, list[int]], *options: str) -> float:
    """Share of the users whose next item is ranked first, among all that are not known."""
    run = worlds.trained(folder, *worlds.ordered_options(folder, histories), *TRAINING, *options)
    return json.loads((run / "metrics.json").read_text())["model"]["hit_rate@1"]


@pytest.mark.parametrize("kind", ["recency", "transformer"])
@pytest.mark.parametrize("table", ["own", "both"])
def test_on_a_cycle_of_items_the_next_one_is_ranked_first(kind: str, table: str, tmp_path: Path) -> None:
    options = "--model.history", kind, "--model.history_table", table
    assert found_first(tmp_path, worlds.cycle(), *options) > 0.95


def test_on_a_cycle_of_items_a_model_that_is_blind_to_order_is_often_wrong(tmp_path: Path) -> None:
    assert found_first(tmp_path, worlds.cycle(), "--model.history", "bag") < 0.8


@pytest.mark.parametrize("kind", ["recency", "transformer"])
def test_where_the_last_item_alone_says_what_follows_an_ordered_history_finds_it(
    kind: str, tmp_path: Path
) -> None:
    assert found_first(tmp_path, walks(), "--model.history", kind, *FAST_DECAY) > 0.7


def test_where_the_last_item_alone_says_what_follows_a_model_that_is_blind_to_order_guesses(
    tmp_path: Path,
) -> None:
    # The arcs of a user have three ends.
    assert found_first(tmp_path, walks(), "--model.history", "bag") < 0.5
