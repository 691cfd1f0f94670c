"""The paired bootstrap: what it must give exactly, and how often its interval holds the truth."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from trainer.evaluation import bootstrap as compare
from trainer.evaluation.bootstrap import paired_bootstrap


def between(first, second, **settings):
    return paired_bootstrap({"ndcg@10": np.asarray(first)}, {"ndcg@10": np.asarray(second)}, **settings)[
        "ndcg@10"
    ]


def test_identical_values_differ_by_exactly_nothing():
    values = np.random.default_rng(0).random(500)
    found = between(values, values.copy())
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert found.first == found.second == values.mean()


def test_a_constant_lead_has_no_uncertainty_however_much_users_differ():
    values = np.random.default_rng(0).integers(0, 64, 500) / 64  # sums are exact
    found = between(values + 0.25, values)
    assert (found.difference, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_difference_is_that_of_the_means_and_its_sign_turns_with_the_order():
    one, other = [1.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 0.5]
    found, turned = between(one, other), between(other, one)
    assert (found.first, found.second, found.difference) == (0.5, 0.375, 0.125)
    assert (turned.difference, turned.low, turned.high) == (-0.125, -found.high, -found.low)


def test_two_users_have_three_resampled_means():
    # Differences 0 and 1: means 0, 1/2 and 1 with chances 1/4, 1/2, 1/4. The 95% interval is all of it, the
    # 40% interval is the middle.
    assert (between([0.0, 1.0], [0.0, 0.0]).low, between([0.0, 1.0], [0.0, 0.0]).high) == (0, 1)
    middle = between([0.0, 1.0], [0.0, 0.0], confidence=0.4)
    assert (middle.low, middle.high) == (0.5, 0.5)


def test_equal_seeds_give_equal_intervals_whatever_the_block(monkeypatch):
    generator = np.random.default_rng(0)
    one, other = generator.random(50), generator.random(50)
    found = between(one, other)
    assert found == between(one, other)
    assert found != between(one, other, seed=1)
    monkeypatch.setattr(compare, "DRAW_BLOCK", 1)
    assert between(one, other).low == pytest.approx(found.low, abs=0.005)


def test_scipy_finds_the_same_interval():
    generator = np.random.default_rng(0)
    one, other = generator.beta(2, 3, 300), generator.beta(2, 4, 300)
    found = between(one, other)
    expected = bootstrap(
        (one - other,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    # Both have the noise of 10,000 resamples, some hundredths of the width of 0.07.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_the_interval_holds_the_true_difference_in_about_95_of_100_samples():
    # Like NDCG of 200 users: from 0 to 1, skewed, alike for both models; the true means are 2/5 and 1/3.
    generator, held = np.random.default_rng(0), 0
    for sample in range(600):
        one = generator.beta(2, 3, 200)
        other = np.where(generator.random(200) < 0.5, one, generator.beta(2, 3, 200)) * 5 / 6
        found = between(one, other, resamples=1_000, seed=sample)
        held += found.low <= 2 / 5 - 1 / 3 <= found.high
    # 570 are expected, with a standard deviation of sqrt(600 x 0.95 x 0.05) = 5.3; percentile intervals of a
    # mean of 200 are a little too narrow.
    assert 550 <= held <= 587


def test_metrics_are_compared_one_by_one():
    found = paired_bootstrap(
        {"ndcg@10": np.array([1.0, 1.0]), "mrr@10": np.array([0.0, 0.0])},
        {"ndcg@10": np.array([0.0, 0.0]), "mrr@10": np.array([1.0, 1.0])},
    )
    assert (found["ndcg@10"].low, found["mrr@10"].high) == (1, -1)


@pytest.mark.parametrize("other", [{"ndcg@10": np.zeros(3)}, {"mrr@10": np.zeros(2)}])
def test_other_users_or_metrics_cannot_be_compared(other):
    with pytest.raises(ValueError, match="expected those of the same users"):
        paired_bootstrap({"ndcg@10": np.zeros(2)}, other)


def test_nobody_cannot_be_compared():
    with pytest.raises(ValueError, match="no users"):
        between(np.zeros(0), np.zeros(0))
