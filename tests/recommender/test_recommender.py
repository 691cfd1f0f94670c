"""Exports recommend what their runs do: known users, new people, similar items, one at a time and many."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests import exports, worlds
from trainer.errors import UserError
from trainer.exporting.export import Wishes, export
from trainer.model.retriever import candidate_vectors, query_vectors
from trainer.recommender.recommender import Recommender
from trainer.runs.run_folder import open_run
from trainer.serving.recommend import recommend, recommend_by_history
from trainer.serving.similar_items import similar_items

ORDERED = ("--model.history", "recency", "--model.history_decay", "both", "--model.history_length", "4")
TRANSFORMER = (
    "--model.history",
    "transformer",
    "--model.history_table",
    "own",
    "--model.history_length",
    "4",
)
FIRST = worlds.FIRST_ITEM


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Recommender]]:
    """Runs with their exports, by what their query towers know."""
    found = {}
    for name, arguments in (("ids", exports.PLAIN), ("attributes", exports.ATTRIBUTES), ("bag", exports.BAG)):
        run = exports.trained(tmp_path_factory.mktemp(name), *arguments)
        found[name] = run
    for name, arguments in (("recency", (*ORDERED, *exports.CLOSED)), ("transformer", TRANSFORMER)):
        folder = tmp_path_factory.mktemp(name)
        data = worlds.ordered_options(folder, worlds.cycle(users=24), hours=(1, 5))
        found[name] = worlds.trained(folder, *data, *arguments, "--run.choose", "false", "--run.epochs", "3")
    for run in found.values():
        export(run, run.parent / "export")
    return {name: (run, Recommender.open(run.parent / "export")) for name, run in found.items()}


@pytest.fixture(scope="module")
def board(boards: dict[str, tuple[Path, Recommender]]) -> Recommender:
    return boards["ids"][1]


NAMES = ("ids", "attributes", "bag", "recency", "transformer")


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert found["item"].tolist() == expected["item"].tolist()
    assert found["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_lists_of_users_are_those_of_the_run(boards: dict[str, tuple[Path, Recommender]], name: str) -> None:
    run, opened = boards[name]
    for user in ("1001", "1002", "1020"):
        for keep in (False, True):
            assert_same(opened.recommend(user, k=100, keep_seen=keep), recommend(run, user, 100, keep))


@pytest.mark.parametrize("name", NAMES)
def test_lists_of_new_people_are_those_of_the_run(
    boards: dict[str, tuple[Path, Recommender]], name: str
) -> None:
    run, opened = boards[name]
    for history in ([FIRST], [FIRST + 3, FIRST + 5, FIRST + 1], range(FIRST, FIRST + 8)):
        texts = [str(item) for item in history]
        assert_same(opened.recommend(history=texts, k=100), recommend_by_history(run, texts, 100))


@pytest.mark.parametrize("name", ["ids", "attributes", "bag"])
def test_scores_of_users_are_those_of_the_towers_that_an_evaluation_ranks_by(
    boards: dict[str, tuple[Path, Recommender]], name: str
) -> None:
    run, opened = boards[name]
    trained, cpu = open_run(run), torch.device("cpu")
    row = trained.vocabulary.user_row("1005")
    query = query_vectors(trained.tower_pairs, np.array([row]), cpu)[0]
    scores = (candidate_vectors(trained.tower_pairs, np.arange(16), cpu) @ query).tolist()
    found = opened.recommend(1005, k=16, keep_seen=True).set_index("item")["score"]
    for item, score in zip(trained.vocabulary.item_ids.to_pylist(), scores, strict=True):
        assert found[item] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("name", ["attributes", "bag"])
@pytest.mark.parametrize("history", [[], [FIRST, FIRST + 2]], ids=["alone", "beside a history"])
def test_attributes_count_as_they_do_for_the_run(
    boards: dict[str, tuple[Path, Recommender]], name: str, history: list[int]
) -> None:
    run, opened = boards[name]
    texts = [str(item) for item in history]
    for given in ({"colour": "white"}, {"colour": "black", "height": 1.8, "decade": "40"}):
        expected = recommend_by_history(run, texts, 100, attributes=given)
        assert_same(opened.recommend(history=history, k=100, attributes=given), expected)


def test_an_item_that_was_withheld_comes_first_and_what_is_known_does_not_come(board: Recommender) -> None:
    for user, item in exports.WITHHELD[:4]:
        found = board.recommend(user, k=100)["item"].tolist()
        past = board.past(user)["item"].tolist()
        assert sorted(past) == list(range(FIRST + (user - 1001) % 2, FIRST + 16, 2))
        assert item in past  # of the test split
        assert not set(past) & set(found)
        assert len(found) == len(set(found)) == 8


def test_the_past_has_what_came_last_at_its_end(boards: dict[str, tuple[Path, Recommender]]) -> None:
    assert boards["recency"][1].past("1005")["item"].tolist() == worlds.cycle(users=24)[1005]


def test_ranks_count_from_one_and_titles_stand_beside_ids(board: Recommender) -> None:
    found = board.recommend(1001, k=3)
    assert list(found.columns) == ["rank", "item", "title", "score"]
    assert found["rank"].tolist() == [1, 2, 3]
    assert found["title"].tolist() == [exports.TITLES[item - FIRST] for item in found["item"]]
    assert found["score"].is_monotonic_decreasing
    assert found.attrs == {"unknown": [], "notes": []}


def test_many_users_get_the_lists_that_each_would_get(board: Recommender) -> None:
    users = [1003, 1001, 1002]
    found = board.recommend_many(users, k=5)
    assert list(found.columns) == ["user", "rank", "item", "title", "score"]
    for user in users:
        own = found[found["user"] == user].drop(columns="user").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, board.recommend(user, k=5))
    assert found["user"].tolist() == [user for user in users for _ in range(5)]


@pytest.mark.parametrize("name", NAMES)
def test_many_histories_get_the_lists_that_each_would_get(
    boards: dict[str, tuple[Path, Recommender]], name: str
) -> None:
    opened = boards[name][1]
    histories = [[FIRST], [FIRST + 1, FIRST + 3], [FIRST + 5, FIRST + 7, FIRST + 2]]
    found = opened.recommend_many(histories=histories, k=4)
    for number, history in enumerate(histories):
        assert_same(found[found["query"] == number], opened.recommend(history=history, k=4))


def test_items_that_are_alike_are_of_one_colour_and_as_the_run_finds_them(
    boards: dict[str, tuple[Path, Recommender]],
) -> None:
    run, opened = boards["ids"]
    found = opened.similar(FIRST, k=7)
    assert all((item - FIRST) % 2 == 0 and item != FIRST for item in found["item"])
    assert_same(found, similar_items(run, str(FIRST), 7))
    many = opened.similar_many([FIRST, "Film D"], k=2)
    assert many["query"].tolist() == [FIRST, FIRST, FIRST + 3, FIRST + 3]
    assert many["item"].tolist()[:2] == found["item"].tolist()[:2]


def test_lists_can_be_restricted(board: Recommender) -> None:
    white = board.recommend(1002, k=100, where=["colours=white"])["item"]
    assert [(item - FIRST) % 2 for item in white] == [0] * 8
    assert board.recommend(1002, k=100, where=["year>=1997"], allow=[FIRST, FIRST + 14])["item"].tolist() == [
        FIRST + 14
    ]
    denied = board.recommend(1002, k=100, deny=[FIRST, "9"])
    assert FIRST not in denied["item"].tolist()
    assert "9" in denied.attrs["notes"][0]
    assert board.recommend(1002, k=100, at_most={"colours": 2}, keep_seen=True).shape[0] == 4
    both = board.recommend_many([1001, 1002], k=9, where=["colours=black"], at_most={"year": 1})
    assert (both.groupby("user")["item"].count() <= 8).all()


def test_reasons_are_items_of_the_past_of_the_same_colour(board: Recommender) -> None:
    found = board.recommend(1001, k=8, keep_seen=True, why=2, where=["colours=white"])
    past = set(board.past(1001)["item"])
    assert all(1 <= len(reasons) <= 2 and set(reasons) <= past for reasons in found["why"])
    new = board.recommend(history=[FIRST, FIRST + 1], k=1, why=1, where=["colours=black"])
    assert new["why"].tolist() == [[FIRST + 1]]


def test_titles_are_found_and_may_stand_for_ids(board: Recommender) -> None:
    assert board.find_titles("film c", 1).to_dict("records") == [
        {"item": FIRST + 2, "title": "Film C (1992)"}
    ]
    by_title = board.recommend(history=["Film A", "no such film"], k=3)
    assert by_title.attrs["unknown"] == ["no such film"]
    assert "no such film" in by_title.attrs["notes"][0]
    assert_same(by_title, board.recommend(history=[FIRST], k=3))


def test_the_catalogue_has_titles_and_attributes(board: Recommender) -> None:
    row = board.items.set_index("item").loc[FIRST + 3]
    assert (row["title"], row["release_year"], row["colours"]) == ("Film D (1993)", 1991, "black")


@pytest.mark.parametrize("name", ["ids", "attributes"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user": "7"}, r"user 7: not among the 32 users of .* or give a history"),
        ({"history": ["7"]}, r"history: 7: not among the 16 items \(such as"),
        ({"history": "51"}, r"is one text. Give a list"),
        ({}, r"give a user, a history or attributes"),
        ({"user": 1001, "history": [51]}, r"user 1001: not together with history"),
        ({"user": 1001, "k": 0}, r"k 0: a whole number from 1 up"),
        (
            {"history": [51], "attributes": {"size": 1}},
            r"attributes: size is none that the query tower takes",
        ),
        ({"user": 1001, "where": ["colours=green"]}, r"no item has 'green'"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(
    boards: dict[str, tuple[Path, Recommender]], name: str, arguments: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        boards[name][1].recommend(**arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colour": "green"}, "attributes: colour=green: no user has green. There are: (white|black), "),
        ({"height": "tall"}, "height=tall: a number is needed"),
    ],
)
def test_unknown_values_of_attributes_are_refused(
    boards: dict[str, tuple[Path, Recommender]], given: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        boards["attributes"][1].recommend(attributes=given)


def test_threads_may_share_one(boards: dict[str, tuple[Path, Recommender]]) -> None:
    opened = Recommender.open(boards["bag"][0].parent / "export")  # whose program is not loaded yet
    histories = [[FIRST + number % 16] for number in range(48)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda history: opened.recommend(history=history, k=3), histories))
    for history, own in zip(histories, found, strict=True):
        pd.testing.assert_frame_equal(own, opened.recommend(history=history, k=3))


HEAVY = "{'torch', 'torchrec', 'fbgemm_gpu', 'scipy', 'jsonargparse', 'yaml', 'filelock', 'faiss'}"


def test_a_tower_of_ids_is_served_without_any_of_the_heavy_packages(board: Recommender) -> None:
    code = (
        "import sys; from trainer.recommender.recommender import Recommender\n"
        f"opened = Recommender.open({str(board._export.folder)!r})\n"
        f"opened.recommend(1001, why=1); opened.recommend(history=[{FIRST}]); opened.similar({FIRST})\n"
        f"opened.recommend_many([1001, 1002]); print(sorted({{*sys.modules}} & {HEAVY}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_missing_packages_are_named_with_what_installs_them(
    boards: dict[str, tuple[Path, Recommender]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = boards["attributes"]
    export(run, tmp_path / "flat", Wishes(index="flat"))
    opened = Recommender.open(run.parent / "export")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="Run: pip install faiss-cpu"):
        Recommender.open(tmp_path / "flat")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert opened.recommend(1001)["item"].tolist()  # a known user needs none of it
    with pytest.raises(UserError, match="Run: pip install torch"):
        opened.recommend(attributes={"colour": "white"})
