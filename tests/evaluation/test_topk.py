import pytest
import torch

from trainer.errors import DivergedError, UserError
from trainer.evaluation import topk
from trainer.evaluation.topk import hits, top_k


def lists(*items):
    return torch.tensor([len(each) for each in items]), torch.tensor(
        [item for each in items for item in each]
    )


def slowly(query, items, k, excluded):
    """Independent reference: sort (score descending, row ascending) in Python, user by user."""
    rows = []
    for user, vector in enumerate(query.tolist()):
        scores = [sum(a * b for a, b in zip(vector, item, strict=True)) for item in items.tolist()]
        left = sorted((-score, row) for row, score in enumerate(scores) if row not in excluded[user])
        rows.append(([row for _, row in left] + [-1] * k)[:k])
    return torch.tensor(rows)


def small_world(users=70, items=50, dim=4, seed=0):
    """Vectors of small integers, whose products are exact and tie often, and items to exclude."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randint(-2, 3, (users, dim), generator=generator).float()
    vectors = torch.randint(-2, 3, (items, dim), generator=generator).float()
    excluded = [
        torch.randperm(items, generator=generator)[: user % (items + 1)].tolist() for user in range(users)
    ]
    return query, vectors, excluded


def test_the_best_items_of_a_hand_written_example_come_first():
    # Scores of user 0: 1, 3, 2; of user 1: 0, 0, 5 (the tie goes to the lower row).
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    items = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 5.0]])
    scores, rows = top_k(query, items, 2)
    assert rows.tolist() == [[1, 2], [2, 0]]
    assert scores.tolist() == [[3.0, 2.0], [5.0, 0.0]]
    assert scores.dtype == torch.float32
    assert rows.dtype == torch.int64


@pytest.mark.parametrize("k", [1, 7, 49, 50, 60])
def test_ranking_with_ties_and_exclusions_equals_a_slow_reference(k):
    query, items, excluded = small_world()
    _, rows = top_k(query, items, k, lists(*excluded))
    assert torch.equal(rows, slowly(query, items, k, excluded))


@pytest.mark.parametrize(("user_block", "item_block"), [(1, 1), (3, 7), (64, 16), (70, 49)])
def test_blocks_of_any_size_give_the_same_ranking(monkeypatch, user_block, item_block):
    query, items, excluded = small_world()
    expected = slowly(query, items, 8, excluded)
    monkeypatch.setattr(topk, "USER_BLOCK", user_block)
    monkeypatch.setattr(topk, "ITEM_BLOCK", item_block)
    _, rows = top_k(query, items, 8, lists(*excluded))
    assert torch.equal(rows, expected)


@pytest.mark.parametrize("scores", [1, 70, 140, 700, 10**6])
def test_a_gpus_ranking_does_not_depend_on_how_many_scores_are_there_at_a_time(monkeypatch, scores):
    query, items, excluded = small_world()
    expected = slowly(query, items, 8, excluded)
    monkeypatch.setattr(topk, "GPU_SCORES", scores)
    lengths, left_out = lists(*excluded)
    users = torch.arange(len(query)).repeat_interleave(lengths)
    _, rows = topk._SortingRanker(items, 8)(query, users, left_out)
    assert torch.equal(rows, expected)


def test_excluded_items_are_never_returned_and_gaps_are_filled_with_no_item():
    query, items = torch.ones(2, 4), torch.rand(5, 4)
    scores, rows = top_k(query, items, 3, lists([0, 1, 2, 4], [0, 1, 2, 3, 4]))
    assert rows.tolist() == [[3, -1, -1], [-1, -1, -1]]
    assert scores[0, 1:].tolist() == [-torch.inf, -torch.inf]
    assert scores[1].tolist() == [-torch.inf] * 3


def test_more_ranks_than_items_are_filled_with_no_item():
    _, rows = top_k(torch.ones(1, 1), torch.tensor([[1.0], [2.0]]), 4)
    assert rows.tolist() == [[1, 0, -1, -1]]


def test_no_users_give_an_empty_ranking():
    scores, rows = top_k(torch.ones(0, 3), torch.ones(4, 3), 2, lists())
    assert scores.shape == rows.shape == (0, 2)


def test_a_dead_model_ranks_items_by_row():
    _, rows = top_k(torch.zeros(3, 4), torch.rand(20_000, 4), 3, lists([0], [], [1, 2]))
    assert rows.tolist() == [[1, 2, 3], [0, 1, 2], [0, 3, 4]]


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("count", [7, 1001, 4097])
@pytest.mark.parametrize("dim", [4, 64, 257])
def test_scores_of_a_user_do_not_depend_on_the_chunk_to_the_last_bit(dim, count, threads):
    generator, before = torch.Generator().manual_seed(dim), torch.get_num_threads()
    query, items = torch.randn(300, dim, generator=generator), torch.randn(count, dim, generator=generator)
    scores, rows = top_k(query, items, 10)
    torch.set_num_threads(threads)
    try:
        for size in (2, 33, 96, 299):
            users = min(20 * size, len(query))
            chunks = [top_k(chunk, items, 10) for chunk in query[:users].split(size)]
            assert torch.equal(torch.cat([chunk for chunk, _ in chunks]), scores[:users])
            assert torch.equal(torch.cat([chunk for _, chunk in chunks]), rows[:users])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_diverged_model_is_called_so(bad):
    query = torch.ones(300, 2)
    query[270, 0] = bad
    with pytest.raises(DivergedError, match=r"query 270: scores are NaN or infinite.*diverged") as error:
        top_k(query, torch.ones(20_000, 2), 5)
    assert isinstance(error.value, UserError)


def test_scores_of_minus_infinity_are_no_excluded_items():
    query, items = torch.tensor([[1.0], [1e30]]), torch.tensor([[-1e30], [-2e30], [1.0]])
    with pytest.raises(DivergedError, match="query 1: scores are NaN or infinite"):
        top_k(query, items, 2)
    with pytest.raises(DivergedError, match="query 1: scores are NaN or infinite"):
        top_k(query, items, 5, (torch.tensor([1, 1]), torch.tensor([2, 2])))
    # Where excluded items alone leave a gap, nothing is wrong; one that is named twice is left out once.
    lists = torch.tensor([2, 3]), torch.tensor([0, 1, 0, 1, 1])
    assert top_k(query, items, 2, lists)[1].tolist() == [[2, -1], [2, -1]]


def test_a_diverged_item_is_found_wherever_it_stands():
    items = torch.ones(20_000, 2)
    items[12_345, 1] = torch.nan
    with pytest.raises(DivergedError, match="query 0"):
        top_k(torch.ones(3, 2), items, 5)


def test_half_precision_vectors_and_int32_lists_are_taken():
    query, items, excluded = small_world()
    lengths, values = lists(*excluded)
    _, rows = top_k(query.half(), items.bfloat16(), 5, (lengths.int(), values.int()))
    assert torch.equal(rows, slowly(query, items, 5, excluded))


@pytest.mark.parametrize(
    ("lengths", "values", "message"),
    [([1], [0], "expected 2 lists"), ([1, 2], [0, 1], "add up"), ([1, 1], [0, 3], "expected 0 to 2")],
)
def test_lists_that_do_not_fit_are_refused(lengths, values, message):
    with pytest.raises(ValueError, match=message):
        top_k(torch.ones(2, 1), torch.ones(3, 1), 1, (torch.tensor(lengths), torch.tensor(values)))


def test_an_empty_ranking_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        top_k(torch.ones(2, 1), torch.ones(3, 1), 0)


def test_hits_are_the_held_out_items_of_the_same_user():
    # Item 4 is the last row: "no item" of user 1 must not be taken for item 4 of user 0.
    rows = torch.tensor([[4, 0, 2], [-1, 3, 4], [1, -1, -1]])
    found = hits(rows, lists([4, 2], [3], []))
    assert found.tolist() == [[True, False, True], [False, True, False], [False, False, False]]


@pytest.mark.parametrize("marks", [1, 100, 2**22])
def test_hits_equal_set_membership(monkeypatch, marks):
    monkeypatch.setattr(topk, "MARKS", marks)
    generator = torch.Generator().manual_seed(1)
    rows = torch.stack([torch.randperm(40, generator=generator)[:10] for _ in range(200)])
    held_out = [torch.randperm(40, generator=generator)[: user % 20].tolist() for user in range(200)]
    expected = [[item in set(held_out[user]) for item in row] for user, row in enumerate(rows.tolist())]
    assert hits(rows, lists(*held_out)).tolist() == expected


def test_hits_refuse_another_number_of_users():
    with pytest.raises(ValueError, match="expected 2 lists"):
        hits(torch.zeros(2, 1, dtype=torch.int64), lists([0]))
