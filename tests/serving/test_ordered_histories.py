"""Recommendations from ordered histories: of known users and of new ones, whose last item is given last."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import worlds
from trainer.model.retriever import candidate_vectors, query_vectors
from trainer.runs.checkpoint_store import newest
from trainer.runs.run_folder import open_run
from trainer.serving.recommend import recommend, recommend_by_history
from trainer.serving.vector_cache import open_vectors

HISTORIES = worlds.cycle(users=24)
LENGTH = 4
MODELS = {
    "recency": ("--model.history", "recency"),
    "by time": (
        "--model.history",
        "recency",
        "--model.history_decay",
        "time",
        "--model.history_table",
        "own",
    ),
    "transformer": ("--model.history", "transformer", "--model.history_decay", "both"),
    "users": ("--model.history", "recency", "--model.user_id", "true", "--model.history_table", "tied"),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = worlds.ordered_options(folder, HISTORIES)
    options = "--run.choose", "false", "--model.low_rank", "0", "--model.history_length", str(LENGTH)
    return worlds.trained(folder, *data, *options, *request.param, "--run.epochs", "3")


def scores(found) -> dict[int, float]:
    return dict(zip(found["item"].tolist(), found["score"].tolist(), strict=True))


def test_a_user_is_scored_as_an_evaluation_does(run: Path) -> None:
    trained = open_run(run)
    row, cpu = trained.vocabulary.user_row("1005"), torch.device("cpu")
    query = query_vectors(trained.tower_pairs, np.array([row]), cpu)[0]
    expected = candidate_vectors(trained.tower_pairs, np.arange(12), cpu) @ query
    found = scores(recommend(run, "1005", 100, keep_seen=True, mark="test"))
    for item, score in zip(trained.vocabulary.item_ids.to_pylist(), expected.tolist(), strict=True):
        assert found[item] == pytest.approx(score, abs=1e-5)


def history_alone(run: Path, history: list[int]) -> dict[int, float]:
    if "user" in open_run(run).tower_pairs[0].towers.query.widths:
        pytest.skip("a user has a vector beside the history")
    return scores(recommend_by_history(run, [str(item) for item in history], 100, keep_seen=True))


# All items were an hour apart, which is also what items without times are taken to be.
def test_the_history_of_a_user_gives_the_same_scores_as_the_user(run: Path) -> None:
    # All but the last item, which is the test split's, as an evaluation does; all of them to serve.
    for known, mark in ((HISTORIES[1005][:-1], "test"), (HISTORIES[1005], None)):
        expected = scores(recommend(run, "1005", 100, keep_seen=True, mark=mark))
        assert history_alone(run, known) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("timed", [True, False], ids=["by time", "by place in the file"])
def test_newer_items_are_the_end_of_the_history_and_are_left_out(
    run: Path, tmp_path: Path, timed: bool
) -> None:
    history = HISTORIES[1005]
    new = [next_item(history[-1]), next_item(next_item(history[-1]))]
    rows = [(item, (len(history) + place) * worlds.HOUR) for place, item in enumerate(new)]
    text = "user_id,item_id,timestamp\n" if timed else "user_id,item_id\n"
    for item, moment in reversed(rows) if timed else rows:
        text += f"1005,{item},{moment}\n" if timed else f"1005,{item}\n"
    (tmp_path / "newer.csv").write_text(text)
    found = scores(recommend(run, "1005", 100, interactions=tmp_path / "newer.csv"))
    assert found.keys() == set(range(51, 63)) - {*history, *new}
    expected = history_alone(run, [*history, *new])
    assert found == pytest.approx({item: expected[item] for item in found}, abs=1e-5)


def test_what_comes_next_in_the_cycle_is_recommended_after_the_last_item_of_all(run: Path) -> None:
    # The evaluated history ends one item earlier, so that the held-out item is what comes next there.
    for user in (1001, 1002, 1003):
        history = HISTORIES[user]
        served, evaluated = (
            scores(recommend(run, str(user), 100, keep_seen=True, mark=mark)) for mark in (None, "test")
        )
        gains = {item: served[item] - evaluated[item] for item in served}
        assert gains[next_item(history[-1])] > gains[history[-1]]


def next_item(item: int) -> int:
    """Return the item after one in the cycle of 51 to 62."""
    return 51 + (item - 50) % 12


def test_what_is_given_last_counts_most(run: Path) -> None:
    one, other = (
        scores(recommend_by_history(run, history, 100, keep_seen=True))
        for history in (["51", "57"], ["57", "51"])
    )
    assert max(abs(one[item] - other[item]) for item in one) > 1e-3
    # After 57 comes 58: its score gains most where 57 is the last, against that of 52, which follows 51.
    assert one[58] - one[52] > other[58] - other[52]
    assert scores(recommend_by_history(run, ["51,57"], 100, keep_seen=True, split=True)) == one


def test_a_history_counts_as_far_back_as_the_length(run: Path) -> None:
    long, short = ["60", "59", "51", "52", "53", "54"], ["51", "52", "53", "54"]
    found = [scores(recommend_by_history(run, items, 100, keep_seen=True)) for items in (long, short)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    # All that is given is left out, however far back.
    assert not {60, 59} & scores(recommend_by_history(run, long, 100)).keys()


def test_cached_vectors_serve_users_and_never_stand_for_a_new_history(run: Path) -> None:
    before = scores(recommend_by_history(run, ["51", "57"], 100))
    first = scores(recommend(run, "1003", 100))
    assert open_vectors(run, newest(run)) is not None
    assert scores(recommend(run, "1003", 100)) == pytest.approx(first, abs=1e-6)
    assert scores(recommend_by_history(run, ["51", "57"], 100)) == before


def test_a_user_without_a_history_is_recommended_something(tmp_path: Path) -> None:
    newcomer = {**worlds.cycle(users=12), 5000: [51]}
    data = [
        *worlds.ordered_options(tmp_path, newcomer)[:-2],
        *("--data.split", "temporal", "--data.test_size", "0.1"),
    ]
    table = worlds.ordered_table(newcomer)
    late = table["timestamp"].to_numpy() + (table["user_id"].to_numpy() == 5000) * 10**6
    worlds.pq.write_table(table.set_column(2, "timestamp", [late]), tmp_path / "interactions.parquet")
    options = "--run.choose", "false", "--model.low_rank", "0", "--model.history", "transformer"
    run = worlds.trained(tmp_path, *data, *options, "--run.epochs", "2")
    found = recommend(run, "5000", 3, mark="test")
    assert len(found) == 3
    assert np.isfinite(found["score"]).all()
