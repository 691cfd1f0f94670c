import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.model_selection import train_test_split

from tests import worlds
from trainer.config.schema import DataConfig
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.errors import ConfigError, DataError
from trainer.evaluation.baselines import (
    DECAY,
    PRIOR,
    check_baselines,
    make_ranker,
    popularity_scores,
    rank_by_scores,
    rank_randomly,
)
from trainer.evaluation.metrics import metrics_by_user, precision, recall
from trainer.evaluation.topk import hits, top_k
from trainer.facts.baselines import BASELINES

DATA = Path(os.environ.get("SHARDTOWER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def lists(*items):
    return torch.tensor([len(each) for each in items]), torch.tensor(
        [item for each in items for item in each]
    )


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_of_the_table_ranks_what_a_user_has_not(tmp_path, name):
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard(), order="file")
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
        check_baselines(["popularity", "als"], dataset)


@pytest.mark.parametrize("name", ["item_knn", "ease"])
@pytest.mark.parametrize("prefix", ["--", "--evaluation."])
def test_a_catalogue_of_too_many_items_is_refused_with_the_option_of_the_command(name, prefix):
    check_baselines([*BASELINES], sized(20_000), prefix)
    message = rf"{name}: the catalogue has 20,001 items, expected at most 20,000.* {prefix}baselines$"
    with pytest.raises(DataError, match=message):
        check_baselines(["popularity", name], sized(20_001), prefix)


def sized(item_count, has_order=True) -> Any:
    """All that counts of a data set here."""
    return SimpleNamespace(evaluated_items=item_count, has_order=has_order)


@pytest.mark.parametrize("name", ["item_knn_last", "markov"])
def test_data_without_an_order_are_refused_by_what_needs_one(name):
    check_baselines([each for each in BASELINES if each not in ("item_knn_last", "markov")], sized(8, False))
    message = (
        f"baseline {name}: these interactions have neither timestamps.* Name other baselines: --baselines$"
    )
    with pytest.raises(DataError, match=message):
        check_baselines(["popularity", name], sized(8, has_order=False), "--")


# Users 1, 2, 3 have a and b next to each other in this order, user 4 has c after a, and all else is once.
# Users 5 to 7 are tested: 5 had b, then a; 6 had a, then b; 7 had nothing before.
IN_ORDER = [*((user, item) for user in (1, 2, 3) for item in "ab"), (4, "a"), (4, "c")]
IN_ORDER += [(5, "b"), (5, "a"), (6, "d"), (6, "a"), (6, "b")]
TESTED = [(5, "c"), (6, "c"), (7, "a")]


@pytest.fixture
def in_order(tmp_path):
    return worlds.dataset(tmp_path, IN_ORDER, TESTED, order="file")


def ranked(dataset, name, user, seen=(), k=4, split="test"):
    """The list of a baseline as raw ids."""
    items = dataset.item_ids.to_pylist()
    exclude = torch.tensor([len(seen)]), torch.tensor([items.index(item) for item in seen], dtype=torch.int64)
    rows = make_ranker(name, dataset, k, 42, split)(np.array([dataset.user_row(user)]), exclude)[0].tolist()
    return [items[row] if row >= 0 else None for row in rows]


def test_markov_ranks_by_what_came_most_often_after_the_last_item(in_order):
    # After a came b of users 1, 2, 3 and 6, and c of user 4; after b came a of user 5; after d came a of 6.
    # Trained interactions: a 6, b 5, c 1, d 1 of 13. From a, with 10 transitions by popularity beside them:
    # b 4 + 50/13 = 7.85, a 60/13 = 4.62, c 1 + 10/13 = 1.77, d 10/13 = 0.77.
    assert ranked(in_order, "markov", 5) == ["b", "a", "c", "d"]
    assert ranked(in_order, "markov", 5, seen="ab") == ["c", "d", None, None]
    # From b: a 1 + 60/13 = 5.62, b 50/13 = 3.85; c and d 10/13 each, in the order of equals.
    assert ranked(in_order, "markov", 6)[:2] == ["a", "b"]
    assert PRIOR == 10


def test_markov_falls_back_to_popularity_for_users_without_items(in_order):
    assert ranked(in_order, "markov", 7)[:2] == ranked(in_order, "item_knn_last", 7)[:2] == ["a", "b"]


def test_transitions_do_not_cross_from_one_user_to_the_next(tmp_path):
    # In the file user 1 ends with b and user 2 begins with c: nobody had c after b.
    pairs = [(1, "a"), (1, "b"), (2, "c"), (2, "a"), (3, "d"), (3, "b"), (4, "b"), (4, "d")]
    dataset = worlds.dataset(tmp_path, pairs, [(1, "d"), (3, "a")], order="file")
    # From b came d of user 4 alone; a and b have 2 of 8 interactions each, c 1, d 2.
    # d 1 + 10 x 2/8 = 3.5, b 10 x 3/8 = 3.75, a 2.5, c 1.25.
    assert ranked(dataset, "markov", 1) == ["b", "d", "a", "c"]


def test_item_knn_last_weighs_the_last_items_most(tmp_path):
    # x goes with a, y with b, each of two users; who had a and then b gets y first, and the other way round.
    pairs = [(1, "a"), (1, "x"), (2, "x"), (2, "a"), (3, "b"), (3, "y"), (4, "y"), (4, "b")]
    pairs += [(5, "a"), (5, "b"), (6, "b"), (6, "a")]
    dataset = worlds.dataset(tmp_path, pairs, [(5, "x"), (6, "x")], order="file")
    # a and b have 4 users each, x and y 2. cosine(a, x) = 2 / (sqrt(4 x 2) + 10) = 0.156 = cosine(b, y), and
    # cosine(a, b) = 2 / (4 + 10) = 0.143. User 5: y 0.156, x 0.7 x 0.156 = 0.109. User 6 the other way round.
    assert ranked(dataset, "item_knn_last", 5, seen="ab")[:2] == ["y", "x"]
    assert ranked(dataset, "item_knn_last", 6, seen="ab")[:2] == ["x", "y"]
    # With seen items: user 5 has a by b, 0.143, before x, and b by a, 0.7 x 0.143 = 0.1, after it.
    assert ranked(dataset, "item_knn_last", 5) == ["y", "a", "x", "b"]
    assert DECAY == 0.7


@pytest.mark.parametrize("name", ["item_knn_last", "markov"])
def test_what_a_user_had_in_the_validation_split_comes_last_before_the_test(tmp_path, name):
    (tmp_path / "log.txt").write_text("1 p q y z\n2 p q y z\n3 r s y z\n4 r s y z\n9 u p r w\n")
    data = DataConfig(name="files", format="lightgcn", interactions=str(tmp_path / "log.txt"), order="file")
    data = replace(data, cache=str(tmp_path), split="leave_last_out", validation_size=0.5)
    dataset = open_dataset(prepare_data(data))
    # Trained on: p and q of users 1 and 2, r and s of 3 and 4, u and p of 9, who validates on r, tests on w.
    assert len(dataset.train) == 10
    # By markov q after p scores 2 + 10 x 2/10 = 4, p itself 10 x 3/10 = 3; so does s after r.
    # By item_knn_last q has 2 / (sqrt(3 x 2) + 10) = 0.161 from p, p 0.7 x 1 / (sqrt(3) + 10) = 0.06 from u;
    # before the test s has 2 / (2 + 10) = 0.167 from r, and q 0.7 x 0.161 = 0.112.
    assert ranked(dataset, name, 9, k=1, split="validation") == ["q"]
    assert ranked(dataset, name, 9, k=1, split="test") == ["s"]


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
