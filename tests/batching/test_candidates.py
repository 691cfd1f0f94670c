"""Candidate sets, and their log probabilities against exact formulas and against counting."""

from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from trainer.batching.candidates import Candidates, catalogue, in_batch, sampled
from trainer.batching.sampler import Batches, BatchPlan
from trainer.batching.tower_inputs import item_inputs, user_inputs

# 40 users of whom item 0 has all, item 1 half, item 2 a quarter, ... and item 5 one; item 6 is held out.
HOLDERS = [40, 20, 10, 5, 3, 1]
PAIRS = [(user, item) for item, count in enumerate(HOLDERS) for user in range(count)]


@pytest.fixture
def skewed(tmp_path: Path):
    def make(**plan) -> Batches:
        data = worlds.dataset(tmp_path / "cache", PAIRS, [(0, 6)])
        settings = {"rows": "user", "size": 10, "seed": 0, "candidates": "in_batch", "samples": 3} | plan
        return Batches(data, BatchPlan(**settings), user_inputs(data, []), item_inputs(data, [], True))

    return make


def drawn_by(chances: np.ndarray, draws: int, generator: Any) -> dict[str, Any]:
    """Arguments of `sampled` for draws with these chances."""
    cumulative = np.cumsum(chances)
    return {
        "draw_chances": chances,
        "cumulative_chances": cumulative,
        "draws": draws,
        "generator": generator,
    }


def items_of(batch) -> np.ndarray:
    return batch.candidates["item"].values().numpy()


def test_the_catalogue_is_every_item_with_a_training_row_and_all_are_certain() -> None:
    found = catalogue(np.array([3, 1, 0, 2, 0]))
    assert found.items.tolist() == [0, 1, 3]
    assert found.log_q is None
    positions, present = found.positions(np.array([3, 2, 0]))
    assert positions[present].tolist() == [2, 0]
    assert present.tolist() == [True, False, True]


def test_positions_are_found_and_absent_items_are_reported_as_absent() -> None:
    positions, present = Candidates(np.array([2, 5, 9]), None).positions(np.array([9, 2, 3, 10, 0]))
    assert present.tolist() == [True, True, False, False, False]
    assert positions[:2].tolist() == [2, 0]
    assert positions.max() < 3


def test_a_set_is_ascending_and_contains_every_item_once() -> None:
    item_rows = np.array([3, 3, 3, 3, 3])
    own = in_batch(np.array([4, 1, 4, 1, 0]), item_rows, 3, 10)
    assert own.items.tolist() == [0, 1, 4]
    share = np.full(5, 0.2)
    generator = np.random.default_rng(0)
    draw = sampled(np.array([4, 1, 4]), item_rows, 3, 10, **drawn_by(share, 200, generator))
    assert draw.items.tolist() == [0, 1, 2, 3, 4]


def test_draws_follow_their_chances_and_never_take_an_item_without_one() -> None:
    share = np.array([0.0, 0.7, 0.0, 0.3, 0.0])
    counts = np.zeros(5)
    for seed in range(2000):
        generator = np.random.default_rng(seed)
        drawn = sampled(np.array([1]), np.ones(5, int), 1, 9, **drawn_by(share, 1, generator))
        counts[drawn.items] += 1
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    # Binomial of 2,000 draws at 0.3: standard deviation 20.5.
    assert abs(counts[3] - 600) < 5 * 20.5


def test_a_draw_beyond_the_rounded_sum_of_chances_takes_no_item_without_one() -> None:
    share = np.array([0.1] * 10 + [0.0])  # ten times 0.1 is 0.9999999999999999
    largest = SimpleNamespace(random=lambda draws: np.full(draws, np.nextafter(1, 0)))
    drawn = sampled(np.array([0]), np.array([1] * 10 + [0]), 1, 9, **drawn_by(share, 1, largest))
    assert drawn.items.tolist() == [0, 9]
    assert np.isfinite(drawn.log_q).all()


@pytest.mark.parametrize(
    ("power", "weights"),
    [
        (0, [1, 1, 1, 1, 1, 1, 0]),
        (0.5, [40**0.5, 20**0.5, 10**0.5, 5**0.5, 3**0.5, 1, 0]),
        (1, [40, 20, 10, 5, 3, 1, 0]),
    ],
)
def test_the_chance_of_a_draw_follows_a_power_of_the_training_interactions(skewed, power, weights) -> None:
    share = skewed(candidates="sampled", popularity_power=power).candidate_sets.draw_chances
    np.testing.assert_allclose(share, np.array(weights) / sum(weights))


