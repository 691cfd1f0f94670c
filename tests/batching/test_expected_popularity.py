"""What attributes let expect of an item's popularity, beside scikit-learn and arithmetic."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge

from trainer.batching.expected_popularity import PENALTY, expected_log_popularity, residual_mean
from trainer.storage.attributes import categorise, encode_attribute


def test_items_are_expected_as_popular_as_those_of_their_category():
    # Three of each category are trained, had by 8 and by 2 users each; the last two items are new.
    counts = np.array([8, 2, 8, 2, 8, 2, 0, 0])
    feature = categorise("kind", pa.chunked_array([["a", "b"] * 4]))
    expected = expected_log_popularity(counts, {"kind": feature}, {})
    # Each weight is the mean deviation, log 2 up or down, times 3 / (3 + PENALTY).
    step = np.log(2) * 3 / (3 + PENALTY)
    np.testing.assert_allclose(expected, np.log(4) + np.array([step, -step] * 4), rtol=1e-6)


def test_numbers_vectors_and_lists_are_weighed_as_scikit_learn_does():
    generator = np.random.default_rng(1)
    counts = generator.integers(0, 50, 40)
    numbers = [None if row % 9 == 0 else float(value) for row, value in enumerate(generator.random(40))]
    vectors = pa.array(list(generator.random((40, 3))), pa.list_(pa.float64(), 3))
    lists = [["a", "b"][: row % 3] for row in range(40)]
    number = encode_attribute("number", pa.chunked_array([numbers]))
    vector = encode_attribute("vector", pa.chunked_array([vectors]))
    expected = expected_log_popularity(
        counts,
        {"list": categorise("list", pa.chunked_array([lists]))},
        {"number": number, "vector": vector},
    )
    missing = np.isnan(number.values)
    design = np.column_stack(
        [
            [len(bag) > 0 and 1 / len(bag) ** 0.5 for bag in lists],
            [len(bag) > 1 and 1 / len(bag) ** 0.5 for bag in lists],
            np.where(missing, 0, (number.values - number.center) / number.scale),
            missing,
            (vector.values - vector.center) / vector.scale,
        ]
    ).astype(float)
    trained = counts > 0
    mean = np.log(counts[trained]).mean()
    ridge = Ridge(PENALTY, fit_intercept=False).fit(design[trained], np.log(counts[trained]) - mean)
    np.testing.assert_allclose(expected, ridge.predict(design) + mean, rtol=1e-4)


def test_an_item_of_which_only_the_expectation_is_known_is_a_mean_one_of_those_alike():
    # Two items are expected to be had by 4 users, and are by 2 and by 14: the mean one is by 8, twice 4.
    assert residual_mean(np.array([2, 14, 0]), np.log([4.0, 4, 4])) == pytest.approx(np.log(2))


def test_without_any_training_interactions_nothing_is_expected():
    feature = categorise("kind", pa.chunked_array([["a", "b"]]))
    assert expected_log_popularity(np.zeros(2, int), {"kind": feature}, {}).tolist() == [0, 0]
