"""Exports of runs that know less than others: hashed ids, values and no histories, no test split."""

from pathlib import Path

import pytest

from tests import exports, worlds
from trainer.errors import UserError
from trainer.exporting.export import export
from trainer.recommender.recommender import Recommender
from trainer.serving.recommend import recommend, recommend_by_history

QUICK = ("--run.choose", "false", "--model.low_rank", "0", "--run.epochs", "2")


def opened(folder: Path, *arguments: str) -> tuple[Path, Recommender]:
    run = exports.trained(folder, *QUICK, *arguments)
    export(run, folder / "export")
    return run, Recommender.open(folder / "export")


def assert_lists_are_those_of_the_run(run: Path, found: Recommender) -> None:
    for user in ("1001", "1002"):
        expected, own = recommend(run, user, 16), found.recommend(user, k=16)
        assert own["item"].tolist() == expected["item"].tolist()
        assert own["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-5)


def test_hashed_ids_have_the_vectors_of_their_rows(tmp_path: Path) -> None:
    run, found = opened(tmp_path, "--model.hashed_rows", "13", "--model.user_features", "colour")
    assert_lists_are_those_of_the_run(run, found)
    expected = recommend_by_history(run, ["51"], 16)
    assert found.recommend(history=[51], k=16)["item"].tolist() == expected["item"].tolist()
    with pytest.raises(UserError, match="user new: not among the 32 users"):
        found.recommend("new")


def test_a_run_on_values_serves_users_and_refuses_histories(tmp_path: Path) -> None:
    data = "--data.name synthetic --data.synthetic_users 60 --data.synthetic_items 40"
    data += " --data.synthetic_interactions 900 --loss.name mse --batches.rows interaction"
    run = worlds.trained(tmp_path, *data.split(), "--data.cache", str(tmp_path / "cache"), *QUICK)
    export(run, tmp_path / "export")
    found = Recommender.open(tmp_path / "export")
    user, item = found._export.user_ids[0].as_py(), found.items["item"][0]
    assert found.recommend(user, k=9)["item"].tolist() == recommend(run, str(user), 9)["item"].tolist()
    with pytest.raises(UserError, match=r"--loss\.name mse, which needs ratings, and a history has none"):
        found.recommend(history=[item])


def test_without_a_test_split_the_gate_measures_recall_alone(tmp_path: Path) -> None:
    options = exports.options(tmp_path)
    place = options.index("--data.held_out")
    run = worlds.trained(tmp_path, *options[:place], *options[place + 2 :], *QUICK, "--data.split", "none")
    manifest = export(run, tmp_path / "export")
    assert manifest is not None
    assert (manifest["checks"]["ndcg@10"], manifest["checks"]["recall@10"]) == (None, 1)
    assert "The run was not evaluated." in (tmp_path / "export" / "README.md").read_text()
    assert_lists_are_those_of_the_run(run, Recommender.open(tmp_path / "export"))
