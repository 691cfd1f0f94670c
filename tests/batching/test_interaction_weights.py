"""Batches with weights and explicit negatives: what a step weighs, however it is shared among ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from trainer.batching.batch import Batch
from trainer.batching.sampler import Batches, BatchPlan
from trainer.batching.tower_inputs import item_inputs, user_inputs
from trainer.dataset.build import prepare
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.sources.schema import SourceTables

# (user, item, value, weight); values below 3 are explicit negatives. Rows of users and items are the ids.
ROWS = [
    *((0, 0, 5, 2.0), (0, 1, 5, 0.5), (0, 2, 5, 1.0), (1, 0, 4, 3.0), (1, 3, 4, 1.5), (2, 4, 3, 1.0)),
    *((0, 3, 1, 2.0), (0, 4, 2, 4.0), (2, 0, 1, 0.5)),
]
POSITIVES = {(user, item): weight for user, item, value, weight in ROWS if value >= 3}
NEGATIVES = {(user, item): weight for user, item, value, weight in ROWS if value < 3}


def prepared(folder: Path, columns: tuple[str, ...] = ("user_id", "item_id", "value", "weight")) -> Dataset:
    types = {"value": pa.float32(), "weight": pa.float32()}
    places = {"user_id": 0, "item_id": 1, "value": 2, "weight": 3}
    tables = (
        pa.table({name: pa.array([row[places[name]] for row in rows], types.get(name)) for name in columns})
        for rows in (ROWS, [(1, 1, 5, 1.0)])
    )
    source = SourceTables(*(iter(table.to_batches()) for table in tables))
    least: dict[str, Any] = (
        {"min_value": 3, "negatives": "use"} if "value" in columns else {"min_value": None}
    )
    settings = {"k_core": 0, "split": "given", "test_size": 0.5, "validation_size": 0, "split_seed": 1}
    return open_dataset(prepare(lambda: source, {}, folder, name="weighed", **settings, **least))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    found = prepared(tmp_path)
    assert found.user_ids.to_pylist() == [0, 1, 2]
    assert found.item_ids.to_pylist() == [0, 1, 2, 3, 4]
    return found


def steps_of(data: Dataset, history: bool = False, **plan: Any) -> Batches:
    plain = {"rows": "user", "size": 3, "seed": 5, "candidates": "catalogue", "samples": 2}
    inputs = user_inputs(data, [], history=history), item_inputs(data, [], True)
    return Batches(data, BatchPlan(**plain | plan), *inputs)


def weighed(batch: Batch, pairs: torch.Tensor, weights: torch.Tensor, items: list[int], users: list[int]):
    return {
        (users[row], items[column]): weight
        for (row, column), weight in zip(pairs.T.tolist(), weights.tolist(), strict=True)
    }


def test_a_user_row_weighs_its_positives_and_negatives(data: Dataset) -> None:
    batch = steps_of(data, user_weight_power=1.0).make(0)
    users, items = batch.queries["user"].values().tolist(), batch.candidates["item"].values().tolist()
    assert weighed(batch, batch.positives, batch.positive_weights, items, users) == POSITIVES
    assert weighed(batch, batch.negatives, batch.negative_weights, items, users) == NEGATIVES
    totals = dict(zip(users, batch.positive_counts.tolist(), strict=True))
    assert totals == {0: 2 + 0.5 + 1 + 2 + 4, 1: 3 + 1.5, 2: 1 + 0.5}
    # Positives weigh 3.5, 4.5 and 1, 3 on average.
    weights = dict(zip(users, batch.weights.tolist(), strict=True))
    assert weights == pytest.approx({0: 3.5 / 3, 1: 4.5 / 3, 2: 1 / 3})


def test_every_interaction_counts_by_its_weight_in_an_epoch_of_single_rows(data: Dataset) -> None:
    source = steps_of(data, rows="interaction", size=2)
    found: dict[tuple[int, int, bool], float] = {}
    for step in range(source.steps_per_epoch):
        batch = source.make(step)
        users, items = batch.queries["user"].values().tolist(), batch.candidates["item"].values().tolist()
        shares = batch.weights / batch.positive_counts
        for chosen, weights, positive in (
            (batch.positives, batch.positive_weights, True),
            (batch.negatives, batch.negative_weights, False),
        ):
            for (row, column), weight in zip(chosen.T.tolist(), weights.tolist(), strict=True):
                key = (users[row], items[column], positive)
                found[key] = found.get(key, 0.0) + weight * float(shares[row])
    expected = {(*pair, True): weight for pair, weight in POSITIVES.items()}
    expected |= {(*pair, False): weight for pair, weight in NEGATIVES.items()}
    scale = found[0, 0, True] / 2.0
    assert {key: value / scale for key, value in found.items()} == pytest.approx(expected)


def test_pointwise_rows_are_positives_and_negatives_that_weigh_1_on_average(data: Dataset) -> None:
    batch = steps_of(data, rows="interaction", candidates="own", size=9).make(0)
    rows = zip(
        batch.queries["user"].values().tolist(),
        batch.candidates["item"].values().tolist(),
        batch.values.tolist(),
        batch.weights.tolist(),
        strict=True,
    )
    mean = sum(row[3] for row in ROWS) / 9
    expected = {(user, item, value): weight / mean for user, item, value, weight in ROWS}
    assert {(user, item, value): weight for user, item, value, weight in rows} == pytest.approx(expected)


def test_hidden_items_of_a_history_keep_their_weights(data: Dataset) -> None:
    source = steps_of(data, history=True, history_dropout=0.5)
    seen = set()
    for step in range(10):
        batch = source.make(step)
        users, items = batch.queries["user"].values().tolist(), batch.candidates["item"].values().tolist()
        found = weighed(batch, batch.positives, batch.positive_weights, items, users)
        assert found.items() <= POSITIVES.items()
        seen |= {len(found)}
    assert len(seen) > 1  # not always all of them


def test_candidates_hold_the_negatives_and_know_the_chance_of_it(data: Dataset) -> None:
    # Over all steps of one row, an item is in the set of as many steps as log_q says. In-batch sets of single
    # rows: those of user 0 hold items 3 and 4 as negatives, that of user 2 item 0.
    source = steps_of(data, rows="interaction", candidates="in_batch", size=1)
    counts = np.zeros(5)
    for step in range(source.steps_per_epoch):
        batch = source.make(step)
        counts[batch.candidates["item"].values().numpy()] += 1
    assert counts.tolist() == [3, 1, 1, 4, 4]
    for step in range(source.steps_per_epoch):
        batch = source.make(step)
        chances = np.exp(batch.log_q.numpy())
        assert chances == pytest.approx(counts[batch.candidates["item"].values().numpy()] / 6, rel=1e-5)


def test_items_are_drawn_by_their_weights(data: Dataset) -> None:
    sets = steps_of(data, candidates="sampled", popularity_power=1.0).candidate_sets
    # Item 0 weighs 2 + 3, items 1 to 4 weigh 0.5, 1, 1.5 and 1.
    assert sets.draw_chances == pytest.approx(np.array([5, 0.5, 1, 1.5, 1]) / 9)


@pytest.mark.parametrize("rows", ["user", "interaction"])
@pytest.mark.parametrize("candidates", ["catalogue", "in_batch", "sampled"])
@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_together_weigh_what_one_does(data, rows, candidates, gathered, world_size) -> None:
    source = steps_of(data, rows=rows, candidates=candidates, size=2, rows_gathered=gathered)
    for step in range(source.steps_per_epoch):
        whole, parts = source.make(step), [source.make(step, rank, world_size) for rank in range(world_size)]
        for name in ("positives", "negatives"):
            found, first_row, first_column = [], 0, 0
            for part in parts:
                shifted = getattr(part, name) + torch.tensor([[first_row], [first_column]])
                weights = getattr(part, f"{name[:-1]}_weights").tolist()
                found += [(*pair, weight) for pair, weight in zip(shifted.T.tolist(), weights, strict=True)]
                if gathered:
                    first_column += part.candidates.stride()
                    assert torch.equal(part.positive_counts, whole.positive_counts)
                    assert torch.equal(part.weights, whole.weights)
                else:
                    first_row += part.queries.stride()
            weights = getattr(whole, f"{name[:-1]}_weights").tolist()
            pairs = getattr(whole, name).T.tolist()
            expected = [(*pair, weight) for pair, weight in zip(pairs, weights, strict=True)]
            assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("rows", ["user", "interaction"])
def test_impressions_are_negatives_like_those_of_low_values(data: Dataset, tmp_path: Path, rows: str) -> None:
    # The same negatives, of which some were judged and some only shown.
    low, shown = ROWS[:-2], [(user, item, weight) for user, item, _, weight in ROWS[-2:]]
    types = {"value": pa.float32(), "weight": pa.float32()}

    def batches(rows: list, *columns: str):
        named = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
        return iter(pa.table({n: pa.array(v, types.get(n)) for n, v in named.items()}).to_batches())

    four = ("user_id", "item_id", "value", "weight")
    source = SourceTables(
        batches(low, *four),
        batches([(1, 1, 5, 1.0)], *four),
        impressions=batches(shown, "user_id", "item_id", "weight"),
    )
    settings = {"k_core": 0, "split": "given", "test_size": 0.5, "validation_size": 0, "split_seed": 1}
    folder = prepare(
        lambda: source, {"shown": 1}, tmp_path, name="weighed", min_value=3, negatives="use", **settings
    )
    both = open_dataset(folder)
    assert (len(both.negatives or ()), len(both.shown or ())) == (1, 2)
    steps = [steps_of(each, rows=rows, candidates="in_batch", size=2) for each in (data, both)]
    for step in range(steps[0].steps_per_epoch):
        expected, found = (each.make(step) for each in steps)
        for name in ("negatives", "negative_weights", "positive_counts", "weights", "log_q"):
            assert torch.equal(getattr(found, name), getattr(expected, name))


def test_data_without_weights_and_negatives_have_none(tmp_path: Path) -> None:
    batch = steps_of(prepared(tmp_path, ("user_id", "item_id"))).make(0)
    assert (batch.positive_weights, batch.negatives, batch.negative_weights) == (None, None, None)
    assert batch.positive_counts.dtype == torch.int64
