"""Metrics beyond accuracy, by arithmetic written out and against other ways to compute them."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array
from scipy.spatial.distance import jaccard

from trainer.evaluation import beyond_accuracy as beyond
from trainer.evaluation.beyond_accuracy import (
    BeyondAccuracy,
    activity_thirds,
    category_matrix,
    coverage,
    exposure,
    gini,
    intra_list_diversity,
    ndcg_of_items,
    novelty,
    popularity_thirds,
    self_information,
    training_facts,
)
from trainer.evaluation.metrics import ndcg
from trainer.evaluation.topk import hits
from trainer.storage.attributes import Feature, Ragged


def lists(*items):
    return torch.tensor([len(own) for own in items]), torch.tensor([item for own in items for item in own])


def bags(*items):
    return Ragged(np.cumsum([0, *map(len, items)]), np.int32([code for own in items for code in own]))


def test_exposure_counts_lists_and_no_gaps():
    assert exposure(torch.tensor([[0, 2], [2, -1]]), 4).tolist() == [1, 0, 2, 0]


def test_coverage_is_the_share_of_items_in_any_list():
    assert coverage(torch.tensor([1, 0, 2, 0])) == 0.5
    assert coverage(torch.tensor([0, 0])) == 0


def test_equal_exposure_has_a_gini_index_of_zero_and_a_single_item_the_largest():
    assert gini(torch.tensor([3, 3, 3, 3])) == 0
    assert gini(torch.tensor([0, 0, 7, 0])) == pytest.approx(3 / 4)
    assert gini(torch.tensor([0, 0])) == 0


def test_the_gini_index_is_half_the_relative_mean_difference():
    # Of 1 and 3: differences 0, 2, 2, 0, on average 1; the mean is 2; 1 / (2 x 2).
    assert gini(torch.tensor([1, 3])) == pytest.approx(1 / 4)
    exposures = torch.randint(0, 50, (200,), generator=torch.Generator().manual_seed(0))
    apart = (exposures[:, None] - exposures).abs().double().mean()
    assert gini(exposures) == pytest.approx(float(apart / (2 * exposures.double().mean())))


def test_self_information_doubles_with_rarity_squared_and_is_never_infinite():
    # Of 8 users 8, 4 and 1 have an item; one that nobody has counts as one that a single user has.
    assert self_information(torch.tensor([8, 4, 1, 0]), 8).tolist() == [0, 1, 3, 3]
    assert self_information(torch.tensor([0]), 0).tolist() == [0]


def test_novelty_is_the_mean_over_the_list_and_unknown_for_an_empty_one():
    information = torch.tensor([0.0, 1, 3, 3], dtype=torch.float64)
    found = novelty(torch.tensor([[1, 2], [0, -1], [-1, -1]]), information)
    assert found[:2].tolist() == [2, 0]
    assert found[2].isnan()


ATTRIBUTES = csr_array(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]))


def test_diversity_is_one_minus_the_mean_jaccard_index_of_pairs():
    # Items 0 and 1 share one of two categories, the other two pairs none: 1 - (1/2 + 0 + 0) / 3.
    assert intra_list_diversity(torch.tensor([[0, 1, 2]]), ATTRIBUTES).tolist() == pytest.approx([5 / 6])


def test_diversity_of_equal_bags_is_zero_and_of_empty_ones_one():
    assert intra_list_diversity(torch.tensor([[0, 0], [3, 4], [3, 0]]), ATTRIBUTES).tolist() == [0, 1, 1]


def test_diversity_of_a_short_list_is_that_of_its_pairs_and_unknown_without_one():
    ranking = torch.tensor([[0, 1, -1], [0, -1, -1], [-1, -1, -1]])
    found = intra_list_diversity(ranking, ATTRIBUTES)
    assert found[0] == 0.5
    assert found[1:].isnan().all()
    assert intra_list_diversity(ranking[:, :1], ATTRIBUTES).isnan().all()


def test_diversity_agrees_with_scipy_over_more_than_one_block(monkeypatch):
    monkeypatch.setattr(beyond, "PAIR_BLOCK", 50)
    generator = np.random.default_rng(0)
    attributes = generator.random((30, 6)) < 0.4
    attributes[:, 0] = True  # scipy takes two empty sets for equal; here they are not
    ranking = np.stack([generator.permutation(30)[:5] for _ in range(23)])
    expected = [
        np.mean([jaccard(attributes[a], attributes[b]) for n, a in enumerate(own) for b in own[n + 1 :]])
        for own in ranking
    ]
    found = intra_list_diversity(torch.from_numpy(ranking), csr_array(attributes.astype(float)))
    assert found.tolist() == pytest.approx(expected)


def test_users_are_cut_into_thirds_by_activity():
    assert activity_thirds(torch.tensor([50, 1, 9, 2, 70, 8])).tolist() == [2, 0, 1, 0, 2, 1]


def test_equally_active_users_stand_in_the_order_of_rows_and_thirds_stay_equal():
    assert activity_thirds(torch.tensor([5, 5, 5])).tolist() == [0, 1, 2]
    assert torch.bincount(activity_thirds(torch.ones(100))).tolist() == [34, 33, 33]
    assert activity_thirds(torch.tensor([])).tolist() == []


def test_items_are_cut_by_the_thirds_of_interactions_that_they_hold():
    # 12 interactions, thirds of 4. In order 5, 3, 2, 1, 1, 0 items begin after 0, 5, 8, 10, 11, 12 of them.
    assert popularity_thirds(torch.tensor([1, 5, 0, 3, 2, 1])).tolist() == [2, 0, 2, 1, 2, 2]
    assert popularity_thirds(torch.tensor([0, 0])).tolist() == [2, 2]


def test_ndcg_of_a_group_finds_its_items_alone_at_their_own_ranks():
    # Items 0 and 1 are the group. User 0 holds out 0 and 5: 0 stands at rank 2, 1 / log2(3) of at most 1;
    # item 5 at rank 1 gains nothing. User 1 holds out nothing of the group.
    members = torch.tensor([True, True, False, False, False, False])
    found = ndcg_of_items(torch.tensor([[5, 0, 1], [5, 4, 3]]), lists([0, 5], [4]), members, 3)
    assert float(found[0]) == pytest.approx(1 / np.log2(3))
    assert found[1].isnan()


def test_ndcg_of_the_group_of_all_items_is_plain_ndcg():
    generator = torch.Generator().manual_seed(0)
    ranking = torch.stack([torch.randperm(20, generator=generator)[:10] for _ in range(50)])
    held_out = lists(*[torch.randperm(20, generator=generator)[: 1 + n % 12].tolist() for n in range(50)])
    found = ndcg_of_items(ranking, held_out, torch.ones(20, dtype=torch.bool), 10)
    torch.testing.assert_close(found, ndcg(hits(ranking, held_out), held_out[0], 10))


def test_the_unknown_category_is_none_and_a_repeated_one_counts_once():
    feature = Feature(
        "genres", pa.array(["a", "b"]), bags([0, 1], [2], [1, 1], [])
    )  # 2, the last, is unknown
    assert category_matrix(feature).toarray().tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]


def world():
    """Three users with 4, 2 and 1 training interactions, four items with 3, 2, 2 and 0, two attributes."""
    features = {
        "year": Feature("year", pa.array([1990, 2000]), bags([0], [1], [1], [0])),
        "genres": Feature("genres", pa.array(["a", "b"]), bags([0, 1], [0], [1], [])),
    }
    return training_facts(torch.tensor([3, 2, 2, 0]), np.array([4, 0, 2, 1]), np.array([0, 2, 3]), features)


def test_an_attribute_of_one_category_each_gives_no_diversity():
    assert list(world().attributes) == ["genres"]


def test_every_metric_is_taken_at_every_k():
    meter = BeyondAccuracy(world(), [1, 2])
    meter.add(torch.tensor([[0, 1], [2, 1], [0, 3]]), lists([1], [2], [2]), 0)
    found = meter.means()
    assert found["coverage@1"] == 0.5  # items 0 and 2
    assert found["coverage@2"] == 1
    # Lists at 1: item 0 twice, item 2 once; ascending 0, 0, 1, 2: (-3 x 0 - 1 x 0 + 1 x 1 + 3 x 2) / (4 x 3).
    assert found["gini@1"] == pytest.approx(7 / 12)
    # log2 of 3 / 3 twice and 3 / 2 once.
    assert found["novelty@1"] == pytest.approx(np.log2(1.5) / 3)
    # Lists 0, 1 (one of two), 2, 1 (none) and 0, 3 (none): (1/2 + 1 + 1) / 3. A list of one has no pairs.
    assert found["genres_diversity@2"] == pytest.approx(5 / 6)
    assert "genres_diversity@1" not in found
    # The heaviest user finds item 1 at rank 2, the medium one item 2 at rank 1, the lightest nothing.
    assert found["ndcg_heavy@2"] == pytest.approx(1 / np.log2(3))
    assert found["ndcg_heavy@1"] == 0
    assert found["ndcg_medium@1"] == 1
    assert found["ndcg_light@2"] == 0
    # Item 0 begins after 0 of 7 interactions, item 1 after 3, item 2 after 5: head, middle, tail. Nobody
    # holds out item 0; one holds out item 1 (rank 2); two hold out item 2, one of whom gets it first.
    assert "ndcg_head@2" not in found
    assert found["ndcg_middle@2"] == pytest.approx(1 / np.log2(3))
    assert found["ndcg_tail@2"] == 0.5


def test_chunks_change_no_metric():
    ranking, held_out = torch.tensor([[0, 1], [2, 1], [0, -1]]), ([1], [2, 3], [2])
    whole, chunked = BeyondAccuracy(world(), [1, 2]), BeyondAccuracy(world(), [1, 2])
    whole.add(ranking, lists(*held_out), 0)
    for first in range(3):
        chunked.add(ranking[first : first + 1], lists(held_out[first]), first)
    assert chunked.means() == pytest.approx(whole.means())
