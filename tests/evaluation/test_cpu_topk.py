"""Selection in blocks, against sorting the whole matrix."""

import numpy as np
import pytest
import torch

from trainer.evaluation import topk
from trainer.evaluation.cpu_topk import RunningBest, largest_of_groups, padded_width


def best_of(scores: np.ndarray, k: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and columns of the k best, taken in by blocks of columns."""
    best = RunningBest(len(scores), k)
    for first in range(0, scores.shape[1], block):
        part = torch.from_numpy(scores[:, first : first + block].T.copy())
        missing = padded_width(len(part)) - len(part)
        filled = torch.nn.functional.pad(part, (0, 0, 0, missing), value=-torch.inf)
        best.add(filled.numpy(), largest_of_groups(filled, k, first).numpy(), first)
    return best.ranked()


def by_sorting(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by a stable sort of every row."""
    padded = np.pad(scores, ((0, 0), (0, k)), constant_values=-np.inf)
    order = np.argsort(-padded, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(padded, order, axis=1)
    return found, np.where(found > -np.inf, order, -1)


def worlds() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    drawn = generator.standard_normal((9, 700)).astype(np.float32)
    masked = np.where(generator.random(drawn.shape) < 0.98, -np.inf, drawn).astype(np.float32)
    return {
        "all different": drawn,
        "often equal": drawn.round(),
        "all equal": np.zeros_like(drawn),
        "the best come last": np.sort(drawn, axis=1),
        "the best come first": np.sort(drawn, axis=1)[:, ::-1].copy(),
        "few are left": masked,
        "none is left": np.full_like(drawn, -np.inf),
        "tiny and huge": (drawn * 1e-42 * 10 ** (80 * generator.random(drawn.shape))).astype(np.float32),
    }


@pytest.mark.parametrize("world", worlds())
@pytest.mark.parametrize("k", [1, 3, 40, 300, 800])
@pytest.mark.parametrize("block", [48, 256, 700])
def test_the_best_of_blocks_are_those_of_the_sorted_rows(world: str, k: int, block: int) -> None:
    scores = worlds()[world]
    found, expected = best_of(scores, k, block), by_sorting(scores, k)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_minus_zero_ranks_as_zero() -> None:
    scores = np.array([[-0.0, 0.0, -1.0, 0.0]], dtype=np.float32)
    assert best_of(scores, 3, 16)[1].tolist() == [[0, 1, 3]]


def test_rows_with_a_score_that_is_no_number_are_told_apart() -> None:
    scores = np.zeros((32, 4), dtype=np.float32)
    scores[7, 1], scores[31, 2], scores[0, 3] = np.nan, np.inf, -np.inf
    best = RunningBest(4, 2)
    best.add(scores, largest_of_groups(torch.from_numpy(scores), 2).numpy(), 0)
    assert best.diverged.tolist() == [False, True, True, False]


def test_groups_leave_few_scores_to_look_at() -> None:
    scores = torch.zeros(4096, 5)
    # Squares of 16, 4 and 1 are the largest powers of four up to 4096 / k.
    assert [len(largest_of_groups(scores, k)) for k in (10, 100, 2000)] == [256, 1024, 4096]
    # After 12,288 columns those of 8 and 2 are the largest up to 12,288 / k.
    assert [len(largest_of_groups(scores, k, 12_288)) for k in (100, 2000)] == [512, 2048]


@pytest.mark.parametrize("k", [1, 10, 300])
def test_selection_on_cpu_is_bitwise_that_of_sorting_elsewhere(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    query, items = torch.randn(192, 12, generator=generator), torch.randn(9001, 12, generator=generator)
    users = torch.arange(192).repeat_interleave(20)
    excluded = torch.randint(9001, (192 * 20,), generator=generator)
    scores, rows = topk.top_k(query, items, k, (torch.full((192,), 20), excluded))
    expected = topk._SortingRanker(items, k)(query, users, excluded)
    assert torch.equal(scores, expected[0])
    assert torch.equal(rows, expected[1])


def test_the_number_of_threads_changes_no_ranking() -> None:
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    query, items = torch.randn(333, 8, generator=generator), torch.randn(5000, 8, generator=generator)
    expected = topk.top_k(query, items, 10)
    try:
        torch.set_num_threads(2)
        found = topk.top_k(query, items, 10)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
