"""Errors of predicted values and the spread of scores, against arithmetic that is written out."""

import math

import numpy as np
import pytest
import torch

from tests import worlds
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import join_world
from trainer.evaluation import rating_errors
from trainer.evaluation.rating_errors import RatingErrors, RatingMeter, RatingTarget

# Rows: users 1, 2 are rows 0, 1; items 10, 11, 12, 13 are rows 0 to 3. The training values have mean 3.
TRAIN = [(1, 10), (1, 11), (2, 12)]
VALUES = [5.0, 3.0, 1.0]
HELD_OUT = [(2, 11), (1, 13)]  # worlds gives both the value 1; not in the order of users
QUERY = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
ITEMS = torch.tensor([[4.0, 1.0], [2.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
# Scores: user 0: 4 2 0 3; user 1: 2 4 2 0. Seen: 4, 2 and 2; all others: 0, 3, 2, 4, 0.


@pytest.fixture
def data(tmp_path) -> Dataset:
    return worlds.dataset(tmp_path, TRAIN, HELD_OUT, VALUES)


def errors_of(data: Dataset, target: RatingTarget, chunks=([0, 1],)) -> RatingErrors:
    with join_world("cpu") as world:
        meter = RatingMeter(data, "test", target, world.device)
        for users in chunks:
            meter.add(np.array(users), QUERY[users], ITEMS)
        return meter.total(world)


def test_errors_are_those_of_the_scores_and_of_the_training_mean(data) -> None:
    found = errors_of(data, RatingTarget())
    # User 0 scores item 3 with 3, user 1 item 1 with 4; both values are 1.
    assert (found.interactions, found.mean) == (2, 3)
    assert found.rmse == pytest.approx(math.sqrt((2**2 + 3**2) / 2))
    assert found.mae == pytest.approx((2 + 3) / 2)
    assert (found.mean_rmse, found.mean_mae) == (2, 2)


def test_each_value_meets_the_score_of_its_own_pair(tmp_path) -> None:
    # Scores equal to the values give no error, in whatever order the file names the pairs.
    pairs = [(user, item) for item in (13, 11, 10, 12) for user in (2, 1)]
    values = [float((QUERY @ ITEMS.T)[user - 1, item - 10]) for user, item in pairs]
    data = worlds.dataset(tmp_path, pairs, [(1, 99)], values)
    rows = {raw: row for row, raw in enumerate(data.item_ids.to_pylist())}
    users = {raw: row for row, raw in enumerate(data.user_ids.to_pylist())}
    query, items = torch.zeros(2, 2), torch.zeros(len(rows), 2)
    for raw in (1, 2):
        query[users[raw]] = QUERY[raw - 1]
    for raw in range(10, 14):
        items[rows[raw]] = ITEMS[raw - 10]
    with join_world("cpu") as world:
        meter = RatingMeter(data, "train", RatingTarget(), world.device)
        meter.add(np.array([0, 1]), query, items)
        assert meter.total(world).rmse == 0


def test_scores_of_seen_pairs_are_apart_from_all_others(data) -> None:
    found = errors_of(data, RatingTarget())
    assert (found.seen_mean, found.seen_sd) == pytest.approx((np.mean([4, 2, 2]), np.std([4, 2, 2])))
    others = [0, 3, 2, 4, 0]
    assert (found.unseen_mean, found.unseen_sd) == pytest.approx((np.mean(others), np.std(others)))


def test_a_logit_predicts_the_chance_of_a_one(data) -> None:
    found = errors_of(data, RatingTarget(positive_value=3.0))
    chances = [1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-4))]  # both held-out values are below 3: zeros
    assert found.mean == pytest.approx(2 / 3)
    assert found.mae == pytest.approx(sum(chances) / 2)
    assert found.rmse == pytest.approx(math.sqrt(sum(chance**2 for chance in chances) / 2))
    assert found.mean_mae == pytest.approx(2 / 3)


def test_neither_chunks_nor_blocks_change_anything(data, monkeypatch) -> None:
    whole = errors_of(data, RatingTarget())
    monkeypatch.setattr(rating_errors, "BLOCK_VALUES", 2)
    assert errors_of(data, RatingTarget(), chunks=([1], [0])) == whole
