"""A run from Python, on a checkerboard whose withheld items must come first."""

import json
from pathlib import Path

import numpy as np
import pytest

import trainer
from tests import worlds
from trainer.api.options import options_of
from trainer.config.schema import Config
from trainer.errors import CheckpointError, ConfigError, UserError
from trainer.serving.recommend import recommend

TRAIN, WITHHELD = worlds.checkerboard()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> trainer.Run:
    folder = tmp_path_factory.mktemp("api")
    data = worlds.options(folder, TRAIN, WITHHELD)
    asked = [*worlds.QUICK, *data]
    changes = {key.removeprefix("--"): value for key, value in zip(asked[::2], asked[1::2], strict=True)}
    run = trainer.train(changes=changes | {"run.dir": folder / "run", "device": "cpu", "run.log_every": 5})
    assert run is not None
    return run


def test_a_training_from_python_is_that_of_the_command_line(trained: trainer.Run, tmp_path: Path) -> None:
    data = worlds.options(tmp_path, TRAIN, WITHHELD)
    by_command = worlds.trained(tmp_path, *data, "--run.log_every", "5")
    assert trained.metrics["model"] == worlds.figures(by_command)
    assert trained.history["loss"].tolist() == trainer.open_run(by_command).history["loss"].tolist()


def test_changes_override_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Config] = []
    monkeypatch.setattr("trainer.training.train.train", asked.append)
    file = tmp_path / "shop.yaml"
    file.write_text("model: {dim: 16}\nrun: {epochs: 3}\n")
    assert trainer.train(file, {"model.dim": 32, "run.dir": tmp_path / "run"}) is None  # as the training did
    assert (asked[0].model.dim, asked[0].run.epochs, asked[0].run.dir) == (32, 3, str(tmp_path / "run"))


def test_metrics_are_those_of_the_report_and_of_a_new_evaluation(trained: trainer.Run) -> None:
    report = json.loads((trained.path / "metrics.json").read_text())
    assert trained.metrics == report
    assert trained.ranking.loc["model", "ndcg@10"] == report["model"]["ndcg@10"]
    assert list(trained.ranking.index) == [
        name for name in report if name in ("model", "popularity", "random")
    ]
    assert trained.evaluate()["model"] == report["model"]
    assert trained.evaluate(ks=[1])["model"].keys() >= {"ndcg@1", "recall@1"}


def test_the_history_has_a_row_a_step(trained: trainer.Run) -> None:
    lines = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    assert trained.history.index.tolist() == sorted({line["step"] for line in lines})
    assert trained.history["loss"].iloc[-1] == lines[-1]["loss"]


def test_recommendations_are_those_of_the_command(trained: trainer.Run) -> None:
    for user, _ in WITHHELD[:3]:
        found, expected = trained.recommend(user, k=3), recommend(trained.path, str(user), 3)
        assert found["rank"].tolist() == [1, 2, 3]
        assert found[["item", "score"]].equals(expected[["item", "score"]])


def test_someone_new_is_served_by_history_and_the_reasons_are_named(trained: trainer.Run) -> None:
    mine = [item for user, item in TRAIN if user == WITHHELD[0][0]]
    found = trained.recommend(history=mine, k=1, why=2)
    assert found["item"].tolist() == [WITHHELD[0][1]]
    assert {reason["item"] for reason in found["why"][0]} <= set(mine)


def test_neither_a_user_nor_a_history_is_an_error_that_says_what_to_give(trained: trainer.Run) -> None:
    with pytest.raises(UserError, match="give a user, a history or attributes"):
        trained.recommend(k=3)
    with pytest.raises(UserError, match="history and attributes are known"):
        trained.recommend(WITHHELD[0][0], history=[51])


def test_similar_items_are_of_the_same_colour(trained: trainer.Run) -> None:
    found = trained.similar(worlds.FIRST_ITEM, 3)
    assert {item % 2 for item in found["item"]} == {worlds.FIRST_ITEM % 2}


def test_an_export_recommends_what_the_run_does(trained: trainer.Run, tmp_path: Path) -> None:
    opened, user = trained.export(tmp_path / "export"), WITHHELD[1][0]
    found, expected = opened.recommend(user, k=4), trained.recommend(user, k=4)
    assert found["item"].tolist() == expected["item"].tolist()
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


def test_the_dot_product_of_two_vectors_is_a_score(trained: trainer.Run) -> None:
    users, items = trained.vectors("user"), trained.vectors("item")
    user = WITHHELD[0][0]
    found = trained.recommend(user, k=2, keep_seen=True)
    scores = items.loc[found["item"]].to_numpy() @ users.loc[user].to_numpy()
    np.testing.assert_allclose(found["score"], scores, rtol=1e-5)
    assert (len(users), len(items)) == (16, 8)


def test_the_plan_prints_as_the_command_prints_it_and_draws_itself(trained: trainer.Run) -> None:
    assert str(trained.plan).startswith("1 rank of cpu, 1 host\n")
    assert trained.plan._repr_svg_().startswith("<svg")
    held = trained.plan.shards.groupby("table")["rows"].sum()
    assert (held["user"], held["item"]) == (17, 9)  # and a row for unknown ids


def test_a_notebook_shows_the_metrics_of_a_run(trained: trainer.Run) -> None:
    assert "<td>" in trained._repr_html_()
    assert "popularity" in trained._repr_html_()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run folder"):
        trainer.open_run(tmp_path)


def test_changes_beside_a_parsed_configuration_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Give them to trainer\.parse_config"):
        trainer.train(trainer.parse_config([]), {"model.dim": 8})


def test_a_misspelt_key_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"--model.dmi: .*model.dim"):
        trainer.parse_config(options_of({"model.dmi": 8}))
