"""`evaluate` beside other rankers, beyond accuracy, and against another run, on checkerboards."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests import worlds
from trainer.cli import main
from trainer.facts.baselines import BASELINES, Baseline

TRAIN, WITHHELD = worlds.checkerboard()
ALL = "popularity,random,item_knn,ease,low_rank"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a checkerboard whose items have their colour, and one more letter, as `letters`."""
    folder = tmp_path_factory.mktemp("data")
    ids = list(range(worlds.FIRST_ITEM, worlds.FIRST_ITEM + 8))
    letters = [["black" if item % 2 else "white", f"letter {item % 3}"] for item in ids]
    pq.write_table(pa.table({"item_id": ids, "letters": letters}), folder / "items.parquet")
    return [*worlds.options(folder, TRAIN, WITHHELD), "--data.items", str(folder / "items.parquet")]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, data: list[str]) -> Path:
    return worlds.trained(tmp_path_factory.mktemp("good"), *data)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, data: list[str]) -> Path:
    """A run that has learnt next to nothing."""
    rates = ("--optimizer.learning_rate", "1e-9", "--optimizer.table_learning_rates", "{}")
    return worlds.trained(tmp_path_factory.mktemp("bad"), *data, *rates)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_baselines_stand_in_the_table_and_in_json_in_their_order(capsys, good: Path) -> None:
    found = json.loads(printed(capsys, "evaluate", good, "--k", "1", "--baselines", ALL, "--json"))
    rankers = [name for name, value in found.items() if isinstance(value, dict)]
    assert rankers == ["model", *ALL.split(",")]
    # The withheld item is the one of the user's colour: whoever looks at neighbours finds it.
    assert found["item_knn"]["ndcg@1"] == found["ease"]["ndcg@1"] == found["low_rank"]["ndcg@1"] == 1
    lines = printed(capsys, "evaluate", good, "--k", "1", "--baselines", "ease,popularity").splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["model", "ease", "popularity"]


def test_evaluating_a_run_does_not_compute_its_closed_form_again(
    capsys, data: list[str], tmp_path: Path
) -> None:
    cache = ("--data.cache", str(tmp_path / "cache"))
    run = worlds.trained(tmp_path / "runs", *data, *cache, "--model.low_rank", "4")
    forms = sorted((tmp_path / "cache").rglob("low_rank*"))
    assert forms
    found = printed(capsys, "evaluate", run, "--baselines", "", "--json")
    for form in forms:
        form.unlink()
    assert printed(capsys, "evaluate", run, "--baselines", "", "--json") == found
    assert not list((tmp_path / "cache").rglob("low_rank*"))


def test_a_model_can_be_evaluated_alone(capsys, good: Path) -> None:
    assert "popularity" not in printed(capsys, "evaluate", good, "--baselines", "")


def test_an_unknown_baseline_is_refused(capsys, good: Path, data: list[str]) -> None:
    names = ", ".join(BASELINES)
    message = refused(capsys, "evaluate", good, "--baselines", "ease,knn")
    assert f"'knn': names out of {names} are needed" in message
    message = refused(capsys, "train", *data, "--evaluation.baselines", "knn")
    assert f"--evaluation.baselines ['knn']: names out of {names}" in message


def test_baselines_that_need_an_order_are_refused_without_one(
    capsys, tmp_path: Path, data: list[str], good: Path
) -> None:
    fault = "these interactions have neither timestamps nor --data.order file"
    message = refused(capsys, "evaluate", good, "--baselines", "popularity,markov")
    assert f"baseline markov: {fault}" in message
    assert "Name other baselines: --baselines\n" in message
    options = [*data, *worlds.QUICK, "--device", "cpu", "--run.dir", tmp_path / "run"]
    message = refused(capsys, "train", *options, "--evaluation.baselines", "item_knn_last")
    assert f"baseline item_knn_last: {fault}" in message
    assert not (tmp_path / "run").exists()


def test_training_and_evaluation_use_the_configured_baselines(
    capsys, tmp_path: Path, data: list[str]
) -> None:
    run = worlds.trained(tmp_path, *data, "--evaluation.baselines", "ease")
    metrics = json.loads((run / "metrics.json").read_text())
    assert "ease" in metrics
    assert "popularity" not in metrics
    assert "ease" in json.loads(printed(capsys, "evaluate", run, "--json"))


def test_a_catalogue_too_large_for_a_baseline_is_refused_before_the_training(
    capsys, tmp_path: Path, data: list[str], good: Path, monkeypatch
) -> None:
    monkeypatch.setitem(BASELINES, "ease", replace(BASELINES["ease"], item_limit=7))
    run = tmp_path / "run"
    options = [*data, *worlds.QUICK, "--device", "cpu", "--run.dir", run, "--evaluation.baselines", "ease"]
    message = refused(capsys, "train", *options)
    assert "baseline ease: the catalogue has 8 items, expected at most 7" in message
    assert not run.exists()
    assert "Name other baselines: --evaluation.baselines\n" in message
    message = refused(capsys, "evaluate", good, "--baselines", "ease")
    assert "baseline ease: the catalogue has 8 items, expected at most 7" in message
    assert "Name other baselines: --baselines\n" in message


