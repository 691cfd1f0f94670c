"""Boards name data sets as the trainer takes them, and are ranked by the protocol of what was published."""

import argparse
from pathlib import Path

import pytest

from tests.benchmarks.boards import BOARDS, board_of_files
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data

pytest.importorskip("implicit", reason="implicit, a rival, is not installed")
from tests.benchmarks import quality


def prepared(board, folder: Path) -> Dataset:
    return open_dataset(prepare_data(board.config(folder, str(folder / "cache"))))


@pytest.fixture
def beauty(tmp_path: Path) -> Path:
    """A folder with a file in the place of Beauty's: of 9 users, each has 20, 1, 2, ... in a circle of 5."""
    (tmp_path / "amazon-beauty").mkdir()
    lines = [f"{user} 20 {' '.join(str(1 + (user + n) % 5) for n in range(4))}" for user in range(9)]
    (tmp_path / "amazon-beauty/beauty.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_last_item_of_a_line_is_held_out_and_the_one_before_it_too_where_papers_do(beauty: Path) -> None:
    ours, papers = (prepared(BOARDS[name], beauty) for name in ("beauty", "beauty-papers"))
    # Nine users of five items: all but the last one, or all but the last two, are trained on.
    assert (len(ours.train), len(ours.validation), len(ours.test)) == (36, 0, 9)
    assert (len(papers.train), len(papers.validation), len(papers.test)) == (27, 9, 9)
    items = papers.item_ids.to_pylist()
    assert [items[item] for item in papers.held_out("validation").values[:2]] == [3, 4]
    # The item before the test item is known when that is to be found, as in the papers.
    assert papers.seen("test").lengths()[:9].tolist() == [4] * 9


def test_what_comes_next_in_a_circle_is_found_by_a_chain_and_not_by_popularity(beauty: Path) -> None:
    dataset = prepared(BOARDS["beauty"], beauty)
    # Everybody lacks two items of the circle: the next one, and the one after that.
    assert quality.fit_baseline("markov", dataset, k=1)["ndcg@1"] == 1
    assert quality.fit_rival("popularity", {}, dataset, seed=0, k=1)["recall@1"] < 0.7


def test_a_pair_of_files_is_split_as_given_and_one_file_by_last_items(tmp_path: Path) -> None:
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("0 1 2 3\n1 2 3\n")
    test.write_text("0 4\n1 1\n")
    pair = prepared(board_of_files(train, test, k=20), tmp_path)
    assert (len(pair.train), len(pair.test)) == (5, 2)
    alone = prepared(board_of_files(train, None, k=20), tmp_path)
    assert alone.item_ids.take(alone.held_out("test").values).to_pylist() == [3, 3]


def test_boards_whose_files_are_missing_are_left_out_unless_they_are_asked_for(beauty: Path) -> None:
    names = quality.chosen_boards(quality.parse(["--root", str(beauty)]))
    assert {"beauty", "ml-100k-last"} <= names.keys()
    assert not {"gowalla", "yelp2018"} & names.keys()
    with pytest.raises(SystemExit, match=r"gowalla/train.txt: no such file, which gowalla needs"):
        quality.chosen_boards(quality.parse(["--root", str(beauty), "--data", "gowalla"]))


def test_published_figures_stand_below_ours_with_their_source() -> None:
    results = {"ours": {"settings": {}, "ndcg@10": [0.05], "recall@10": [0.09], "seconds": [60.0]}}
    lines = quality.show("beauty", results, BOARDS["beauty"].published).splitlines()
    assert lines[1].split() == ["ours", "0.0500", "0.0900", "60.00"]
    assert lines[2].split()[:3] == ["SASRec", "0.0318", "0.0605"]
    assert lines[2].endswith("Zhou et al., CIKM 2020, their table for all items ranked")


def test_rivals_by_order_stand_beside_splits_by_time_alone(beauty: Path) -> None:
    options = argparse.Namespace(only=["popularity", "markov"], seeds=[0], config=None)
    board = BOARDS["beauty"]
    assert [
        *quality.compare("beauty", board, options, board.config(beauty, str(beauty / "c")))
    ] == options.only
    train, test = beauty / "train.txt", beauty / "test.txt"
    train.write_text("0 1 2 3\n1 2 3\n")
    test.write_text("0 4\n1 1\n")
    pair = board_of_files(train, test, k=5)
    assert [*quality.compare("files", pair, options, pair.config(beauty, str(beauty / "c")))] == [
        "popularity"
    ]
