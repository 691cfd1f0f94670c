"""Scores divided among the items of the past: exact where the query is their sum."""

import numpy as np
import pytest

from trainer.ranking.reasons import Past, contributions, strongest
from trainer.ranking.similar import unit_vectors

GENERATOR = np.random.default_rng(3)
VECTORS = GENERATOR.standard_normal((9, 6)).astype(np.float32)  # 3 learned, a bias, 2 of closed form
UNIT = unit_vectors(VECTORS, 3)


def test_a_query_that_is_a_sum_is_divided_exactly() -> None:
    parts = GENERATOR.standard_normal((4, 6)).astype(np.float32)
    parts[:, 3] = 0  # the bias belongs to nobody
    query = parts.sum(0)
    query[3] = 1
    past = Past(np.array([0, 2, 5, 7]), query, parts)
    found = contributions(past, VECTORS, UNIT, np.array([1, 3]))
    for number, row in enumerate((1, 3)):
        assert found[number].tolist() == pytest.approx(
            [float(part @ VECTORS[row]) for part in parts], abs=1e-5
        )
        assert found[number].sum() + VECTORS[row, 3] == pytest.approx(float(query @ VECTORS[row]), abs=1e-5)


def test_the_rest_is_divided_by_similarity() -> None:
    vectors = np.array([[2, 0, 5], [1, 1, 5], [0, 3, 5], [-1, 0, 5]], np.float32)  # 2 learned and a bias
    query = np.array([3, 4, 1], np.float32)
    past = Past(np.array([1, 2, 3]), query, np.zeros((3, 3), np.float32))
    found = contributions(past, vectors, unit_vectors(vectors, 2), np.array([0, 2]))
    # Item 0 scores 6 without its bias; of the past only item 1 points its way at all, as 0.71, 0 and -1 say.
    # Item 2 scores 12, and its likeness with items 1, 2 and 3 is 0.71, 1 and 0.
    near = 0.5**0.5
    assert found[0].tolist() == pytest.approx([6, 0, 0], abs=1e-5)
    assert found[1].tolist() == pytest.approx([12 * near / (1 + near), 12 / (1 + near), 0], abs=1e-5)


def test_a_rest_below_zero_speaks_for_nothing() -> None:
    vectors = np.array([[1, 0], [1, 0]], np.float32)
    past = Past(np.array([1]), np.array([-2, 0], np.float32), np.zeros((1, 2), np.float32))
    assert contributions(past, vectors, vectors, np.array([0])).tolist() == [[0]]


def test_the_strongest_come_first_and_what_speaks_against_is_left_out() -> None:
    contributed = np.array([[0.1, 0.5, -1, 0.3], [-1, 0, 2, -3]])
    assert strongest(contributed, 3).tolist() == [[1, 3, 0], [2, -1, -1]]
    assert strongest(contributed, 9).shape == (2, 4)
