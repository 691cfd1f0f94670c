import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.model_selection import train_test_split

from tests import worlds
from trainer.config.baselines import BASELINES
from trainer.errors import ConfigError, DataError
from trainer.evaluation.baselines import (
    check_item_limits,
    make_ranker,
    popularity_scores,
    rank_by_scores,
    rank_randomly,
)
from trainer.evaluation.metrics import metrics_by_user, precision, recall
from trainer.evaluation.topk import hits, top_k

DATA = Path(os.environ.get("SHARDTOWER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def lists(*items):
    return torch.tensor([len(each) for each in items]), torch.tensor(
        [item for each in items for item in each]
    )


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_of_the_table_ranks_what_a_user_has_not(tmp_path, name):
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard())
    users, seen = np.arange(dataset.user_count), dataset.seen("test")
    exclude = tuple(torch.from_numpy(each) for each in seen.take(users))
    ranking = make_ranker(name, dataset, 8, 42)(users, exclude)
    assert ranking.shape == (16, 8)
    for user, ranked in enumerate(ranking.tolist()):
        own = seen.values[seen.offsets[user] : seen.offsets[user + 1]].tolist()
        # 8 items, of which the user has 3: all others are ranked, and 3 places stay empty.
        assert sorted(ranked) == [-1] * 3 + sorted(set(range(8)) - set(own))


def test_an_unknown_baseline_is_refused_and_takes_no_other_ones_place(tmp_path):
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard())
    with pytest.raises(ConfigError, match="baseline als: unknown, expected one of popularity, random"):
        make_ranker("als", dataset, 8, 42)
    with pytest.raises(ConfigError, match="baseline als: unknown"):
        check_item_limits(["popularity", "als"], 8)


@pytest.mark.parametrize("name", ["item_knn", "ease"])
@pytest.mark.parametrize("prefix", ["--", "--evaluation."])
def test_a_catalogue_of_too_many_items_is_refused_with_the_option_of_the_command(name, prefix):
    check_item_limits([*BASELINES], 20_000, prefix)
    message = rf"{name}: the catalogue has 20,001 items, expected at most 20,000.* {prefix}baselines$"
    with pytest.raises(DataError, match=message):
        check_item_limits(["popularity", name], 20_001, prefix)


