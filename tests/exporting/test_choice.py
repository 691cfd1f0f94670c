"""Checks by hand, and the choice of an index for a recall, on made-up vectors."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import UserError
from trainer.exporting.choice import Chooser
from trainer.exporting.gate import Checks, Sample, measure
from trainer.exporting.index_kinds import INDEXES
from trainer.recommender.search import Ranked, Search
from trainer.recommender.vectors import VectorTable, dimension_scale, quantise

ITEMS, DIM, USERS = 2_000, 10, 24
IDS = pa.array(range(ITEMS))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    generator = np.random.default_rng(1)
    found = generator.normal(size=(ITEMS, DIM)).astype(np.float32)
    found[:, -1] *= 8  # as closed-form dimensions and biases are, one is on another scale
    return found


@pytest.fixture(scope="module")
def chooser(vectors: np.ndarray) -> Chooser:
    generator = np.random.default_rng(2)
    queries = generator.normal(size=(USERS, DIM)).astype(np.float32)
    seen = [np.sort(generator.choice(ITEMS, 20, replace=False)) for _ in range(USERS)]
    hashes = [0] * USERS
    exact = Search(VectorTable(vectors), IDS, None, DIM, "made-up").many(queries, 100, seen, hashes)
    held_out = [ranked.rows[:3] for ranked in exact]
    sample = Sample(queries, np.abs(queries).max(0), seen, held_out, hashes, exact)

    def stored(dtype: str) -> VectorTable:
        scale = dimension_scale(np.abs(vectors).max(0)) if dtype == "int8" else None
        return VectorTable(quantise(vectors, dtype, scale), scale)

    return Chooser(sample, stored, IDS, DIM, "made-up")


def test_recall_and_ndcg_are_what_is_counted_by_hand() -> None:
    # One user, five items on a line: the exact order is 4, 3, 2, 1, 0; item 4 is seen, item 2 is held out.
    items = np.arange(5, dtype=np.float32)[:, None]
    seen, query = [np.array([4])], np.ones((1, 1), np.float32)
    exact = [Ranked(np.array([3, 2, 1, 0]), np.array([3, 2, 1, 0]))]
    sample = Sample(query, np.ones(1), seen, [np.array([2])], [0], exact)
    good = measure(sample, Search(VectorTable(items), pa.array(range(5)), None, 1, ""), "float32")
    # The hit stands second: 1 / log2(3) of the best, which has it first.
    assert (good.recall, good.ndcg) == ({10: 1, 100: 1}, pytest.approx(1 / np.log2(3)))
    assert good.ndcg == good.ndcg_exact
    # Turned around, all four are found, and the hit stands third: 1 / log2(4).
    bad = measure(sample, Search(VectorTable(-items), pa.array(range(5)), None, 1, ""), "float32")
    assert (bad.recall[10], bad.ndcg) == (1, pytest.approx(0.5))
    assert good.passes(1)
    assert not bad.passes(0.98)


def test_recall_counts_the_exact_items_that_are_found() -> None:
    items = np.zeros((20, 2), np.float32)
    items[:, 0] = np.arange(20)
    items[:, 1] = np.arange(20)[::-1]
    exact = [Ranked(np.arange(20)[::-1], np.arange(20)[::-1])]  # by the first dimension
    # By the second dimension the first ten are rows 0 to 9, of which none is among the exact 10 to 19.
    sample = Sample(np.array([[0, 1]], np.float32), np.ones(2), [np.empty(0, int)], None, [0], exact)
    checks = measure(sample, Search(VectorTable(items), pa.array(range(20)), None, 2, ""), "float32")
    assert checks == Checks(1, {10: 0, 100: 1}, None, None)


@pytest.mark.parametrize("kind", list(INDEXES))
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_every_index_reaches_the_recall_asked_for_with_every_type(
    chooser: Chooser, dtype: str, kind: str
) -> None:
    choice = chooser.choose(dtype, kind, 0.95)
    assert min(choice.checks.recall.values()) >= 0.95
    assert choice.checks.users == USERS


def test_a_higher_recall_takes_a_search_that_is_as_thorough_or_more(chooser: Chooser) -> None:
    efforts = []
    for bound in (0.5, 0.999):
        step = chooser.choose("float32", "hnsw", bound).step
        assert step is not None
        efforts.append(step.search["efSearch"])
    assert efforts[0] < efforts[1]


def test_an_exact_index_ranks_as_scoring_all_items_does(chooser: Chooser) -> None:
    choice = chooser.choose("float32", "flat", 1)
    assert choice.checks.recall == {10: 1, 100: 1}


def test_a_bound_that_is_missed_names_by_how_much_and_what_passes(chooser: Chooser) -> None:
    with pytest.raises(UserError) as refused:
        chooser.choose("int8", "none", 0.9999)
    message = str(refused.value)
    assert message.startswith("--min-recall 0.9999: --dtype int8 --index none has recall@10 0.9")
    assert (
        "below the bound (24 users). What passes: --dtype float32 --index none (recall@10 1.0000" in message
    )


def test_a_scale_for_each_dimension_loses_less_than_one_for_all(vectors: np.ndarray) -> None:
    largest = np.abs(vectors).max(0)
    by_dimension, by_all = dimension_scale(largest), dimension_scale(np.full(DIM, largest.max()))
    losses = [
        np.abs(VectorTable(quantise(vectors, "int8", scale), scale).rows(slice(None)) - vectors).max(0)
        for scale in (by_dimension, by_all)
    ]
    # Rounding loses at most half a step of 1/127 of the largest value.
    assert (losses[0] <= largest / 127 / 2 * 1.001).all()
    assert losses[1][:-1].mean() > 4 * losses[0][:-1].mean()
