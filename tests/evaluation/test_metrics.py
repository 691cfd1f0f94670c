import math

import pytest
import torch
from sklearn.metrics import ndcg_score

from trainer.evaluation import metrics
from trainer.evaluation.metrics import measure


def naive(ranked, true, k):
    """Independent reference with sets and loops, one user."""
    found = [rank for rank, item in enumerate(ranked[:k], start=1) if item in true]
    possible = min(len(true), k)
    gain = sum(1 / math.log2(rank + 1) for rank in found)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, possible + 1))
    return {
        "ndcg": gain / ideal,
        "recall": len(found) / len(true),
        "precision": len(found) / k,
        "hit_rate": 1.0 if found else 0.0,
        "mrr": 1 / found[0] if found else 0.0,
        "map": sum((place + 1) / rank for place, rank in enumerate(found)) / possible,
    }


def random_users(users=200, items=60, length=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ranked = [torch.randperm(items, generator=generator)[:length].tolist() for _ in range(users)]
    true = [
        set(torch.randperm(items, generator=generator)[: 1 + user % 30].tolist()) for user in range(users)
    ]
    hits = torch.tensor(
        [[item in own for item in ranking] for ranking, own in zip(ranked, true, strict=True)]
    )
    return ranked, true, hits, torch.tensor([len(own) for own in true])


def test_metrics_of_a_hand_written_ranking():
    # Hits at ranks 1 and 3, four held-out items, k = 3.
    hits, relevant = torch.tensor([[True, False, True, True]]), torch.tensor([4])
    assert metrics.precision(hits, relevant, 3).item() == pytest.approx(2 / 3)
    assert metrics.recall(hits, relevant, 3).item() == pytest.approx(2 / 4)
    # Gains 1 / log2(2) + 1 / log2(4) = 1.5 against 1 + 1 / log2(3) + 1 / 2 = 2.13093.
    assert metrics.ndcg(hits, relevant, 3).item() == pytest.approx(1.5 / 2.1309297535714573)
    assert metrics.hit_rate(hits, relevant, 3).item() == 1
    assert metrics.reciprocal_rank(hits, relevant, 3).item() == 1
    # Precision at the hits 1 / 1 and 2 / 3, divided by min(4, 3).
    assert metrics.average_precision(hits, relevant, 3).item() == pytest.approx((1 + 2 / 3) / 3)


def test_a_late_first_hit_has_the_reciprocal_of_its_rank():
    hits = torch.tensor([[False, False, False, True]])
    assert metrics.reciprocal_rank(hits, torch.tensor([1]), 4).item() == 1 / 4
    assert metrics.reciprocal_rank(hits, torch.tensor([1]), 3).item() == 0


@pytest.mark.parametrize("k", [1, 5, 20])
def test_all_metrics_equal_a_naive_reference(k):
    ranked, true, hits, relevant = random_users()
    measured = measure(hits, relevant, [k])
    for user in range(len(ranked)):
        for name, value in naive(ranked[user], true[user], k).items():
            assert measured[f"{name}@{k}"][user].item() == pytest.approx(value, abs=1e-12), (user, name)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_equals_scikit_learn_where_all_items_are_ranked(k):
    generator = torch.Generator().manual_seed(3)
    hits = torch.rand(100, 30, generator=generator) < 0.2
    hits = hits[hits.any(1)]
    scores = torch.arange(30, 0, -1).expand(len(hits), 30)
    ours = metrics.ndcg(hits, hits.sum(1), k).mean().item()
    assert ours == pytest.approx(ndcg_score(hits.numpy(), scores.numpy(), k=k))


def test_perfect_rankings_score_one_and_rankings_without_a_hit_zero():
    relevant = torch.tensor([3, 12])
    for name, values in measure(torch.ones(2, 10, dtype=torch.bool), relevant, [3]).items():
        if name != "recall@3":
            assert values.tolist() == pytest.approx([1, 1]), name
    for name, values in measure(torch.zeros(2, 10, dtype=torch.bool), relevant, [3]).items():
        assert values.tolist() == [0, 0], name


def test_metrics_stand_in_a_fixed_order_for_each_k():
    measured = measure(torch.ones(1, 20, dtype=torch.bool), torch.tensor([1]), [10, 20])
    names = ["ndcg", "recall", "precision", "hit_rate", "mrr", "map"]
    assert list(measured) == [f"{name}@{k}" for k in (10, 20) for name in names]
    assert all(values.dtype == torch.float64 and values.shape == (1,) for values in measured.values())


@pytest.mark.parametrize(
    "name", ["precision", "recall", "ndcg", "hit_rate", "reciprocal_rank", "average_precision"]
)
def test_every_metric_refuses_users_without_held_out_items_and_a_k_beyond_the_ranking(name):
    metric, hits = getattr(metrics, name), torch.ones(3, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="user 1 has no held-out item"):
        metric(hits, torch.tensor([1, 0, 2]), 5)
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"k is {k}, expected 1 to 5"):
            metric(hits, torch.tensor([1, 1, 2]), k)
