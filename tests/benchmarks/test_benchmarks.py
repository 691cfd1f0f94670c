"""The quality comparison: its rivals find what can be found, and its table says what was measured."""

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tests import worlds
from tests.benchmarks import boards, data

pytest.importorskip("implicit", reason="implicit, a rival, is not installed")
from tests.benchmarks import quality, rivals

SETTINGS = {
    "item_knn": {"neighbours": 4, "shrinkage": 0},
    "ease": {"penalty": 1},
    "als": {"factors": 4, "regularization": 0.1, "alpha": 4, "iterations": 10},
    "bpr": {"factors": 4, "learning_rate": 0.1, "regularization": 0.001, "iterations": 100},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_rivals_put_the_withheld_item_of_a_checkerboard_first(name: str, tmp_path: Path) -> None:
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard())
    with threadpool_limits(1):
        figures = quality.fit_rival(name, SETTINGS[name], dataset, seed=0)
    assert figures["ndcg@10"] == figures["recall@10"] == 1


def test_popularity_counts_for_every_user_alike() -> None:
    query, items = rivals.popularity(rivals.csr_matrix([[1, 1, 0], [0, 1, 0]], dtype=np.float32), seed=0)
    np.testing.assert_array_equal(query @ items.T, [[1, 2, 0], [1, 2, 0]])


def test_neighbours_are_those_of_the_item_that_is_scored() -> None:
    train = rivals.csr_matrix([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=np.float32)
    rows, weights = rivals.item_knn(train, 0, neighbours=1, shrinkage=1)
    # Together 2 (items 0, 1), 1 (0, 2), 1 (1, 2); users 4, 2, 1. Cosines with 1 added to the denominator:
    # 2 / (sqrt(8) + 1) = 0.522, 1 / (2 + 1) = 0.333, 1 / (sqrt(2) + 1) = 0.414. Item 2 is nearest to none.
    np.testing.assert_allclose(weights, [[0, 0.522, 0], [0.522, 0, 0], [0, 0.414, 0]], atol=1e-3)
    np.testing.assert_array_equal(rows, train.toarray())


def test_a_user_without_training_interactions_is_ranked_by_popularity(tmp_path: Path) -> None:
    train = [(user, item) for user in range(10) for item in range(12) if item == 11 or item % 10 == user]
    dataset = worlds.dataset(tmp_path, train, [(99, 11)])
    nothing = np.zeros((dataset.user_count, 1), np.float32), np.zeros((dataset.item_count, 1), np.float32)
    assert quality.quality(nothing, dataset, "test")["ndcg@10"] == 1


def test_ease_is_the_same_by_the_users_matrix_as_by_the_items(tmp_path: Path) -> None:
    dense = np.random.default_rng(0).random((12, 9)) < 0.4
    # Nine items of twelve users by way of the items; with four empty items more by way of the users.
    by_items = rivals.ease(rivals.csr_matrix(dense, dtype=np.float32), 0, penalty=2)[1]
    wider = np.pad(dense, ((0, 0), (0, 4)))
    by_users = rivals.ease(rivals.csr_matrix(wider, dtype=np.float32), 0, penalty=2)[1]
    np.testing.assert_allclose(by_users[:9, :9], by_items, atol=1e-6)
    assert not by_users[9:].any()


def test_a_walk_over_the_grid_climbs_from_every_value_of_the_first_setting() -> None:
    grid: dict[str, tuple[float, ...]] = {"a": (0, 1), "b": (0, 1, 2, 3, 4), "c": (0, 1, 2, 3, 4)}
    asked = []

    def score(settings: dict[str, float]) -> float:
        """A ridge up to 8 at b = c = 4 where a is 0; 9 at b = c = 2 and -1 elsewhere where a is 1."""
        a, b, c = settings.values()
        asked.append((a, b, c))
        return 2 * c - (b - c) ** 2 if a == 0 else 10 * (b == c == 2) - 1

    settings, best, tried = rivals.choose(grid, score)
    assert (settings, best) == ({"a": 1, "b": 2, "c": 2}, 9)
    assert (0, 4, 4) in asked
    assert tried == len(set(asked)) == len(asked)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_made_up_rows_are_all_written_and_every_hundredth_pair_stands_twice(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK", 300)
    path = data.write(kind, 3000, tmp_path)
    options = ["--data.name", "files", "--data.format", kind, "--data.cache", str(tmp_path / "cache")]
    config = data.parse_config([*options, "--data.interactions", str(path)])
    report = data.open_dataset(data.prepare_data(config.data)).report
    assert (report["read"], report["duplicates"]) == (3000, 29)  # rows 100, 200, ...
    assert len(list(path.iterdir()) if kind == "parquet" else [path]) == (3 if kind == "parquet" else 1)


def test_every_data_set_with_settings_has_them_for_every_rival_on_its_grid() -> None:
    assert rivals.CHOSEN.keys() <= boards.BOARDS.keys()
    for chosen in rivals.CHOSEN.values():
        assert list(chosen) == [name for name, rival in rivals.RIVALS.items() if rival.grid]
        for name, settings in chosen.items():
            grid = rivals.RIVALS[name].grid
            assert list(settings) == list(grid)
            assert all(value in grid[key] for key, value in settings.items())


def test_the_table_has_means_and_deviations_over_seeds() -> None:
    results = {
        "ease": {"settings": {}, "ndcg@10": [0.4], "recall@10": [0.2], "seconds": [2.5]},
        "ours": {
            "settings": {},
            "ndcg@10": [0.4, 0.5, 0.6],
            "recall@10": [0.1, 0.2, 0.3],
            "seconds": [1, 2, 3],
        },
    }
    header, ease, ours = quality.show("world", results).splitlines()
    assert header.split() == ["world", "ndcg@10", "recall@10", "fit,", "s"]
    assert ease.split() == ["ease", "0.4000", "0.2000", "2.50"]
    assert ours.split() == ["ours", "0.5000", "±", "0.1000", "0.2000", "±", "0.1000", "2.00"]


def test_whoever_is_timed_in_evaluation_ranks_alike() -> None:
    pytest.importorskip("faiss")
    from tests.benchmarks import evaluation

    case = evaluation.made_up(users=40, items=300, dim=8, seen=20, held_out=6)
    with threadpool_limits(1):
        timed = evaluation.contestants(case, 10, threads=1)
        evaluation.check(case, 10, timed)
        evaluation.notebook_rate(case, 10, repeats=1, threads=1)
        # A case whose vectors are not those that the rivals have is seen to differ.
        other = evaluation.made_up(users=40, items=300, dim=12, seen=20, held_out=6)
        mixed = timed | {"implicit, the same": evaluation.contestants(other, 10, 1)["implicit, the same"]}
        with pytest.raises(SystemExit, match="by ours and by implicit"):
            evaluation.check(case, 10, mixed)