def test_chances_are_summed_once_and_not_in_every_step(skewed) -> None:
    source = skewed(candidates="sampled", samples=50)
    # As if item 3 alone were drawn.
    source.candidate_sets.cumulative_chances = np.array([0, 0, 0, 1, 1, 1, 1.0])
    batch = source.make(0)
    own = items_of(batch)[batch.positives[1].numpy()]
    assert set(items_of(batch).tolist()) == {*own.tolist(), 3}


def test_log_q_of_in_batch_candidates_is_that_of_drawing_rows_without_replacement() -> None:
    # Of 30 rows a step takes 12; none of an item's n rows is among them in C(30 - n, 12) of C(30, 12) cases.
    item_rows = np.arange(1, 31)
    found = np.exp(in_batch(np.arange(30), item_rows, 12, 30).log_q)
    exact = [1 - comb(30 - count, 12) / comb(30, 12) for count in item_rows.tolist()]
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_log_q_of_rare_items_in_a_huge_training_split_keeps_its_digits() -> None:
    found = in_batch(np.array([0]), np.array([1]), 128, 10**9)
    assert found.log_q is not None
    assert float(found.log_q[0]) == pytest.approx(np.log(128 / 10**9), abs=1e-5)


def test_a_step_of_all_rows_contains_every_item_with_certainty(skewed) -> None:
    batch = skewed(size=40).make(0)
    assert batch.log_q.tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("candidates", "power"), [("in_batch", 0.0), ("sampled", 0.0), ("sampled", 0.5), ("sampled", 1.0)]
)
@pytest.mark.parametrize("rows", ["user", "interaction"])
def test_log_q_is_how_often_an_item_is_in_the_set(skewed, candidates, power, rows) -> None:
    source = skewed(candidates=candidates, popularity_power=power, rows=rows)
    # First steps of many epochs: an epoch's steps share its rows out among them and are not independent.
    steps = range(0, 1000 * source.steps_per_epoch, source.steps_per_epoch)
    present, chance = np.zeros(7), np.full(7, np.nan)
    for step in steps:
        batch = source.make(step)
        items = items_of(batch)
        present[items] += 1
        chance[items] = np.exp(batch.log_q.numpy())
    for item in np.flatnonzero(present):
        # Five standard deviations of the binomial, and a share of 0.004 for the middle factor of `in_batch`.
        tolerance = 5 * np.sqrt(chance[item] * (1 - chance[item]) / len(steps)) + 0.004
        assert present[item] / len(steps) == pytest.approx(chance[item], abs=tolerance), item
    assert (present[:6] > 0).all()
    assert present[6] == 0  # no row contains it: it would only be pushed down


@pytest.mark.parametrize("candidates", ["in_batch", "sampled"])
def test_every_rank_scores_the_same_set_and_looks_up_its_own_share(skewed, candidates) -> None:
    source = skewed(candidates=candidates)
    for step in range(6):
        alone = source.make(step)
        parts = [source.make(step, rank, 3) for rank in range(3)]
        assert np.concatenate([items_of(batch) for batch in parts]).tolist() == items_of(alone).tolist()
        assert sorted(set(items_of(alone).tolist())) == items_of(alone).tolist()
        for batch in parts:
            assert batch.log_q.tolist() == alone.log_q.tolist()
            assert batch.candidate_counts == [len(items_of(other)) for other in parts]


@pytest.mark.parametrize("candidates", ["in_batch", "sampled"])
def test_with_gathered_rows_a_rank_has_the_log_q_of_its_own_candidates(skewed, candidates) -> None:
    alone, source = skewed(candidates=candidates).make(2), skewed(candidates=candidates, rows_gathered=True)
    parts = [source.make(2, rank, 3) for rank in range(3)]
    assert np.concatenate([items_of(batch) for batch in parts]).tolist() == items_of(alone).tolist()
    assert torch.equal(torch.cat([batch.log_q for batch in parts]), alone.log_q)
    assert [batch.candidate_counts for batch in parts] == [[], [], []]


def test_samples_differ_between_steps_and_seeds(skewed) -> None:
    plan = {"candidates": "sampled", "size": 40, "rows": "interaction", "samples": 2}
    drawn = [items_of(skewed(**plan, seed=seed).make(step)).tolist() for seed in (0, 1) for step in range(4)]
    assert len({tuple(items) for items in drawn}) > 1
    again = [items_of(skewed(**plan, seed=seed).make(step)).tolist() for seed in (0, 1) for step in range(4)]
    assert again == drawn


def test_without_logq_no_candidate_is_corrected(skewed) -> None:
    assert skewed(logq=False).make(0).log_q is None