def test_advice_names_the_option_of_the_command_that_gives_it(
    capsys, tmp_path: Path, data: list[str], good: Path
) -> None:
    worlds.trained(tmp_path, *data, "--evaluation.seen", "keep")
    trained = " ".join(capsys.readouterr().out.split())
    assert "with seen items masked instead (--evaluation.seen mask)." in trained
    evaluated = " ".join(printed(capsys, "evaluate", good, "--seen", "keep").split())
    assert "with seen items masked instead (--seen mask)." in evaluated
    message = refused(capsys, "evaluate", good, "--split", "validation")
    assert "Evaluate another one with --split, or train with --data.validation_size 0.2" in message


def test_a_baseline_that_is_added_to_the_table_is_evaluated_and_judged(
    capsys, good: Path, monkeypatch
) -> None:
    toy = Baseline(f"{__name__}:rank_backwards", "the catalogue from its end")
    monkeypatch.setitem(BASELINES, "backwards", toy)
    options = ("--k", "8", "--seen", "keep", "--baselines", "popularity,backwards")
    found = json.loads(printed(capsys, "evaluate", good, *options, "--json"))
    assert list(found)[-3:] == ["model", "popularity", "backwards"]
    # Everyone's withheld item is at another rank of the 8, two users at each.
    expected = sum(1 / rank for rank in range(1, 9)) / 8
    assert found["backwards"]["mrr@8"] == pytest.approx(expected)
    assert "backwards" in printed(capsys, "evaluate", good, *options)


def rank_backwards(dataset, k, seed, split):
    """A ranker by descending row, whoever the user is."""
    rows = torch.arange(dataset.evaluated_items - 1, -1, -1)[:k]
    return lambda users, exclude: rows.expand(len(users), k)


def test_metrics_beyond_accuracy_are_computed_where_they_are_asked_for(capsys, good: Path) -> None:
    assert "beyond" not in json.loads(printed(capsys, "evaluate", good, "--json"))
    found = json.loads(printed(capsys, "evaluate", good, "--k", "1,2", "--beyond", "--json"))["beyond"]
    assert list(found) == ["model", "popularity", "random"]
    # Every user's first item is the withheld one, and each of the 8 items is withheld from two of 16 users.
    assert found["model"]["coverage@1"] == 1
    assert found["model"]["gini@1"] == 0
    # Each item is had by 6 of 16 users before the split.
    assert found["model"]["novelty@1"] == pytest.approx(1.415037)  # log2(16 / 6)
    assert found["model"]["ndcg_light@1"] == found["model"]["ndcg_tail@1"] == 1
    assert 0 <= found["random"]["letters_diversity@2"] <= 1
    assert "letters_diversity@1" not in found["model"]
    text = printed(capsys, "evaluate", good, "--beyond")
    assert "at 10      coverage    gini  novelty  letters_diversity" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_compared_with_itself_differs_by_exactly_nothing(capsys, good: Path) -> None:
    found = json.loads(printed(capsys, "evaluate", good, "--compare", good, "--json"))["compare"]
    assert found.pop("run") == str(good)
    assert found.pop("step") == 80
    assert next(iter(found)) == "ndcg@10"
    for each in found.values():
        assert each["difference"] == each["low"] == each["high"] == 0
    assert "no user is served differently" in printed(capsys, "evaluate", good, "--compare", good)


def test_runs_are_compared_by_the_protocol_of_the_first(capsys, good: Path, bad: Path) -> None:
    found = json.loads(printed(capsys, "evaluate", good, "--compare", bad, "--k", "1", "--json"))
    alone = json.loads(printed(capsys, "evaluate", bad, "--k", "1", "--json"))
    compared = found["compare"]["ndcg@1"]
    assert (compared["first"], compared["second"]) == (1, alone["model"]["ndcg@1"])
    assert 0 < compared["low"] < compared["difference"] < compared["high"] <= 1
    words = printed(capsys, "evaluate", good, "--compare", bad, "--k", "1")
    assert f"Compared with {bad}" in words
    assert f"ndcg@1: this run is better by {compared['difference']:.4f}, more than" in words
    assert "this run is worse by" in printed(capsys, "evaluate", bad, "--compare", good, "--k", "1")


def test_runs_on_other_data_or_another_split_are_not_compared(capsys, good: Path, tmp_path: Path) -> None:
    (tmp_path / "less").mkdir()
    (tmp_path / "split").mkdir()
    less = worlds.trained(tmp_path / "less", *worlds.options(tmp_path / "less", TRAIN[1:], WITHHELD))
    # The same interactions, of which others are held out.
    moved = worlds.options(tmp_path / "split", [*TRAIN[:-1], WITHHELD[0]], [*WITHHELD[1:], TRAIN[-1]])
    for other in (less, worlds.trained(tmp_path / "split", *moved)):
        message = refused(capsys, "evaluate", good, "--compare", other)
        assert f"--compare {other}: its data or its test part differ from those of {good}" in message


def test_the_same_data_under_another_path_can_be_compared(capsys, good: Path, tmp_path: Path) -> None:
    other = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD))
    assert "compare" in json.loads(printed(capsys, "evaluate", good, "--compare", other, "--json"))


def test_a_folder_that_is_not_a_run_is_not_compared_with(capsys, good: Path, tmp_path: Path) -> None:
    assert f"{tmp_path}: no run folder" in refused(capsys, "evaluate", good, "--compare", tmp_path)