def random_lists(users, items, seed=0):
    """Lists of 0 to all items; every third one names its first item twice."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for user in range(users):
        own = torch.randperm(items, generator=generator)[: user % (items + 1)].tolist()
        chosen.append(own + own[:1] if user % 3 == 0 else own)
    return chosen


def test_popularity_counts_the_training_interactions_of_each_item():
    scores = popularity_scores(torch.tensor([2, 0, 2, 3, 2, 0]), 5)
    assert scores.tolist() == [2, 0, 3, 1, 0]
    assert scores.dtype == torch.float32


def test_popularity_refuses_an_item_outside_the_catalogue():
    with pytest.raises(ValueError, match="item row 5, expected 0 to 4"):
        popularity_scores(torch.tensor([5]), 5)


def test_popularity_is_a_sum_of_weights():
    weights = torch.tensor([0.5, 2.0, 0.25, 1.0], dtype=torch.float64)
    scores = popularity_scores(torch.tensor([2, 0, 2, 3]), 5, weights)
    assert scores.tolist() == [2, 0, 0.75, 1, 0]
    assert scores.dtype == torch.float32


def test_the_most_popular_items_that_a_user_has_left_come_first():
    # By count: item 2 (3), item 0 (2), item 3 (1), then items 1 and 4 (0 each) by row.
    rows = rank_by_scores(torch.tensor([2.0, 0, 3, 1, 0]), 3, lists([], [2], [3, 0, 2], [4, 3, 2, 0]))
    assert rows.tolist() == [[2, 0, 3], [0, 3, 1], [1, 4, -1], [1, -1, -1]]


@pytest.mark.parametrize("k", [1, 5, 30, 40])
def test_ranking_by_shared_scores_equals_exact_top_k(k):
    scores = torch.randint(0, 8, (30,), generator=torch.Generator().manual_seed(0)).float()
    exclude = lists(*random_lists(users=100, items=30))
    _, expected = top_k(torch.ones(100, 1), scores.unsqueeze(1), k, exclude)
    assert torch.equal(rank_by_scores(scores, k, exclude), expected)


def test_shared_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        rank_by_scores(torch.tensor([1.0, torch.nan]), 1, lists([]))


def test_a_random_ranking_has_distinct_items_that_are_not_excluded_and_as_many_as_are_left():
    excluded = random_lists(users=100, items=30)
    rows = rank_randomly(torch.arange(100), 30, 8, lists(*excluded))
    for own, ranking in zip(excluded, rows.tolist(), strict=True):
        count = min(8, 30 - len(set(own)))
        assert len(set(ranking[:count]) - set(own)) == count
        assert set(ranking[:count]) <= set(range(30))
        assert ranking[count:] == [-1] * (8 - count)


def test_a_random_draw_depends_on_seed_and_user_only():
    users, excluded = torch.arange(50), random_lists(users=50, items=40)
    together = rank_randomly(users, 40, 5, lists(*excluded), seed=7)
    one_by_one = [rank_randomly(users[u : u + 1], 40, 5, lists(excluded[u]), seed=7) for u in range(50)]
    assert torch.equal(torch.cat(one_by_one), together)
    backwards = rank_randomly(users.flip(0), 40, 5, lists(*excluded[::-1]), seed=7)
    assert torch.equal(backwards.flip(0), together)
    assert not torch.equal(rank_randomly(users, 40, 5, lists(*excluded), seed=8), together)


def test_every_ordered_choice_has_the_same_chance():
    # Two of the four items 0, 2, 3, 5: 12 ordered pairs, expected 24,000 / 12 = 2,000 of each; the standard
    # deviation is sqrt(24,000 x 1/12 x 11/12) = 43.
    users = torch.arange(24_000)
    rows = rank_randomly(users, 6, 2, (torch.full((24_000,), 2), torch.tensor([4, 1]).repeat(24_000)))
    pairs, counts = rows.unique(dim=0, return_counts=True)
    assert [tuple(pair) for pair in pairs.tolist()] == [
        (a, b) for a in (0, 2, 3, 5) for b in (0, 2, 3, 5) if a != b
    ]
    assert (counts - 2000).abs().max() < 4 * 43


def test_random_precision_and_recall_approach_their_expectation():
    # 50 items, 10 excluded, r = 40 left, R = 5 held out, k = 8: precision 5 / 40, recall 8 / 40. Hits of a
    # user: variance 8 x 1/8 x 7/8 x 32/39 = 0.718, so over 20,000 users the mean precision deviates by
    # sqrt(0.718 / 20,000) / 8 = 0.00075, the mean recall by 0.0012.
    count = 20_000
    exclude = (torch.full((count,), 10), torch.arange(10).repeat(count))
    held_out = (torch.full((count,), 5), torch.arange(45, 50).repeat(count))
    found = hits(rank_randomly(torch.arange(count), 50, 8, exclude), held_out)
    assert precision(found, held_out[0], 8).mean().item() == pytest.approx(5 / 40, abs=0.003)
    assert recall(found, held_out[0], 8).mean().item() == pytest.approx(8 / 40, abs=0.005)


def test_without_exclusions_all_items_can_be_drawn():
    rows = rank_randomly(torch.arange(3), 4, 6)
    assert rows[:, :4].sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 3
    assert rows[:, 4:].tolist() == [[-1, -1]] * 3


@pytest.mark.real_data
def test_popularity_and_random_reach_their_known_figures_on_ml_1m():
    # NDCG@10 of popularity on this split with seen items masked is 0.204 by an independent program.
    file = DATA / "ml-1m" / "interactions.parquet"
    if not file.exists():
        pytest.skip(f"needs {file}")
    pairs = [column.to_numpy() for column in pq.read_table(file).columns]
    users, items = (torch.from_numpy(np.unique(ids, return_inverse=True)[1]) for ids in pairs)
    train, test = map(torch.tensor, train_test_split(range(len(users)), test_size=0.2, random_state=42))

    def user_lists(part):
        return torch.bincount(users[part], minlength=6040), items[part][users[part].argsort()]

    seen, held_out = user_lists(train), user_lists(test)
    measured = held_out[0] > 0

    def means(rows):
        metrics = metrics_by_user(hits(rows, held_out)[measured], held_out[0][measured], [10])
        return {name: values.mean().item() for name, values in metrics.items()}

    popular = means(rank_by_scores(popularity_scores(items[train], 3706), 10, seen))
    assert popular["ndcg@10"] == pytest.approx(0.204, abs=0.0005)
    # Expected precision of random: held out / left, averaged over users; 6,038 x 10 draws with a chance of
    # about 0.01 deviate by sqrt(0.01 / 60,380) = 0.0004.
    chance = (held_out[0] / (3706 - seen[0]))[measured].mean().item()
    assert means(rank_randomly(torch.arange(6040), 3706, 10, seen))["precision@10"] == pytest.approx(
        chance, abs=0.0016
    )
