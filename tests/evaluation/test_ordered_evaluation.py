"""What an ordered history holds when a split is measured, and the figures, by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import worlds
from tests.distributed.small_training import shards, whole
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World, join_world
from trainer.evaluation.evaluator import evaluate
from trainer.fitting.components import TrainingComponents, assemble
from trainer.fitting.loop import protocol
from trainer.model.retriever import as_of, query_vectors

OPTIONS = ("--model.history", "recency", "--model.dim", "8", "--model.init_std", "0.5", "--evaluation.k", "3")
HISTORIES = {
    1: [11, 12, 13, 14, 15, 16],
    2: [14, 11, 16, 12, 13],
    3: [15, 13, 12, 11],
    4: [16, 15, 14, 13, 12, 11],
}
HOURS = (1, 7)


@pytest.fixture
def world():
    with join_world("cpu") as world:
        yield world


def data_of(folder: Path, histories: dict[int, list[int]] = HISTORIES) -> Dataset:
    return worlds.ordered_dataset(folder, histories, validation_size=0.1, hours=HOURS)


def parts_of(
    data: Dataset, world: World, *options: str
) -> tuple[TrainingComponents, dict[str, torch.Tensor]]:
    """Towers with initial values, and these by the last parts of their names."""
    parts = assemble(worlds.configured(data, *OPTIONS, *options), data, world)
    weights = whole([shards(parts.model)])
    return parts, {key.removeprefix("learned.").split("bags.")[-1]: value for key, value in weights.items()}


def queries(parts: TrainingComponents, data: Dataset, split: str) -> torch.Tensor:
    """Query vectors of all users for a split, without the column of ones."""
    pairs = as_of(parts.tower_pairs, data, split)
    return query_vectors(pairs, np.arange(data.user_count), torch.device("cpu"))[:, :8]


def queries_by_hand(
    weights: dict[str, torch.Tensor], data: Dataset, histories: list[list[int]], by_time: bool = False
) -> torch.Tensor:
    rows = {raw: row for row, raw in enumerate(data.item_ids.to_pylist())}
    found = []
    for items in histories:
        state = torch.zeros(8)
        times = np.cumsum([0, *(HOURS[place % len(HOURS)] for place in range(len(items) - 1))])
        for place, item in enumerate(items):
            if by_time:
                weight = (1 + times[-1] - times[place]) ** -weights["encoder.log_time_decay"].exp()
            else:
                weight = torch.exp(-weights["encoder.log_decay"].exp() * (len(items) - 1 - place))
            state += weight * (weights["item.weight"] + weights["item_context.weight"])[rows[item]]
        found.append(state / state.norm())
    return torch.stack(found)


@pytest.mark.parametrize("by_time", [False, True])
def test_validation_knows_the_training_items_in_order_and_the_test_split_the_validation_item_too(
    by_time: bool, world: World, tmp_path: Path
) -> None:
    data = data_of(tmp_path)
    parts, weights = parts_of(data, world, "--model.history_decay", "time" if by_time else "position")
    assert data.user_ids.to_pylist() == list(HISTORIES)
    for split, held_out in (("validation", 2), ("test", 1)):
        histories = [items[:-held_out] for items in HISTORIES.values()]
        expected = queries_by_hand(weights, data, histories, by_time)
        torch.testing.assert_close(queries(parts, data, split), expected)


def test_other_held_out_items_change_no_query_vector(world: World, tmp_path: Path) -> None:
    swapped = {**HISTORIES, 1: [11, 12, 13, 14, 16, 15], 4: [16, 15, 14, 13, 11, 12]}
    one, other = data_of(tmp_path / "one"), data_of(tmp_path / "other", swapped)
    assert one.item_ids.equals(other.item_ids)
    found = [queries(parts_of(data, world)[0], data, "validation") for data in (one, other)]
    assert torch.equal(*found)
    # The validation item is known to the test split, and the test item is not.
    one, other = (queries(parts_of(data, world)[0], data, "test") for data in (one, other))
    assert not torch.allclose(one[0], other[0])
    tests = {**HISTORIES, 1: [11, 12, 13, 14, 15, 16], 2: [14, 11, 16, 12, 15]}
    again = data_of(tmp_path / "again", tests)
    assert torch.equal(queries(parts_of(again, world)[0], again, "test"), one)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_figures_are_those_of_a_computation_by_hand(
    split: str, sharded: bool, world: World, tmp_path: Path
) -> None:
    data = data_of(tmp_path)
    options = ("--evaluation.split", split, "--evaluation.sharded", str(sharded).lower())
    parts, weights = parts_of(data, world, *options, "--data.validation_size", "0.1")
    config = worlds.configured(data, *OPTIONS, *options, "--data.validation_size", "0.1")
    evaluation = evaluate(parts.tower_pairs, data, world, protocol(config, split, baselines=()))
    assert evaluation is not None
    held_out = 2 if split == "validation" else 1
    vectors = torch.nn.functional.normalize(weights["item.weight"]) / config.model.temperature
    known = [items[:-held_out] for items in HISTORIES.values()]
    scores = queries_by_hand(weights, data, known) @ vectors.T + weights["item_bias.weight"].mean(1)
    gains, names = [], data.item_ids.to_pylist()
    for row, items in enumerate(HISTORIES.values()):
        left = [(float(scores[row, place]), raw) for place, raw in enumerate(names) if raw not in known[row]]
        ranking = [raw for _, raw in sorted(left, reverse=True)]
        rank = ranking.index(items[-held_out]) + 1
        gains.append(1 / math.log2(rank + 1) if rank <= 3 else 0.0)
    assert evaluation.rankers["model"]["ndcg@3"] == pytest.approx(np.mean(gains), abs=1e-6)
    assert 0 < np.mean(gains) < 1
