"""Ranking for one query and for many, with ties and with an index that must be asked for more."""

import faiss
import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import DivergedError
from trainer.recommender.index import Index
from trainer.recommender.search import Search
from trainer.recommender.vectors import VectorTable
from trainer.storage.tie_hashes import tie_hashes

NOTHING = np.empty(0, np.int64)
IDS = pa.array([f"item {number}" for number in range(40)])


def search_of(vectors: np.ndarray, index: Index | None = None) -> Search:
    ids = pa.array([f"item {number}" for number in range(len(vectors))])
    return Search(VectorTable(vectors.astype(np.float32)), ids, index, vectors.shape[1], "made-up")


def test_equal_scores_stand_in_the_order_of_the_hashes_from_the_users_place_on() -> None:
    # Rows 0 to 19 are one vector, rows 20 to 39 another that scores less.
    vectors = np.repeat(np.array([[0.3, 0.1], [0.1, 0.1]]), 20, axis=0)
    search, queries = search_of(vectors), np.ones((2, 2), np.float32)
    first = 2**63
    hashes = tie_hashes(IDS)
    for k in (3, 20, 25):
        by_hash = [np.argsort(hashes - np.uint64(begin)) for begin in (0, first)]
        expected = [[*order[order < 20], *order[order >= 20]][:k] for order in by_hash]
        many = search.many(queries, k, [NOTHING] * 2, [0, first])
        for query, begin, found, rows in zip(queries, (0, first), many, expected, strict=True):
            assert found.rows.tolist() == rows
            assert search.one(query, k, NOTHING, begin).rows.tolist() == rows


def test_lists_of_many_are_those_of_one_whatever_their_sizes() -> None:
    generator = np.random.default_rng(0)
    search = search_of(generator.normal(size=(300, 8)))
    queries = generator.normal(size=(7, 8)).astype(np.float32)
    left_out = [np.arange(0, 300, 7 - number) for number in range(6)] + [np.arange(300)]
    for k in (1, 10, 299, 300, 1_000):
        for query, out, found in zip(
            queries, left_out, search.many(queries, k, left_out, [0] * 7), strict=True
        ):
            alone = search.one(query, k, out)
            assert found.rows.tolist() == alone.rows.tolist()
            assert np.array_equal(found.scores, alone.scores)
            assert len(found.rows) == min(k, 300 - len(out))


def test_an_index_is_asked_for_what_is_wanted_and_left_out() -> None:
    vectors = np.arange(100, dtype=np.float32)[:, None]
    flat = faiss.index_factory(1, "Flat", faiss.METRIC_INNER_PRODUCT)
    flat.add(vectors)
    index = Index(flat, {"search": {}, "refine": 1})
    asked = []
    index.candidates = lambda query, count, own=index.candidates: (asked.append(count), own(query, count))[1]
    # The best five are left out: three are still found.
    found = search_of(vectors, index).one(np.ones(1, np.float32), 3, np.arange(95, 100))
    assert (found.rows.tolist(), asked) == ([94, 93, 92], [8])
    # Half of the items are wanted or left out: scoring all of them takes no longer.
    found = search_of(vectors, index).one(np.ones(1, np.float32), 3, np.arange(50, 100))
    assert (found.rows.tolist(), asked) == ([49, 48, 47], [8])


def test_an_index_with_few_candidates_is_asked_for_a_multiple() -> None:
    flat = faiss.index_factory(2, "Flat", faiss.METRIC_INNER_PRODUCT)
    flat.add(np.eye(2, dtype=np.float32).repeat(50, axis=0))
    index = Index(flat, {"search": {}, "refine": 4})
    assert len(index.candidates(np.array([1, 0], np.float32), 3)) == 12


def test_scores_that_are_no_numbers_are_an_error() -> None:
    search = search_of(np.array([[np.nan], [1.0]]))
    for rank in (
        lambda: search.one(np.ones(1, np.float32), 1, NOTHING),
        lambda: search.many(np.ones((1, 1), np.float32), 1, [NOTHING], [0]),
    ):
        with pytest.raises(DivergedError, match="made-up"):
            rank()
