"""The best items, and the order of those whose scores are equal."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.ranking.best import best, scores_of
from trainer.storage.tie_hashes import first_hashes, tie_hashes

IDS = pa.array([f"item {number}" for number in range(12)])
NONE = np.empty(0, np.int64)


def test_the_best_come_first_without_those_left_out() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.7, 0.2], np.float32)
    ids = IDS.slice(0, 5)
    assert best(scores, 3, ids, NONE).tolist() == [1, 3, 2]
    assert best(scores, 3, ids, np.array([1, 2, 2])).tolist() == [3, 4, 0]
    assert best(scores, 9, ids, np.array([1])).tolist() == [3, 2, 4, 0]
    assert best(scores, 2, ids, np.arange(5)).tolist() == []


@pytest.mark.parametrize("user", ["7", "8", "9", "10"])
@pytest.mark.parametrize("k", [1, 4, 8, 12])
def test_equal_scores_follow_the_hashes_from_the_users_own_on(user: str, k: int) -> None:
    scores = np.array([1, 0] * 6, np.float32)
    first = int(first_hashes(pa.array([user]))[0])
    turned = [(int(each) - first) % 2**64 for each in tie_hashes(IDS)]
    expected = sorted(range(12), key=lambda row: (-scores[row], turned[row]))
    assert best(scores, k, IDS, NONE, first).tolist() == expected[:k]


def test_items_with_equal_vectors_have_equal_scores() -> None:
    generator = np.random.default_rng(0)
    vectors = np.repeat(generator.standard_normal((1, 153)).astype(np.float32), 1001, axis=0)
    query = generator.standard_normal(153).astype(np.float32)
    scores = scores_of(vectors, query)
    assert (scores == scores[0]).all()
    assert scores[0] == pytest.approx(float(vectors[0].astype(np.float64) @ query), abs=1e-4)
